"""7-Scenes and ScanNet: indoor sequences with one pose file a frame.

7-Scenes: https://www.microsoft.com/research/project/rgb-d-dataset-7-scenes (non-commercial research).
    ROOT/SCENE/seq-01/frame-000000.{color.png,depth.png,pose.txt}; the colour and depth cameras are NOT registered to
    each other, so treat the edges of objects with care.
ScanNet: http://www.scan-net.org (terms of use to be signed), exported by its SensReader.
    ROOT/scene0000_00/{color/0.jpg,depth/0.png,pose/0.txt,intrinsic/intrinsic_depth.txt}
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ss3d_lib.datasets.clip import DatasetError, EvalClip, intrinsic_matrices
from ss3d_lib.datasets.sequences import need_folder, read_depth_png, read_matrix, read_poses, read_rgb

SEVEN_SCENES_CAMERA = (585.0, 585.0, 320.0, 240.0)  # fx fy cx cy, the set's own README
INVALID_MM = 65535  # 7-Scenes marks what it did not measure so
PER_METRE = 1000.0
MAX_DEPTH_M = 10.0


def iterate_seven_scenes(root: str | Path) -> Iterator[EvalClip]:
    """Every SCENE/seq-NN below the root as one clip."""
    folders = sorted(need_folder(Path(root), "the folder of 7-Scenes' scenes").glob("*/seq-*"))
    for folder in [path for path in folders if path.is_dir()]:
        colours = sorted(folder.glob("frame-*.color.png"))
        stems = [colour.name.removesuffix(".color.png") for colour in colours]
        depths_m = [read_depth_png(folder / f"{stem}.depth.png", PER_METRE) for stem in stems]
        depths_m = [np.where(depth >= INVALID_MM / PER_METRE, 0, depth) for depth in depths_m]
        poses = [read_poses(folder / f"{stem}.pose.txt", (4, 4))[0] for stem in stems]
        camera = np.repeat(intrinsic_matrices(np.array([SEVEN_SCENES_CAMERA])), len(stems), axis=0)
        name = f"{folder.parent.name}_{folder.name}"
        yield indoor_clip(name, [read_rgb(colour) for colour in colours], camera, poses, depths_m, "7scenes")


def iterate_scannet(root: str | Path) -> Iterator[EvalClip]:
    """Every exported scene as one clip at the depth camera's size; frames whose pose was lost are left out."""
    for folder in sorted(need_folder(Path(root), "the folder of ScanNet's exported scenes").glob("scene*")):
        intrinsics = read_matrix(folder / "intrinsic" / "intrinsic_depth.txt", (4, 4))[:3, :3]
        numbers = sorted(int(path.stem) for path in (folder / "color").glob("*.jpg"))
        poses = {number: read_pose(folder / "pose" / f"{number}.txt") for number in numbers}
        kept = [number for number in numbers if np.isfinite(poses[number]).all()]
        depths_m = [read_depth_png(folder / "depth" / f"{number}.png", PER_METRE) for number in kept]
        colours = [read_rgb(folder / "color" / f"{number}.jpg") for number in kept]
        # The two cameras are a few millimetres apart and share their view: resized, the pictures coincide.
        frames = [cv2.resize(c, d.shape[::-1], interpolation=cv2.INTER_AREA) for c, d in zip(colours, depths_m)]
        camera = np.repeat(intrinsics[None], len(kept), axis=0)
        yield indoor_clip(folder.name, frames, camera, [poses[number] for number in kept], depths_m, "scannet")


def indoor_clip(name: str, frames: list, camera: np.ndarray, poses: list, depths_m: list, domain: str) -> EvalClip:
    """A clip from per-frame lists. Raises DatasetError with fewer than two frames."""
    if len(frames) < 2:
        raise DatasetError(f"{name}: {len(frames)} usable frames; unpack the whole sequence")
    return EvalClip(
        name=name,
        frames=np.stack(frames),
        intrinsics=camera,
        poses_c2w=np.stack(poses),
        depth_m=np.stack(depths_m).astype(np.float32),
        depth_frames=np.arange(len(frames)),
        domain=domain,
        max_depth_m=MAX_DEPTH_M,
    )


def read_pose(path: Path) -> np.ndarray:
    """(4, 4) camera-to-world, with -inf where ScanNet lost track."""
    if not path.is_file():
        raise DatasetError(f"{path}: missing; export the scene with its poses")
    return np.loadtxt(path).reshape(4, 4)
