"""Clips as a worse camera would have filmed them, in grades: too dark, too bright, out of focus, too fast (notebook 17)."""

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import UInt8

from ss3d_lib.datasets import EvalClip

INTACT = {"gain": 1.0, "gamma": 1.0, "blur_px": 0.0, "skip": 1}
"""The level of each degradation that changes nothing."""


def degrade(clip: EvalClip, kind: str, level: float) -> EvalClip:
    """A clip as a worse camera would have filmed it: kind of INTACT, and its level.

    gain: exposure, clipped to 8 bits. gamma: above 1 is darker. blur_px: standard deviation of a Gaussian. skip: every so
    many frames only, a camera so many times as fast.
    """
    if level == INTACT[kind]:
        return clip
    if kind == "skip":
        return clip.strided(int(level))
    return replace(clip, frames=DEGRADED[kind](clip.frames, level))


def through_curve(frames: UInt8[np.ndarray, "T H W 3"], curve: np.ndarray) -> UInt8[np.ndarray, "T H W 3"]:
    """Every value v in [0, 1] becomes curve(v), given at all 256 values; what is above 1 is white."""
    return np.round(255 * curve.clip(0, 1)).astype(np.uint8)[frames]


VALUES = np.arange(256) / 255
DEGRADED = {
    "gain": lambda frames, level: through_curve(frames, level * VALUES),
    "gamma": lambda frames, level: through_curve(frames, VALUES**level),
    "blur_px": lambda frames, level: np.stack([cv2.GaussianBlur(frame, (0, 0), level) for frame in frames]),
}
