"""Training from a stream: a window over tar shards gives stage 1 and stage 2 what the folders give, and forgets nothing."""

import errno
import gc
import os
import sys
import weakref
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from test_distillation import made_shot

from ss3d_lib import camera_losses, finetuning, joint, shards, streaming
from ss3d_lib.curriculum import ease
from ss3d_lib.data import generator, load_shots, step_of
from ss3d_lib.models import ClipNet
from ss3d_lib.training import Plan, train

SHOTS = 5


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Path:
    """The folder of shots with cameras and evidence, as stages write them, and below it three or more shards of them."""
    folder = tmp_path_factory.mktemp("stages")
    finetuning.save_shots(folder, [made_shot(seed, along=seed % 2 == 1) for seed in range(SHOTS)])
    paths = shards.write_shards(folder, folder, folder / "shards", folder / "cameras", folder / "stereo", shard_mb=1.5)
    assert 2 < len(paths) <= SHOTS
    return folder


def names(pool: streaming.Pool) -> list[str]:
    return [shot.name for shot in pool.shots]


def assert_same(first, second) -> None:
    """Equal dataclasses, dictionaries and arrays, to the last bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    else:
        np.testing.assert_array_equal(first, second, strict=isinstance(first, np.ndarray))


def test_a_shard_holds_the_whole_shot(stages):
    loaded = load_shots(stages, stages, stages / "cameras", stages / "stereo")
    streamed = {shot.name: shot for shot in shards.stream_shots(stages / "shards")}
    assert len(streamed) == len(loaded) == SHOTS
    for shot in loaded:
        assert_same(asdict(shot), asdict(streamed[shot.name]))


def test_the_window_moves_by_a_shot_a_step_and_depends_on_seed_and_step_alone(stages):
    window = streaming.Window(stages / "shards", 3, seed=1)
    seen = [names(window.at(step)) for step in range(3 * SHOTS)]
    assert window.count == SHOTS and all(len(row) == 3 for row in seen)
    for before, after in zip(seen, seen[1:]):
        assert before[1:] == after[:-1]
    for epoch in range(3):  # each shot once, as it comes in, in every round
        assert len({seen[step][0] for step in range(epoch * SHOTS, (epoch + 1) * SHOTS)}) == SHOTS
    for step in (9, 2, 2, 14, 0):  # on, back, the same again, far ahead, from the start
        assert names(window.at(step)) == seen[step] == names(streaming.Window(stages / "shards", 3, seed=1).at(step))
    orders = {tuple(names(streaming.Window(stages / "shards", SHOTS, seed=seed).at(0))) for seed in range(6)}
    assert len(orders) > 1, "another seed, another order"


def test_a_window_knows_scores_and_eases_of_its_shots(stages):
    pool = streaming.Window(stages / "shards", 2).at(4)
    assert pool.scores.tolist() == [shot.score for shot in pool.shots]
    assert pool.eases.tolist() == [ease(shot) for shot in pool.shots]


def test_no_more_shots_are_in_memory_than_the_window_is_large(stages):
    window = streaming.Window(stages / "shards", 2)
    met: dict[int, weakref.ref] = {}
    for step in range(2 * SHOTS):
        met |= {id(shot): weakref.ref(shot) for shot in window.at(step).shots}
        gc.collect()
        assert sum(ref() is not None for ref in met.values()) == 2


def stage_1(model, pool, rng):
    return camera_losses.matcher_loss(model, pool.shots, pool.scores, 2, 1, rng)


def stage_2(model, pool, rng):
    return joint.joint_loss(model, pool.shots, pool.scores, 2, joint.Terms(), rng)


@pytest.mark.parametrize("stage", [stage_1, stage_2])
def test_training_that_was_stopped_ends_with_the_weights_of_an_undisturbed_one(stages, tmp_path, stage):
    def run(folder: str, stop_at: int | None = None) -> dict:
        torch.manual_seed(0)
        model, window = ClipNet("tiny"), streaming.Window(stages / "shards", 2, seed=3)

        def loss(rng):
            if step_of(rng) == stop_at:
                raise KeyboardInterrupt
            return stage(model, window.at(step_of(rng)), rng)

        part = model.matcher if stage is stage_1 else model.depth_net
        history = train(part, loss, Plan(5, seed=3, save_every=2), tmp_path / folder, "stream")
        assert np.isfinite(history.loss).all()
        return part.state_dict()

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop_at=3)
    again = run("stopped")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


def test_without_a_window_every_step_draws_from_all(stages, tmp_path):
    folders = (stages, stages, stages / "cameras", stages / "stereo")
    pool = streaming.open_pool(*folders, 0, tmp_path / "shards", 0, 1)
    assert pool.count == SHOTS and names(pool.at(0)) == names(pool.at(7)) == [shot.name for shot in load_shots(*folders)]
    assert not (tmp_path / "shards").exists()
    window = streaming.open_pool(*folders, 99, tmp_path / "shards", 0, 1)
    for step in (0, 1, 7):
        assert sorted(names(window.at(step))) == names(pool.at(0)), "a window larger than that holds each once"
    assert pool.seen(1) == window.seen(1) == window.count == SHOTS
    assert streaming.Window(tmp_path / "shards", 2).seen(3) == 4


def test_shards_of_stage_1_need_no_evidence(stages, tmp_path):
    window = streaming.open_pool(stages, stages, stages / "cameras", None, 2, tmp_path, 0, 1)
    shots = window.at(0).shots
    assert all(shot.cameras is not None and shot.stereo is None for shot in shots)
    assert stage_1(ClipNet("tiny"), window.at(0), generator(0, 0))["loss"].isfinite()


def test_what_cannot_be_streamed_is_named(stages, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no shots-\\*.tar"):
        streaming.Window(tmp_path, 2)
    with pytest.raises(ValueError, match="small shards hold no evidence"):
        shards.write_shards(stages, stages, tmp_path, stereo=stages / "stereo", small=True)
    with pytest.raises(FileNotFoundError, match="nowhere/shot_0..npz is missing: run `dvc repro stage1` first"):
        shards.write_shards(stages, stages, tmp_path, cameras=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="window -1: give 0"):
        streaming.Window(stages / "shards", -1)
    (path, *_) = shards.write_shards(stages, stages, tmp_path, stages / "cameras")
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"shots-000000.json that counts its shots: copy it too"):
        streaming.Window(tmp_path, 2)


def test_a_window_that_was_interrupted_goes_on_as_if_it_had_not_been(stages, tmp_path, monkeypatch):
    undisturbed = names(streaming.Window(stages / "shards", 2).at(1))
    window = streaming.Window(stages / "shards", 2)
    window.at(0)

    def stop(shot):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(streaming, "ease", stop)
        with pytest.raises(KeyboardInterrupt):
            window.at(1)
    assert names(window.at(1)) == undisturbed


def test_shards_of_other_cameras_have_another_stamp(tmp_path):
    finetuning.save_shots(tmp_path, [made_shot(0, along=True)])
    opened = lambda: streaming.open_pool(tmp_path, tmp_path, tmp_path / "cameras", tmp_path / "stereo", 1, tmp_path / "shards", 0, 1)
    first, again = opened().stamp, opened().stamp
    (tmp_path / "cameras" / "shot_00.npz").touch()
    assert first == again != opened().stamp


def test_a_window_without_webdataset_names_the_extra(stages, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    folders = (stages, stages, stages / "cameras", stages / "stereo")
    assert streaming.open_pool(*folders, 0, tmp_path, 0, 1).count == SHOTS
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[cluster\]'"):
        streaming.open_pool(*folders, 2, tmp_path, 0, 1)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[cluster\]'"):
        streaming.Window(stages / "shards", 2).at(0)


def test_a_full_disk_is_no_fault_of_the_shard(stages, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as caught:
        streaming.Window(stages / "shards", 2).at(0)
    assert caught.value.errno == errno.ENOSPC


def test_the_command_line_packs_cameras_and_evidence(stages, tmp_path):
    places = [word for name in ("cameras", "stereo") for word in (f"--{name}", str(stages / name))]
    assert shards.main(["--curate", str(stages), "--score", str(stages), "--out", str(tmp_path), "--workers", "1", *places]) == 0
    assert all(shot.cameras and shot.stereo for shot in shards.stream_shots(tmp_path))
