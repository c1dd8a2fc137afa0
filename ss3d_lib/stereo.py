"""Plane sweeps of training shots, made once and kept: with stage 1's cameras, before depth is learnt (notebook 04).

Each frame is swept twice: against all frames around, which is the target, and against a random part of them,
which is what the network may see.
"""

import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from ss3d_lib.data import CHAIN_STEPS, Shot, Stereo, frames_tensor, generator, load_cameras, load_shot, save_stereo
from ss3d_lib.files import atomic_write
from ss3d_lib.jobs import run_jobs
from ss3d_lib.joint import correspondences
from ss3d_lib.models.sweep import Sweep, Views, plane_sweeps
from ss3d_lib.models.triangulation import Correspondences, middle_log, triangulate
from ss3d_lib.progress import progress

KEPT_VIEWS = 0.6  # share of the views that the partial sweep compares with


def sweep_shot(shot: Shot) -> Shot:
    """The shot with plane sweeps of all its frames; each of its interleaved series is a clip. It must have cameras."""
    rng = generator(0, zlib.crc32(shot.name.encode()))
    height, width = shot.size
    full = np.zeros((len(shot.frames), 3, height // 2, width // 2), np.float16)
    part = np.zeros_like(full)
    for first in range(min(shot.stride, len(shot.frames))):
        clip = list(range(first, len(shot.frames), shot.stride))
        frames = frames_tensor([shot.frames[frame] for frame in clip])
        seen = correspondences([shot] * len(clip), clip, frames)
        views = clip_views(seen, len(clip))
        kept = (torch.rand(views.exists.shape, generator=rng) < KEPT_VIEWS).float()
        middle = middle_log(triangulate(seen)).exp()
        sweeps = plane_sweeps(frames, views, middle, torch.stack([torch.ones_like(kept), kept]))
        full[clip], part[clip] = (packed(sweep) for sweep in sweeps)
    return replace(shot, stereo=Stereo(full, part))


def clip_views(seen: Correspondences, frames: int) -> Views:
    """The views within a clip of that many frames, one stride apart, in the order of `joint.correspondences`."""
    offsets = torch.tensor([*CHAIN_STEPS, *(-steps for steps in CHAIN_STEPS)])
    index = torch.arange(frames)[:, None] + offsets
    exists = ((index >= 0) & (index < frames)).float()
    return Views(index.clamp(0, frames - 1), exists, seen.rotation, seen.translation, seen.focal_px)


def packed(sweep: Sweep) -> np.ndarray:
    """A sweep as one array (T, 3, h, w) float16."""
    return torch.stack([sweep.log_inverse_depth, sweep.agreed, sweep.parallax], dim=1).numpy().astype(np.float16)


def sweep_job(name: str, row: dict, curate: str, score: str, cameras: str, out: str) -> None:
    """Write OUT/NAME.npz with the sweeps of the shot of one row of scores.csv; a file already there is kept."""
    path = Path(out) / f"{name}.npz"
    if path.exists():
        return
    torch.set_num_threads(1)  # one shot per process keeps the cores busier than one shot on all of them
    shot = load_shot(SimpleNamespace(**row), Path(curate), Path(score))
    shot = replace(shot, cameras=load_cameras(Path(cameras) / f"{name}.npz"))
    with atomic_write(path) as temporary:
        save_stereo(temporary, sweep_shot(shot).stereo)


def sweep_all(curate: str, score: str, cameras: str, out: str, workers: int) -> dict[str, str]:
    """Sweeps of all kept shots, several shots at a time, with progress; returns the errors by shot."""
    rows = pd.read_csv(Path(score) / "scores.csv", keep_default_na=False)
    rows = rows[rows.kept == 1].to_dict("records")
    Path(out).mkdir(parents=True, exist_ok=True)
    jobs = [(row["shot"], row, curate, score, cameras, out) for row in rows]
    done = progress(run_jobs(sweep_job, jobs, workers), len(jobs), "plane sweeps of shots")
    return {job[0]: error for job, _, error in done if error}
