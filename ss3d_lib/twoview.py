"""Two-view geometry as a differentiable layer: pose and focal length from matches, without any depth.

A match is a pixel p of one image and its position q in another, both relative to the image centre. For a
focal length f the rays are (p / f, 1); a motion (R, t) maps points of the first camera into the second
and is scored by the Sampson distance (Hartley & Zisserman 2004, eq. 11.9), in pixels, through a robust
Geman-McClure weight. The focal length is found by trying log-spaced candidates (introduced in
notebook 03): no depth, no label and no initial guess are needed.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import so3_exp

NUM_FOCALS = 32  # log-spaced candidates; a step is 6.6 %, finer than the estimate itself
FOCAL_RANGE = (0.30, 2.20)  # focal length / longer image side: 118 to 26 degrees field of view
SIGMA_PX = 0.5  # scale of the robust residual: what a good sub-pixel match achieves
START_DIRECTIONS = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.3), (-1.0, 0.0, 0.3), (0.0, 1.0, 0.5))


@dataclass(frozen=True)
class Motion:
    """Relative pose of a batch of pairs: x2 ~ R x1 + t with |t| = 1, and its robust residual in [0, 1]."""

    rotation: Float[Tensor, "P 3 3"]
    direction: Float[Tensor, "P 3"]
    residual: Float[Tensor, "P"]


def focal_candidates(longer_side_px: float, device: torch.device | None = None) -> Float[Tensor, "C"]:
    """Candidate focal lengths in pixels for an image whose longer side is given."""
    low, high = (math.log(bound) for bound in FOCAL_RANGE)
    return torch.linspace(low, high, NUM_FOCALS, device=device).exp() * longer_side_px


def to_rays(pixels: Float[Tensor, "P M 2"], focal_px: Float[Tensor, "P"]) -> Float[Tensor, "P M 3"]:
    """Rays (z = 1) of centred pixels."""
    xy = pixels / focal_px[:, None, None]
    return torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1)


def sampson(
    rotation: Float[Tensor, "P 3 3"], direction: Float[Tensor, "P 3"], x1: Float[Tensor, "P M 3"], x2: Float[Tensor, "P M 3"]
) -> tuple[Float[Tensor, "P M"], Float[Tensor, "P M"], Float[Tensor, "P M 3"]]:
    """Signed epipolar residual x2' E x1, its Sampson denominator, and the rotated rays R x1."""
    rotated = x1 @ rotation.transpose(-1, -2)
    t = direction[:, None].expand_as(rotated)
    line2 = torch.cross(t, rotated, dim=-1)
    line1 = torch.cross(x2, t, dim=-1) @ rotation
    numerator = (x2 * line2).sum(-1)
    denominator = (line2[..., :2].square().sum(-1) + line1[..., :2].square().sum(-1) + 1e-12).sqrt()
    return numerator, denominator, rotated


def epipolar_error_px(motion: Motion, p: Tensor, q: Tensor, focal_px: Tensor) -> Float[Tensor, "P M"]:
    """Sampson distance of every match to the motion, in pixels (signed)."""
    numerator, denominator, _ = sampson(motion.rotation, motion.direction, to_rays(p, focal_px), to_rays(q, focal_px))
    return numerator / denominator * focal_px[:, None]


def damped_solve(normal: Float[Tensor, "P D D"], gradient: Float[Tensor, "P D"], damping: float) -> Float[Tensor, "P D"]:
    """Levenberg step of normal equations; flat or static clips give a zero step, never an exception.

    Normalised by the diagonal and solved in float64, because planes and still images are near-singular.
    """
    normal = torch.nan_to_num(normal.double())
    scale = normal.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).sqrt()
    scaled = normal / scale[..., :, None] / scale[..., None, :]
    scaled = scaled + damping * torch.eye(normal.shape[-1], dtype=normal.dtype, device=normal.device)
    factor, info = torch.linalg.cholesky_ex(scaled)
    step = torch.cholesky_solve((gradient.double() / scale)[..., None], factor)[..., 0] / scale
    step = torch.where((info == 0)[..., None], step, torch.zeros_like(step))
    return torch.nan_to_num(step, 0.0, 0.0, 0.0).to(gradient.dtype)


def cap_norm(step: Float[Tensor, "P D"], limit: float) -> Float[Tensor, "P D"]:
    """The step, shortened to the limit: Gauss-Newton must not leap on badly conditioned pairs."""
    return step * (limit / step.norm(dim=-1, keepdim=True).clamp(min=limit))


def refine_motion(
    start: Motion, p: Float[Tensor, "P M 2"], q: Float[Tensor, "P M 2"], weight: Float[Tensor, "P M"],
    focal_px: Float[Tensor, "P"], iterations: int = 8, sigma_px: float = SIGMA_PX,
) -> Motion:
    """Robust Gauss-Newton over rotation (3) and direction of translation (2) on Sampson residuals.

    The robust scale shrinks from 4 sigma to sigma over the first steps (graduated non-convexity).
    """
    x1, x2 = to_rays(p, focal_px), to_rays(q, focal_px)
    rotation, direction = start.rotation, start.direction
    for step in range(iterations):
        numerator, denominator, rotated = sampson(rotation, direction, x1, x2)
        error_px = numerator / denominator * focal_px[:, None]
        robust = (1 + (error_px / (sigma_px * max(1, 4 - step))) ** 2) ** -2
        w = weight * robust * (focal_px[:, None] / denominator) ** 2
        t = direction[:, None]
        by_rotation = (t * rotated).sum(-1, True) * x2 - (rotated * x2).sum(-1, True) * t
        jacobian = torch.cat([by_rotation, torch.cross(rotated, x2, dim=-1)], dim=-1)
        weighted = (jacobian * w[..., None]).transpose(1, 2)
        normal, gradient = weighted @ jacobian, -(weighted @ numerator[..., None])[..., 0]
        # t is a unit vector: forbid motion along itself by a stiff term
        along = torch.cat([torch.zeros_like(direction), direction], dim=-1)
        stiffness = 10 * normal.diagonal(dim1=1, dim2=2)[:, 3:].mean(1)
        normal = normal + stiffness[:, None, None] * along[:, :, None] * along[:, None]
        delta = cap_norm(damped_solve(normal, gradient, 1e-4), 0.3)
        rotation = so3_exp(delta[:, :3]) @ rotation
        direction = F.normalize(direction + delta[:, 3:], dim=-1)
    return Motion(rotation, direction, robust_residual(rotation, direction, x1, x2, weight, focal_px, sigma_px))


def robust_residual(rotation, direction, x1, x2, weight, focal_px, sigma_px=SIGMA_PX) -> Float[Tensor, "P"]:
    """Weighted mean of the Geman-McClure loss e^2 / (e^2 + sigma^2): 0 is a perfect fit, 1 none at all."""
    numerator, denominator, _ = sampson(rotation, direction, x1, x2)
    square = (numerator / denominator * focal_px[:, None] / sigma_px) ** 2
    return (weight * square / (1 + square)).sum(1) / weight.sum(1).clamp(min=1e-3)


def solve_motion(p, q, weight, focal_px, iterations: int = 8, sigma_px: float = SIGMA_PX) -> Motion:
    """Best motion of each pair from four starting directions, with t in front (positive depths win)."""
    starts = F.normalize(torch.tensor(START_DIRECTIONS, device=p.device), dim=-1)
    pairs, tries = len(p), len(starts)
    many = [value.repeat_interleave(tries, 0) for value in (p, q, weight, focal_px)]
    rotation = torch.eye(3, device=p.device).expand(pairs * tries, 3, 3)
    motion = refine_motion(Motion(rotation, starts.repeat(pairs, 1), rotation[:, 0, 0]), *many, iterations, sigma_px)
    best = motion.residual.view(pairs, tries).argmin(1) + torch.arange(pairs, device=p.device) * tries
    return face_forward(Motion(motion.rotation[best], motion.direction[best], motion.residual[best]), p, q, weight, focal_px)


def inverse_depth(motion: Motion, x1: Float[Tensor, "P M 3"], x2: Float[Tensor, "P M 3"]) -> tuple[Tensor, Tensor]:
    """Linear triangulation of 1 / z in the first camera (unit of |t|), and its information |t x x2|^2."""
    rotated = x1 @ motion.rotation.transpose(-1, -2)
    a = torch.cross(rotated, x2, dim=-1)
    b = torch.cross(motion.direction[:, None].expand_as(x2), x2, dim=-1)
    information = b.square().sum(-1)
    return -(a * b).sum(-1) / information.clamp(min=1e-8), information


def face_forward(motion: Motion, p, q, weight, focal_px) -> Motion:
    """Choose the sign of t for which most of the matched points lie in front of the camera (cheirality)."""
    rho, information = inverse_depth(motion, to_rays(p, focal_px), to_rays(q, focal_px))
    vote = (rho.sign() * weight * information.sqrt()).sum(1)
    sign = torch.where(vote < 0, -1.0, 1.0)[:, None]
    return Motion(motion.rotation, motion.direction * sign, motion.residual)


def parallax_px(motion: Motion, p, q, focal_px) -> Float[Tensor, "P M"]:
    """Length of the flow that is left after the rotation is undone: what depth can be read from."""
    rotated = to_rays(p, focal_px) @ motion.rotation.transpose(-1, -2)
    still = rotated[..., :2] / rotated[..., 2:].clamp(min=0.05) * focal_px[:, None, None]
    return (q - still).norm(dim=-1)


def residual_curves(
    p: Float[Tensor, "P M 2"], q: Float[Tensor, "P M 2"], weight: Float[Tensor, "P M"],
    candidates_px: Float[Tensor, "C"], iterations: int = 6, sigma_px: float = SIGMA_PX,
) -> tuple[Float[Tensor, "P C"], Motion]:
    """Robust epipolar residual of each pair at each focal candidate, each with its own best motion.

    All candidates start from the solution at the middle one, carried over in pixels: an image motion
    fixes the rotation in pixels (omega * f) and the epipole in pixels, hardly the focal length.

    Returns:
        The curves (pairs x candidates) and the motion at the middle candidate.
    """
    pairs, count = len(p), len(candidates_px)
    middle = candidates_px[count // 2]
    base = solve_motion(p, q, weight, middle.expand(pairs), sigma_px=sigma_px)
    skew = base.rotation - base.rotation.transpose(1, 2)
    omega = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=-1) / 2
    ratio = (middle / candidates_px)[None, :, None]
    pan = torch.cat([omega[:, None, :2] * ratio, omega[:, None, 2:].expand(-1, count, -1)], dim=-1)
    epipole = torch.cat([base.direction[:, None, :2] * ratio, base.direction[:, None, 2:].expand(-1, count, -1)], dim=-1)
    many = [value.repeat_interleave(count, 0) for value in (p, q, weight)]
    start = Motion(so3_exp(pan).flatten(0, 1), F.normalize(epipole, dim=-1).flatten(0, 1), base.residual)
    swept = refine_motion(start, *many, candidates_px.repeat(pairs), iterations, sigma_px)
    return swept.residual.view(pairs, count), base


def weighted_median(values: Float[Tensor, "B M"], weight: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """The value below which half of the weight lies, row by row."""
    ordered, order = values.sort(dim=1)
    total = weight.gather(1, order).cumsum(1)
    index = (total >= total[:, -1:] / 2).float().argmax(1, keepdim=True)
    return ordered.gather(1, index)[:, 0]
