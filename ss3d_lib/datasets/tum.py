"""TUM RGB-D and its Bonn cousin: lists of timestamps, depth in PNG at 5000 a metre, a motion-capture trajectory.

TUM: https://cvg.cit.tum.de/data/datasets/rgbd-dataset (CC BY 4.0), rgbd_dataset_freiburgN_NAME.tgz unpacked in ROOT.
Bonn RGB-D Dynamic: https://www.ipb.uni-bonn.de/data/rgbd-dynamic-dataset (research), rgbd_bonn_NAME.zip in ROOT. Its
trajectory is that of the markers on the camera, see `bonn_cameras`.
Layout of both: ROOT/SEQUENCE/{rgb.txt,depth.txt,groundtruth.txt,rgb/,depth/}.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from ss3d_lib.datasets.clip import DatasetError, EvalClip, intrinsic_matrices
from ss3d_lib.datasets.sequences import need_folder, read_all, read_depth_png, read_rgb

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

BONN_WORLD = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
BONN_MARKERS = np.array(
    [
        [1.0157, 0.1828, -0.2389, 0.0113],
        [0.0009, -0.8431, -0.6413, -0.0098],
        [-0.3009, 0.6147, -0.8085, 0.0111],
        [0, 0, 0, 1],
    ]
)
"""T_ROS and T_m of the set's page: the axes of motion capture, and the camera in the frame of its markers."""

PER_METRE = 5000.0
MAX_GAP_S = 0.02


def iterate_tum_dynamics(root: str | Path, step: int = 3, most: int = 90) -> Iterator[EvalClip]:
    """The 8 dynamic sequences, thinned as in the published protocol (Zhang et al. 2024, MonST3R). most 0: all frames."""
    for name in DYNAMIC:
        yield load_rgbd(Path(root) / name, CAMERAS["freiburg3"], "tum", step, most)


def iterate_bonn(root: str | Path, step: int = 1, most: int = 110) -> Iterator[EvalClip]:
    """Every rgbd_bonn_* sequence below the root, the first 110 frames. most 0: all frames.

    Published figures are of five sequences, and MonST3R's of their frames 30 to 139.
    """
    for folder in sorted(need_folder(Path(root), "the folder of Bonn's sequences").glob("rgbd_bonn_*")):
        clip = load_rgbd(folder, CAMERAS["bonn"], "bonn", step, most)
        yield replace(clip, poses_c2w=bonn_cameras(clip.poses_c2w))


def bonn_cameras(markers: np.ndarray) -> np.ndarray:
    """Camera-to-world (T, 4, 4) of Bonn's groundtruth.txt (T, 4, 4): T_ROS T T_ROS T_m, by the set's page.

    T_m as published is a rotation times 1.0593, which no pose may be: only its rotation is taken.
    """
    camera = BONN_MARKERS.copy()
    camera[:3, :3], _ = polar(BONN_MARKERS[:3, :3])
    return BONN_WORLD @ markers @ BONN_WORLD @ camera


def load_rgbd(
    folder: Path, camera: tuple[float, float, float, float], domain: str, step: int = 1, most: int = 0
) -> EvalClip:
    """One sequence: colour frames that have a depth and a pose within 20 ms, every step-th, at most `most` (0: all).

    Lines of depth.txt whose file does not exist, as Bonn has them, count for nothing.
    """
    colours, depths = read_list(folder / "rgb.txt"), read_list(folder / "depth.txt")
    depths = [(time_s, words) for time_s, words in depths if (folder / words[0]).is_file()]
    truth = read_list(folder / "groundtruth.txt")
    times_s = np.array([time_s for time_s, _ in colours])
    depth_of, pose_of = nearest(times_s, depths), nearest(times_s, truth)
    chosen = [index for index in range(len(colours)) if depth_of[index] >= 0 and pose_of[index] >= 0][::step]
    chosen = chosen[:most] if most else chosen
    if len(chosen) < 2:
        raise DatasetError(f"{folder}: {len(chosen)} frames have a depth and a pose within {MAX_GAP_S} s; need two")
    return EvalClip(
        name=folder.name,
        frames=read_all([folder / colours[index][1][0] for index in chosen], read_rgb),
        intrinsics=np.repeat(intrinsic_matrices(np.array([camera])), len(chosen), axis=0),
        poses_c2w=np.stack([pose_matrix(truth[pose_of[index]][1]) for index in chosen]),
        depth_m=read_all(
            [folder / depths[depth_of[index]][1][0] for index in chosen], lambda path: read_depth_png(path, PER_METRE)
        ),
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
    if not entries:
        return np.full(len(times_s), -1)
    known_s = np.array([time_s for time_s, _ in entries])
    best = np.abs(times_s[:, None] - known_s[None]).argmin(axis=1)
    return np.where(np.abs(known_s[best] - times_s) <= MAX_GAP_S, best, -1)


def pose_matrix(words: list[str]) -> np.ndarray:
    """tx ty tz qx qy qz qw of the camera in the world -> camera-to-world (4, 4)."""
    values = np.array(words, dtype=np.float64)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_quat(values[3:7]).as_matrix(), values[:3]
    return pose
