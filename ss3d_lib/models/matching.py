"""Matches between two frames, inside the forward pass: learnt coarse matching, then Lucas-Kanade.

A small encoder describes each frame at stride 8; a softmax over all positions of the other frame gives a
coarse flow with no limit on its length. Parameter-free Lucas-Kanade and variational steps on an image
pyramid (Lucas & Kanade 1981; Brox et al. 2004) then bring it to a fraction of a pixel, on which the focal
length hangs (notebook 03). A small head predicts, in pixels, how far each match may be trusted.
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
SMOOTHNESS = 1.0  # of the flow against the brightness; chosen on validation from 0.05, 0.2, 1 and 5
CONTRAST_WINDOW, CONTRAST_FLOOR = 15, 0.02  # pixels and grey values
BRIGHTNESS = 0.3  # change of local contrast beyond which a pixel is taken for occluded
FLOW_EDGE_PX = 0.1  # step of the flow beyond which it is an edge
NOISE = 0.15  # intensity noise, in standard deviations of the local contrast, that damps flat windows
FLAT = 0.03  # texture at which half of a match is believed; chosen on validation from 0.01, 0.03 and 0.15


@dataclass(frozen=True)
class Matches:
    """Flow of a batch of frame pairs: pixel x of the first frame is at x + flow in the second."""

    flow: Float[Tensor, "P H W 2"]  # pixels of the frames
    sigma_px: Float[Tensor, "P H W"]  # predicted standard error of the match
    valid: Float[Tensor, "P H W"]  # in [0, 1]: forward and backward flow agree on the frame, and there is texture


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


def local_moments(grey: Float[Tensor, "B 1 H W"], window: int) -> tuple[Float[Tensor, "B 1 H W"], Float[Tensor, "B 1 H W"]]:
    """Mean and standard deviation of the window around each pixel."""
    mean = box(grey, window)
    return mean, (box(grey * grey, window) - mean * mean).clamp(min=0).sqrt()


def local_contrast(grey: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Grey values less their local mean, over their local deviation (and a floor): blind to exposure drift."""
    mean, deviation = local_moments(grey, CONTRAST_WINDOW)
    return (grey - mean) / (deviation + CONTRAST_FLOOR)


def gradients(x: Float[Tensor, "B 1 H W"]) -> tuple[Tensor, Tensor]:
    """Central differences along x and y."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2


def weaker_eigenvalue(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
    """The smaller eigenvalue of structure tensors (Shi & Tomasi 1994); rounding leaves stripes below zero."""
    return ((xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2).sqrt()).clamp(min=0)


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
    texture = weaker_eigenvalue(xx, xy, yy)
    damping = 0.01 * (xx + yy) + NOISE**2
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


def neighbours(x: Float[Tensor, "P C H W"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, right, upper and lower neighbour of every pixel; the border repeats."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return padded[..., 1:-1, :-2], padded[..., 1:-1, 2:], padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]


def solve_symmetric(a: Tensor, b: Tensor, c: Tensor, x: Tensor, y: Tensor) -> Float[Tensor, "P 2 H W"]:
    """Solution of [[a, b], [b, c]] u = (x, y) at every pixel; all are (P, 1, H, W)."""
    return torch.cat([c * x - b * y, a * y - b * x], dim=1) / (a * c - b * b)


def variational(
    first: Float[Tensor, "P 1 H W"],
    second: Float[Tensor, "P 1 H W"],
    flow: Float[Tensor, "P H W 2"],
    warps: int,
    sweeps: int,
) -> Float[Tensor, "P H W 2"]:
    """Robust global smoothing that keeps the brightness constant (Brox et al. 2004, solved by Jacobi sweeps).

    It halves what Lucas-Kanade leaves of the error: noise averages over a region, edges of the flow stay.
    """
    grid = pixel_grid(*first.shape[-2:], first.device)
    own = torch.cat(gradients(first), dim=1)
    warped_source = torch.cat([second, *gradients(second)], dim=1)
    u = flow.permute(0, 3, 1, 2)
    for _ in range(warps):
        there = sample(warped_source, grid + u.permute(0, 2, 3, 1))
        change = there[:, :1] - first
        gx, gy = ((own + there[:, 1:]) / 2).split(1, dim=1)
        fits = 1 / (1 + (change / BRIGHTNESS) ** 2)
        products = torch.cat([gx * gx, gx * gy, gy * gy, gx * change, gy * change], dim=1) * fits
        xx, xy, yy, xt, yt = box(products, 3).split(1, dim=1)
        start = u
        for sweep in range(sweeps):
            if sweep % 5 == 0:  # edges of the flow move slowly
                ties = [1 / (1 + ((n - u) ** 2).sum(1, keepdim=True) / FLOW_EDGE_PX**2).sqrt() for n in neighbours(u)]
                total = sum(ties)
                ties = [tie / total for tie in ties]
                a, c = xx + SMOOTHNESS * total, yy + SMOOTHNESS * total
                by_x, by_y, offset = (solve_symmetric(a, xy, c, *side) for side in ((xx, xy), (xy, yy), (xt, yt)))
            left, right, up, down = neighbours(u)
            mean = (ties[0] * left).addcmul(ties[1], right).addcmul(ties[2], up).addcmul(ties[3], down)
            dx, dy = (mean - start).split(1, dim=1)
            u = (mean - offset).addcmul(by_x, dx, value=-1).addcmul(by_y, dy, value=-1)
    return u.permute(0, 2, 3, 1)


def resize_flow(flow: Float[Tensor, "P h w 2"], height: int, width: int) -> Float[Tensor, "P H W 2"]:
    """A flow at another resolution, its vectors scaled to match."""
    scale = flow.new_tensor([width / flow.shape[2], height / flow.shape[1]])
    resized = F.interpolate(flow.permute(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1) * scale


def patch_descriptors(quarter: Float[Tensor, "B 1 h w"], size: int = 7) -> Float[Tensor, "B C a b"]:
    """Unit-length patches of a quarter-resolution frame at stride 8 of the frame: their product is the ZNCC."""
    height, width = quarter.shape[-2:]
    patches = F.unfold(quarter, size, padding=size // 2, stride=2)
    patches = F.normalize(patches - patches.mean(1, keepdim=True), dim=1)
    return patches.view(len(quarter), size * size, (height + 1) // 2, (width + 1) // 2)


def correlate(
    first: Float[Tensor, "P C h w"], second: Float[Tensor, "P C h w"], reach: Tensor
) -> Float[Tensor, "P N N"]:
    """Log probability that each position of the first map matches each of the second; near ones are likelier.

    Args:
        reach: length in feature pixels over which the preference for small motions fades.
    """
    grid = pixel_grid(*first.shape[-2:], first.device).reshape(-1, 2)
    scores = first.flatten(2).transpose(1, 2) @ second.flatten(2)
    return (scores - (torch.cdist(grid, grid) / reach).square()).log_softmax(-1)


def coarse_flow(log_probability: Float[Tensor, "P N N"], height: int, width: int) -> Float[Tensor, "P h w 2"]:
    """Flow to the likeliest position, refined over its 3x3 neighbours, outliers taken out by a 3x3 median.

    In feature pixels. A plain soft-argmax would average rival places into one where nothing is.
    """
    grid = pixel_grid(height, width, log_probability.device).reshape(-1, 2)
    best = grid[log_probability.argmax(-1)]
    near = (torch.cdist(best, grid, p=float("inf")) < 1.5) * log_probability.exp()
    end = near @ grid / near.sum(-1, keepdim=True).clamp(min=1e-9)
    flow = (end - grid).view(-1, height, width, 2).permute(0, 3, 1, 2)
    around = F.unfold(F.pad(flow, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None], 3)
    return around.median(1).values.view(-1, 2, height, width).permute(0, 2, 3, 1)


def chain(first: Float[Tensor, "P H W 2"], second: Float[Tensor, "P H W 2"]) -> Float[Tensor, "P H W 2"]:
    """Flow a -> c from a -> b and b -> c, all at full resolution."""
    grid = pixel_grid(*first.shape[1:3], first.device)
    return first + sample(second.permute(0, 3, 1, 2), grid + first).permute(0, 2, 3, 1)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def returns(gap_px: Float[Tensor, "*B"], moved_px: Float[Tensor, "*B"]) -> Tensor:
    """Whether a flow and its reverse cancel, but for what long ways and sub-pixel errors leave (bool, shape *B)."""
    return gap_px < 0.7 + 0.05 * moved_px


class Matcher(nn.Module):
    """Flow with its standard error between pairs of frames."""

    # reduction of the frame, Lucas-Kanade iterations, warps and sweeps of the variational refinement
    LEVELS = ((16, 4, 1, 10), (8, 6, 1, 15), (4, 4, 2, 15), (2, 3, 2, 15), (1, 2, 2, 15))

    def __init__(self, channels: int = 64):
        super().__init__()
        self.encoder = nn.Sequential(
            block(1, 32, 2),
            block(32, 48, 2),
            block(48, channels, 2),
            block(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.log_gain = nn.Parameter(torch.tensor([3.0, 0.0]))  # of the patches' and of the learnt similarity
        self.log_reach = nn.Parameter(torch.tensor(2.0))
        self.trust = nn.Sequential(block(5, 24, 2), block(24, 24), nn.Conv2d(24, 1, 3, padding=1))

    def describe(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, list[Tensor]]:
        """Descriptors at stride 8 (fixed patches beside learnt features) and the contrast pyramid of every frame."""
        grey = frames.mean(1, keepdim=True)
        pyramid = []
        for reduction, *_ in self.LEVELS:
            level = F.avg_pool2d(grey, reduction) if reduction > 1 else box(grey, 3)
            pyramid.append(local_contrast(level))
        gain = (self.log_gain.clamp(max=4.0) / 2).exp()
        learnt = F.normalize(self.encoder(pyramid[-1]).float(), dim=1)
        return torch.cat([patch_descriptors(pyramid[-3]) * gain[0], learnt * gain[1]], dim=1), pyramid

    def likelihood(self, features: Tensor, first: Tensor, second: Tensor) -> Float[Tensor, "P N N"]:
        """Log probability of every coarse match between the frames of each pair."""
        return correlate(features[first], features[second], self.log_reach.exp())

    def refine(
        self, pyramid: list[Tensor], flow: Tensor, first: Tensor, second: Tensor, levels: int = 5
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Lucas-Kanade over the last so many pyramid levels; also texture and residual at the finest."""
        for level, (_, iterations, warps, sweeps) in list(zip(pyramid, self.LEVELS))[-levels:]:
            flow = resize_flow(flow, *level.shape[-2:])
            flow, texture, residual = lucas_kanade(level[first], level[second], flow, iterations)
            flow = variational(level[first], level[second], flow, warps, sweeps)
        return flow, texture, residual

    def match(self, features, pyramid, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flow first -> second of frame pairs, from scratch: coarse, then refined."""
        height, width = features.shape[-2:]
        coarse = coarse_flow(self.likelihood(features, first, second), height, width)
        return self.refine(pyramid, coarse, first, second)

    def forward(self, frames: Float[Tensor, "B N 3 H W"], gaps: tuple[int, ...]) -> Matches:
        """Matches of all frame pairs at the given gaps, of which each but the first is twice the one before.

        Neighbours are matched from scratch; longer gaps start from two chained shorter ones. Pairs come in
        the order of PairGraph, clip by clip: all forward ones, then their reverses.
        """
        clips, count = frames.shape[:2]
        features, pyramid = self.describe(frames.flatten(0, 1))
        base = torch.arange(clips)[:, None] * count
        parts, before = [], None
        for gap in gaps:
            if gap >= count:
                break
            start = (base + torch.arange(count - gap)).reshape(-1)
            first, second = torch.cat([start, start + gap]), torch.cat([start + gap, start])
            if before is None:
                found = self.match(features, pyramid, first, second)
            else:
                found = self.refine(pyramid, self.chained(before, clips, gap // 2), first, second, levels=3)
            before = found[0]
            parts.append([value.unflatten(0, (2, clips, -1)) for value in found])
        return self.assess(*(torch.cat(values, dim=2).flatten(0, 2) for values in zip(*parts)))

    def chained(self, flow: Float[Tensor, "P H W 2"], clips: int, gap: int) -> Float[Tensor, "Q H W 2"]:
        """Flows over twice the gap from two flows over it, forward and backward."""
        forward, backward = flow.unflatten(0, (2, clips, -1)).unbind(0)
        there = chain(forward[:, :-gap].flatten(0, 1), forward[:, gap:].flatten(0, 1))
        back = chain(backward[:, gap:].flatten(0, 1), backward[:, :-gap].flatten(0, 1))
        return torch.cat([there, back])

    def assess(self, flow, texture, residual) -> Matches:
        """Forward-backward check and the predicted standard error of every match."""
        half = len(flow) // 2
        grid = pixel_grid(*flow.shape[1:3], flow.device)
        reverse = torch.cat([flow[half:], flow[:half]])
        back = sample(reverse.permute(0, 3, 1, 2), grid + flow).permute(0, 2, 3, 1)
        gap, moved_px = length(flow + back), length(flow)
        valid = inside(grid + flow, *flow.shape[1:3]) & returns(gap, moved_px)
        cues = torch.stack(
            [gap.clamp(max=8), moved_px / 16, (texture[:, 0] + 1e-4).log(), residual[:, 0], box(residual)[:, 0]], dim=1
        )
        cues = cues.detach().contiguous(memory_format=torch.channels_last)  # twice as fast
        log_sigma = F.interpolate(self.trust(cues), flow.shape[1:3], mode="bilinear", align_corners=False)
        seen = (texture / (texture + FLAT))[:, 0]  # a flat window matches anything
        return Matches(flow, (log_sigma[:, 0].float().clamp(-4, 4)).exp(), valid * seen)
