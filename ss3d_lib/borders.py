"""What of a picture is not the scene: black bars, and logos and captions drawn over it.

All functions take the frames of one shot, T of (H,W,3) uint8 RGB, and look at SAMPLES of them. Boxes are (x0, y0, x1, y1), half-open, in px of the
frames given. Introduced in notebook 01.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SAMPLES = 16  # frames spread over a shot: a logo or a bar stays in all of them


def picture_box(frames: Sequence[np.ndarray]) -> tuple[int, int, int, int]:
    """The part of the picture (x0, y0, x1, y1) without black bars, and without logos and captions near its edge."""
    frames = _spread(frames)
    x0, y0, x1, y1 = content_box(frames)
    left, top, right, bottom = crop_overlays(overlay_mask(frames[:, y0:y1, x0:x1]))
    return x0 + left, y0 + top, x0 + right, y0 + bottom


def _spread(frames: Sequence[np.ndarray]) -> np.ndarray:
    """At most SAMPLES of the frames, from the first to the last: (n,H,W,3)."""
    return np.stack([frames[k] for k in np.linspace(0, len(frames) - 1, min(len(frames), SAMPLES)).astype(int)])


def content_box(frames: Sequence[np.ndarray]) -> tuple[int, int, int, int]:
    """The picture without its black bars: (x0, y0, x1, y1) half-open, in px of the frames.

    A border line belongs to a bar when nearly all of it is black in all frames. A picture that is dark as a whole,
    or bars that would leave less than a fifth of it, are left alone.
    """
    brightest = np.maximum.reduce(cv2.split(_spread(frames).max(axis=0)))
    height, width = brightest.shape
    y0, y1 = _bright_span(np.quantile(brightest, 0.9, axis=1))
    x0, x1 = _bright_span(np.quantile(brightest[y0:y1], 0.9, axis=0))
    if (x1 - x0) * (y1 - y0) < 0.2 * height * width or min(x1 - x0, y1 - y0) < 16:
        return 0, 0, width, height
    # bars come in pairs of equal width (a dark object at one side is none), with an edge blurred by compression
    column, row = min(x0, width - x1), min(y0, height - y1)
    column, row = column + 2 * (column > 0), row + 2 * (row > 0)
    return column, row, width - column, height - row


def _bright_span(levels: np.ndarray, black: float = 24.0) -> tuple[int, int]:
    bright = np.flatnonzero(levels > black)
    if len(bright) == 0:
        return 0, len(levels)
    start, end = int(bright[0]), int(bright[-1]) + 1
    # a bar is at least 2 % of the side; less is vignetting or noise
    return (start if start >= 0.02 * len(levels) else 0), (end if end <= 0.98 * len(levels) else len(levels))


def overlay_mask(frames: Sequence[np.ndarray]) -> np.ndarray:
    """(H,W) bool: drawn over the picture (logo, caption): structure that stays while the rest of the picture moves.

    All False where the shot does not move enough to tell.
    """
    mean, spread = _mean_and_spread(_spread(frames))
    mean = cv2.GaussianBlur(mean, (3, 3), 0)
    slope = np.hypot(cv2.Sobel(mean, cv2.CV_64F, 1, 0), cv2.Sobel(mean, cv2.CV_64F, 0, 1)) / 8
    height, width = spread.shape
    if np.median(spread) < 6:
        return np.zeros((height, width), bool)
    edges = slope > 6.0
    fixed = (edges & (spread < 3.0)).astype(np.uint8)
    if fixed.sum() > 0.3 * edges.sum():  # a fixed camera: everything stays
        return np.zeros((height, width), bool)
    near = max(3, round(0.03 * min(height, width))) | 1
    closed = cv2.morphologyEx(fixed, cv2.MORPH_CLOSE, np.ones((near, near), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed)
    large = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] > 0.001 * height * width]
    return np.isin(labels, large)


def _mean_and_spread(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over time of the luma of frames (n,H,W,3): (H,W) each."""
    total, squares = np.zeros(frames.shape[1:3]), np.zeros(frames.shape[1:3])
    for frame in frames:
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        cv2.accumulate(luma, total)
        cv2.accumulateSquare(luma, squares)
    mean = total / len(frames)
    return mean, np.sqrt(np.maximum(squares / len(frames) - mean**2, 0))


def crop_overlays(mask: np.ndarray, keep: float = 0.75) -> tuple[int, int, int, int]:
    """The box that is left when overlays are cut off, as far as `keep` of the area stays.

    What is cut at one side is cut at the other too: the optical axis stays in the centre, where all models look for it.
    Overlays that would cost more stay; few pixels that stand still are outliers to a robust estimate.
    """
    height, width = mask.shape
    box = [0, 0, width, height]
    area = lambda b: (b[2] - b[0]) * (b[3] - b[1])  # noqa: E731
    while _inside(mask, box):
        options = [o for o in _cuts_of(mask, box) if area(o) >= keep * height * width]
        if not options:
            break
        gains = [(_inside(mask, box) - _inside(mask, o)) / (area(box) - area(o)) for o in options]
        box = options[int(np.argmax(gains))]
    return tuple(box)


def _inside(mask: np.ndarray, box: list[int]) -> int:
    return int(mask[box[1] : box[3], box[0] : box[2]].sum())


def _cuts_of(mask: np.ndarray, box: list[int]) -> list[list[int]]:
    """Boxes that leave one overlay out: from both sides by what its nearer side needs, for rows and for columns."""
    x0, y0, x1, y1 = box
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask[y0:y1, x0:x1].astype(np.uint8))
    options = []
    for left, top, wide, high, _ in stats[1:].tolist():
        column = min(left + wide, x1 - x0 - left)
        row = min(top + high, y1 - y0 - top)
        options += [[x0 + column, y0, x1 - column, y1], [x0, y0 + row, x1, y1 - row]]
    return options
