"""What matches and cameras say about depth, as maps a network can read.

Every pixel of a frame is matched with up to six other frames. Its inverse depth is the one that brings all
its matches onto their places, in the least-squares sense, with robust weights: a match that the cameras
cannot explain (a mover, an occlusion, a mistake) loses its say. All maps lie at half the resolution of the
frames; pixel (i, j) of a map is at (2 j + 0.5, 2 i + 0.5) of the frame.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import pixel_grid
from ss3d_lib.twoview import cross, cross_matrix, to_rays, weighted_median

FAR_PX = 0.5  # parallax that cannot be told from none: such points are put as far as it reaches, and no farther
BEHIND_PX = 2.0  # parallax the wrong way round beyond which a match is a mistake
SIGMA_PX = (4.0, 2.0, 1.0, 1.0)  # scale of the robust reprojection error, round by round
PARALLAX_PX = 2.0  # total parallax, at the middle depth of the frame or nearer, at which half is believed
MIN_Z = 0.05  # points nearer than this share of their depth are behind the other camera
LOG_RANGE = (-1.6, 3.0)  # log inverse depths are kept within 5x farther and 20x nearer than their frame's median


@dataclass(frozen=True)
class DepthEvidence:
    """Log inverse depth per pixel of one frame and its weight in [0, 1] (0 = nothing known)."""

    log_inverse_depth: Float[Tensor, "B h w"]
    weight: Float[Tensor, "B h w"]
    moving: Float[Tensor, "B h w"]  # share of the matches that the cameras cannot explain, in [0, 1]
    guess: Float[Tensor, "B h w"]  # log inverse depth of every pixel, where the above has gaps
    parallax: Float[Tensor, "B h w"]  # in [0, 1]: whether there was parallax to guess by

    @staticmethod
    def measured(log_inverse_depth: Tensor, weight: Tensor, moving: Tensor) -> "DepthEvidence":
        """Evidence without a guess for its gaps."""
        return DepthEvidence(log_inverse_depth, weight, moving, *(torch.zeros_like(weight) for _ in range(2)))

    def masked(self, mask: Float[Tensor, "B h w"]) -> "DepthEvidence":
        """The same where the mask is 1, nothing where it is 0."""
        return replace(self, weight=self.weight * mask, moving=self.moving * mask, parallax=self.parallax * mask)


@dataclass(frozen=True)
class Correspondences:
    """Where each pixel of B frames is seen in S others, and how the cameras moved in between."""

    flow: Float[Tensor, "B S h w 2"]  # half-resolution maps, in pixels of the frames
    weight: Float[Tensor, "B S h w"]  # reliability in [0, 1]; 0 where there is no such frame
    rotation: Float[Tensor, "B S 3 3"]  # other_from_frame
    translation: Float[Tensor, "B S 3"]  # in one scale per frame
    focal_px: Float[Tensor, "B"]

    def masked(self, mask: Float[Tensor, "B S h w"]) -> "Correspondences":
        """The same with reliabilities multiplied by a mask."""
        return Correspondences(self.flow, self.weight * mask, self.rotation, self.translation, self.focal_px)


def half_grid(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "h w 2"]:
    """Frame coordinates, in pixels, of the pixels of a half-resolution map of that size."""
    return pixel_grid(height, width, device) * 2 + 0.5


def triangulate(seen: Correspondences) -> DepthEvidence:
    """Depth evidence of each frame, in the scale of its translations.

    With a = R x, b = x' and v = t x b, the point a + rho t is on the ray b where u + rho v = 0 with u = a x b;
    |u + rho v| f / z is the reprojection error in pixels (to first order), |v| f / z the parallax that one unit
    of inverse depth makes. A point without parallax, where the middle of the frame has much, is known to be far.
    """
    frames, others, height, width = seen.weight.shape
    centre = seen.flow.new_tensor([width - 0.5, height - 0.5])  # centre of the full-resolution frame
    p = (half_grid(height, width, seen.flow.device) - centre).reshape(1, 1, -1, 2)
    q = (p + seen.flow.flatten(2, 3)).flatten(0, 1)
    focal = seen.focal_px.repeat_interleave(others)
    a = seen.rotation.flatten(0, 1) @ to_rays(p[0].expand(len(q), -1, -1), focal)
    b, t = to_rays(q, focal), seen.translation.flatten(0, 1)
    u, v = cross(a, b), cross_matrix(t) @ b
    shape = lambda x: x.view(frames, others, -1)  # noqa: E731
    uu, uv, vv, near = (shape(x) for x in ((u * u).sum(1), (u * v).sum(1), (v * v).sum(1), a[:, 2]))
    ahead, focal = shape(t[:, 2:]), seen.focal_px[:, None, None]
    weight = seen.weight.flatten(2)
    share = weight  # of each match, in units of squared rays
    for sigma in SIGMA_PX:
        rho = -(share * uv).sum(1) / (share * vv).sum(1).clamp(min=1e-12)
        at = rho[:, None]
        to_px = (focal / (near + at * ahead).clamp(min=MIN_Z)).square()
        error = ((uu + at * (2 * uv + at * vv)) * to_px).clamp(min=0)
        fits = (1 + error / sigma**2) ** -2
        share = weight * fits * to_px
    per_rho = (share * vv).sum(1).sqrt().clamp(min=1e-9)  # parallax in pixels of one unit of inverse depth
    parallax_px = per_rho * rho
    middle = weighted_median(rho, parallax_px.clamp(min=0, max=8) + 1e-9)[:, None]
    reach_px = torch.maximum(parallax_px, per_rho * middle)
    known = (parallax_px > -BEHIND_PX) / (1 + (PARALLAX_PX / reach_px.clamp(min=1e-3)) ** 4)
    moving = (weight * (1 - fits)).sum(1) / (seen.weight > 0).any(-1).any(-1).sum(1).clamp(min=1)[:, None]
    maps = (torch.maximum(rho, FAR_PX / per_rho).log(), known, moving)
    return DepthEvidence.measured(*(x.view(frames, height, width) for x in maps))


def centred(evidence: DepthEvidence) -> DepthEvidence:
    """The same with weighted median zero in each frame, and outliers pulled in."""
    middle = middle_log(evidence)[:, None, None]
    known = (evidence.weight > 1e-3).to(middle)
    logs, guess = ((x - middle).clamp(*LOG_RANGE) for x in (evidence.log_inverse_depth, evidence.guess))
    return replace(evidence, log_inverse_depth=logs * known, guess=guess)


def middle_log(evidence: DepthEvidence) -> Float[Tensor, "B"]:
    """Weighted median of the log inverse depths of each frame."""
    return weighted_median(evidence.log_inverse_depth.flatten(1), evidence.weight.flatten(1) + 1e-9)


def as_channels(evidence: DepthEvidence) -> Float[Tensor, "B 5 h w"]:
    """The maps as input channels: log inverse depths are multiplied by their weights."""
    known, guessed = evidence.log_inverse_depth * evidence.weight, evidence.guess * evidence.parallax
    return torch.stack([known, evidence.weight, evidence.moving, guessed, evidence.parallax], dim=1)


def halve(x: Float[Tensor, "P H W *C"]) -> Float[Tensor, "P h w *C"]:
    """Area average of a full-resolution map to half resolution."""
    if x.dim() == 3:
        return F.avg_pool2d(x[:, None], 2)[:, 0]
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
