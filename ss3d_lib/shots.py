"""Where shots begin and end: hard cuts, dissolves and fades, sought on small pictures.

Introduced in notebook 01. All functions take uint8 RGB frames in order of time.
"""

from __future__ import annotations

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from ss3d_lib import flow
from ss3d_lib.borders import content_box

TINY = (72, 128)  # (H, W) of the pictures on which shots are sought
CUT_CONTENT, CUT_RATIO = 14.0, 3.0  # scenedetect: HSV change of a cut, and its ratio to the frames around it
SUSPECT_CHANGE, SUSPECT_RATIO = 6.0, 1.5  # a step like this may be a cut amid fast motion: flow decides
CUT_MATCHED, SAME_MATCHED = 0.45, 0.7  # share of the picture that still matches: below is a cut, above never is
BLEND_LENGTHS = (4, 5, 6, 7, 8, 10, 12, 15, 19, 24, 30)  # frames from the last of one shot to the first of the next
LEAST_CHANGE = 15.0  # rms change over a dissolve, grey levels
BLEND_CHANGE = 0.75  # rms change over a dissolve, relative to the contrast of its two ends
BLEND_RESIDUAL = 0.42  # what a mixture of the two ends leaves unexplained, relative to the change
BLEND_BEND = 0.17  # the share of the second shot grows evenly: largest distance from a straight line
BLACK_LEVEL, BLACK_CONTRAST = 20.0, 8.0  # mean and standard deviation of the luma of an (almost) black frame
MOVED_LEFT = 0.32  # share of the change to the next frame that flow leaves: below, it is motion and no mixture
DIP_SLOPE, DIP_DEPTH = 1.03, 0.55  # a fade changes by 3 % a frame and takes away half of the light
STILL_SPREAD = 3.0  # grey levels (standard deviation over time): noise and compression stay below


def tiny(frames: np.ndarray) -> np.ndarray:
    """(T,H,W,3) uint8 to (T,72,128,3) uint8: by halves while a half is large enough, which is twice as fast."""
    while min(frames.shape[1] // TINY[0], frames.shape[2] // TINY[1]) >= 2:
        frames = halved(frames)
    return np.stack([cv2.resize(f, TINY[::-1], interpolation=cv2.INTER_AREA) for f in frames])


def halved(frames: np.ndarray) -> np.ndarray:
    """(T,H,W,3) uint8 to (T,H/2,W/2,3): means of 2x2 px."""
    size = (frames.shape[2] // 2, frames.shape[1] // 2)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def shot_ranges(small: np.ndarray) -> list[tuple[int, int]]:
    """Half-open frame ranges of the shots of `small` (T,72,128,3): cut at hard cuts, without the frames of fades.

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
    """Indices of the first frames after hard cuts.

    scenedetect's AdaptiveDetector finds those that stand out, and a smaller step makes a suspect when motion is fast.
    Flow across the step has the last word: two pictures of one scene match, those of two scenes do not.
    """
    change = np.array([cv2.norm(a, b, cv2.NORM_L1) for a, b in zip(small[:-1], small[1:])]) / small[0].size
    sure = set(_adaptive_cuts(small))
    return [step + 1 for step in range(len(change)) if _is_cut(small, change, step, step + 1 in sure)]


def _is_cut(small: np.ndarray, change: np.ndarray, step: int, sure: bool) -> bool:
    """Is there a cut between the frames `step` and step + 1? Flow is asked only where the change (T-1,) makes a suspect."""
    if not sure and change[step] <= SUSPECT_CHANGE:
        return False
    around = np.delete(change[max(step - 3, 0) : step + 4], min(step, 3))
    if not sure and len(around) and change[step] <= SUSPECT_RATIO * np.median(around):
        return False
    matched = _matched_share(small, step)
    if sure or matched >= CUT_MATCHED:
        return matched < (SAME_MATCHED if sure else CUT_MATCHED)
    return all(matched < 0.6 * _matched_share(small, s) for s in (step - 1, step + 1) if 0 <= s < len(change))


def _adaptive_cuts(small: np.ndarray) -> list[int]:
    detector = AdaptiveDetector(adaptive_threshold=CUT_RATIO, min_scene_len=3, min_content_val=CUT_CONTENT)
    padded = halved(np.concatenate([small, small[-1:], small[-1:]]))  # the detector looks two frames ahead
    found = [cut for i, f in enumerate(padded) for cut in detector.process_frame(FrameTimecode(i, 25.0), f[..., ::-1])]
    return [cut.frame_num for cut in found if 0 < cut.frame_num < len(small)]


def _matched_share(small: np.ndarray, index: int) -> float:
    """Share of the picture that flow from frame `index` to the next matches there and back."""
    a, b = flow.grey(small[index : index + 2])
    return float(flow.consistent(flow.dis_flow(a, b), flow.dis_flow(b, a)).mean())


def blends(small: np.ndarray) -> np.ndarray:
    """(T,) bool: the frame is a mixture of two shots, or lies in a fade through black.

    A window S..E is a dissolve when its inner frames are close to S + a (E - S) with a growing evenly, while S and E
    are unlike each other, and flow does not lead from frame to frame: a pan over soft structure looks like a mixture.
    """
    coarse = halved(_without_bars(small)).astype(np.float32)
    luma = (coarse @ np.full(3, 1 / 3, np.float32)).reshape(len(small), -1)
    mixed = dips(luma.mean(1), luma.std(1))
    products = near_products((coarse - coarse.mean(axis=(1, 2), keepdims=True)).reshape(len(small), -1))
    for length in BLEND_LENGTHS:
        for start in np.flatnonzero(_blend_windows(products, length)):
            window = slice(start, start + length + 1)
            if not mixed[start + 1 : start + length].all() and not _moves(small[window]):
                mixed[start + 1 : start + length] = True
    return mixed


def _without_bars(small: np.ndarray) -> np.ndarray:
    """Black bars make any two pictures alike: cut them off, and stretch the rest to the same size."""
    x0, y0, x1, y1 = content_box(small)
    return small if (x1 - x0, y1 - y0) == TINY[::-1] else tiny(small[:, y0:y1, x0:x1])


def dips(level: np.ndarray, contrast: np.ndarray, reach: int = 24) -> np.ndarray:
    """(T,) bool: brightness and contrast sink together and come back: a fade through black, however dark it gets.

    Black frames at the beginning and the end count too. A film that is dark throughout is no fade.
    """
    gain = np.minimum(level / max(np.median(level), 1e-3), contrast / max(np.median(contrast), 1e-3))
    black = (level < BLACK_LEVEL) & (contrast < BLACK_CONTRAST)
    mixed = black.copy() if black.mean() < 0.5 else np.zeros(len(level), bool)
    for low in np.flatnonzero((gain[1:-1] <= gain[:-2]) & (gain[1:-1] <= gain[2:])) + 1:
        left, right = low, low
        while left > 0 and low - left < reach and gain[left - 1] > gain[left] * DIP_SLOPE:
            left -= 1
        while right < len(gain) - 1 and right - low < reach and gain[right + 1] > gain[right] * DIP_SLOPE:
            right += 1
        if all(signal[low] < DIP_DEPTH * min(signal[left], signal[right]) for signal in (level, contrast)):
            mixed[left + 1 : right] = True
    return mixed


def near_products(images: np.ndarray, reach: int = max(BLEND_LENGTHS)) -> np.ndarray:
    """Mean products of images (T,N) with those up to `reach` later, (T,reach+1): all that the test for a mixture needs."""
    products = np.zeros((len(images), reach + 1))
    for start in range(0, len(images), reach):
        block = images[start : start + reach] @ images[start : start + 2 * reach].T / images.shape[1]
        for row, values in enumerate(block):
            values = values[row : row + reach + 1]
            products[start + row, : len(values)] = values
    return products


def _blend_windows(products: np.ndarray, length: int) -> np.ndarray:
    """(T-length,) bool: the frames within start..start+length are a mixture of the two ends, which are unlike each other.

    products: of images with a mean of zero per channel, from `near_products`.
    """
    count = max(0, len(products) - length)
    inner = np.arange(1, length)
    start = np.arange(count)[:, None]
    first, last, both = products[:count, 0], products[length:, 0], products[:count, length]
    energy = first + last - 2 * both  # |last - first|^2
    with np.errstate(divide="ignore", invalid="ignore"):
        to_first, to_last = products[start, inner], products[start + inner, length - inner]
        share = (to_last - to_first + (first - both)[:, None]) / energy[:, None]  # (inner - first).(last - first)
        away = products[start + inner, 0] - 2 * to_first + first[:, None]  # |inner - first|^2
        residual = np.sqrt(np.maximum(away / energy[:, None] - share**2, 0.0))
        alike = both / np.sqrt(first * last)
    return (
        (energy > BLEND_CHANGE**2 * (first + last))
        & (energy > LEAST_CHANGE**2)
        & (np.abs(share - inner / length).max(1) < BLEND_BEND)
        & (residual.max(1) < BLEND_RESIDUAL)
        & ~(alike >= 0.5)  # a change of exposure scales one picture; a change of scene replaces it
    )


def _moves(window: np.ndarray) -> bool:
    """Flow leads from frame to frame: the median share of the change, but for exposure, that it leaves is small."""
    left = []
    images = flow.grey(window)
    for before, after in zip(images[:-1], images[1:]):
        warped = flow.sample(before, flow.dis_flow(after, before))
        left.append(_exposure_rest(warped, after) / max(_exposure_rest(before, after), 1e-6))
    return bool(np.median(left) < MOVED_LEFT**2)


def _exposure_rest(image: np.ndarray, target: np.ndarray) -> float:
    """Mean squared difference to the target after the best gain and offset."""
    image, target = image.ravel().astype(np.float64), target.ravel().astype(np.float64)
    centred = image - image.mean()
    gain = centred @ (target - target.mean()) / max(float(centred @ centred), 1e-9)
    return float(((gain * centred + target.mean() - target) ** 2).mean())


def still_share(small: np.ndarray) -> float:
    """Share of the pixels that do not change, but for noise and compression, over the whole of `small`: some forty of its
    frames tell."""
    spread = small[:: max(1, len(small) // 32)].astype(np.float32).std(0).max(-1)
    return float((spread < STILL_SPREAD).mean())


def _join_stills(small: np.ndarray, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    was_still = False
    for start, end in ranges:
        still = still_share(small[start:end]) > 0.8
        if still and was_still and start - joined[-1][1] <= 12:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
        was_still = still
    return joined
