"""What matches and motion say about depth, as maps a network can read.

Every directed pair of frames (i, j) triangulates an inverse depth at each pixel of frame i, up to the
length of its own translation. The maps of a frame's several neighbours are brought to one scale by their
median and averaged with the precision that their parallax gives them. All maps lie at half the
resolution of the frames; pixel (i, j) of a map is at (2 j + 0.5, 2 i + 0.5) of the frame.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import pixel_grid
from ss3d_lib.twoview import Motion, epipolar_error_px, inverse_depth, parallax_px, to_rays, weighted_median

MIN_INVERSE_DEPTH = 1e-4  # of the baseline's length: farther than 10 000 baselines counts as no measurement
PARALLAX_PX = (0.5, 2.0)  # below the first a depth is noise; above the second its weight grows no more
EPIPOLAR_PX = 1.0  # matches this far off their epipolar line are movers or mismatches
LOG_RANGE = 3.0  # log inverse depths are kept within e^3 = 20x of the median of their frame


@dataclass(frozen=True)
class DepthEvidence:
    """Log inverse depth per pixel of one frame and its weight in [0, 1] (0 = nothing known)."""

    log_inverse_depth: Float[Tensor, "B h w"]
    weight: Float[Tensor, "B h w"]
    moving: Float[Tensor, "B h w"]  # share of the matches that break the epipolar geometry, in [0, 1]


def half_grid(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "h w 2"]:
    """Frame coordinates, in pixels, of the pixels of a half-resolution map of that size."""
    return pixel_grid(height, width, device) * 2 + 0.5


def triangulate(
    flow: Float[Tensor, "P h w 2"], weight: Float[Tensor, "P h w"], motion: Motion, focal_px: Float[Tensor, "P"]
) -> DepthEvidence:
    """Depth evidence of each directed pair, at the first frame, in units of the pair's translation.

    Args:
        flow: half-resolution flow in pixels of the frames, to the second frame.
        weight: reliability of the matches in [0, 1].
    """
    pairs, height, width = flow.shape[:3]
    centre = flow.new_tensor([width - 0.5, height - 0.5])  # centre of the full-resolution frame
    p = (half_grid(height, width, flow.device) - centre).reshape(1, -1, 2).expand(pairs, -1, -1)
    q = p + flow.reshape(pairs, -1, 2)
    rho, _ = inverse_depth(motion, to_rays(p, focal_px), to_rays(q, focal_px))
    error = epipolar_error_px(motion, p, q, focal_px)
    low, high = PARALLAX_PX
    precision = ((parallax_px(motion, p, q, focal_px) - low) / (high - low)).clamp(0, 1)
    agrees = torch.exp(-((error / EPIPOLAR_PX) ** 2))
    matched = weight.reshape(pairs, -1)
    known = matched * agrees * precision * (rho > MIN_INVERSE_DEPTH)
    shape = (pairs, height, width)
    return DepthEvidence(
        rho.clamp(min=MIN_INVERSE_DEPTH).log().reshape(shape),
        known.reshape(shape),
        ((1 - agrees) * matched).reshape(shape),
    )


def fuse(evidence: DepthEvidence, frames: int, pairs_per_frame: int, rounds: int = 2) -> DepthEvidence:
    """One map per frame from the maps of its pairs (frames x pairs_per_frame, flattened).

    The scales are aligned by weighted medians to the pair that knows most, then to the running mean; the
    result has weighted median zero.
    """
    height, width = evidence.weight.shape[-2:]
    logs = evidence.log_inverse_depth.reshape(frames, pairs_per_frame, -1)
    weights = evidence.weight.reshape(frames, pairs_per_frame, -1)
    best = weights.sum(-1).argmax(1)
    rows = torch.arange(frames, device=logs.device)
    mean, total = logs[rows, best], weights[rows, best]
    for _ in range(rounds):
        shared = (weights * total[:, None]).reshape(frames * pairs_per_frame, -1) + 1e-9
        gap = (mean[:, None] - logs).reshape(frames * pairs_per_frame, -1)
        aligned = logs + weighted_median(gap, shared).view(frames, pairs_per_frame, 1)
        total = weights.sum(1)
        mean = (aligned * weights).sum(1) / total.clamp(min=1e-6)
    mean = (mean - weighted_median(mean, total + 1e-9)[:, None]).clamp(-LOG_RANGE, LOG_RANGE)
    confidence = 1 - torch.exp(-total)
    moving = evidence.moving.reshape(frames, pairs_per_frame, -1).mean(1)
    shape = (frames, height, width)
    return DepthEvidence((mean * (confidence > 1e-3)).reshape(shape), confidence.reshape(shape), moving.reshape(shape))


def as_channels(evidence: DepthEvidence) -> Float[Tensor, "B 3 h w"]:
    """The maps as input channels: log inverse depth times its weight, the weight, and what moves."""
    return torch.stack([evidence.log_inverse_depth * evidence.weight, evidence.weight, evidence.moving], dim=1)


def halve(x: Float[Tensor, "P H W *C"]) -> Float[Tensor, "P h w *C"]:
    """Area average of a full-resolution map to half resolution."""
    if x.dim() == 3:
        return F.avg_pool2d(x[:, None], 2)[:, 0]
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
