"""What two frames of a shot tell about the camera and the scene: the measurements behind the multi-view signal.

Points lie on a regular grid; all lengths are in px of the working size. Introduced in notebook 02.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import cv2
import numpy as np

from ss3d_lib import flow as of

GRID_PX = 6  # a point every so many px: about 900 points
TEXTURE = 4.0  # mean squared slope (grey levels per px, squared) above which flow can be trusted
STILL_PX = 0.35  # below, a point has not moved: the noise of flow on still pictures
MOVING_PX = 1.0  # above, a point of a still background does move
PLANE_PX, PLANE_SHARE = 0.7, 0.02  # off the plane: farther from the homography than this, and than this share of the flow
CELLS = 4  # the picture in 4 x 4 cells
ENOUGH_MATCHES = 500  # to estimate a homography or a fundamental matrix from; all matches are then held against it


@dataclass(frozen=True)
class PairTerms:
    """Measurements on one pair of frames (or their medians over pairs); nan where too little matched."""

    visible: float  # share of the grid with texture
    matched: float  # share of the visible points inside both frames that match there and back
    flow_px: float  # median length of the flow of the visible points
    still: float  # share of the matches that do not move, less what a slow drift would leave so
    subject: float  # share of the picture that the largest moving region covers
    parallax: float  # share of the matches that lie off the best homography
    spread: float  # share of the cells in which matches lie off it
    parallax_px: float  # 75th percentile of the distance to the homography
    epipolar: float  # share of the off-plane matches that the best fundamental matrix explains, above chance
    moving: float  # share of the matches that it does not explain


NOTHING = PairTerms(*[0.0] * 10)


def median_terms(terms: list[PairTerms]) -> PairTerms:
    """The median of every measurement."""
    return PairTerms(**{f.name: float(np.median([getattr(t, f.name) for t in terms])) for f in fields(PairTerms)})


def texture(image: np.ndarray) -> np.ndarray:
    """Mean squared slope in 7x7, of image (H,W) uint8: (H,W) float32 in squared grey levels per px."""
    slope_x = cv2.Sobel(image, cv2.CV_32F, 1, 0) / 8
    slope_y = cv2.Sobel(image, cv2.CV_32F, 0, 1) / 8
    return cv2.boxFilter(slope_x * slope_x + slope_y * slope_y, -1, (7, 7))


@dataclass(frozen=True)
class Matches:
    """The grid points of image a: (N,2) px, where flow sends them, and which are visible, inside and matched (N,) bool."""

    first: np.ndarray
    second: np.ndarray
    visible: np.ndarray
    inside: np.ndarray
    matched: np.ndarray

    @cached_property
    def fundamental(self) -> np.ndarray | None:
        """The fundamental matrix (3,3) that explains most of the matched points, or None: second' F first = 0, in px."""
        return fundamental(self.first[self.matched], self.second[self.matched])


def all_matched(first: np.ndarray, second: np.ndarray) -> Matches:
    """Points (N,2) px and where they are in the second picture: every one visible, inside and matched."""
    yes = np.ones(len(first), bool)
    return Matches(first, second, yes, yes, yes)


def find_matches(image_a: np.ndarray, image_b: np.ndarray) -> Matches:
    """Match grey images (H,W) uint8 by quick DIS flow there and back."""
    return grid_matches(image_a, of.dis_flow(image_a, image_b, quick=True), of.dis_flow(image_b, image_a, quick=True))


def grid_matches(image: np.ndarray, forward: np.ndarray, backward: np.ndarray) -> Matches:
    """Read flow from `image` (H,W) and back, each (H,W,2), on the grid."""
    height, width = image.shape
    y, x = np.mgrid[GRID_PX : height - GRID_PX + 1 : GRID_PX, GRID_PX : width - GRID_PX + 1 : GRID_PX].reshape(2, -1)
    first = np.stack([x, y], 1).astype(np.float64)
    visible = (texture(image) > TEXTURE)[y, x]
    inside, ahead = visible & of.inside(forward)[y, x], forward[y, x]
    second = first + ahead
    matched = inside & of.agree(ahead, of.read(backward, second))
    return Matches(first, second, visible, inside, matched)


def matched_share(image_a: np.ndarray, image_b: np.ndarray) -> float:
    """Share of the visible points that stay inside and match, between grey images (H,W) uint8."""
    found = find_matches(image_a, image_b)
    return float(found.matched.sum() / max(found.inside.sum(), 1))


def pair_terms(found: Matches, size: tuple[int, int]) -> PairTerms:
    """Measure one pair of frames of size (H,W) from its matches."""
    length = np.linalg.norm(found.second - found.first, axis=1)
    terms = {f.name: getattr(NOTHING, f.name) for f in fields(PairTerms)}
    terms["visible"] = found.visible.mean()
    terms["matched"] = found.matched.sum() / max(found.inside.sum(), 1)
    terms["flow_px"] = np.median(length[found.visible]) if found.visible.any() else 0.0
    terms["subject"] = largest_region(length > MOVING_PX, size)
    if found.matched.sum() >= 60:
        terms |= match_terms(found, size)
    return PairTerms(**{name: float(value) for name, value in terms.items()})


def match_terms(found: Matches, size: tuple[int, int]) -> dict[str, float]:
    """The terms that need the matched points only, in a picture of size (H,W)."""
    first, second = found.first[found.matched], found.second[found.matched]
    length = np.linalg.norm(second - first, axis=1)
    rest = homography_distance(first, second)
    off = rest > PLANE_PX + PLANE_SHARE * length
    epipolar, moving = epipolar_support(found, rest, off)
    return {
        "still": still_share(length),
        "parallax": off.mean(),
        "spread": cell_spread(first, off, size),
        "parallax_px": np.quantile(rest, 0.75),
        "epipolar": epipolar,
        "moving": moving,
    }


def still_share(length: np.ndarray) -> float:
    """Share of flow lengths (N,) below STILL_PX, less half of those up to three times that.

    A slow drift spreads lengths evenly and so cancels; a fixed camera leaves nothing in between.
    """
    still, drifting = (length < STILL_PX).mean(), ((length >= STILL_PX) & (length < 3 * STILL_PX)).mean()
    return float(max(0.0, still - drifting / 2))


def largest_region(moving: np.ndarray, size: tuple[int, int]) -> float:
    """Share of the grid in the largest connected region that moves (N,) bool: flow fills plain surfaces from their rims."""
    columns = len(range(GRID_PX, size[1] - GRID_PX + 1, GRID_PX))
    region = moving.reshape(-1, columns).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=4)
    return float(stats[1:, cv2.CC_STAT_AREA].max(initial=0) / region.size)


def homography_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance (N,) px of the matches to the best homography (MAGSAC++, Barath et al. 2020)."""
    try:
        few = thinned(first)
        matrix, _ = cv2.findHomography(first[few], second[few], cv2.USAC_MAGSAC, 1.0, maxIters=1000, confidence=0.999)
    except cv2.error:  # see `fundamental`
        matrix = None
    if matrix is None:
        return np.zeros(len(first))
    mapped = np.c_[first, np.ones(len(first))] @ matrix.T
    return np.linalg.norm(second - mapped[:, :2] / mapped[:, 2:], axis=1)


def thinned(matches: np.ndarray) -> slice:
    """Every so many matches (N,2) that ENOUGH_MATCHES are left at most: they lie on a grid, row by row."""
    return slice(None, None, max(1, -(-len(matches) // ENOUGH_MATCHES)))


def cell_spread(points: np.ndarray, off: np.ndarray, size: tuple[int, int]) -> float:
    """Share of the cells with enough matches in which more than 15 % lie off the plane."""
    row, column = (points[:, 1] * CELLS // size[0]).astype(int), (points[:, 0] * CELLS // size[1]).astype(int)
    count = np.bincount(row * CELLS + column, minlength=CELLS**2)
    share = np.bincount(row * CELLS + column, off, minlength=CELLS**2) / np.maximum(count, 1)
    enough = count > 10
    return float((share[enough] > 0.15).mean()) if enough.any() else 0.0


def epipolar_support(found: Matches, rest: np.ndarray, off: np.ndarray) -> tuple[float, float]:
    """How well one fundamental matrix explains the matches off (M,) bool the homography; rest (M,) px: how far they are.

    A match is explained when its Sampson distance is below 0.3 px + 15 % of its parallax: by chance, about a fifth of
    unrelated matches are. Returns the explained share, and the share of all matches that is off and unexplained.
    """
    if off.sum() < 20:
        return 0.0, 0.0
    explained = epipolar_distance(found) < 0.3 + 0.15 * rest
    return float(explained[off].mean()), float((off & ~explained).mean())


def epipolar_distance(found: Matches) -> np.ndarray:
    """Sampson distance (M,) px of the matched points to the best fundamental matrix; inf where none is found."""
    first, second = found.first[found.matched], found.second[found.matched]
    return np.full(len(first), np.inf) if found.fundamental is None else sampson_distance(first, second, found.fundamental)


def fundamental(first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
    """The fundamental matrix (3,3) that explains most matches (N,2) px (USAC with eight points, Raguram et al. 2013), or None."""
    try:
        few = thinned(first)
        matrix, _ = cv2.findFundamentalMat(first[few], second[few], cv2.USAC_FM_8PTS, 0.7, 0.99, 300)
    except cv2.error:  # OpenCV 5.0 asserts instead of returning nothing when its local optimisation finds no model
        return None
    return matrix if matrix is not None and matrix.shape == (3, 3) else None


def sampson_distance(first: np.ndarray, second: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """First-order distance (N,) px to the epipolar constraint second' F first = 0 (Hartley & Zisserman, 11.9)."""
    a, b = np.c_[first, np.ones(len(first))], np.c_[second, np.ones(len(second))]
    line_b, line_a = a @ matrix.T, b @ matrix
    slope = np.sqrt((line_b[:, :2] ** 2).sum(1) + (line_a[:, :2] ** 2).sum(1))
    return np.abs((b * line_b).sum(1)) / np.maximum(slope, 1e-12)
