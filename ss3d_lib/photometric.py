"""How well frames explain each other once they are warped: the photometric loss of Monodepth2.

Godard et al. 2019 ("Digging into self-supervised monocular depth estimation"): a pixel is compared with its own place in
every source frame, the source that explains it best counts (a pixel that one neighbour does not see, the other
often does), and pixels that no warp explains better than no motion at all are left out.
"""

import torch
from jaxtyping import Bool, Float
from kornia.metrics import ssim
from torch import Tensor

from ss3d_lib.geometry import warp

SSIM_SHARE = 0.85  # alpha in eq. 1 (Zhao et al. 2017)
SSIM_WINDOW_PX = 3  # as in Monodepth2; kornia's window is a Gaussian, which over three pixels is nearly flat


def photometric_error(image: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W"]:
    """0.85 / 2 (1 - SSIM) + 0.15 L1 of images in [0, 1], mean over colours (eq. 1); 0 = alike."""
    structure = ((1 - ssim(image, target, SSIM_WINDOW_PX)) / 2).clamp(0, 1)
    return (SSIM_SHARE * structure + (1 - SSIM_SHARE) * (image - target).abs()).mean(1)


def unmoved_errors(target: Float[Tensor, "B 3 H W"], sources: Float[Tensor, "B S 3 H W"]) -> Float[Tensor, "B S H W"]:
    """Errors of the sources as they are."""
    repeated = target.repeat_interleave(sources.shape[1], dim=0)
    return photometric_error(sources.flatten(0, 1), repeated).unflatten(0, sources.shape[:2])


def warped_errors(
    target: Float[Tensor, "B 3 H W"],
    sources: Float[Tensor, "B S 3 H W"],
    depth: Float[Tensor, "B H W"],
    intrinsics: Float[Tensor, "B 3 3"],
    src_from_tgt: Float[Tensor, "B S 4 4"],
) -> tuple[Float[Tensor, "B S H W"], Bool[Tensor, "B S H W"]]:
    """Errors of the sources warped by the target's depth and the motions, and where the target's pixels land on them."""
    each = lambda x: x.repeat_interleave(sources.shape[1], dim=0)  # noqa: E731
    warped, valid = warp(sources.flatten(0, 1), each(depth), each(intrinsics), src_from_tgt.flatten(0, 1))
    errors = photometric_error(warped, each(target))
    return errors.unflatten(0, sources.shape[:2]), valid.unflatten(0, sources.shape[:2])


def minimum_reprojection(
    errors: Float[Tensor, "B S H W"], valid: Bool[Tensor, "B S H W"], unmoved: Float[Tensor, "B S H W"]
) -> tuple[Float[Tensor, "B H W"], Bool[Tensor, "B H W"]]:
    """The least error over S sources (eq. 4), kept where it is less than without any motion (eq. 5).

    Args:
        errors: of the warped sources; only those count where `valid` (the pixel lands on the source) holds.
        unmoved: of the sources as they are. A source that an image lacks: not valid, and unmoved infinite.

    Returns:
        The loss map and the kept mask. Where a pixel is not kept, the map holds its unmoved error, which has no
        gradient: its mean over all pixels is Monodepth2's loss, and falls only when warps get better.
    """
    least = errors.masked_fill(~valid, torch.inf).amin(1)
    still = unmoved.amin(1).detach()
    kept = least < still
    return torch.where(kept, least, still), kept
