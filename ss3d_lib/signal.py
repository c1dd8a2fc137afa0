"""Does a shot show one rigid scene from several places? The multi-view signal (MVS) score, from optical flow alone.

For pairs of frames at several strides: which pixels match both ways, what of their flow a homography leaves over
(parallax), whether one epipolar geometry explains that rest, and how much of the picture stands still. No label, no
calibration. Formula and drawings: notebook 02.

    score = visible x matched x parallax x epipolar x rigid x moving-camera        each in [0, 1]

Shots come at one working size, and the terms are taken at the stride that suits the shot, so that a threshold
means the same for every resolution and frame rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain

import cv2
import numpy as np

from ss3d_lib import flatmotion, twoframe
from ss3d_lib.flow import grey
from ss3d_lib.rigidity import rigid_support

STRIDES = (1, 2, 4, 8, 16, 32)  # frames apart; the score is taken at the best of them
MIDDLE_STRIDE = 4  # measured first
ENOUGH_PX = 4.0  # the middle of PARALLAX_PX on a log scale: no need to look farther
PROBES, SAMPLES = 1, 3  # frames at any stride and at the best one, spread over the shot; each is matched with an earlier and a later one
MIN_FRAMES_LEFT = 6  # a training clip needs that many frames at the chosen stride
PARALLAX_PX = (2.0, 8.0)  # best for training: well above the noise of flow, well within its reach
SUBJECT = 0.2  # a region of this share moving at once fills the view: a subject, not a passer-by
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
    rigid: float  # share of such matches whose depth agrees between two pairs
    still: float  # share of the matches that do not move at all, at a stride wider than the measured one
    subject: float  # share of the picture that the largest moving region covers
    moving: float  # share of the matches that move by themselves
    parallax_px: float  # 75th percentile of what the homography leaves, working px, at `stride`
    flow_px: float  # median length of the flow at `stride`, working px
    luma: float  # mean brightness, 0..255


def shot_signal(frames: np.ndarray, min_score: float = KEPT) -> Signal:
    """Score one shot: frames (T,H,W,3) uint8 RGB at the working size, at least two of them.

    A reason is given where the score stays below `min_score`.
    """
    images = grey(frames)
    table = measure(images)
    terms = {stride: found.terms for stride, found in table.items()}
    best = max(terms, key=lambda s: usefulness(terms[s]))
    stride = training_stride(terms, len(images))
    at, still = terms[best], still_beyond(terms, best)
    rigid = rigid_share(table, best, images.shape[1:])
    factors = score_factors(at, rigid, still)
    luma = float(images[:: max(1, len(images) // 8)].mean())
    steps = page_steps(images)
    drawn = "slideshow" if is_slideshow(table, steps) else "cut" if breaks(images, steps) else ""
    score = 0.0 if drawn else float(np.prod(list(factors.values())))
    reason = "" if score >= min_score else drawn or why(table, best, factors, images)
    values = {name: getattr(at, name) for name in ("visible", "matched", "parallax", "spread", "epipolar", "moving", "subject")}
    values |= {"rigid": rigid, "still": still, "luma": luma}
    shown = terms.get(stride, at)
    values |= {name: getattr(shown, name) for name in ("parallax_px", "flow_px")}
    return Signal(round(score, 4), stride, reason, **{name: round(value, 4) for name, value in values.items()})


def reading_stride(found: Signal, frames: int) -> int:
    """The stride at which a shot of so many frames is read as one clip: the score's choice, at least three frames kept."""
    return max(1, min(found.stride, (frames - 1) // 2))


@dataclass(frozen=True)
class StrideFound:
    """What was found at one stride: the median terms, those of each pair, and each sampled frame's matches."""

    terms: twoframe.PairTerms
    pairs: list[twoframe.PairTerms]
    matches: list[tuple[twoframe.Matches | None, twoframe.Matches]]


def measure(images: np.ndarray) -> dict[int, StrideFound]:
    """Measure images (T,H,W) uint8 at several strides, on PROBES frames spread over the shot, at the best stride on SAMPLES.

    From a middle stride down while the pairs are farther apart than is best, then up while there is little parallax: fast
    shots are not asked at wide strides, nor slow ones at narrow strides.
    """
    allowed = [s for s in STRIDES if s == 1 or s <= len(images) - MIN_FRAMES_LEFT]
    middle = max(s for s in allowed if s <= MIDDLE_STRIDE)
    at, table = cache(partial(_measure_frame, images)), {}
    for stride in [s for s in reversed(allowed) if s <= middle]:
        table[stride] = _measure_stride(at, len(images), stride, PROBES)
        if table[stride].terms.parallax_px < PARALLAX_PX[1] and table[stride].terms.matched > 0.6:
            break
    for stride in [s for s in allowed if s > middle]:
        widest = table[max(table)].terms
        if widest.matched < 0.3 or widest.parallax_px > ENOUGH_PX:
            break
        table[stride] = _measure_stride(at, len(images), stride, PROBES)
    known: set[int] = set()
    while (best := max(table, key=lambda s: usefulness(table[s].terms))) not in known:
        table[best] = _measure_stride(at, len(images), best, SAMPLES)
        known.add(best)
    if best // 2 in table and all(before is None for before, _ in table[best].matches):  # too wide for three frames: see rigid_share
        table[best // 2] = _measure_stride(at, len(images), best // 2, SAMPLES)
    return dict(sorted(table.items()))


def _measure_stride(at: Callable, frames: int, stride: int, samples: int) -> StrideFound:
    """Each sampled frame is matched with the one a stride before and the one a stride after it, where there is one."""
    first, last = (stride, frames - 1 - stride) if 2 * stride < frames else (0, frames - 1 - stride)
    middles = np.unique(np.linspace(first, last, samples + 2)[1:-1].round().astype(int))
    pairs, matches = zip(*(at(stride, int(middle)) for middle in middles))
    pairs = list(chain.from_iterable(pairs))
    return StrideFound(twoframe.median_terms(pairs), pairs, list(matches))


def _measure_frame(images: np.ndarray, stride: int, middle: int) -> tuple[list[twoframe.PairTerms], tuple]:
    """The terms of the pairs of a frame, and its matches."""
    around = _match_around(images, middle, stride)
    return [twoframe.pair_terms(m, images.shape[1:]) for m in around if m is not None], around


def _match_around(images: np.ndarray, middle: int, stride: int) -> tuple[twoframe.Matches | None, twoframe.Matches]:
    before = twoframe.find_matches(images[middle], images[middle - stride]) if middle >= stride else None
    return before, twoframe.find_matches(images[middle], images[middle + stride])


def rigid_share(table: dict[int, StrideFound], best: int, size: tuple[int, int]) -> float:
    """Median rigid support of the frames sampled at the best stride and at half of it; 0 where nothing can be told."""
    triples = [m for s in {best, best // 2} & set(table) for m in table[s].matches if m[0] is not None]
    support = [rigid_support(before, after, size) for before, after in triples]
    known = [value for value in support if np.isfinite(value)]
    return float(np.median(known)) if known else 0.0


def usefulness(terms: twoframe.PairTerms) -> float:
    """How much can be learnt from pairs like this: matched, with a parallax well above the noise of flow."""
    low, high = PARALLAX_PX
    return terms.matched * ramp(terms.parallax_px, 0.0, low) * min(1.0, high / max(terms.parallax_px, 1e-6))


def _widest(terms: dict[int, twoframe.PairTerms]) -> int:
    """The widest stride that still matches half of the picture."""
    return max((s for s in terms if terms[s].matched > 0.5), default=min(terms))


def still_beyond(terms: dict[int, twoframe.PairTerms], best: int) -> float:
    """The largest share that stands still at the strides wider than the best one: a slow camera has left it behind there,
    and a tripod keeps its background, even if it shakes at one of them."""
    wider = [s for s in terms if s > best and terms[s].matched > 0.5]
    return max(terms[s].still for s in wider or [_widest(terms)])


def training_stride(terms: dict[int, twoframe.PairTerms], frames: int) -> int:
    """The most useful stride that leaves MIN_FRAMES_LEFT frames of the shot."""
    allowed = [s for s in terms if (frames - 1) // s + 1 >= MIN_FRAMES_LEFT]
    if not allowed:  # too short for any measured stride: as wide as it allows
        return max(1, (frames - 1) // (MIN_FRAMES_LEFT - 1))
    return max(allowed, key=lambda s: (usefulness(terms[s]), -s))


def ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, straight between; falling where low > high."""
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))


def score_factors(at: twoframe.PairTerms, rigid: float, still: float) -> dict[str, float]:
    """The factors of the score, from the terms at the best stride, and what stands still at wider ones."""
    return {
        "visible": ramp(at.visible, 0.03, 0.15),
        "matched": ramp(at.matched, 0.25, 0.5),
        "parallax": ramp(at.parallax, 0.05, 0.3) ** 0.5 * ramp(at.spread, 0.2, 0.55) ** 0.5,
        "epipolar": ramp(at.epipolar, 0.4, 0.8),
        "rigid": ramp(rigid, 0.1, 0.7),
        "camera": ramp(still, 0.2, 0.05),
    }


def page_steps(images: np.ndarray) -> np.ndarray:
    """(T-1,) share of the picture that is clearly another (by 20 grey levels) from each frame to the next."""
    small = np.stack([cv2.resize(image, (64, 36), interpolation=cv2.INTER_AREA) for image in images]).astype(np.int16)
    return (np.abs(np.diff(small, axis=0)) > 20).mean(axis=(1, 2))


def breaks(images: np.ndarray, steps: np.ndarray) -> bool:
    """A cut inside the shot: its largest step (of page_steps) does not match, although the steps beside it do."""
    at = int(steps.argmax())
    if len(steps) < 4 or steps[at] < 0.2 or steps[at] < 1.2 * np.median(steps):
        return False
    here = twoframe.matched_share(images[at], images[at + 1])
    beside = [twoframe.matched_share(images[k], images[k + 1]) for k in (at - 1, at + 1) if 0 <= k < len(steps)]
    return bool(here < 0.3 and here < 0.5 * max(beside))


def is_slideshow(table: dict[int, StrideFound], steps: np.ndarray) -> bool:
    """Nothing moves, and yet the picture becomes another: pairs stand still or do not match, hardly any moves."""
    pairs = [pair for found in table.values() for pair in found.pairs]
    replaced = np.mean([pair.matched < 0.4 for pair in pairs]) > 0.1 or steps.max() > 0.4
    moving = np.mean([pair.matched >= 0.4 and pair.still < 0.6 for pair in pairs]) > 0.15
    return bool(replaced and not moving)


def is_frozen(images: np.ndarray) -> bool:
    """A still picture, not a still camera: even the noise of a sensor is missing (nine tenths of the pixels, one level)."""
    step = cv2.absdiff(images[1:], images[:-1])
    return bool(np.median((step <= 1).mean(axis=(1, 2))) > 0.9)


def why(table: dict[int, StrideFound], best: int, factors: dict[str, float], images: np.ndarray) -> str:
    """The name of what a rejected shot shows instead of a rigid scene from several places."""
    terms = {stride: found.terms for stride, found in table.items()}
    at, wide = terms[best], table[_widest(terms)]
    if at.visible < 0.1:
        return "too_dark" if images.mean() < 40 else "textureless"
    if max(still_beyond(terms, best), at.still) > 0.1:
        if is_frozen(images):
            return "slideshow"
        near = table[max((s for s in table if s <= MIDDLE_STRIDE), default=min(table))].terms
        return "dynamic_subject" if near.subject > SUBJECT else "static"
    flat = factors["parallax"] < 0.5 and wide.terms.parallax < 0.3
    if flat or wide.terms.parallax_px < 0.5 + 0.03 * wide.terms.flow_px:
        return flat_kind([m for around in wide.matches for m in around if m is not None], images.shape[1:])
    return "dynamic_subject"


def flat_kind(pairs: list[twoframe.Matches], size: tuple[int, int]) -> str:
    """Rotation, zoom or planar: the simplest camera that explains as much as a homography does.

    A zoom keeps the centre of the picture about where it is; what grows while it slides past is a flat scene.
    """
    rows = []
    for pair in pairs:
        first, second = pair.first[pair.matched], pair.second[pair.matched]
        if len(first) >= 60:
            zoom_rest, factor, shift_px = flatmotion.zoom_distance(first, second, size)
            rotation_rest = flatmotion.rotation_distance(first, second, size)
            rests = (zoom_rest, rotation_rest, twoframe.homography_distance(first, second))
            length_px = np.median(np.linalg.norm(second - first, axis=1))
            rows.append([*(np.quantile(rest, 0.75) for rest in rests), abs(np.log(factor)), shift_px, length_px])
    if not rows:
        return "planar"
    zoom_px, rotation_px, plane_px, growth, shift_px, length_px = np.median(rows, axis=0)
    slack_px = 1.5 * plane_px + 0.2 + 0.03 * length_px
    if growth > 0.015 and shift_px < growth * max(size) / 2 and zoom_px < slack_px and zoom_px <= rotation_px:
        return "zoom"
    return "rotation" if rotation_px < slack_px else "planar"
