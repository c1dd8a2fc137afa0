"""The cameras of a clip once more: whole pictures aligned through the depth of every pixel.

Matches are found pair by pair; one that went astray, or a window that straddles an edge of depth, bends the cameras. A
plane sweep gives every pixel one depth on which the frames around agree, and with the cameras its place in all of them.
What Lucas-Kanade still finds there, a fraction of a pixel, is what cameras and depth have wrong: the bundle is adjusted
to it, and again (direct alignment, as Engel et al. 2018 do for sparse points). When it was tried on validation, it took
3 % off the error of depth and a quarter off that of rotations and directions.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ss3d_lib.geometry import image_centre, inside, pixel_grid
from ss3d_lib.models.bundle import FocalPrior, Sightings, adjust, relative, settled
from ss3d_lib.models.calibration import SETTLE_STEPS, Solution
from ss3d_lib.models.camera import FocalBelief, on_match_grid, ordinary_cameras
from ss3d_lib.models.matching import FLAT, box, local_contrast, lucas_kanade
from ss3d_lib.models.sweep import Sweep, Views, to_pixels
from ss3d_lib.twoview import length, to_rays

ROUNDS, ITERATIONS = 2, 2  # of aligning and adjusting; of Lucas-Kanade in each; three of each are no better on validation
BELIEF, LEAST_LOG_STD = 1e-4, 0.02  # weight of the matches' focal length; on validation 0.5 to 3 times it are alike, ordinary cameras' 1 % worse
REFINED = 0.6  # of the error that matches leave in a focal length: the 80 % interval then holds 81 % of validation, else 92 %
ENOUGH = 0.4  # share of the view whose depth is agreed by parallax; with less, the focal length is held: of a still camera it wandered off
ASTRAY_PX, UNLIKE = 1.5, 0.5  # way from the predicted place, and difference of local contrast, at which half is believed


def views_of(solution: Solution) -> Views:
    """The neighbours of every frame of B clips, one clip after the other, and where they are."""
    near, clips = solution.near, len(solution.cost)
    first = len(near.index) * torch.arange(clips)[:, None, None]
    rotation, translation = (motion.flatten(0, 1) for motion in relative(solution.bundle, near))
    focal_px = solution.focal_px.repeat_interleave(len(near.index))
    return Views((near.index + first).flatten(0, 1), near.exists.repeat(clips, 1), rotation, translation, focal_px)


@torch.no_grad()
def refine(frames: Float[Tensor, "F 3 H W"], solution: Solution, sweep: Sweep, focal: FocalBelief) -> Solution:
    """Cameras and focal length of B clips, aligned to the pictures.

    Args:
        frames: of all clips, one clip after the other.
        sweep: depth of every pixel, in the scale of the solution's translations; where it is not agreed, nothing is aligned.
        focal: what the clips' matches said of it, from which what is found here departs at a price.
    """
    height, width = frames.shape[-2:]
    full = lambda x: F.interpolate(x[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]  # noqa: E731
    contrast = local_contrast(box(frames.mean(1, keepdim=True), 3))
    log_inverse, agreed = full(sweep.log_inverse_depth), full(sweep.agreed)
    share = (sweep.agreed * sweep.parallax).view(len(solution.cost), -1).mean(1)
    hold = BELIEF * (ENOUGH / share.clamp(min=1e-3)).clamp(min=1) ** 2
    believed = FocalPrior(focal.mean_px.log(), focal.log_std.clamp(min=LEAST_LOG_STD), hold)
    solution = replace(solution, seen=replace(solution.seen, believed=believed))
    for _ in range(ROUNDS):
        seen = aligned_sightings(contrast, log_inverse, agreed, solution)
        bundle = replace(solution.bundle, rho=seen.prior.exp())
        seen = settled(bundle, seen)
        bundle, cost = adjust(bundle, solution.near, seen, SETTLE_STEPS)
        correction = (bundle.rho.log() - seen.prior).view_as(on_match_grid(log_inverse))
        log_inverse = log_inverse + full(correction)
        solution = Solution(bundle, cost, solution.near, seen)
    return solution


def refined_width(focal: FocalBelief) -> Float[Tensor, "B"]:
    """How much narrower refinement makes a belief: by REFINED, but what is only known of ordinary cameras stays as it is."""
    before = (focal.log_std / ordinary_cameras().log_std).clamp(max=1) ** 2  # share of what is known that was known beforehand
    return (before + (1 - before) / REFINED**2) ** -0.5


def aligned_sightings(
    contrast: Float[Tensor, "F 1 H W"], log_inverse: Float[Tensor, "F H W"], agreed: Float[Tensor, "F H W"], solution: Solution
) -> Sightings:
    """The solution's points where the aligned pictures show them, with the depth of the maps as their prior."""
    views, points = views_of(solution), solution.seen.p
    first, slot = torch.nonzero(views.exists, as_tuple=True)
    flow, weight = align(contrast, views, first, slot, predicted_flow(log_inverse, views, first, slot))
    q = flow.new_zeros(*views.exists.shape, *points.shape)
    share = torch.zeros_like(q[..., 0])
    q[first, slot] = points + on_match_grid(flow.movedim(-1, 1)).flatten(2).transpose(1, 2)
    share[first, slot] = on_match_grid(weight * agreed[first]).flatten(1)
    by_clip = lambda x: x.unflatten(0, (len(solution.cost), -1))  # noqa: E731
    return replace(solution.seen, q=by_clip(q), weight=by_clip(share), prior=by_clip(on_match_grid(log_inverse).flatten(1)))


def predicted_flow(
    log_inverse: Float[Tensor, "F H W"], views: Views, first: Int[Tensor, "P"], slot: Int[Tensor, "P"]
) -> Float[Tensor, "P H W 2"]:
    """Flow, in pixels, from frames to the views in their slots that depth and cameras predict."""
    height, width = log_inverse.shape[1:]
    grid, centre = pixel_grid(height, width, log_inverse.device), image_centre(height, width, log_inverse.device)
    own = (grid - centre).reshape(1, -1, 2).expand(len(log_inverse), -1, -1)
    turned = views.rotation[first, slot] @ to_rays(own, views.focal_px)[first]
    point = turned + views.translation[first, slot, :, None] * log_inverse.exp().flatten(1)[first, None]
    return to_pixels(point, views.focal_px[first]).view(-1, height, width, 2) + centre - grid


def align(
    contrast: Float[Tensor, "F 1 H W"], views: Views, first: Int[Tensor, "P"], slot: Int[Tensor, "P"], flow: Float[Tensor, "P H W 2"]
) -> tuple[Float[Tensor, "P H W 2"], Float[Tensor, "P H W"]]:
    """A predicted flow, aligned to the pictures' local contrast, and its weight in [0, 1]."""
    height, width = flow.shape[1:3]
    found, texture, unlike = lucas_kanade(contrast[first], contrast[views.index[first, slot]], flow, ITERATIONS)
    likely = 1 / (1 + (length(found - flow) / ASTRAY_PX) ** 4) / (1 + (unlike[:, 0] / UNLIKE) ** 2)
    on_frame = inside(pixel_grid(height, width, flow.device) + found, height, width)
    return found, on_frame * likely * (texture / (texture + FLAT))[:, 0]
