"""Trivial baselines: what one gets without looking at the pixels. A figure means nothing without them beside it.

They may read the training split's truth (and nothing of validation or test), so they are as strong as a constant
can be. Notebook 09 introduces them. Forward driving, for one, flatters any direction error: "always forward" is
right to a degree there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from ss3d_lib import metrics
from ss3d_lib.datasets import EvalClip
from ss3d_lib.protocol import Answer, Predictor

GRID = {"landscape": (36, 60), "standard": (36, 48), "portrait": (60, 36)}
"""Size (h, w) of the mean map of each aspect, a quarter of the working size."""


@dataclass(frozen=True)
class Prior:
    """What the training truth says on average."""

    inverse_depth: dict[str, np.ndarray]  # aspect -> (h, w), each image's median divided out before averaging
    focal_share: float  # focal length / longer side of the picture
    focal_share_interval: tuple[float, float]  # central 80 %
    direction: np.ndarray  # (3,) unit translation of tgt_from_src with the least median angle to all others


def aspect_of(height: int, width: int) -> str:
    """landscape above 1.5, standard from 1 to 1.5, portrait below 1, as in `ss3d_lib.video.working_size`."""
    return "landscape" if width / height > 1.5 else "standard" if width >= height else "portrait"


def fit_prior(clips: Iterable[EvalClip]) -> Prior:
    """The prior of the multi-view clips given. Raises ValueError where none has depth, poses and a camera."""
    maps: dict[str, list[np.ndarray]] = {}
    shares, directions = [], []
    for clip in clips:
        if clip.kind != "multi_view" or not np.isfinite(clip.focal_px):
            continue
        height, width = clip.frames.shape[1:3]
        shares.append(clip.focal_px / max(height, width))
        shifts = metrics.relative_poses(clip.poses_c2w)[:, :3, 3]
        lengths = np.linalg.norm(shifts, axis=1, keepdims=True)
        directions.append((shifts / np.maximum(lengths, 1e-9))[lengths[:, 0] > 1e-4])
        if clip.depth_m is not None:
            aspect = aspect_of(height, width)
            grids = [normalised_inverse(depth, GRID[aspect], clip.max_depth_m) for depth in clip.depth_m]
            maps.setdefault(aspect, []).extend(grids)
    if not shares or not maps:
        raise ValueError("no multi-view clip with depth and poses to take a prior from; is the training split there?")
    means = {aspect: mean_map(np.stack(items)) for aspect, items in maps.items()}
    low, high = np.quantile(shares, [0.1, 0.9])
    return Prior(means, best_constant(np.array(shares)), (float(low), float(high)), best_direction(directions))


def normalised_inverse(depth_m: np.ndarray, size: tuple[int, int], max_depth_m: float) -> np.ndarray:
    """Inverse depth over its median on a grid (h, w), nan where nothing (or only what lies beyond the cap) was measured."""
    valid = metrics.valid_depth(depth_m, max_depth_m)
    if not valid.any():
        return np.full(size, np.nan)
    inverse = np.where(valid, 1.0 / np.where(valid, depth_m, 1.0), 0.0)
    inverse /= np.median(inverse[valid])
    # Averages over the measured part of each cell: sums of values over sums of weights.
    total = cv2.resize(inverse, size[::-1], interpolation=cv2.INTER_AREA)
    weight = cv2.resize(valid.astype(np.float64), size[::-1], interpolation=cv2.INTER_AREA)
    return np.where(weight > 0.05, total / np.maximum(weight, 1e-9), np.nan)


def mean_map(maps: np.ndarray) -> np.ndarray:
    """Mean (h, w) of the maps (N, h, w) over their finite cells; cells never measured (bars, sky) are the farthest."""
    count = np.isfinite(maps).sum(axis=0)
    mean = np.nansum(maps, axis=0) / np.maximum(count, 1)
    return np.where(count > 0, mean, mean[count > 0].min())


def best_constant(values: np.ndarray) -> float:
    """The constant with the least mean relative error |c - v| / v over the values (N,).

    That is their median weighted by 1 / v. The least median error would be less robust: it chases the densest cluster.
    """
    values = np.sort(values)
    weight = np.cumsum(1 / values)
    return float(values[np.searchsorted(weight, 0.5 * weight[-1])])


def best_direction(directions: list[np.ndarray], most: int = 2000) -> np.ndarray:
    """The unit vector (3,), among those given, with the least median angle to all of them."""
    every = np.concatenate(directions)
    every = every[:: max(1, len(every) // most)]
    angles = np.arccos(np.clip(every @ every.T, -1, 1))
    return every[np.argmin(np.median(angles, axis=1))]


def straight_line(frames: int, direction: np.ndarray) -> np.ndarray:
    """Camera-to-world (T, 4, 4) of unit steps whose tgt_from_src translation is `direction`, without rotation."""
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, 3] = -np.arange(frames)[:, None] * direction
    return poses


def trivial_baselines(prior: Prior) -> dict[str, Predictor]:
    """{row: predictor}. Forward motion moves points towards the camera: the translation of tgt_from_src is -z."""

    def mean_disparity(frames: np.ndarray) -> Answer:
        count, height, width = frames.shape[:3]
        known = prior.inverse_depth
        grid = known.get(aspect_of(height, width), next(iter(known.values())))
        depth = 1.0 / cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        return Answer(depth_m=np.broadcast_to(depth, (count, height, width)))

    def constant_focal(frames: np.ndarray) -> Answer:
        side = max(frames.shape[1:3])
        return Answer(focal_px=prior.focal_share * side, focal_interval_px=np.array(prior.focal_share_interval) * side)

    return {
        "mean_disparity": mean_disparity,
        "constant_depth": lambda frames: Answer(depth_m=np.ones(frames.shape[:3])),
        "constant_focal": constant_focal,
        "identity_motion": lambda frames: Answer(world_from_cam=np.tile(np.eye(4), (len(frames), 1, 1))),
        "constant_motion": lambda frames: Answer(world_from_cam=straight_line(len(frames), np.array([0.0, 0, -1]))),
        "constant_direction": lambda frames: Answer(world_from_cam=straight_line(len(frames), prior.direction)),
    }
