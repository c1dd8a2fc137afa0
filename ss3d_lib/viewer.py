"""What `predict` wrote, in 3D in the browser: `python -m ss3d_lib.viewer FOLDER` (needs the extra `viewer`).

Every shot is a cloud of coloured points, a camera per frame with its picture, and the camera's path. The world is the
first camera's: x right, y down, z forward; its unit is arbitrary, one for the whole shot. Points are those of
`export.reliable`.
"""

import argparse
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from ss3d_lib import export
from ss3d_lib.predict import VideoPrediction

PARTS = ("frames", *VideoPrediction.__dataclass_fields__)
POINT_SHARE, CAMERA_SHARE = 0.004, 0.05  # sizes of a point and of a camera, in shares of the median depth


@dataclass(frozen=True)
class View:
    """One frame of a shot as the browser shows it; all in the world's frame and unit."""

    points: Float[np.ndarray, "P 3"]
    colours: UInt8[np.ndarray, "P 3"]
    position: Float[np.ndarray, "3"]  # of the camera
    wxyz: Float[np.ndarray, "4"]  # its rotation, camera to world, as a unit quaternion
    picture: UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Scene:
    """One shot: a view per frame, the vertical field of view (rad), width over height, and the median depth."""

    views: list[View]
    fov_rad: float
    aspect: float
    depth: float


def read_prediction(path: str | Path) -> tuple[UInt8[np.ndarray, "T H W 3"], VideoPrediction]:
    """Frames and prediction of one shot (never unpickled). Raises ValueError naming a file that `predict` did not write."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in PARTS}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a prediction ({error}): make it anew with `python -m ss3d_lib.predict`") from error
    numbers = {name: float(values[name]) for name in ("focal_px", "trust")}
    return values.pop("frames"), VideoPrediction(**(values | numbers))


def make_scene(frames: UInt8[np.ndarray, "T H W 3"], found: VideoPrediction, max_std: float, every: int = 2) -> Scene:
    """What is to be shown of a shot.

    Args:
        max_std: largest standard error of log depth of a pixel that becomes a point.
        every: one pixel in so many along each axis becomes a point.
    """
    keep = export.reliable(found, max_std)
    views = []
    for k, (frame, pose) in enumerate(zip(frames, found.world_from_cam)):
        of = slice(k, k + 1)
        points, colours = export.point_cloud(
            frames[of], found.depth_m[of], found.world_from_cam[of], found.intrinsics, keep[of], every
        )
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        views.append(View(points, colours, pose[:3, 3].copy(), np.array([w, x, y, z]), frame))
    height, width = frames.shape[1:3]
    return Scene(views, float(2 * np.arctan(height / 2 / found.focal_px)), width / height, float(np.median(found.depth_m)))


def draw(server, scene: Scene) -> list:
    """Put a scene on a viser server; returns a list of [cloud, camera] handles, one per frame."""
    server.scene.reset()
    server.scene.set_up_direction("-y")
    drawn = []
    for k, view in enumerate(scene.views):
        cloud = server.scene.add_point_cloud(f"/frame{k}/points", view.points, view.colours, point_size=POINT_SHARE * scene.depth)
        camera = server.scene.add_camera_frustum(
            f"/frame{k}/camera", scene.fov_rad, scene.aspect, scale=CAMERA_SHARE * scene.depth, image=view.picture,
            wxyz=view.wxyz, position=view.position,
        )  # fmt: skip
        drawn.append([cloud, camera])
    path = np.stack([view.position for view in scene.views])
    server.scene.add_line_segments("/path", np.stack([path[:-1], path[1:]], axis=1), colors=(220, 60, 40), thickness=3.0, thickness_units="screen")
    return drawn


def show(server, names: Sequence[str], load: Callable[[str], Scene]) -> None:
    """Fill a viser server: a list of shots, and which frame's points are seen (those of all, or of one)."""
    shot = server.gui.add_dropdown("shot", tuple(names), initial_value=names[0])
    together = server.gui.add_checkbox("points of all frames", initial_value=True)
    frame = server.gui.add_slider("frame", min=0, max=1, step=1, initial_value=0)
    drawn: list = []

    def choose_points(_=None) -> None:
        frame.disabled = together.value
        for k, (cloud, _) in enumerate(drawn):
            cloud.visible = together.value or k == frame.value

    def choose_shot(_=None) -> None:
        drawn[:] = draw(server, load(shot.value))
        frame.max = len(drawn) - 1
        frame.value = min(frame.value, frame.max)
        choose_points()

    shot.on_update(choose_shot)
    together.on_update(choose_points)
    frame.on_update(choose_points)
    choose_shot()


def find_predictions(folder: str | Path) -> dict[str, Path]:
    """{shot: file} of what `predict` wrote into a folder. Raises FileNotFoundError where there is nothing."""
    files = {path.stem: path for path in sorted(Path(folder).glob("*.npz"))}
    if not files:
        raise FileNotFoundError(f"{folder}: holds no prediction: make some with `python -m ss3d_lib.predict VIDEO --out {folder}`")
    return files


def start_server(host: str, port: int):
    """A viser server. Raises ModuleNotFoundError saying how to install it."""
    try:
        import viser
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the viewer needs viser: pip install '.[viewer]'") from error
    return viser.ViserServer(host=host, port=port, label="SS3D", verbose=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ss3d_lib.viewer", description="A prediction in 3D, in the browser.")
    parser.add_argument("folder", type=Path, help="what `python -m ss3d_lib.predict VIDEO --out FOLDER` wrote")
    parser.add_argument("--max-std", type=float, default=0.25, help="largest standard error of log depth shown (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others on the network look (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s; the next free one where it is taken")
    options = parser.parse_args(arguments)
    try:
        files = find_predictions(options.folder)
        load = lambda name: make_scene(*read_prediction(files[name]), options.max_std)  # noqa: E731
        server = start_server(options.host, options.port)
        show(server, list(files), load)
    except (ModuleNotFoundError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(files)} shots at http://{options.host}:{server.get_port()} (Ctrl-C ends it)", flush=True)
    try:
        server.sleep_forever()
    except KeyboardInterrupt:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
