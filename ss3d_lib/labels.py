"""True depth as the target: of the supervised ceiling (notebook 09) and of fine-tuning on a few labels (notebook 16).

Same network, same evidence as input, same augmentation as in stage 2; only the target is ground truth. No label-free
stage reads this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ss3d_lib.borders import content_box
from ss3d_lib.data import Shot, frames_tensor, generator
from ss3d_lib.datasets import DatasetError, EvalClip
from ss3d_lib.datasets.embedded import Truth
from ss3d_lib.experts import HELD_OUT_SEED
from ss3d_lib.finetuning import Objective, frames_shot
from ss3d_lib.jobs import run_jobs
from ss3d_lib.joint import DepthBatch, Terms, augment, degraded, depth_terms, evidence
from ss3d_lib.models import ClipNet
from ss3d_lib.models.triangulation import LOG_RANGE, DepthEvidence, half_grid
from ss3d_lib.progress import silent
from ss3d_lib.video import working_size


@dataclass(frozen=True)
class LabelledShot:
    """A shot and the true log inverse depth of some of its frames, on the half-resolution grid (0 = none)."""

    shot: Shot
    frames: list[int]
    log_inverse_depth: np.ndarray  # (K, h, w)
    known: np.ndarray  # (K, h, w) float, 1 where it was measured


def label_shot(shot: Shot, truth: Truth | EvalClip, box: Sequence[int], begin: int = 0) -> LabelledShot:
    """Sample the stored depth maps at the working frames' half-resolution pixels (nearest pixel).

    Args:
        box: x0, y0, x1, y1: the part of the original frames that was brought to the working size.
        begin: the original frame with which the shot begins.
    """
    x0, y0, x1, y1 = box
    out_h, out_w = working_size(y1 - y0, x1 - x0)
    scale = max(out_h / (y1 - y0), out_w / (x1 - x0))
    crop = np.array([(round((x1 - x0) * scale) - out_w) // 2, (round((y1 - y0) * scale) - out_h) // 2])
    grid = half_grid(out_h // 2, out_w // 2).numpy()
    place = np.round(((grid + crop + 0.5) / scale - 0.5 + [x0, y0]) / truth.depth_stride).astype(int)
    frames, logs, known = [], [], []
    for index, frame in enumerate(truth.depth_frames):
        if begin <= frame < begin + len(shot.frames):
            height, width = truth.depth_m[index].shape
            depth = truth.depth_m[index][place[..., 1].clip(0, height - 1), place[..., 0].clip(0, width - 1)]
            frames.append(int(frame - begin))
            known.append((depth > 0).astype(np.float32))
            logs.append(-np.log(np.where(depth > 0, depth, 1.0)).astype(np.float32))
    return LabelledShot(shot, frames, np.array(logs), np.array(known))


def label_clip(clip: EvalClip, min_score: float) -> LabelledShot:
    """A clip of any labelled set, without its black bars, with all that training reads.

    Raises:
        DatasetError: the clip has no depth.
        ValueError: it has no multi-view signal; the message names the reason.
    """
    require_depth(clip)
    box = x0, y0, x1, y1 = content_box(clip.frames)
    return label_shot(frames_shot(clip.name, clip.frames[:, y0:y1, x0:x1], min_score), clip, box)


def label_clips(clips: Sequence[EvalClip], min_score: float, workers: int = 1, watch=silent) -> list[LabelledShot]:
    """The clips of a labelled set that can be learnt from, in their order; of the others it is said why they are left out.

    Args:
        workers: processes; watch: called with the finished clips and their number; gives them back, e.g. `progress`.

    Raises:
        DatasetError: none can; the message lists the reasons.
    """
    jobs = [(clip.name, clip, min_score) for clip in clips]
    found, left_out = {}, []
    for (name, *_), labelled, error in watch(run_jobs(_label, jobs, workers), len(jobs)):
        if error:
            left_out.append(error)
            print(f"left out: {error}")
        else:
            found[name] = labelled
    if not found:
        raise DatasetError(f"no clip to learn from: {'; '.join(left_out)}")
    return [found[clip.name] for clip in clips if clip.name in found]


def _label(name: str, clip: EvalClip, min_score: float) -> LabelledShot:
    return label_clip(clip, min_score)


def require_depth(clip: EvalClip) -> None:
    """Raises DatasetError where a clip has no depth."""
    if clip.depth_m is None or not len(clip.depth_frames):
        raise DatasetError(f"{clip.name}: has no depth to learn from or to judge by; give a set that has")


def later(clip: EvalClip, first: int) -> EvalClip:
    """The frames of a clip from `first` on, with the truth that belongs to them. Raises DatasetError: it has no depth."""
    require_depth(clip)
    chosen = clip.depth_frames >= first
    return replace(
        clip,
        frames=clip.frames[first:],
        intrinsics=clip.intrinsics[first:],
        poses_c2w=None if clip.poses_c2w is None else clip.poses_c2w[first:],
        depth_m=clip.depth_m[chosen],
        depth_frames=clip.depth_frames[chosen] - first,
    )


def split(clips: Sequence[EvalClip], share: float) -> tuple[list[EvalClip], list[EvalClip]]:
    """The first `share` of a set, to train on, and the rest, to judge by: whole clips, or of an only clip its frames.

    Raises:
        DatasetError: the set is empty, or its only clip has no depth.
    """
    if not clips:
        raise DatasetError("the labelled set holds no multi-view clip: give another, or more of it")
    if len(clips) == 1:
        first = round(share * len(clips[0].frames))
        return [clips[0].head(first)], [later(clips[0], first)]
    first = min(max(1, round(share * len(clips))), len(clips) - 1)
    return list(clips[:first]), list(clips[first:])


def labelled_batch(labelled: Sequence[LabelledShot], picks: Sequence[int], terms: Terms, rng: torch.Generator) -> DepthBatch:
    """The `picks`-th labelled frame of each shot (all of one working size): degraded evidence given, true depth the target."""
    shots, starts = [one.shot for one in labelled], [one.frames[k] for one, k in zip(labelled, picks)]
    log_inverse = torch.from_numpy(np.stack([one.log_inverse_depth[k] for one, k in zip(labelled, picks)]))
    known = torch.from_numpy(np.stack([one.known[k] for one, k in zip(labelled, picks)]))
    middle = (log_inverse * known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)
    target = DepthEvidence.measured((log_inverse - middle[:, None, None]).clamp(*LOG_RANGE), known, torch.zeros_like(known))
    given = degraded(evidence(shots, starts, part=True), terms.single_image, rng)
    return DepthBatch(frames_tensor([shot.frames[start] for shot, start in zip(shots, starts)]), given, target)


def supervised_loss(
    model: ClipNet, labelled: Sequence[LabelledShot], images: int, terms: Terms, rng: torch.Generator
) -> dict[str, Tensor]:
    """The terms of stage 2 with true depth as their target."""
    first = labelled[int(torch.randint(len(labelled), (1,), generator=rng))]
    same = [one for one in labelled if one.shot.size == first.shot.size]
    chosen = [same[int(i)] for i in torch.randint(len(same), (images,), generator=rng)]
    picks = [int(torch.randint(len(one.frames), (1,), generator=rng)) for one in chosen]
    with torch.no_grad():
        batch = augment(labelled_batch(chosen, picks, terms, rng), terms.min_crop, rng)
    return depth_terms(model, batch, terms)


def with_labels(labelled: Sequence[LabelledShot], images: int, terms: Terms) -> Objective:
    """What `finetuning.adapt` trains for where there is true depth: `images` of the labelled frames a step."""
    return Objective(
        lambda model, rng: supervised_loss(model, labelled, images, terms, rng),
        [one.shot for one in labelled],
        ("labels", [one.frames for one in labelled], images, terms),
    )


@torch.no_grad()
def judging_batches(labelled: Sequence[LabelledShot], terms: Terms, per_shot: int = 4) -> list[DepthBatch]:
    """Labelled frames spread over each shot, one batch a shot, with evidence degraded alike for whoever is judged."""
    batches = []
    for index, one in enumerate(labelled):
        picks = np.linspace(0, len(one.frames) - 1, per_shot).round().astype(int).tolist()
        batches.append(labelled_batch([one] * per_shot, picks, terms, generator(HELD_OUT_SEED, index)))
    return batches
