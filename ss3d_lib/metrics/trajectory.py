"""Camera trajectories: Umeyama alignment, ATE, RPE, and the errors of neighbouring pairs.

Poses are 4x4. A trajectory is camera-to-world, (T, 4, 4), OpenCV axes; a pair's pose is `tgt_from_src`.
"""

from dataclasses import dataclass

import numpy as np

MOVING = 0.2  # share of a clip's median baseline that a pair needs to have a direction


@dataclass(frozen=True)
class Similarity:
    """target = scale * rotation @ source + translation_m; rotation (3, 3), translation (3,)."""

    scale: float
    rotation: np.ndarray
    translation_m: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of the source frame in the target frame."""
        return self.scale * points @ self.rotation.T + self.translation_m


def umeyama(source: np.ndarray, target: np.ndarray, with_scale: bool = True) -> Similarity:
    """The least-squares Sim(3) (or SE(3)) that maps points source (N, 3) onto target (N, 3).

    Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns": equation
    numbers are given at each step. A source without extent (all cameras at one place) is mapped by translation
    alone, scale 1, which is a minimiser then. Raises ValueError on unequal or empty inputs.
    """
    if source.shape != target.shape or source.ndim != 2 or len(source) == 0:
        raise ValueError(f"need two equal (N, 3) point sets, got {source.shape} and {target.shape}")
    source, target = source.astype(np.float64), target.astype(np.float64)
    mean_source, mean_target = source.mean(0), target.mean(0)  # eq. 34, 35
    variance_source = np.mean(np.sum((source - mean_source) ** 2, axis=1))  # eq. 36
    if variance_source < 1e-18:
        return Similarity(1.0, np.eye(3), mean_target - mean_source)
    covariance = (target - mean_target).T @ (source - mean_source) / len(source)  # eq. 38
    left, singular, right = np.linalg.svd(covariance)
    sign = np.ones(3)
    if np.linalg.det(left) * np.linalg.det(right) < 0:  # eq. 43: no reflection
        sign[-1] = -1.0
    rotation = left @ np.diag(sign) @ right  # eq. 40
    scale = float(singular @ sign / variance_source) if with_scale else 1.0  # eq. 42
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)  # eq. 41


def path_length_m(world_from_cam: np.ndarray) -> float:
    """Length of the polyline through the camera centres of (T, 4, 4)."""
    return float(np.linalg.norm(np.diff(world_from_cam[:, :3, 3].astype(np.float64), axis=0), axis=1).sum())


def absolute_trajectory_error_m(predicted: np.ndarray, true: np.ndarray, group: str = "sim3") -> float:
    """ATE: root mean square distance (m) of the camera centres of two (T, 4, 4) trajectories after alignment.

    Sturm et al. 2012 (TUM RGB-D benchmark), with the alignment of Umeyama; group "sim3" or "se3".
    """
    if group not in ("sim3", "se3"):
        raise ValueError(f"unknown group {group!r}: choose sim3 or se3")
    centres, true_centres = predicted[:, :3, 3], true[:, :3, 3]
    alignment = umeyama(centres, true_centres, with_scale=group == "sim3")
    return float(np.sqrt(np.mean(np.sum((alignment.apply(centres) - true_centres) ** 2, axis=1))))


def relative_poses(world_from_cam: np.ndarray, step: int = 1) -> np.ndarray:
    """tgt_from_src (T - step, 4, 4) of frame i + step from frame i, of a camera-to-world trajectory (T, 4, 4)."""
    poses = world_from_cam.astype(np.float64)
    return np.linalg.inv(poses[step:]) @ poses[:-step]


def rotation_angle_rad(rotations: np.ndarray) -> np.ndarray:
    """Angle (...) of rotations (..., 3, 3), exact for small ones: |R - I|_F = 2 sqrt(2) sin(angle / 2)."""
    chord = np.linalg.norm(rotations - np.eye(3), axis=(-2, -1)) / (2 * np.sqrt(2))
    return 2 * np.arcsin(np.clip(chord, 0.0, 1.0))


def relative_pose_errors(predicted: np.ndarray, true: np.ndarray, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """RPE of Sturm et al. 2012: translation (m) and rotation (deg), each (T - step,), of two trajectories.

    No alignment is made here: scale the prediction with `umeyama` first where its scale is free.
    """
    true_motion = np.linalg.inv(true[:-step].astype(np.float64)) @ true[step:]
    motion = np.linalg.inv(predicted[:-step].astype(np.float64)) @ predicted[step:]
    error = np.linalg.inv(true_motion) @ motion
    return np.linalg.norm(error[:, :3, 3], axis=1), np.rad2deg(rotation_angle_rad(error[:, :3, :3]))


@dataclass(frozen=True)
class PairErrors:
    """Per pair (P,): rotation error (deg), angle between translation directions (deg), true baseline (m)."""

    rotation_deg: np.ndarray
    direction_deg: np.ndarray
    baseline_m: np.ndarray

    def moving(self) -> np.ndarray:
        """Pairs (P,) whose direction is defined: true baseline at least MOVING of the clip's median and > 0.1 mm."""
        return self.baseline_m >= max(MOVING * np.median(self.baseline_m), 1e-4)


def pair_errors(predicted: np.ndarray, true: np.ndarray) -> PairErrors:
    """Errors of poses tgt_from_src (P, 4, 4); the scale of either translation plays no part.

    A predicted translation of zero has no direction and counts as 90 degrees, so that silence is never rewarded.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"predicted poses are {predicted.shape} but the true ones {true.shape}")
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    rotation = np.swapaxes(true[:, :3, :3], 1, 2) @ predicted[:, :3, :3]
    shift, true_shift = predicted[:, :3, 3], true[:, :3, 3]
    cross = np.linalg.norm(np.cross(shift, true_shift), axis=1)
    dot = np.sum(shift * true_shift, axis=1)
    direction_deg = np.rad2deg(np.arctan2(cross, dot))
    direction_deg[np.linalg.norm(shift, axis=1) < 1e-12] = 90.0
    return PairErrors(np.rad2deg(rotation_angle_rad(rotation)), direction_deg, np.linalg.norm(true_shift, axis=1))
