"""Do the matches of a clip show depth at all? What one homography explains does not: a rotation, a zoom, a flat scene.

A plane sweep finds some depth on which the frames agree for such clips too, and any of many cameras fits them; so the
trust in a prediction asks for parallax first, as the score does of training shots (notebook 02).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.twoview import length

STEPS = 10  # of reweighting
PLANE_PX, PLANE_SHARE = 0.7, 0.02  # off the homography: farther from it than this, and than this share of the flow; as in the score
SHOWS_DEPTH = 0.05, 0.2  # share of the matches off the homography: on validation at most 0.03 for rotations and the zoom, at least 0.2 for what has a signal


def depth_shown(p: Float[Tensor, "M 2"], q: Float[Tensor, "B D M 2"], weight: Float[Tensor, "B D M"], half_px: float) -> Float[Tensor, "B"]:
    """How far the matches of B clips show depth, in [0, 1]: the share of them that no homography explains, past SHOWS_DEPTH.

    Args:
        p, q: pixels relative to the image centre of M points in the first frame of each of D pairs, and in the second.
        weight: of each match, in [0, 1]. half_px: half of the longer side, which brings pixels to the order of 1.
    """
    rest_px = homography_distance(p, q.flatten(0, 1), weight.flatten(0, 1), half_px).view_as(weight)
    off = (rest_px > PLANE_PX + PLANE_SHARE * length(q - p)) * weight
    low, high = SHOWS_DEPTH
    return ((off.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1.0) - low) / (high - low)).clamp(0, 1)


def homography_distance(p: Float[Tensor, "M 2"], q: Float[Tensor, "P M 2"], weight: Float[Tensor, "P M"], half_px: float) -> Float[Tensor, "P M"]:
    """Distance in px of the matches of P pairs to the homography that explains most of them (reweighted DLT, Hartley & Zisserman 4.1)."""
    (x, y), (u, v) = (p.double() / half_px).expand_as(q).unbind(-1), (q.double() / half_px).unbind(-1)
    one, nil = torch.ones_like(x), torch.zeros_like(x)
    rows = torch.stack([x, y, one, nil, nil, nil, -u * x, -u * y, nil, nil, nil, x, y, one, -v * x, -v * y], dim=-1).unflatten(-1, (2, 8))
    target, trusted = torch.stack([u, v], dim=-1), weight.double()
    ridge = 1e-6 * torch.eye(8, dtype=rows.dtype, device=rows.device)
    for _ in range(STEPS):
        weighted = rows * trusted[..., None, None]
        solution = torch.linalg.solve(torch.einsum("pmki,pmkj->pij", weighted, rows) + ridge, torch.einsum("pmki,pmk->pi", weighted, target))
        scale = 1 + (rows[..., 0, :2] * solution[:, None, 6:]).sum(-1)
        mapped = torch.stack([(rows[..., axis, :6] * solution[:, None, :6]).sum(-1) for axis in (0, 1)], dim=-1) / scale.clamp(min=0.1)[..., None]
        rest_px = half_px * length(mapped - target)
        trusted = weight / (1 + (rest_px / PLANE_PX) ** 2) ** 2
    return rest_px.float()
