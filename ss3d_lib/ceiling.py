"""The supervised ceiling: the network of stage 2, told the true depth. A baseline, and nothing else reads it.

Same network, same evidence as input, same clips, same augmentation; only the target is ground truth. The
difference to the student is the price of having no labels (notebook 09).
"""

from pathlib import Path

from ss3d_lib.curation import ShotRow, curate_video, read_rows
from ss3d_lib.data import Shot, load_shots
from ss3d_lib.datasets.embedded import Truth, load_truth, truth_path, video_paths
from ss3d_lib.finetuning import ready_shot
from ss3d_lib.jobs import run_jobs
from ss3d_lib.labels import LabelledShot, label_shot
from ss3d_lib.progress import progress
from ss3d_lib.score import score_row


def labelled_shots(data: str | Path, results: Path, workers: int) -> list[LabelledShot]:
    """The training shots with their true depth, of the embedded training split: those of this run where it was trained on
    that split; else, since videos of one's own have no truth, those that the label-free stages' functions find in it.

    Args:
        data: the embedded corpus. results: what the stages wrote.

    Raises:
        DatasetError: the corpus is not there.
        RuntimeError: a video of it failed in the second case.
    """
    shots = load_shots(results / "curate", results / "score", results / "stage1/cameras", results / "stage2/stereo")
    found = label_shots(shots, results, data)
    if found:
        return found
    print("The videos of this run have no truth: the control is trained on the embedded training split instead.")
    jobs = [(str(video), str(data)) for video in video_paths(data, "train")]
    for (video, _), labelled, error in progress(run_jobs(label_video, jobs, workers), len(jobs), "videos with truth"):
        if error:
            raise RuntimeError(f"{video}: {error}")
        found += labelled
    return sorted(found, key=lambda one: one.shot.name)  # they come as they are finished


def label_video(video: str, data: str) -> list[LabelledShot]:
    """The shots with a signal of one video of the corpus, with all that training reads, and their true depth."""
    truth, labelled = load_truth(truth_path(data, Path(video))), []
    for curated in curate_video(video):
        row = score_row(curated.row, curated.frames)
        if row.kept:
            shot = ready_shot(row.shot, row.video, row.score, row.stride, curated.frames)
            labelled.append(label_row(shot, curated.row, truth))
    return [one for one in labelled if one.frames]


def label_shots(shots: list[Shot], results: Path, data: str | Path) -> list[LabelledShot]:
    """The shots of the embedded training split, with the true depth of the few of their frames that have one.

    Args:
        results: holds curate/shots.csv, where the shots begin. data: the embedded corpus.
    """
    rows, train = {row.shot: row for row in read_rows(results / "curate/shots.csv")}, Path(data, "videos/train").resolve()
    own = [shot for shot in shots if Path(shot.video).resolve().parent == train]
    labelled = [label_row(shot, rows[shot.name], load_truth(truth_path(data, train / Path(shot.video).name))) for shot in own]
    return [one for one in labelled if one.frames]


def label_row(shot: Shot, row: ShotRow, truth: Truth) -> LabelledShot:
    """A shot with the true depth of its frames, from where it lies in its video."""
    return label_shot(shot, truth, [int(value) for value in row.crop.split(":")], row.start_frame)
