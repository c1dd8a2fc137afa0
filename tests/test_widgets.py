"""Widgets and their static twins; the two notebooks that no stage runs are executed here."""

import os
import subprocess
import sys
import types
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml

from ss3d_lib import drawings, widgets
from ss3d_lib.checkpoints import save_model
from ss3d_lib.models import ClipNet
from ss3d_lib.progress import EXECUTED_ENV
from ss3d_lib.widgets import Slider, explore, live_figure


def draw(a: float = 0.0, b: float = 1.0):
    figure, axis = plt.subplots()
    axis.set_title(f"{a} {b}")
    return figure


SLIDERS = {"a": Slider(0, 1, 0.5, 0.1, "first"), "b": Slider(1, 3, 2, 1, "second")}


def test_outside_jupyter_the_twin_is_shown():
    twin = draw()
    assert explore(draw, SLIDERS, twin) is twin


def test_an_executed_copy_shows_the_twin(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr("IPython.get_ipython", type("ZMQInteractiveShell", (), {}))
    monkeypatch.delenv(EXECUTED_ENV, raising=False)
    assert widgets.is_live()
    monkeypatch.setenv(EXECUTED_ENV, "1")
    assert not widgets.is_live()
    twin = draw()
    assert explore(draw, SLIDERS, twin) is twin


def test_in_a_live_kernel_the_sliders_call_the_drawing_with_their_values(monkeypatch):
    monkeypatch.setattr(widgets, "is_live", lambda: True)
    seen = []

    def record(**values):
        seen.append(values)
        return draw(**values)

    box = explore(record, SLIDERS, draw())
    assert seen == [{"a": 0.5, "b": 2.0}]
    box.children[0].value = 0.9
    assert seen[-1] == {"a": 0.9, "b": 2.0}
    assert [slider.description for slider in box.children[:2]] == ["first", "second"]


def test_every_slider_gets_its_own_control():
    assert len(live_figure(draw, SLIDERS).children) == 3


def test_a_slider_that_starts_outside_its_range_is_named():
    with pytest.raises(ValueError, match=r"slider 'a' starts at 5.*\[0, 1\]"):
        explore(draw, {"a": Slider(0, 1, 5, 0.1, "first")}, draw())


def test_the_stage_graph_draws_every_stage_once():
    reads = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"c", "a"}}
    figure = drawings.stage_graph(reads, {"a": "notebook 01"})
    texts = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert sorted(text.split("\n")[0] for text in texts) == ["a", "b", "c", "d"]
    arrows = [text for text in figure.axes[0].texts if not text.get_text()]
    assert len(arrows) == 3  # a -> b -> c -> d: what follows from others is left out


def test_drawings_of_a_prediction():
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, 2, 3] = np.arange(5)
    for figure in (
        drawings.cameras_3d(poses, np.linspace(0, 1, 30).reshape(10, 3), np.zeros((10, 3), np.uint8)),
        drawings.from_above(poses),
        drawings.cameras_3d(np.eye(4)[None]),
        drawings.focal_distribution(
            np.geomspace(70, 500, 32), np.full(32, 1 / 32), 200.0, np.array([150.0, 250.0])
        ),
        drawings.pictures({"picture": np.zeros((8, 9, 3)), "depth": np.ones((8, 9))}, depth=["depth"]),
    ):
        figure.canvas.draw()
        plt.close(figure)


# --- the notebooks that no stage runs ---------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder that looks like the repository but keeps its own results, so that no test touches the user's."""
    for name in ("notebooks", "ss3d_lib", "data", "params.yaml", "dvc.yaml"):
        (tmp_path / name).symlink_to(Path.cwd() / name)
    return tmp_path


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A checkpoint that has learnt nothing: these tests are about the notebook."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "untrained.safetensors"
    save_model(ClipNet("tiny"), path)
    return path


def run_stage(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The runner, with a folder for its results."""
    environment = os.environ | {"PYTHONPATH": str(project)}
    command = [sys.executable, "-m", "ss3d_lib.run_notebook", *arguments, "-p", "threads=1"]
    return subprocess.run(command, env=environment, cwd=project, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_notebook_00_runs(project):
    done = run_stage(project, "start_here")
    assert done.returncode == 0, done.stderr[-2000:]
    executed = (project / "results/start_here/00_start_here.ipynb").read_text()
    assert "largest change by the identity warp" in executed and executed.count("image/png") >= 9


@pytest.mark.slow
def test_notebook_11_runs_on_a_video_and_exports(project, untrained):
    video = yaml.safe_load((project / "params.yaml").read_text())["your_video"]["video"]
    assert (project / video).is_file(), f"{video} is missing: make data"
    done = run_stage(project, "your_video", "-p", f"checkpoint={untrained}", "-p", "max_shots=2")
    assert done.returncode == 0, done.stderr[-2000:]
    made = project / "results/your_video"
    for name in (
        "export/cloud.ply",
        "export/poses_c2w.txt",
        "export/colmap/cameras.txt",
        "figures/focal.png",
        "prediction.json",
    ):
        assert (made / name).is_file(), f"{name} was not written"


@pytest.mark.slow
def test_notebook_11_names_a_file_that_is_no_video(project, untrained):
    (project / "letter.mp4").write_text("not a video")
    done = run_stage(project, "your_video", "-p", "video=letter.mp4", "-p", f"checkpoint={untrained}")
    assert (
        done.returncode != 0 and "letter.mp4: no shot can be used: letter_s00: letter.mp4: not a video" in done.stderr
    )
