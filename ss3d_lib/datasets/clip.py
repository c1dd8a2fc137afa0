"""What every evaluation set gives: clips with whatever truth the set has."""

from dataclasses import dataclass, replace

import numpy as np


class DatasetError(Exception):
    """A file of an evaluation set is missing or malformed; the message names it and says what to do."""


@dataclass(frozen=True)
class EvalClip:
    """One shot or sequence. T frames, K of them with depth; pixel centres at integers, OpenCV axes, metres.

    The depth pixel (j, i) is the z-depth at frame pixel (depth_stride * j, depth_stride * i); 0 = not measured.
    """

    name: str
    frames: np.ndarray  # (T, H, W, 3) uint8 RGB
    intrinsics: np.ndarray  # (T, 3, 3) of the frames as given; nan where there is no camera
    poses_c2w: np.ndarray | None = None  # (T, 4, 4) camera-to-world
    depth_m: np.ndarray | None = None  # (K, h, w) float32
    depth_frames: np.ndarray | None = None  # (K,) increasing indices into frames
    depth_stride: int = 1
    domain: str = "real"
    kind: str = "multi_view"
    max_depth_m: float = 80.0  # the set's published cap: farther pixels are not judged
    crop: str = ""  # the set's published evaluation crop, a name in ss3d_lib.metrics.CROPS; "" = the whole image

    def strided(self, stride: int) -> "EvalClip":
        """Every stride-th frame, with the truth that belongs to it."""
        if stride == 1:
            return self
        depth_m, depth_frames = self.depth_m, self.depth_frames
        if depth_m is not None:
            chosen = depth_frames % stride == 0
            depth_m, depth_frames = depth_m[chosen], depth_frames[chosen] // stride
        return replace(
            self,
            frames=self.frames[::stride],
            intrinsics=self.intrinsics[::stride],
            poses_c2w=None if self.poses_c2w is None else self.poses_c2w[::stride],
            depth_m=depth_m,
            depth_frames=depth_frames,
        )

    def head(self, count: int) -> "EvalClip":
        """The first `count` frames, with the truth that belongs to them. Raises ValueError for fewer than two."""
        if count < 2:
            raise ValueError(f"the first {count} frame of {self.name} is not a clip: take at least 2 frames")
        depth_m, depth_frames = self.depth_m, self.depth_frames
        if depth_m is not None:
            chosen = depth_frames < count
            depth_m, depth_frames = depth_m[chosen], depth_frames[chosen]
        return replace(
            self,
            frames=self.frames[:count],
            intrinsics=self.intrinsics[:count],
            poses_c2w=None if self.poses_c2w is None else self.poses_c2w[:count],
            depth_m=depth_m,
            depth_frames=depth_frames,
        )

    @property
    def focal_px(self) -> float:
        """Mean true horizontal focal length; nan where there is no camera."""
        return float(np.mean(self.intrinsics[:, 0, 0]))


def intrinsic_matrices(values: np.ndarray) -> np.ndarray:
    """(T, 4) fx fy cx cy -> (T, 3, 3)."""
    matrices = np.zeros((len(values), 3, 3))
    matrices[:, 0, 0], matrices[:, 1, 1] = values[:, 0], values[:, 1]
    matrices[:, 0, 2], matrices[:, 1, 2] = values[:, 2], values[:, 3]
    matrices[:, 2, 2] = 1.0
    return matrices
