"""Shots on disk as training batches: working frames, cached flow, and the cameras that stage 1 estimated.

A batch is drawn from one working size (frames of different shapes do not stack) and is a pure function of
(seed, step), so a run that was interrupted goes on exactly as if it had not been.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.flow import read_cache
from ss3d_lib.geometry import inside, sample
from ss3d_lib.models.matching import returns
from ss3d_lib.models.trajectory import GAPS
from ss3d_lib.models.triangulation import half_grid
from ss3d_lib.twoview import length

SEED_STRIDE = 1_000_003  # more than the steps of any run, and prime


@dataclass(frozen=True)
class Cameras:
    """What stage 1 estimated for one shot; motions run from frame k to k + steps * stride.

    Frames k, k + stride, k + 2 stride, ... form one clip with one scale; clips that interleave have their own.
    """

    focal_px: float
    log_probability: np.ndarray  # (C,) of the focal candidates
    curves: np.ndarray  # (K, C) what K short clips of the shot cost at every candidate
    summaries: np.ndarray  # (K, 3) what ss3d_lib.models.camera.summarise says of each
    rotation: dict[int, np.ndarray] = field(default_factory=dict)  # steps -> (K, 3, 3)
    translation: dict[int, np.ndarray] = field(default_factory=dict)  # steps -> (K, 3)
    residual: dict[int, np.ndarray] = field(default_factory=dict)  # steps -> (K,) robust, in [0, 1]


@dataclass(frozen=True)
class Stereo:
    """Depth evidence of the frames of a shot, six maps: log inverse depth, agreement and parallax of plane sweeps
    (models.sweep); log inverse depth, weight and share of movers of the triangulated matches (models.triangulation)."""

    full: np.ndarray  # (T, 6, H / 2, W / 2) float16: compared with all frames around
    part: np.ndarray  # the same with a random part of them


@dataclass(frozen=True)
class Shot:
    """One shot: frames uint8 (T, H, W, 3), flow k -> k + stride and back at half resolution, in pixels."""

    name: str
    video: str
    score: float
    stride: int
    frames: np.ndarray
    forward: np.ndarray  # (T - stride, H / 2, W / 2, 2) float16
    backward: np.ndarray
    cameras: Cameras | None = None
    stereo: Stereo | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.frames.shape[1:3]

    def starts(self, steps: int) -> int:
        """Number of frames k for which k + steps * stride exists."""
        return max(0, len(self.frames) - steps * self.stride)


def load_shots(
    curate: str | Path, score: str | Path, cameras: str | Path | None = None, stereo: str | Path | None = None
) -> list[Shot]:
    """All shots that the score kept.

    Args:
        curate, score: result folders of those stages.
        cameras: folder written by stage 1; without it the shots have no cameras.
        stereo: folder written by stage 2; without it the shots have no plane sweeps.

    Raises:
        FileNotFoundError: naming the file that an earlier stage should have written.
    """
    table = Path(score) / "scores.csv"
    if not table.exists():
        raise FileNotFoundError(f"{table} is missing: run `dvc repro score` first")
    rows = pd.read_csv(table)
    shots = [load_shot(row, Path(curate), Path(score)) for row in rows[rows.kept == 1].itertuples()]
    if cameras is not None:
        shots = [replace(shot, cameras=load_cameras(Path(cameras) / f"{shot.name}.npz")) for shot in shots]
    if stereo is not None:
        shots = [replace(shot, stereo=load_stereo(Path(stereo) / f"{shot.name}.npz")) for shot in shots]
    return shots


def load_shot(row, curate: Path, score: Path) -> Shot:
    """The shot of one row of scores.csv; frames are mapped, not read."""
    frames = np.load(curate / "frames" / f"{row.shot}.npy", mmap_mode="r", allow_pickle=False)
    stride, forward, backward = read_cache(score / "flow" / f"{row.shot}.npz")
    return Shot(row.shot, str(row.video), float(row.score), stride, frames, forward, backward)


def save_cameras(path: Path, cameras: Cameras) -> None:
    """One npz per shot, readable without pickle."""
    arrays = {
        "focal_px": cameras.focal_px,
        "log_probability": cameras.log_probability,
        "curves": cameras.curves,
        "summaries": cameras.summaries,
    }
    for steps in cameras.rotation:
        arrays[f"rotation_{steps}"] = cameras.rotation[steps]
        arrays[f"translation_{steps}"] = cameras.translation[steps]
        arrays[f"residual_{steps}"] = cameras.residual[steps]
    np.savez(path, **arrays)


def load_cameras(path: Path) -> Cameras:
    """Read what save_cameras wrote."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro stage1` first")
    with np.load(path, allow_pickle=False) as data:
        per_steps = {
            name: {steps: data[f"{name}_{steps}"] for steps in GAPS if f"{name}_{steps}" in data}
            for name in ("rotation", "translation", "residual")
        }
        return Cameras(float(data["focal_px"]), data["log_probability"], data["curves"], data["summaries"], **per_steps)


def save_stereo(path: Path, stereo: Stereo) -> None:
    """One npz per shot, readable without pickle."""
    np.savez(path, full=stereo.full, part=stereo.part)


def load_stereo(path: Path) -> Stereo:
    """Read what save_stereo wrote."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro stage2` first")
    with np.load(path, allow_pickle=False) as data:
        return Stereo(data["full"], data["part"])


def generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one training step: the same whether or not the run was interrupted."""
    return torch.Generator().manual_seed(seed * SEED_STRIDE + step)


def pick_shots(shots: list[Shot], weights: np.ndarray, count: int, rng: torch.Generator) -> list[Shot]:
    """Draw shots of one working size, sizes by their total weight, shots within it by weight."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    first = shots[int(torch.multinomial(weights, 1, generator=rng))]
    same = torch.tensor([shot.size == first.size for shot in shots])
    index = torch.multinomial(weights * same, count, replacement=True, generator=rng)
    return [shots[int(i)] for i in index]


def frames_tensor(frames: list[np.ndarray]) -> Float[Tensor, "B 3 H W"]:
    """uint8 (H, W, 3) images as one float tensor in [0, 1]."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


def chain_flow(
    shots: list[Shot], starts: list[int], steps: tuple[int, ...], backward: bool = False
) -> dict[int, tuple[Float[Tensor, "B h w 2"], Float[Tensor, "B h w"]]]:
    """Flow from frame `start` over several strides, by following the cached flows.

    Returns:
        For each number of steps the flow in pixels at half resolution and its validity: every link passed
        the forward-backward check and stayed on the frame. Where the shot is too short, nothing is valid.
    """
    height, width = shots[0].forward.shape[1:3]
    grid = half_grid(height, width)
    flow = torch.zeros(len(shots), height, width, 2)
    valid = torch.ones(len(shots), height, width)
    reached = {}
    for step in range(max(steps)):
        there, back, exists = link(shots, starts, step, backward)
        place = (grid + flow - 0.5) / 2
        hop = sample(there, place).permute(0, 2, 3, 1)
        returned = sample(back, place + hop / 2).permute(0, 2, 3, 1)
        flow = flow + hop
        end = (grid + flow - 0.5) / 2
        on_frame = inside(end, height, width)
        agrees = returns(length(hop + returned), length(hop))
        valid = valid * (on_frame & agrees) * exists[:, None, None]
        if step + 1 in steps:
            reached[step + 1] = (flow, valid)
    return reached


def link(shots: list[Shot], starts: list[int], step: int, backward: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Cached flow of one link of the chain, its reverse, and whether the shot is long enough for it."""
    there, back, exists = [], [], []
    for shot, start in zip(shots, starts):
        index = start - (step + 1) * shot.stride if backward else start + step * shot.stride
        ok = 0 <= index < len(shot.forward)
        index = min(max(index, 0), len(shot.forward) - 1)
        pair = (shot.backward[index], shot.forward[index])
        there.append(pair[0] if backward else pair[1])
        back.append(pair[1] if backward else pair[0])
        exists.append(float(ok))
    as_tensor = lambda x: torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).float()  # noqa: E731
    return as_tensor(there), as_tensor(back), torch.tensor(exists)


def cached_motion(
    shots: list[Shot], starts: list[int], steps: int, backward: bool = False
) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 3"], Float[Tensor, "B"]]:
    """Stage 1's rotation, translation and residual from frame `start` over so many strides (inverted when backward)."""
    rotation, translation, residual = [], [], []
    for shot, start in zip(shots, starts):
        cameras = shot.cameras
        count = len(cameras.rotation[steps])
        index = start - steps * shot.stride if backward else start
        if not 0 <= index < count:  # too short a shot: chain_flow has marked it invalid
            r, t, e = np.eye(3, dtype=np.float32), np.array([0, 0, 1], dtype=np.float32), 1.0
        else:
            r, t, e = cameras.rotation[steps][index], cameras.translation[steps][index], cameras.residual[steps][index]
        rotation.append(r.T if backward else r)
        translation.append(-r.T @ t if backward else t)
        residual.append(e)
    stack = lambda x: torch.from_numpy(np.stack(x)).float()  # noqa: E731
    return stack(rotation), stack(translation), torch.tensor(residual, dtype=torch.float32)


def step_of(rng: torch.Generator) -> int:
    """The step (times micro-batches) that a fresh generator was made for: what a schedule depends on."""
    return rng.initial_seed() % SEED_STRIDE
