"""The photometric rival: shapes, a loss that falls, and a predictor whose trajectory means what the protocol says."""

import numpy as np
import pytest
import torch
from made_shots import make_shot
from scipy.spatial.transform import Rotation

from ss3d_lib import metrics, monodepth2
from ss3d_lib.data import Shot, frames_tensor, generator
from ss3d_lib.training import Plan, train


@pytest.fixture(scope="module")
def shots():
    """Two shots with parallax; the cached flow is not looked at."""
    nothing = np.zeros((0, 48, 72, 2), np.float16)
    return [
        Shot(f"shot_{seed}", f"v{seed}", 0.9, 2, make_shot("multi_view", seed, 12, (96, 144)), nothing, nothing)
        for seed in range(2)
    ]


def test_shapes_and_ranges():
    torch.manual_seed(0)
    model, images = monodepth2.MonoDepth2(), torch.rand(2, 3, 64, 96)
    maps = model.depth_net(images)
    assert [tuple(disparity.shape) for disparity in maps] == [(2, 32, 48), (2, 16, 24), (2, 8, 12), (2, 4, 6)]
    assert all(0.01 <= disparity.min().item() and disparity.max().item() <= 10 for disparity in maps)
    pose, focal_share = model.motion_net(images, images.flip(0))
    assert pose.shape == (2, 4, 4) and focal_share.shape == (2,) and (focal_share > 0).all()
    assert (pose - torch.eye(4)).abs().max().item() < 0.05, "training starts near no motion"


def test_triplets_are_neighbours_at_the_stride_and_repeat_with_the_seed(shots):
    batch = monodepth2.draw_triplets(shots, 6, generator(0, 0))
    assert batch.frames.shape == batch.seen.shape == (6, 3, 3, 64, 96)
    again = monodepth2.draw_triplets(shots, 6, generator(0, 0))
    assert torch.equal(batch.seen, again.seen) and not torch.equal(batch.seen, batch.frames)
    small = [monodepth2.shrink(frames_tensor(list(shot.frames))) for shot in shots]
    every = torch.stack([x[k : k + 5 : 2] for x in small for k in range(shots[0].starts(2))])
    every = torch.cat([every, every.flip(-1)])
    for triplet in batch.frames:
        assert float((every - triplet).abs().amax((1, 2, 3, 4)).min()) < 1e-5


def test_shots_without_a_triplet_are_left_out(shots):
    short = Shot("short", "v", 0.9, 2, shots[0].frames[:4], shots[0].forward, shots[0].backward)
    assert monodepth2.long_enough([*shots, short]) == shots


def test_thirty_steps_on_a_made_shot_lower_the_loss(tmp_path, shots):
    torch.manual_seed(0)
    model = monodepth2.MonoDepth2()
    held = monodepth2.draw_triplets(shots[:1], 8, generator(1, 0))

    def error() -> float:
        with torch.no_grad():
            return float(monodepth2.photometric_loss(model, held)["photometric"])

    before = error()
    loss = lambda rng: monodepth2.photometric_loss(model, monodepth2.draw_triplets(shots[:1], 4, rng))
    history = train(model, loss, Plan(30, 3e-4, warmup_steps=5), tmp_path, "monodepth2")
    model.train()  # statistics of the batch, as before
    assert error() < before
    assert {"photometric", "smoothness", "kept", "focal_share"} <= set(history.columns)


class Told(torch.nn.Module):
    """A motion network that answers with the poses and focal shares it was given."""

    def __init__(self, next_from_prev: np.ndarray, focal_share: np.ndarray):
        super().__init__()
        self.pose, self.share = torch.from_numpy(next_from_prev).float(), torch.from_numpy(focal_share).float()

    def forward(self, first, second):
        return self.pose, self.share


def test_the_predictors_trajectory_is_world_from_cam_and_its_focal_length_of_the_frames():
    rng = np.random.default_rng(0)
    true = np.tile(np.eye(4), (6, 1, 1))
    true[:, :3, :3] = Rotation.from_rotvec(np.cumsum(0.05 * rng.normal(size=(6, 3)), axis=0)).as_matrix()
    true[:, :3, 3] = np.cumsum(rng.normal(size=(6, 3)), axis=0)
    torch.manual_seed(0)
    model = monodepth2.MonoDepth2()
    model.motion_net = Told(np.linalg.inv(true[1:]) @ true[:-1], np.array([0.5, 0.8, 0.9, 0.9, 2.0]))
    frames = rng.integers(0, 255, (6, 288, 480, 3), dtype=np.uint8)
    answer = monodepth2.predictor(model)(frames)
    np.testing.assert_allclose(answer.world_from_cam, np.linalg.inv(true[0]) @ true, atol=1e-4)
    assert metrics.absolute_trajectory_error_m(answer.world_from_cam, true, "sim3") < 1e-3
    assert answer.focal_px == pytest.approx(0.9 * 480)
    assert answer.depth_m.shape == (6, 288, 480) and np.isfinite(answer.depth_m).all() and answer.depth_m.min() > 0


def test_a_step_forward_moves_the_camera_forward():
    """Points come nearer, so next_from_prev has a negative z; the camera's centre goes to positive z."""
    step = np.eye(4)
    step[2, 3] = -0.1
    model = monodepth2.MonoDepth2()
    model.motion_net = Told(np.tile(step, (2, 1, 1)), np.ones(2))
    answer = monodepth2.predictor(model)(np.zeros((3, 144, 240, 3), np.uint8))
    np.testing.assert_allclose(answer.world_from_cam[:, :3, 3], [[0, 0, 0], [0, 0, 0.1], [0, 0, 0.2]], atol=1e-6)
