"""What `predict` wrote, in 3D in the browser: `python -m ss3d_lib.viewer FOLDER` (needs the extra `viewer`).

Every shot is a cloud of coloured points, a camera per frame with its picture, and the camera's path. The world is the
first camera's: x right, y down, z forward; its unit is arbitrary, one for the whole shot. Points are those of
`export.reliable`.
"""

import argparse
import functools
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from ss3d_lib import export
from ss3d_lib.commands import finish, real, whole
from ss3d_lib.predict import VideoPrediction, read_prediction

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
    server.initial_camera.position = np.array([0.5, -0.5, -1.0]) * scene.depth  # behind the first camera, over its shoulder
    server.initial_camera.look_at = np.array([0.0, 0.0, 1.0]) * scene.depth
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
    together = server.gui.add_checkbox("all frames", initial_value=True)
    frame = server.gui.add_slider("frame", min=0, max=1, step=1, initial_value=0)
    drawn: list = []
    lock = threading.RLock()  # viser calls back in threads: a second choice must not empty a scene that is being filled

    def choose_points(_=None) -> None:
        with lock:
            frame.disabled = together.value
            for k, (cloud, _) in enumerate(drawn):
                cloud.visible = together.value or k == frame.value

    def choose_shot(event=None) -> None:
        with lock:
            try:
                scene = load(shot.value)
            except ValueError as error:
                if event is None:
                    raise
                event.client.add_notification("This shot cannot be shown", str(error), color="red")
                return
            drawn[:] = draw(server, scene)
            frame.max = len(drawn) - 1
            frame.value = min(frame.value, frame.max)
            choose_points()

    shot.on_update(choose_shot)
    together.on_update(choose_points)
    frame.on_update(choose_points)
    choose_shot()


def find_predictions(folder: str | Path) -> dict[str, Path]:
    """{shot: file} of what `predict` wrote into a folder. Raises FileNotFoundError where there is nothing."""
    remedy = f"make some with `python -m ss3d_lib.predict VIDEO --out {folder}`"
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: {remedy}")
    files = {path.stem: path for path in sorted(Path(folder).glob("[!.]*.npz"))}
    if not files:
        raise FileNotFoundError(f"{folder} holds no prediction: {remedy}")
    return files


def check_address(host: str, port: int) -> None:
    """Raises ValueError where this machine cannot serve; viser would wait for ever."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port}: give one from 0 (any free one) to 65535")
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        socket.create_server((host, 0), family=family).close()
    except OSError as error:
        raise ValueError(f"host {host}: {error}; give an address of this machine") from error


def start_server(host: str, port: int):
    """A viser server; port 0 is any free one. Raises ModuleNotFoundError saying how to install it, ValueError for an
    address that is not this machine's.
    """
    check_address(host, port)
    try:
        import viser
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the viewer needs viser: pip install '.[viewer]'") from error
    return viser.ViserServer(host=host, port=port, label="SS3D", verbose=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ss3d_lib.viewer", description="A prediction in 3D, in the browser.")
    parser.add_argument("folder", type=Path, help="what `python -m ss3d_lib.predict VIDEO --out FOLDER` wrote")
    parser.add_argument("--max-std", type=real(0, above=True), default=0.25, help="largest standard error of log depth shown (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others on the network look (default: %(default)s)")
    parser.add_argument("--port", type=whole(0), default=8080, help="default: %(default)s; the next free one where it is taken")
    options = parser.parse_args(arguments)
    try:
        files = find_predictions(options.folder)
        load = functools.lru_cache(maxsize=1)(lambda name: make_scene(*read_prediction(files[name]), options.max_std))
        load(next(iter(files)))  # a bad file is told before anything is served
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
    finish(main)
