"""What a user does wrong at the command line: odd names, odd numbers, Ctrl-C, a full disk, results in the way."""

import csv
import errno
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupts import interrupt
from safetensors.torch import save_file
from test_datasets import write_sequence

from ss3d_lib import checkpoints, commands, evaluate, graph, jobs, notebooks, predict, score, shards, video
from ss3d_lib.curation import CurateSettings, curate_videos, read_rows
from ss3d_lib.files import atomic_write, disk_errors_name, read_json, require_place, write_json
from ss3d_lib.journal import Journal
from ss3d_lib.models import ClipNet
from ss3d_lib.protocol import Answer

FEW = CurateSettings(min_frames=4)


def make_video(path: Path, frames: int = 12) -> Path:
    moving = [np.roll(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8), k, 1) for k in range(frames)]
    return video.write_video(path, np.stack(moving))


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_utf_8_is_a_row_and_the_others_go_on(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    paths = [Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.mp4")), make_video(tmp_path / "in" / "good.mp4")]
    monkeypatch.setattr(video, "find_videos", lambda folder: paths)  # not every file system can hold such a name
    rows = curate_videos(paths, tmp_path / "out", tmp_path / "work", FEW, workers=1)
    assert [(row.status, "not UTF-8, or" in row.reason) for row in rows] == [("failed", True), ("kept", False)]
    counts = score.score_folder(tmp_path / "in", tmp_path / "scores.csv", workers=1, settings=FEW)
    table = list(csv.DictReader((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert counts["unreadable"] == 1 and counts["shots"] == 1 and r"caf\udce9.mp4" in table[0]["video"]


def test_a_name_with_a_carriage_return_is_one_row_that_says_so(tmp_path):
    path = make_video(tmp_path / "in.mp4").rename(tmp_path / "a\rb.mp4")
    (row,) = curate_videos([path], tmp_path / "out", tmp_path / "work", FEW, workers=1)
    assert row.status == "failed" and "carriage return; rename it" in row.reason
    assert [(again.video, again.status) for again in read_rows(tmp_path / "out" / "shots.csv")] == [(row.video, "failed")]


def test_a_relative_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    make_video(tmp_path / "take:2.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(video.read_video("take:2.mp4")[0]) == len(video.read_video("take:2.mp4", decoder="pyav")[0]) == 12


# --- results in the way -----------------------------------------------------------------------------------------------


def test_score_never_writes_over_a_video(tmp_path, capsys):
    path = make_video(tmp_path / "a.mp4")
    before = path.read_bytes()
    assert score.main([str(path), "--out", str(path), "--workers", "1"]) == 1
    assert path.read_bytes() == before and "is one of the videos" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a folder: name a file in it"):
        require_place(tmp_path)
    with pytest.raises(OSError, match="file"):
        require_place(tmp_path / "file" / "x.json")
    require_place(tmp_path / "new" / "x.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_what_cannot_be_read_at_all_is_a_failure(tmp_path, capsys):
    (tmp_path / "a.mp4").write_text("no video")
    assert score.main([str(tmp_path / "a.mp4"), "--out", str(tmp_path / "s.csv"), "--workers", "1"]) == 1
    assert "1 videos could not be read" in capsys.readouterr().err


def test_a_bad_video_leaves_earlier_predictions_in_the_summary(tmp_path):
    write_json(tmp_path / "summary.json", {"good_s00": {"status": "predicted"}})
    (tmp_path / "bad.mp4").write_text("no video")
    said = predict.predict_video(ClipNet(), tmp_path / "bad.mp4", tmp_path)
    assert list(said) == ["bad_s00"] and set(read_json(tmp_path / "summary.json")) == {"good_s00", "bad_s00"}


def test_a_shot_longer_than_a_training_window_is_predicted_whole(tmp_path, monkeypatch):
    path = make_video(tmp_path / "long.mp4", frames=150)
    monkeypatch.setattr(predict, "predict_shot", lambda model, shot, out: {"frames": len(shot.frames)})
    assert predict.predict_video(ClipNet(), path, tmp_path / "out") == {"long_s00": {"frames": 150}}


def test_predict_of_a_folder_names_the_gallery(tmp_path, capsys):
    assert predict.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "ss3d_lib.gallery reads all" in capsys.readouterr().err


def test_one_bad_sequence_does_not_cost_the_others(tmp_path, capsys, monkeypatch):
    write_sequence(tmp_path / "in" / "good")
    write_sequence(tmp_path / "in" / "broken")
    (tmp_path / "in" / "broken" / "intrinsics.txt").write_text("no numbers")
    guess = lambda frames: Answer(depth_m=np.ones(frames.shape[:3]), focal_px=20.0)
    monkeypatch.setattr(evaluate, "checkpoint_predictor", lambda path: guess)
    (tmp_path / "x").write_bytes(b"weights")
    command = ["--checkpoint", str(tmp_path / "x"), "--sequences", str(tmp_path / "in"), "--out", str(tmp_path / "o.json"), "--stride", "1"]
    assert evaluate.main(command) == 1
    assert read_json(tmp_path / "o.json")["good"]["checkpoint_sha256"] == hashlib.sha256(b"weights").hexdigest()
    printed = capsys.readouterr().err
    assert "left out: " in printed and "broken" in printed and set(read_json(tmp_path / "o.json")) == {"good"}
    assert evaluate.main([*command, "--max-frames", "1"]) == 1
    assert "take at least 2 frames" in capsys.readouterr().err


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, said", [("folder", "is a folder"), ("list", "cannot be read"), ("nan", "not finite")])
def test_a_checkpoint_that_is_none_is_named(kind, said, tmp_path):
    path = tmp_path / "model.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "list":
        save_file({"x": torch.zeros(1)}, path, {checkpoints.FORMAT: "[1]"})
    else:
        model = ClipNet()
        model.focal_head.log_sharpness.data.fill_(float("nan"))
        checkpoints.save_model(model, path)
    with pytest.raises(ValueError, match=f"model.safetensors.*{said}"):
        checkpoints.load_model(path)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "main, given",
    [
        (score.main, ["v", "--out", "s.csv", "--workers", "-3"]),
        (score.main, ["v", "--out", "s.csv", "--every-s", "nan"]),
        (shards.main, ["--out", "o", "--shard-mb", "0"]),
        (evaluate.main, ["--checkpoint", "c", "--sequences", "s", "--out", "o", "--stride", "-1"]),
    ],
)
def test_numbers_that_make_no_sense_are_refused(main, given, capsys):
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 2 and f"argument {given[-2]}: {given[-1]}" in capsys.readouterr().err


def test_numbers_at_their_bounds():
    assert commands.whole(0)("0") == 0 and commands.real(0)("0") == 0.0 and commands.real(0, above=True)("1e-9") == 1e-9


# --- Ctrl-C and a full disk -------------------------------------------------------------------------------------------


def test_interrupt_is_one_line_and_130(tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(40):
        make_video(tmp_path / "in" / f"{k:02d}.mp4", 40)
    out = tmp_path / "s.csv"
    command = [sys.executable, "-m", "ss3d_lib.score", str(tmp_path / "in"), "--out", str(out), "--workers", "2"]
    journal = Path(f"{out}.journal")
    status, said = interrupt(command, lambda: journal.exists() and journal.stat().st_size)
    assert status == commands.INTERRUPTED, said
    assert "Traceback" not in said and "interrupted: what was finished is kept" in said


def write_to_full_disk(name: str) -> None:
    """What the system says of a write for which there is no room."""
    if name == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_all_and_is_no_fault_of_the_file(workers):
    with pytest.raises(OSError) as caught:
        list(jobs.run_jobs(write_to_full_disk, [("a",), ("full",), ("b",)], workers))
    assert caught.value.errno == errno.ENOSPC


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match="the disk is full: free some space.*table.csv"), atomic_write(tmp_path / "table.csv"):
        write_to_full_disk("full")
    with pytest.raises(OSError, match="the disk is full.*frames.npy") as caught, disk_errors_name("frames.npy"):
        raise OSError("4096 requested and 0 written")  # numpy's words
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError, match="other"), disk_errors_name("frames.npy"):
        open(tmp_path / "other")


def test_a_damaged_line_of_a_journal_is_passed_over(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.add("a", "1", {"row": [1]})
        journal.add("b", "1", {"row": [2]})
    path.write_bytes(path.read_bytes().replace(b'{"row": [1]}', b'{"raw": [1]}'))
    with Journal(path) as journal:
        assert not journal.holds("a", "1") and journal.get("b") == {"row": [2]}


# --- outside the repository -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("main", [graph.main, notebooks.main])
def test_outside_the_repository_the_remedy_is_told(main, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert "run from the root of the repository" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "shot,score\na,1\n"])
def test_scores_that_are_no_table_of_scores_are_named(text, tmp_path, capsys):
    (tmp_path / "scores.csv").write_text(text)
    assert shards.main(["--score", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "scores.csv" in capsys.readouterr().err and not (tmp_path / "out").exists()
