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
SIGMA_PX = 1.0  # scale of the robust residual; chosen on validation from 0.5, 0.7, 1, 1.4 and 2
PRIOR_WEIGHT = 0.1  # of the prior's correlation against the robust residual; chosen on validation
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


def to_rays(pixels: Float[Tensor, "P M 2"], focal_px: Float[Tensor, "P"]) -> Float[Tensor, "P 3 M"]:
    """Rays (z = 1) of centred pixels; matches lie in the last dimension, where arithmetic is fast."""
    xy = pixels.transpose(1, 2) / focal_px[:, None, None]
    return torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)


def cross_matrix(vector: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3 3"]:
    """The matrix [v]x with [v]x w = v x w."""
    return torch.linalg.cross(vector[:, None], torch.eye(3, device=vector.device).expand(len(vector), 3, 3)).transpose(
        1, 2
    )


def cross(a: Float[Tensor, "P 3 M"], b: Float[Tensor, "P 3 M"]) -> Float[Tensor, "P 3 M"]:
    """Cross products along dimension 1, without the strided access of torch.linalg.cross."""
    return torch.stack(
        [
            a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1],
            a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2],
            a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0],
        ],
        dim=1,
    )


def sampson(
    rotation: Float[Tensor, "P 3 3"],
    direction: Float[Tensor, "P 3"],
    x1: Float[Tensor, "P 3 M"],
    x2: Float[Tensor, "P 3 M"],
) -> tuple[Float[Tensor, "P M"], Float[Tensor, "P M"]]:
    """Signed epipolar residual x2' E x1 and its Sampson denominator, with E = [t]x R."""
    essential = cross_matrix(direction) @ rotation
    line2, line1 = essential @ x1, essential.transpose(1, 2) @ x2
    numerator = (x2 * line2).sum(1)
    square = line2[:, 0] ** 2 + line2[:, 1] ** 2 + line1[:, 0] ** 2 + line1[:, 1] ** 2
    return numerator, (square + 1e-12).sqrt()


def epipolar_error_px(motion: Motion, p: Tensor, q: Tensor, focal_px: Tensor) -> Float[Tensor, "P M"]:
    """Sampson distance of every match to the motion, in pixels (signed)."""
    numerator, denominator = sampson(motion.rotation, motion.direction, to_rays(p, focal_px), to_rays(q, focal_px))
    return numerator / denominator * focal_px[:, None]


def damped_solve(
    normal: Float[Tensor, "P D D"], gradient: Float[Tensor, "P D"], damping: float
) -> Float[Tensor, "P D"]:
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
    start: Motion,
    p: Float[Tensor, "P M 2"],
    q: Float[Tensor, "P M 2"],
    weight: Float[Tensor, "P M"],
    focal_px: Float[Tensor, "P"],
    iterations: int = 8,
    sigma_px: float = SIGMA_PX,
    anneal: bool = True,
) -> Motion:
    """Robust Gauss-Newton over rotation (3) and direction of translation (2) on Sampson residuals.

    With anneal the robust scale shrinks from 4 sigma to sigma over the first steps (graduated non-convexity).
    """
    x1, x2 = to_rays(p, focal_px), to_rays(q, focal_px)
    rotation, direction = start.rotation, start.direction
    for step in range(iterations):
        numerator, denominator = sampson(rotation, direction, x1, x2)
        error_px = numerator / denominator * focal_px[:, None]
        robust = (1 + (error_px / (sigma_px * (max(1, 4 - step) if anneal else 1))) ** 2) ** -2
        w = weight * robust * (focal_px[:, None] / denominator) ** 2
        rotated, t = rotation @ x1, direction[:, :, None]
        by_rotation = (t * rotated).sum(1, True) * x2 - (rotated * x2).sum(1, True) * t
        jacobian = torch.cat([by_rotation, cross(rotated, x2)], dim=1)
        weighted = jacobian * w[:, None]
        normal, gradient = weighted @ jacobian.transpose(1, 2), -(weighted @ numerator[..., None])[..., 0]
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
    numerator, denominator = sampson(rotation, direction, x1, x2)
    square = (numerator / denominator * focal_px[:, None] / sigma_px) ** 2
    return (weight * square / (1 + square)).sum(1) / weight.sum(1).clamp(min=1e-3)


def solve_motion(
    p: Float[Tensor, "P M 2"],
    q: Float[Tensor, "P M 2"],
    weight: Float[Tensor, "P M"],
    focal_px: Float[Tensor, "P"],
    prior: Float[Tensor, "P M"] | None = None,
    iterations: int = 8,
    sigma_px: float = SIGMA_PX,
) -> Motion:
    """Best motion of each pair from four starting directions, with t in front (positive depths win).

    Args:
        prior: log inverse depth that the images alone suggest at the matches. Seen from afar, a scene turned
            inside out moves almost like itself (the reversal of Necker's cube); the prior breaks such ties.
    """
    starts = F.normalize(torch.tensor(START_DIRECTIONS, device=p.device), dim=-1)
    pairs, tries = len(p), len(starts)
    few = [value[:, ::3].repeat_interleave(tries, 0) for value in (p, q, weight)]  # a third finds the basin
    focals = focal_px.repeat_interleave(tries)
    rotation = torch.eye(3, device=p.device).expand(pairs * tries, 3, 3)
    start = Motion(rotation, starts.repeat(pairs, 1), rotation[:, 0, 0])
    motion = refine_motion(start, *few, focals, iterations, sigma_px)
    cost = motion.residual
    if prior is not None:
        motion = face_forward(motion, *few, focals)
        cost = cost - PRIOR_WEIGHT * agreement(motion, *few, focals, prior[:, ::3].repeat_interleave(tries, 0))
    best = cost.view(pairs, tries).argmin(1) + torch.arange(pairs, device=p.device) * tries
    chosen = Motion(motion.rotation[best], motion.direction[best], motion.residual[best])
    return face_forward(polish(chosen, p, q, weight, focal_px, 4, sigma_px), p, q, weight, focal_px)


def agreement(motion: Motion, p, q, weight, focal_px, prior: Float[Tensor, "P M"]) -> Float[Tensor, "P"]:
    """Weighted correlation in [-1, 1] of triangulated log inverse depth with a prior; a flat prior gives 0."""
    rho, _ = inverse_depth(motion, to_rays(p, focal_px), to_rays(q, focal_px))
    share = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
    logs = rho.clamp(min=1e-3).log()
    a = logs - (share * logs).sum(1, keepdim=True)
    b = prior - (share * prior).sum(1, keepdim=True)
    spread = lambda x, least: (share * x * x).sum(1).sqrt().clamp(min=least)  # noqa: E731
    return (share * a * b).sum(1) / (spread(a, 0.1) * spread(b, 0.2))


def polish(start: Motion, p, q, weight, focal_px, iterations: int, sigma_px: float = SIGMA_PX) -> Motion:
    """Gauss-Newton at the final robust scale, from a start that is already close."""
    return refine_motion(start, p, q, weight, focal_px, iterations, sigma_px, anneal=False)


def inverse_depth(
    motion: Motion, x1: Float[Tensor, "P 3 M"], x2: Float[Tensor, "P 3 M"]
) -> tuple[Float[Tensor, "P M"], Float[Tensor, "P M"]]:
    """Linear triangulation of 1 / z in the first camera (unit of |t|), and its information |t x x2|^2."""
    a = cross(motion.rotation @ x1, x2)
    b = cross_matrix(motion.direction) @ x2
    information = b.square().sum(1)
    return -(a * b).sum(1) / information.clamp(min=1e-8), information


def face_forward(motion: Motion, p, q, weight, focal_px) -> Motion:
    """Choose the sign of t for which the matched points lie in front of the camera (cheirality).

    Matches that fit the motion vote, with their parallax in pixels up to one: far points have no say.
    """
    x1, x2 = to_rays(p, focal_px), to_rays(q, focal_px)
    rho, information = inverse_depth(motion, x1, x2)
    numerator, denominator = sampson(motion.rotation, motion.direction, x1, x2)
    fits = 1 / (1 + (numerator / denominator * focal_px[:, None] / SIGMA_PX) ** 2)
    vote = (torch.tanh(rho * information.sqrt() * focal_px[:, None]) * weight * fits).sum(1)
    sign = torch.where(vote < 0, -1.0, 1.0)[:, None]
    return Motion(motion.rotation, motion.direction * sign, motion.residual)


def parallax_px(motion: Motion, p, q, focal_px) -> Float[Tensor, "P M"]:
    """Length of the flow that is left after the rotation is undone: what depth can be read from."""
    rotated = motion.rotation @ to_rays(p, focal_px)
    left = q.transpose(1, 2) - rotated[:, :2] / rotated[:, 2:].clamp(min=0.05) * focal_px[:, None, None]
    return (left[:, 0] ** 2 + left[:, 1] ** 2 + 1e-12).sqrt()


def residual_curves(
    p: Float[Tensor, "P M 2"],
    q: Float[Tensor, "P M 2"],
    weight: Float[Tensor, "P M"],
    candidates_px: Float[Tensor, "C"],
    iterations: int = 4,
    sigma_px: float = SIGMA_PX,
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
    epipole = torch.cat(
        [base.direction[:, None, :2] * ratio, base.direction[:, None, 2:].expand(-1, count, -1)], dim=-1
    )
    many = [value.repeat_interleave(count, 0) for value in (p, q, weight)]
    start = Motion(
        so3_exp(pan).flatten(0, 1), F.normalize(epipole, dim=-1).flatten(0, 1), base.residual.repeat_interleave(count)
    )
    swept = polish(start, *many, candidates_px.repeat(pairs), iterations, sigma_px)
    return swept.residual.view(pairs, count), base


def weighted_median(values: Float[Tensor, "B M"], weight: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """The value below which half of the weight lies, row by row; long rows are read at every fourth entry."""
    if values.shape[1] > 4096:
        values, weight = values[:, ::4], weight[:, ::4]  # sorting dominates, and a median needs no more
    ordered, order = values.sort(dim=1)
    total = weight.gather(1, order).cumsum(1)
    index = (total >= total[:, -1:] / 2).float().argmax(1, keepdim=True)
    return ordered.gather(1, index)[:, 0]


def length(vector: Float[Tensor, "*B 2"]) -> Float[Tensor, "*B"]:
    """Euclidean length of image vectors; torch's own norm is slow along a short last dimension."""
    return (vector[..., 0].square() + vector[..., 1].square() + 1e-12).sqrt()
