"""Matches between two frames, inside the forward pass: learnt coarse matching, then Lucas-Kanade.

A small encoder describes each frame at stride 8; a softmax over all positions of the other frame gives a
coarse flow with no limit on its length. Parameter-free Lucas-Kanade steps on an image pyramid
(Lucas & Kanade 1981; Bouguet 2001) then bring it to a fraction of a pixel, on which the focal length
hangs (notebook 03). A small head predicts, in pixels, how far each match may be trusted.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import inside, pixel_grid, sample
from ss3d_lib.twoview import length

MATCH_STRIDE = 8
WINDOW = 9  # Lucas-Kanade window in pixels of each pyramid level
NOISE = 0.05  # intensity noise, in standard deviations of the local contrast, that damps flat windows


@dataclass(frozen=True)
class Matches:
    """Flow of a batch of frame pairs: pixel x of the first frame is at x + flow in the second."""

    flow: Float[Tensor, "P H W 2"]  # pixels of the frames
    sigma_px: Float[Tensor, "P H W"]  # predicted standard error of the match
    valid: Float[Tensor, "P H W"]  # 1 where forward and backward flow agree and the match is on the frame


def window_sum(x: Tensor, size: int, dim: int) -> Tensor:
    """Sum over `size` neighbours along a dimension; the ends are cut, as if padded with zeros.

    By doubling (1, 2, 4, ... neighbours): twice as fast here as average pooling.
    """
    half = size // 2
    padding = (0, 0, half, half) if dim == -2 else (half, half, 0, 0)
    power, width, total, offset = F.pad(x, padding), 1, None, 0
    length_out = x.shape[dim]
    while width <= size:
        if size & width:
            part = power.narrow(dim, offset, length_out)
            total = part if total is None else total + part
            offset += width
        if 2 * width <= size:
            power = power.narrow(dim, 0, power.shape[dim] - width) + power.narrow(dim, width, power.shape[dim] - width)
        width *= 2
    return total


def box(x: Float[Tensor, "B C H W"], size: int = WINDOW) -> Float[Tensor, "B C H W"]:
    """Mean over a size x size window; windows are cut at the border, not padded."""
    share = window_sum(window_sum(torch.ones_like(x[:1, :1]), size, -2), size, -1)
    return window_sum(window_sum(x, size, -2), size, -1) / share


def local_contrast(grey: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Grey values less their local mean, over their local deviation: blind to exposure drift."""
    mean = box(grey, 15)
    deviation = (box(grey * grey, 15) - mean * mean).clamp(min=0).sqrt()
    return (grey - mean) / (deviation + 0.02)


def gradients(x: Float[Tensor, "B 1 H W"]) -> tuple[Tensor, Tensor]:
    """Central differences along x and y."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2


def lucas_kanade(
    first: Float[Tensor, "P 1 H W"], second: Float[Tensor, "P 1 H W"], flow: Float[Tensor, "P H W 2"], iterations: int
) -> tuple[Float[Tensor, "P H W 2"], Float[Tensor, "P 1 H W"], Float[Tensor, "P 1 H W"]]:
    """Refine a flow by Gauss-Newton on intensities, every pixel with its own window.

    Returns:
        The flow, the smaller eigenvalue of the structure tensor (texture) and the absolute residual.
    """
    grid = pixel_grid(*first.shape[-2:], first.device)
    gx, gy = gradients(first)
    xx, xy, yy = box(torch.cat([gx * gx, gx * gy, gy * gy], dim=1)).split(1, dim=1)
    trace = xx + yy
    texture = trace / 2 - (((xx - yy) / 2) ** 2 + xy**2).sqrt()
    damping = 0.01 * trace + NOISE**2
    determinant = (xx + damping) * (yy + damping) - xy**2
    certainty = texture / (texture + NOISE)
    for _ in range(iterations):
        residual = sample(second, grid + flow) - first
        bx, by = box(torch.cat([gx * residual, gy * residual], dim=1)).split(1, dim=1)
        step = torch.cat([(yy + damping) * bx - xy * by, (xx + damping) * by - xy * bx], dim=1) / determinant
        flow = flow - step.clamp(-1, 1).permute(0, 2, 3, 1)
        flow = smooth_flow(flow, certainty)
    return flow, texture, residual.abs()


def smooth_flow(flow: Float[Tensor, "P H W 2"], certainty: Float[Tensor, "P 1 H W"]) -> Float[Tensor, "P H W 2"]:
    """Normalised convolution: certain matches keep their value, flat areas take their neighbours'."""
    weight = certainty + 1e-3
    total = box(torch.cat([flow.permute(0, 3, 1, 2) * weight, weight], dim=1), 3)
    return (total[:, :2] / total[:, 2:]).permute(0, 2, 3, 1)


def resize_flow(flow: Float[Tensor, "P h w 2"], height: int, width: int) -> Float[Tensor, "P H W 2"]:
    """A flow at another resolution, its vectors scaled to match."""
    scale = flow.new_tensor([width / flow.shape[2], height / flow.shape[1]])
    resized = F.interpolate(flow.permute(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1) * scale


def coarse_flow(first: Float[Tensor, "P C h w"], second: Float[Tensor, "P C h w"]) -> Float[Tensor, "P h w 2"]:
    """Soft-argmax of the feature correlation over all positions of the second frame, in feature pixels."""
    height, width = first.shape[-2:]
    grid = pixel_grid(height, width, first.device).reshape(-1, 2)
    scores = first.flatten(2).transpose(1, 2) @ second.flatten(2)
    return (scores.softmax(-1) @ grid - grid).view(len(first), height, width, 2)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Matcher(nn.Module):
    """Flow with its standard error between pairs of frames."""

    LEVELS = ((4, 4), (2, 4), (1, 3))  # (reduction of the frame, Lucas-Kanade iterations)

    def __init__(self, channels: int = 64):
        super().__init__()
        self.encoder = nn.Sequential(
            block(1, 32, 2),
            block(32, 48, 2),
            block(48, channels, 2),
            block(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.sharpness = nn.Parameter(torch.tensor(2.0))
        self.trust = nn.Sequential(block(5, 24, 2), block(24, 24), nn.Conv2d(24, 1, 3, padding=1))

    def describe(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, list[Tensor]]:
        """Unit-length features at stride 8 and the pyramid of local contrast of every frame."""
        grey = frames.mean(1, keepdim=True)
        contrast = local_contrast(grey)
        features = F.normalize(self.encoder(contrast).float(), dim=1) * self.sharpness.exp().clamp(1, 60).sqrt()
        pyramid = []
        for reduction, _ in self.LEVELS:
            level = F.avg_pool2d(grey, reduction) if reduction > 1 else box(grey, 3)
            pyramid.append(local_contrast(level))
        return features, pyramid

    def match(self, features, pyramid, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flow first -> second of the frame pairs given by two index tensors; also texture and residual."""
        flow = coarse_flow(features[first], features[second])
        for level, (_, iterations) in zip(pyramid, self.LEVELS):
            flow = resize_flow(flow, *level.shape[-2:])
            flow, texture, residual = lucas_kanade(level[first], level[second], flow, iterations)
        return flow, texture, residual

    def forward(self, frames: Float[Tensor, "B 3 H W"], first: Tensor, second: Tensor) -> Matches:
        """Matches of the pairs (first[k], second[k]); pairs come in both directions, k and k + P / 2."""
        features, pyramid = self.describe(frames)
        flow, texture, residual = self.match(features, pyramid, first, second)
        return self.assess(flow, texture, residual)

    def assess(self, flow, texture, residual) -> Matches:
        """Forward-backward check and the predicted standard error of every match."""
        half = len(flow) // 2
        grid = pixel_grid(*flow.shape[1:3], flow.device)
        reverse = torch.cat([flow[half:], flow[:half]])
        back = sample(reverse.permute(0, 3, 1, 2), grid + flow).permute(0, 2, 3, 1)
        gap, moved_px = length(flow + back), length(flow)
        valid = inside(grid + flow, *flow.shape[1:3]) & (gap < 0.7 + 0.05 * moved_px)
        cues = torch.stack(
            [gap.clamp(max=8), moved_px / 16, (texture[:, 0] + 1e-4).log(), residual[:, 0], box(residual)[:, 0]], dim=1
        )
        log_sigma = F.interpolate(self.trust(cues.detach()), flow.shape[1:3], mode="bilinear", align_corners=False)
        return Matches(flow, (log_sigma[:, 0].float().clamp(-4, 4)).exp(), valid.float())
