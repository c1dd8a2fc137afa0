"""The plane sweep, against a scene whose depth is exact and against minimisation by enumeration."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from ss3d_lib import toy_scene
from ss3d_lib.geometry import pixel_grid, so3_exp
from ss3d_lib.models import sweep
from ss3d_lib.models.sweep import Sweep, Views, fuse, lowest, plane_sweeps, semi_global
from ss3d_lib.models.triangulation import DepthEvidence, half_grid

HEIGHT, WIDTH, FOCAL_PX, FRAMES = 96, 128, 110.0, 5


def noise(points: np.ndarray) -> np.ndarray:
    """Grey values in [0, 1] of a fine pattern without repetition on a plane; points (..., 2)."""
    waves = [np.sin(points @ np.array(k) * 9 + p) for k, p in (((1, 0.3), 0), ((-0.4, 1.1), 1), ((1.7, 1.3), 2), ((0.6, -2.2), 4))]
    return 0.5 + 0.12 * sum(waves)


def picture(shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Picture (3, H, W) and log inverse depth (H / 2, W / 2) of a wall at z = 6 and a narrow post at z = 2, camera at x = shift."""

    def draw(x, y):
        ray_x, ray_y = (x - (WIDTH - 1) / 2) / FOCAL_PX, (y - (HEIGHT - 1) / 2) / FOCAL_PX
        post = np.abs(2 * ray_x + shift) < 0.12
        depth = np.where(post, 2.0, 6.0)
        return noise(np.stack([depth * ray_x + shift, depth * ray_y], -1) * np.where(post, 3.0, 1.0)[..., None]), depth

    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    grid = half_grid(HEIGHT // 2, WIDTH // 2).numpy()
    grey = torch.from_numpy(draw(x, y)[0]).float()
    return grey.expand(3, -1, -1), torch.from_numpy(-np.log(draw(grid[..., 0], grid[..., 1])[1])).float()


def sideways(step: float = 0.08) -> tuple[torch.Tensor, Views, torch.Tensor]:
    """Five frames of a camera that moves sideways, their views (gaps 1, 2 and 4), and the true log inverse depths."""
    frames, truth = (torch.stack(values) for values in zip(*(picture(step * k) for k in range(FRAMES))))
    offsets = torch.tensor([1, 2, 4, -1, -2, -4])
    index = torch.arange(FRAMES)[:, None] + offsets
    exists = ((index >= 0) & (index < FRAMES)).float()
    translation = -offsets[None, :, None] * torch.tensor([step, 0.0, 0.0])
    shape = (FRAMES, len(offsets), 3)
    views = Views(index.clamp(0, FRAMES - 1), exists, torch.eye(3).expand(*shape, 3), translation.expand(shape), torch.full((FRAMES,), FOCAL_PX))
    return frames, views, truth


@pytest.fixture(scope="module")
def scene():
    frames, views, truth = sideways()
    return frames, views, truth, plane_sweeps(frames, views, torch.full((FRAMES,), 1 / 4))[0]


def test_the_sweep_finds_a_post_that_jumps_before_a_wall(scene):
    _, _, truth, found = scene
    error = (found.log_inverse_depth - truth).abs()
    post = truth > -1
    assert 0.03 < post.float().mean() < 0.2
    assert error[~post].median() < 0.05 and error[post].median() < 0.05
    assert (error < 0.2).float().mean() > 0.9


def test_what_other_frames_confirm_is_right(scene):
    _, _, truth, found = scene
    sure = found.agreed > 0.6
    assert sure.float().mean() > 0.6
    assert ((found.log_inverse_depth - truth).abs()[sure] < 0.1).float().mean() > 0.97
    assert found.parallax.median() > 0.9


def test_what_is_compared_is_blind_to_exposure(scene):
    half = torch.nn.functional.avg_pool2d(scene[0], 2)
    usual, darker = sweep.describe(half), sweep.describe(0.5 * half + 0.1)
    assert usual.abs().mean() > 0.3 and (usual - darker).abs().mean() < 0.1 * usual.abs().mean()


def test_every_frame_that_sees_a_hypothesis_has_one_say():
    described = torch.tensor([0.0, 0.0, 1.0])[:, None, None, None].expand(3, 2, 12, 16)  # one looks the same, one does not
    still = torch.eye(3).expand(3, 2, 3, 3), torch.zeros(3, 2, 3)
    views = Views(torch.tensor([[1, 2]] * 3), torch.ones(3, 2), *still, torch.full((3,), 20.0))
    choices = torch.tensor([[1.0, 1], [1, 0], [0, 1], [0, 0]])
    landing = sweep.land(views, 0, torch.ones(4), (12, 16))
    costs = sweep.average(sweep.picture_gap(described, 0, landing).expand(4, -1, -1, -1, -1), landing, choices)
    expected = torch.tensor([0.5, 0.0, 1.0, sweep.UNSEEN])
    torch.testing.assert_close(costs, expected[:, None, None, None].expand(4, 4, 12, 16))


def test_a_depth_that_another_frame_is_sure_of_is_seen_from_here():
    """Blank pictures, a camera that steps 1 ahead, and an inverse depth of 1 / 2 told there: from here 1 / 3."""
    views = Views(torch.tensor([[1], [0]]), torch.tensor([[1.0], [0]]), torch.eye(3).expand(2, 1, 3, 3), torch.tensor([0.0, 0, -1]).expand(2, 1, 3), torch.full((2,), 20.0))
    landing = sweep.land(views, 0, 1 / torch.tensor([2.0, 2.5, 3, 3.5, 4]), (12, 16))
    told = lambda sure: torch.tensor([-np.log(2), sure])[:, None, None].float().expand(1, 2, 2, 12, 16)  # noqa: E731
    gaps = lambda sure: sweep.told_gap(torch.zeros(1, 5, 12, 16), told(sure), landing)[0, 0, :, 6, 8]  # noqa: E731
    assert not gaps(0.0).any()
    torch.testing.assert_close(gaps(1.0)[2], torch.tensor(0.0), atol=1e-5, rtol=0)
    assert (gaps(1.0)[[0, 1, 3, 4]] > 0.5).all()
    torch.testing.assert_close(gaps(0.5), gaps(1.0) / 2)


def test_a_second_look_is_better_where_pictures_are_noisy(scene, monkeypatch):
    frames, views, truth, _ = scene
    noisy = frames + 0.2 * torch.randn(frames[:, :1].shape, generator=torch.Generator().manual_seed(0))
    found = lambda: plane_sweeps(noisy, views, torch.full((FRAMES,), 1 / 4))[0].log_inverse_depth  # noqa: E731
    error = lambda: (found() - truth).abs()[truth < -1].mean()  # noqa: E731 (of the wall)
    twice = error()
    monkeypatch.setattr(sweep, "TOLD", 0.0)
    assert twice < 0.75 * error()


def test_one_look_is_what_the_second_one_starts_from(scene, monkeypatch):
    frames, views, truth, found = scene
    middle = torch.full((FRAMES,), 1 / 4)
    quick = plane_sweeps(frames, views, middle, looks=1)[0]
    assert ((quick.log_inverse_depth - truth).abs() < 0.2).float().mean() > 0.85
    assert not torch.equal(quick.log_inverse_depth, found.log_inverse_depth)
    monkeypatch.setattr(sweep, "TOLD", 0.0)  # nothing is told: the second look sees what the first saw
    torch.testing.assert_close(plane_sweeps(frames, views, middle)[0].log_inverse_depth, quick.log_inverse_depth)


def test_wrong_cameras_are_not_confirmed(scene):
    frames, views, _, found = scene
    turned = replace(views, translation=views.translation[..., [1, 0, 2]])
    wrong = plane_sweeps(frames, turned, torch.full((FRAMES,), 1 / 4))[0]
    assert wrong.agreed.mean() < 0.75 * found.agreed.mean()  # not less: smooth mistakes confirm each other


def test_a_standing_camera_has_no_parallax(scene):
    frames, views, _, _ = scene
    still = plane_sweeps(frames[:1].repeat(FRAMES, 1, 1, 1), replace(views, translation=1e-4 * views.translation), torch.full((FRAMES,), 1 / 4))[0]
    assert still.parallax.max() < 1e-3
    found = DepthEvidence.measured(*(torch.zeros_like(still.agreed) for _ in range(3)))
    assert fuse(found, still).weight.max() < 1e-3


def test_several_choices_of_views_are_as_good_as_one_sweep_each(scene):
    frames, views, _, found = scene
    kept = torch.tensor([1.0, 1, 0, 1, 0, 0]).expand(FRAMES, -1)
    middle = torch.full((FRAMES,), 1 / 4)
    both = plane_sweeps(frames, views, middle, torch.stack([torch.ones_like(kept), kept]))
    alone = plane_sweeps(frames, replace(views, exists=views.exists * kept), middle)[0]
    torch.testing.assert_close(both[0].log_inverse_depth, found.log_inverse_depth)
    torch.testing.assert_close(both[1].log_inverse_depth, alone.log_inverse_depth)
    torch.testing.assert_close(both[1].agreed, alone.agreed)


def test_a_frame_without_views_is_swept_without_an_answer():
    frames, views, _ = sideways()
    none = plane_sweeps(frames, replace(views, exists=torch.zeros_like(views.exists)), torch.full((FRAMES,), 1 / 4))[0]
    assert torch.isfinite(none.log_inverse_depth).all() and not none.agreed.any() and none.parallax.max() < 1e-3


def test_the_scale_of_the_translations_is_the_scale_of_the_depth(scene):
    frames, views, _, found = scene
    grown = plane_sweeps(frames, replace(views, translation=3 * views.translation), torch.full((FRAMES,), 1 / 12))[0]
    torch.testing.assert_close(grown.log_inverse_depth + float(np.log(3)), found.log_inverse_depth, atol=1e-3, rtol=0)


def test_semi_global_paths_against_all_sequences():
    """On one line the sum of the path from the left and of the path from the right, less the own cost, is the least cost of any
    sequence of planes through each pixel (up to a constant per pixel)."""
    rng = torch.Generator().manual_seed(0)
    planes, width = 4, 5
    cost = torch.rand(1, planes, 1, width, generator=rng) * 3
    flat = torch.zeros(1, 3, 1, width)
    total = semi_global(cost, flat)
    lines = total[0, :, 0] - 6 * cost[0, :, 0]  # the six paths across the line have one pixel each
    price = lambda a, b: 0.0 if a == b else sweep.ONE_PLANE if abs(a - b) == 1 else sweep.MORE_PLANES  # noqa: E731
    for pixel in range(width):
        best = torch.full((planes,), torch.inf)
        for sequence in itertools.product(range(planes), repeat=width):
            value = sum(float(cost[0, plane, 0, x]) for x, plane in enumerate(sequence)) + sum(map(price, sequence, sequence[1:]))
            best[sequence[pixel]] = min(best[sequence[pixel]], value)
        through = lines[:, pixel] - cost[0, :, 0, pixel]
        torch.testing.assert_close(through - through.min(), best - best.min(), atol=1e-4, rtol=0)


def test_eight_paths_reach_along_every_direction():
    """One pixel that knows its plane: its neighbours in all eight directions lean to it more than those a knight's move away."""
    cost = torch.full((1, 6, 7, 7), 0.5)
    cost[0, 2, 3, 3] = 0.0
    leaning = (cost.new_zeros(1) + semi_global(cost, torch.zeros(1, 3, 7, 7)))[0]
    gain = leaning.amax(0) - leaning[2]
    assert all(gain[3 + y, 3 + x] > 0.4 for y in (-2, 0, 2) for x in (-2, 0, 2))
    assert all(gain[3 + y, 3 + x] < 1e-6 for y, x in ((1, 2), (2, 1), (-1, 2), (-2, -1)))


def test_the_lowest_cost_lies_between_the_planes():
    logs = torch.linspace(-1, 1, 21)
    target = torch.tensor([-0.92, 0.033, 0.61]).view(1, 1, 3, 1)
    cost = (logs.view(1, -1, 1, 1) - target) ** 2
    torch.testing.assert_close(lowest(cost, logs)[0], target[:, 0], atol=1e-3, rtol=0)


def test_an_edge_of_the_picture_makes_a_step_cheaper():
    cost = torch.zeros(1, 8, 1, 2)
    cost[0, :6, 0, 1], cost[0, 1:, 0, 0] = 1.5, 1.5
    plain = semi_global(cost, torch.zeros(1, 3, 1, 2))
    edge = semi_global(cost, torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2))
    saved = float((plain - edge)[0, 7, 0, 1])
    assert saved == pytest.approx(1.5 - sweep.MORE_PLANES * np.exp(-sweep.EDGE), abs=1e-4)


def test_fusing_prefers_agreement():
    shape = (1, 2, 2)
    full = lambda value: torch.full(shape, value)  # noqa: E731
    found = DepthEvidence.measured(full(0.0), torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]), full(0.0))  # counts for 0.3
    swept = Sweep(torch.tensor([[[0.02, 1.0], [1.0, 1.0]]]), torch.tensor([[[0.6, 0.1], [0.7, 0.7]]]), full(1.0))
    both = fuse(found, swept)
    logs, weight = both.log_inverse_depth[0], both.weight[0]
    assert 0.01 < logs[0, 0] < 0.02 and weight[0, 0] == pytest.approx(0.6, abs=0.01)
    assert logs[0, 1] == pytest.approx(0, abs=1e-3) and weight[0, 1] == pytest.approx(0.2, abs=1e-3)
    assert logs[1, 0] == pytest.approx(1, abs=1e-3) and weight[1, 0] == pytest.approx(0.4, abs=1e-3)
    assert logs[1, 1] == pytest.approx(1, abs=1e-3) and weight[1, 1] == pytest.approx(0.7, abs=1e-3)


def turning_before_a_wall(frames: int = 4) -> tuple[torch.Tensor, Views]:
    """Exact log inverse depths (F, H, W) of a slanted wall seen by a camera that turns and moves, and its views."""
    normal, distance = torch.tensor([0.2, -0.1, 1.0]), 5.0
    turn = so3_exp(torch.tensor([[0.01, 0.04, -0.02]]) * torch.arange(frames)[:, None])  # cam_from_world
    place = torch.tensor([0.3, 0.05, 0.1]) * torch.arange(frames)[:, None]
    centred = pixel_grid(HEIGHT, WIDTH) - torch.tensor([WIDTH - 1.0, HEIGHT - 1.0]) / 2
    rays = torch.cat([centred / FOCAL_PX, torch.ones(HEIGHT, WIDTH, 1)], -1)
    rho = torch.einsum("hwi,fi->fhw", rays, turn @ normal) / (distance - place @ normal)[:, None, None]
    index = torch.tensor([[k for k in range(frames) if k != f] for f in range(frames)])
    rotation = turn[index] @ turn[:, None].transpose(-1, -2)
    translation = (turn[index] @ (place[:, None] - place[index])[..., None])[..., 0]
    return rho.log(), Views(index, torch.ones(index.shape), rotation, translation, torch.full((frames,), FOCAL_PX))


def test_blending_leaves_exact_depth_and_averages_noise_away():
    truth, views = turning_before_a_wall()
    std = torch.full_like(truth, -2.0)
    inner = (slice(None), slice(12, -12), slice(16, -16))  # what leaves the frame has fewer witnesses
    assert (sweep.blend(truth, std, views) - truth).abs().max() < 1e-3
    noise = 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    error = (sweep.blend(truth + noise, std, views) - truth)[inner].std()
    assert error < 0.65 * noise.std()


def test_blending_follows_the_certain_and_nobody_who_contradicts():
    truth, views = turning_before_a_wall()
    wrong, std = truth.clone(), torch.full_like(truth, -2.0)
    wrong[1] += 0.1
    std[1] = 2.0  # e^4 times less sure than the others
    assert (sweep.blend(wrong, std, views)[1] - truth[1])[12:-12, 16:-16].abs().median() < 5e-3
    wrong[1] += 0.9
    assert (sweep.blend(wrong, std * 0, views)[1] - wrong[1]).abs().median() < 1e-3
    alone = replace(views, exists=torch.zeros_like(views.exists))
    assert torch.allclose(sweep.blend(wrong, std, alone), wrong)


def test_the_exact_room_is_swept_right():
    """A camera that flies into the toy room; its pictures and depths are drawn by arithmetic."""
    intrinsics = np.array([[FOCAL_PX, 0, (WIDTH - 1) / 2], [0, FOCAL_PX, (HEIGHT - 1) / 2], [0, 0, 1]])
    poses = [np.eye(4) for _ in range(3)]
    for k, pose in enumerate(poses):
        pose[:3, 3] = 0.1 * k, -0.05 * k, 0.12 * k
    drawn = [toy_scene.render(pose, intrinsics, HEIGHT, WIDTH) for pose in poses]
    frames = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in drawn])
    index = torch.tensor([[1, 2], [0, 2], [0, 1]])
    centres = torch.tensor(np.array(poses)[:, :3, 3]).float()
    translation = centres[:, None] - centres[index]
    views = Views(index, torch.ones(3, 2), torch.eye(3).expand(3, 2, 3, 3), translation, torch.full((3,), FOCAL_PX))
    found = plane_sweeps(frames, views, torch.full((3,), 1 / 4))[0]
    depth = torch.from_numpy(np.stack([depth for _, depth in drawn]))
    truth = -torch.nn.functional.avg_pool2d(depth.log()[:, None], 2)[:, 0]
    seen = (depth[:, ::2, ::2] < 100) & (found.agreed > 0.5)
    assert seen.float().mean() > 0.3
    assert (found.log_inverse_depth - truth).abs()[seen].median() < 0.1
