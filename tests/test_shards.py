"""Tar shards: what training reads from them is what the stages wrote, in an order that the seed decides."""

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from made_shots import make_shot

from ss3d_lib import curation, flow, score, shards, video

pytest.importorskip("webdataset", reason="webdataset is not installed: pip install -e '.[cluster]'")


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """(curate, score) folders of five kept shots and one that was rejected."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "in").mkdir()
    for seed in range(5):
        video.write_video(folder / "in" / f"clip_{seed}.mp4", make_shot("multi_view", seed, 10, noise=0), crf=14)
    video.write_video(folder / "in" / "still.mp4", np.repeat(make_shot("multi_view", 9, 1), 10, axis=0), crf=14)
    rows = curation.curate_videos(video.find_videos(folder / "in"), folder / "curate", folder / "w", workers=1)
    score.score_shots(rows, folder / "curate" / "frames", folder / "score", folder / "s", 0.3, workers=1)
    return folder / "curate", folder / "score"


def kept(stages) -> dict[str, dict]:
    with open(stages[1] / "scores.csv", newline="") as file:
        return {row["shot"]: row for row in csv.DictReader(file) if row["kept"] == "1"}


def test_the_stream_gives_what_the_stages_wrote(stages, tmp_path):
    paths = shards.write_shards(*stages, tmp_path, shard_mb=3.0)
    assert len(paths) > 1 and all(path.stat().st_size < 4e6 for path in paths)
    found = {shot.name: shot for shot in shards.stream_shots(tmp_path)}
    assert set(found) == set(kept(stages)) and len(found) >= 4
    for name, shot in found.items():
        stride, forward, backward = flow.read_cache(stages[1] / "flow" / f"{name}.npz")
        np.testing.assert_array_equal(shot.frames, np.load(stages[0] / "frames" / f"{name}.npy"))
        np.testing.assert_array_equal(shot.forward, forward)
        np.testing.assert_array_equal(shot.backward, backward)
        assert (shot.stride, shot.score) == (stride, float(kept(stages)[name]["score"]))


def test_only_shards_of_ours_are_removed_and_only_for_new_ones(stages, tmp_path):
    many = shards.write_shards(*stages, tmp_path, shard_mb=3.0)
    foreign = [tmp_path / name for name in ("shots-holiday2020.mp4", "shots-1.tar", "shots-000099.json.bak")]
    for path in foreign:
        path.write_text("{}")
    (one,) = shards.write_shards(*stages, tmp_path)
    assert one == many[0] and not any(path.exists() or path.with_suffix(".json").exists() for path in many[1:])
    assert all(path.read_text() == "{}" for path in foreign)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    header = (stages[1] / "scores.csv").read_text().splitlines()[0]
    (nothing / "scores.csv").write_text(header + "\n")
    with pytest.raises(ValueError, match="no shot is kept"):
        shards.write_shards(stages[0], nothing, tmp_path)
    assert one.exists()


def test_small_shards_are_small_and_near(stages, tmp_path):
    exact, small = tmp_path / "exact", tmp_path / "small"
    sizes = [sum(p.stat().st_size for p in shards.write_shards(*stages, out, small=out is small)) for out in (exact, small)]
    assert sizes[1] < sizes[0] / 4
    near = {shot.name: shot for shot in shards.stream_shots(small)}
    for shot in shards.stream_shots(exact):
        assert np.abs(near[shot.name].frames.astype(int) - shot.frames).mean() < 3
        assert near[shot.name].forward.shape == shot.forward.shape and near[shot.name].forward.dtype == np.float16
        assert np.median(np.abs(near[shot.name].forward - shot.forward)) < 0.25


def test_order_is_the_seeds_and_ranks_share(stages, tmp_path):
    shards.write_shards(*stages, tmp_path, shard_mb=3.0)
    names = lambda **options: [shot.name for shot in shards.stream_shots(tmp_path, **options)]
    assert names(seed=1, buffer=2) == names(seed=1, buffer=2)
    orders = {tuple(names(seed=seed, epoch=epoch, buffer=2)) for seed in range(3) for epoch in range(3)}
    assert len(orders) > 3 and {tuple(sorted(order)) for order in orders} == {tuple(sorted(kept(stages)))}
    shares = [names(rank=rank, world=2) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(kept(stages)) and all(shares)


def test_nothing_is_written_twice_and_a_lost_shard_comes_back_the_same(stages, tmp_path):
    paths = shards.write_shards(*stages, tmp_path, shard_mb=3.0)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    paths[0].unlink()
    (tmp_path / "shots-000099.tar").write_bytes(b"of an earlier division")
    assert shards.write_shards(*stages, tmp_path, shard_mb=3.0) == paths
    assert sorted(tmp_path.glob("*.tar")) == paths
    assert {path: path.read_bytes() for path in paths} == {path: data for path, (data, _) in before.items()}
    assert all(path.stat().st_mtime_ns == before[path][1] for path in paths[1:])


@pytest.mark.parametrize("small", [False, True])
def test_what_a_shard_was_made_from_decides_whether_it_is_written_again(stages, tmp_path, monkeypatch, small):
    curate, scored, out = tmp_path / "curate", tmp_path / "score", tmp_path / "out"
    shutil.copytree(stages[0] / "frames", curate / "frames")
    shutil.copytree(stages[1], scored)
    (shard,) = shards.write_shards(curate, scored, out, small=small)
    made = shard.read_bytes()

    def again() -> bool:
        """Whether it is written again, over one that is as long; then it is what it was at first."""
        shard.write_bytes(bytes(len(made)))
        shards.write_shards(curate, scored, out, small=small)
        anew = shard.read_bytes() == made
        shard.write_bytes(made)
        return anew

    assert not again()
    name = next(iter(kept(stages)))
    for source, matters in ((curate / "frames" / f"{name}.npy", True), (scored / "flow" / f"{name}.npz", not small)):
        source.touch()
        assert again() == matters and not again()
    monkeypatch.setattr(shards, "JPEG_QUALITY", shards.JPEG_QUALITY)
    monkeypatch.setattr(shards, "VERSION", 0)
    assert again() and not again()
    monkeypatch.setattr(shards, "JPEG_QUALITY", 50)
    shards.write_shards(curate, scored, out, small=small)
    assert (shard.read_bytes() != made) == small


@pytest.mark.parametrize("note", ["{}", "[]", "{", None])
def test_a_shard_with_a_damaged_note_is_written_again(stages, tmp_path, note):
    (shard,) = shards.write_shards(*stages, tmp_path)
    made, path = shard.read_bytes(), shard.with_suffix(".json")
    says = json.loads(path.read_text())
    path.unlink() if note is None else path.write_text(note)
    shard.write_bytes(bytes(len(made)))
    shards.write_shards(*stages, tmp_path)
    assert shard.read_bytes() == made and json.loads(path.read_text()) == says


def test_a_damaged_shard_is_named_and_a_cut_one_is_mended(stages, tmp_path):
    (shard,) = shards.write_shards(*stages, tmp_path)
    made, foreign = shard.read_bytes(), io.BytesIO()
    with tarfile.open(shard) as tar:
        second = tar.getmembers()[1].offset
    with tarfile.open(fileobj=foreign, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x.json"))
    first_frames = made.index(b"NUMPY")
    damaged = [made[:cut] for cut in (0, 700, 5000, second, second + 100, len(made) // 2, len(made) - 10240)]
    damaged += [b"no tar" * 999, foreign.getvalue(), made[:first_frames] + b"numpy" + made[first_frames + 5 :]]
    for raw in damaged:
        shard.write_bytes(raw)
        with pytest.raises(ValueError, match="shots-000000.tar is damaged: remove it and run again what wrote it"):
            list(shards.stream_shots(tmp_path))
    shard.write_bytes(made[:5000])
    shards.write_shards(*stages, tmp_path)
    assert shard.read_bytes() == made


@pytest.mark.parametrize(
    "header, row, said",
    [
        ("shot,stride,kept", "a_s00,1,1", "scores.csv has no column score, video"),
        ("video,shot,score,stride,kept", "a,../../curate/frames/a_s00,1,1,1", "scores.csv: '../../curate/frames/a_s00' cannot be a file name"),
    ],
)
def test_a_table_that_would_give_bad_shards_is_refused(stages, tmp_path, header, row, said):
    (tmp_path / "scores.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(ValueError, match=said):
        shards.write_shards(stages[0], tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line(stages, tmp_path, capsys):
    curate, scored = map(str, stages)
    assert shards.main(["--curate", curate, "--score", scored, "--out", str(tmp_path / "s"), "--workers", "1"]) == 0
    assert "1 shards" in capsys.readouterr().out
    assert shards.main(["--score", str(tmp_path), "--out", str(tmp_path / "s")]) == 1
    assert "scores.csv" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="holds no shots"):
        next(shards.stream_shots(Path(tmp_path)))
