"""Adaptation to one target video without labels: its shots, a split in time, and the runs (notebook 08)."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ss3d_lib.curation import CurateSettings, curate_video
from ss3d_lib.data import Shot, generator, save_cameras, save_stereo
from ss3d_lib.experts import HELD_OUT_SEED
from ss3d_lib.flow import to_cache, write_cache
from ss3d_lib.intrinsics import estimate_cameras
from ss3d_lib.jobs import run_jobs
from ss3d_lib.joint import DepthBatch, Terms, joint_loss, make_batch
from ss3d_lib.models import ClipNet
from ss3d_lib.progress import silent
from ss3d_lib.score import score_row
from ss3d_lib.signal import shot_signal
from ss3d_lib.stereo import sweep_shot
from ss3d_lib.training import Plan, fingerprint, train
from ss3d_lib.video import find_videos, to_working


def target_shots(
    path: str | Path, settings: CurateSettings, min_score: float, max_videos: int = 0, workers: int = 1, watch=silent
) -> list[Shot]:
    """The shots of a video (or of a folder of videos) that have a multi-view signal, with flow and cameras.

    The same functions as in the stages curate, score and stage1, without their files.

    Args:
        max_videos: read the first so many only; 0 reads all.
        workers: processes; watch: called with the finished videos and their number; gives them back, e.g. `progress`.

    Raises:
        ValueError: no shot has a signal; the message lists the reasons.
    """
    videos = find_videos(path)
    jobs = [(str(video), settings, min_score) for video in videos[: max_videos or len(videos)]]
    found, failed = {}, []
    for (video, *_), result, error in watch(run_jobs(video_shots, jobs, workers), len(jobs)):
        found[video] = result or ([], [])
        failed += [error] if error else []
    shots = [shot for video, *_ in jobs for shot in found[video][0]]
    if not shots:
        reasons = failed + [reason for video, *_ in jobs for reason in found[video][1]]
        raise ValueError(f"{path}: no shot to adapt to ({'; '.join(reasons)}): give a video with a moving camera")
    return shots


def video_shots(video: str, settings: CurateSettings, min_score: float) -> tuple[list[Shot], list[str]]:
    """The shots of one video with a signal, and what is said of each shot."""
    shots, reasons = [], []
    for curated in curate_video(video, settings):
        row = score_row(curated.row, curated.frames, min_score)
        reasons.append(f"{row.shot}: {row.reason or 'kept'}")
        if row.kept:
            shots.append(ready_shot(row.shot, row.video, row.score, row.stride, curated.frames))
    return shots, reasons


def frames_shot(name: str, frames: np.ndarray, min_score: float) -> Shot:
    """One shot to adapt to, from its frames (T, H, W, 3) uint8 RGB of any size: no cut, no black bars.

    Raises:
        ValueError: it has no multi-view signal; the message names the reason.
    """
    working, _, _ = to_working(frames)
    found = shot_signal(working, min_score)
    if found.reason:
        raise ValueError(f"{name}: no shot to adapt to ({found.reason}): give frames of a moving camera")
    return ready_shot(name, name, found.score, found.stride, working)


def ready_shot(name: str, video: str, score: float, stride: int, frames: np.ndarray) -> Shot:
    """A shot with all that training reads, from its frames at the working size: flow, cameras, evidence."""
    shot = Shot(name, video, score, stride, frames, *to_cache(frames, stride))
    return sweep_shot(replace(shot, cameras=estimate_cameras(shot)))


def save_shots(folder: Path, shots: Sequence[Shot]) -> None:
    """Write shots so that load_shots(folder, folder, folder / "cameras", folder / "stereo") gives them back."""
    for name in ("frames", "flow", "cameras", "stereo"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for shot in shots:
        np.save(folder / "frames" / f"{shot.name}.npy", shot.frames, allow_pickle=False)
        with open(folder / "flow" / f"{shot.name}.npz", "wb") as file:
            write_cache(file, shot.stride, shot.forward, shot.backward)
        save_cameras(folder / "cameras" / f"{shot.name}.npz", shot.cameras)
        save_stereo(folder / "stereo" / f"{shot.name}.npz", shot.stereo)
    rows = [{"shot": shot.name, "video": shot.video, "score": shot.score, "stride": shot.stride, "kept": 1} for shot in shots]
    pd.DataFrame(rows).to_csv(folder / "scores.csv", index=False)


def first_frames(shot: Shot, share: float) -> Shot:
    """The beginning of a shot, with the flows that stay within it, swept anew; motions are found by their first frame."""
    frames = first_count(shot, share)
    flows = frames - shot.stride
    early = replace(shot, frames=shot.frames[:frames], forward=shot.forward[:flows], backward=shot.backward[:flows])
    return sweep_shot(early)


def first_count(shot: Shot, share: float) -> int:
    """Number of frames of the beginning of a shot: at least one pair."""
    return max(shot.stride + 1, round(share * len(shot.frames)))


@torch.no_grad()
def last_frames(shots: Sequence[Shot], share: float, terms: Terms, per_shot: int = 4) -> list[DepthBatch]:
    """Held-out images from the end of each shot, after the first `share`, with all their evidence as the judge."""
    batches = []
    for index, shot in enumerate(shots):
        begin = first_count(shot, share)
        starts = np.linspace(begin, len(shot.frames) - 1, per_shot).round().astype(int).clip(0, len(shot.frames) - 1)
        batches.append(make_batch([shot] * per_shot, starts.tolist(), terms, generator(HELD_OUT_SEED, index)))
    return batches


@dataclass(frozen=True)
class Objective:
    """What a network is adapted to: the terms of a fresh batch ("loss" is their sum), and all that they depend on."""

    loss: Callable[[ClipNet, torch.Generator], dict[str, Tensor]]
    shots: list[Shot]
    facts: tuple


def without_labels(shots: list[Shot], images: int, terms: Terms) -> Objective:
    """The loss of stage 2 on the shots, each drawn by its score and its length: `images` a step."""
    weights = np.array([shot.score * len(shot.frames) for shot in shots])
    return Objective(
        lambda model, rng: joint_loss(model, shots, weights, images, terms, rng), shots, (weights, images, terms)
    )


def adapt(
    model: ClipNet,
    objective: Objective,
    judge: Callable[[ClipNet], float],
    plan: Plan,
    folder: Path,
    label: str,
    pretrained: bool = True,
) -> tuple[ClipNet, pd.DataFrame]:
    """A copy of the model whose depth network was trained for the objective; and its learning curve (step, error).

    The curve is what `judge` says of the network (the less the better), and nothing is chosen by it; it starts at step 0,
    before any training, and has a row every `plan.save_every` steps.

    Args:
        pretrained: the network keeps its batch normalisation as it is: the few images of one video would spoil it.
    """
    from timm.layers import freeze_batch_norm_2d, unfreeze_batch_norm_2d  # here: see models.depth.make_encoder

    adapted = copy.deepcopy(model)
    if pretrained:
        adapted.depth_net = freeze_batch_norm_2d(adapted.depth_net)
    before = judge(adapted)
    history = train(
        adapted.depth_net, lambda rng: objective.loss(adapted, rng), plan, folder, label,
        fingerprint=fingerprint(model, objective.shots, *objective.facts, pretrained),
        measure=lambda: {"judged": judge(adapted)},
    )
    adapted.depth_net = unfreeze_batch_norm_2d(adapted.depth_net).eval()
    measured = history[["step", "judged"]].dropna()
    curve = pd.DataFrame({"step": [0, *(measured.step + 1)], "error": [before, *measured.judged]})
    return adapted, curve


def steps_to_reach(curve: pd.DataFrame, error: float) -> float:
    """The first step at which a learning curve is at or below an error; nan where it never is."""
    reached = curve[curve.error <= error]
    return float(reached.step.iloc[0]) if len(reached) else float("nan")
