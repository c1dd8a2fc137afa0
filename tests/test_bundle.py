"""Bundle adjustment against planted cameras: derivatives, recovery, robustness, and what cannot be known."""

from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation

from ss3d_lib.geometry import invert_pose, rigid, so3_exp, so3_log
from ss3d_lib.models import calibration
from ss3d_lib.models.bundle import (
    Bundle,
    Neighbours,
    Sightings,
    adjust,
    cost,
    jacobians,
    move,
    place_points,
    settled,
    start_bundle,
)
from ss3d_lib.models.calibration import ClipMatches, Solution, carry, focal_profile, solve_clips
from ss3d_lib.models.trajectory import PairGraph

FOCAL_PX, WIDTH, HEIGHT = 180.0, 240, 144


def plant(
    frames: int = 6, points: int = 150, turn: float = 0.3, step: float = 1.0, noise_px: float = 0.0, seed: int = 0
):
    """Cameras on a smooth path, points at 2 to 5 depths, and the matches that they make."""
    rng = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, 1, frames)
    rotation = so3_exp(turn * torch.stack([0.3 * torch.sin(3 * t), t, 0.2 * t], -1))
    centre = step * torch.stack([t, 0.1 * torch.sin(4 * t), 0.5 * t], -1)
    translation = -(rotation @ centre[..., None])[..., 0]
    p = (torch.rand(points, 2, generator=rng) - 0.5) * torch.tensor([WIDTH, HEIGHT])
    rho = 1 / (2 + 3 * torch.rand(1, frames, points, generator=rng))
    true = Bundle(rotation[None], translation[None], torch.tensor([FOCAL_PX]).log(), rho)
    graph = PairGraph.of(frames)
    near = Neighbours.of(graph)
    weight = torch.ones(1, frames, near.index.shape[1], points) * near.exists[None, ..., None]
    empty = Sightings(p, torch.zeros(*weight.shape, 2), weight, torch.zeros(1, frames, points), WIDTH)
    *_, x, y = place_points(true, near, empty)
    q = torch.stack([x, y], -1) * FOCAL_PX
    return true, graph, near, replace(empty, q=q + noise_px * torch.randn(q.shape, generator=rng))


def with_wrong_matches(seen: Sightings, share: float, seed: int) -> Sightings:
    """The same with a share of the matches 20 px or so away from where they belong."""
    rng = torch.Generator().manual_seed(seed)
    wrong = torch.rand(seen.weight.shape, generator=rng) < share
    return replace(seen, q=seen.q + 20 * wrong[..., None] * torch.randn(seen.q.shape, generator=rng))


def matches_of(graph, near, seen: Sightings) -> ClipMatches:
    """The sightings as directed pairs, forward ones first."""
    pairs = 2 * len(graph.first)
    q, weight = torch.zeros(1, pairs, *seen.q.shape[3:]), torch.zeros(1, pairs, seen.q.shape[3])
    for frame, slot in torch.nonzero(near.exists).tolist():
        q[:, near.order[frame, slot]] = seen.q[:, frame, slot]
        weight[:, near.order[frame, slot]] = seen.weight[:, frame, slot]
    return ClipMatches(graph, seen.p, q, weight, seen.prior, seen.longer_side_px)


def shaken(true: Bundle, seed: int = 1):
    """The planted poses with errors of about a degree and a twentieth of the path."""
    rng = torch.Generator().manual_seed(seed)
    frames = true.rotation.shape[1]
    rotation = so3_exp(0.02 * torch.randn(frames, 3, generator=rng)) @ true.rotation[0]
    poses = invert_pose(rigid(rotation, true.translation[0]))
    poses[:, :3, 3] += 0.05 * torch.randn(frames, 3, generator=rng)
    return poses[None]


def test_derivatives_equal_finite_differences():
    true, _, near, seen = plant(frames=4, points=20)
    _, jacobian, by_rho = jacobians(true, near, seen)
    error = lambda state: jacobians(state, near, seen)[0]
    still = torch.zeros_like(true.rho)
    exists = near.exists[None, :, :, None, None].bool()
    for unknown in range(6 * 4 + 1):
        step = torch.zeros(1, 6 * 4 + 1)
        step[0, unknown] = 1e-3
        numeric = (error(move(true, step, still)) - error(move(true, -step, still))) / 2e-3
        analytic = torch.zeros_like(numeric)
        if unknown == 24:
            analytic = jacobian[:, :, :, 12]
        else:
            frame, part = divmod(unknown, 6)
            analytic[:, frame] += jacobian[:, frame, :, part]
            at = near.index == frame
            analytic[:, at] += jacobian[:, at][:, :, 6 + part]
        torch.testing.assert_close(numeric * exists, analytic * exists, atol=0.3, rtol=1e-2)
    numeric = (
        error(move(true, torch.zeros(1, 25), still + 1e-4)) - error(move(true, torch.zeros(1, 25), still - 1e-4))
    ) / 2e-4
    torch.testing.assert_close(numeric * exists, by_rho * exists, atol=0.5, rtol=1e-2)


@pytest.mark.parametrize("start_px", [100.0, 150.0, 400.0])
def test_cameras_focal_length_and_depth_come_back(start_px):
    true, _, near, seen = plant()
    start = start_bundle(shaken(true), torch.tensor([start_px]), near, seen)
    found, value = adjust(start, near, seen, 40, (8.0, 4.0, 2.0))
    assert float(found.log_focal.exp()) == pytest.approx(FOCAL_PX, rel=2e-3)
    ours = found.rotation[0] @ found.rotation[0, 0].T
    truth = true.rotation[0] @ true.rotation[0, 0].T
    assert float(so3_log(ours @ truth.transpose(-1, -2)).norm(dim=-1).max()) < 2e-3
    ratio = found.rho[0] / true.rho[0]
    assert float((ratio / ratio.median() - 1).abs().median()) < 0.01
    assert float(value) < float(cost(start, near, seen))


def test_a_third_of_wrong_matches_does_no_harm():
    true, _, near, seen = plant(noise_px=0.2)
    seen = with_wrong_matches(seen, 0.33, seed=3)
    found, _ = adjust(start_bundle(shaken(true), torch.tensor([150.0]), near, seen), near, seen, 40, (8.0, 4.0, 2.0))
    assert float(found.log_focal.exp()) == pytest.approx(FOCAL_PX, rel=0.03)


def test_the_cost_never_rises_and_never_leaves_its_bounds():
    true, _, near, seen = plant(noise_px=5.0)
    state = start_bundle(shaken(true), torch.tensor([300.0]), near, seen)
    before = float(cost(state, near, seen))
    for _ in range(4):
        state, value = adjust(state, near, seen, 3)
        assert float(value) <= before + 1e-6
        before = float(value)
    assert 0 <= before < 1.2


def test_clips_of_a_batch_do_not_touch_each_other():
    one, two = plant(seed=0, noise_px=0.3), plant(seed=5, noise_px=0.3)
    both = replace(one[3], q=torch.cat([one[3].q, two[3].q]), weight=torch.cat([one[3].weight, two[3].weight]),
                   prior=torch.cat([one[3].prior, two[3].prior]))  # fmt: skip
    poses = torch.cat([shaken(one[0]), shaken(two[0])])
    focal = torch.tensor([150.0, 250.0])
    joint, _ = adjust(start_bundle(poses, focal, one[2], both), one[2], both, 10)
    alone, _ = adjust(start_bundle(poses[:1], focal[:1], one[2], one[3]), one[2], one[3], 10)
    torch.testing.assert_close(joint.log_focal[:1], alone.log_focal, atol=1e-3, rtol=0)


def test_without_any_match_nothing_is_nan():
    true, graph, near, seen = plant()
    nothing = matches_of(graph, near, replace(seen, weight=torch.zeros_like(seen.weight)))
    solution = solve_clips(nothing)
    curve, _ = focal_profile(solution)
    for value in (solution.world_from_cam, solution.bundle.log_focal, solution.bundle.rho, curve):
        assert torch.isfinite(value).all()


def turns_and_directions(solution: Solution, true: Bundle, clip: int = 0):
    """Largest error of a turn (rad), and smallest cosine between found and true direction, over the frames of a clip."""
    ours, truth = solution.world_from_cam[clip], invert_pose(rigid(true.rotation[0], true.translation[0]))
    truth = torch.linalg.inv(truth[:1]) @ truth
    angle = Rotation.from_matrix((ours[:, :3, :3].transpose(-1, -2) @ truth[:, :3, :3]).numpy()).magnitude()
    cosine = torch.nn.functional.cosine_similarity(ours[1:, :3, 3], truth[1:, :3, 3], dim=-1)
    return float(angle.max()), float(cosine.min())


def test_the_search_needs_no_start():
    true, graph, near, seen = plant(noise_px=0.2)
    solution = solve_clips(matches_of(graph, near, seen))
    assert float(solution.bundle.log_focal.exp()) == pytest.approx(FOCAL_PX, rel=0.03)
    angle, cosine = turns_and_directions(solution, true)
    assert angle < 0.01 and cosine > 0.999


def test_the_search_leaves_wrong_valleys_whatever_else_is_in_the_batch(monkeypatch):
    """Cameras that turn by a radian, a third of the matches wrong: which ones decides where a short annealing ends."""
    true, graph, near, seen = plant(turn=1.0, noise_px=0.3, seed=1)
    clips = [matches_of(graph, near, with_wrong_matches(seen, 0.3, seed)) for seed in (0, 4, 7)]
    batch = replace(clips[0], **{name: torch.cat([getattr(m, name) for m in clips]) for name in ("q", "weight", "prior")})
    solution = solve_clips(batch)
    for clip in range(3):
        angle, cosine = turns_and_directions(solution, true, clip)
        assert angle < 0.02 and cosine > 0.999
    torch.testing.assert_close(solution.bundle.log_focal.exp(), torch.full((3,), FOCAL_PX), rtol=0.03, atol=0)
    monkeypatch.setattr(calibration, "SEARCHES", calibration.SEARCHES[:1])
    short = solve_clips(batch)
    assert min(turns_and_directions(short, true, clip)[1] for clip in range(3)) < 0.9
    assert (solution.cost < short.cost + 1e-3).all()


def two_walls():
    """Planted cameras before a grid of points, near on the left and far on the right, and its points beside the edge."""
    true, graph, near, seen = plant(points=15 * 9)
    x, y = torch.meshgrid(torch.linspace(-112, 112, 15), torch.linspace(-64, 64, 9), indexing="xy")
    p = torch.stack([x, y], -1).reshape(-1, 2)
    true = replace(true, rho=torch.where(p[:, 0] < 0, 0.5, 0.2).expand_as(true.rho).clone())
    *_, x, y = place_points(true, near, replace(seen, p=p))
    return true, graph, near, replace(seen, p=p, q=torch.stack([x, y], -1) * FOCAL_PX), (p[:, 0] + 8).abs() < 10


def test_matches_beside_an_edge_of_depth_lose_most_of_their_weight():
    true, _, _, seen, beside = two_walls()
    last = settled(true, seen)
    share = (last.weight / seen.weight.clamp(min=1e-9))[0, 0, 0]
    away = (seen.p[:, 0] + 8).abs() > 30  # at the picture's border the nearest points reach two columns far
    assert float(share[beside].max()) < 0.2 and float(share[away].min()) > 0.99
    assert last.prior_weight < seen.prior_weight


def test_flow_that_mixes_near_and_far_at_an_edge_hardly_turns_the_cameras():
    """Each match beside the edge is drawn towards the other side, more so at one end of the edge than at the other."""
    true, graph, near, seen, beside = two_walls()
    other = replace(true, rho=torch.where(seen.p[:, 0] < 0, 0.2, 0.5).expand_as(true.rho).clone())
    *_, x, y = place_points(other, near, seen)
    mixed = beside * 0.15 * (1 + seen.p[:, 1] / 64)
    mixed = mixed * torch.tensor([1.0, 0.3]).repeat(3)[:, None, None]  # and in every second frame
    q = seen.q + mixed[..., None] * (torch.stack([x, y], -1) * FOCAL_PX - seen.q)
    found = solve_clips(matches_of(graph, near, replace(seen, q=q)), torch.tensor([FOCAL_PX]))
    before, _ = adjust(true, near, replace(seen, q=q), 30, free_focal=False)
    turns = lambda state: (state.rotation @ state.rotation[:, :1].transpose(-1, -2))[0]  # noqa: E731
    error = lambda state: so3_log(turns(state) @ turns(true).transpose(-1, -2)).norm(dim=-1).mean()  # noqa: E731
    assert float(error(found.bundle)) < 0.5 * float(error(before))


def test_a_given_focal_length_is_kept():
    _, graph, near, seen = plant()
    solution = solve_clips(matches_of(graph, near, seen), torch.tensor([200.0]))
    assert float(solution.bundle.log_focal.exp()) == pytest.approx(200.0, rel=1e-5)
    assert float(solution.with_focal(torch.tensor([170.0])).bundle.log_focal.exp()) == pytest.approx(170.0, rel=1e-5)


def test_the_profile_is_lowest_at_the_true_focal_length_and_flat_where_it_cannot_be_known():
    _, graph, near, seen = plant(noise_px=0.2)
    curve, candidates_px = focal_profile(solve_clips(matches_of(graph, near, seen)))
    assert float(candidates_px[int(curve[0].argmin())]) == pytest.approx(FOCAL_PX, rel=0.1)
    _, graph, near, straight = plant(turn=0.0, noise_px=0.2)
    flat, _ = focal_profile(solve_clips(matches_of(graph, near, straight)))
    assert float(flat.max() - flat.min()) < 0.5 * float(curve.max() - curve.min())


def test_carrying_to_the_same_focal_length_changes_nothing():
    true, *_ = plant()
    same = carry(true, torch.tensor([FOCAL_PX]))
    first = true.rotation[:, :1].transpose(-1, -2)
    torch.testing.assert_close(same.rotation, true.rotation @ first, atol=1e-5, rtol=0)
    torch.testing.assert_close(same.rho, true.rho)
