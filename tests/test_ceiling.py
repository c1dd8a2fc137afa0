"""The supervised ceiling: which shots have labels, that they lie where the frames are, and a run on other videos."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ss3d_lib import ceiling
from ss3d_lib.curation import ShotRow, curate_video, write_rows
from ss3d_lib.score import ScoreRow

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
            evidence = ceiling.evidence([one.shot], [frame], part=False)
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
