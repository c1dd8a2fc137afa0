"""TUM RGB-D and its Bonn cousin: lists of timestamps, depth in PNG at 5000 a metre, a motion-capture trajectory.

TUM: https://cvg.cit.tum.de/data/datasets/rgbd-dataset (CC BY 4.0), rgbd_dataset_freiburgN_NAME.tgz unpacked in ROOT.
Bonn RGB-D Dynamic: https://www.ipb.uni-bonn.de/data/rgbd-dynamic-dataset (research), rgbd_bonn_NAME.zip in ROOT.
Layout of both: ROOT/SEQUENCE/{rgb.txt,depth.txt,groundtruth.txt,rgb/,depth/}.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ss3d_lib.datasets.clip import DatasetError, EvalClip, intrinsic_matrices
from ss3d_lib.datasets.sequences import need_folder, read_depth_png, read_rgb

CAMERAS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
    "bonn": (542.822841, 542.576870, 315.593520, 237.756098),
}
"""fx fy cx cy of the colour cameras, from the sets' own pages."""

DYNAMIC = tuple(
    f"rgbd_dataset_freiburg3_{action}_{motion}"
    for action in ("sitting", "walking")
    for motion in ("static", "xyz", "rpy", "halfsphere")
)
"""The 8 sequences of the TUM-dynamics protocol: every 3rd frame, the first 90 of those."""

PER_METRE = 5000.0
MAX_GAP_S = 0.02


def iterate_tum_dynamics(root: str | Path, step: int = 3, most: int = 90) -> Iterator[EvalClip]:
    """The 8 dynamic sequences, thinned as in the published protocol (Zhang et al. 2024, MonST3R)."""
    for name in DYNAMIC:
        yield load_rgbd(Path(root) / name, CAMERAS["freiburg3"], "tum", step, most)


def iterate_bonn(root: str | Path, step: int = 1, most: int = 110) -> Iterator[EvalClip]:
    """Every rgbd_bonn_* sequence below the root, the first 110 frames."""
    folders = sorted(need_folder(Path(root), "the folder of Bonn's sequences").glob("rgbd_bonn_*"))
    if not folders:
        raise DatasetError(f"{root}: holds no rgbd_bonn_* folder; unpack the Bonn sequences there")
    for folder in folders:
        yield load_rgbd(folder, CAMERAS["bonn"], "bonn", step, most)


def load_rgbd(
    folder: Path, camera: tuple[float, float, float, float], domain: str, step: int = 1, most: int = 0
) -> EvalClip:
    """One sequence: colour frames that have a depth and a pose within 20 ms, every step-th, at most `most` (0: all)."""
    colours, depths = read_list(folder / "rgb.txt"), read_list(folder / "depth.txt")
    truth = read_list(folder / "groundtruth.txt")
    times_s = np.array([time_s for time_s, _ in colours])
    depth_of, pose_of = nearest(times_s, depths), nearest(times_s, truth)
    chosen = [index for index in range(len(colours)) if depth_of[index] >= 0 and pose_of[index] >= 0][::step]
    chosen = chosen[:most] if most else chosen
    if len(chosen) < 2:
        raise DatasetError(f"{folder}: {len(chosen)} frames have a depth and a pose within {MAX_GAP_S} s; need two")
    return EvalClip(
        name=folder.name,
        frames=np.stack([read_rgb(folder / colours[index][1][0]) for index in chosen]),
        intrinsics=np.repeat(intrinsic_matrices(np.array([camera])), len(chosen), axis=0),
        poses_c2w=np.stack([pose_matrix(truth[pose_of[index]][1]) for index in chosen]),
        depth_m=np.stack([read_depth_png(folder / depths[depth_of[index]][1][0], PER_METRE) for index in chosen]),
        depth_frames=np.arange(len(chosen)),
        domain=domain,
    )


def read_list(path: Path) -> list[tuple[float, list[str]]]:
    """(timestamp in s, the other words) of every line that is no comment."""
    if not path.is_file():
        raise DatasetError(f"{path}: missing; unpack the whole sequence")
    lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [(float(words[0]), words[1:]) for words in lines]


def nearest(times_s: np.ndarray, entries: list[tuple[float, list[str]]]) -> np.ndarray:
    """Index (T,) of the entry nearest in time to each frame, -1 where it is more than 20 ms away."""
    known_s = np.array([time_s for time_s, _ in entries])
    best = np.abs(times_s[:, None] - known_s[None]).argmin(axis=1)
    return np.where(np.abs(known_s[best] - times_s) <= MAX_GAP_S, best, -1)


def pose_matrix(words: list[str]) -> np.ndarray:
    """tx ty tz qx qy qz qw of the camera in the world -> camera-to-world (4, 4)."""
    values = np.array(words, dtype=np.float64)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_quat(values[3:7]).as_matrix(), values[:3]
    return pose
