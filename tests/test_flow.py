"""Optical flow: known motions come back, the forward-backward check finds what left, chains add up."""

import cv2
import numpy as np
import pytest
from made_shots import texture

from ss3d_lib import flow


def shifted(shift: tuple[float, float], count: int = 2, size=(96, 128)) -> np.ndarray:
    """(T,H,W,3): a texture that moves by `shift` px a frame."""
    rng = np.random.default_rng(3)
    wide = cv2.resize(texture(rng), (320, 320))
    frames = []
    for t in range(count):
        matrix = np.array([[1, 0, 100 - shift[0] * t], [0, 1, 100 - shift[1] * t]], float)
        frames.append(cv2.warpAffine(wide, matrix, size[::-1], flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP))
    return np.stack(frames)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.5, -1.25), (-6.0, 3.0)])
def test_translation(shift):
    forward, backward = flow.forward_backward(shifted(shift), 1)
    inner = (0, slice(12, -12), slice(12, -12))
    assert np.abs(np.median(forward[inner], axis=(0, 1)) - shift).max() < 0.1
    assert np.abs(np.median(backward[inner], axis=(0, 1)) + shift).max() < 0.1


@pytest.mark.parametrize("shift", [(2.5, -1.25), (-6.0, 3.0)])
def test_quick_flow_is_another_and_almost_as_exact(shift):
    first, second = flow.grey(shifted(shift))
    quick, exact = flow.dis_flow(first, second, quick=True), flow.dis_flow(first, second)
    assert (quick != exact).any()
    assert np.abs(np.median(quick[12:-12, 12:-12], axis=(0, 1)) - shift).max() < 0.2


def test_what_leaves_the_picture_is_not_consistent():
    forward, backward = flow.forward_backward(shifted((-8.0, 0.0)), 1)
    matched = flow.consistent(forward[0], backward[0])
    assert not matched[:, :6].any()  # moved out at the left
    assert matched[10:-10, 20:-20].mean() > 0.95


def test_reading_at_points_is_sampling_there():
    forward, backward = (both[0] for both in flow.forward_backward(shifted((-8.0, 0.0)), 1))
    y, x = np.mgrid[3:90:5, 2:125:7].reshape(2, -1)
    points = np.stack([x, y], 1) + forward[y, x]
    np.testing.assert_array_equal(flow.read(backward, points), flow.sample(backward, forward)[y, x])
    matched = flow.agree(forward[y, x], flow.read(backward, points)) & flow.inside(forward)[y, x]
    np.testing.assert_array_equal(matched, flow.consistent(forward, backward)[y, x])
    assert 0 < matched.mean() < 1


def test_half_belongs_to_the_centre_of_four():
    y, x = np.mgrid[:6, :8].astype(np.float32)
    halved = flow.half(np.stack([x, y], -1))
    rows, columns = np.mgrid[:3, :4]
    np.testing.assert_allclose(halved, np.stack([2 * columns + 0.5, 2 * rows + 0.5], -1))


def test_errors():
    frames = shifted((1.0, 0.0))
    with pytest.raises(ValueError, match="stride 2"):
        flow.forward_backward(frames, 2)
    with pytest.raises(ValueError, match="different sizes"):
        flow.dis_flow(frames[0], frames[1][:-2])
    with pytest.raises(ValueError, match="odd size"):
        flow.half(np.zeros((5, 4, 2), np.float32))
