"""The supervised ceiling: the network of stage 2, told the true depth. A baseline, and nothing else reads it.

Same network, same evidence as input, same clips, same augmentation; only the target is ground truth. The
difference to the student is the price of having no labels (notebook 09).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ss3d_lib.curation import ShotRow, curate_video, read_rows
from ss3d_lib.data import Shot, frames_tensor, load_shots
from ss3d_lib.datasets.embedded import Truth, load_truth, truth_path, video_paths
from ss3d_lib.finetuning import ready_shot
from ss3d_lib.jobs import run_jobs
from ss3d_lib.joint import DepthBatch, Terms, augment, degraded, depth_terms, evidence
from ss3d_lib.models import ClipNet
from ss3d_lib.models.triangulation import LOG_RANGE, DepthEvidence, half_grid
from ss3d_lib.progress import progress
from ss3d_lib.score import score_row
from ss3d_lib.video import working_size


@dataclass(frozen=True)
class LabelledShot:
    """A shot and the true log inverse depth of a few of its frames, on the half-resolution grid (0 = none)."""

    shot: Shot
    frames: list[int]
    log_inverse_depth: np.ndarray  # (K, h, w)
    known: np.ndarray  # (K, h, w) float, 1 where it was measured


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
            labelled.append(label_shot(shot, curated.row, truth))
    return [one for one in labelled if one.frames]


def label_shots(shots: list[Shot], results: Path, data: str | Path) -> list[LabelledShot]:
    """The shots of the embedded training split, with the true depth of the few of their frames that have one.

    Args:
        results: holds curate/shots.csv, where the shots begin. data: the embedded corpus.
    """
    rows, train = {row.shot: row for row in read_rows(results / "curate/shots.csv")}, Path(data, "videos/train").resolve()
    own = [shot for shot in shots if Path(shot.video).resolve().parent == train]
    labelled = [label_shot(shot, rows[shot.name], load_truth(truth_path(data, train / Path(shot.video).name))) for shot in own]
    return [one for one in labelled if one.frames]


def label_shot(shot: Shot, row: ShotRow, truth: Truth) -> LabelledShot:
    """Sample the stored depth maps at the working frames' half-resolution pixels (nearest pixel)."""
    x0, y0, x1, y1 = (int(value) for value in row.crop.split(":"))
    out_h, out_w = working_size(y1 - y0, x1 - x0)
    scale = max(out_h / (y1 - y0), out_w / (x1 - x0))
    crop = np.array([(round((x1 - x0) * scale) - out_w) // 2, (round((y1 - y0) * scale) - out_h) // 2])
    grid = half_grid(out_h // 2, out_w // 2).numpy()
    place = np.round(((grid + crop + 0.5) / scale - 0.5 + [x0, y0]) / truth.depth_stride).astype(int)
    frames, logs, known = [], [], []
    for index, frame in enumerate(truth.depth_frames):
        if row.start_frame <= frame < row.start_frame + len(shot.frames):
            height, width = truth.depth_m[index].shape
            depth = truth.depth_m[index][place[..., 1].clip(0, height - 1), place[..., 0].clip(0, width - 1)]
            frames.append(int(frame - row.start_frame))
            known.append((depth > 0).astype(np.float32))
            logs.append(-np.log(np.where(depth > 0, depth, 1.0)).astype(np.float32))
    return LabelledShot(shot, frames, np.array(logs), np.array(known))


def supervised_loss(model: ClipNet, labelled: list[LabelledShot], images: int, terms: Terms, rng: torch.Generator) -> dict[str, Tensor]:
    """The terms of stage 2 with true depth as their target."""
    first = labelled[int(torch.randint(len(labelled), (1,), generator=rng))]
    same = [one for one in labelled if one.shot.size == first.shot.size]
    chosen = [same[int(i)] for i in torch.randint(len(same), (images,), generator=rng)]
    picks = [int(torch.randint(len(one.frames), (1,), generator=rng)) for one in chosen]
    shots, starts = [one.shot for one in chosen], [one.frames[k] for one, k in zip(chosen, picks)]
    frames = frames_tensor([shot.frames[start] for shot, start in zip(shots, starts)])
    log_inverse = torch.from_numpy(np.stack([one.log_inverse_depth[k] for one, k in zip(chosen, picks)]))
    known = torch.from_numpy(np.stack([one.known[k] for one, k in zip(chosen, picks)]))
    middle = (log_inverse * known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)
    target = DepthEvidence.measured((log_inverse - middle[:, None, None]).clamp(*LOG_RANGE), known, torch.zeros_like(known))
    with torch.no_grad():
        given = degraded(evidence(shots, starts, part=True), terms.single_image, rng)
        batch = augment(DepthBatch(frames, given, target), terms.min_crop, rng)
    return depth_terms(model, batch, terms)
