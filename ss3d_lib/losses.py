"""What stage 2 minimises; each term is a function of maps and returns a scalar.

Depth is compared in log space after its free scale is removed by a weighted median, so nothing here can
reward a collapse of the scale.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.models.triangulation import DepthEvidence
from ss3d_lib.twoview import weighted_median

LOG_CLAMP = 1.5  # errors beyond e^1.5 = 4.5x are mismatches, not depth
CAMERA_NOISE, CAMERA_TILT = 0.024, 0.08  # mean |log error| that wrong cameras make everywhere, and more to the sides


def resize_map(x: Float[Tensor, "B a b"], size: tuple[int, int]) -> Float[Tensor, "B h w"]:
    """Bilinear resampling of a batch of maps (pixel areas scale)."""
    return F.interpolate(x[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def log_depth_error(log_inverse: Float[Tensor, "B h w"], target: DepthEvidence) -> Float[Tensor, "B h w"]:
    """|log ratio| of predicted and triangulated depth after the weighted median of it is taken away."""
    gap = target.log_inverse_depth - log_inverse
    return (gap - median_gap(log_inverse, target)[:, None, None]).abs()


def median_gap(log_inverse: Float[Tensor, "B h w"], target: DepthEvidence) -> Float[Tensor, "B"]:
    """What brings predicted log inverse depth to the target's scale: the weighted median of their differences, a constant."""
    gap = target.log_inverse_depth - log_inverse
    return weighted_median(gap.detach().flatten(1), target.weight.flatten(1) + 1e-6)


def triangulation_loss(log_inverse: Float[Tensor, "B h w"], target: DepthEvidence) -> Tensor:
    """Weighted L1 on log depth against what the shot's motion triangulates."""
    error = log_depth_error(log_inverse, target).clamp(max=LOG_CLAMP)
    return (error * target.weight).sum() / target.weight.sum().clamp(min=1)


def uncertainty_loss(
    log_inverse: Float[Tensor, "B h w"], log_std: Float[Tensor, "B h w"], target: DepthEvidence
) -> Tensor:
    """Negative log likelihood (Laplace; Kendall & Gal 2017, eq. 8) of the errors; trains log_std alone.

    The cameras' own errors do not show, for evidence and target share them; `camera_error` stands for them.

    log_std: log of the scale of the distribution; `clipnet.TRUE_ERROR` makes a standard error of it.
    """
    error = log_depth_error(log_inverse.detach(), target).clamp(max=LOG_CLAMP)
    error = torch.hypot(error, camera_error(*error.shape[1:], error.device))
    return ((error * (-log_std).exp() + log_std) * target.weight).sum() / target.weight.sum().clamp(min=1)


def camera_error(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "h w"]:
    """What a short clip's wrong focal length and motion do to log inverse depth: mostly a tilt across the picture."""
    x, y = torch.linspace(-1, 1, width, device=device), torch.linspace(-1, 1, height, device=device)[:, None]
    return (CAMERA_NOISE**2 + CAMERA_TILT**2 * (x**2 + y**2)).sqrt()


def smoothness_loss(log_inverse: Float[Tensor, "B h w"], frames: Float[Tensor, "B 3 H W"]) -> Tensor:
    """Edge-aware smoothness of log inverse depth (Godard et al. 2017, eq. 3)."""
    image = F.interpolate(frames, log_inverse.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
    total = 0.0
    for axis in (-2, -1):
        total = total + (log_inverse.diff(dim=axis).abs() * edge_weight(image, axis)).mean()
    return total


def edge_weight(image: Float[Tensor, "B 3 h w"], axis: int) -> Float[Tensor, "B a b"]:
    """What a step of depth between neighbours along an axis costs: 1 in flat areas, less where the picture changes."""
    return torch.exp(-8 * image.diff(dim=axis).abs().mean(1))
