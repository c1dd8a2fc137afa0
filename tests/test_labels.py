"""Training on true depth: that labels lie where the frames are; the ceiling's shots, also of a run on other videos; any
labelled set in two parts, what of it cannot be learnt from, and that a network does learn from the rest."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ss3d_lib import ceiling, experts, finetuning, labels
from ss3d_lib.curation import ShotRow, curate_video, write_rows
from ss3d_lib.datasets import DatasetError, EvalClip, iterate_embedded, load_sequence
from ss3d_lib.joint import Terms
from ss3d_lib.models import ClipNet
from ss3d_lib.score import ScoreRow
from ss3d_lib.training import Plan

VIDEO = "train_000"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of one training video."""
    data = tmp_path_factory.mktemp("corpus")
    for name in (f"videos/train/{VIDEO}.mp4", f"truth/train/{VIDEO}.npz"):
        (data / name).parent.mkdir(parents=True)
        shutil.copy2(f"data/{name}", data / name)
    return data


@pytest.fixture(scope="module")
def of_other_videos(tmp_path_factory):
    """Results of a run whose videos are not the corpus's; it kept no shot."""
    results = tmp_path_factory.mktemp("results")
    for name, row in (("curate/shots.csv", ShotRow), ("score/scores.csv", ScoreRow)):
        (results / name).parent.mkdir(parents=True)
        pd.DataFrame(columns=list(row.__dataclass_fields__)).to_csv(results / name, index=False)
    return results


@pytest.fixture(scope="module")
def labelled(corpus, of_other_videos):
    """What is made of the corpus for such a run."""
    return ceiling.labelled_shots(corpus, of_other_videos, 1)


def test_a_run_on_other_videos_gets_the_labels_of_the_training_split(labelled):
    assert labelled and all(one.shot.name.startswith(VIDEO) for one in labelled)
    for one in labelled:
        height, width = one.shot.size
        assert one.log_inverse_depth.shape == one.known.shape == (len(one.frames), height // 2, width // 2)
        assert one.known.mean() > 0.5 and np.isfinite(one.log_inverse_depth).all()
        assert max(one.frames) < len(one.shot.frames) and one.shot.stereo is not None


def test_the_truth_agrees_with_what_the_clip_triangulates(labelled):
    """Labels of the wrong place would correlate no better than those of the mirrored picture."""
    agreement, by_chance = [], []
    for one in labelled:
        for k, frame in enumerate(one.frames):
            evidence = labels.evidence([one.shot], [frame], part=False)
            sure = (evidence.weight[0].numpy() > 0.5) & (one.known[k] > 0)
            found, true = evidence.log_inverse_depth[0].numpy(), one.log_inverse_depth[k]
            agreement.append(np.corrcoef(found[sure], true[sure])[0, 1])
            by_chance.append(np.corrcoef(found[sure], true[:, ::-1][sure])[0, 1])
    assert min(agreement) > 0.4 and np.mean(agreement) > np.mean(by_chance) + 0.2, (agreement, by_chance)


def test_a_namesake_in_another_folder_has_no_label(labelled, corpus, tmp_path):
    own = [one.shot for one in labelled]
    (tmp_path / "curate").mkdir()
    rows = [shot.row for shot in curate_video(corpus / f"videos/train/{VIDEO}.mp4")]
    write_rows(tmp_path / "curate/shots.csv", rows)
    assert len(ceiling.label_shots(own, tmp_path, corpus)) == len(own)
    stranger = tmp_path / "videos/train" / f"{VIDEO}.mp4"
    assert not ceiling.label_shots([replace(shot, video=str(stranger)) for shot in own], tmp_path, corpus)
    link = tmp_path / "linked"
    os.symlink(corpus / "videos/train", link)
    assert ceiling.label_shots([replace(own[0], video=str(link / f"{VIDEO}.mp4"))], tmp_path, corpus)


# --- any labelled set -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(corpus):
    """The multi-view clips of the corpus of one video."""
    return [clip for clip in iterate_embedded(corpus, "train") if clip.kind == "multi_view"]


def made_clip(frames: int = 8) -> EvalClip:
    """A clip whose frame k is k grey values bright; frames 0, 3, 4 and 6 have depth 1, 2, 3 and 4 m."""
    pictures = np.arange(frames, dtype=np.uint8).repeat(12).reshape(frames, 2, 2, 3)
    poses, depth = np.tile(np.eye(4), (frames, 1, 1)), np.arange(1.0, 5.0, dtype=np.float32).repeat(4).reshape(4, 2, 2)
    poses[:, 0, 3] = np.arange(frames)
    return EvalClip("made", pictures, np.tile(np.eye(3), (frames, 1, 1)), poses, depth, np.array([0, 3, 4, 6]))


def test_a_clip_of_a_set_has_the_labels_of_the_same_shot_of_the_corpus(clips, labelled):
    """Two ways to one shot: by the true cuts, and by the stages."""
    of_stages = {one.shot.name: one for one in labelled}
    found = [labels.label_clip(clip, 0.5) for clip in clips]
    same = [(one, of_stages[one.shot.name]) for one in found if one.shot.name in of_stages]
    same = [(one, other) for one, other in same if np.array_equal(one.shot.frames, other.shot.frames)]
    assert same, "no shot of the stages has the frames of a clip"
    for one, other in same:
        assert one.frames == other.frames and np.array_equal(one.known, other.known)
        assert np.array_equal(one.log_inverse_depth, other.log_inverse_depth)


def test_labels_of_a_real_sequence_of_another_size_agree_with_its_geometry(shared_data):
    one = labels.label_clip(load_sequence(shared_data / "sequences/redkitchen").head(60), 0.5)
    frame = len(one.frames) // 2
    evidence = labels.evidence([one.shot], [one.frames[frame]], part=False)
    sure = (evidence.weight[0].numpy() > 0.5) & (one.known[frame] > 0)
    found, true = evidence.log_inverse_depth[0].numpy(), one.log_inverse_depth[frame]
    agreement = [np.corrcoef(found[sure & known], image[sure & known])[0, 1]
                 for image, known in ((true, one.known[frame] > 0), (true[:, ::-1], one.known[frame][:, ::-1] > 0))]  # fmt: skip
    assert agreement[0] > max(0.5, agreement[1] + 0.2), agreement


def test_black_bars_carry_no_labels(clips):
    """A clip between bars gets the labels of the same clip without them."""
    clip = clips[0].head(12)
    bars = ((0, 0), (24, 24), (0, 0), (0, 0))
    step = clip.depth_stride
    framed = replace(clip, frames=np.pad(clip.frames, bars), depth_m=np.pad(clip.depth_m, ((0, 0), (24 // step, 24 // step), (0, 0))))
    plain, inside = labels.label_clip(clip, 0.0), labels.label_clip(framed, 0.0)
    height, width = framed.frames.shape[1:3]
    astray = labels.label_shot(inside.shot, framed, (0, 0, width, height - 48))  # as if the picture began at the bar
    gaps = [np.abs(one.log_inverse_depth - plain.log_inverse_depth)[(plain.known * one.known) > 0].mean() for one in (inside, astray)]
    assert 24 % step == 0 and abs(inside.known.mean() - plain.known.mean()) < 0.01 and gaps[0] < 0.25 * gaps[1], gaps


def test_only_the_later_frames_judge():
    late = labels.later(made_clip(), 4)
    assert late.frames[:, 0, 0, 0].tolist() == [4, 5, 6, 7] and late.depth_frames.tolist() == [0, 2]
    assert late.depth_m[:, 0, 0].tolist() == [3, 4] and late.poses_c2w[0, 0, 3] == 4 and len(late.intrinsics) == 4


@pytest.mark.parametrize("count, share, first", [(10, 0.3, 3), (3, 0.01, 1), (3, 0.99, 2), (2, 0.5, 1)])
def test_a_set_of_clips_is_split_by_clips(count, share, first):
    clips = [replace(made_clip(), name=str(index)) for index in range(count)]
    training, judging = labels.split(clips, share)
    assert [clip.name for clip in training] == [clip.name for clip in clips[:first]]
    assert [clip.name for clip in judging] == [clip.name for clip in clips[first:]]


def test_an_only_clip_is_split_in_time():
    (early,), (late,) = labels.split([made_clip()], 0.5)
    assert len(early.frames) == len(late.frames) == 4
    assert early.depth_m[:, 0, 0].tolist() == [1, 2] and late.depth_m[:, 0, 0].tolist() == [3, 4]


def test_a_set_without_clips_or_without_depth_is_refused():
    with pytest.raises(DatasetError, match="holds no multi-view clip"):
        labels.split([], 0.5)
    with pytest.raises(DatasetError, match="made: has no depth"):
        labels.split([replace(made_clip(), depth_m=None, depth_frames=None)], 0.5)


def test_clips_that_teach_nothing_are_left_out_with_the_reason(clips, capsys):
    good = clips[0].head(12)
    blind = replace(good, name="blind", depth_m=None, depth_frames=None)
    still = replace(good, name="still", frames=good.frames[:1].repeat(12, 0))
    found = labels.label_clips([blind, good, still], 0.5)
    said = capsys.readouterr().out
    assert [one.shot.name for one in found] == [good.name]
    assert "blind: has no depth to learn from" in said and "still: no shot to adapt to" in said
    with pytest.raises(DatasetError, match="no clip to learn from: .*blind.*still"):
        labels.label_clips([blind, still], 0.5)


def test_a_network_learns_from_labels_and_the_judge_reads_the_truth(tmp_path, labelled):
    torch.manual_seed(0)
    model, terms = ClipNet().eval(), Terms(single_image=1.0)  # nothing but the picture and the truth to learn from
    batches = labels.judging_batches(labelled[:1], terms)
    judge = lambda net: experts.mean_error(net.depth_net, batches)  # noqa: E731
    plan = Plan(20, 1e-3, warmup_steps=1, save_every=4)
    _, curve = finetuning.adapt(model, labels.with_labels(labelled[:1], 4, terms), judge, plan, tmp_path, "labels", pretrained=False)
    assert curve.error.iloc[-1] < 0.8 * curve.error.iloc[0], curve
    one = labelled[0]
    exact = torch.from_numpy(np.stack([one.log_inverse_depth[k] for k in (0, len(one.frames) - 1)]))
    known = torch.from_numpy(np.stack([one.known[k] for k in (0, len(one.frames) - 1)])) > 0
    target = batches[0].target.log_inverse_depth[[0, -1]]
    for is_known, true, drawn in zip(known, exact, target):
        gap = (true - drawn)[is_known]
        same = ((gap - gap.median()).abs() < 1e-4).float().mean()
        assert same > 0.6, "the judge's target is the truth, up to the image's scale and far outliers"
