"""From relative motions of many frame pairs to one trajectory with one scale per clip.

Two linear least-squares problems give bundle adjustment its start. First the scales: each pair knows its
translation up to length and each frame its depth up to scale; where a pair triangulates, it ties the two
(log length of translation p less log scale of frame i = median log ratio). Then the poses: rotations are
averaged over all pairs (Hartley et al. 2013, chordal L2) and positions follow linearly.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import rigid

GAPS = (1, 2, 4)  # frame distances that are matched, in strides; the longer ones carry the parallax
STILL_LOG_LENGTH = -6.0  # a pair nobody can triangulate moved about e^-6 = 0.2 % of the scene's depth


@dataclass(frozen=True)
class PairGraph:
    """Pairs (first, second) of frames of one clip, all forward in time."""

    first: Tensor  # (P,) int
    second: Tensor
    frames: int

    @staticmethod
    def of(frames: int, gaps: tuple[int, ...] = GAPS) -> "PairGraph":
        """All pairs at the given gaps that fit; neighbours come first."""
        pairs = [(i, i + gap) for gap in gaps for i in range(frames - gap)]
        first, second = torch.tensor(pairs, dtype=torch.long).T
        return PairGraph(first, second, frames)

    @property
    def widest(self) -> Tensor:
        """(P,) bool: the pairs of the widest gap."""
        gap = self.second - self.first
        return gap == gap.max()


def solve_scales(
    graph: PairGraph, offset: Float[Tensor, "B D"], weight: Float[Tensor, "B D"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B P"]]:
    """Log scale of each frame's inverse depth and log length of each translation.

    Args:
        offset: median of (log triangulated inverse depth - log predicted inverse depth) at the first frame
            of each directed pair: all forward pairs, then their reverses.
        weight: how much each directed pair triangulates.
    """
    pairs, frames = len(graph.first), graph.frames
    at_frame = torch.cat([graph.first, graph.second])
    rows = torch.zeros(2 * pairs, frames + pairs, dtype=torch.float64, device=offset.device)
    index = torch.arange(2 * pairs)
    rows[index, at_frame] = -1
    rows[index, frames + index % pairs] = 1
    w = weight.double()
    normal = rows.T @ (w[..., None] * rows)
    right = rows.T @ (w * offset.double())[..., None]
    ridge = torch.cat([torch.full((frames,), 1e-2), torch.full((pairs,), 1e-4)]).double().to(offset.device)
    prior = torch.cat([torch.zeros(frames), torch.full((pairs,), STILL_LOG_LENGTH)]).double().to(offset.device)
    solution = torch.linalg.solve(normal + ridge.diag(), right + (ridge * prior)[:, None])[..., 0].float()
    return solution[:, :frames], solution[:, frames:]


def nearest_rotation(matrix: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3 3"]:
    """The rotation closest in Frobenius norm (orthogonal Procrustes)."""
    u, _, vt = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vt)
    fix = torch.diag_embed(torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1))
    return u @ fix @ vt


def average_rotations(
    graph: PairGraph, rotation: Float[Tensor, "B P 3 3"], weight: Float[Tensor, "B P"], sweeps: int = 10
) -> Float[Tensor, "B N 3 3"]:
    """cam_from_world rotations that agree best with all the pairs' second_from_first rotations."""
    clips, frames = len(rotation), graph.frames
    chained = [torch.eye(3, device=rotation.device).expand(clips, 3, 3)]
    for step in range(frames - 1):  # neighbours come first in the graph
        chained.append(rotation[:, step] @ chained[-1])
    cam_from_world = torch.stack(chained, dim=1)
    w = weight[..., None, None]
    for _ in range(sweeps):
        total = 1e-3 * cam_from_world
        total = total.index_add(1, graph.second, w * (rotation @ cam_from_world[:, graph.first]))
        total = total.index_add(1, graph.first, w * (rotation.transpose(-1, -2) @ cam_from_world[:, graph.second]))
        cam_from_world = nearest_rotation(total)
    return cam_from_world @ cam_from_world[:, :1].transpose(-1, -2)


def solve_positions(
    graph: PairGraph,
    cam_from_world: Float[Tensor, "B N 3 3"],
    translation: Float[Tensor, "B P 3"],
    weight: Float[Tensor, "B P"],
    rounds: int = 4,
) -> Float[Tensor, "B N 3"]:
    """Camera centres from the scaled translations of all pairs; pairs that disagree lose their weight."""
    frames = graph.frames
    step = -(cam_from_world[:, graph.second].transpose(-1, -2) @ translation[..., None])[..., 0].double()
    rows = torch.zeros(len(graph.first), frames, dtype=torch.float64, device=translation.device)
    index = torch.arange(len(graph.first))
    rows[index, graph.second] = 1
    rows[index, graph.first] = -1
    length = step.norm(dim=-1).clamp(min=1e-6)
    w = weight.double() / length
    anchor = torch.zeros(frames, frames, dtype=torch.float64, device=translation.device)
    anchor[0, 0] = 1.0
    for _ in range(rounds):
        normal = rows.T @ (w[..., None] * rows)
        scale = normal.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp(min=1e-12)  # no weight: stand still
        centres = torch.linalg.solve(
            normal / scale + anchor + 1e-9 * torch.eye(frames).to(anchor), rows.T @ (w[..., None] * step) / scale
        )
        error = (rows @ centres - step).norm(dim=-1) / length
        w = weight.double() / length / (1 + (error / 0.1) ** 2)
    return (centres - centres[:, :1]).float()


def build_trajectory(
    graph: PairGraph,
    rotation: Float[Tensor, "B P 3 3"],
    translation: Float[Tensor, "B P 3"],
    weight: Float[Tensor, "B P"],
) -> Float[Tensor, "B N 4 4"]:
    """world_from_cam of every frame; the first is the world."""
    cam_from_world = average_rotations(graph, rotation, weight)
    centres = solve_positions(graph, cam_from_world, translation, weight)
    return rigid(cam_from_world.transpose(-1, -2), centres)
