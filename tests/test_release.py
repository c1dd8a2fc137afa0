"""The released checkpoint's work folder: params with some values changed, copies of code, and every video once."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from interrupts import interrupt

from ss3d_lib import release
from ss3d_lib.params import ParamsError, load_sections


@pytest.fixture
def videos(tmp_path) -> list[Path]:
    """Two folders with two videos each (their content is never read here)."""
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        for number in range(2):
            (folder / f"{folder.name}_{number}.mp4").write_bytes(folder.name.encode())
    return folders


def test_changed_values_take_the_place_of_the_usual_ones():
    larger = release.larger_params({"stage2": {"steps": 9}, "experts": {"max_judges": 16}})
    usual = load_sections()
    assert larger["stage2"] == usual["stage2"] | {"steps": 9} and larger["experts"]["max_judges"] == 16
    assert larger["stage1"] == usual["stage1"] and larger["base"] == usual["base"]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"finetune": {"steps": 1}}, "no stage 'finetune' leads to the student"),
        ({"stage2": {"step": 1}}, "step"),
        ({"stage2": {"steps": "many"}}, "steps"),
    ],
)
def test_a_change_of_nothing_is_an_error(changes, said):
    with pytest.raises(ParamsError, match=said):
        release.larger_params(changes)


def test_the_work_folder_holds_code_params_and_every_video_once(tmp_path, videos):
    work = tmp_path / "work"
    assert release.prepare(work, videos, videos[0], {"stage2": {"steps": 9}}) == 4
    written = yaml.safe_load((work / "params.yaml").read_text())
    assert written["stage2"]["steps"] == 9
    assert written["curate"]["videos"] == "videos" and written["experts"]["judge_videos"] == "judges"
    assert sorted(path.name for path in (work / "videos").iterdir()) == ["a_0.mp4", "a_1.mp4", "b_0.mp4", "b_1.mp4"]
    for name in release.COPIED:
        assert (work / name).exists(), name
    assert not list(work.glob("**/__pycache__")) and not (work / "data").exists()
    (videos[1] / "b_0.mp4").unlink()
    assert release.prepare(work, videos, videos[0], {}) == 3
    assert not (work / "videos/b_0.mp4").exists(), "a video that is gone must go from the work folder too"


def test_half_copies_and_outdated_ones_are_copied_anew_and_the_others_stay(tmp_path, videos):
    target = tmp_path / "work"
    release.copy_videos(target, videos)
    before = {path.name: path.stat().st_ino for path in target.iterdir()}
    (target / "a_0.mp4").write_bytes(b"h")
    (videos[0] / "a_1.mp4").write_bytes(b"A")  # of the same size
    os.utime(videos[0] / "a_1.mp4", ns=(0, 10**18))
    (target / "earlier").mkdir()
    (target / "earlier" / "c.mp4").write_bytes(b"c")
    assert release.copy_videos(target, videos) == 4
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for folder in videos for path in folder.iterdir()
    }
    after = {path.name: path.stat().st_ino for path in target.iterdir()}
    assert {name for name in before if before[name] == after[name]} == {"b_0.mp4", "b_1.mp4"}


def test_a_copy_that_is_interrupted_leaves_nothing(tmp_path, videos, monkeypatch):
    def interrupted(video, to):
        Path(to).write_bytes(b"h")
        raise KeyboardInterrupt

    monkeypatch.setattr(release.shutil, "copy2", interrupted)
    with pytest.raises(KeyboardInterrupt):
        release.copy_videos(tmp_path / "work", videos)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("ends, status", [("exit 0", 0), ("exit 3", 3), ("sleep 60", 130)])
def test_the_stage_is_frozen_again_however_make_release_ends(tmp_path, ends, status):
    """The last line of the recipe, with a dvc that only writes down what it is asked; what sleeps is interrupted."""
    recipe = subprocess.run(["make", "--no-print-directory", "-n", "release"], capture_output=True, text=True, check=True).stdout
    log = tmp_path / "log"
    (tmp_path / "dvc").write_text(f'#!/bin/sh\necho "$*" >> {log}\n[ "$1" != repro ] || {ends}\n')
    (tmp_path / "dvc").chmod(0o755)
    command, environment = ["sh", "-c", recipe.splitlines()[-1]], os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    if status == 130:
        ended, _ = interrupt(command, lambda: log.exists() and "repro" in log.read_text(), env=environment)
    else:
        ended = subprocess.run(command, env=environment, timeout=30).returncode
    assert ended == status
    assert log.read_text().splitlines() == ["unfreeze release", "repro -s release", "freeze release"]


def test_two_videos_of_one_name_are_an_error(tmp_path, videos):
    (videos[1] / "a_0.mp4").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"a_0\.mp4 occurs twice"):
        release.copy_videos(tmp_path / "videos", videos)


def test_stages_that_fail_are_told(tmp_path):
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(RuntimeError, match="what is finished there is kept"):
        release.reproduce(tmp_path)
