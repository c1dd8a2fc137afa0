"""The curriculum: easy shots first, and in the end all of them by their score."""

from dataclasses import replace

import numpy as np
import pytest

from ss3d_lib.curriculum import EXTREME_LIGHT, FAST_PX, ease, sampling_weights
from ss3d_lib.data import Shot


def shot(grey=128, speed_px=1.0, score=1.0, stride=2) -> Shot:
    """A shot that is evenly grey and moves evenly to the right."""
    frames = np.full((9, 16, 24, 3), grey, np.uint8)
    flow = np.zeros((9 - stride, 8, 12, 2), np.float16)
    flow[..., 0] = speed_px * stride
    return Shot("made_s00", "made.mp4", score, stride, frames, flow, -flow)


def test_fast_dark_glaring_and_weak_shots_are_harder():
    usual = ease(shot())
    assert 0.9 < usual <= 1
    for harder in (shot(speed_px=FAST_PX), shot(grey=15), shot(grey=245), shot(score=0.5)):
        assert 0 < ease(harder) < 0.6 * usual
    assert ease(shot(grey=int(EXTREME_LIGHT))) == ease(shot(grey=180)) == usual, "ordinary light is all alike"


def test_speed_is_told_per_frame_whatever_the_stride():
    assert ease(shot(speed_px=4, stride=1)) == pytest.approx(ease(shot(speed_px=4, stride=4)), rel=1e-3)
    still = shot(speed_px=4)
    assert ease(replace(still, forward=still.forward * 0)) == 1


def test_the_hard_half_waits_and_then_takes_part_by_its_score():
    scores, eases = np.array([1.0, 0.6, 1.0, 0.8]), np.array([0.3, 0.5, 0.9, 0.2])
    start, middle, end = (sampling_weights(scores, eases, progress, 0.5) for progress in (0, 0.5, 1))
    assert (start > 0).tolist() == [False, True, True, False] and start[2] / start[1] == pytest.approx(1 / 0.6)
    assert (middle > 0).tolist() == [True, True, True, False], "the next easiest comes first, although its score is the best"
    np.testing.assert_allclose(end, scores / scores.sum())
    np.testing.assert_array_equal(sampling_weights(scores, eases, 7.0, 0.5), end)


def test_no_curriculum_is_a_share_of_one():
    scores = np.array([0.0, 0.5, 1.0])
    weights = sampling_weights(scores, np.array([0.1, 0.2, 0.3]), 0.0, 1.0)
    assert (weights > 0).all() and weights.argmax() == 2 and weights.sum() == pytest.approx(1)
