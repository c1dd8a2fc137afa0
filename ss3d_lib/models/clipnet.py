"""The clip network: frames in; depth, ego-motion and focal length out, in one forward pass."""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import invert_pose
from ss3d_lib.models.calibration import ClipMatches, Solution, focal_profile, solve_clips
from ss3d_lib.models.camera import FocalBelief, FocalHead, match_weight, pick_matches, pick_prior, summarise
from ss3d_lib.models.depth import EVIDENCE_CHANNELS, DepthNet
from ss3d_lib.models.flatness import depth_shown
from ss3d_lib.models.matching import Matcher, Matches
from ss3d_lib.models.refinement import refine, refined_width, views_of
from ss3d_lib.models.sweep import Sweep, Views, blend, fuse, plane_sweeps
from ss3d_lib.models.trajectory import GAPS, PairGraph
from ss3d_lib.models.triangulation import (
    Correspondences,
    DepthEvidence,
    as_channels,
    centred,
    halve,
    middle_log,
    triangulate,
)
from ss3d_lib.twoview import weighted_median

TRUE_ERROR = 2.5  # times the errors that training sees, for evidence and target share mistakes; on validation 78 % of pixels in the 80 % interval
NEARER = 0.15  # standard errors nearer than its middle: of a wide belief the depth with the least relative error, on validation


@dataclass(frozen=True)
class ClipPrediction:
    """What one forward pass says of B clips of N frames; frame i has its own depth, the clip one focal length."""

    depth: Float[Tensor, "B N H W"]  # z-depth; one arbitrary scale per clip
    log_depth_std: Float[Tensor, "B N H W"]
    tgt_from_src: Float[Tensor, "B M 4 4"]  # frame i + 1 from frame i, in the clip's scale
    world_from_cam: Float[Tensor, "B N 4 4"]  # the first frame is the world
    focal: FocalBelief
    moving: Float[Tensor, "B N H W"]  # in [0, 1]: breaks the epipolar geometry
    trust: Float[Tensor, "B"]  # in [0, 1]: share of the view that the motion could triangulate; 0 where one homography explains all

    @property
    def focal_px(self) -> Float[Tensor, "B"]:
        """Focal length in pixels; the principal point is assumed at the image centre."""
        return self.focal.mean_px


@dataclass(frozen=True)
class Observation:
    """Matches of all pairs of a batch of clips, the cameras that explain them best, the cost of other focals, and how far they show depth."""

    matches: Matches
    solution: Solution
    curve: Float[Tensor, "B C"]
    summary: Float[Tensor, "B 3"]
    candidates_px: Float[Tensor, "C"]
    depth_shown: Float[Tensor, "B"]


class ClipNet(nn.Module):
    """Matcher, focal head and depth network around a parameter-free bundle adjustment."""

    def __init__(self, size: str = "tiny"):
        super().__init__()
        self.size = size
        self.matcher = Matcher()
        self.focal_head = FocalHead()
        self.depth_net = DepthNet(size)

    def forward(self, frames: Float[Tensor, "B N 3 H W"]) -> ClipPrediction:
        """Everything about the clips, from frames with values in [0, 1]."""
        seen = self.observe(frames)
        focal = self.focal_head(seen.curve, seen.summary, seen.candidates_px)
        solution = self.align(frames, seen, focal)
        return self.explain(frames, seen, solution, focal.moved(solution.focal_px, refined_width(focal)))

    def observe(self, frames: Float[Tensor, "B N 3 H W"]) -> Observation:
        """Match all pairs of frames, solve the cameras, and score every focal candidate."""
        clips, count = frames.shape[:2]
        if count < 2:
            raise ValueError(
                f"a clip needs at least 2 frames, got {count}: motion and focal length show between frames"
            )
        matches = self.matcher(frames, GAPS)
        p, q, weight = (by_clip(x, clips) for x in pick_matches(matches))
        prior, graph = self.imagine(frames).view(clips, count, -1), PairGraph.of(count, GAPS)
        solution = solve_clips(ClipMatches(graph, p[0, 0], q, weight, prior, max(frames.shape[-2:])))
        curve, candidates_px = focal_profile(solution)
        wide = graph.widest.repeat(2)  # the pairs that show most
        shown = depth_shown(p[0, 0], q[:, wide], weight[:, wide], max(frames.shape[-2:]) / 2)
        return Observation(matches, solution, curve, summarise(curve, q - p, weight), candidates_px, shown)

    def imagine(self, frames: Float[Tensor, "B N 3 H W"]) -> Float[Tensor, "F M"]:
        """Log inverse depth that the pictures alone suggest (the encoders of timm: each by itself), at the grid of matches."""
        clips, count, _, height, width = frames.shape
        nothing = frames.new_zeros(clips * count, EVIDENCE_CHANNELS, height // 2, width // 2)
        return pick_prior(self.depth_net(frames.flatten(0, 1), nothing, count)[0], height, width)

    @torch.no_grad()
    def align(self, frames: Float[Tensor, "B N 3 H W"], seen: Observation, focal: FocalBelief) -> Solution:
        """Cameras and focal length of the clips, which the matches have told so much of, aligned to the whole pictures."""
        solution = seen.solution.with_focal(focal.mean_px)
        quick, *_ = sweep(frames, seen.matches, solution, looks=1)
        return refine(frames.flatten(0, 1), solution, quick, focal)

    def explain(
        self, frames: Float[Tensor, "B N 3 H W"], seen: Observation, solution: Solution, focal: FocalBelief
    ) -> ClipPrediction:
        """Depth of the clips under these cameras, and all that is known of them; `focal` is only passed on."""
        clips, count, _, height, width = frames.shape
        with torch.no_grad():  # evidence is what it is; the depth network learns to read it
            swept, found, views = sweep(frames, seen.matches, solution, looks=2)
            evidence = fuse(found, swept)
        log_inverse, log_std = self.depth_net(frames.flatten(0, 1), as_channels(centred(evidence)), count)
        log_scale = frame_scales(evidence, log_inverse)
        resize = lambda x: F.interpolate(x[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]  # noqa: E731
        by_frame = lambda x: x.view(clips, count, height, width)  # noqa: E731
        log_std = resize(log_std)
        log_inverse = blend(resize(log_inverse + log_scale[:, None, None]), log_std, views)
        world_from_cam, std = solution.world_from_cam, TRUE_ERROR * log_std.exp()
        return ClipPrediction(
            by_frame((-log_inverse - NEARER * std).exp()),
            by_frame(std),
            invert_pose(world_from_cam[:, 1:]) @ world_from_cam[:, :-1],
            world_from_cam,
            focal,
            by_frame(resize(evidence.moving).clamp(0, 1)),
            evidence.weight.view(clips, -1).mean(1) * seen.depth_shown,
        )


def by_clip(x: Float[Tensor, "P *M"], clips: int) -> Float[Tensor, "B D *M"]:
    """Values of pairs, all forward ones clip by clip and then their reverses, sorted by clip."""
    return x.unflatten(0, (2, clips, -1)).transpose(0, 1).flatten(1, 2)


def sweep(
    frames: Float[Tensor, "B N 3 H W"], matches: Matches, solution: Solution, looks: int
) -> tuple[Sweep, DepthEvidence, Views]:
    """A plane sweep of all frames under the cameras of the solution, the triangulated matches around which it searched, and the views."""
    views = views_of(solution)
    table = lambda x: by_clip(x, len(frames))[:, solution.near.order].flatten(0, 1)  # noqa: E731
    weight = table(halve(match_weight(matches))) * views.exists[..., None, None]
    found = triangulate(
        Correspondences(table(halve(matches.flow)), weight, views.rotation, views.translation, views.focal_px)
    )
    return plane_sweeps(frames.flatten(0, 1), views, middle_log(found).exp(), looks=looks)[0], found, views


def frame_scales(evidence: DepthEvidence, log_inverse: Float[Tensor, "F a b"]) -> Float[Tensor, "F"]:
    """What brings each frame's log inverse depth to the scale of its clip's translations; 0 where nothing is known."""
    height, width = evidence.weight.shape[-2:]
    predicted = F.interpolate(log_inverse[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
    weight = evidence.weight.flatten(1)
    gap = weighted_median((evidence.log_inverse_depth - predicted).flatten(1), weight + 1e-9)
    known = weight.mean(1)
    return gap * known / (known + 1e-3)
