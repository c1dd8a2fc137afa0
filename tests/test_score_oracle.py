"""The true multi-view signal from ground truth: nothing where there is none by geometry, and out of the score's reach."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import score_oracle
from benchmarks.score_oracle import View
from ss3d_lib import graph

CAMERA = np.array([200.0, 200, 119.5, 71.5])


def steps(seed: int) -> np.ndarray:
    """Depth (72,120) m of a scene in steps, seen at every second pixel of 240 x 144."""
    return np.kron(np.random.default_rng(seed).uniform(3, 4, (6, 10)), np.ones((12, 12)))


def moved(x: float = 0.0, z: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[0, 3], pose[2, 3] = x, z
    return pose


def test_parallax_of_a_wall_is_none_and_of_steps_is_some():
    wall = [View(np.full((72, 120), 3.5), moved(0.2 * k), CAMERA) for k in range(2)]
    assert score_oracle.true_signal(wall, 1, 2, 1.0) == 0
    depth = steps(0)
    pixels = np.stack(np.meshgrid(np.arange(120), np.arange(72)), -1).reshape(-1, 2) * 2.0
    first, second = View(depth, moved(), CAMERA), View(depth, moved(0.2), CAMERA)
    end, end_depth = score_oracle.project(pixels, depth.ravel(), first, second)
    np.testing.assert_allclose(end[:, 0], pixels[:, 0] - 200 * 0.2 / depth.ravel())
    np.testing.assert_allclose(end_depth, depth.ravel())
    loose = View(np.where(depth > 0, end_depth.reshape(72, 120), 0), moved(0.2), CAMERA)
    assert 0.1 < score_oracle.true_signal([first, loose], 1, 2, 1.0) < 0.8


def test_rotation_zoom_and_no_camera_have_no_signal():
    depth = steps(1)
    still = View(depth, moved(), CAMERA)
    longer = View(depth, moved(), CAMERA * (1.3, 1.3, 1, 1))
    assert score_oracle.true_signal([still, still], 1, 2, 1.0) == 0
    assert score_oracle.true_signal([still, longer], 1, 2, 1.0) == 0
    assert score_oracle.true_signal([still, View(depth, moved(0.2), CAMERA * np.nan)], 1, 2, 1.0) == 0
    assert score_oracle.true_signal([still], 4, 2, 1.0) == 0  # shorter than the stride


def test_too_far_and_hidden_are_no_signal():
    first, depth = View(steps(2), moved(), CAMERA), steps(2)
    assert score_oracle.true_signal([first, View(depth, moved(3.0), CAMERA)], 1, 2, 1.0) == 0  # out of reach
    assert score_oracle.true_signal([first, View(depth / 2, moved(0.2), CAMERA)], 1, 2, 1.0) == 0  # something stands before


def test_the_score_knows_nothing_of_truth():
    for path in graph.transitive_modules(Path("ss3d_lib/score.py")) | {Path("ss3d_lib/score.py")}:
        packages = {name.split(".")[0] for name in graph.imported_names(path)}
        assert not packages & {"corpus", "benchmarks"}, path
        assert "truth" not in path.read_text(encoding="utf-8").replace("ground truth", ""), path


@pytest.mark.slow
def test_spearman_on_the_validation_split(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["score_oracle.py", "--out", str(tmp_path / "oracle.json")])
    score_oracle.main()
    from ss3d_lib.files import read_json

    found = read_json(tmp_path / "oracle.json")
    assert found["spearman"] >= 0.8
    whole = found["without"]["nothing"]
    assert whole["spearman"] == pytest.approx(found["spearman"], abs=1e-3), "the factors must make up the score"
    assert found["without"]["camera"]["let_through"] > whole["let_through"], "tripods pass where nothing asks for a camera that moves"
