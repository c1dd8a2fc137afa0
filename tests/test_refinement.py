"""Cameras aligned to pictures: a planted scene whose cameras are exact, shaken."""

import pytest
import torch

from ss3d_lib.geometry import image_centre, pixel_grid, so3_exp, so3_log
from ss3d_lib.models.bundle import Bundle, Neighbours, Sightings
from ss3d_lib.models.calibration import Solution
from ss3d_lib.models.camera import FocalBelief, on_match_grid, ordinary_cameras
from ss3d_lib.models.refinement import REFINED, predicted_flow, refine, refined_width, views_of
from ss3d_lib.models.sweep import Sweep
from ss3d_lib.models.trajectory import PairGraph
from ss3d_lib.twoview import NUM_FOCALS, focal_candidates

HEIGHT, WIDTH, FOCAL_PX, FRAMES, STEP = 96, 128, 110.0, 5, 0.06
CENTRE = image_centre(HEIGHT, WIDTH)


def rays(height: int, width: int, stride: int = 1) -> torch.Tensor:
    """Viewing rays (H, W, 2), at z = 1, of a map whose pixels are so many wide."""
    return (pixel_grid(height, width) * stride + (stride - 1) / 2 - CENTRE) / FOCAL_PX


def depth_of(ray: torch.Tensor, shift: float) -> torch.Tensor:
    """Depth of a wall at z = 5, and of a wide pillar at z = 2.5 before it, seen from x = shift."""
    return torch.where((2.5 * ray[..., 0] + shift).abs() < 0.4, 2.5, 5.0)


def picture(shift: float) -> torch.Tensor:
    """The scene (3, H, W) in a pattern of many directions."""
    ray = rays(HEIGHT, WIDTH)
    depth = depth_of(ray, shift)
    x, y = depth * ray[..., 0] + shift, depth * ray[..., 1]
    waves = [torch.sin(9 * (a * x + b * y) + c) for a, b, c in ((1, 0.3, 0), (-0.4, 1.1, 1), (0.7, 1.3, 2), (0.6, -1.2, 4))]
    return (0.5 + 0.12 * sum(waves)).expand(3, -1, -1)


def planted(turn: torch.Tensor) -> tuple[torch.Tensor, Solution, Sweep]:
    """A clip of a camera that moves sideways, cameras that are turned (F, 3) from the true ones, and the true depth."""
    shifts = [STEP * k for k in range(FRAMES)]
    frames = torch.stack([picture(shift) for shift in shifts])
    near = Neighbours.of(PairGraph.of(FRAMES))
    p = (on_match_grid(pixel_grid(HEIGHT, WIDTH).movedim(-1, 0)).movedim(0, -1) - CENTRE).reshape(-1, 2)
    translation = torch.tensor([[-shift, 0, 0] for shift in shifts])
    bundle = Bundle(so3_exp(turn)[None], translation[None], torch.tensor([FOCAL_PX]).log(), torch.ones(1, FRAMES, len(p)))
    nothing = torch.zeros(1, *near.index.shape, len(p))
    seen = Sightings(p, torch.zeros(*nothing.shape, 2), nothing, torch.zeros(1, FRAMES, len(p)), WIDTH)
    ray = rays(HEIGHT // 2, WIDTH // 2, 2)
    log_inverse = -torch.stack([depth_of(ray, shift) for shift in shifts]).log()
    ones = torch.ones_like(log_inverse)
    return frames, Solution(bundle, torch.zeros(1), near, seen), Sweep(log_inverse, ones, ones)


def belief(focal_px: float, sharpness: float = 800.0) -> FocalBelief:
    """A narrow belief about the focal length."""
    candidates = focal_candidates(WIDTH)
    return FocalBelief(candidates, (-sharpness * (candidates.log() - torch.tensor(focal_px).log()) ** 2)[None].log_softmax(-1))


def shaken() -> torch.Tensor:
    return 0.008 * torch.randn(FRAMES, 3, generator=torch.Generator().manual_seed(0))


def turned_deg(solution: Solution) -> float:
    """Mean angle between the rotations of neighbouring frames; the true ones do not turn."""
    rotation = solution.bundle.rotation.flatten(0, 1)
    return float(so3_log(rotation[1:] @ rotation[:-1].transpose(1, 2)).norm(dim=1).rad2deg().mean())


def test_predicted_flow_is_the_parallax_of_the_depth():
    _, solution, sweep = planted(torch.zeros(FRAMES, 3))
    views = views_of(solution)
    depth = depth_of(rays(HEIGHT, WIDTH), 0.0)
    first = torch.zeros(3, dtype=torch.long)
    flow = predicted_flow(-depth.log().expand(FRAMES, -1, -1), views, first, torch.nonzero(views.exists[0])[:, 0])
    for gap, found in zip(views.index[0].tolist(), flow):
        torch.testing.assert_close(found[..., 0], -FOCAL_PX * STEP * gap / depth, atol=1e-3, rtol=0)
        assert found[..., 1].abs().max() < 1e-3


def test_turned_cameras_are_turned_back():
    frames, solution, sweep = planted(shaken())
    found = refine(frames, solution, sweep, belief(FOCAL_PX))
    assert turned_deg(solution) > 0.5
    assert turned_deg(found) < 0.2 * turned_deg(solution)


def test_right_cameras_stay():
    frames, solution, sweep = planted(torch.zeros(FRAMES, 3))
    found = refine(frames, solution, sweep, belief(FOCAL_PX))
    assert turned_deg(found) < 0.05
    assert float(found.bundle.log_focal.exp()) == pytest.approx(FOCAL_PX, rel=0.02)


def test_nothing_is_aligned_where_no_depth_is_agreed():
    frames, solution, sweep = planted(shaken())
    unsure = Sweep(sweep.log_inverse_depth, torch.zeros_like(sweep.agreed), sweep.parallax)
    found = refine(frames, solution, unsure, belief(FOCAL_PX))
    assert turned_deg(found) == pytest.approx(turned_deg(solution), abs=1e-3)


def test_blank_pictures_leave_cameras_as_they_are():
    frames, solution, sweep = planted(shaken())
    found = refine(torch.full_like(frames, 0.5), solution, sweep, belief(FOCAL_PX))
    assert turned_deg(found) == pytest.approx(turned_deg(solution), abs=0.02)


def test_a_narrow_belief_holds_the_focal_length():
    frames, solution, sweep = planted(shaken())
    found = {width: refine(frames, solution, sweep, belief(1.1 * FOCAL_PX, width)) for width in (20.0, 8000.0)}
    gap = {width: abs(float(of.bundle.log_focal.exp()) / (1.1 * FOCAL_PX) - 1) for width, of in found.items()}
    assert gap[8000.0] < gap[20.0]


def test_refinement_narrows_what_matches_told_and_not_what_ordinary_cameras_tell():
    width = lambda log_std: float(refined_width(belief(200.0, 0.5 / log_std**2)))  # noqa: E731
    assert width(0.08) == pytest.approx(REFINED, abs=0.01)
    assert width(0.08) < width(0.25) < 0.95 and width(0.25) < width(0.4) <= 1
    uniform, certain = torch.zeros(1, NUM_FOCALS), torch.full((1, NUM_FOCALS), -200.0).index_fill(1, torch.tensor([9]), 0.0)
    assert float(refined_width(FocalBelief(focal_candidates(WIDTH), uniform.log_softmax(-1)))) == 1.0
    assert float(refined_width(ordinary_cameras())) == 1.0
    assert float(refined_width(FocalBelief(focal_candidates(WIDTH), certain))) == pytest.approx(REFINED)


def test_where_little_depth_is_seen_the_focal_length_is_held():
    """Pictures speak for the true one, the belief is a tenth off: with much depth to see they are heard, with little it is."""
    frames, solution, sweep = planted(shaken())
    departed = {}
    for share in (1.0, 0.004):
        seen = Sweep(sweep.log_inverse_depth, sweep.agreed, torch.full_like(sweep.parallax, share))
        found = refine(frames, solution, seen, belief(1.1 * FOCAL_PX, 20.0))
        departed[share] = abs(float(found.focal_px) / FOCAL_PX - 1.1)
    assert departed[0.004] < 0.01 and departed[1.0] > 0.03


def test_clips_of_a_batch_do_not_mix():
    (frames, one, sweep), (_, two, _) = planted(shaken()), planted(-shaken().flip(0))
    both = lambda a, b: torch.cat([a, b])  # noqa: E731
    seen = Sightings(one.seen.p, *(both(getattr(one.seen, n), getattr(two.seen, n)) for n in ("q", "weight", "prior")), WIDTH)
    bundle = Bundle(*(both(getattr(one.bundle, n), getattr(two.bundle, n)) for n in Bundle.__dataclass_fields__))
    believed = belief(FOCAL_PX)
    twice = Sweep(*(both(getattr(sweep, n), getattr(sweep, n)) for n in Sweep.__dataclass_fields__))
    found = refine(
        both(frames, frames), Solution(bundle, torch.zeros(2), one.near, seen), twice,
        FocalBelief(believed.candidates_px, believed.log_probability.expand(2, -1)),
    )  # fmt: skip
    for index, alone in enumerate((refine(frames, one, sweep, believed), refine(frames, two, sweep, believed))):
        torch.testing.assert_close(found.bundle.rotation[index], alone.bundle.rotation[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.bundle.log_focal[index], alone.bundle.log_focal[0], atol=1e-3, rtol=0)
