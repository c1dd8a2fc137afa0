"""Geometry by invariants first, then against independent oracles: numpy, scipy, kornia, finite differences."""

import kornia
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from ss3d_lib import geometry
from ss3d_lib.geometry import MIN_DEPTH

SEEDS = st.integers(0, 2**31 - 1)
SIZES = [(12, 16), (13, 17), (1, 7), (144, 240)]


def random_poses(seed: int, count: int = 4, angle_rad: float = 0.4) -> torch.Tensor:
    """Rigid motions (count, 4, 4) of about that angle and half a unit of translation."""
    rng = torch.Generator().manual_seed(seed)
    rotation = geometry.so3_exp(angle_rad * torch.randn(count, 3, generator=rng))
    return geometry.rigid(rotation, 0.5 * torch.randn(count, 3, generator=rng))


def scene(seed: int, height: int = 24, width: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image (1, 3, H, W), a depth map between 2 and 4 units, and intrinsics."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, height, width, generator=rng)
    depth = 2 + 2 * torch.rand(1, height, width, generator=rng)
    return image, depth, geometry.intrinsics_matrix(torch.tensor([0.9 * width]), height, width)


# --- invariants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_warping_with_the_identity_pose_returns_the_image(size):
    image, depth, intrinsics = scene(0, *size)
    warped, visible = geometry.warp(image, depth, intrinsics, torch.eye(4)[None])
    # float32 rounds a coordinate of up to 240 px by 1e-5 px
    torch.testing.assert_close(warped, image, atol=5e-5, rtol=0)
    assert visible.all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_identity_grid_returns_the_image(size):
    image, _, _ = scene(1, *size)
    torch.testing.assert_close(geometry.sample(image, geometry.pixel_grid(*size)[None]), image, atol=5e-5, rtol=0)


def test_a_shift_by_a_whole_pixel_moves_the_image_by_a_whole_pixel():
    """Depth d and a sideways translation of d / f move every pixel by one: a half-pixel error would blur."""
    image, _, intrinsics = scene(2)
    pose = torch.eye(4)[None].clone()
    pose[0, 0, 3] = 3.0 / intrinsics[0, 0, 0]
    warped, visible = geometry.warp(image, torch.full((1, 24, 32), 3.0), intrinsics, pose)
    torch.testing.assert_close(warped[..., :-1], image[..., 1:], atol=2e-5, rtol=0)
    assert not visible[0, :, -1].any()


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_a_pose_times_its_inverse_is_the_identity(seed):
    pose = random_poses(seed)
    identity = torch.eye(4).expand(4, 4, 4)
    torch.testing.assert_close(geometry.invert_pose(pose) @ pose, identity, atol=2e-6, rtol=0)
    torch.testing.assert_close(geometry.invert_pose(geometry.invert_pose(pose)), pose, atol=2e-6, rtol=0)


def test_inversion_keeps_any_batch_shape():
    pose = random_poses(0, 6)
    torch.testing.assert_close(geometry.invert_pose(pose.view(2, 3, 4, 4)), geometry.invert_pose(pose).view(2, 3, 4, 4))
    torch.testing.assert_close(geometry.invert_pose(pose[0]), geometry.invert_pose(pose)[0])


def test_chained_poses_give_back_the_steps_and_start_at_the_world():
    steps = random_poses(3, 10).view(2, 5, 4, 4)
    world_from_cam = geometry.chain_poses(steps)
    assert world_from_cam.shape == (2, 6, 4, 4)
    torch.testing.assert_close(world_from_cam[:, 0], torch.eye(4).expand(2, 4, 4))
    cam_from_world = torch.linalg.inv(world_from_cam)
    torch.testing.assert_close(cam_from_world[:, 1:] @ world_from_cam[:, :-1], steps, atol=2e-5, rtol=0)


def test_moving_forward_increases_z_in_the_world():
    step = torch.eye(4).expand(1, 3, 4, 4).clone()
    step[..., 2, 3] = -1.0  # the next camera sees the scene one unit nearer
    torch.testing.assert_close(geometry.chain_poses(step)[0, :, 2, 3], torch.tensor([0.0, 1.0, 2.0, 3.0]))


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_projecting_backprojected_pixels_returns_them(seed):
    _, depth, intrinsics = scene(seed)
    pixels, back = geometry.project(geometry.backproject(depth, intrinsics), intrinsics)
    torch.testing.assert_close(pixels[0], geometry.pixel_grid(24, 32), atol=2e-5, rtol=0)
    torch.testing.assert_close(back, depth)


def test_depth_is_z_and_not_ray_length():
    _, depth, intrinsics = scene(4)
    torch.testing.assert_close(geometry.backproject(depth, intrinsics)[..., 2], depth)


def test_points_behind_the_camera_are_finite_and_invisible():
    image, depth, intrinsics = scene(5)
    pose = torch.eye(4)[None].clone()
    pose[0, 2, 3] = -10.0
    warped, visible = geometry.warp(image, depth, intrinsics, pose)
    assert torch.isfinite(warped).all() and not visible.any()


def test_inside_includes_the_outermost_pixel_centres():
    pixels = torch.tensor([[0.0, 0.0], [15.0, 11.0], [-0.01, 0.0], [0.0, 11.01]])
    assert geometry.inside(pixels, 12, 16).tolist() == [True, True, False, False]


# --- independent oracles ----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 1e-6, 1e-3, 0.3, 2.0]))
def test_so3_exp_equals_scipy(seed, angle_rad):
    vector = np.random.default_rng(seed).normal(size=(5, 3))
    vector *= angle_rad / np.linalg.norm(vector, axis=1, keepdims=True)
    expected = Rotation.from_rotvec(vector).as_matrix()
    np.testing.assert_allclose(geometry.so3_exp(torch.tensor(vector, dtype=torch.float32)), expected, atol=2e-6)


@pytest.mark.parametrize("angle_deg", [0.0, 1e-3, 0.05, 5.0, 90.0, 179.0])
def test_rotation_angle_equals_the_angle_of_scipy(angle_deg):
    axis = np.array([0.6, 0.0, 0.8])
    matrix = Rotation.from_rotvec(np.deg2rad(angle_deg) * axis).as_matrix()
    angle = geometry.rotation_angle_deg(torch.tensor(matrix, dtype=torch.float32))
    assert float(angle) == pytest.approx(angle_deg, abs=1e-5, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_reprojection_equals_numpy(seed):
    _, depth, intrinsics = scene(seed)
    pose = random_poses(seed, 1, angle_rad=0.1)
    pixels, landed = geometry.reproject(depth, intrinsics, pose)
    k, p = intrinsics[0].double().numpy(), pose[0].double().numpy()
    y, x = np.mgrid[:24, :32]
    points = np.linalg.inv(k) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1) * depth[0].double().numpy().reshape(-1)
    moved = p[:3, :3] @ points + p[:3, 3:]
    expected = (k @ moved / moved[2])[:2].T.reshape(24, 32, 2)
    ahead = moved[2].reshape(24, 32) > 0.1
    np.testing.assert_allclose(landed[0], moved[2].reshape(24, 32), atol=1e-5)
    np.testing.assert_allclose(pixels[0][ahead], expected[ahead], atol=2e-2, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_sampling_equals_scipy_inside_and_at_the_border(seed):
    image, _, _ = scene(seed)
    rng = np.random.default_rng(seed)
    pixels = rng.uniform([-3, -3], [35, 27], size=(20, 30, 2)).astype(np.float32)
    ours = geometry.sample(image, torch.tensor(pixels)[None])[0]
    for channel in range(3):
        expected = map_coordinates(image[0, channel].numpy(), [pixels[..., 1], pixels[..., 0]], order=1, mode="nearest")
        np.testing.assert_allclose(ours[channel], expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_warp_equals_that_of_kornia(seed):
    image, depth, intrinsics = scene(seed, 25, 33)
    pose = random_poses(seed, 1, angle_rad=0.05)
    warped, visible = geometry.warp(image, depth, intrinsics, pose)
    theirs = kornia.geometry.depth.warp_frame_depth(image, depth[:, None], pose, intrinsics)
    assert visible.float().mean() > 0.2
    keep = visible[:, None].expand_as(warped)
    torch.testing.assert_close(warped[keep], theirs[keep], atol=2e-4, rtol=0)


@pytest.mark.parametrize("scale_x, scale_y, crop", [(0.5, 0.5, (0, 0)), (0.75, 0.6, (3, 5)), (2.0, 1.5, (10, 1))])
def test_resized_intrinsics_project_to_resized_pixels(scale_x, scale_y, crop):
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(1, 50, 3, generator=rng) + torch.tensor([-0.5, -0.5, 1.5])
    intrinsics = geometry.intrinsics_matrix(torch.tensor([70.0]), 60, 80)
    pixels, _ = geometry.project(points, intrinsics)
    resized = geometry.resize_intrinsics(intrinsics, scale_x, scale_y, *map(float, crop))
    expected = (pixels + 0.5) * torch.tensor([scale_x, scale_y]) - 0.5 - torch.tensor(crop)
    torch.testing.assert_close(geometry.project(points, resized)[0], expected, atol=1e-4, rtol=0)


def test_halving_an_image_halves_its_principal_point_as_area_averaging_does():
    """A gradient image holds its own x coordinate; its 2x2 average says where the new pixel centres lie."""
    x = geometry.pixel_grid(8, 12)[..., 0][None, None]
    halved = torch.nn.functional.avg_pool2d(x, 2)[0, 0, 0]
    intrinsics = geometry.intrinsics_matrix(torch.tensor([10.0]), 8, 12)
    centre = geometry.resize_intrinsics(intrinsics, 0.5, 0.5)[0, 0, 2]
    position = np.interp(float(intrinsics[0, 0, 2]), halved.numpy(), np.arange(6))
    assert float(centre) == pytest.approx(position)


def test_the_principal_point_of_a_resized_image_stays_its_centre():
    intrinsics = geometry.intrinsics_matrix(torch.tensor([100.0]), 180, 320)
    torch.testing.assert_close(
        geometry.resize_intrinsics(intrinsics, 0.75, 0.8),
        torch.tensor([[[75.0, 0, 119.5], [0, 80.0, 71.5], [0, 0, 1]]]),
    )


# --- gradients --------------------------------------------------------------------------------------------------


def smooth_image(height: int, width: int) -> torch.Tensor:
    """Waves longer than ten pixels, so that bilinear interpolation is nearly smooth."""
    grid = geometry.pixel_grid(height, width)
    return torch.stack([(grid[..., 0] / 5).sin(), (grid[..., 1] / 4).cos(), (grid.sum(-1) / 7).sin()])[None]


@pytest.mark.parametrize("name", ["depth", "focal", "translation", "rotation"])
def test_gradients_of_the_warp_agree_with_finite_differences(name):
    height, width = 20, 28
    image, weight = (
        smooth_image(height, width),
        torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)),
    )
    values = {
        "depth": 2 + 0.3 * geometry.pixel_grid(height, width)[..., 0][None] / width,
        "focal": torch.tensor([30.0]),
        "translation": torch.tensor([[0.05, -0.03, 0.1]]),
        "rotation": torch.tensor([[0.02, -0.01, 0.03]]),
    }

    def loss(**changed):
        v = values | changed
        pose = geometry.rigid(geometry.so3_exp(v["rotation"]), v["translation"])
        warped, visible = geometry.warp(image, v["depth"], geometry.intrinsics_matrix(v["focal"], height, width), pose)
        inner = (slice(None), slice(None), slice(5, -5), slice(5, -5))
        return (warped * weight)[inner].double().sum()

    variable = values[name].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(**{name: variable}), variable)
    direction = (
        torch.ones_like(variable) * torch.tensor([0.7]) if name != "rotation" else torch.tensor([[0.3, -0.5, 0.8]])
    )
    step = {"depth": 5e-3, "focal": 0.1, "translation": 2e-3, "rotation": 1e-3}[name]
    change = (loss(**{name: values[name] + step * direction}) - loss(**{name: values[name] - step * direction})) / (
        2 * step
    )
    assert float((gradient * direction).sum()) == pytest.approx(float(change), rel=0.05, abs=0.05)


def test_gradients_are_finite_where_depth_vanishes():
    image, depth, intrinsics = scene(6)
    depth[:, :5] = 0.0
    depth.requires_grad_()
    pose = random_poses(6, 1)
    warped, _ = geometry.warp(image, depth, intrinsics, pose)
    warped.sum().backward()
    assert torch.isfinite(depth.grad).all() and MIN_DEPTH > 0
