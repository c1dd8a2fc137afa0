"""Errors of a predicted focal length."""

import numpy as np


def horizontal_fov_deg(focal_px: float, width_px: int) -> float:
    """Full horizontal field of view (deg) of a pinhole camera; pixel edges at -0.5 and width - 0.5."""
    return float(np.rad2deg(2 * np.arctan(0.5 * width_px / focal_px)))


def focal_errors(focal_px: float, true_focal_px: float, width_px: int) -> dict[str, float]:
    """focal_abs_px, focal_relerr (share of the true one) and fov_deg (absolute error of the horizontal view)."""
    difference_px = abs(focal_px - true_focal_px)
    fov_deg = abs(horizontal_fov_deg(focal_px, width_px) - horizontal_fov_deg(true_focal_px, width_px))
    return {"focal_abs_px": difference_px, "focal_relerr": difference_px / true_focal_px, "fov_deg": fov_deg}


def interval_covers(interval: np.ndarray, true: float) -> bool:
    """Whether the closed interval (2,) holds the true value: over many clips, the coverage of its promise."""
    return bool(interval[0] <= true <= interval[1])
