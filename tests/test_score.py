"""Scores from the shell and in the stage: the same rows, the flow cache, resuming, errors."""

import csv

import numpy as np
import pytest
from made_shots import make_shot

from ss3d_lib import flow, plots, score, video
from ss3d_lib.curation import curate_videos


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with one good clip, one still picture and one empty file."""
    folder = tmp_path_factory.mktemp("clips")
    video.write_video(folder / "good.mp4", make_shot("multi_view", 3, 16, noise=0), crf=14)
    video.write_video(folder / "still.mp4", np.repeat(make_shot("multi_view", 4, 1, noise=0), 12, axis=0), crf=14)
    (folder / "empty.mp4").write_bytes(b"")
    return folder


def test_command_line(clips, tmp_path, capsys):
    assert score.main([str(clips), "--out", str(tmp_path / "scores.csv"), "--workers", "1"]) == 0
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = {row["shot"]: row for row in csv.DictReader(file)}
    assert list(rows["good_s00"])[:7] == ["video", "shot", "start_s", "end_s", "score", "stride", "reason"]
    assert float(rows["good_s00"]["score"]) > 0.5 and rows["good_s00"]["reason"] == ""
    assert float(rows["still_s00"]["score"]) < 0.5 and rows["still_s00"]["reason"] == "slideshow"
    assert float(rows["empty_s00"]["score"]) == 0 and "empty" in rows["empty_s00"]["reason"]
    said = capsys.readouterr()
    assert "2 shots of 3 videos, 1 with" in said.out and "1 videos could not be read" in said.err
    assert (tmp_path / "scores.csv.journal").is_file()
    assert score.main([str(clips / "good.mp4"), "--out", str(tmp_path / "one.csv")]) == 0


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    assert score.main([str(tmp_path / "absent"), "--out", str(tmp_path / "scores.csv")]) == 1
    assert "absent: no such file or folder" in capsys.readouterr().err


def test_stage_writes_scores_and_flow_once(clips, tmp_path):
    rows = curate_videos(video.find_videos(clips), tmp_path / "curate", tmp_path / "work", workers=1)
    run = lambda: score.score_shots(
        rows, tmp_path / "curate" / "frames", tmp_path / "score", tmp_path / "shots", 0.5, workers=1
    )
    first = run()
    assert [(row.shot, row.kept) for row in first] == [("good_s00", 1), ("still_s00", 0)]
    table = (tmp_path / "score" / "scores.csv").read_bytes()
    (cache,) = (tmp_path / "score" / "flow").iterdir()
    stride, forward, backward = flow.read_cache(cache)
    assert cache.stem == "good_s00" and stride == first[0].stride
    assert forward.shape == backward.shape == (16 - stride, 72, 120, 2) and forward.dtype == np.float16
    made = cache.stat().st_mtime_ns
    assert run() == first and cache.stat().st_mtime_ns == made  # nothing is done twice
    assert (tmp_path / "score" / "scores.csv").read_bytes() == table
    by_shell = score.score_video(clips / "good.mp4")[0]
    assert (by_shell.score, by_shell.stride) == (first[0].score, first[0].stride)


def test_cached_flow_is_in_working_px(tmp_path):
    """A shift of 6 px at the working size is 6 in the cache, although the cache has half the resolution."""
    frames = np.stack([np.roll(make_shot("planar", 2, 1, noise=0)[0], 3 * t, axis=1) for t in range(4)])
    with open(tmp_path / "x.npz", "wb") as file:
        flow.write_cache(file, 2, *flow.to_cache(frames, 2))
    _, forward, backward = flow.read_cache(tmp_path / "x.npz")
    inner = (slice(None), slice(10, -10), slice(15, -15))
    assert np.abs(np.median(forward[inner].astype(float), axis=(0, 1, 2)) - (6, 0)).max() < 0.1
    assert np.abs(np.median(backward[inner].astype(float), axis=(0, 1, 2)) + (6, 0)).max() < 0.1


def test_the_figure_of_the_terms_is_the_same_every_time(tmp_path):
    """The dots are shaken apart at random, but always in the same way: figures are versioned."""
    terms, kinds = {"matched": np.linspace(0, 1, 20), "still": np.zeros(20)}, ["signal", "static"] * 10
    first, again = (tmp_path / name for name in ("first.png", "again.png"))
    for path in (first, again):
        plots.save_figure(plots.term_strips(terms, kinds), path)
    assert first.read_bytes() == again.read_bytes()
