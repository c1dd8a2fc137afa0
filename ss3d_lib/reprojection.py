"""Terms of stage 2 that look at the frames before and after: do they look like this one once they are warped by its
depth, and does their own depth agree?

Both take the motion and the scale from stage 1 and correct depth alone: their gradient reaches only a pixel or two, so that
they refine what triangulation has brought near (notebook 04).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.data import Shot, cached_motion, frames_tensor
from ss3d_lib.geometry import image_centre, inside, sample
from ss3d_lib.models.triangulation import MIN_Z, half_grid
from ss3d_lib.photometric import minimum_reprojection, photometric_error
from ss3d_lib.twoview import to_rays

OCCLUDED_LOG = 0.5  # depths that differ by more see another surface: an occlusion, not an error


@dataclass(frozen=True)
class Neighbours:
    """The frames one stride before and after each image, in the colours of the film, at half resolution."""

    image: Float[Tensor, "B 3 h w"]
    others: Float[Tensor, "B 2 3 h w"]
    exists: Float[Tensor, "B 2"]
    rotation: Float[Tensor, "B 2 3 3"]  # other_from_image
    translation: Float[Tensor, "B 2 3"]  # in the scale of the shot
    focal_px: Float[Tensor, "B"]
    swept: Float[Tensor, "B 2 3 h w"]  # log inverse depth, agreement and parallax of the others' plane sweeps
    middle: Float[Tensor, "B"]  # log inverse depth in the shot's scale at which that of the target is zero
    place: Float[Tensor, "B 2 h w"]  # pixel of the frame that each pixel of the maps shows; a crop moves it


def neighbours_of(shots: list[Shot], starts: list[int], middle: Float[Tensor, "B"]) -> Neighbours:
    """What frames `start` of the shots have around them; where the shot ends, the frame itself, marked as not there."""
    indices, motions = [], []
    for backward in (True, False):
        shift = [-shot.stride if backward else shot.stride for shot in shots]
        there = [start + s for start, s in zip(starts, shift)]
        exists = [0 <= index < len(shot.frames) for shot, index in zip(shots, there)]
        indices.append([index if ok else start for index, ok, start in zip(there, exists, starts)])
        motions.append((*cached_motion(shots, starts, 1, backward)[:2], torch.tensor(exists).float()))
    half = lambda index: F.avg_pool2d(frames_tensor([s.frames[k] for s, k in zip(shots, index)]), 2)  # noqa: E731
    image, others = half(starts), torch.stack([half(index) for index in indices], dim=1)
    rotation, translation, exists = (torch.stack(values, dim=1) for values in zip(*motions))
    swept = torch.stack([torch.stack([torch.from_numpy(s.stereo.full[k, :3]) for s, k in zip(shots, index)]) for index in indices], 1)
    place = half_grid(*image.shape[-2:]).permute(2, 0, 1).expand(len(shots), -1, -1, -1)
    focal_px = torch.tensor([shot.cameras.focal_px for shot in shots])
    return Neighbours(image, others, exists, rotation, translation, focal_px, swept.float(), middle, place)


def seen_from(
    around: Neighbours, log_inverse: Float[Tensor, "B h w"]
) -> tuple[Float[Tensor, "N h w 2"], Float[Tensor, "N h w"], Tensor]:
    """Where each pixel, at its depth in the shot's scale, is on the N = 2 B others: half-resolution pixel, z over the pixel's
    own z, and whether it is on the picture and before the camera (bool)."""
    count, height, width = log_inverse.shape
    centre = image_centre(2 * height, 2 * width).to(log_inverse)
    twice = lambda x: x.repeat_interleave(2, dim=0)  # noqa: E731
    rays = to_rays(around.place.flatten(2).transpose(1, 2) - centre, around.focal_px)
    moved = around.rotation.flatten(0, 1) @ twice(rays)
    moved = moved + around.translation.flatten(0, 1)[..., None] * twice(log_inverse.exp().flatten(1))[:, None]
    z = moved[:, 2]
    pixels = (moved[:, :2] / z.clamp(min=MIN_Z)[:, None] * twice(around.focal_px)[:, None, None]).transpose(1, 2) + centre
    half = ((pixels - 0.5) / 2).view(2 * count, height, width, 2)
    z = z.view(2 * count, height, width)
    there = around.exists.flatten()[:, None, None] > 0
    return half, z, inside(half, height, width) & (z > MIN_Z) & there


def reprojection_terms(
    log_inverse: Float[Tensor, "B h w"], around: Neighbours, still: Float[Tensor, "B h w"]
) -> dict[str, Tensor]:
    """Weighted means of the maps of `reprojection_maps`, 0 where nothing can be compared."""
    maps = reprojection_maps(log_inverse, around, still)
    return {name: (values * weight).sum() / weight.sum().clamp(min=1) for name, (values, weight) in maps.items()}


def reprojection_maps(
    log_inverse: Float[Tensor, "B h w"], around: Neighbours, still: Float[Tensor, "B h w"]
) -> dict[str, tuple[Float[Tensor, "*B h w"], Float[Tensor, "*B h w"]]]:
    """What each term finds at every pixel, and with what weight it counts.

    photometric: (B, h, w), minimum reprojection with auto-mask (Godard et al. 2019, eq. 4 and 5). consistency: (B, 2, h, w),
    |log ratio| of the depth that this image gives a point seen from each other and the depth that the other's sweep gives it
    (Bian et al. 2019, eq. 5, in log depth).

    Args:
        log_inverse: predicted, in the shot's scale.
        still: in [0, 1], the share of each pixel that does not move by itself: what moves breaks both rules.
    """
    half, z, valid = seen_from(around, log_inverse)
    own = (around.place.permute(0, 2, 3, 1) - 0.5) / 2
    target, others = sample(around.image, own), around.others.flatten(0, 1)
    twice = lambda x: x.repeat_interleave(2, dim=0)  # noqa: E731
    pairs = lambda x: x.unflatten(0, (-1, 2))  # noqa: E731
    errors, unmoved = (photometric_error(sample(others, at), twice(target)) for at in (half, twice(own)))
    unmoved = unmoved.masked_fill(around.exists.flatten()[:, None, None] == 0, torch.inf)
    least, _ = minimum_reprojection(pairs(errors), pairs(valid), pairs(unmoved))
    compared = least.isfinite()
    theirs, agreed, parallax = sample(around.swept.flatten(0, 1), half.detach()).unbind(1)
    gap = (twice(log_inverse) - z.clamp(min=MIN_Z).log() - theirs).abs()
    sure = agreed * parallax * valid * twice(still) * (gap.detach() < OCCLUDED_LOG)
    return {
        "photometric": (torch.where(compared, least, 0.0), still * compared),
        "consistency": (pairs(gap), pairs(sure)),
    }
