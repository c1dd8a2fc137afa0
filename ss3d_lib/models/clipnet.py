"""The clip network: frames in; depth, ego-motion and focal length out, in one forward pass."""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import invert_pose
from ss3d_lib.models.camera import FocalBelief, FocalHead, clip_curves, match_weight, pick_matches, pick_prior
from ss3d_lib.models.depth import EVIDENCE_CHANNELS, DepthNet
from ss3d_lib.models.matching import Matcher, Matches
from ss3d_lib.models.trajectory import PairGraph, build_trajectory, solve_scales
from ss3d_lib.models.triangulation import DepthEvidence, as_channels, fuse, halve, triangulate
from ss3d_lib.twoview import Motion, solve_motion, weighted_median

GAPS = (1, 2, 4)  # frame distances that are matched; the longer ones carry the parallax
SIZES = {"tiny": "resnet10t", "base": "resnet18"}  # encoder of each named size; any timm name works


@dataclass(frozen=True)
class ClipPrediction:
    """What one forward pass says of B clips of N frames; frame i has its own depth, the clip one focal length."""

    depth: Float[Tensor, "B N H W"]  # z-depth; one arbitrary scale per clip
    log_depth_std: Float[Tensor, "B N H W"]
    tgt_from_src: Float[Tensor, "B M 4 4"]  # frame i + 1 from frame i, in the clip's scale
    world_from_cam: Float[Tensor, "B N 4 4"]  # the first frame is the world
    focal: FocalBelief
    moving: Float[Tensor, "B N H W"]  # in [0, 1]: breaks the epipolar geometry
    trust: Float[Tensor, "B"]  # in [0, 1]: share of the view that the motion could triangulate

    @property
    def focal_px(self) -> Float[Tensor, "B"]:
        """Focal length in pixels; the principal point is assumed at the image centre."""
        return self.focal.mean_px


@dataclass(frozen=True)
class Observation:
    """Matches of all pairs of a batch of clips, and their residual at every focal candidate."""

    matches: Matches
    curve: Float[Tensor, "B C"]
    summary: Float[Tensor, "B 3"]
    candidates_px: Float[Tensor, "C"]
    prior: Float[Tensor, "P M"]  # log inverse depth of the pictures alone, at the matches of the forward pairs


class ClipNet(nn.Module):
    """Matcher, focal head and depth network around parameter-free two-view geometry."""

    def __init__(self, size: str = "tiny"):
        super().__init__()
        self.size = size
        self.matcher = Matcher()
        self.focal_head = FocalHead()
        self.depth_net = DepthNet(SIZES.get(size, size))

    def forward(self, frames: Float[Tensor, "B N 3 H W"]) -> ClipPrediction:
        """Everything about the clips, from frames with values in [0, 1]."""
        seen = self.observe(frames)
        return self.explain(frames, seen, self.focal_head(seen.curve, seen.summary, seen.candidates_px))

    def observe(self, frames: Float[Tensor, "B N 3 H W"]) -> Observation:
        """Match all pairs of frames and score every focal candidate; depth only breaks ties (see solve_motion)."""
        clips, count = frames.shape[:2]
        if count < 2:
            raise ValueError(
                f"a clip needs at least 2 frames, got {count}: motion and focal length show between frames"
            )
        matches = self.matcher(frames, GAPS)
        prior = self.imagine(frames)[PairGraph.starts(clips, count, GAPS)]
        return Observation(matches, *clip_curves(matches, clips, prior), prior)

    def imagine(self, frames: Float[Tensor, "B N 3 H W"]) -> Float[Tensor, "F M"]:
        """Log inverse depth that each picture alone suggests, at the grid of matches."""
        height, width = frames.shape[-2:]
        nothing = frames.new_zeros(frames.shape[0] * frames.shape[1], EVIDENCE_CHANNELS, height // 2, width // 2)
        return pick_prior(self.depth_net(frames.flatten(0, 1), nothing)[0], height, width)

    def explain(self, frames: Float[Tensor, "B N 3 H W"], seen: Observation, focal: FocalBelief) -> ClipPrediction:
        """Motion, depth and trajectory of the clips under a belief about their focal length."""
        clips, count, _, height, width = frames.shape
        graph = PairGraph.of(count, GAPS)
        pairs = len(graph.first)
        motion, quality, evidence = self.measure(seen, focal.mean_px.repeat_interleave(pairs), clips, pairs)
        fused = fuse(by_frame(evidence, graph, clips), clips * count, 2 * len(GAPS))
        log_inverse, log_std = self.depth_net(frames.flatten(0, 1), as_channels(fused))
        offset, weight = depth_offsets(evidence, log_inverse, graph, clips)
        log_scale, log_length = solve_scales(graph, offset, weight)
        translation = motion.direction.view(clips, pairs, 3) * log_length.exp()[..., None]
        world_from_cam = build_trajectory(
            graph, motion.rotation.view(clips, pairs, 3, 3), translation, quality.view(clips, pairs)
        )
        resize = lambda x: F.interpolate(x[:, None], (height, width), mode="bilinear", align_corners=False).view(
            clips, count, height, width
        )  # noqa: E731
        depth = (-(resize(log_inverse) - log_scale[..., None, None])).exp()
        cam_from_world = invert_pose(world_from_cam)
        return ClipPrediction(
            depth,
            resize(log_std).exp(),
            cam_from_world[:, 1:] @ world_from_cam[:, :-1],
            world_from_cam,
            focal,
            resize(fused.moving).clamp(0, 1),
            fused.weight.view(clips, -1).mean(1),
        )

    def measure(
        self, seen: Observation, focal_px: Float[Tensor, "P"], clips: int, pairs: int
    ) -> tuple[Motion, Tensor, DepthEvidence]:
        """Motion of every forward pair, its quality in [0, 1], and depth evidence of all directed pairs."""
        half, matches = clips * pairs, seen.matches
        p, q, weight = pick_matches(Matches(matches.flow[:half], matches.sigma_px[:half], matches.valid[:half]))
        motion = solve_motion(p, q, weight, focal_px, seen.prior)
        quality = (1 - motion.residual).clamp(min=0.01) * weight.mean(1).clamp(min=1e-3)
        both = both_ways(motion)
        evidence = triangulate(halve(matches.flow), halve(match_weight(matches)), both, focal_px.repeat(2))
        return motion, quality, evidence


def both_ways(motion: Motion) -> Motion:
    """The motions, followed by their inverses (direction of the inverse: -R' t)."""
    back = motion.rotation.transpose(1, 2)
    direction = -(back @ motion.direction[..., None])[..., 0]
    return Motion(
        torch.cat([motion.rotation, back]), torch.cat([motion.direction, direction]), motion.residual.repeat(2)
    )


def by_frame(evidence: DepthEvidence, graph: PairGraph, clips: int) -> DepthEvidence:
    """Sort the maps of directed pairs under the frame that they describe; missing pairs weigh nothing."""
    at_frame = torch.cat([graph.first, graph.second])
    slots = torch.zeros(graph.frames, dtype=torch.long)
    slot = torch.empty_like(at_frame)
    for index, frame in enumerate(at_frame.tolist()):
        slot[index] = slots[frame]
        slots[frame] += 1
    place = at_frame * 2 * len(GAPS) + slot

    def arrange(maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        directed = maps.view(2, clips, -1, height, width).transpose(0, 1).reshape(clips, -1, height, width)
        table = maps.new_zeros(clips, graph.frames * 2 * len(GAPS), height, width)
        return table.index_copy(1, place.to(maps.device), directed).flatten(0, 1)

    return DepthEvidence(arrange(evidence.log_inverse_depth), arrange(evidence.weight), arrange(evidence.moving))


def depth_offsets(
    evidence: DepthEvidence, log_inverse: Float[Tensor, "F a b"], graph: PairGraph, clips: int
) -> tuple[Tensor, Tensor]:
    """Median log ratio of triangulated to predicted inverse depth of each directed pair, and its weight."""
    height, width = evidence.weight.shape[-2:]
    predicted = F.interpolate(log_inverse[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
    at_frame = torch.cat([graph.first, graph.second])
    base = torch.arange(clips)[:, None] * graph.frames
    directed = torch.cat([(base + half).reshape(-1) for half in at_frame.split(len(graph.first))])
    gap = (evidence.log_inverse_depth - predicted[directed]).flatten(1)
    weight = evidence.weight.flatten(1)
    offset, total = weighted_median(gap, weight + 1e-6), weight.mean(1)
    shape = lambda x: x.view(2, clips, -1).transpose(0, 1).reshape(clips, -1)  # noqa: E731
    return shape(offset), shape(total)
