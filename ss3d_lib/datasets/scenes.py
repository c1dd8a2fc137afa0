"""7-Scenes and ScanNet: indoor sequences with one pose file a frame.

7-Scenes: https://www.microsoft.com/research/project/rgb-d-dataset-7-scenes (non-commercial research).
    ROOT/SCENE/seq-01/frame-000000.{color.png,depth.png,pose.txt}. The set gives one focal length, the depth camera's:
    585 px. That of the colour camera is not published (others take 525 px), and depth is not registered to colour. So
    an error of the focal length, and any fine error of depth, are known on this set only to some 10 %; treat the edges
    of objects with care.
ScanNet: http://www.scan-net.org (terms of use to be signed), exported by its SensReader.
    ROOT/scene0000_00/{color/0.jpg,depth/0.png,pose/0.txt,intrinsic/intrinsic_depth.txt}
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ss3d_lib.datasets.clip import DatasetError, EvalClip, intrinsic_matrices
from ss3d_lib.datasets.sequences import (
    exact_poses,
    need_folder,
    read_all,
    read_depth_png,
    read_matrix,
    read_poses,
    read_rgb,
    read_table,
)

SEVEN_SCENES_CAMERA = (585.0, 585.0, 320.0, 240.0)  # fx fy cx cy of the depth camera, the set's own page
INVALID_MM = 65535
PER_METRE = 1000.0
MAX_DEPTH_M = 10.0


def iterate_seven_scenes(root: str | Path, most: int = 0) -> Iterator[EvalClip]:
    """Every SCENE/seq-NN below the root as one clip of its first `most` frames (0: all)."""
    folders = sorted(need_folder(Path(root), "the folder of 7-Scenes' scenes").glob("*/seq-*"))
    intrinsics = intrinsic_matrices(np.array([SEVEN_SCENES_CAMERA]))[0]
    for folder in [path for path in folders if path.is_dir()]:
        colours = sorted(folder.glob("frame-*.color.png"))[: most or None]
        stems = [colour.name.removesuffix(".color.png") for colour in colours]
        depths = [folder / f"{stem}.depth.png" for stem in stems]
        poses = [read_poses(folder / f"{stem}.pose.txt", (4, 4))[0] for stem in stems]
        yield indoor_clip(f"{folder.parent.name}_{folder.name}", colours, depths, poses, intrinsics, "7scenes")


def iterate_scannet(root: str | Path, most: int = 0) -> Iterator[EvalClip]:
    """Every exported scene as one clip of its first `most` frames (0: all); those whose pose was lost are left out."""
    for folder in sorted(need_folder(Path(root), "the folder of ScanNet's exported scenes").glob("scene*")):
        intrinsics = read_matrix(folder / "intrinsic" / "intrinsic_depth.txt", (4, 4))[:3, :3]
        numbers = sorted(int(path.stem) for path in (folder / "color").glob("*.jpg"))
        tracked = ((number, read_pose(folder / "pose" / f"{number}.txt")) for number in numbers)
        poses = dict(islice(((number, pose) for number, pose in tracked if pose is not None), most or None))
        colours = [folder / "color" / f"{number}.jpg" for number in poses]
        depths = [folder / "depth" / f"{number}.png" for number in poses]
        yield indoor_clip(folder.name, colours, depths, list(poses.values()), intrinsics, "scannet")


def indoor_clip(
    name: str, colours: list[Path], depths: list[Path], poses: list[np.ndarray], intrinsics: np.ndarray, domain: str
) -> EvalClip:
    """A clip at the depth camera's size. Raises DatasetError with fewer than two frames, or for a broken file."""
    if len(colours) < 2:
        raise DatasetError(f"{name}: {len(colours)} usable frames; unpack the whole sequence")
    depth_m = read_all(depths, read_depth)
    size = depth_m.shape[:0:-1]
    # ScanNet's colours are larger; its two cameras are a few millimetres apart and share their view: resized, the
    # pictures coincide. Each is resized as it is read: an average scene at its full size would be 6 GB.
    return EvalClip(
        name=name,
        frames=read_all(colours, lambda path: cv2.resize(read_rgb(path), size, interpolation=cv2.INTER_AREA)),
        intrinsics=np.repeat(intrinsics[None], len(colours), axis=0),
        poses_c2w=np.stack(poses),
        depth_m=depth_m,
        depth_frames=np.arange(len(colours)),
        domain=domain,
        max_depth_m=MAX_DEPTH_M,
    )


def read_depth(path: Path) -> np.ndarray:
    """(H, W) float32 metres, 0 = not measured; 7-Scenes marks that with 65535, ScanNet with 0."""
    depth_m = read_depth_png(path, PER_METRE)
    return np.where(depth_m >= INVALID_MM / PER_METRE, np.float32(0), depth_m)


def read_pose(path: Path) -> np.ndarray | None:
    """(4, 4) camera-to-world; None where ScanNet lost track and wrote -inf. Raises DatasetError for any other file."""
    matrix = read_table(path, (4, 4))
    return exact_poses(path, matrix[None])[0] if np.isfinite(matrix).all() else None
