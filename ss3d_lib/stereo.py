"""Plane sweeps of training shots, made once and kept: with stage 1's cameras, before depth is learnt (notebook 04).

Each frame is swept twice: against all frames around, which is the target, and against a random part of them,
which is what the network may see.
"""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ss3d_lib.data import CHAIN_STEPS, Shot, Stereo, frames_tensor, generator, load_cameras, save_stereo
from ss3d_lib.joint import correspondences
from ss3d_lib.models.sweep import Sweep, Views, plane_sweeps
from ss3d_lib.models.triangulation import Correspondences, middle_log, triangulate
from ss3d_lib.shotwork import write_per_shot

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


def write_sweeps(shot: Shot, path: Path, cameras: str) -> None:
    """Write the sweeps of a shot whose cameras lie in a folder."""
    shot = replace(shot, cameras=load_cameras(Path(cameras) / f"{shot.name}.npz"))
    save_stereo(path, sweep_shot(shot).stereo)


def sweep_all(curate: str, score: str, cameras: str, out: str, workers: int) -> dict[str, str]:
    """Sweeps of all kept shots, several shots at a time, with progress; returns the errors by shot."""
    return write_per_shot(write_sweeps, (cameras,), curate, score, out, workers, "plane sweeps of shots")
