"""The clip network and its parts: shapes for every clip, and each part against a case whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ss3d_lib import losses, predict
from ss3d_lib.checkpoints import load_model, save_model
from ss3d_lib.geometry import invert_pose, pixel_grid, rotation_angle_deg
from ss3d_lib.metrics import umeyama
from ss3d_lib.models import ClipNet
from ss3d_lib.models.camera import FocalBelief, FocalHead, ordinary_cameras
from ss3d_lib.models.depth import EVIDENCE_CHANNELS, DepthNet, encoder_size
from ss3d_lib.models.matching import (
    Matches,
    box,
    chain,
    coarse_flow,
    correlate,
    local_contrast,
    lucas_kanade,
    neighbours,
    patch_descriptors,
    resize_flow,
    variational,
    weaker_eigenvalue,
    window_sum,
)
from ss3d_lib.models.trajectory import PairGraph, average_rotations, build_trajectory, nearest_rotation, solve_scales
from ss3d_lib.models.triangulation import (
    Correspondences,
    DepthEvidence,
    as_channels,
    centred,
    half_grid,
    halve,
    triangulate,
)
from ss3d_lib.twoview import NUM_FOCALS, focal_candidates

WORKING_SIZES = [(144, 240), (144, 192), (240, 144)]


@pytest.fixture(scope="module")
def model() -> ClipNet:
    torch.manual_seed(0)
    return ClipNet("tiny").eval()


def texture(pixels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A smooth random pattern, defined at every real coordinate, so that it can be shifted exactly."""
    rng = torch.Generator().manual_seed(seed)
    frequency = torch.randn(24, 2, generator=rng) * 0.35
    phase = torch.rand(24, generator=rng) * 6.28
    return 0.5 + 0.06 * torch.sin(pixels @ frequency.T + phase).sum(-1)


def clip(count: int, height: int, width: int, clips: int = 1) -> torch.Tensor:
    """Clips (B, N, 3, H, W) of a textured wall that slides past."""
    grid = pixel_grid(height, width)
    frames = [texture(grid + torch.tensor([2.0 * k, 0.5 * k])) for k in range(count)]
    return torch.stack(frames)[None, :, None].expand(clips, count, 3, height, width).clamp(0, 1).contiguous()


def trajectory(seed: int, frames: int = 6) -> torch.Tensor:
    """A random walk: world_from_cam (1, N, 4, 4), the first frame the world."""
    random = np.random.default_rng(seed)
    poses = [np.eye(4)]
    for _ in range(frames - 1):
        step = np.eye(4)
        step[:3, :3] = Rotation.from_rotvec(0.1 * random.normal(size=3)).as_matrix()
        step[:3, 3] = random.normal(size=3) * random.uniform(0.3, 1.5)
        poses.append(poses[-1] @ step)
    return torch.tensor(np.stack(poses), dtype=torch.float32)[None]


def pair_motions(world_from_cam: torch.Tensor, graph: PairGraph) -> torch.Tensor:
    """second_from_first (B, P, 4, 4) of every pair of the graph."""
    return invert_pose(world_from_cam)[:, graph.second] @ world_from_cam[:, graph.first]


# --- the whole network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", WORKING_SIZES, ids=str)
def test_one_forward_pass_gives_everything_at_every_working_size(model, size):
    with torch.no_grad():
        out = model(clip(3, *size))
    height, width = size
    assert out.depth.shape == out.log_depth_std.shape == out.moving.shape == (1, 3, height, width)
    assert out.tgt_from_src.shape == (1, 2, 4, 4) and out.world_from_cam.shape == (1, 3, 4, 4)
    assert out.focal_px.shape == (1,) and out.focal.interval_px().shape == (1, 2) and out.trust.shape == (1,)
    assert (out.depth > 0).all() and torch.isfinite(out.depth).all()
    low, high = out.focal.interval_px()[0]
    assert low < high and 0.2 * max(size) < out.focal_px[0] < 2.5 * max(size)


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_clips_of_any_length_give_consistent_poses(model, count):
    with torch.no_grad():
        out = model(clip(count, 64, 96))
    assert out.depth.shape == (1, count, 64, 96)
    torch.testing.assert_close(out.world_from_cam[:, 0], torch.eye(4)[None], atol=1e-5, rtol=0)
    rebuilt = out.world_from_cam[:, 1:] @ out.tgt_from_src
    torch.testing.assert_close(rebuilt, out.world_from_cam[:, :-1], atol=1e-4, rtol=0)
    rotation = out.world_from_cam[0, :, :3, :3]
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(count, 3, 3), atol=1e-4, rtol=0)


def test_one_frame_is_refused_in_words(model):
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        model(clip(1, 64, 96))


def test_the_same_clip_gives_the_same_answer_twice(model):
    frames = clip(3, 64, 96)
    with torch.no_grad():
        first, second = model(frames), model(frames)
    assert torch.equal(first.depth, second.depth) and torch.equal(first.world_from_cam, second.world_from_cam)


def test_clips_of_a_batch_do_not_influence_each_other(model):
    one, other = clip(3, 64, 96), clip(3, 64, 96).flip(-1)
    with torch.no_grad():
        together, alone = model(torch.cat([one, other])), model(other)
    torch.testing.assert_close(together.focal_px[1:], alone.focal_px, rtol=1e-3, atol=0)
    torch.testing.assert_close(together.tgt_from_src[1:], alone.tgt_from_src, rtol=0, atol=1e-2)


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["black", "white"])
def test_frames_without_anything_to_see_give_finite_numbers_and_no_trust(model, value):
    with torch.no_grad():
        out = model(torch.full((1, 3, 3, 64, 96), value))
    for part in (out.depth, out.log_depth_std, out.tgt_from_src, out.focal_px, out.moving):
        assert torch.isfinite(part).all()
    assert float(out.trust) < 0.05


def test_every_trained_part_gets_a_gradient():
    torch.manual_seed(0)
    net = ClipNet("tiny").train()
    out = net(clip(3, 64, 96, clips=2))
    loss = out.depth.log().square().mean() + out.log_depth_std.mean() + out.focal.log_probability[:, 5].sum()
    loss.backward()
    for part in (net.depth_net, net.focal_head):
        grads = [p.grad for p in part.parameters() if p.grad is not None]
        assert grads and all(torch.isfinite(g).all() for g in grads) and any(g.abs().sum() > 0 for g in grads)


def test_a_checkpoint_gives_back_the_same_network(model, tmp_path):
    save_model(model, tmp_path / "model.safetensors", {"stage": "test"})
    again = load_model(tmp_path / "model.safetensors")
    frames = clip(2, 64, 96)
    with torch.no_grad():
        assert torch.equal(model(frames).depth, again(frames).depth)


def test_the_same_network_gives_the_same_bytes(model, tmp_path):
    """Or a stage that is run again would make all its readers run again."""
    for number in range(8):
        save_model(model, tmp_path / f"{number}.safetensors", {"stage": "test", "steps": 3, "seed": 0})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_missing_and_a_damaged_checkpoint_are_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.safetensors does not exist"):
        load_model(tmp_path / "none.safetensors")
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        load_model(path)
    path.write_text("not a checkpoint")
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        load_model(path)


# --- depth ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, expected", [((144, 240), (96, 160)), ((144, 192), (96, 128)), ((240, 144), (160, 96))])
def test_the_encoder_reads_two_thirds_in_multiples_of_32(size, expected):
    assert encoder_size(*size) == expected


def test_the_encoder_size_is_never_nothing():
    assert encoder_size(8, 8) == (32, 32)


@pytest.mark.parametrize("capability, dtype", [("AVX512", torch.bfloat16), ("AVX2", torch.float32), ("DEFAULT", torch.float32)])
def test_half_precision_is_left_to_processors_that_have_it(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    seen, net = [], DepthNet()
    net.encoder.register_forward_hook(lambda _, __, outputs: seen.append(outputs[0].dtype))
    net(torch.rand(1, 3, 64, 96), torch.rand(1, 5, 32, 48))
    assert seen == [dtype]


def test_log_inverse_depth_has_mean_zero_so_that_no_scale_can_collapse():
    torch.manual_seed(0)
    net = DepthNet("resnet10t").eval()
    with torch.no_grad():
        log_inverse, log_std = net(torch.rand(2, 3, 64, 96), torch.zeros(2, EVIDENCE_CHANNELS, 32, 48))
    assert log_inverse.shape == log_std.shape
    assert log_inverse.mean((1, 2)).abs().max() < 0.05


# --- matches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 9, 15])
def test_the_window_sum_equals_a_loop(size):
    x = torch.rand(1, 1, 11, 17, generator=torch.Generator().manual_seed(size))
    half = size // 2
    for dim in (-2, -1):
        ours = window_sum(x, size, dim)
        moved = x.movedim(dim, -1)
        for k in range(x.shape[dim]):
            expected = moved[..., max(0, k - half) : k - half + size].sum(-1)
            torch.testing.assert_close(ours.movedim(dim, -1)[..., k], expected)


def test_the_box_mean_equals_a_loop_and_keeps_constants():
    x = torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(0))
    ours = box(x, 5)
    for row in range(12):
        for column in range(14):
            window = x[..., max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            torch.testing.assert_close(ours[..., row, column], window.mean((-2, -1)))
    torch.testing.assert_close(box(torch.ones(1, 1, 20, 30)), torch.ones(1, 1, 20, 30))


def test_local_contrast_is_blind_to_exposure():
    grey = texture(pixel_grid(48, 64))[None, None]
    changed = local_contrast(0.7 * grey + 0.1)
    torch.testing.assert_close(changed, local_contrast(grey), atol=0.15, rtol=0)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.2), (0.75, 0.5), (-1.3, 0.9)], ids=str)
def test_lucas_kanade_recovers_sub_pixel_shifts(shift):
    """To a tenth of a pixel, without bias: what is left comes from bilinear interpolation of the second image."""
    grid, displacement = pixel_grid(72, 96), torch.tensor(shift)
    first, second = (5 * (texture(x) - 0.5)[None, None] for x in (grid, grid - displacement))  # deviation 1
    flow, _, residual = lucas_kanade(first, second, torch.zeros(1, 72, 96, 2), iterations=10)
    error = flow[0, 12:-12, 12:-12] - displacement
    assert error.norm(dim=-1).median() < 0.1 and error.mean((0, 1)).abs().max() < 0.05
    assert residual[0, 0, 12:-12, 12:-12].mean() < 0.05


def test_lucas_kanade_does_not_move_what_has_no_texture():
    flat = torch.full((1, 1, 40, 50), 0.5)
    flow, texture_strength, _ = lucas_kanade(flat, flat + 0.1, torch.zeros(1, 40, 50, 2), iterations=3)
    assert torch.isfinite(flow).all() and flow.abs().max() < 0.5 and texture_strength.max() < 1e-3


def test_the_neighbours_of_a_map_are_those_of_numpy():
    x = torch.rand(1, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    padded = np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
    expected = [padded[:, 1:-1, :-2], padded[:, 1:-1, 2:], padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]]
    found = {tuple(n[0].numpy().ravel()) for n in neighbours(x)}
    assert found == {tuple(e.ravel()) for e in expected}


def test_variational_steps_carry_the_flow_into_what_has_no_texture():
    """A grey disc in a textured wall moves with it: windows inside cannot know, smoothness can."""
    grid, displacement = pixel_grid(64, 80), torch.tensor([0.6, -0.4])
    disc = lambda pixels: ((pixels - torch.tensor([40.0, 32.0])).norm(dim=-1) < 5).float()  # noqa: E731
    wall = lambda pixels: (5 * (texture(pixels) - 0.5) * (1 - disc(pixels)))[None, None]  # noqa: E731
    start = (displacement * (1 - disc(grid))[..., None])[None]
    flow = variational(wall(grid), wall(grid - displacement), start, warps=4, sweeps=40)
    error = (flow[0] - displacement).norm(dim=-1)
    assert error[32, 40] < 0.5 * displacement.norm() and error[8:-8, 8:-8].median() < 0.1


def test_coarse_flow_finds_the_position_of_each_feature():
    """Features that are unit vectors of their own can match one place only; shifting them is the flow."""
    features = torch.eye(54).view(1, 54, 6, 9) * 12
    log_probability = correlate(features, features.roll(2, dims=-1), torch.tensor(1e3))
    torch.testing.assert_close(log_probability.exp().sum(-1), torch.ones(1, 54))
    flow = coarse_flow(log_probability, 6, 9)
    torch.testing.assert_close(flow[0, :, :-2], torch.tensor([2.0, 0.0]).expand(6, 7, 2), atol=1e-2, rtol=0)


def test_of_two_equal_places_the_near_one_is_likelier():
    features = torch.ones(1, 4, 5, 5) / 2
    best = correlate(features, features, torch.tensor(2.0)).argmax(-1)
    assert best[0].tolist() == list(range(25))


def test_the_product_of_patch_descriptors_is_the_correlation_of_numpy():
    frames = torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(0))
    first, second = (patch_descriptors(frame[None]) for frame in frames)
    assert first.shape == (1, 49, 10, 12)
    a, b = (frame[0, 5:12, 9:16].numpy().ravel() for frame in frames)  # centred on row 8, column 12: position (4, 6)
    assert float(first[0, :, 4, 6] @ second[0, :, 4, 6]) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)


def test_chained_flows_follow_the_pixel():
    """a -> b shifts by (2, 1); b -> c grows with x, so it must be read where the pixel has arrived."""
    grid = pixel_grid(20, 30)
    first = torch.tensor([2.0, 1.0]).expand(1, 20, 30, 2).contiguous()
    second = torch.stack([0.1 * grid[..., 0], 0 * grid[..., 1]], -1)[None]
    expected = torch.stack([2 + 0.1 * (grid[..., 0] + 2), 1 + 0 * grid[..., 0]], -1)
    torch.testing.assert_close(chain(first, second)[0, :-1, :-2], expected[:-1, :-2], atol=1e-4, rtol=0)


def test_resizing_a_flow_scales_its_vectors():
    flow = torch.tensor([1.0, -2.0]).expand(1, 6, 8, 2).contiguous()
    resized = resize_flow(flow, 18, 16)
    torch.testing.assert_close(resized, torch.tensor([2.0, -6.0]).expand(1, 18, 16, 2))


@pytest.mark.parametrize("count", [2, 4])
def test_the_matcher_gives_all_pairs_both_ways_and_marks_what_leaves_the_frame(model, count):
    frames = clip(count, 64, 96, clips=2)
    with torch.no_grad():
        matches: Matches = model.matcher(frames, (1, 2, 4))
    pairs = len(PairGraph.of(count).first)
    assert matches.flow.shape == (2 * 2 * pairs, 64, 96, 2)
    end = pixel_grid(64, 96) + matches.flow
    off = (end[..., 0] < -1e-2) | (end[..., 0] > 95.01) | (end[..., 1] < -1e-2) | (end[..., 1] > 63.01)
    assert not matches.valid[off].any() and (matches.sigma_px > 0).all()


def test_the_matcher_orders_its_pairs_as_the_graph_does(model):
    """The wall slides by (-2, -0.5) pixels a frame: a pair's flow tells its gap, its sign the direction."""
    with torch.no_grad():
        matches = model.matcher(clip(6, 64, 96), (1, 2, 4))
    graph = PairGraph.of(6)
    gaps = (graph.second - graph.first).float()
    inner = matches.flow[:, 16:-16, 16:-16].flatten(1, 2).median(1).values
    expected = torch.cat([gaps, -gaps])[:, None] * torch.tensor([-2.0, -0.5])
    torch.testing.assert_close(inner, expected, atol=0.2, rtol=0)


# --- focal length -----------------------------------------------------------------------------------------------


def belief(seed: int = 0, sharpness: float = 2.0) -> FocalBelief:
    logits = sharpness * torch.randn(4, NUM_FOCALS, generator=torch.Generator().manual_seed(seed))
    return FocalBelief(focal_candidates(240.0), logits.log_softmax(-1))


def test_the_mean_equals_numpy():
    b = belief()
    p, c = b.log_probability.exp().double().numpy(), b.candidates_px.double().numpy()
    np.testing.assert_allclose(b.mean_px, np.exp(p @ np.log(c)), rtol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_quantiles_equal_those_of_a_histogram(share):
    """Each candidate's probability is spread evenly, in log space, over the step around it."""
    b = belief(1)
    log_c = b.candidates_px.double().log().numpy()
    step = log_c[1] - log_c[0]
    edges = np.append(log_c - step / 2, log_c[-1] + step / 2)
    for row, p in enumerate(b.log_probability.exp().double().numpy()):
        expected = np.interp(share, np.append(0, np.cumsum(p) / p.sum()), edges)
        assert float(b.quantile_px(share)[row].log()) == pytest.approx(expected, abs=1e-3)


def test_intervals_grow_with_their_coverage_and_hold_the_median():
    b = belief(2)
    narrow, wide, median = b.interval_px(0.5), b.interval_px(0.9), b.quantile_px(0.5)
    assert (wide[:, 0] <= narrow[:, 0]).all() and (narrow[:, 1] <= wide[:, 1]).all()
    assert (narrow[:, 0] <= median).all() and (median <= narrow[:, 1]).all()


def test_a_certain_belief_names_its_candidate_within_a_step():
    logits = torch.full((1, NUM_FOCALS), -40.0)
    logits[0, 11] = 40.0
    b = FocalBelief(focal_candidates(240.0), logits.log_softmax(-1))
    step = float(b.candidates_px[1] / b.candidates_px[0])
    low, high = b.interval_px()[0] / b.candidates_px[11]
    assert float(b.mean_px) == pytest.approx(float(b.candidates_px[11]), rel=1e-4)
    assert 1 / step < low < high < step and float(b.entropy) < 1e-3
    assert float(belief(sharpness=0.0).entropy[0]) == pytest.approx(1.0, abs=1e-5)


def test_an_untrained_head_follows_the_lowest_residual():
    curve = torch.ones(1, NUM_FOCALS)
    curve[0, 7] = 0.0
    out = FocalHead()(curve, torch.zeros(1, 3), focal_candidates(240.0))
    assert int(out.log_probability.argmax()) == 7


def test_whatever_the_head_has_learnt_it_can_only_sharpen_the_curve():
    torch.manual_seed(0)
    head, candidates = FocalHead(), focal_candidates(240.0)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    summary = torch.randn(5, 3)
    flat = head(torch.full((5, NUM_FOCALS), 0.3), summary, candidates)
    torch.testing.assert_close(flat.log_probability, ordinary_cameras().log_probability.expand(5, -1))
    curve = torch.rand(5, NUM_FOCALS)
    out = head(curve, summary, candidates)
    assert torch.equal((out.log_probability - ordinary_cameras().log_probability).argsort(1, descending=True), curve.argsort(1))
    torch.testing.assert_close(out.log_probability, head(curve + 0.2, summary, candidates).log_probability, atol=1e-4, rtol=1e-4)


# --- trajectory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames, pairs", [(2, 1), (3, 3), (5, 8), (9, 20)])
def test_the_graph_holds_neighbours_first_and_only_pairs_that_fit(frames, pairs):
    graph = PairGraph.of(frames)
    assert len(graph.first) == pairs and (graph.second < frames).all() and (graph.first < graph.second).all()
    assert (graph.second - graph.first)[: frames - 1].tolist() == [1] * (frames - 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_rotation_is_proper_and_equals_scipy(seed):
    matrix = np.random.default_rng(seed).normal(size=(6, 3, 3))
    ours = nearest_rotation(torch.tensor(matrix))
    np.testing.assert_allclose(np.linalg.det(ours), 1.0, atol=1e-6)
    for mine, m in zip(ours.numpy(), matrix):
        np.testing.assert_allclose(mine, Rotation.align_vectors(m.T, np.eye(3))[0].as_matrix(), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_averaged_rotations_recover_a_trajectory_exactly(seed):
    graph, truth = PairGraph.of(6), trajectory(seed)
    rotation = pair_motions(truth, graph)[..., :3, :3]
    ours = average_rotations(graph, rotation, torch.ones(1, len(graph.first)))
    angle = rotation_angle_deg(ours @ truth[..., :3, :3])
    assert angle.max() < 0.02


def test_averaging_outvotes_a_wrong_rotation_of_little_weight():
    graph, truth = PairGraph.of(6), trajectory(1)
    rotation = pair_motions(truth, graph)[..., :3, :3].clone()
    rotation[:, 2] = torch.tensor(Rotation.from_rotvec([0.3, 0, 0]).as_matrix(), dtype=torch.float32) @ rotation[:, 2]
    weight = torch.ones(1, len(graph.first))
    weight[:, 2] = 1e-3
    angle = rotation_angle_deg(average_rotations(graph, rotation, weight, sweeps=60) @ truth[..., :3, :3])
    assert angle.max() < 1.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("frames", [2, 5, 9])
def test_the_trajectory_is_recovered_up_to_scale(seed, frames):
    graph, truth = PairGraph.of(frames), trajectory(seed, frames)
    motions = pair_motions(truth, graph)
    ours = build_trajectory(graph, motions[..., :3, :3], 3.0 * motions[..., :3, 3], torch.ones(1, len(graph.first)))
    assert rotation_angle_deg(ours[..., :3, :3].transpose(-1, -2) @ truth[..., :3, :3]).max() < 0.05
    torch.testing.assert_close(ours[..., :3, 3], 3.0 * truth[..., :3, 3], atol=2e-3, rtol=1e-3)


def test_a_pair_with_a_wrong_translation_is_outvoted():
    graph, truth = PairGraph.of(8), trajectory(2, 8)
    motions = pair_motions(truth, graph).clone()
    motions[:, 3, :3, 3] *= -1
    ours = (
        build_trajectory(graph, motions[..., :3, :3], motions[..., :3, 3], torch.ones(1, len(graph.first)))[0, :, :3, 3]
        .double()
        .numpy()
    )
    true = truth[0, :, :3, 3].double().numpy()
    alignment = umeyama(ours, true)
    error = np.linalg.norm(alignment.scale * ours @ alignment.rotation.T + alignment.translation_m - true, axis=1)
    assert error.max() < 0.1 * np.linalg.norm(np.diff(true, axis=0), axis=1).sum()


def test_a_standing_camera_gives_finite_poses():
    graph = PairGraph.of(4)
    pairs = len(graph.first)
    ours = build_trajectory(graph, torch.eye(3).expand(1, pairs, 3, 3), torch.zeros(1, pairs, 3), torch.zeros(1, pairs))
    torch.testing.assert_close(ours, torch.eye(4).expand(1, 4, 4, 4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_scales_agree_with_the_ratios_they_were_made_from(seed):
    """Frames with depth scales s_i and pairs of length l_p: offset = log l_p - log s_i, up to one constant."""
    graph, rng = PairGraph.of(6), torch.Generator().manual_seed(seed)
    log_scale, log_length = torch.randn(1, 6, generator=rng), torch.randn(1, len(graph.first), generator=rng) - 1
    at_frame = torch.cat([graph.first, graph.second])
    offset = log_length.repeat(1, 2) - log_scale[:, at_frame]
    ours_scale, ours_length = solve_scales(graph, offset, 1e4 * torch.ones_like(offset))
    shift = (ours_scale - log_scale).mean()
    torch.testing.assert_close(ours_scale - log_scale, shift.expand(1, 6), atol=1e-2, rtol=0)
    torch.testing.assert_close(ours_length - log_length, shift.expand_as(log_length), atol=1e-2, rtol=0)


def test_pairs_that_triangulate_nothing_stand_still():
    graph = PairGraph.of(3)
    _, log_length = solve_scales(graph, torch.zeros(1, 6), torch.zeros(1, 6))
    assert (log_length.exp() < 0.05).all()


def test_stripes_have_no_texture_and_never_less():
    """Below zero, a weight would be negative, and the parallax under a square root nan."""
    gx, gy = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    texture = weaker_eigenvalue(gx * gx, gx * gy, gy * gy)
    assert float(texture.min()) == 0 and float(texture.max()) < 1e-5
    assert float(weaker_eigenvalue(torch.tensor(3.0), torch.tensor(1.0), torch.tensor(3.0))) == pytest.approx(2.0)


# --- triangulation ----------------------------------------------------------------------------------------------


def planted(height: int = 36, width: int = 48, focal_px: float = 80.0):
    """Half-resolution flow of a wavy wall under a known motion; its true log inverse depth."""
    grid = half_grid(height, width)
    centre = torch.tensor([width - 0.5, height - 0.5])
    depth = 4 + torch.sin(grid[..., 0] / 15) + torch.cos(grid[..., 1] / 11)
    points = torch.cat([(grid - centre) / focal_px, torch.ones(height, width, 1)], -1) * depth[..., None]
    rotation = torch.tensor(Rotation.from_rotvec([0.01, -0.02, 0.005]).as_matrix(), dtype=torch.float32)
    translation = torch.tensor([0.3, 0.1, -0.2])
    moved = points @ rotation.T + translation
    flow = moved[..., :2] / moved[..., 2:] * focal_px + centre - grid
    one = torch.ones(1, 1, height, width)
    seen = Correspondences(
        flow[None, None], one, rotation[None, None], translation[None, None], torch.tensor([focal_px])
    )
    return seen, -depth.log()


def test_triangulation_recovers_the_planted_depth():
    seen, expected = planted()
    evidence = triangulate(seen)
    sure = evidence.weight[0] > 0.9
    assert sure.float().mean() > 0.5
    torch.testing.assert_close(evidence.log_inverse_depth[0][sure], expected[sure], atol=0.02, rtol=0)
    assert evidence.moving.max() < 0.05


def test_a_mover_is_marked_and_gives_no_depth():
    seen, _ = planted()
    seen.flow[..., 10:20, 20:30, :] += torch.tensor([-3.0, 9.0])
    evidence = triangulate(seen)
    assert evidence.moving[0, 10:20, 20:30].min() > 0.9 and evidence.weight[0, 10:20, 20:30].max() < 0.3


def test_a_wrong_match_among_several_is_outvoted():
    seen, expected = planted()
    many = Correspondences(
        seen.flow.repeat(1, 4, 1, 1, 1), seen.weight.repeat(1, 4, 1, 1), seen.rotation.repeat(1, 4, 1, 1),
        seen.translation.repeat(1, 4, 1), seen.focal_px,
    )  # fmt: skip
    many.flow[:, 2] += 6.0
    evidence = triangulate(many)
    sure = evidence.weight[0] > 0.9
    torch.testing.assert_close(evidence.log_inverse_depth[0][sure], expected[sure], atol=0.05, rtol=0)


def test_a_point_without_parallax_is_far_where_others_have_much():
    seen, _ = planted()
    ray = torch.cat([(half_grid(36, 48) - torch.tensor([47.5, 35.5])) / 80.0, torch.ones(36, 48, 1)], -1)
    turned = ray @ seen.rotation[0, 0].T
    infinite = (turned[..., :2] / turned[..., 2:] - ray[..., :2]) * 80.0
    seen.flow[0, 0, :8] = infinite[:8]
    evidence = triangulate(seen)
    logs = evidence.log_inverse_depth[0]
    assert evidence.weight[0, :8].mean() > 0.5
    assert float(logs[:8].max()) < float(logs[12:].min()) - 1


def test_nothing_seen_is_nothing_known():
    seen, _ = planted()
    evidence = centred(triangulate(seen.masked(torch.zeros(1, 1, 36, 48))))
    assert evidence.weight.max() < 1e-3 and not evidence.log_inverse_depth.any()
    assert as_channels(evidence).shape == (1, 5, 36, 48)


def test_centred_evidence_has_median_zero_and_ignores_scale():
    seen, expected = planted()
    evidence = triangulate(seen)
    middle = centred(evidence).log_inverse_depth
    torch.testing.assert_close(middle[0], expected - expected.median(), atol=0.05, rtol=0)
    grown = replace(evidence, log_inverse_depth=evidence.log_inverse_depth + 1.3)
    torch.testing.assert_close(centred(grown).log_inverse_depth, middle, atol=1e-5, rtol=0)


def test_halving_averages_areas_where_half_grid_says():
    grid = pixel_grid(8, 12)
    torch.testing.assert_close(halve(grid[None])[0], half_grid(4, 6))
    torch.testing.assert_close(halve(grid[None, ..., 0])[0], half_grid(4, 6)[..., 0])


def test_a_standard_error_is_never_less_than_what_the_cameras_add():
    """Depth equal to its evidence: the likeliest scale of the errors is the cameras' share, least in the middle of the picture."""
    nothing = torch.zeros(1, 9, 15)
    target = DepthEvidence.measured(nothing, nothing + 1, nothing)
    log_std = nothing.clone().requires_grad_()
    optimiser = torch.optim.Adam([log_std], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        losses.uncertainty_loss(nothing, log_std, target).backward()
        optimiser.step()
    expected = losses.camera_error(9, 15)
    torch.testing.assert_close(log_std.exp()[0], expected, rtol=0.02, atol=0)
    assert expected[4, 7] == expected.min() and expected[0, 0] > 3 * expected.min()


def test_the_spread_equals_numpy():
    b = belief(3)
    p, log_c = b.log_probability.exp().double().numpy(), b.candidates_px.double().log().numpy()
    np.testing.assert_allclose(b.log_std, np.sqrt(p @ log_c**2 - (p @ log_c) ** 2), rtol=1e-4)


def test_a_moved_belief_keeps_its_shape_around_another_mean():
    b = belief(4)
    means = torch.tensor([100.0, 150.0, 200.0, 400.0])
    same = torch.ones(4)
    there = b.moved(means, same)
    torch.testing.assert_close(there.mean_px, means)
    torch.testing.assert_close(there.log_std, b.log_std)
    torch.testing.assert_close(there.interval_px() / means[:, None], b.interval_px() / b.mean_px[:, None])
    torch.testing.assert_close(there.moved(b.mean_px, same).quantile_px(0.3), b.quantile_px(0.3))


def test_a_moved_belief_is_narrower_by_the_same_factor_everywhere():
    b, means = belief(5), torch.tensor([100.0, 150.0, 200.0, 400.0])
    width = torch.tensor([0.4, 0.6, 0.8, 1.0])
    there = b.moved(means, width)
    torch.testing.assert_close(there.mean_px, means)
    torch.testing.assert_close(there.log_std, width * b.log_std)
    before = (b.interval_px() / b.mean_px[:, None]).log()
    torch.testing.assert_close((there.interval_px() / means[:, None]).log(), width[:, None] * before)


def test_a_clip_that_stands_still_tells_no_focal_length():
    """One frame again and again: ordinary cameras are all that is known, whatever the head has learnt."""
    torch.manual_seed(0)
    net = ClipNet().eval()
    net.focal_head.log_sharpness.data += 2.0
    with torch.no_grad():
        out = net(clip(1, 144, 240).expand(-1, 5, -1, -1, -1).contiguous())
    assert float(out.focal.log_std[0]) > 0.8 * float(ordinary_cameras().log_std)
    low, high = out.focal.interval_px()[0]
    assert low < 0.55 * 240 and high > 1.15 * 240


def test_a_curve_within_the_noise_is_taken_for_flat():
    """The same curve, a hundred times as high, says where its lowest place is."""
    head, candidates = FocalHead().eval(), focal_candidates(240.0)
    curve = (candidates.log() - np.log(400.0))[None].abs()
    curve = curve / curve.max()
    with torch.no_grad():
        noise, signal = head(0.005 * curve, torch.zeros(1, 3), candidates), head(0.5 * curve, torch.zeros(1, 3), candidates)
    assert float(signal.mean_px) == pytest.approx(400, rel=0.03)
    assert float(noise.mean_px) == pytest.approx(float(240 * ordinary_cameras().mean_px), rel=0.03)


def test_one_pass_and_a_prediction_of_a_shot_say_the_same_of_the_focal_length():
    """Both narrow the matches' belief by what refined cameras deserve."""
    torch.manual_seed(0)
    model, frames = ClipNet().eval(), torch.randint(0, 256, (4, 144, 240, 3), dtype=torch.uint8)
    with torch.no_grad():
        one = model(predict.fit_frames(frames.numpy())[0])
    shot = predict.predict_frames(model, frames.numpy())
    assert float(one.focal_px) == pytest.approx(shot.focal_px, rel=1e-5)
    assert one.focal.interval_px()[0].tolist() == pytest.approx(shot.focal_interval_px.tolist(), rel=1e-5)
