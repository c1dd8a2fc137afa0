"""Optical flow without labels: DIS flow and the forward-backward check.

Flow is (H,W,2) float32 in px of the image it was computed on: pixel (x, y) of image a is at (x, y) + flow[y, x] in
image b, pixel centres at integers. Introduced in notebook 02.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

# valid where the forward-backward error is below ABSOLUTE_PX + RELATIVE * |flow| (Sundaram et al. 2010, eq. 5, in px)
ABSOLUTE_PX = 0.7
RELATIVE = 0.05


@lru_cache(maxsize=2)
def _dis(quick: bool) -> cv2.DISOpticalFlow:
    engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    engine.setFinestScale(1)  # half resolution, then the variational refinement
    if quick:
        engine.setPatchStride(4)
        engine.setGradientDescentIterations(16)
        engine.setVariationalRefinementIterations(2)
    return engine


def grey(frames: np.ndarray) -> np.ndarray:
    """RGB (...,H,W,3) uint8 to luma (...,H,W) uint8."""
    flat = frames.reshape(-1, *frames.shape[-3:])
    return np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in flat]).reshape(frames.shape[:-1])


def dis_flow(image_a: np.ndarray, image_b: np.ndarray, quick: bool = False) -> np.ndarray:
    """DIS optical flow (Kroeger et al. 2016) from image a to image b: (H,W,2) float32 px.

    Args:
        image_a, image_b: (H,W) grey or (H,W,3) RGB uint8, of the same size.
        quick: in half of the time, less exact: for measurements over many points, not for training.
    """
    if image_a.shape[:2] != image_b.shape[:2]:
        raise ValueError(f"flow between images of different sizes: {image_a.shape[:2]} and {image_b.shape[:2]}")
    if image_a.ndim == 3:
        image_a, image_b = grey(image_a), grey(image_b)
    return _dis(quick).calc(image_a, image_b, None)


def forward_backward(frames: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Flow k -> k+stride and k+stride -> k for every k of frames (T,H,W[,3]) uint8.

    Returns two arrays (T-stride,H,W,2) float32, in px. Raises ValueError for a stride outside 1..T-1.
    """
    if not 1 <= stride < len(frames):
        raise ValueError(f"stride {stride} does not fit {len(frames)} frames; choose 1 to {len(frames) - 1}")
    images = grey(frames) if frames.ndim == 4 else frames
    pairs = list(zip(images[:-stride], images[stride:], strict=True))
    forward = np.stack([dis_flow(a, b) for a, b in pairs])
    backward = np.stack([dis_flow(b, a) for a, b in pairs])
    return forward, backward


def sample(field: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`field` (H,W[,C]) of image b read at the places to which `flow` (H,W,2) sends the pixels of image a.

    Bilinear; outside the image the border value is repeated (ask `inside` where that is).
    """
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(field, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def read(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`field` (H,W,C) read at points (N,2) px, as `sample` reads it: (N,C)."""
    points = points.astype(np.float32)
    return cv2.remap(field, points[:, :1], points[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]


def inside(flow: np.ndarray) -> np.ndarray:
    """(H,W) bool: the pixel stays in the picture."""
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32)[None, :] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def agree(ahead: np.ndarray, back: np.ndarray) -> np.ndarray:
    """(...) bool: flow (...,2) px there and, read where it leads, back again cancel. Occlusions and mismatches do not."""
    return np.linalg.norm(ahead + back, axis=-1) < ABSOLUTE_PX + RELATIVE * np.linalg.norm(ahead, axis=-1)


def consistent(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """(H,W) bool: matched both ways, and inside the picture."""
    return agree(forward, sample(backward, forward)) & inside(forward)


def half(flow: np.ndarray) -> np.ndarray:
    """Area-averaged to half resolution, values still in full px: (...,H,W,2) -> (...,H/2,W/2,2).

    The value at half-resolution pixel (j, i) belongs to full-resolution coordinates (2j + .5, 2i + .5).
    """
    *lead, height, width, two = flow.shape
    if height % 2 or width % 2:
        raise ValueError(f"half resolution of an odd size {height}x{width}; use the working sizes")
    return flow.reshape(*lead, height // 2, 2, width // 2, 2, two).mean(axis=(-4, -2))


def to_cache(frames: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """What training keeps of the flow k -> k+stride and back of frames (T,H,W,3): (T-stride,H/2,W/2,2) float16 each."""
    forward, backward = (half(flow).astype(np.float16) for flow in forward_backward(frames, stride))
    return forward, backward


def write_cache(file: BinaryIO, stride: int, forward: np.ndarray, backward: np.ndarray) -> None:
    """Write what `to_cache` gives as one npz."""
    np.savez(file, stride=np.array(stride, np.int32), forward=forward, backward=backward)


def read_cache(file: Path | BinaryIO) -> tuple[int, np.ndarray, np.ndarray]:
    """(stride, forward, backward) of what `write_cache` wrote."""
    with np.load(file, allow_pickle=False) as cache:
        return int(cache["stride"]), cache["forward"], cache["backward"]
