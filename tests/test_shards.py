"""Tar shards: what training reads from them is what the stages wrote, in an order that the seed decides."""

import csv
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


def test_command_line(stages, tmp_path, capsys):
    curate, scored = map(str, stages)
    assert shards.main(["--curate", curate, "--score", scored, "--out", str(tmp_path / "s"), "--workers", "1"]) == 0
    assert "1 shards" in capsys.readouterr().out
    assert shards.main(["--score", str(tmp_path), "--out", str(tmp_path / "s")]) == 1
    assert "scores.csv" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="holds no shots"):
        next(shards.stream_shots(Path(tmp_path)))
