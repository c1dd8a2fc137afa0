"""Whether matches show depth: rotations, zooms and flat scenes do not, a walk past near and far things does."""

import cv2
import numpy as np
import pytest
import torch

from ss3d_lib.geometry import so3_exp
from ss3d_lib.models.flatness import depth_shown, homography_distance
from ss3d_lib.models.trajectory import PairGraph

FOCAL_PX, HALF_PX = 200.0, 120.0


def seen_twice(case: str, seed: int = 0, noise_px: float = 0.2, points: int = 540) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (M, 2) relative to the image centre in a first frame, and in a second (1, 1, M, 2)."""
    rng = torch.Generator().manual_seed(seed)
    p = (torch.rand(points, 2, generator=rng) - 0.5) * torch.tensor([230.0, 130.0])
    depth = 2 + 6 * torch.rand(points, generator=rng) if case != "plane" else 4 + p[:, 0] / 100
    rays = torch.cat([p / FOCAL_PX, torch.ones(points, 1)], 1) * depth[:, None]
    turn = so3_exp(torch.tensor([0.02, 0.06, 0.01])) if case != "zoom" else torch.eye(3)
    shift = torch.tensor([0.3, 0.05, 0.1]) if case in ("walk", "plane") else torch.zeros(3)
    moved = rays @ turn.T + shift
    q = moved[:, :2] / moved[:, 2:] * FOCAL_PX * (1.2 if case == "zoom" else 1.0)
    return p, (q + noise_px * torch.randn(q.shape, generator=rng))[None, None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case, shown", [("walk", 1.0), ("turn", 0.0), ("zoom", 0.0), ("plane", 0.0)])
def test_what_a_homography_explains_shows_no_depth(case, shown, seed):
    p, q = seen_twice(case, seed)
    assert depth_shown(p, q, torch.ones(1, 1, len(p)), HALF_PX).item() == shown


def test_a_still_camera_and_matches_without_weight_show_none():
    p, q = seen_twice("walk")
    assert depth_shown(p, p.expand(1, 2, -1, -1), torch.ones(1, 2, len(p)), HALF_PX).item() == 0
    assert depth_shown(p, q, torch.zeros(1, 1, len(p)), HALF_PX).item() == 0
    wrong = torch.ones(1, 1, len(p))
    wrong[..., ::3] = 0  # a third of the matches is wrong, and known to be
    strayed = seen_twice("turn")[1]
    strayed[..., ::3, :] += 30
    assert depth_shown(p, strayed, wrong, HALF_PX).item() == 0


def test_clips_do_not_mix():
    (p, walk), (_, turn) = seen_twice("walk"), seen_twice("turn")
    torch.testing.assert_close(depth_shown(p, torch.cat([turn, walk, turn]), torch.ones(3, 1, len(p)), HALF_PX), torch.tensor([0.0, 1.0, 0.0]))


def test_distances_are_those_of_the_homography_of_opencv():
    """A tenth of the matches is wrong by 20 px and more: MAGSAC++ and reweighting leave them out alike."""
    p, q = seen_twice("plane", noise_px=0.1)
    q[..., ::10, :] += 20 + 20 * torch.rand(q[..., ::10, :].shape, generator=torch.Generator().manual_seed(1))
    matrix, _ = cv2.findHomography(p.numpy(), q[0, 0].numpy(), cv2.USAC_MAGSAC, 1.0)
    mapped = np.c_[p.numpy(), np.ones(len(p))] @ matrix.T
    expected = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - q[0, 0].numpy(), axis=1)
    np.testing.assert_allclose(homography_distance(p, q[0], torch.ones(1, len(p)), HALF_PX)[0], expected, atol=0.1)


@pytest.mark.parametrize("frames, gap", [(2, 1), (3, 2), (4, 2), (5, 4), (9, 4)])
def test_the_widest_pairs_of_a_graph(frames, gap):
    graph = PairGraph.of(frames)
    assert (graph.second - graph.first)[graph.widest].tolist() == [gap] * (frames - gap)
