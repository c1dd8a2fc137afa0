"""Is it one rigid scene? Three frames tell what two cannot: depth found from one pair must hold for the next.

From one fundamental matrix F every match has a projective depth g (Hartley & Zisserman, result 9.14 and 13.1):
q ~ H p + g e, with H = [e]x F and e the epipole of the second image. Seen from the same first frame, two pairs give
two such depths, and for a rigid scene they agree up to a plane: g2 = a g1 + (x, y, 1) w. A subject that moves by
itself can fit one epipolar geometry by accident; it does not keep its shape from pair to pair.
"""

from __future__ import annotations

import numpy as np

from ss3d_lib.twoframe import Matches

PARALLAX_PX = 0.7  # matches with less parallax than this prove nothing
NOISE_SHARE = 0.02  # the noise of flow grows with its length
ROBUST_PX = 0.7  # scale of the Cauchy-like weights
FIT_STEPS, START_STEPS = 6, 4


def rigid_support(before: Matches, after: Matches, size: tuple[int, int]) -> float:
    """Share of the matches with parallax whose depth agrees between two pairs from one frame; nan when too few.

    Args:
        before, after: the matches of a frame with an earlier and with a later one.
        size: (H,W) of the picture.
    """
    both = before.matched & after.matched
    if both.sum() < 80:
        return float("nan")
    half_px = max(size) / 2
    centre = (np.array(size[::-1]) - 1) / 2
    scaled = lambda points: (points[both] - centre) / half_px
    first = scaled(before.first)
    to_px = np.array([[half_px, 0, centre[0]], [0, half_px, centre[1]], [0, 0, 1]])
    if before.fundamental is None or after.fundamental is None:
        return float("nan")
    (depth_a, px_a), (depth_b, px_b) = (
        projective_depth(first, scaled(m.second), to_px.T @ m.fundamental @ to_px, half_px) for m in (before, after)
    )
    plane = np.c_[first, np.ones(len(first))]
    rest_px, unit_px = _fit_depths(depth_a, depth_b, px_a, px_b, plane)
    parallax_px = np.abs((depth_b - plane @ _robust_fit(plane, depth_b, unit_px)) * unit_px)
    noise = NOISE_SHARE * np.linalg.norm(after.second[both] - after.first[both], axis=1)
    off = parallax_px > PARALLAX_PX + noise
    if off.sum() < 20:
        return float("nan")
    return float((np.abs(rest_px) < 0.3 + noise + 0.15 * parallax_px)[off].mean())


def projective_depth(first: np.ndarray, second: np.ndarray, matrix: np.ndarray, half_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Projective depths (N,) of matches (N,2), and how many px a unit of each is in the second frame (N,).

    Points are in half picture sides from the centre, and so is their fundamental matrix (3,3). The depths are relative to
    their own best plane.
    """
    matrix = matrix / np.linalg.norm(matrix)
    epipole = np.linalg.svd(matrix)[0][:, 2]
    x, y, z = epipole
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    homography = cross @ matrix
    a, b = np.c_[first, np.ones(len(first))], np.c_[second, np.ones(len(second))]
    across = np.cross(b, epipole[None])
    depth = -(np.cross(b, a @ homography.T) * across).sum(1) / np.maximum((across**2).sum(1), 1e-12)
    plane = _robust_fit(a, depth, np.linalg.norm(across, axis=1) * half_px)
    depth = depth - a @ plane
    at = a @ (homography + np.outer(epipole, plane)).T + depth[:, None] * epipole
    slope = (epipole[None, :2] * at[:, 2:] - at[:, :2] * z) / np.where(np.abs(at[:, 2:]) < 1e-9, 1e-9, at[:, 2:]) ** 2
    return depth, np.linalg.norm(slope, axis=1) * half_px + 1e-9


def _fit_depths(depth_a, depth_b, px_a, px_b, plane) -> tuple[np.ndarray, np.ndarray]:
    """Robust fit of depth_b = a depth_a + plane w: what is left, in px (N,), and px per unit of depth_b (N,).

    Both depths are noisy, most of all near the epipole, so a match counts by the noise of both.
    """
    least = np.minimum(px_a, px_b)
    rest_a, rest_b = (d - plane @ _robust_fit(plane, d, px) for d, px in ((depth_a, px_a), (depth_b, px_b)))
    sign = np.sign((rest_a * rest_b * least**2 / (1 + (least * rest_a) ** 2) ** 2).sum()) or 1.0
    ratio = sign * np.median(np.abs(rest_b) * least) / max(float(np.median(np.abs(rest_a) * least)), 1e-12)
    unit_px = 1 / np.sqrt(1 / px_b**2 + (ratio / px_a) ** 2)
    unknowns = np.r_[ratio, _robust_fit(plane, depth_b - ratio * depth_a, unit_px)]
    system = np.c_[depth_a, plane]
    for _ in range(FIT_STEPS):
        unit_px = 1 / np.sqrt(1 / px_b**2 + (unknowns[0] / px_a) ** 2)
        rest_px = (depth_b - system @ unknowns) * unit_px
        unknowns = _least_squares(system, depth_b, unit_px / (1 + (rest_px / ROBUST_PX) ** 2))
    return (depth_b - system @ unknowns) * unit_px, unit_px


def _robust_fit(system: np.ndarray, values: np.ndarray, unit_px: np.ndarray) -> np.ndarray:
    """Iteratively reweighted least squares; unit_px turns what is left into px."""
    weight = unit_px
    for _ in range(START_STEPS):
        unknowns = _least_squares(system, values, weight)
        weight = unit_px / (1 + ((values - system @ unknowns) * unit_px / ROBUST_PX) ** 2)
    return unknowns


def _least_squares(system: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares by normal equations, columns scaled; small and many, so speed matters."""
    weighted = system * weight[:, None]
    size = np.sqrt((weighted**2).sum(0)) + 1e-12
    weighted /= size
    normal = weighted.T @ weighted + 1e-9 * np.eye(system.shape[1])
    return np.linalg.solve(normal, weighted.T @ (values * weight)) / size
