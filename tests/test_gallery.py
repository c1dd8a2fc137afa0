"""The table and pictures of a folder of videos, with files that cannot be read among them."""

import errno
import os
import shutil

import numpy as np
import pytest
import torch
from made_shots import make_shot

from ss3d_lib import gallery, predict
from ss3d_lib.checkpoints import save_model
from ss3d_lib.models import ClipNet
from ss3d_lib.video import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, one with a signal and one without, an empty file, and a checkpoint that knows nothing."""
    root = tmp_path_factory.mktemp("gallery")
    (root / "videos").mkdir()
    for kind in ("multi_view", "static"):
        write_video(root / "videos" / f"{kind}.mp4", make_shot(kind, seed=3, frames=12), fps=15)
    (root / "videos" / "empty.mp4").write_bytes(b"")
    torch.manual_seed(0)
    save_model(ClipNet(), root / "model.safetensors", {})
    return root


def test_every_file_is_a_row_and_only_shots_with_a_signal_are_kept(folder, capsys):
    out = folder / "out"
    arguments = [str(folder / "videos"), "--out", str(out), "--checkpoint", str(folder / "model.safetensors")]
    assert gallery.main(arguments) == 0
    table = gallery.pd.read_csv(out / "shots.csv", keep_default_na=False)
    assert list(table.columns) == list(gallery.COLUMNS)
    by_video = table.set_index("video")
    assert set(by_video.index) == {"multi_view.mp4", "static.mp4", "empty.mp4"}
    assert by_video.kept["multi_view.mp4"] == 1 and by_video.reason["multi_view.mp4"] == ""
    assert by_video.kept["static.mp4"] == 0 and by_video.reason["static.mp4"] in ("static", "slideshow")
    assert by_video.kept["empty.mp4"] == 0 and "empty.mp4" in by_video.reason["empty.mp4"]
    row = by_video.loc["multi_view.mp4"]
    assert 0 < float(row.focal_low) <= float(row.focal_share) <= float(row.focal_high)
    assert (out / "gallery.png").stat().st_size > 10_000
    with np.load(out / "multi_view" / "multi_view_s00.npz", allow_pickle=False) as said:
        assert said["depth_m"].shape == said["frames"].shape[:3]
    assert "multi_view_s00" in capsys.readouterr().out


def test_a_second_run_predicts_only_what_is_new_or_changed(folder, tmp_path, monkeypatch):
    videos, out, predicted = tmp_path / "videos", tmp_path / "out", []
    videos.mkdir()
    shutil.copy2(folder / "videos/multi_view.mp4", videos / "a.mp4")
    monkeypatch.setattr(gallery, "predict_video", lambda model, path, to: predicted.append(path.name) or predict.predict_video(model, path, to))
    arguments = [str(videos), "--out", str(out), "--checkpoint", str(folder / "model.safetensors")]
    assert gallery.main(arguments) == 0 and predicted == ["a.mp4"]
    first = (out / "shots.csv").read_bytes()
    assert gallery.main(arguments) == 0 and predicted == ["a.mp4"] and (out / "shots.csv").read_bytes() == first
    shutil.copy2(folder / "videos/multi_view.mp4", videos / "b.mp4")
    assert gallery.main(arguments) == 0 and predicted == ["a.mp4", "b.mp4"]
    (out / "a" / "a_s00.npz").unlink()
    assert gallery.main(arguments) == 0 and predicted == ["a.mp4", "b.mp4", "a.mp4"]


def test_a_damaged_prediction_is_made_anew(folder, tmp_path, capsys):
    out, video = tmp_path / "out", folder / "videos/multi_view.mp4"
    arguments = [str(video), "--out", str(out), "--checkpoint", str(folder / "model.safetensors")]
    assert gallery.main(arguments) == 0
    made = out / "multi_view/multi_view_s00.npz"
    whole = made.read_bytes()
    made.write_bytes(whole[:1000])
    assert gallery.main(arguments) == 1
    assert "multi_view_s00.npz was damaged and is removed: the same command predicts its video anew" in capsys.readouterr().err
    assert gallery.main(arguments) == 0 and len(made.read_bytes()) == len(whole)


@pytest.mark.parametrize("error, said", [(RuntimeError("cannot allocate memory"), "cannot allocate memory"), (MemoryError(), "MemoryError")])
def test_a_video_that_fails_in_any_way_is_a_row_and_the_others_go_on(folder, tmp_path, monkeypatch, error, said):
    def fails_once(model, path, to):
        if path.name == "multi_view.mp4":
            raise error
        return predict.predict_video(model, path, to)

    monkeypatch.setattr(gallery, "predict_video", fails_once)
    assert gallery.main([str(folder / "videos"), "--out", str(tmp_path), "--checkpoint", str(folder / "model.safetensors")]) == 0
    table = gallery.pd.read_csv(tmp_path / "shots.csv", keep_default_na=False).set_index("video")
    assert table.reason["multi_view.mp4"] == said and table.shot["static.mp4"] == "static_s00"


def test_a_full_disk_is_no_fault_of_the_video(folder, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "the disk is full", "x.npz")

    monkeypatch.setattr(gallery, "predict_video", full)
    assert gallery.main([str(folder / "videos"), "--out", str(tmp_path), "--checkpoint", str(folder / "model.safetensors")]) == 1
    assert "the disk is full" in capsys.readouterr().err and not (tmp_path / "shots.csv").exists()


def test_a_missing_folder_or_checkpoint_is_one_clear_line(folder, capsys):
    checkpoint = ["--checkpoint", str(folder / "model.safetensors")]
    assert gallery.main([str(folder / "nowhere"), "--out", str(folder / "x"), *checkpoint]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert gallery.main([str(folder / "videos"), "--out", str(folder / "x"), "--checkpoint", "none.safetensors"]) == 1
    assert "none.safetensors" in capsys.readouterr().err


def test_two_videos_of_one_name_keep_a_folder_each(folder, tmp_path, capsys):
    videos = tmp_path / "videos"
    for place in (videos, videos / "sub"):
        place.mkdir()
        shutil.copy2(folder / "videos/multi_view.mp4", place / "clip.mp4")
    (videos / os.fsdecode(b"bad\xff.mp4")).write_bytes(b"")
    out = tmp_path / "out"
    assert gallery.main([str(videos), "--out", str(out), "--checkpoint", str(folder / "model.safetensors")]) == 0
    table = gallery.pd.read_csv(out / "shots.csv", keep_default_na=False)
    good = table[table.kept == 1]
    assert sorted(good.video) == ["clip.mp4", "sub/clip.mp4"] and good.results.nunique() == 2
    assert all((out / row.results / f"{row.shot}.npz").is_file() for row in good.itertuples())
    assert "1 of 3 videos gave no shot" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_one_clear_line(folder, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert gallery.main([str(folder / "videos"), "--out", str(tmp_path / "out"), "--checkpoint", str(folder / "model.safetensors")]) == 1
    assert "out" in capsys.readouterr().err and (tmp_path / "out").read_text() == "mine"
