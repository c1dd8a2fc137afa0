"""The photometric loss: its formula, and what it says of a room whose depth and motion are known exactly."""

import numpy as np
import pytest
import torch

from ss3d_lib import geometry, toy_scene
from ss3d_lib.photometric import minimum_reprojection, photometric_error, unmoved_errors, warped_errors

SIZE = (48, 64)


@pytest.fixture(scope="module")
def room():
    """Target (1, 3, H, W), two sources, true depth, intrinsics and src_from_tgt of the toy room."""
    intrinsics = geometry.intrinsics_matrix(torch.tensor([60.0]), *SIZE)
    turns = torch.tensor([[0.0, 0.01, 0.0], [0.0, 0.0, 0.0], [0.0, -0.02, 0.01]])
    shifts = torch.tensor([[-0.12, 0.0, -0.05], [0.0, 0.0, 0.0], [0.1, 0.02, 0.1]])
    world_from_cam = geometry.rigid(geometry.so3_exp(turns), shifts)
    drawn = [toy_scene.render(pose.numpy(), intrinsics[0].numpy(), *SIZE) for pose in world_from_cam]
    frames = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2)
    src_from_tgt = geometry.invert_pose(world_from_cam[[0, 2]]) @ world_from_cam[1]
    return frames[1:2], frames[None, [0, 2]], torch.from_numpy(drawn[1][1])[None], intrinsics, src_from_tgt[None]


def errors_of(target, sources, depth, intrinsics, src_from_tgt):
    """The three arguments of minimum_reprojection."""
    return (*warped_errors(target, sources, depth, intrinsics, src_from_tgt), unmoved_errors(target, sources))


def test_equal_images_have_no_error_and_opposite_ones_the_greatest():
    image = torch.rand(2, 3, 9, 11)
    assert float(photometric_error(image, image).max()) < 1e-4
    board = (torch.arange(9)[:, None] + torch.arange(11)) % 2 * torch.ones(1, 3, 9, 11)
    error = photometric_error(board, 1 - board)
    assert error.shape == (1, 9, 11) and float(error.min()) > 0.9 and float(error.max()) <= 1


def test_the_error_is_the_formula_of_godard_et_al_on_flat_images():
    """Flat images have no variance: SSIM is the luminance term alone."""
    a, b = 0.3, 0.5
    luminance = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    expected = 0.85 / 2 * (1 - luminance) + 0.15 * (b - a)
    error = photometric_error(torch.full((1, 3, 5, 5), a), torch.full((1, 3, 5, 5), b))
    torch.testing.assert_close(error, torch.full((1, 5, 5), expected), atol=1e-5, rtol=0)


def test_the_identity_warp_has_no_error(room):
    target, _, depth, intrinsics, _ = room
    errors, valid, unmoved = errors_of(target, target[:, None], depth, intrinsics, torch.eye(4)[None, None])
    assert valid.all() and float(errors.max()) < 1e-3 and float(unmoved.max()) < 1e-3


def test_true_depth_and_motion_explain_the_sources_and_false_ones_do_not(room):
    errors, valid, unmoved = errors_of(*room)
    loss, kept = minimum_reprojection(errors, valid, unmoved)
    assert float(kept.float().mean()) > 0.9
    target, sources, depth, intrinsics, src_from_tgt = room
    for wrong in (
        (target, sources, 1.5 * depth, intrinsics, src_from_tgt),
        (target, sources, depth, intrinsics, geometry.invert_pose(src_from_tgt)),
        (target, sources, depth, geometry.intrinsics_matrix(torch.tensor([90.0]), *SIZE), src_from_tgt),
    ):
        worse, _ = minimum_reprojection(*errors_of(*wrong))
        assert float(loss[kept].mean()) < 0.6 * float(worse[kept].mean())


def test_each_pixel_counts_with_the_valid_source_that_explains_it_best():
    errors = torch.tensor([0.1, 0.3]).view(1, 2, 1, 1).expand(1, 2, 1, 3).clone().requires_grad_()
    valid = torch.tensor([[[[True, False, False]], [[True, True, False]]]])
    unmoved = torch.full((1, 2, 1, 3), 0.5)
    loss, kept = minimum_reprojection(errors, valid, unmoved)
    torch.testing.assert_close(loss, torch.tensor([[[0.1, 0.3, 0.5]]]))
    assert kept.tolist() == [[[True, True, False]]]
    loss.sum().backward()
    assert errors.grad.flatten().tolist() == [1, 0, 0, 0, 1, 0] and torch.isfinite(loss).all()


def test_a_pixel_that_looks_the_same_without_motion_is_left_out(room):
    """A camera that stands: no warp can be better than none (eq. 5)."""
    target, _, depth, intrinsics, src_from_tgt = room
    still = target[:, None].expand(-1, 2, -1, -1, -1)
    _, kept = minimum_reprojection(*errors_of(target, still, depth, intrinsics, src_from_tgt))
    assert not kept.any()


def test_a_missing_source_changes_nothing(room):
    errors, valid, unmoved = errors_of(*room)
    alone = minimum_reprojection(errors[:, :1], valid[:, :1], unmoved[:, :1])
    valid[:, 1], unmoved[:, 1] = False, torch.inf
    for got, expected in zip(minimum_reprojection(errors, valid, unmoved), alone, strict=True):
        torch.testing.assert_close(got, expected)
