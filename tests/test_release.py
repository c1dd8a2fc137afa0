"""The released checkpoint's work folder: params with some values changed, copies of code, and every video once."""

from pathlib import Path

import pytest
import yaml

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


def test_two_videos_of_one_name_are_an_error(tmp_path, videos):
    (videos[1] / "a_0.mp4").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"a_0\.mp4 occurs twice"):
        release.copy_videos(tmp_path / "videos", videos)


def test_stages_that_fail_are_told(tmp_path):
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(RuntimeError, match="what is finished there is kept"):
        release.reproduce(tmp_path)
