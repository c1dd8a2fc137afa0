"""Stage 2: depth learnt from what flow and the stage-1 motions triangulate (notebook 04).

Each training image has depth evidence from up to six frame pairs (1, 2 and 4 strides, both directions): matches
that are triangulated, and a plane sweep, both kept by ss3d_lib.stereo.
All of it is the target; the network sees what a part of the pairs gives (drawn once for every frame), with random holes,
or none: it learns to complete, to denoise, and to fall back on the image alone.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.data import Shot, frames_tensor, pick_shots
from ss3d_lib.losses import (
    LOG_CLAMP,
    edge_weight,
    log_depth_error,
    median_gap,
    resize_map,
    smoothness_loss,
    triangulation_loss,
    uncertainty_loss,
)
from ss3d_lib.models import ClipNet
from ss3d_lib.models.sweep import Sweep, fuse
from ss3d_lib.models.triangulation import DepthEvidence, as_channels, centred, middle_log
from ss3d_lib.reprojection import Neighbours, neighbours_of, reprojection_maps, reprojection_terms

STRETCH = 1.15  # largest change of a picture's aspect ratio, either way
SCALE_ANCHOR = 1e-3  # weight of the squared log inverse depth: holds the free scale near 1, where the network starts


@dataclass(frozen=True)
class Terms:
    """Weights of the loss terms of stage 2 and how the input is degraded."""

    triangulation: float = 1.0
    uncertainty: float = 0.1
    smoothness: float = 0.02
    photometric: float = 0.0  # this one and the next look at neighbouring frames (ss3d_lib.reprojection)
    consistency: float = 0.0
    single_image: float = 0.2  # share of images that see no evidence at all
    min_crop: float = 0.7  # smallest random crop, as a share of the side


@dataclass(frozen=True)
class DepthBatch:
    """Images with the evidence that the network may see and the evidence that judges it."""

    frames: Float[Tensor, "B 3 H W"]
    given: DepthEvidence
    target: DepthEvidence
    around: Neighbours | None = None  # where a term asks for it


def evidence(shots: list[Shot], starts: list[int], part: bool) -> DepthEvidence:
    """What is kept of frame `start` of each shot: sweep and matches together, of all pairs or of a part of them."""
    rows = [(shot.stereo.part if part else shot.stereo.full)[start] for shot, start in zip(shots, starts)]
    maps = torch.from_numpy(np.stack(rows)).float().unbind(1)
    return fuse(DepthEvidence.measured(*maps[3:]), Sweep(*maps[:3]))


def degraded(found: DepthEvidence, single_image: float, rng: torch.Generator) -> DepthEvidence:
    """The evidence with holes, or, for some images, none.

    Noise and tilts on top, as wrong cameras make them, would teach the network to mend what is right: 2.6 % worse on validation.
    """
    images, height, width = found.weight.shape
    keep_all = torch.rand(images, 1, 1, 1, generator=rng) >= single_image
    patches = torch.rand(images, 1, height // 12 + 1, width // 12 + 1, generator=rng)
    holes = F.interpolate((patches > torch.rand(images, 1, 1, 1, generator=rng) * 0.5).float(), (height, width))
    return centred(found.masked((keep_all * holes)[:, 0]))


def augment(batch: DepthBatch, min_crop: float, rng: torch.Generator) -> DepthBatch:
    """Flip, crop, zoom and stretch, and change colours; log inverse depth is blind to all of them."""
    flip = bool(torch.rand(1, generator=rng) < 0.5)
    share = min_crop + (1 - min_crop) * float(torch.rand(1, generator=rng))
    stretch = STRETCH ** (float(torch.rand(1, generator=rng)) - 0.5)  # of the width; the height gets the inverse
    height, width = batch.target.weight.shape[-2:]  # the window lies on the evidence's grid: picture and evidence keep together
    h, w = (round(side * min(max(part, min_crop), 1.0)) for side, part in ((height, share / stretch), (width, share * stretch)))
    top, left = (int(torch.randint(room + 1, (1,), generator=rng)) for room in (height - h, width - w))

    def crop(x: Tensor) -> Tensor:
        size = x.shape[-2:]
        k = size[0] // height
        x = x[..., k * top : k * (top + h), k * left : k * (left + w)]
        x = x.flip(-1) if flip else x
        return F.interpolate(x, size, mode="bilinear", align_corners=False)

    stacked = lambda e: torch.stack([getattr(e, name) for name in e.__dataclass_fields__], dim=1)  # noqa: E731
    around = batch.around and replace(batch.around, place=crop(batch.around.place))
    maps = lambda e: DepthEvidence(*crop(stacked(e)).unbind(1))  # noqa: E731
    gain = 0.8 + 0.4 * torch.rand(len(batch.frames), 3, 1, 1, generator=rng)
    frames = (crop(batch.frames) * gain)[:, torch.randperm(3, generator=rng)].clamp(0, 1)
    return DepthBatch(frames, maps(batch.given), maps(batch.target), around)


def draw_batch(shots: list[Shot], weights: np.ndarray, count: int, terms: Terms, rng: torch.Generator) -> DepthBatch:
    """Random images of one working size with their evidence."""
    chosen = pick_shots(shots, weights, count, rng)
    starts = [int(torch.randint(len(shot.frames), (1,), generator=rng)) for shot in chosen]
    return augment(make_batch(chosen, starts, terms, rng), terms.min_crop, rng)


def make_batch(shots: list[Shot], starts: list[int], terms: Terms, rng: torch.Generator) -> DepthBatch:
    """Frame `start` of each shot (all of one working size) with all of its evidence and with a degraded part."""
    frames = frames_tensor([shot.frames[start] for shot, start in zip(shots, starts)])
    given = degraded(evidence(shots, starts, part=True), terms.single_image, rng)
    target = evidence(shots, starts, part=False)
    around = neighbours_of(shots, starts, middle_log(target)) if terms.photometric or terms.consistency else None
    return DepthBatch(frames, given, centred(target), around)


def joint_loss(
    model: ClipNet, shots: list[Shot], weights: np.ndarray, count: int, terms: Terms, rng: torch.Generator
) -> dict[str, Tensor]:
    """All terms of stage 2 on a fresh batch."""
    with torch.no_grad():
        batch = draw_batch(shots, weights, count, terms, rng)
    return depth_terms(model, batch, terms)


def depth_terms(model: ClipNet, batch: DepthBatch, terms: Terms) -> dict[str, Tensor]:
    """All terms of a batch."""
    return prediction_terms(*model.depth_net(batch.frames, as_channels(batch.given)), batch, terms)


def prediction_terms(
    log_inverse: Float[Tensor, "B a b"], log_std: Float[Tensor, "B a b"], batch: DepthBatch, terms: Terms
) -> dict[str, Tensor]:
    """The terms of a prediction that is already there; "loss" is their weighted sum."""
    size = batch.target.weight.shape[-2:]
    full, full_std = resize_map(log_inverse, size), resize_map(log_std, size)
    parts = {
        "triangulation": triangulation_loss(full, batch.target),
        "uncertainty": uncertainty_loss(full, full_std, batch.target),
        "smoothness": smoothness_loss(log_inverse, batch.frames),
    }
    if batch.around is not None:
        parts |= reprojection_terms(*in_the_shot(full, batch))
    parts["loss"] = (
        sum(getattr(terms, name) * value for name, value in parts.items()) + SCALE_ANCHOR * log_inverse.square().mean()
    )
    return parts


def in_the_shot(log_inverse: Float[Tensor, "B h w"], batch: DepthBatch) -> tuple[Tensor, Neighbours, Tensor]:
    """A prediction in the scale of its shot, beside what it is compared with: the arguments of the reprojection terms."""
    scale = median_gap(log_inverse, batch.target) + batch.around.middle
    return log_inverse + scale[:, None, None], batch.around, 1 - batch.target.moving.clamp(0, 1)


@torch.no_grad()
def term_maps(log_inverse: Float[Tensor, "B h w"], batch: DepthBatch) -> dict[str, Float[Tensor, "B h w"]]:
    """What each term finds at every pixel of log inverse depth (half resolution), times its weight there: for pictures."""
    error = log_depth_error(log_inverse, batch.target).clamp(max=LOG_CLAMP)
    dear = edge_weight(F.avg_pool2d(batch.frames, 2), -1)
    found = {
        name: values * weight for name, (values, weight) in reprojection_maps(*in_the_shot(log_inverse, batch)).items()
    }
    return {
        "triangulation": error * batch.target.weight,
        "smoothness": 1 - F.pad(dear, (0, 1), value=1.0),
        "photometric": found["photometric"],
        "consistency": found["consistency"].amax(1),
    }
