"""MPI Sintel, training split with depth and camera: the 14 sequences of ParticleSfM's evaluation.

Get "Sintel training images" and "depth and camera" from http://sintel.is.tue.mpg.de/depth (free for research; cite
Butler et al. 2012). Layout: ROOT/training/PASS/NAME/frame_0001.png, ROOT/training/depth/NAME/frame_0001.dpt,
ROOT/training/camdata_left/NAME/frame_0001.cam.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ss3d_lib.datasets.clip import DatasetError, EvalClip
from ss3d_lib.datasets.sequences import find_images, need_folder, read_all, read_rgb

SEQUENCES = (
    "alley_2", "ambush_4", "ambush_5", "ambush_6", "cave_2", "cave_4", "market_2", "market_5", "market_6", "shaman_3",
    "sleeping_1", "sleeping_2", "temple_2", "temple_3",
)  # fmt: skip
"""Zhao et al. 2022 (ParticleSfM): those whose camera moves and whose depth is no trick of the film."""

TAG = 202021.25  # first float of every .dpt and .cam file, "PIEH"
MAX_DEPTH_M = 70.0


def iterate_sintel(root: str | Path, render_pass: str = "final", most: int = 0) -> Iterator[EvalClip]:
    """The 14 sequences, each a clip of its first `most` frames (0: all). render_pass: "final" (blur, fog) or "clean"."""
    training = need_folder(Path(root) / "training", "the folder of Sintel that holds final/, depth/ and camdata_left/")
    for name in SEQUENCES:
        images = find_images(need_folder(training / render_pass / name, "a Sintel sequence"))[: most or None]
        cameras = [read_camera(training / "camdata_left" / name / f"{image.stem}.cam") for image in images]
        yield EvalClip(
            name=name,
            frames=read_all(images, read_rgb),
            intrinsics=np.stack([intrinsics for intrinsics, _ in cameras]),
            poses_c2w=np.stack([np.linalg.inv(pose) for _, pose in cameras]),
            depth_m=read_all([training / "depth" / name / f"{image.stem}.dpt" for image in images], read_depth),
            depth_frames=np.arange(len(images)),
            domain="sintel",
            max_depth_m=MAX_DEPTH_M,
        )


def read_tagged(path: Path) -> bytes:
    """What follows the tag of a .dpt or .cam file. Raises DatasetError for a missing or foreign file."""
    if not path.is_file():
        raise DatasetError(f"{path}: missing; download Sintel's depth and camera archive")
    content = path.read_bytes()
    if len(content) < 8 or np.frombuffer(content, "<f4", 1)[0] != np.float32(TAG):
        raise DatasetError(f"{path}: does not begin with Sintel's tag {TAG}; download it again")
    return content[4:]


def read_depth(path: Path) -> np.ndarray:
    """(H, W) float32 z-depth; sky is very far and falls to the cap."""
    content = read_tagged(path)
    width, height = np.frombuffer(content, "<i4", 2)
    values = np.frombuffer(content, "<f4", offset=8)
    if len(values) != width * height:
        raise DatasetError(f"{path}: says {width} x {height} but holds {len(values)} values; download it again")
    return values.reshape(height, width).copy()


def read_camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics (3, 3) and cam_from_world (4, 4)."""
    values = np.frombuffer(read_tagged(path), "<f8")
    if len(values) != 21:
        raise DatasetError(f"{path}: holds {len(values)} numbers, not 9 + 12; download it again")
    pose = np.eye(4)
    pose[:3] = values[9:].reshape(3, 4)
    return values[:9].reshape(3, 3).copy(), pose
