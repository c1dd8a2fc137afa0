"""The focal length and the cameras of a clip: many starts, the best bundle, and what every other focal length costs.

Gauss-Newton finds the nearest minimum; which one that is depends on the focal length that the pairs were first
solved with, on which side of a mirror they fell (Necker's cube), and how far off a match may be and still count: a
scale that shrinks slowly from far above leaves wrong valleys, a short one keeps to right ones (graduated
non-convexity). So each clip starts from several focal lengths, each way round, by two searches on a third of its
points; the two cheapest of each are finished on all of them, and the best one goes on without what biases it
(`bundle.settled`). No gradient flows through the search: the parts of the network have losses of their own
(notebooks 03 and 04).
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import invert_pose, rigid, so3_exp, so3_log
from ss3d_lib.models.bundle import Bundle, Neighbours, Sightings, adjust, focal_gap, settled, start_bundle
from ss3d_lib.models.trajectory import PairGraph, build_trajectory, solve_scales
from ss3d_lib.twoview import (
    NUM_FOCALS,
    Motion,
    epipolar_error_px,
    focal_candidates,
    inverse_depth,
    parallax_px,
    solve_motion,
    to_rays,
    weighted_median,
)

START_FOCALS = (0.5, 0.8, 1.25, 1.8)  # of the longer image side
FINISH_STEPS, SETTLE_STEPS, PROFILE_STEPS, FIXED_STEPS = 15, 12, 5, 8  # Gauss-Newton iterations
FINISHED = 2  # starts of each search that are finished
SEARCH_POINTS = PROFILE_POINTS = 1500  # points in all frames of a clip, at most, while seeking and profiling; of 350, 1500 and all the best


@dataclass(frozen=True)
class Search:
    """Gauss-Newton iterations, and the multiples of the robust scale on the first half of their way."""

    steps: int
    anneal: tuple[float, ...]


SEARCHES = (Search(12, (8.0, 4.0, 2.0)), Search(40, (128.0, 32.0, 8.0, 2.0)))
# of 80 planted clips that turn by 0.6 to 1.5 rad, a fifth to a half of their matches wrong, the first alone finds 33, both 69


@dataclass(frozen=True)
class ClipMatches:
    """Matches of all directed pairs of B clips at M points of a grid: forward pairs first, then their reverses."""

    graph: PairGraph
    p: Float[Tensor, "M 2"]  # pixels from the image centre
    q: Float[Tensor, "B D M 2"]
    weight: Float[Tensor, "B D M"]
    prior: Float[Tensor, "B N M"]  # log inverse depth that each picture suggests, up to scale
    longer_side_px: float

    def sightings(self, near: Neighbours) -> Sightings:
        """The same, sorted under the frames where pairs start."""
        weight = self.weight[:, near.order] * near.exists[..., None].to(self.weight)
        return Sightings(self.p, self.q[:, near.order], weight, self.prior, self.longer_side_px)


Seen = TypeVar("Seen", ClipMatches, Sightings)


@dataclass(frozen=True)
class Solution:
    """The best bundle of each clip, what it costs (mean robust loss in [0, 1]), and what it was solved from."""

    bundle: Bundle
    cost: Float[Tensor, "B"]
    near: Neighbours
    seen: Sightings

    @torch.no_grad()
    def with_focal(self, focal_px: Float[Tensor, "B"]) -> "Solution":
        """The cameras under another focal length, which is held."""
        bundle, value = adjust(carry(self.bundle, focal_px), self.near, self.seen, FIXED_STEPS, free_focal=False)
        return Solution(bundle, value, self.near, self.seen)

    @property
    def focal_px(self) -> Float[Tensor, "B"]:
        """Focal length of each clip."""
        return self.bundle.log_focal.exp()

    @property
    def world_from_cam(self) -> Float[Tensor, "B N 4 4"]:
        """Camera poses; the first frame is the world."""
        poses = invert_pose(rigid(self.bundle.rotation, self.bundle.translation))
        return invert_pose(poses[:, :1]) @ poses


def first_cameras(
    matches: ClipMatches, focal_px: Float[Tensor, "B"], side: Float[Tensor, "B"]
) -> Float[Tensor, "B N 4 4"]:
    """world_from_cam poses from the motions of single pairs under a focal length.

    Args:
        side: 1 to prefer, of motions that fit alike, the one that the pictures suggest; -1 its mirror image.
    """
    graph, prior = matches.graph, side[:, None, None] * matches.prior
    clips, half = len(matches.q), len(graph.first)
    p = matches.p.expand(clips * half, -1, -1)
    q, weight = (value[:, :half].flatten(0, 1) for value in (matches.q, matches.weight))
    motion = solve_motion(p, q, weight, focal_px.repeat_interleave(half), prior[:, graph.first].flatten(0, 1))
    offset, known = scale_offsets(matches, motion, focal_px, prior)
    _, log_length = solve_scales(graph, offset, known)
    translation = motion.direction.view(clips, half, 3) * log_length.exp()[..., None]
    quality = (1 - motion.residual).clamp(min=0.01) * weight.mean(1).clamp(min=1e-3)
    return build_trajectory(graph, motion.rotation.view(clips, half, 3, 3), translation, quality.view(clips, half))


def scale_offsets(matches: ClipMatches, motion: Motion, focal_px, prior) -> tuple[Tensor, Tensor]:
    """Median log ratio (B, D) of triangulated inverse depth to the prior's, of all directed pairs, and its weight."""
    graph, (clips, directed) = matches.graph, matches.weight.shape[:2]
    both = both_ways(motion, clips)
    p = matches.p.expand(clips * directed, -1, -1)
    q, focal = matches.q.flatten(0, 1), focal_px.repeat_interleave(directed)
    rho, _ = inverse_depth(both, to_rays(p, focal), to_rays(q, focal))
    fits = torch.exp(-(epipolar_error_px(both, p, q, focal) ** 2))
    precise = ((parallax_px(both, p, q, focal) - 0.5) / 1.5).clamp(0, 1)
    known = matches.weight.flatten(0, 1) * fits * precise * (rho > 1e-4)
    start = torch.cat([graph.first, graph.second])
    gap = rho.clamp(min=1e-4).log() - prior[:, start].flatten(0, 1)
    return weighted_median(gap, known + 1e-6).view(clips, directed), known.mean(1).view(clips, directed)


def both_ways(motion: Motion, clips: int) -> Motion:
    """The motions of each clip's pairs, followed by their inverses (direction of the inverse: -R' t)."""
    back = motion.rotation.transpose(1, 2)
    direction = -(back @ motion.direction[..., None])[..., 0]
    join = lambda a, b: torch.cat([a.unflatten(0, (clips, -1)), b.unflatten(0, (clips, -1))], 1).flatten(0, 1)  # noqa: E731
    return Motion(
        join(motion.rotation, back), join(motion.direction, direction), join(motion.residual, motion.residual)
    )


def thin(seen: Sightings, most: int) -> Sightings:
    """Every so many points, so that the frames of a clip have at most about that many in all."""
    frames, points = seen.prior.shape[1:]
    step = max(1, round(points * frames / most)) | 1  # odd: even steps would take whole columns of the grid
    part = slice(step // 2, None, step)
    return replace(
        seen, p=seen.p[part], q=seen.q[:, :, :, part], weight=seen.weight[..., part], prior=seen.prior[..., part]
    )


def repeated(seen: Seen, times: int) -> Seen:
    """What is seen of every clip, so many times in a row (`believed`, which refinement sets, is of no use here)."""
    many = {name: getattr(seen, name).repeat_interleave(times, 0) for name in ("q", "weight", "prior")}
    return replace(seen, **many)


@torch.no_grad()
def solve_clips(matches: ClipMatches, focal_px: Float[Tensor, "B"] | None = None) -> Solution:
    """Cameras and, unless it is given, focal length of each clip."""
    near = Neighbours.of(matches.graph)
    seen, clips, free = matches.sightings(near), len(matches.q), focal_px is None
    focals = torch.tensor(START_FOCALS) * matches.longer_side_px if free else focal_px[:, None]
    focals = focals.expand(clips, -1).repeat_interleave(2, 1)
    rows, cheapest = focals.shape[1], FINISHED if free else 1
    focals, side = focals.flatten(), torch.tensor([1.0, -1.0]).repeat(focals.numel() // 2)
    few = repeated(thin(seen, SEARCH_POINTS), rows)
    start = start_bundle(first_cameras(repeated(matches, rows), focals, side), focals, near, few)
    first_row, kept = torch.arange(clips)[:, None], []
    for search in SEARCHES:
        found, value = adjust(start, near, few, search.steps, search.anneal, free)
        order = value.view(clips, rows).argsort(1)[:, :cheapest] + rows * first_row
        kept.append((invert_pose(rigid(found.rotation[order], found.translation[order])), found.log_focal[order]))
    poses, log_focal = (torch.cat(values, 1).flatten(0, 1) for values in zip(*kept))
    finished = cheapest * len(SEARCHES)
    every = repeated(seen, finished)
    done, value = adjust(start_bundle(poses, log_focal.exp(), near, every), near, every, FINISH_STEPS, free_focal=free)
    best = done.rows(value.view(clips, finished).argmin(1) + finished * first_row[:, 0])
    seen = settled(best, seen)
    return Solution(*adjust(best, near, seen, SETTLE_STEPS, free_focal=free), near, seen)


def carry(bundle: Bundle, focal_px: Float[Tensor, "B"]) -> Bundle:
    """A bundle under another focal length: what moves the image by as many pixels as before."""
    ratio = (bundle.log_focal - focal_px.log()).exp()[:, None, None]
    first = bundle.rotation[:, :1].transpose(-1, -2)
    turn = so3_log((bundle.rotation @ first).flatten(0, 1)).unflatten(0, bundle.translation.shape[:2])
    shift = bundle.translation - (bundle.rotation @ first @ bundle.translation[:, :1, :, None])[..., 0]
    stretch = torch.cat([ratio, ratio, torch.ones_like(ratio)], dim=-1)
    return Bundle(
        so3_exp((turn * stretch).flatten(0, 1)).unflatten(0, turn.shape[:2]),
        shift * stretch,
        focal_px.log(),
        bundle.rho,
    )


@torch.no_grad()
def focal_profile(solution: Solution) -> tuple[Float[Tensor, "B C"], Float[Tensor, "C"]]:
    """What every candidate focal length costs, each with cameras and depths of its own, and the candidates in pixels.

    What is known of focal lengths beforehand is no part of it.
    """
    few = thin(solution.seen, PROFILE_POINTS)
    clips = len(few.q)
    candidates_px = focal_candidates(few.longer_side_px, few.q.device)
    seen, focal_px = repeated(few, NUM_FOCALS), candidates_px.repeat(clips)
    carried = carry(solution.bundle.rows(torch.arange(clips).repeat_interleave(NUM_FOCALS)), focal_px)
    world_from_cam = invert_pose(rigid(carried.rotation, carried.translation))
    start = start_bundle(world_from_cam, focal_px, solution.near, seen)
    _, value = adjust(start, solution.near, seen, PROFILE_STEPS, free_focal=False)
    value = value - seen.focal.weight * focal_gap(carried, seen) ** 2
    return value.view(clips, NUM_FOCALS), candidates_px
