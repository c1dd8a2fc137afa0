"""Errors in space: the F-score of point clouds, and whether the depths of two frames agree."""

import numpy as np
from scipy.spatial import cKDTree


def backproject(depth_m: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points (H, W, 3) in camera axes of a z-depth map (H, W); intrinsics (3, 3), pixel centres at integers."""
    height, width = depth_m.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(intrinsics).T
    return rays * depth_m[..., None]


def cloud_fscore(predicted_m: np.ndarray, true_m: np.ndarray, threshold_m: float) -> float:
    """F-score in [0, 1] of points (N, 3) against (M, 3): harmonic mean of the shares within the threshold.

    Knapitsch et al. 2017 (Tanks and Temples).
    """

    def share_near(points: np.ndarray, others: np.ndarray) -> float:
        # The bound makes the search stop early: clouds far apart would take a hundred times longer without it.
        distance_m, _ = cKDTree(others).query(points, distance_upper_bound=threshold_m)
        return float(np.mean(np.isfinite(distance_m)))

    precision, recall = share_near(predicted_m, true_m), share_near(true_m, predicted_m)
    return float(2 * precision * recall / max(precision + recall, 1e-12))


def depth_consistency(
    src_depth: np.ndarray, tgt_depth: np.ndarray, intrinsics: np.ndarray, tgt_from_src: np.ndarray
) -> float:
    """Median |log(z carried from src into tgt) - log(z predicted in tgt)| over the pixels that land in view.

    Depths (H, W) share one scale with tgt_from_src (4, 4); sampled at the nearest pixel. Zero for a static world
    seen without error; 0.1 means that neighbouring frames disagree by 10 %. nan where no pixel lands in view.
    """
    height, width = src_depth.shape
    points = backproject(src_depth, intrinsics).reshape(-1, 3) @ tgt_from_src[:3, :3].T + tgt_from_src[:3, 3]
    points = points[points[:, 2] > 1e-6]
    pixels = np.rint((points @ intrinsics.T)[:, :2] / points[:, 2:]).astype(np.int64)
    inside = (pixels[:, 0] >= 0) & (pixels[:, 0] < width) & (pixels[:, 1] >= 0) & (pixels[:, 1] < height)
    if not inside.any():
        return float("nan")
    sampled = tgt_depth[pixels[inside, 1], pixels[inside, 0]]
    return float(np.median(np.abs(np.log(points[inside, 2] / np.maximum(sampled, 1e-9)))))
