"""What one prediction of one clip is worth: every error of depth, ego-motion and focal length.

A predictor is one function from frames to a prediction, so that the three outputs cannot come from different
checkpoints. `ss3d_lib.evaluate` pools what this module measures; notebook 07 draws it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ss3d_lib import metrics
from ss3d_lib.datasets import EvalClip

MIN_PIXELS = 64
"""An image with fewer measured pixels than this says nothing about a depth map."""

MAX_POINTS = 8000
"""Points of each cloud of the F-score."""

MIN_HALF = 12
"""Frames of half a clip, from which the focal length is predicted once more."""


class Prediction(Protocol):
    """What is judged: `ss3d_lib.predict.VideoPrediction`, or a trivial baseline. None = makes no such claim."""

    depth_m: np.ndarray | None  # (T, H, W) z-depth
    log_depth_std: np.ndarray | None  # (T, H, W)
    world_from_cam: np.ndarray | None  # (T, 4, 4)
    focal_px: float | None
    focal_interval_px: np.ndarray | None  # (2,) 80 %
    trust: float | None


@dataclass(frozen=True)
class Answer:
    """A prediction made by hand: of a baseline, an oracle, or what is kept of a network's."""

    depth_m: np.ndarray | None = None
    log_depth_std: np.ndarray | None = None
    world_from_cam: np.ndarray | None = None
    focal_px: float | None = None
    focal_interval_px: np.ndarray | None = None
    trust: float | None = None


Predictor = Callable[[np.ndarray], Prediction]
"""frames (T, H, W, 3) uint8 RGB -> Prediction: the one thing that is evaluated, so that nothing can be mixed."""


@dataclass(frozen=True)
class ClipResult:
    """Every error of one clip: 1-D arrays, one value per image, per pair or (length 1) per clip."""

    name: str
    domain: str
    kind: str
    stride: int
    values: dict[str, np.ndarray]
    answer: Answer  # trajectory and focal length as predicted; of the depth maps only that of the middle measured frame


def choose_stride(clip: EvalClip) -> int:
    """The label-free frame stride of a clip, without its black bars: the score's choice, at least three frames kept."""
    from ss3d_lib.borders import content_box
    from ss3d_lib.signal import reading_stride, shot_signal
    from ss3d_lib.video import to_working

    x0, y0, x1, y1 = content_box(clip.frames)
    return reading_stride(shot_signal(to_working(clip.frames[:, y0:y1, x0:x1])[0]), len(clip.frames))


def evaluate_clip(clip: EvalClip, predict: Predictor, stride: int = 1) -> ClipResult:
    """Predict every stride-th frame and measure all that the clip has truth for and the prediction claims."""
    clip = clip.strided(stride)
    prediction = predict(clip.frames)
    values: dict[str, np.ndarray] = {}
    if clip.depth_m is not None and prediction.depth_m is not None:
        values |= depth_values(clip, prediction)
    if clip.poses_c2w is not None and np.isfinite(clip.focal_px) and prediction.world_from_cam is not None:
        values |= motion_values(clip.poses_c2w, prediction.world_from_cam)
    if prediction.focal_px is not None:
        values |= focal_values(clip, prediction) | focal_spread(clip, predict)
    if prediction.depth_m is not None and prediction.world_from_cam is not None and prediction.focal_px is not None:
        values["depth_consistency"] = consistency_values(prediction)
    if prediction.trust is not None:
        values["trust"] = np.array([prediction.trust])
    kept = Answer(
        depth_m=middle_depth(clip, prediction),
        world_from_cam=prediction.world_from_cam,
        focal_px=prediction.focal_px,
        focal_interval_px=prediction.focal_interval_px,
        trust=prediction.trust,
    )
    return ClipResult(clip.name, clip.domain, clip.kind, stride, values, kept)


def middle_depth(clip: EvalClip, prediction: Prediction) -> np.ndarray | None:
    """Predicted depth of the middle measured frame (1, h, w), at the truth's pixels; None without truth or claim."""
    if clip.depth_m is None or prediction.depth_m is None or not len(clip.depth_frames):
        return None
    frame, step = clip.depth_frames[len(clip.depth_frames) // 2], clip.depth_stride
    return prediction.depth_m[frame : frame + 1, ::step, ::step].copy()


def depth_values(clip: EvalClip, prediction: Prediction) -> dict[str, np.ndarray]:
    """Errors per image (K',) under every alignment; uncertainty per image where it is given."""
    step = clip.depth_stride
    predicted = prediction.depth_m[clip.depth_frames][:, ::step, ::step].astype(np.float64)
    true_m = clip.depth_m
    if clip.crop:
        true_m = np.where(metrics.crop_mask(*true_m.shape[1:], clip.crop), true_m, 0)
    cap_m = clip.max_depth_m
    scale = metrics.video_scale(predicted, true_m, cap_m)
    rows = []
    for index in range(len(true_m)):
        measured = metrics.valid_depth(true_m[index], cap_m)
        if measured.sum() < MIN_PIXELS:
            continue
        row: dict[str, float] = {}
        for alignment in metrics.ALIGNMENTS:
            row |= metrics.depth_metrics(predicted[index], true_m[index], alignment, cap_m, scale=scale)
        if prediction.log_depth_std is not None:
            std = prediction.log_depth_std[clip.depth_frames[index], ::step, ::step][measured]
            row |= confidence_of(predicted[index][measured], true_m[index][measured], std)
        rows.append(row)
    if not rows:
        return {}
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return columns | {"fscore": np.array([middle_fscore(clip, predicted, true_m)])}


def confidence_of(predicted: np.ndarray, true_m: np.ndarray, std: np.ndarray) -> dict[str, float]:
    """depth_ause and depth_covered (promise: 0.8) of one image's pixels (P,), after median scaling."""
    error = np.log(predicted / true_m)
    error -= np.median(error)
    return {
        "depth_ause": metrics.sparsification_error(np.abs(error), std),
        "depth_covered": metrics.laplace_coverage(error, std, 0.8),
    }


def middle_fscore(clip: EvalClip, predicted: np.ndarray, true_m: np.ndarray) -> float:
    """F-score of the middle one of the depth maps (K, h, w) as a cloud, after median scaling, at 5 % of the median depth;
    true intrinsics."""
    index = len(predicted) // 2
    true_m = true_m[index].astype(np.float64)
    measured = metrics.valid_depth(true_m, clip.max_depth_m)
    intrinsics = clip.intrinsics[clip.depth_frames[index]].copy()
    if measured.sum() < MIN_PIXELS or not np.isfinite(intrinsics).all():
        return float("nan")
    intrinsics[:2] /= clip.depth_stride
    aligned = predicted[index] * np.median(true_m[measured]) / np.median(predicted[index][measured])
    thin = max(1, int(measured.sum()) // MAX_POINTS)
    clouds = [metrics.backproject(depth, intrinsics)[measured][::thin] for depth in (aligned, true_m)]
    return metrics.cloud_fscore(*clouds, threshold_m=0.05 * float(np.median(true_m[measured])))


def motion_values(true_c2w: np.ndarray, predicted_c2w: np.ndarray) -> dict[str, np.ndarray]:
    """Errors per pair (P,) and per clip (1,) of a camera-to-world trajectory (T, 4, 4)."""
    true, predicted = metrics.relative_poses(true_c2w), metrics.relative_poses(predicted_c2w)
    pairs = metrics.pair_errors(predicted, true)
    values = {"rot_deg": pairs.rotation_deg}
    path_m = metrics.path_length_m(true_c2w)
    if path_m < 1e-3:  # a camera that stands has neither a direction nor a trajectory
        return values
    direction_deg = pairs.direction_deg[pairs.moving()]
    values |= {"dir_deg": direction_deg, "dir_axis_deg": np.minimum(direction_deg, 180 - direction_deg)}
    alignment = metrics.umeyama(predicted_c2w[:, :3, 3], true_c2w[:, :3, 3])
    for group, scale in (("sim3", alignment.scale), ("se3", 1.0)):
        scaled = predicted_c2w.astype(np.float64)
        scaled[:, :3, 3] *= scale
        values[f"rpe_{group}_m"], values[f"rpe_{group}_deg"] = metrics.relative_pose_errors(scaled, true_c2w)
        error_m = metrics.absolute_trajectory_error_m(predicted_c2w, true_c2w, group)
        values |= {f"ate_{group}": np.array([error_m / path_m]), f"ate_{group}_m": np.array([error_m])}
    return values


def focal_values(clip: EvalClip, prediction: Prediction) -> dict[str, np.ndarray]:
    """Focal errors (1,), and the width of the interval as a log ratio, which needs no truth."""
    values: dict[str, Any] = {}
    interval = prediction.focal_interval_px
    if interval is not None:
        values["focal_log_width"] = np.log(interval[1] / interval[0])
    true_px = clip.focal_px
    if np.isfinite(true_px):
        values |= metrics.focal_errors(float(prediction.focal_px), true_px, clip.frames.shape[2])
        if interval is not None:
            values["focal_covered"] = float(metrics.interval_covers(interval, true_px))
    return {key: np.array([value], dtype=np.float64) for key, value in values.items()}


def focal_spread(clip: EvalClip, predict: Predictor) -> dict[str, np.ndarray]:
    """|log ratio| (1,) of the focal lengths that are predicted from either half of a clip alone: one lens took both.

    Nothing where a half has fewer than MIN_HALF frames, or the prediction of one says nothing of the lens.
    """
    middle = len(clip.frames) // 2
    if middle < MIN_HALF:
        return {}
    halves = [predict(frames).focal_px for frames in (clip.frames[:middle], clip.frames[middle:])]
    if None in halves:
        return {}
    return {"focal_spread": np.abs(np.log([halves[0] / halves[1]]))}


def consistency_values(prediction: Prediction) -> np.ndarray:
    """Disagreement (P,) of neighbouring depth maps through the predicted camera, on a grid of about 40 x 40."""
    height, width = prediction.depth_m.shape[1:]
    step = max(1, min(height, width) // 40)
    focal_px = float(prediction.focal_px) / step
    depth = prediction.depth_m[:, ::step, ::step].astype(np.float64)
    centre = ((width - 1) / 2 / step, (height - 1) / 2 / step)
    intrinsics = np.array([[focal_px, 0, centre[0]], [0, focal_px, centre[1]], [0, 0, 1]])
    poses = metrics.relative_poses(prediction.world_from_cam)
    pairs = zip(depth[:-1], depth[1:], poses, strict=True)
    return np.array([metrics.depth_consistency(src, tgt, intrinsics, pose) for src, tgt, pose in pairs])
