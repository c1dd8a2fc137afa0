"""Stage 1's teacher: the focal length and the motions of every shot, before any depth (notebook 03).

It is geometry itself: bundle adjustment of the cached optical flow of a whole shot gives its cameras and a
soft label over focal candidates. The network then learns to reach them from few frames of its own
(ss3d_lib.camera_losses).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.data import (
    Cameras,
    Shot,
    chain_flow,
    frames_tensor,
    save_cameras,
)
from ss3d_lib.models.bundle import Neighbours, adjust, relative, robust_loss, start_bundle
from ss3d_lib.models.calibration import FIXED_STEPS, ClipMatches, Solution, focal_profile, solve_clips
from ss3d_lib.models.camera import MATCH_STEP, FocalBelief, ordinary_cameras, summarise
from ss3d_lib.models.matching import NOISE, box, gradients, local_contrast, weaker_eigenvalue
from ss3d_lib.models.trajectory import GAPS, PairGraph
from ss3d_lib.models.triangulation import half_grid
from ss3d_lib.shotwork import write_per_shot

WINDOW, WINDOWS = 12, 3  # frames and number of the clips of a shot that its focal length is read from
SHORT_CLIPS = (3, 5, 8)  # lengths of the clips that the focal head learns from
GROUND_SLOPE = 1.0  # log inverse depth over one longer image side, downwards: what is low in the picture is near
TEACHER_SHARPNESS = 400.0  # posterior = exp(-sharpness * residual) times ordinary cameras'; its calibration is checked on validation


def texture_weight(frames: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w"]:
    """Weight in [0, 1] at half resolution: flat windows say nothing about motion."""
    gx, gy = gradients(local_contrast(F.avg_pool2d(frames.mean(1, keepdim=True), 2)))
    xx, xy, yy = box(torch.cat([gx * gx, gx * gy, gy * gy], dim=1), 5).split(1, dim=1)
    weaker = weaker_eigenvalue(xx, xy, yy)
    return (weaker / (weaker + NOISE))[:, 0]


def shot_matches(shot: Shot) -> dict[tuple[int, bool], tuple[Tensor, Tensor]]:
    """Where a regular grid of points of every frame goes over so many steps (forward or backward), and weights.

    Returns:
        {(steps, backward): (q (T, M, 2) in pixels from the image centre, weight (T, M) in [0, 1])}
    """
    starts = list(range(len(shot.frames)))
    texture = texture_weight(frames_tensor(list(shot.frames)))
    found = {}
    for backward in (False, True):
        for steps, (flow, valid) in chain_flow([shot] * len(starts), starts, GAPS, backward).items():
            q = grid_points(shot) + thin_grid(flow).flatten(1, 2)
            found[steps, backward] = q, thin_grid(valid * texture).flatten(1)
    return found


def thin_grid(x: Float[Tensor, "B h w *C"]) -> Float[Tensor, "B a b *C"]:
    """Values of half-resolution maps where `pick_matches` reads full-resolution ones (to half a pixel)."""
    every = MATCH_STEP // 2
    return x[:, every // 2 :: every, every // 2 :: every]


def grid_points(shot: Shot) -> Float[Tensor, "M 2"]:
    """The grid's points, in pixels from the image centre."""
    height, width = shot.forward.shape[1:3]
    centre = torch.tensor([width - 0.5, height - 0.5])
    return thin_grid((half_grid(height, width) - centre)[None]).flatten(0, 2)


def clip_of(shot: Shot, found: dict[tuple[int, bool], tuple[Tensor, Tensor]], clips: list[list[int]]) -> ClipMatches:
    """The matches of clips of equally many frames of a shot, one stride apart."""
    graph, index = PairGraph.of(len(clips[0]), GAPS), torch.tensor(clips)
    parts = []
    for backward, start in ((False, graph.first), (True, graph.second)):
        for gap, at in zip((graph.second - graph.first).tolist(), start.tolist()):
            parts.append([values[index[:, at]] for values in found[gap, backward]])
    q, weight = (torch.stack(values, dim=1) for values in zip(*parts))
    p = grid_points(shot)
    prior = GROUND_SLOPE * p[:, 1] / max(shot.size)
    return ClipMatches(graph, p, q, weight, prior.expand(*index.shape, -1), max(shot.size))


def estimate_cameras(shot: Shot, sharpness: float = TEACHER_SHARPNESS) -> Cameras:
    """Focal length and motions of one shot from its cached flow, without a depth network.

    The focal length comes from up to three clips of every stride-th frame; under it, the cameras of all frames are
    solved, one clip for each of the interleaved series.
    """
    found = shot_matches(shot)
    series = [list(range(first, len(shot.frames), shot.stride)) for first in range(shot.stride)]
    curve, candidates_px = focal_profile(solve_clips(clip_of(shot, found, parts_of(series[0], WINDOW, WINDOWS))))
    log_probability = (-sharpness * curve.mean(0) + ordinary_cameras().log_probability[0]).log_softmax(0)
    focal_px = FocalBelief(candidates_px, log_probability[None]).mean_px
    motions = empty_motions(shot)
    for length in sorted({len(frames) for frames in series} - {1}):
        alike = [frames for frames in series if len(frames) == length]
        clips = clip_of(shot, found, alike)
        solution = solve_clips(clips, focal_px.expand(len(alike)))
        note_motions(motions, clips.graph, alike, solution)
        if alike[0] is series[0]:
            curves, summaries = short_clips(shot, found, series[0], solution)
    pick = lambda index: {steps: values[index] for steps, values in motions.items()}  # noqa: E731
    return Cameras(
        float(focal_px), log_probability.numpy(), curves.numpy(), summaries.numpy(), pick(0), pick(1), pick(2)
    )


def parts_of(frames: list[int], length: int, most: int) -> list[list[int]]:
    """Up to so many parts of a list, of at most that length, spread evenly over it."""
    length = min(length, len(frames))
    count = min(most, -(-len(frames) // length))
    starts = torch.linspace(0, len(frames) - length, count).round().long().tolist()
    return [frames[start : start + length] for start in starts]


def short_clips(shot: Shot, found, frames: list[int], solution: Solution) -> tuple[Tensor, Tensor]:
    """Curves (K, C) and summaries (K, 3) of short clips, each solved anew from the cameras of the whole."""
    curves, summaries = [], []
    for length in SHORT_CLIPS:
        clip = clip_of(shot, found, [frames[:length]])
        near = Neighbours.of(clip.graph)
        seen = clip.sightings(near)
        start = start_bundle(solution.world_from_cam[:1, :length], solution.bundle.log_focal[:1].exp(), near, seen)
        curve, _ = focal_profile(Solution(*adjust(start, near, seen, FIXED_STEPS), near, seen))
        curves.append(curve)
        summaries.append(summarise(curve, clip.q - clip.p, clip.weight))
    return torch.cat(curves), torch.cat(summaries)


def empty_motions(shot: Shot) -> dict[int, tuple]:
    """Rotations, translations and residuals of all pairs at each number of steps, to be filled in."""
    counts = {steps: shot.starts(steps) for steps in GAPS}
    return {
        steps: (np.tile(np.eye(3, dtype=np.float32), (n, 1, 1)), np.zeros((n, 3), np.float32), np.ones(n, np.float32))
        for steps, n in counts.items()
    }


def note_motions(motions: dict[int, tuple], graph: PairGraph, clips: list[list[int]], solution: Solution) -> None:
    """Write the forward pairs of solved clips under their first frame."""
    near, weight = solution.near, solution.seen.weight
    loss = robust_loss(solution.bundle, near, solution.seen)
    values = [*relative(solution.bundle, near), (loss * weight).sum(-1) / weight.sum(-1).clamp(min=1e-3)]
    for pair, (first, second) in enumerate(zip(graph.first.tolist(), graph.second.tolist())):
        slot = int(torch.nonzero(near.order[first] == pair)[0, 0])
        for store, value in zip(motions[second - first], values):
            for clip, frames in enumerate(clips):
                store[frames[first]] = value[clip, first, slot].numpy()


def write_cameras(shot: Shot, path: Path, sharpness: float) -> None:
    """Write the cameras of a shot."""
    save_cameras(path, estimate_cameras(shot, sharpness))


def estimate_all(curate: str, score: str, out: str, sharpness: float, workers: int) -> dict[str, str]:
    """Cameras of all kept shots, several shots at a time, with progress; returns the errors by shot."""
    return write_per_shot(write_cameras, (sharpness,), curate, score, out, workers, "cameras of shots")
