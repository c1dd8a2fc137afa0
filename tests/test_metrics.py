"""Metrics against independent oracles (evo, scikit-learn, plain loops), invariances, and planted mistakes."""

import numpy as np
import pytest
from evo.core import metrics as evo_metrics
from evo.core.trajectory import PosePath3D
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from sklearn.metrics import mean_absolute_percentage_error, mean_squared_error

from ss3d_lib import metrics
from ss3d_lib.datasets import load_sequence

SEEDS = st.integers(0, 2**31 - 1)


def random_trajectory(seed: int, frames: int = 30) -> np.ndarray:
    """A smooth camera-to-world walk (T, 4, 4)."""
    random = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.cumsum(0.1 * random.normal(size=(frames, 3)), axis=0)).as_matrix()
    poses[:, :3, 3] = np.cumsum(random.normal(size=(frames, 3)), axis=0)
    return poses


def disturbed(poses: np.ndarray, seed: int, scale: float = 0.3) -> np.ndarray:
    """The trajectory with noise, in another frame and at another scale."""
    random = np.random.default_rng(seed + 1)
    noisy = poses.copy()
    noisy[:, :3, 3] += 0.2 * random.normal(size=(len(poses), 3))
    noisy[:, :3, :3] = noisy[:, :3, :3] @ Rotation.from_rotvec(0.02 * random.normal(size=(len(poses), 3))).as_matrix()
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = Rotation.random(random_state=seed % 1000).as_matrix(), random.normal(size=3)
    moved = world @ noisy
    moved[:, :3, 3] *= scale
    return moved


def random_depth(seed: int, shape: tuple[int, int] = (24, 32)) -> tuple[np.ndarray, np.ndarray]:
    """A true depth with holes, and a prediction of it with noise."""
    random = np.random.default_rng(seed)
    true_m = np.exp(random.uniform(0.0, 4.0, shape))
    predicted = true_m * np.exp(0.3 * random.normal(size=shape))
    true_m[random.random(shape) < 0.2] = 0.0
    return predicted, true_m


# --- trajectories against evo -----------------------------------------------------------------------------------


def ate_equals_evo(true: np.ndarray, predicted: np.ndarray, group: str) -> None:
    reference, estimate = PosePath3D(poses_se3=list(true)), PosePath3D(poses_se3=list(predicted))
    rotation, translation, scale = estimate.align(reference, correct_scale=group == "sim3")
    ape = evo_metrics.APE(evo_metrics.PoseRelation.translation_part)
    ape.process_data((reference, estimate))
    ours = metrics.absolute_trajectory_error_m(predicted, true, group)
    assert ours == pytest.approx(ape.get_statistic(evo_metrics.StatisticsType.rmse), abs=1e-6)
    alignment = metrics.umeyama(predicted[:, :3, 3], true[:, :3, 3], with_scale=group == "sim3")
    np.testing.assert_allclose(alignment.rotation, rotation, atol=1e-6)
    np.testing.assert_allclose(alignment.translation_m, translation, atol=1e-6)
    assert alignment.scale == pytest.approx(scale, abs=1e-6)


def rpe_equals_evo(true: np.ndarray, predicted: np.ndarray, step: int) -> None:
    ours_m, ours_deg = metrics.relative_pose_errors(predicted, true, step)
    pair = PosePath3D(poses_se3=list(true)), PosePath3D(poses_se3=list(predicted))
    for relation, ours in (
        (evo_metrics.PoseRelation.translation_part, ours_m),
        (evo_metrics.PoseRelation.rotation_angle_deg, ours_deg),
    ):
        rpe = evo_metrics.RPE(relation, delta=step, delta_unit=evo_metrics.Unit.frames, all_pairs=True)
        rpe.process_data(pair)
        np.testing.assert_allclose(ours, rpe.error, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("group", ["sim3", "se3"])
def test_ate_equals_evo(seed, group):
    true = random_trajectory(seed)
    ate_equals_evo(true, disturbed(true, seed), group)


@pytest.mark.parametrize("step", [1, 5])
def test_rpe_equals_evo(step):
    true = random_trajectory(3)
    rpe_equals_evo(true, disturbed(true, 3, scale=1.0), step)


@pytest.mark.parametrize("name", ["hololens_office", "redkitchen", "kitti_drive"])
def test_errors_of_real_trajectories_equal_evo(shared_data, name):
    true = load_sequence(shared_data / "sequences" / name).poses_c2w
    for group in ("sim3", "se3"):
        ate_equals_evo(true, disturbed(true, 0), group)
    for step in (1, 5):
        rpe_equals_evo(true, disturbed(true, 0, scale=1.0), step)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0.05, 20.0))
def test_sim3_ate_ignores_a_similarity_and_se3_does_not_ignore_scale(seed, scale):
    true = random_trajectory(seed)
    moved = disturbed(true, seed, scale=1.0)
    scaled = moved.copy()
    scaled[:, :3, 3] *= scale
    before = metrics.absolute_trajectory_error_m(moved, true, "sim3")
    assert metrics.absolute_trajectory_error_m(scaled, true, "sim3") == pytest.approx(before, rel=1e-6)
    if abs(scale - 1) > 0.5:
        assert metrics.absolute_trajectory_error_m(scaled, true, "se3") > 1.05 * before


def test_a_mirrored_trajectory_is_not_explained_by_a_rotation():
    true = random_trajectory(1)
    mirrored = true.copy()
    mirrored[:, 0, 3] *= -1
    alignment = metrics.umeyama(mirrored[:, :3, 3], true[:, :3, 3])
    assert np.linalg.det(alignment.rotation) == pytest.approx(1.0)
    assert metrics.absolute_trajectory_error_m(mirrored, true) > 0.3


def test_a_standing_prediction_costs_the_spread_of_the_truth():
    true = random_trajectory(2)
    standing = np.tile(np.eye(4), (len(true), 1, 1))
    centres = true[:, :3, 3]
    spread = np.sqrt(np.mean(np.sum((centres - centres.mean(0)) ** 2, axis=1)))
    assert metrics.absolute_trajectory_error_m(standing, true) == pytest.approx(spread)


def test_known_pair_errors():
    true = np.tile(np.eye(4), (3, 1, 1))
    true[:, :3, 3] = [0, 0, -1.0]
    predicted = true.copy()
    predicted[0, :3, :3] = Rotation.from_euler("y", 2.5, degrees=True).as_matrix()
    predicted[1, :3, 3] = [-3.0, 0, -3.0]  # 45 degrees, and another length, which must not matter
    predicted[2, :3, 3] = 0.0
    errors = metrics.pair_errors(predicted, true)
    np.testing.assert_allclose(errors.rotation_deg, [2.5, 0, 0], atol=1e-9)
    np.testing.assert_allclose(errors.direction_deg, [0, 45, 90], atol=1e-9)
    np.testing.assert_allclose(errors.baseline_m, 1.0)


def test_pairs_without_a_baseline_have_no_direction():
    true = np.tile(np.eye(4), (4, 1, 1))
    true[:, 2, 3] = [-1.0, -1.0, -1.0, -0.01]
    assert metrics.pair_errors(true, true).moving().tolist() == [True, True, True, False]


def test_transposed_and_inverted_poses_are_caught():
    true = metrics.relative_poses(random_trajectory(5))
    assert np.median(metrics.pair_errors(true, true).rotation_deg) < 1e-6
    transposed = true.copy()
    transposed[:, :3, :3] = np.swapaxes(true[:, :3, :3], 1, 2)
    assert np.median(metrics.pair_errors(transposed, true).rotation_deg) > 5
    assert np.median(metrics.pair_errors(np.linalg.inv(true), true).direction_deg) > 150


def test_relative_poses_carry_points_from_source_to_target():
    poses = random_trajectory(6)
    point_world = np.array([0.3, -0.2, 2.0, 1.0])
    in_first, in_second = np.linalg.inv(poses[0]) @ point_world, np.linalg.inv(poses[1]) @ point_world
    np.testing.assert_allclose(metrics.relative_poses(poses)[0] @ in_first, in_second, atol=1e-12)


# --- depth ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_depth_errors_equal_sklearn_and_loops(seed):
    predicted, true_m = random_depth(seed)
    ours = metrics.depth_metrics(predicted, true_m, "metric")
    valid = (true_m > 0) & (true_m < 80)
    estimate, truth = np.clip(predicted[valid], 1e-3, 80), true_m[valid]
    assert ours["absrel_metric"] == pytest.approx(mean_absolute_percentage_error(truth, estimate), rel=1e-9)
    assert ours["rmse_metric"] == pytest.approx(mean_squared_error(truth, estimate) ** 0.5, rel=1e-9)
    log_rmse = mean_squared_error(np.log(truth), np.log(estimate)) ** 0.5
    assert ours["rmselog_metric"] == pytest.approx(log_rmse, rel=1e-9)
    square = sum((e - t) ** 2 / t for e, t in zip(estimate, truth, strict=True)) / len(truth)
    assert ours["sqrel_metric"] == pytest.approx(square, rel=1e-9)
    log10 = sum(abs(np.log10(e) - np.log10(t)) for e, t in zip(estimate, truth, strict=True)) / len(truth)
    assert ours["log10_metric"] == pytest.approx(log10, rel=1e-9)
    for power in (1, 2, 3):
        inside = sum(max(e / t, t / e) < 1.25**power for e, t in zip(estimate, truth, strict=True)) / len(truth)
        assert ours[f"d{power}_metric"] == pytest.approx(inside)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0.01, 100.0))
def test_median_removes_scale_and_metric_does_not(seed, scale):
    predicted, true_m = random_depth(seed)
    plain = metrics.depth_metrics(predicted, true_m, "median")
    scaled = metrics.depth_metrics(predicted * scale, true_m, "median")
    assert scaled == pytest.approx(plain, rel=1e-6)
    if abs(np.log(scale)) > 1:
        assert metrics.depth_metrics(predicted * scale, true_m, "metric") != pytest.approx(plain, rel=1e-2)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0.1, 10.0), st.floats(0.0, 1.0))
def test_affine_removes_scale_and_shift_of_inverse_depth_and_median_does_not(seed, scale, shift):
    _, true_m = random_depth(seed)
    distorted = 1.0 / (scale / np.maximum(true_m, 1.0) + shift)
    assert metrics.depth_metrics(distorted, true_m, "affine")["absrel_affine"] < 1e-6
    if shift > 0.3 and scale < 3:
        assert metrics.depth_metrics(distorted, true_m, "median")["absrel_median"] > 0.02


def test_the_video_scale_is_one_for_the_whole_clip():
    predicted = np.stack([np.full((4, 5), 1.0), np.full((4, 5), 4.0)])
    true_m = np.stack([np.full((4, 5), 2.0), np.full((4, 5), 2.0)])
    scale = metrics.video_scale(predicted, true_m)
    per_image = [metrics.depth_metrics(p, t, "median")["absrel_median"] for p, t in zip(predicted, true_m, strict=True)]
    per_video = [
        metrics.depth_metrics(p, t, "video", scale=scale)["absrel_video"]
        for p, t in zip(predicted, true_m, strict=True)
    ]
    assert per_image == [0.0, 0.0] and max(per_video) > 0.3
    with pytest.raises(ValueError, match="video_scale"):
        metrics.depth_metrics(predicted[0], true_m[0], "video")


def test_unmeasured_and_far_pixels_play_no_part():
    predicted, true_m = random_depth(4)
    plain = metrics.depth_metrics(predicted, true_m, "median")
    predicted[true_m == 0] = 1e6
    holes = true_m.copy()
    holes[true_m == 0] = np.nan
    assert metrics.depth_metrics(predicted, holes, "median") == plain
    far = np.full((3, 3), 90.0)
    assert np.isnan(metrics.depth_metrics(far, far, "median")["absrel_median"])


def test_a_half_pixel_shift_is_caught():
    """A ramp of depth moved by half a pixel must cost what the ramp's slope says, not nothing."""
    columns = np.arange(64, dtype=np.float64)
    true_m = np.tile(5.0 + 0.2 * columns, (16, 1))
    shifted = np.tile(5.0 + 0.2 * (columns + 0.5), (16, 1))
    expected = np.mean(0.1 / true_m)
    assert metrics.depth_metrics(shifted, true_m, "metric")["absrel_metric"] == pytest.approx(expected)
    assert metrics.depth_metrics(true_m, true_m, "metric")["absrel_metric"] == 0.0


def test_unequal_shapes_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="resize it first"):
        metrics.depth_metrics(np.ones((2, 3)), np.ones((3, 2)), "median")
    with pytest.raises(ValueError, match="unknown alignment"):
        metrics.depth_metrics(np.ones((2, 3)), np.ones((2, 3)), "mean")
    with pytest.raises(KeyError, match="unknown crop"):
        metrics.crop_mask(10, 10, "eigen")
    with pytest.raises(ValueError, match="unknown group"):
        metrics.absolute_trajectory_error_m(random_trajectory(0), random_trajectory(0), "so3")


@pytest.mark.parametrize(
    "crop, size, rows, columns",
    [
        ("garg", (375, 1242), (153, 371), (44, 1197)),
        ("eigen_kitti", (375, 1242), (124, 342), (44, 1197)),
        ("eigen_nyu", (480, 640), (45, 471), (41, 601)),
    ],
)
def test_crops_keep_the_published_pixels(crop, size, rows, columns):
    mask = metrics.crop_mask(*size, crop)
    kept = np.argwhere(mask)
    assert (*kept.min(0), *(kept.max(0) + 1)) == (rows[0], columns[0], rows[1], columns[1])
    assert mask.sum() == (rows[1] - rows[0]) * (columns[1] - columns[0])


def test_a_swapped_crop_changes_the_error():
    true_m = np.tile(np.linspace(1.0, 40.0, 480)[:, None], (1, 640))
    predicted = true_m.copy()
    predicted[:60] *= 2.0
    nyu = metrics.depth_metrics(predicted, true_m, "metric", mask=metrics.crop_mask(480, 640, "eigen_nyu"))
    kitti = metrics.depth_metrics(predicted, true_m, "metric", mask=metrics.crop_mask(480, 640, "eigen_kitti"))
    assert nyu["absrel_metric"] == pytest.approx(15 / 426) and kitti["absrel_metric"] == 0.0


# --- focal length, clouds, confidence, intervals ------------------------------------------------------------------


def test_focal_errors_of_a_known_camera():
    assert metrics.horizontal_fov_deg(50.0, 100) == pytest.approx(90.0)
    errors = metrics.focal_errors(55.0, 50.0, 100)
    assert errors["focal_relerr"] == pytest.approx(0.1) and errors["focal_abs_px"] == pytest.approx(5.0)
    assert errors["fov_deg"] == pytest.approx(90.0 - 2 * np.rad2deg(np.arctan(50 / 55)))
    assert metrics.interval_covers(np.array([40.0, 60.0]), 60.0)
    assert not metrics.interval_covers(np.array([40.0, 60.0]), 61.0)


def test_cloud_fscore_of_a_half_covered_cloud():
    true_m = np.random.default_rng(0).uniform(size=(400, 3)) * 100
    assert metrics.cloud_fscore(true_m, true_m, 0.01) == pytest.approx(1.0)
    assert metrics.cloud_fscore(true_m[:200], true_m, 1e-6) == pytest.approx(2 * 0.5 / 1.5)


def slanted_plane(pose: np.ndarray, intrinsics: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """z-depth (H, W) of the world plane n . x = d as seen from a camera-to-world pose, by ray intersection."""
    normal, offset = np.array([0.3, -0.2, 1.0]), 5.0
    rays = metrics.backproject(np.ones(shape), intrinsics) @ pose[:3, :3].T
    return (offset - normal @ pose[:3, 3]) / (rays @ normal)


def test_depth_consistency_is_zero_for_the_truth_and_grows_with_a_scale_error():
    intrinsics = np.array([[60.0, 0, 39.5], [0, 60.0, 29.5], [0, 0, 1]])
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, :3, 3] = [0.3, 0.1, 0.2]
    poses[1, :3, :3] = Rotation.from_euler("y", 3, degrees=True).as_matrix()
    src, tgt = (slanted_plane(pose, intrinsics, (60, 80)) for pose in poses)
    pose = metrics.relative_poses(poses)[0]
    assert metrics.depth_consistency(src, tgt, intrinsics, pose) < 3e-3
    assert metrics.depth_consistency(src, 1.1 * tgt, intrinsics, pose) == pytest.approx(np.log(1.1), abs=3e-3)
    assert metrics.depth_consistency(src, tgt, intrinsics, np.linalg.inv(pose)) > 0.02


def test_confidence_measures_know_a_good_uncertainty_from_a_bad_one():
    random = np.random.default_rng(0)
    std = np.exp(random.uniform(-3, 0, 20000))
    error = random.laplace(scale=std / np.sqrt(2))
    assert metrics.laplace_coverage(error, std) == pytest.approx(0.8, abs=0.01)
    assert metrics.laplace_coverage(error, 0.3 * std) < 0.5
    good = metrics.sparsification_error(np.abs(error), std)
    assert metrics.sparsification_error(np.abs(error), np.abs(error)) == pytest.approx(0.0)
    assert good < metrics.sparsification_error(np.abs(error), random.permutation(std))


def test_bootstrap_interval_has_the_width_of_the_normal_law_and_needs_two_groups():
    random = np.random.default_rng(0)
    groups = [np.array([value]) for value in random.normal(size=400)]
    low, high = metrics.bootstrap_interval(groups)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert np.isnan(metrics.bootstrap_interval(groups[:1])).all()
    # Frames of one sequence move together: drawing single frames would promise too narrow an interval.
    sequences = [np.full(50, value) for value in random.normal(size=20)]
    wide, narrow = metrics.bootstrap_interval(sequences), metrics.bootstrap_interval(np.concatenate(sequences)[:, None])
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    for count, blocks in ((45, [5] * 9), (400, [20] * 20), (25, [3] * 8 + [1]), (5, [3, 2])):
        assert [len(block) for block in metrics.split_blocks(np.arange(count))] == blocks
