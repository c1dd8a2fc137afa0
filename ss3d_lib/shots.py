"""Where shots begin and end: hard cuts, dissolves and fades, sought on small pictures.

Introduced in notebook 01. All functions take uint8 RGB frames in order of time.
"""

from __future__ import annotations

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

TINY = (36, 64)  # (H, W) of the pictures on which cuts are sought: motion hardly shows, a change of scene does
CUT_CONTENT, CUT_RATIO = 14.0, 3.0  # scenedetect: HSV change of a cut, and its ratio to the frames around it
BLEND_LENGTHS = (4, 5, 6, 7, 8, 10, 12, 15, 19, 24, 30)  # frames from the last of one shot to the first of the next
BLEND_CHANGE = 0.75  # rms change over a dissolve, relative to the contrast of its two ends
BLEND_RESIDUAL = 0.42  # what a mixture of the two ends leaves unexplained, relative to the change
BLEND_BEND = 0.17  # the share of the second shot grows evenly: largest distance from a straight line
BLACK_LEVEL, BLACK_CONTRAST = 20.0, 8.0  # mean and standard deviation of the luma of an (almost) black frame
STILL_SPREAD = 3.0  # grey levels (standard deviation over time): noise and compression stay below


def tiny(frames: np.ndarray) -> np.ndarray:
    """(T,H,W,3) uint8 to (T,36,64,3) uint8."""
    return np.stack([cv2.resize(f, TINY[::-1], interpolation=cv2.INTER_AREA) for f in frames])


def shot_ranges(small: np.ndarray) -> list[tuple[int, int]]:
    """Half-open frame ranges of the shots of `small` (T,36,64,3): cut at hard cuts, without the frames of fades.

    Hard cuts come from scenedetect's AdaptiveDetector; dissolves and fades through black from `blends`. Pieces of
    one slideshow (stills with cuts or wipes between them) are joined again: they are one shot of that kind.
    """
    fading = blends(small)
    cuts = [c for c in hard_cuts(small) if not fading[max(c - 1, 0) : c + 1].any()]
    edges = np.flatnonzero(np.diff(np.r_[True, fading, True].astype(int)))
    ranges = []
    for start, end in zip(edges[::2], edges[1::2]):
        points = [start, *(c for c in cuts if start < c < end), end]
        ranges += [(int(a), int(b)) for a, b in zip(points[:-1], points[1:]) if b - a >= 2]
    return _join_stills(small, ranges)


def hard_cuts(small: np.ndarray) -> list[int]:
    """Indices of the first frames after hard cuts."""
    detector = AdaptiveDetector(adaptive_threshold=CUT_RATIO, min_scene_len=3, min_content_val=CUT_CONTENT)
    padded = np.concatenate([small, small[-1:], small[-1:]])  # the detector looks two frames ahead
    found = [cut for i, f in enumerate(padded) for cut in detector.process_frame(FrameTimecode(i, 25.0), f[..., ::-1])]
    return [cut.frame_num for cut in found if 0 < cut.frame_num < len(small)]


def blends(small: np.ndarray) -> np.ndarray:
    """(T,) bool: the frame is a mixture of two shots, or (almost) black between them.

    A window S..E is a dissolve when its inner frames are close to S + a (E - S) with a growing evenly, while S
    and E are unlike each other. Black at one end makes it a fade.
    """
    images = small.reshape(len(small), -1).astype(np.float32)
    luma = images.reshape(len(small), -1, 3).mean(-1)
    black = (luma.mean(1) < BLACK_LEVEL) & (luma.std(1) < BLACK_CONTRAST)
    # a film that is dark throughout is no fade
    mixed = black if black.mean() < 0.5 else np.zeros(len(small), bool)
    for length in BLEND_LENGTHS:
        for start in _changed(images, length):
            if _is_blend(images[start : start + length + 1]):
                mixed[start + 1 : start + length] = True
    return mixed


def _changed(images: np.ndarray, length: int) -> np.ndarray:
    """Starts of the windows whose ends differ enough to be two shots."""
    if len(images) <= length:
        return np.zeros(0, int)
    energy = ((images[length:] - images[:-length]) ** 2).mean(1)
    contrast = images.var(1)
    return np.flatnonzero((energy > BLEND_CHANGE**2 * (contrast[length:] + contrast[:-length])) & (energy > 15.0**2))


def _is_blend(window: np.ndarray) -> bool:
    first, last, inner = window[0], window[-1], window[1:-1]
    change = last - first
    energy = float(change @ change)
    share = (inner - first) @ change / energy
    if np.abs(share - np.linspace(0, 1, len(window))[1:-1]).max() > BLEND_BEND:
        return False
    residual = np.sqrt(((inner - first - share[:, None] * change) ** 2).sum(1) / energy)
    return bool(residual.max() < BLEND_RESIDUAL and _unlike(first, last))


def _unlike(first: np.ndarray, last: np.ndarray) -> bool:
    """A change of exposure scales one picture; a change of scene replaces it."""
    if min(first.std(), last.std()) < BLACK_CONTRAST:
        return True
    return bool(np.corrcoef(first, last)[0, 1] < 0.5)


def still_share(small: np.ndarray) -> float:
    """Share of the pixels that do not change, but for noise and compression, over the whole of `small`."""
    spread = small.astype(np.float32).std(0).max(-1)
    return float((spread < STILL_SPREAD).mean())


def _join_stills(small: np.ndarray, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        previous = joined[-1] if joined else None
        if previous and start - previous[1] <= 12 and all(still_share(small[a:b]) > 0.8 for a, b in (previous, (start, end))):
            joined[-1] = (previous[0], end)
        else:
            joined.append((start, end))
    return joined
