"""The two-view layer on synthetic points whose motion and focal length are known, and on what has no answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ss3d_lib import twoview
from ss3d_lib.geometry import rotation_angle_deg
from ss3d_lib.twoview import Motion

HEIGHT, WIDTH = 144, 240
SEEDS = st.integers(0, 2**31 - 1)


def matches(
    rotation, translation, focal_px: float, seed: int = 0, count: int = 500, noise_px: float = 0.0, plane: bool = False
):
    """Matches (1, M, 2) of random points in view: centred pixels p, their positions q, unit weights, true depth."""
    random = np.random.default_rng(seed)
    p = random.uniform([-WIDTH / 2, -HEIGHT / 2], [WIDTH / 2, HEIGHT / 2], size=(count, 2))
    rays = np.concatenate([p / focal_px, np.ones((count, 1))], axis=1)
    depth = 4 / (1 + rays @ [0.3, 0.4, 0.2]) if plane else np.exp(random.uniform(np.log(2), np.log(12), count))
    moved = (rays * depth[:, None]) @ np.asarray(rotation).T + translation
    q = moved[:, :2] / moved[:, 2:] * focal_px + noise_px * random.normal(size=(count, 2))
    tensor = lambda x: torch.tensor(x, dtype=torch.float32)[None]  # noqa: E731
    return tensor(p), tensor(q), torch.ones(1, count), depth


def random_motion(seed: int, angle_deg: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """A rotation of about that angle, and a translation of half a unit, mostly forward or sideways."""
    random = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(np.deg2rad(angle_deg) * unit(random.normal(size=3))).as_matrix()
    forward = [random.normal() * 0.5, random.normal() * 0.5, random.choice([-1.0, 1.0]) * random.uniform(0.3, 1.0)]
    sideways = [random.choice([-1.0, 1.0]), random.normal() * 0.3, random.normal() * 0.3]
    return rotation, 0.5 * unit(np.array([forward, sideways][seed % 2]))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def motion_errors_deg(motion: Motion, rotation, translation) -> tuple[float, float]:
    """Angle between the rotations, and between the directions of translation."""
    true = torch.tensor(rotation, dtype=torch.float32)
    cosine = np.clip(motion.direction[0].numpy() @ unit(np.asarray(translation)), -1, 1)
    return float(rotation_angle_deg(motion.rotation[0] @ true.T)), float(np.rad2deg(np.arccos(cosine)))


def as_motion(rotation, translation) -> Motion:
    return Motion(
        torch.tensor(rotation, dtype=torch.float32)[None],
        torch.tensor(unit(np.asarray(translation)), dtype=torch.float32)[None],
        torch.zeros(1),
    )


# --- the equations ----------------------------------------------------------------------------------------------


def test_the_cross_products_equal_numpy():
    random = np.random.default_rng(0)
    v, w = random.normal(size=(4, 3)), random.normal(size=(4, 3, 7))
    expected = np.cross(v[:, :, None], w, axis=1)
    matrix = twoview.cross_matrix(torch.tensor(v, dtype=torch.float32))
    np.testing.assert_allclose(matrix @ torch.tensor(w, dtype=torch.float32), expected, atol=1e-5)
    wide = torch.tensor(v, dtype=torch.float32)[:, :, None].expand(4, 3, 7).contiguous()
    np.testing.assert_allclose(twoview.cross(wide, torch.tensor(w, dtype=torch.float32)), expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_exact_matches_have_no_epipolar_error_and_their_true_inverse_depth(seed):
    rotation, translation = random_motion(seed)
    p, q, _, depth = matches(rotation, translation, 180.0, seed)
    motion, focal = as_motion(rotation, translation), torch.tensor([180.0])
    assert twoview.epipolar_error_px(motion, p, q, focal).abs().max() < 5e-3
    rho, information = twoview.inverse_depth(motion, twoview.to_rays(p, focal), twoview.to_rays(q, focal))
    clear = information[0] > 1e-3  # away from the epipole, where nothing can be triangulated
    expected = np.linalg.norm(translation) / depth
    np.testing.assert_allclose(rho[0][clear], expected[clear.numpy()], rtol=0.02, atol=1e-3)


def test_the_sampson_distance_is_the_distance_in_pixels_of_a_small_displacement():
    """Sideways motion without rotation: epipolar lines are rows, and the shift is shared by both images."""
    p, q, _, _ = matches(np.eye(3), [0.5, 0, 0], 150.0)
    q[..., 1] += 0.4
    error = twoview.epipolar_error_px(as_motion(np.eye(3), [1.0, 0, 0]), p, q, torch.tensor([150.0]))
    torch.testing.assert_close(error.abs(), torch.full_like(error, 0.4 / 2**0.5), atol=1e-3, rtol=0)


def test_parallax_is_what_the_translation_moves():
    rotation, translation = random_motion(3)
    p, q, _, _ = matches(rotation, translation, 180.0)
    p0, q0, _, _ = matches(rotation, [0, 0, 0], 180.0)
    focal = torch.tensor([180.0])
    expected = (q - q0).norm(dim=-1)
    torch.testing.assert_close(
        twoview.parallax_px(as_motion(rotation, translation), p, q, focal), expected, atol=2e-3, rtol=1e-3
    )
    assert twoview.parallax_px(as_motion(rotation, translation), p0, q0, focal).max() < 2e-3


# --- the solver -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_it_recovers_rotation_and_direction_of_exact_matches(seed):
    rotation, translation = random_motion(seed)
    p, q, weight, _ = matches(rotation, translation, 200.0, seed)
    motion = twoview.solve_motion(p, q, weight, torch.tensor([200.0]))
    rot_deg, dir_deg = motion_errors_deg(motion, rotation, translation)
    assert rot_deg < 0.02 and dir_deg < 0.2 and float(motion.residual) < 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_it_withstands_noise(seed):
    rotation, translation = random_motion(seed)
    p, q, weight, _ = matches(rotation, translation, 200.0, seed, noise_px=0.3)
    motion = twoview.solve_motion(p, q, weight, torch.tensor([200.0]))
    rot_deg, dir_deg = motion_errors_deg(motion, rotation, translation)
    assert rot_deg < 0.15 and dir_deg < 1.0


@pytest.mark.parametrize("seed", range(8))
def test_it_withstands_a_mover_on_a_fifth_of_the_view(seed):
    """A patch of the view moves by itself, as a person would: one coherent shift of six pixels."""
    rotation, translation = random_motion(seed, angle_deg=1.0)
    p, q, weight, _ = matches(rotation, translation, 200.0, seed, noise_px=0.2)
    mover = (p[..., 0].abs() < 0.22 * WIDTH) & (p[..., 1].abs() < 0.22 * HEIGHT)
    q[mover] += torch.tensor([5.0, 3.3])
    assert 0.15 < mover.float().mean() < 0.25
    motion = twoview.solve_motion(p, q, weight, torch.tensor([200.0]))
    rot_deg, dir_deg = motion_errors_deg(motion, rotation, translation)
    assert rot_deg < 0.3 and dir_deg < 3.0


@pytest.mark.parametrize("seed", range(4))
def test_matches_of_no_weight_do_not_count(seed):
    rotation, translation = random_motion(seed)
    p, q, weight, _ = matches(rotation, translation, 200.0, seed)
    q[:, ::2] += 15.0
    weight[:, ::2] = 0.0
    motion = twoview.solve_motion(p, q, weight, torch.tensor([200.0]))
    assert max(motion_errors_deg(motion, rotation, translation)) < 0.5


@pytest.mark.parametrize("z", [-1.0, 1.0])
def test_the_direction_says_whether_the_camera_moved_forward(z):
    """x2 = x1 + t: moving forward brings points nearer, so t points back."""
    p, q, weight, _ = matches(np.eye(3), [0.05, 0.0, 0.4 * z], 200.0)
    focal = torch.tensor([200.0])
    motion = twoview.solve_motion(p, q, weight, focal)
    assert float(motion.direction[0, 2]) * z > 0.9
    flipped = Motion(motion.rotation, -motion.direction, motion.residual)
    torch.testing.assert_close(twoview.face_forward(flipped, p, q, weight, focal).direction, motion.direction)
    torch.testing.assert_close(twoview.face_forward(motion, p, q, weight, focal).direction, motion.direction)


def test_pairs_of_a_batch_do_not_influence_each_other():
    motions = [random_motion(seed) for seed in range(3)]
    single = [matches(r, t, 200.0, seed)[:3] for seed, (r, t) in enumerate(motions)]
    together = twoview.solve_motion(*[torch.cat(parts) for parts in zip(*single)], torch.full((3,), 200.0))
    for index, parts in enumerate(single):
        alone = twoview.solve_motion(*parts, torch.tensor([200.0]))
        torch.testing.assert_close(together.rotation[index], alone.rotation[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.direction[index], alone.direction[0], atol=1e-3, rtol=0)


# --- the focal length -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("focal_px, tolerance", [(90.0, 0.2), (150.0, 0.1), (260.0, 0.1), (400.0, 0.1)])
def test_the_residual_curve_is_lowest_at_the_true_focal_length(focal_px, tolerance):
    """Several pairs with rotation about the image axes, from which a focal length can be read."""
    pairs = []
    for seed in range(6):
        random = np.random.default_rng(seed)
        rotation = Rotation.from_rotvec(0.07 * unit(random.normal(size=3) * [1, 1, 0.3])).as_matrix()
        pairs.append(matches(rotation, 0.25 * unit(random.normal(size=3)), focal_px, seed, noise_px=0.1)[:3])
    candidates = twoview.focal_candidates(WIDTH)
    curves, _ = twoview.residual_curves(*[torch.cat(parts) for parts in zip(*pairs)], candidates)
    assert curves.shape == (6, twoview.NUM_FOCALS)
    best = float(candidates[curves.mean(0).argmin()])
    assert abs(np.log(best / focal_px)) < tolerance


def test_candidates_are_log_spaced_and_scale_with_the_image():
    candidates = twoview.focal_candidates(240)
    steps = candidates.log().diff()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-5, rtol=0)
    np.testing.assert_allclose(candidates[[0, -1]] / 240, twoview.FOCAL_RANGE, rtol=1e-5)
    torch.testing.assert_close(twoview.focal_candidates(480), 2 * candidates)


# --- what has no answer -----------------------------------------------------------------------------------------

DEGENERATE = {
    "static": lambda: matches(np.eye(3), [0, 0, 0], 200.0),
    "pure rotation": lambda: matches(Rotation.from_rotvec([0, 0.05, 0]).as_matrix(), [0, 0, 0], 200.0),
    "pure translation": lambda: matches(np.eye(3), [0.4, 0, 0], 200.0),
    "plane": lambda: matches(*random_motion(1), 200.0, plane=True),
    "nothing matched": lambda: (*matches(*random_motion(1), 200.0)[:2], torch.zeros(1, 500), None),
    "one pixel": lambda: (torch.zeros(1, 500, 2), torch.zeros(1, 500, 2), torch.ones(1, 500), None),
    "far off the image": lambda: (*(1e6 * m for m in matches(*random_motion(2), 200.0)[:2]), torch.ones(1, 500), None),
}


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_pairs_give_finite_motions_and_curves_and_no_exception(kind):
    p, q, weight, _ = DEGENERATE[kind]()
    curves, motion = twoview.residual_curves(p, q, weight, twoview.focal_candidates(WIDTH))
    assert torch.isfinite(curves).all() and (curves >= 0).all() and (curves <= 1).all()
    torch.testing.assert_close(motion.rotation @ motion.rotation.transpose(1, 2), torch.eye(3)[None], atol=1e-4, rtol=0)
    torch.testing.assert_close(motion.direction.norm(dim=-1), torch.ones(1))


@pytest.mark.parametrize("kind", ["static", "pure translation", "nothing matched"])
def test_pairs_that_say_nothing_of_the_focal_length_have_flat_curves(kind):
    p, q, weight, _ = DEGENERATE[kind]()
    curves, _ = twoview.residual_curves(p, q, weight, twoview.focal_candidates(WIDTH))
    assert float(curves.max() - curves.min()) < 0.01


def test_a_singular_system_gives_a_zero_step():
    step = twoview.damped_solve(torch.zeros(2, 6, 6), torch.zeros(2, 6), 1e-4)
    assert (step == 0).all()
    bad = torch.full((1, 6, 6), float("nan"))
    assert torch.isfinite(twoview.damped_solve(bad, torch.ones(1, 6), 1e-4)).all()


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_the_damped_step_equals_numpy_when_damping_is_nil(seed):
    random = np.random.default_rng(seed)
    jacobian = random.normal(size=(30, 5))
    normal, gradient = jacobian.T @ jacobian, random.normal(size=5)
    step = twoview.damped_solve(
        torch.tensor(normal, dtype=torch.float32)[None], torch.tensor(gradient, dtype=torch.float32)[None], 0.0
    )
    np.testing.assert_allclose(step[0], np.linalg.solve(normal, gradient), rtol=1e-3, atol=1e-5)


def test_a_step_is_shortened_but_not_turned():
    step = torch.tensor([[3.0, 4.0], [0.03, 0.04]])
    torch.testing.assert_close(twoview.cap_norm(step, 0.5), torch.tensor([[0.3, 0.4], [0.03, 0.04]]))


# --- gradients and medians --------------------------------------------------------------------------------------


def test_the_solution_has_finite_gradients_towards_the_matches():
    p, q, weight, _ = matches(*random_motion(4), 200.0)
    q.requires_grad_()
    motion = twoview.solve_motion(p, q, weight, torch.tensor([200.0]))
    (motion.rotation[:, 0, 1].sum() + motion.direction[:, 0].sum()).backward()
    assert torch.isfinite(q.grad).all() and q.grad.abs().sum() > 0


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 60))
def test_the_weighted_median_equals_counting(seed, count):
    random = np.random.default_rng(seed)
    values, weight = random.normal(size=(3, count)), random.integers(0, 5, size=(3, count)) + (np.arange(count) == 0)
    ours = twoview.weighted_median(torch.tensor(values, dtype=torch.float32), torch.tensor(weight, dtype=torch.float32))
    for row in range(3):  # the definition: repeat every value by its weight and take the lower median
        repeated = np.sort(np.repeat(values[row], weight[row]))
        assert float(ours[row]) == pytest.approx(repeated[(len(repeated) - 1) // 2], abs=1e-6)


def test_the_median_of_a_long_row_is_close_to_that_of_numpy():
    values = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    ours = twoview.weighted_median(values, torch.ones_like(values))
    np.testing.assert_allclose(ours, np.median(values.numpy(), axis=1), atol=0.03)


def test_length_equals_numpy_and_has_a_gradient_at_zero():
    vectors = torch.randn(5, 7, 2, requires_grad=True, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(twoview.length(vectors).detach(), np.linalg.norm(vectors.detach(), axis=-1), atol=1e-5)
    zero = torch.zeros(1, 2, requires_grad=True)
    twoview.length(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()
