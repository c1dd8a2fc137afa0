"""A prediction as files that other programs read: depth PNG, camera poses, coloured PLY points, a COLMAP model.

Depth has one arbitrary scale per video (notebook 00), so no file claims metres; every writer says its unit.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float

from ss3d_lib.files import atomic_write, write_json

DEPTH_STEPS = 60000  # PNG codes from 1 to this one; 0 means no depth
FARTHEST = 8  # median depths: what is farther away has hardly any parallax
LEAST_SHARE = 0.05  # of the pixels that must be reliable, or the cloud would say nothing
POSES_HEADER = "# camera-to-world, 4x4 row by row, one frame a line; OpenCV axes (x right, y down, z forward); the unit is that of the depth"


def depth_unit(depth: Float[np.ndarray, "T H W"]) -> float:
    """Depth that one step of the 16-bit code stands for: the farthest pixel of the video gets the last code."""
    known = depth[np.isfinite(depth) & (depth > 0)]
    return float(known.max()) / DEPTH_STEPS if len(known) else 1.0


def write_depth_png(path: str | Path, depth: Float[np.ndarray, "H W"], unit: float) -> None:
    """16-bit PNG whose value times `unit` is the z-depth; 0 where there is none."""
    known = np.isfinite(depth) & (depth > 0)
    code = np.where(known, np.clip(np.round(np.where(known, depth, 0) / unit), 1, 65535), 0).astype(np.uint16)
    _write_png(path, code)


def _write_png(path: str | Path, image: np.ndarray) -> None:
    """(H, W) uint16 or (H, W, 3) uint8 BGR. Raises OSError naming the file."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", image)[1])  # cv2.imwrite does not notice a disk that fills up at the end


def read_depth_png(path: str | Path, unit: float) -> Float[np.ndarray, "H W"]:
    """The depth that write_depth_png stored."""
    code = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if code is None or code.dtype != np.uint16:
        raise ValueError(f"{path} is not a 16-bit PNG: give a file written by write_depth_png")
    return code.astype(np.float32) * np.float32(unit)


def write_poses(path: str | Path, world_from_cam: Float[np.ndarray, "T 4 4"]) -> None:
    """One line of 16 numbers a frame, under a header that states the convention."""
    with atomic_write(path) as temporary:
        np.savetxt(
            temporary, world_from_cam.reshape(len(world_from_cam), 16), fmt="%.8g", header=POSES_HEADER, comments=""
        )


def reliable(prediction, max_std: float) -> Bool[np.ndarray, "T H W"]:
    """The pixels of a VideoPrediction (ss3d_lib.predict) that are worth a point: sure of their depth, at rest, and near
    enough to have parallax. Where that leaves next to nothing, all that is at rest.

    Args:
        max_std: largest standard error of log depth.
    """
    at_rest = prediction.moving < 0.5
    keep = at_rest & (prediction.log_depth_std < max_std) & (prediction.depth_m < FARTHEST * np.median(prediction.depth_m))
    return keep if keep.mean() >= LEAST_SHARE else at_rest


def point_cloud(
    frames: np.ndarray,
    depth: np.ndarray,
    world_from_cam: np.ndarray,
    intrinsics: np.ndarray,
    keep: np.ndarray,
    every: int = 4,
) -> tuple[Float[np.ndarray, "P 3"], np.ndarray]:
    """Points of all frames in the world's frame, with their colours.

    Args:
        frames: (T, H, W, 3) uint8; depth: (T, H, W) z-depth; world_from_cam: (T, 4, 4); intrinsics: (3, 3).
        keep: (T, H, W) bool, the pixels to take (sure of their depth, not moving).
        every: take one pixel in so many along each axis.

    Returns:
        Points (P, 3) float32 in the unit of the depth, and colours (P, 3) uint8.
    """
    height, width = depth.shape[1:]
    y, x = np.mgrid[:height:every, :width:every].astype(np.float64)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(intrinsics).T
    points, colours = [], []
    for frame, z, pose, mask in zip(frames, depth, world_from_cam, keep):
        chosen = mask[::every, ::every] & np.isfinite(z[::every, ::every]) & (z[::every, ::every] > 0)
        local = (rays * z[::every, ::every, None])[chosen]
        points.append(local @ pose[:3, :3].T + pose[:3, 3])
        colours.append(frame[::every, ::every][chosen])
    return np.concatenate(points).astype(np.float32), np.concatenate(colours).astype(np.uint8)


def write_ply(path: str | Path, points: Float[np.ndarray, "P 3"], colours: np.ndarray) -> None:
    """Coloured points as binary little-endian PLY (Turk 1994), which MeshLab, Blender and CloudCompare open."""
    if len(points) != len(colours):
        raise ValueError(f"{path}: {len(points)} points and {len(colours)} colours: give one colour a point")
    kinds = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    table = np.empty(len(points), dtype=kinds)
    for column, name in enumerate(("x", "y", "z")):
        table[name] = points[:, column]
    for column, name in enumerate(("red", "green", "blue")):
        table[name] = colours[:, column]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in kinds] + ["end_header"]
    with atomic_write(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + b"\n" + table.tobytes())


def write_colmap(
    folder: str | Path, world_from_cam: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], names: list[str]
) -> None:
    """Cameras and poses as a COLMAP text model (cameras.txt, images.txt, an empty points3D.txt).

    For programs that start from known poses (3D Gaussian splatting, multi-view stereo). There are no tracks, hence
    no points: one-observation points would only break bundle adjustment. COLMAP puts the centre of the first pixel
    at (0.5, 0.5), we at (0, 0): the principal point moves by half a pixel.

    Args:
        size: (height, width) of the frames.
        names: file name of each frame.
    """
    from scipy.spatial.transform import Rotation

    height, width = size
    k = intrinsics
    camera = f"1 PINHOLE {width} {height} {k[0, 0]:.8g} {k[1, 1]:.8g} {k[0, 2] + 0.5:.8g} {k[1, 2] + 0.5:.8g}"
    lines = []
    for number, (pose, name) in enumerate(zip(np.linalg.inv(world_from_cam), names), start=1):
        qx, qy, qz, qw = Rotation.from_matrix(pose[:3, :3]).as_quat()
        values = " ".join(f"{value:.9g}" for value in (qw, qx, qy, qz, *pose[:3, 3]))
        lines += [f"{number} {values} 1 {name}", ""]  # the second line would hold the image's 2D points
    texts = {
        "cameras.txt": f"# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]\n{camera}\n",
        "images.txt": "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then its points (none)\n"
        + "\n".join(lines)
        + "\n",
        "points3D.txt": "# no points: the poses come from a network, not from tracks\n",
    }
    for name, text in texts.items():
        with atomic_write(Path(folder) / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_all(
    folder: str | Path, frames: np.ndarray, prediction, keep: np.ndarray, every: int = 4
) -> dict[str, object]:
    """Every format at once: rgb/, depth16/, poses_c2w.txt, intrinsics.txt, cloud.ply, colmap/, export.json.

    rgb/, intrinsics.txt and poses_c2w.txt are laid out like the sequences that `ss3d_lib.evaluate` reads; the depth is
    not, for it is not in millimetres. The frames of an earlier export into the same folder go.

    Args:
        frames: (T, H, W, 3) uint8 RGB, those that were predicted.
        prediction: a VideoPrediction (ss3d_lib.predict) of these frames.
        keep: (T, H, W) bool, pixels that join the point cloud.

    Returns:
        What export.json holds: the depth that one step of the PNG code stands for, the number of points and of frames.
    """
    folder, unit = Path(folder), depth_unit(prediction.depth_m)
    names = [f"{index:06d}.png" for index in range(len(frames))]
    for kind in ("rgb", "depth16"):
        for old in (folder / kind).glob("[0-9]" * 6 + ".png"):
            old.unlink()
    for name, frame, depth in zip(names, frames, prediction.depth_m):
        write_depth_png(folder / "depth16" / name, depth, unit)
        _write_png(folder / "rgb" / name, frame[..., ::-1])
    write_poses(folder / "poses_c2w.txt", prediction.world_from_cam)
    with atomic_write(folder / "intrinsics.txt") as temporary:
        np.savetxt(temporary, prediction.intrinsics, fmt="%.8g")
    points, colours = point_cloud(
        frames, prediction.depth_m, prediction.world_from_cam, prediction.intrinsics, keep, every
    )
    write_ply(folder / "cloud.ply", points, colours)
    write_colmap(folder / "colmap", prediction.world_from_cam, prediction.intrinsics, frames.shape[1:3], names)
    facts = {"depth_unit": unit, "points": len(points), "frames": len(frames)}
    write_json(folder / "export.json", facts)
    return facts
