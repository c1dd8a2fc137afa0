"""Does a shot show one rigid scene from several places? The multi-view signal (MVS) score, from optical flow alone.

For pairs of frames at several strides: which pixels match both ways, what of their flow a homography leaves over
(parallax), whether one epipolar geometry explains that rest, and how much of the picture stands still. No label, no
calibration. Formula and drawings: notebook 02.

    score = visible x matched x parallax x epipolar x moving-camera        each in [0, 1]

Shots come at one working size, and the terms are taken at the stride that suits the shot, so that a threshold
means the same for every resolution and frame rate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

from ss3d_lib import twoframe
from ss3d_lib.flow import grey

STRIDES = (1, 2, 4, 8, 16)  # frames apart; the score is taken at the best of them
PAIRS = 4  # pairs per stride, spread over the shot
MIN_FRAMES_LEFT = 6  # a training clip needs that many frames at the chosen stride
PARALLAX_PX = (2.0, 8.0)  # best for training: well above the noise of flow, well within its reach
KEPT = 0.5  # the score from which a shot is kept, unless a stage is told otherwise


@dataclass(frozen=True)
class Signal:
    """The score of one shot, and what it is made of (medians over the pairs at the measured stride)."""

    score: float  # 0..1
    stride: int  # frames apart that suit training
    reason: str  # "" when there is a signal
    visible: float  # share of the picture with texture
    matched: float  # share of it that flow matches there and back
    parallax: float  # share of the matches that no homography explains
    spread: float  # share of the picture's 4x4 cells in which such matches are found
    epipolar: float  # share of such matches that one epipolar geometry explains
    still: float  # share of the matches that do not move at all, at the widest gap
    moving: float  # share of the matches that move by themselves
    parallax_px: float  # 75th percentile of what the homography leaves, working px, at `stride`
    flow_px: float  # median length of the flow at `stride`, working px
    luma: float  # mean brightness, 0..255


TERMS = tuple(f.name for f in fields(Signal) if f.name not in ("score", "stride", "reason"))


def shot_signal(frames: np.ndarray, min_score: float = KEPT) -> Signal:
    """Score one shot: frames (T,H,W,3) uint8 RGB at the working size, at least two of them.

    A reason is given where the score stays below `min_score`.
    """
    images = grey(frames)
    table = measure(images)
    best = max(table, key=lambda s: _usefulness(table[s]))
    at, wide = table[best], table[_widest(table)]
    stride = training_stride(table, len(images))
    factors = score_factors(at, wide)
    score = float(np.prod(list(factors.values())))
    luma = float(images[:: max(1, len(images) // 8)].mean())
    broken = breaks(images)
    reason = why(at, wide, luma, broken, factors) if score < min_score or broken else ""
    return Signal(
        score=round(score * (not broken), 4),
        stride=stride,
        reason=reason,
        **{name: round(getattr(at, name), 4) for name in ("visible", "matched", "parallax", "spread", "epipolar")},
        still=round(wide.still, 4),
        moving=round(at.moving, 4),
        parallax_px=round(table[stride].parallax_px, 3),
        flow_px=round(table[stride].flow_px, 3),
        luma=round(luma, 1),
    )


def measure(images: np.ndarray, pairs: int = PAIRS) -> dict[int, twoframe.PairTerms]:
    """Terms per stride, the median over `pairs` pairs of frames spread over images (T,H,W) uint8."""
    table = {}
    for stride in STRIDES:
        if stride > 1 and len(images) - stride < min(pairs, len(images) // 3 + 1):
            break
        starts = np.unique(np.linspace(0, len(images) - 1 - stride, pairs).round().astype(int))
        table[stride] = twoframe.median_terms([twoframe.pair_terms(images[i], images[i + stride]) for i in starts])
        if table[stride].matched < 0.3 and stride >= 4:  # wider gaps will not match either
            break
    return table


def _usefulness(terms: twoframe.PairTerms) -> float:
    """How much can be learnt from pairs like this: matched, with a parallax well above the noise of flow."""
    return terms.matched * ramp(terms.parallax_px, 0.0, PARALLAX_PX[0]) * min(1.0, PARALLAX_PX[1] / max(terms.parallax_px, 1e-6))


def _widest(table: dict[int, twoframe.PairTerms]) -> int:
    """The widest stride that still matches half of the picture: there, what stands still is told best."""
    return max((s for s in table if table[s].matched > 0.5), default=1)


def training_stride(table: dict[int, twoframe.PairTerms], frames: int) -> int:
    """The most useful stride that leaves MIN_FRAMES_LEFT frames of the shot."""
    allowed = [s for s in table if s == 1 or (frames - 1) // s + 1 >= MIN_FRAMES_LEFT]
    return max(allowed, key=lambda s: (_usefulness(table[s]), -s))


def ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, straight between; falling where low > high."""
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))


def score_factors(at: twoframe.PairTerms, wide: twoframe.PairTerms) -> dict[str, float]:
    """The factors of the score from the terms at the best and at the widest stride."""
    return {
        "visible": ramp(at.visible, 0.03, 0.15),
        "matched": ramp(at.matched, 0.25, 0.5),
        "parallax": ramp(at.parallax, 0.05, 0.3) ** 0.5 * ramp(at.spread, 0.2, 0.55) ** 0.5,
        "epipolar": ramp(at.epipolar, 0.4, 0.8),
        "camera": ramp(wide.still, 0.45, 0.15),
    }


def breaks(images: np.ndarray) -> bool:
    """A hard change of the picture inside the shot: one step far above all the others."""
    small = np.stack([cv2.resize(i, (32, 18), interpolation=cv2.INTER_AREA) for i in images]).astype(np.float32)
    step = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2))
    if len(step) < 3:
        return False
    largest = int(step.argmax())
    around = np.delete(step, largest)
    return bool(step[largest] > 12 and step[largest] > 4 * np.quantile(around, 0.9) + 3)


def why(at: twoframe.PairTerms, wide: twoframe.PairTerms, luma: float, broken: bool, factors: dict[str, float]) -> str:
    """The name of what a rejected shot shows instead of a rigid scene from several places."""
    if at.visible < 0.1:
        return "too_dark" if luma < 40 else "textureless"
    stands = wide.still > 0.3
    if broken:
        return "slideshow" if wide.still > 0.8 or at.still > 0.8 else "cut"
    if wide.still > 0.93:
        return "slideshow"
    if stands:
        return "static" if wide.still > 0.4 else "dynamic_subject"
    if factors["parallax"] < 0.5 and wide.parallax < 0.3:
        return flat_kind(wide)
    return "dynamic_subject"


def flat_kind(wide: twoframe.PairTerms) -> str:
    """Rotation, zoom or planar: the simplest camera that explains as much as the homography does."""
    slack = 1.5 * wide.parallax_px + 0.2 + 0.03 * wide.flow_px
    if wide.zoom_px < slack and abs(np.log(wide.zoom)) > 0.02 and wide.zoom_px <= wide.rotation_px:
        return "zoom"
    return "rotation" if wide.rotation_px < slack else "planar"
