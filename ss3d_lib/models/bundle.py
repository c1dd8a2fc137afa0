"""Bundle adjustment inside the forward pass: all frames of a clip, one focal length, every match at once.

Pairs of frames alone hardly tell a long lens and a small turn from a short lens and a large one; the same
points seen along a whole clip do. Camera poses, one focal length and the inverse depth of a grid of points
in every frame are refined together by damped Gauss-Newton on robust reprojection errors (Triggs et al.
2000). Each point hangs on its own frame, so that depths are eliminated by the Schur complement and a step
solves 6 N + 1 unknowns, whatever the number of points.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import so3_exp
from ss3d_lib.models.trajectory import PairGraph

SIGMA_PX = 0.5  # scale of the robust reprojection error; chosen on validation from 0.3, 0.5 and 1
MIN_Z = 0.05  # points nearer than this share of their distance in the first frame are behind the camera
DEPTH_PRIOR = 0.02  # weight of what the pictures suggest of a point's depth, against a sighting's 1
LAST_DEPTH_PRIOR = 0.002  # the same in the last steps; on validation 0.005 is as good, 0.02 worse
AROUND, EDGE_LOG = 9, 0.3  # range of log depth, among so many nearest points, at which a match is believed half; 0.2 to 0.5 are alike
FOCAL_WEIGHT, FOCAL_MIDDLE, FOCAL_LOG_STD = 0.002, 0.8, 0.5  # of ordinary cameras; focal length / longer side


@dataclass(frozen=True)
class Neighbours:
    """The frames that every frame is matched with, as a table of S slots; missing ones weigh nothing."""

    index: Tensor  # (N, S) int
    order: Tensor  # (N, S) int: the directed pair of each slot
    exists: Float[Tensor, "N S"]

    @staticmethod
    def of(graph: PairGraph) -> "Neighbours":
        """All directed pairs of a graph, forward ones first, sorted under the frame where they start."""
        start, end = torch.cat([graph.first, graph.second]), torch.cat([graph.second, graph.first])
        rows = [torch.nonzero(start == frame)[:, 0] for frame in range(graph.frames)]
        slots = max(len(row) for row in rows)
        order, exists = torch.zeros(graph.frames, slots, dtype=torch.long), torch.zeros(graph.frames, slots)
        for frame, row in enumerate(rows):
            order[frame, : len(row)], exists[frame, : len(row)] = row, 1.0
        return Neighbours(end[order], order, exists)

    def unknowns(self) -> Tensor:
        """Places (N, 6 S + 7) in the system of the unknowns that the points of a frame touch: own, slots, focal."""
        frames, slots = self.index.shape
        six = torch.arange(6)
        own = 6 * torch.arange(frames)[:, None] + six
        others = (6 * self.index[..., None] + six).flatten(1)
        return torch.cat([own, others, torch.full((frames, 1), 6 * frames)], dim=1)


@dataclass(frozen=True)
class Bundle:
    """State of B clips: cameras, log focal length and inverse depths, in one arbitrary scale per clip."""

    rotation: Float[Tensor, "B N 3 3"]  # cam_from_world
    translation: Float[Tensor, "B N 3"]
    log_focal: Float[Tensor, "B"]  # of pixels
    rho: Float[Tensor, "B N M"]  # inverse z-depth of the points of each frame

    def rows(self, index: Tensor) -> "Bundle":
        """The states of some clips."""
        return Bundle(self.rotation[index], self.translation[index], self.log_focal[index], self.rho[index])

    def where(self, better: Tensor, other: "Bundle") -> "Bundle":
        """This state for the clips (B,) that are better off with it, the other for the rest."""
        pick = lambda a, b: torch.where(better.view(-1, *[1] * (a.dim() - 1)), a, b)  # noqa: E731
        return Bundle(*(pick(getattr(self, n), getattr(other, n)) for n in self.__dataclass_fields__))


@dataclass(frozen=True)
class FocalPrior:
    """What is known of log focal lengths beforehand: normal distributions, and their weight against a sighting's loss."""

    log_px: Float[Tensor, "B"] | float
    log_std: Float[Tensor, "B"] | float
    weight: Float[Tensor, "B"] | float

    @staticmethod
    def ordinary(longer_side_px: float) -> "FocalPrior":
        """That of ordinary cameras."""
        return FocalPrior(math.log(FOCAL_MIDDLE * longer_side_px), FOCAL_LOG_STD, FOCAL_WEIGHT)


@dataclass(frozen=True)
class Sightings:
    """Points p of every frame and where its neighbours see them, in pixels from the image centre."""

    p: Float[Tensor, "M 2"]
    q: Float[Tensor, "B N S M 2"]
    weight: Float[Tensor, "B N S M"]
    prior: Float[Tensor, "B N M"]  # log inverse depth, up to scale, that each picture alone suggests
    longer_side_px: float
    prior_weight: float = DEPTH_PRIOR
    believed: FocalPrior | None = None  # that of ordinary cameras, unless the clip has told more

    @property
    def focal(self) -> FocalPrior:
        """What is known of the focal length beforehand."""
        return self.believed or FocalPrior.ordinary(self.longer_side_px)

    def total(self) -> Float[Tensor, "B"]:
        """Sum of the weights of each clip."""
        return self.weight.sum((1, 2, 3)).clamp(min=1e-3)


def relative(state: Bundle, near: Neighbours) -> tuple[Tensor, Tensor]:
    """neighbour_from_frame rotations (B, N, S, 3, 3) and translations (B, N, S, 3)."""
    rotation = state.rotation[:, near.index] @ state.rotation[:, :, None].transpose(-1, -2)
    translation = state.translation[:, near.index] - (rotation @ state.translation[:, :, None, :, None])[..., 0]
    return rotation, translation


def rays(state: Bundle, p: Float[Tensor, "M 2"]) -> Float[Tensor, "B 3 M"]:
    """Viewing rays (z = 1) of the points."""
    xy = p.T / state.log_focal.exp()[:, None, None]
    return torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)


def place_points(state: Bundle, near: Neighbours, seen: Sightings) -> tuple[Tensor, ...]:
    """Relative motions, turned rays (B, N, S, 3, M), 1 / z and normalised coordinates of points in the neighbours."""
    rotation, translation = relative(state, near)
    turned = rotation @ rays(state, seen.p)[:, None, None]
    point = turned + translation[..., None] * state.rho[:, :, None, None]
    near_z = 1 / point[..., 2, :].clamp(min=MIN_Z)
    return rotation, translation, turned, near_z, point[..., 0, :] * near_z, point[..., 1, :] * near_z


def robust_loss(
    state: Bundle, near: Neighbours, seen: Sightings, sigma_px: float = SIGMA_PX
) -> Float[Tensor, "B N S M"]:
    """e^2 / (e^2 + sigma^2) of every sighting, in [0, 1]."""
    *_, x, y = place_points(state, near, seen)
    focal = state.log_focal.exp()[:, None, None, None]
    square = ((x * focal - seen.q[..., 0]) ** 2 + (y * focal - seen.q[..., 1]) ** 2) / sigma_px**2
    return square / (1 + square)


def cost(state: Bundle, near: Neighbours, seen: Sightings, sigma_px: float = SIGMA_PX) -> Float[Tensor, "B"]:
    """Mean robust loss e^2 / (e^2 + sigma^2) of the sightings of each clip, plus the shares of the priors."""
    loss = (seen.weight * robust_loss(state, near, seen, sigma_px)).sum((1, 2, 3))
    loss = loss + seen.prior_weight * depth_gap(state, seen).square().sum((1, 2))
    return loss / seen.total() + seen.focal.weight * focal_gap(state, seen) ** 2


def depth_gap(state: Bundle, seen: Sightings) -> Float[Tensor, "B N M"]:
    """Bounded log ratio of inverse depths to the pictures' own, each frame's mean taken out."""
    share = seen.weight.sum(2) + 1e-3
    gap = state.rho.log() - seen.prior
    gap = gap - (gap * share).sum(-1, keepdim=True) / share.sum(-1, keepdim=True)
    return gap.clamp(-2, 2)


def focal_gap(state: Bundle, seen: Sightings) -> Float[Tensor, "B"]:
    """Log focal length against what is known beforehand, in standard deviations."""
    return (state.log_focal - seen.focal.log_px) / seen.focal.log_std


def jacobians(state: Bundle, near: Neighbours, seen: Sightings) -> tuple[Tensor, Tensor, Tensor]:
    """Errors (2) and their derivatives by own pose (6), neighbour's pose (6), log focal (1) and inverse depth.

    Poses move by left multiplication: first rotation, then translation.

    Returns:
        Errors (B, N, S, 2, M), derivatives (B, N, S, 13, 2, M) and by inverse depth (B, N, S, 2, M), in pixels.
    """
    rotation, translation, turned, near_z, x, y = place_points(state, near, seen)
    focal = state.log_focal.exp()[:, None, None, None]
    scale, zero = focal * near_z, torch.zeros_like(x)
    rho = state.rho[:, :, None]

    def by_rotation(px, py, pz):
        u, v = [-x * py, pz + x * px, -py], [-pz - y * py, y * px, px]
        return torch.stack([torch.stack(u, 3), torch.stack(v, 3)], 4) * scale[:, :, :, None, None]

    by_point = torch.stack(
        [torch.stack([scale, zero], 3), torch.stack([zero, scale], 3), torch.stack([-x, -y], 3) * scale[:, :, :, None]],
        3,
    )
    by_shift, z = by_point * rho[:, :, :, None, None], 1 / near_z
    turns = -rotation.transpose(-1, -2)[:, :, :, None]
    mine = torch.stack([by_rotation(*turned.unbind(3)), by_shift], 3).flatten(5)
    mine = (turns @ mine).flatten(3, 4).unflatten(4, (2, -1))
    outwards = rotation[..., :2] @ rays(state, seen.p)[:, None, None, :2]  # d ray / d log f is -(x, y, 0)
    by_focal = torch.stack([x, y], 3) * focal[..., None] - (by_point * outwards[:, :, :, :, None]).sum(3)
    by_rho = (by_point * translation[..., None, None]).sum(3)
    error = torch.stack([x, y], 3) * focal[..., None] - seen.q.movedim(-1, 3)
    jacobian = torch.cat([mine, by_rotation(x * z, y * z, z), by_shift, by_focal[:, :, :, None]], dim=3)
    return error, jacobian, by_rho


def gauss_newton(
    state: Bundle,
    near: Neighbours,
    seen: Sightings,
    sigma_px: float,
    damping: Float[Tensor, "B"],
    free_focal: bool,
) -> Bundle:
    """One damped step of all unknowns."""
    error, jacobian, by_rho = jacobians(state, near, seen)
    clips, frames, slots = error.shape[:3]
    size = 6 * frames + 1
    robust = seen.weight / (1 + error.square().sum(3) / sigma_px**2) ** 2 / sigma_px**2
    weighted = jacobian * robust[:, :, :, None, None]
    normal = weighted.flatten(4) @ jacobian.flatten(4).transpose(-1, -2)
    right = -(weighted.flatten(4) @ error.flatten(3)[..., None])[..., 0]
    coupling = (weighted * by_rho[:, :, :, None]).sum(4)
    curvature = (robust * by_rho.square().sum(3)).sum(2) + seen.prior_weight / state.rho**2
    pull = -(robust * (by_rho * error).sum(3)).sum(2) - seen.prior_weight * depth_gap(state, seen) / state.rho
    curvature = curvature * (1 + damping[:, None, None]) + 1e-9
    # the points of a frame touch its own pose, those of its neighbours, and the focal length
    touched = torch.cat(
        [coupling[:, :, :, :6].sum(2), coupling[:, :, :, 6:12].flatten(2, 3), coupling[:, :, :, 12:].sum(2)], 2
    )
    schur = -(touched / curvature[:, :, None]) @ touched.transpose(-1, -2)
    shift = -(touched @ (pull / curvature)[..., None])[..., 0]
    places = near.unknowns().to(error.device)
    own = places[:, None, :6].expand(-1, slots, -1)
    direct = torch.cat([own, places[:, 6:-1].unflatten(1, (slots, 6)), places[:, None, -1:].expand(-1, slots, -1)], 2)
    matrix = torch.zeros(clips, size * size, dtype=torch.float64, device=error.device)
    vector = torch.zeros(clips, size, dtype=torch.float64, device=error.device)
    for place, block, side in (
        (direct.flatten(0, 1), normal.flatten(1, 2), right.flatten(1, 2)),
        (places, schur, shift),
    ):
        index = (place[:, :, None] * size + place[:, None]).flatten()
        matrix.index_add_(1, index, block.flatten(1).double())
        vector.index_add_(1, place.flatten(), side.flatten(1).double())
    matrix = matrix.view(clips, size, size)
    firm = seen.focal.weight * seen.total().double() / seen.focal.log_std
    matrix[:, -1, -1] += firm / seen.focal.log_std
    vector[:, -1] -= firm * focal_gap(state, seen)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    matrix = matrix + torch.diag_embed(diagonal * damping[:, None].double() + 1e-9 * diagonal.mean(1, True) + 1e-12)
    if not free_focal:
        matrix[:, -1], matrix[:, :, -1], vector[:, -1] = 0, 0, 0
        matrix[:, -1, -1] = 1
    factor, info = torch.linalg.cholesky_ex(matrix)
    step = torch.cholesky_solve(vector[..., None], factor)[..., 0]
    step = torch.where((info == 0)[:, None], step, 0).nan_to_num(0, 0, 0).float()
    depth_step = (pull - (touched * step[:, places][..., None]).sum(2)) / curvature
    return move(state, step, depth_step)


def move(state: Bundle, step: Float[Tensor, "B D"], depth_step: Float[Tensor, "B N M"]) -> Bundle:
    """Apply a step; turns are bounded, inverse depths stay positive."""
    pose = step[:, :-1].unflatten(1, (-1, 6))
    turn = so3_exp(pose[..., :3].clamp(-0.3, 0.3).flatten(0, 1)).unflatten(0, pose.shape[:2])
    rho = state.rho + torch.maximum(depth_step, -0.7 * state.rho)
    return Bundle(
        turn @ state.rotation,
        (turn @ state.translation[..., None])[..., 0] + pose[..., 3:],
        state.log_focal + step[:, -1].clamp(-0.15, 0.15),
        torch.minimum(rho, 3 * state.rho).clamp(min=1e-6),
    )


def adjust(
    state: Bundle,
    near: Neighbours,
    seen: Sightings,
    iterations: int,
    anneal: tuple[float, ...] = (),
    free_focal: bool = True,
) -> tuple[Bundle, Float[Tensor, "B"]]:
    """Levenberg-Marquardt from a start; steps that raise a clip's cost are taken back.

    Args:
        anneal: multiples of the robust scale for the first half of the iterations.

    Returns:
        The state, and its cost (see `cost`).
    """
    damping = torch.full_like(state.log_focal, 1e-3)
    sigmas = [SIGMA_PX * a for a in anneal for _ in range(iterations // (2 * len(anneal)))]
    sigmas += [SIGMA_PX] * (iterations - len(sigmas))
    before, last = None, None
    for sigma in sigmas:
        if sigma != last:
            before, last = cost(state, near, seen, sigma), sigma
        moved = gauss_newton(state, near, seen, sigma, damping, free_focal)
        after = cost(moved, near, seen, sigma)
        better = after < before
        state = moved.where(better, state)
        before = torch.where(better, after, before)
        damping = torch.where(better, damping / 3, damping * 8).clamp(1e-6, 1e4)
    return state, before


def settled(state: Bundle, seen: Sightings) -> Sightings:
    """The sightings for the last steps: without most of what leans depths towards each other.

    Beside an edge of depth, flow mixes the near and the far side; and what a picture alone suggests is flatter than
    the world. Both bias turn and focal length, which only small differences of parallax tell apart.
    """
    nearest = torch.cdist(seen.p, seen.p).topk(min(AROUND, len(seen.p)), largest=False).indices
    around = state.rho.log()[..., nearest]
    trust = 1 / (1 + ((around.amax(-1) - around.amin(-1)) / EDGE_LOG) ** 2)
    return replace(seen, weight=seen.weight * trust[:, :, None], prior_weight=LAST_DEPTH_PRIOR)


def start_bundle(
    world_from_cam: Float[Tensor, "B N 4 4"], focal_px: Float[Tensor, "B"], near: Neighbours, seen: Sightings
) -> Bundle:
    """State of known cameras: every point where its sightings intersect best, the unseen as the pictures suggest."""
    rotation = world_from_cam[..., :3, :3].transpose(-1, -2)
    translation = -(rotation @ world_from_cam[..., :3, 3:])[..., 0]
    state = Bundle(rotation, translation, focal_px.log(), torch.ones_like(seen.prior))
    turn, shift = relative(state, near)
    a = turn @ rays(state, seen.p)[:, None, None]
    b = torch.cat([seen.q.movedim(-1, 3) / focal_px[:, None, None, None, None], torch.ones_like(a[..., :1, :])], 3)
    t = shift[..., None].expand_as(a)
    u, v = torch.linalg.cross(a, b, dim=3), torch.linalg.cross(t, b, dim=3)
    known = (seen.weight * v.square().sum(3)).sum(2)
    rho = -(seen.weight * (u * v).sum(3)).sum(2) / known.clamp(min=1e-12)
    good = (rho > 0) & (known > 0)
    middle = torch.where(good, rho, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(1.0)[:, None, None]
    rho = torch.where(good, rho, middle).clamp(min=middle / 30, max=middle * 30)
    size = middle.clamp(min=1e-6)  # the scale is free: put the middle at 1
    return Bundle(rotation, translation * size, focal_px.log(), rho / size)
