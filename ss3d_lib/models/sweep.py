"""Depth by trial: a plane sweep along the motion that is already known.

Flow guesses where a pixel went in two dimensions, and where something thin or near jumps it follows the
background. With the cameras known only the inverse depth is left to guess: every pixel tries PLANES of them
(Collins 1996), every frame that sees it has one say, and semi-global matching chooses (Hirschmueller 2008); the better
side in time alone, against occlusions (Kang et al. 2001), was 4 % worse on validation. Then every frame is swept once
more, and where the others are sure, their depth speaks instead of their picture: 9 % better. Believed is what the depth
maps of other frames confirm. All maps lie at half the resolution of the frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ss3d_lib.geometry import inside, pixel_grid, sample
from ss3d_lib.models.matching import box, gradients, local_moments
from ss3d_lib.models.triangulation import MIN_Z, PARALLAX_PX, DepthEvidence, half_grid
from ss3d_lib.twoview import length, to_rays

PLANES = 48  # hypotheses per pixel; on validation 32 were 3 % worse, 64 no better
REACH = (-1.8, 2.2)  # log inverse depths tried: 6x farther to 9x nearer than the frame's middle
DEVIATION_WINDOW, DEVIATION_FLOOR = 5, 0.007  # pixels and grey values; on validation 3 and 7, 0.01 and 0.015 were worse
MEAN_SHARE = 0.25  # of the local mean is taken off: slow shading tells little
GAIN, SATURATION = 2.1, 2.2  # of gradients over deviation: a strong edge would silence the weak texture beside it
UNSEEN = 0.6  # cost of a hypothesis that no frame sees; a mismatch costs 1
COST_WINDOW = 3  # pixels over which costs are averaged; 1 and 5 were worse on validation
ONE_PLANE, MORE_PLANES = 0.08, 6.0  # price of a step between neighbours; 4 to 12 are alike on validation; 8 with EDGE 3 loses thin posts
MATCH = 0.6  # only what matches better than this is confirmed: smooth mistakes confirm each other, but do not look alike
TOLD, TOLD_LOG = 0.8, 0.2  # weight of a depth that is told for certain; difference of log depth at which it contradicts
EDGE = 4.0  # a step in depth is cheaper where the picture changes
AGREE_PX, AGREE_LOG = 1.0, 0.15  # another frame confirms a depth that it sees within so much
MATCHES = 0.3  # weight of triangulated matches beside the sweep, which is the more precise of the two
CONFLICT = 0.2  # difference of log depth at which two estimates contradict each other


@dataclass(frozen=True)
class Views:
    """The S other frames with which each of F frames is compared."""

    index: Tensor  # (F, S) int: place of the other frame among the F
    exists: Float[Tensor, "F S"]
    rotation: Float[Tensor, "F S 3 3"]  # other_from_frame
    translation: Float[Tensor, "F S 3"]
    focal_px: Float[Tensor, "F"]


@dataclass(frozen=True)
class Sweep:
    """What a plane sweep says of F frames."""

    log_inverse_depth: Float[Tensor, "F h w"]  # of every pixel, in the scale of the translations
    agreed: Float[Tensor, "F h w"]  # in [0, 1): share of the other frames that confirm it
    parallax: Float[Tensor, "F h w"]  # in [0, 1): whether there is parallax to see depth by


@dataclass(frozen=True)
class Landing:
    """Where D hypotheses at every pixel of one frame are seen in the O other frames that there are."""

    slots: Int[Tensor, "O"]  # among the S of Views
    others: Int[Tensor, "O"]  # their places among the F frames
    place: Float[Tensor, "O D h w 2"]  # from -1 to 1, as grid_sample has it
    seen: Float[Tensor, "O D h w"]  # 1 where it is in front of the other camera and on its picture
    log_inverse_depth: Float[Tensor, "O D h w"]  # of the hypothesis, seen from there

    def sample(self, maps: Float[Tensor, "F C h w"]) -> Float[Tensor, "O C D h w"]:
        """The other frames' maps at these places."""
        there = F.grid_sample(maps[self.others], self.place.flatten(1, 2), padding_mode="border", align_corners=True)
        return there.unflatten(2, self.seen.shape[1:3])


@torch.no_grad()
def plane_sweeps(
    frames: Float[Tensor, "F 3 H W"], views: Views, middle: Float[Tensor, "F"], kept: Float[Tensor, "K F S"] | None = None, looks: int = 2
) -> list[Sweep]:
    """Depth of every pixel of every frame.

    Args:
        middle: inverse depth around which each frame is searched.
        kept: K choices of the views that exist; one sweep is made of each, at little more than the price of one. All by default.
        looks: 1 for a quick one, without the second that hears what the others are sure of.
    """
    choices = views.exists[None] if kept is None else kept * views.exists
    half = F.avg_pool2d(frames, 2)
    logs = torch.linspace(*REACH, PLANES, device=frames.device)
    rho = middle[:, None] * logs.exp()

    def landings() -> Iterator[Landing]:  # made anew for every look: 1 GB for 27 frames
        return (land(views, k, rho[k], half.shape[-2:]) for k in range(len(frames)))

    def search(costs: Float[Tensor, "K F D h w"]) -> list[Sweep]:
        found = []
        for cost, picture_cost, exists in zip(costs, unlike, choices):
            log_offset, plane = lowest(semi_global(cost, half), logs)
            log_inverse = log_offset + middle.log()[:, None, None]
            agreed, parallax = confirmed(log_inverse, replace(views, exists=exists), middle)
            alike = picture_cost.gather(1, plane)[:, 0] < MATCH
            found.append(Sweep(log_inverse, agreed * alike, parallax))
        return found

    described, pictures, unlike = describe(half), [], []
    for k, landing in enumerate(landings()):
        pictures.append(picture_gap(described, k, landing))
        unlike.append(average(pictures[k].expand(len(choices), -1, -1, -1, -1), landing, choices[:, k]))
    unlike = torch.stack(unlike, dim=1)
    found = search(unlike)
    if looks == 1:
        return found
    told = torch.stack([torch.stack([sweep.log_inverse_depth, sweep.agreed], dim=1) for sweep in found])
    costs = [average(told_gap(pictures[k], told, landing), landing, choices[:, k]) for k, landing in enumerate(landings())]
    return search(torch.stack(costs, dim=1))


def describe(half: Float[Tensor, "F 3 h w"]) -> Float[Tensor, "F 2 h w"]:
    """What is compared: gradients over the local deviation, blind to exposure, none of them longer than GAIN * SATURATION.

    Gradients of `local_contrast` would carry an edge to all of its window, so that the background beside it moves as it does:
    5 % worse on validation.
    """
    grey = half.mean(1, keepdim=True)
    mean, deviation = local_moments(grey, DEVIATION_WINDOW)
    slopes = torch.cat(gradients(grey - MEAN_SHARE * mean), dim=1) / (deviation + DEVIATION_FLOOR)
    return GAIN * slopes / (1 + slopes.norm(dim=1, keepdim=True) / SATURATION)


def land(views: Views, index: int, rho: Float[Tensor, "D"], size: tuple[int, int]) -> Landing:
    """Where inverse depths rho at every pixel of one frame's map are seen from the frames that it is compared with."""
    height, width = size
    centre = rho.new_tensor([width - 0.5, height - 0.5])
    rays = to_rays((half_grid(height, width, rho.device) - centre).reshape(1, -1, 2), views.focal_px[index : index + 1])
    to_edge = views.focal_px[index] / rho.new_tensor([width - 1.0, height - 1.0])  # normalised: the last pixels are at 1
    slots = torch.nonzero(views.exists[index] > 0)[:, 0]
    turned, shift = views.rotation[index, slots] @ rays, views.translation[index, slots]
    x, y, z = (turned[:, axis, None] + shift[:, axis, None, None] * rho[:, None] for axis in range(3))
    depth = z.clamp(min=MIN_Z)
    x, y = x / depth * to_edge[0], y / depth * to_edge[1]
    seen = ((x.abs() <= 1) & (y.abs() <= 1) & (z > MIN_Z)).float()
    maps = torch.stack([x, y], dim=-1), seen, (rho[:, None] / depth).log()
    return Landing(slots, views.index[index, slots], *(values.unflatten(2, size) for values in maps))


def to_pixels(point: Float[Tensor, "P 3 n"], focal_px: Float[Tensor, "P"]) -> Float[Tensor, "P n 2"]:
    """Where points in a camera's frame are seen, from the image centre; those behind it as if they were just before it."""
    return (point[:, :2] / point[:, 2:].clamp(min=MIN_Z) * focal_px[:, None, None]).transpose(1, 2)


def picture_gap(described: Float[Tensor, "F 2 h w"], index: int, landing: Landing) -> Float[Tensor, "O D h w"]:
    """How far one frame and what it is compared with look different, in [0, 1]; `described`: see `describe`."""
    return (landing.sample(described) - described[index, :, None]).abs().clamp(max=2).mean(1).clamp(max=1)


def told_gap(picture: Float[Tensor, "O D h w"], told: Float[Tensor, "K F 2 h w"], landing: Landing) -> Float[Tensor, "K O D h w"]:
    """The picture's gap, but where another frame is sure of a depth how far it contradicts the hypothesis.

    Args:
        told: of K earlier sweeps, the log inverse depth and how far it is agreed.
    """
    depth, sure = landing.sample(told.transpose(0, 1).flatten(1, 2)).unflatten(1, (-1, 2)).transpose(0, 1).unbind(2)
    contradiction = ((depth - landing.log_inverse_depth) / TOLD_LOG).abs().clamp(max=1)
    return picture + TOLD * sure * (contradiction - picture)


def average(gap: Float[Tensor, "K O D h w"], landing: Landing, choices: Float[Tensor, "K S"]) -> Float[Tensor, "K D h w"]:
    """Mean gap over the frames that see a hypothesis and over a small window, for K choices of views."""
    chosen = choices[:, landing.slots]
    total = box(torch.einsum("ko,kodhw->kdhw", chosen, gap * landing.seen), COST_WINDOW)
    count = box(torch.einsum("ko,odhw->kdhw", chosen, landing.seen), COST_WINDOW)
    return torch.where(count > 0.2, total / count.clamp(min=0.2), UNSEEN)


def semi_global(cost: Float[Tensor, "F D h w"], half: Float[Tensor, "F 3 h w"]) -> Float[Tensor, "F D h w"]:
    """Costs summed along eight paths (Hirschmueller 2008, eq. 13): neighbours should lie on the same or the next plane."""
    total = torch.zeros_like(cost)
    for dim, slants in ((3, (0,)), (2, (-1, 0, 1))):
        lines, image = cost.movedim(dim, 0).contiguous(), half.movedim(dim, 0)
        for slant in slants:
            total += path_costs(lines, image, slant).movedim(0, dim)
            total += path_costs(lines.flip(0), image.flip(0), slant).flip(0).movedim(0, dim)
    return total


def path_costs(lines: Float[Tensor, "L F D n"], image: Float[Tensor, "L F 3 n"], slant: int) -> Float[Tensor, "L F D n"]:
    """Least costs of the paths that come from the line before, `slant` pixels aside, at every pixel of every line."""
    edges = (image[1:] - shifted(image[:-1], slant)).abs().mean(2, keepdim=True)
    prices = MORE_PLANES * torch.exp(-EDGE * edges)
    path = lines.clone()
    for line in range(1, len(lines)):
        before = shifted(path[line - 1], slant)
        least = before.amin(1, keepdim=True)
        best = torch.minimum(before, least + prices[line - 1])
        best[:, 1:] = torch.minimum(best[:, 1:], before[:, :-1] + ONE_PLANE)
        best[:, :-1] = torch.minimum(best[:, :-1], before[:, 1:] + ONE_PLANE)
        path[line] += best - least
    return path


def shifted(x: Float[Tensor, "*B n"], places: int) -> Float[Tensor, "*B n"]:
    """Moved to the right along the last dimension; zero, where a path begins, comes in."""
    return F.pad(x, (places, -places)) if places else x


def lowest(
    cost: Float[Tensor, "F D h w"], logs: Float[Tensor, "D"]
) -> tuple[Float[Tensor, "F h w"], Int[Tensor, "F 1 h w"]]:
    """The value with the lowest cost, between the planes by a parabola through three of them, and the plane it is nearest to."""
    best = cost.argmin(1, keepdim=True)
    middle = best.clamp(1, len(logs) - 2)
    left, here, right = (cost.gather(1, middle + offset) for offset in (-1, 0, 1))
    offset = ((left - right) / (2 * (left - 2 * here + right)).clamp(min=1e-6)).clamp(-0.5, 0.5)
    return (logs[best] + (logs[1] - logs[0]) * offset * (best == middle))[:, 0], best


def confirmed(
    log_inverse: Float[Tensor, "F h w"], views: Views, middle: Float[Tensor, "F"]
) -> tuple[Float[Tensor, "F h w"], Float[Tensor, "F h w"]]:
    """How far the other frames' depth maps agree, and how far there is parallax (of the pixel or of the middle depth)."""
    count, height, width = log_inverse.shape
    centre = log_inverse.new_tensor([width - 0.5, height - 0.5])
    own = (half_grid(height, width, log_inverse.device) - centre).reshape(1, -1, 2).expand(count, -1, -1)
    rays, rho = to_rays(own, views.focal_px), log_inverse.exp().flatten(1)
    project = lambda point: to_pixels(point, views.focal_px)  # noqa: E731
    good = seen = torch.zeros_like(rho)
    moved_px = torch.zeros_like(rho)
    for slot in range(views.index.shape[1]):
        rotation, translation = views.rotation[:, slot], views.translation[:, slot, :, None]
        turned = rotation @ rays
        point = turned + translation * rho[:, None]
        pixels = project(point)
        place = ((pixels + centre - 0.5) / 2).view(count, height, width, 2)
        theirs = sample(log_inverse[views.index[:, slot]][:, None], place)[:, 0].flatten(1)
        back = rotation.transpose(1, 2) @ (to_rays(pixels, views.focal_px) - translation * theirs.exp()[:, None])
        miss_px = length(project(back) - own)
        miss_log = (theirs - rho.log() + point[:, 2].clamp(min=MIN_Z).log()).abs()
        ok = inside(place, height, width).flatten(1) * (point[:, 2] > MIN_Z) * views.exists[:, slot, None]
        good = good + ok * (miss_px < AGREE_PX) * (miss_log < AGREE_LOG)
        seen = seen + ok
        nearer = torch.maximum(rho, middle[:, None])
        shift_px = length(project(turned + translation * nearer[:, None]) - project(turned)) * views.exists[:, slot, None]
        moved_px = torch.maximum(moved_px, shift_px)
    shape = log_inverse.shape
    parallax = 1 / (1 + (PARALLAX_PX / moved_px.clamp(min=1e-3)) ** 4)
    return (good / (seen + 0.5)).view(shape), parallax.view(shape)


def blend(
    log_inverse: Float[Tensor, "F H W"], log_std: Float[Tensor, "F H W"], views: Views
) -> Float[Tensor, "F H W"]:
    """Log inverse depth of every frame, averaged with what the other frames that nearly agree say of the same points.

    Args:
        log_inverse: in the scale of the translations. log_std: log of its standard error.
    """
    count, height, width = log_inverse.shape
    centre = log_inverse.new_tensor([width - 1.0, height - 1.0]) / 2
    own = (pixel_grid(height, width, log_inverse.device) - centre).reshape(1, -1, 2).expand(count, -1, -1)
    rays, rho = to_rays(own, views.focal_px), log_inverse.exp().flatten(1)
    weight = (-2 * log_std).exp().flatten(1)
    total = weight * log_inverse.flatten(1)
    for slot in range(views.index.shape[1]):
        rotation, translation = views.rotation[:, slot], views.translation[:, slot, :, None]
        point = rotation @ rays + translation * rho[:, None]
        pixels = to_pixels(point, views.focal_px)
        place = (pixels + centre).view(count, height, width, 2)
        others = torch.stack([log_inverse, log_std], dim=1)[views.index[:, slot]]
        theirs, their_std = sample(others, place).flatten(2).unbind(1)
        back = rotation.transpose(1, 2) @ (to_rays(pixels, views.focal_px) - translation * theirs.exp()[:, None])
        seen_again = theirs - back[:, 2].clamp(min=MIN_Z).log()  # their depth of the point, seen from here
        gap = theirs - rho.log() + point[:, 2].clamp(min=MIN_Z).log()
        ok = inside(place, height, width).flatten(1) * (point[:, 2] > MIN_Z) * views.exists[:, slot, None]
        share = ok * (-2 * their_std).exp() * torch.exp(-((gap / CONFLICT) ** 2))
        weight, total = weight + share, total + share * seen_again
    return (total / weight).view_as(log_inverse)


def fuse(found: DepthEvidence, sweep: Sweep) -> DepthEvidence:
    """Triangulated matches and the sweep together: where they agree their mean, where not the more certain, with less weight."""
    weight, found_weight = sweep.agreed * sweep.parallax, MATCHES * found.weight
    gap = found.log_inverse_depth - sweep.log_inverse_depth
    agree = torch.exp(-((gap / CONFLICT) ** 2))
    share = weight / (found_weight + weight + 1e-6)
    share = agree * share + (1 - agree) * (share > 0.5)
    return DepthEvidence(
        found.log_inverse_depth - gap * share,
        torch.maximum(found_weight, weight) - (1 - agree) * torch.minimum(found_weight, weight),
        found.moving,
        sweep.log_inverse_depth,
        sweep.parallax,
    )
