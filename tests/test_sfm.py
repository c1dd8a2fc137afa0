"""Classical structure from motion: what is not registered is interpolated, and what fails makes no claim."""

import sys

import numpy as np
import pytest
from made_shots import pose, render, room, turn
from scipy.spatial.transform import Rotation

from ss3d_lib import metrics, sfm


def test_poses_in_between_are_interpolated_and_held_at_the_ends():
    known = {1: np.eye(4)[:3], 4: pose(Rotation.from_euler("y", 30, degrees=True).as_matrix(), (3, 0, 6))[:3]}
    poses = sfm.interpolate_poses(known, 7)
    assert poses.shape == (7, 4, 4)
    np.testing.assert_allclose(poses[:, 0, 3], [0, 0, 1, 2, 3, 3, 3], atol=1e-9)
    np.testing.assert_allclose(poses[:, 2, 3], [0, 0, 2, 4, 6, 6, 6], atol=1e-9)
    angles = Rotation.from_matrix(poses[:, :3, :3]).as_euler("yxz", degrees=True)
    np.testing.assert_allclose(angles[:, 0], [0, 0, 10, 20, 30, 30, 30], atol=1e-6)
    np.testing.assert_allclose(poses[:, 3], np.tile([0, 0, 0, 1], (7, 1)))


def test_a_single_known_pose_holds_for_all_frames():
    alone = pose(turn(0.2, 0.1), (1, 2, 3))
    np.testing.assert_allclose(sfm.interpolate_poses({2: alone}, 4), np.tile(alone, (4, 1, 1)), atol=1e-9)


def test_it_finds_the_path_and_the_focal_length_of_a_made_clip():
    rng, size, focal_px = np.random.default_rng(3), (144, 240), 190.0
    planes = room(rng, boxes=14)
    poses = np.stack([pose(turn(0.25 * s, 0.05 * s), (1.8 * s, -0.3 * s, 0.6 * s)) for s in np.linspace(0, 1, 14)])
    frames = np.stack([render(planes, camera, focal_px, size) for camera in poses])
    answer = sfm.predict(frames)
    assert answer.depth_m is None and answer.world_from_cam.shape == (14, 4, 4)
    path_m = metrics.path_length_m(poses)
    assert metrics.absolute_trajectory_error_m(answer.world_from_cam, poses, "sim3") < 0.03 * path_m
    assert abs(answer.focal_px / focal_px - 1) < 0.15
    errors = metrics.pair_errors(metrics.relative_poses(answer.world_from_cam), metrics.relative_poses(poses))
    assert np.median(errors.rotation_deg) < 0.5 and np.median(errors.direction_deg) < 10


def test_a_clip_without_texture_is_a_failure_that_claims_nothing(tmp_path):
    grey = np.full((6, 96, 128, 3), 128, np.uint8)
    answer = sfm.predict(grey)
    assert answer.world_from_cam is None and answer.focal_px is None
    assert sfm.registered_share(grey, tmp_path / "sfm") == 0


def test_without_pycolmap_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ModuleNotFoundError, match=r"\[baselines\]"):
        sfm.import_pycolmap()
