"""Depth evidence of training shots, made once and kept: with stage 1's cameras, before depth is learnt (notebook 04).

Each frame is triangulated and swept twice: against all frames around, which is the target, and against a random part
of them, which is what the network may see.
"""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.data import (
    Shot,
    Stereo,
    cached_motion,
    chain_flow,
    frames_tensor,
    generator,
    load_cameras,
    save_stereo,
)
from ss3d_lib.intrinsics import texture_weight
from ss3d_lib.models.sweep import Sweep, Views, plane_sweeps
from ss3d_lib.models.trajectory import GAPS
from ss3d_lib.models.triangulation import Correspondences, DepthEvidence, middle_log, triangulate
from ss3d_lib.shotwork import write_per_shot

KEPT_VIEWS = 0.6  # share of the views that the partial evidence compares with


def sweep_shot(shot: Shot) -> Shot:
    """The shot with the evidence of all its frames; each of its interleaved series is a clip. It must have cameras."""
    rng = generator(0, zlib.crc32(shot.name.encode()))
    height, width = shot.size
    full = np.zeros((len(shot.frames), 6, height // 2, width // 2), np.float16)
    part = np.zeros_like(full)
    for first in range(min(shot.stride, len(shot.frames))):
        clip = list(range(first, len(shot.frames), shot.stride))
        frames = frames_tensor([shot.frames[frame] for frame in clip])
        seen = correspondences([shot] * len(clip), clip, frames)
        views = clip_views(seen, len(clip))
        kept = (torch.rand(views.exists.shape, generator=rng) < KEPT_VIEWS).float()
        found = [triangulate(seen), triangulate(seen.masked(kept[..., None, None]))]
        middle = middle_log(found[0]).exp()
        sweeps = plane_sweeps(frames, views, middle, torch.stack([torch.ones_like(kept), kept]))
        full[clip], part[clip] = map(packed, sweeps, found)
    return replace(shot, stereo=Stereo(full, part))


def correspondences(shots: list[Shot], starts: list[int], frames: Float[Tensor, "B 3 H W"]) -> Correspondences:
    """The six directed pairs of each image: cached flow, and stage 1's cameras."""
    texture = texture_weight(frames)
    parts = []
    for backward in (False, True):
        flows = chain_flow(shots, starts, GAPS, backward)
        for steps, (flow, valid) in flows.items():
            rotation, translation, residual = cached_motion(shots, starts, steps, backward)
            parts.append((flow, valid * texture * (1 - residual)[:, None, None], rotation, translation))
    return Correspondences(
        *(torch.stack(values, dim=1) for values in zip(*parts)), torch.tensor([s.cameras.focal_px for s in shots])
    )


def clip_views(seen: Correspondences, frames: int) -> Views:
    """The views within a clip of that many frames, one stride apart, in the order of `correspondences`."""
    offsets = torch.tensor([*GAPS, *(-steps for steps in GAPS)])
    index = torch.arange(frames)[:, None] + offsets
    exists = ((index >= 0) & (index < frames)).float()
    return Views(index.clamp(0, frames - 1), exists, seen.rotation, seen.translation, seen.focal_px)


def packed(sweep: Sweep, found: DepthEvidence) -> np.ndarray:
    """A sweep and triangulated matches as one array (T, 6, h, w) float16."""
    maps = [sweep.log_inverse_depth, sweep.agreed, sweep.parallax, found.log_inverse_depth, found.weight, found.moving]
    return torch.stack(maps, dim=1).numpy().astype(np.float16)


def write_sweeps(shot: Shot, path: Path, cameras: str) -> None:
    """Write the sweeps of a shot whose cameras lie in a folder."""
    shot = replace(shot, cameras=load_cameras(Path(cameras) / f"{shot.name}.npz"))
    save_stereo(path, sweep_shot(shot).stereo)


def sweep_all(curate: str, score: str, cameras: str, out: str, workers: int) -> dict[str, str]:
    """Sweeps of all kept shots, several shots at a time, with progress; returns the errors by shot."""
    return write_per_shot(write_sweeps, (cameras,), curate, score, out, workers, "plane sweeps of shots")
