"""The embedded corpus: data/videos/SPLIT/NAME.mp4 with data/truth/SPLIT/NAME.npz beside it.

Only evaluation and the supervised ceiling read the truth; a test proves that no label-free stage does. Licence CC0,
see data/README.md; `dvc pull` brings the files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ss3d_lib.datasets.clip import DatasetError, EvalClip, intrinsic_matrices
from ss3d_lib.video import read_video

NEAREST_M, FARTHEST_M, LEVELS = 0.05, 1000.0, 4094
"""The depth code is logarithmic: 0 = no measurement, 1 to 4095 from 5 cm to 1 km, steps of 0.24 %."""

CAP_M, FLIGHT_CAP_M = 80.0, 1000.0
FLIGHTS = ("terrain",)
"""Domains seen from high above, where nothing is nearer than the usual cap of 80 m: judged up to 1 km instead."""


@dataclass(frozen=True)
class Truth:
    """The truth of one video. S shots, T frames, K frames with depth. See data/README.md for the file's layout."""

    domain: str
    shot_start: np.ndarray  # (S,) frame index, inclusive
    shot_end: np.ndarray  # (S,) exclusive
    shot_kind: np.ndarray  # (S,) str
    poses_c2w: np.ndarray  # (T, 4, 4)
    intrinsics: np.ndarray  # (T, 4) fx fy cx cy
    depth_frames: np.ndarray  # (K,)
    depth_m: np.ndarray  # (K, h, w) float32, 0 = not measured
    depth_stride: int

    def depth_of(self, start: int, end: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Depths of frames start..end - 1 and their indices from start; (None, None) where there is none."""
        chosen = (self.depth_frames >= start) & (self.depth_frames < end)
        if not chosen.any():
            return None, None
        return self.depth_m[chosen], self.depth_frames[chosen].astype(np.int64) - start


def decode_depth(code: np.ndarray) -> np.ndarray:
    """uint16 codes (K, h, w), delta-coded along rows, -> float32 metres, 0 where nothing was measured."""
    levels = np.cumsum(code, axis=-1, dtype=np.uint16)
    table = NEAREST_M * np.exp((np.arange(LEVELS + 2) - 1) / LEVELS * np.log(FARTHEST_M / NEAREST_M))
    table[0] = 0.0
    if levels.max(initial=0) > LEVELS + 1:
        raise ValueError(f"depth code {levels.max()} is above {LEVELS + 1}: the file is not in the corpus's code")
    return table.astype(np.float32)[levels]


def load_truth(path: str | Path) -> Truth:
    """Read one npz (never pickled). Raises DatasetError naming the file, and the key that is missing."""
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path}: missing; bring the corpus with `dvc pull`")
    with np.load(path, allow_pickle=False) as file:
        try:
            depth_m = decode_depth(file["depth_code"])
            plain = ("shot_start", "shot_end", "shot_kind", "poses_c2w", "intrinsics", "depth_frames")
            values = {key: file[key] for key in plain}
            return Truth(domain=str(file["domain"]), depth_m=depth_m, depth_stride=int(file["depth_stride"]), **values)
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{path}: {error}; bring the corpus again with `dvc pull --force`") from error


def video_paths(data: str | Path, split: str) -> list[Path]:
    """The videos of a split, sorted. Raises DatasetError where there is none."""
    folder = Path(data) / "videos" / split
    paths = sorted(folder.glob("*.mp4"))
    if not paths:
        raise DatasetError(f"{folder}: holds no mp4; bring the corpus with `dvc pull`")
    return paths


def truth_path(data: str | Path, video: Path) -> Path:
    """Where the truth of a video lies."""
    return Path(data) / "truth" / video.parent.name / f"{video.stem}.npz"


def iterate_embedded(data: str | Path, split: str) -> Iterator[EvalClip]:
    """Every shot of a split as a clip named VIDEO_sNN, by the true cuts, one video in memory at a time."""
    for video in video_paths(data, split):
        truth = load_truth(truth_path(data, video))
        frames, _ = read_video(video)
        if len(frames) < truth.shot_end.max():
            raise DatasetError(f"{video}: {len(frames)} frames, but its truth ends at {truth.shot_end.max()}")
        matrices = intrinsic_matrices(truth.intrinsics)
        for index, (start, end, kind) in enumerate(zip(truth.shot_start, truth.shot_end, truth.shot_kind, strict=True)):
            depth_m, depth_frames = truth.depth_of(start, end)
            yield EvalClip(
                name=f"{video.stem}_s{index:02d}",
                frames=frames[start:end],
                intrinsics=matrices[start:end],
                poses_c2w=truth.poses_c2w[start:end].astype(np.float64),
                depth_m=depth_m,
                depth_frames=depth_frames,
                depth_stride=truth.depth_stride,
                domain=truth.domain,
                kind=str(kind),
                max_depth_m=FLIGHT_CAP_M if truth.domain in FLIGHTS else CAP_M,
            )
