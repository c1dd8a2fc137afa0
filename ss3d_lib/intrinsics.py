"""Stage 1: the focal length and the motions of every shot, before any depth (notebook 03).

The teacher is geometry itself: robust epipolar residuals of cached optical flow over many pairs of a shot
give a soft label over focal candidates. The network then learns to reach it from few frames of its own.
"""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.data import (
    CHAIN_STEPS,
    Cameras,
    Shot,
    cached_motion,
    chain_flow,
    frames_tensor,
    load_shot,
    pick_shots,
    save_cameras,
)
from ss3d_lib.files import atomic_write
from ss3d_lib.geometry import image_centre, inside, pixel_grid
from ss3d_lib.jobs import run_jobs
from ss3d_lib.models import ClipNet
from ss3d_lib.models.camera import MATCH_STEP, FocalBelief, pool_curves, summarise
from ss3d_lib.models.matching import MATCH_STRIDE, NOISE, box, coarse_flow, gradients, local_contrast
from ss3d_lib.models.triangulation import half_grid
from ss3d_lib.progress import progress
from ss3d_lib.twoview import epipolar_error_px, focal_candidates, length, residual_curves, solve_motion

PAIRS_PER_STEP = 4  # pairs of a shot scored at each chain length
TEACHER_SHARPNESS = 3000.0  # posterior = softmax(-sharpness * residual); its calibration is checked on validation


def texture_weight(frames: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w"]:
    """Weight in [0, 1] at half resolution: flat windows say nothing about motion."""
    gx, gy = gradients(local_contrast(F.avg_pool2d(frames.mean(1, keepdim=True), 2)))
    xx, xy, yy = box(torch.cat([gx * gx, gx * gy, gy * gy], dim=1), 5).split(1, dim=1)
    weaker = (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2).sqrt()
    return (weaker / (weaker + NOISE))[:, 0]


def grid_matches(shots: list[Shot], starts: list[int], steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centred pixels, their positions `steps` strides later, and weights, on a regular grid."""
    flow, valid = chain_flow(shots, starts, (steps,))[steps]
    images = frames_tensor([shot.frames[start] for shot, start in zip(shots, starts)])
    weight = valid * texture_weight(images)
    height, width = flow.shape[1:3]
    every, half = MATCH_STEP // 2, MATCH_STEP // 4
    thin = lambda x: x[:, half::every, half::every]  # noqa: E731
    centre = torch.tensor([width - 0.5, height - 0.5])
    p = thin((half_grid(height, width) - centre)[None]).reshape(1, -1, 2).expand(len(shots), -1, -1)
    return p, p + thin(flow).reshape(len(shots), -1, 2), thin(weight).reshape(len(shots), -1)


def estimate_cameras(shot: Shot, sharpness: float = TEACHER_SHARPNESS) -> Cameras:
    """Focal length and motions of one shot from its cached flow, without depth and without a network."""
    candidates_px = focal_candidates(max(shot.size))
    curves, summaries = [], []
    for steps in CHAIN_STEPS:
        count = shot.starts(steps)
        if count == 0:
            continue
        starts = torch.linspace(0, count - 1, min(count, PAIRS_PER_STEP)).round().long().tolist()
        p, q, weight = grid_matches([shot] * len(starts), starts, steps)
        curve, _ = residual_curves(p, q, weight, candidates_px)
        curves.append(curve)
        summaries.append(summarise(curve, q - p, weight, len(starts)))
    curve = torch.cat(curves)
    pooled = pool_curves(curve[None], torch.cat(summaries)[None, :, 1])[0]
    log_probability = (-sharpness * pooled).log_softmax(0)
    focal_px = FocalBelief(candidates_px, log_probability[None]).mean_px
    motions = {steps: solve_all(shot, steps, focal_px) for steps in CHAIN_STEPS}
    pick = lambda index: {steps: values[index] for steps, values in motions.items()}  # noqa: E731
    return Cameras(
        float(focal_px), log_probability.numpy(), curve.numpy(), torch.cat(summaries).numpy(), pick(0), pick(1), pick(2)
    )


def solve_all(shot: Shot, steps: int, focal_px: Float[Tensor, "1"]) -> tuple:
    """Rotations, directions and residuals of all pairs of a shot at one chain length, as arrays."""
    count = shot.starts(steps)
    if count == 0:
        return torch.zeros(0, 3, 3).numpy(), torch.zeros(0, 3).numpy(), torch.zeros(0).numpy()
    p, q, weight = grid_matches([shot] * count, list(range(count)), steps)
    motion = solve_motion(p, q, weight, focal_px.expand(count))
    return motion.rotation.numpy(), motion.direction.numpy(), motion.residual.numpy()


def matcher_loss(
    model: ClipNet, shots: list[Shot], weights, pairs: int, refined_pairs: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """Loss of the matcher on a batch of frame pairs.

    flow: cross-entropy of the coarse match to where the cached flow leads, at stride 8. trust: negative log
    likelihood (Laplace) of the refined matches' epipolar error under the shot's own motion, on a few pairs.
    """
    chosen = pick_shots(shots, weights, pairs, rng)
    steps = CHAIN_STEPS[int(torch.randint(len(CHAIN_STEPS), (1,), generator=rng))]
    steps = max(s for s in CHAIN_STEPS if s <= steps and all(shot.starts(s) for shot in chosen))
    starts = [int(torch.randint(shot.starts(steps), (1,), generator=rng)) for shot in chosen]
    flow, valid = chain_flow(chosen, starts, (steps,))[steps]
    first = frames_tensor([s.frames[k] for s, k in zip(chosen, starts)])
    second = frames_tensor([s.frames[k + steps * s.stride] for s, k in zip(chosen, starts)])
    gain = 0.8 + 0.4 * torch.rand(1, generator=rng)
    frames = torch.cat([first, (second * gain).clamp(0, 1)])
    features, pyramid = model.matcher.describe(frames)
    half = torch.arange(pairs)
    log_probability = model.matcher.likelihood(features, half, half + pairs)
    target = F.avg_pool2d(flow.permute(0, 3, 1, 2), 4).permute(0, 2, 3, 1)
    weight = F.avg_pool2d(valid[:, None], 4)[:, 0] * texture_weight(first)[:, 2::4, 2::4].clamp(min=0.05)
    flow_loss = place_loss(log_probability, target / MATCH_STRIDE, weight)
    distance = length(coarse_flow(log_probability.detach(), *target.shape[1:3]) * MATCH_STRIDE - target)
    trust_loss = trust_nll(model, features.detach(), pyramid, chosen, starts, steps, pairs, refined_pairs)
    error = (distance * weight).sum() / weight.sum().clamp(min=1)
    return {"loss": flow_loss + 0.1 * trust_loss, "flow": flow_loss, "trust": trust_loss, "coarse_error_px": error}


def place_loss(
    log_probability: Float[Tensor, "P N N"], flow: Float[Tensor, "P h w 2"], weight: Float[Tensor, "P h w"]
) -> Tensor:
    """Cross-entropy of matching to the four positions around where each one goes (flow in feature pixels)."""
    height, width = flow.shape[1:3]
    end = pixel_grid(height, width) + flow
    corner, total = end.floor(), 0.0
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = corner[..., 0] + dx, corner[..., 1] + dy
            share = (
                (1 - (end[..., 0] - x).abs())
                * (1 - (end[..., 1] - y).abs())
                * inside(torch.stack([x, y], -1), height, width)
            )
            index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long().flatten(1)
            total = total - (log_probability.gather(2, index[..., None])[..., 0] * (share * weight).flatten(1)).sum()
    return total / weight.sum().clamp(min=1)


def trust_nll(model, features, pyramid, chosen, starts, steps: int, pairs: int, refined_pairs: int) -> Tensor:
    """How well the predicted standard errors explain the epipolar errors of refined matches (forward ones)."""
    index = torch.arange(refined_pairs)
    first, second = torch.cat([index, index + pairs]), torch.cat([index + pairs, index])
    with torch.no_grad():
        flow, texture, residual = model.matcher.match(features, pyramid, first, second)
    matches = model.matcher.assess(flow, texture, residual)
    used = chosen[:refined_pairs]
    motion = cached_motion(used, starts[:refined_pairs], steps)
    focal_px = torch.tensor([shot.cameras.focal_px for shot in used])
    height, width = flow.shape[1:3]
    p = (pixel_grid(height, width) - image_centre(height, width)).reshape(1, -1, 2).expand(refined_pairs, -1, -1)
    error = (
        epipolar_error_px(motion, p, p + flow[:refined_pairs].reshape(refined_pairs, -1, 2), focal_px)
        .abs()
        .clamp(max=10)
    )
    sigma, valid = matches.sigma_px[:refined_pairs].flatten(1), matches.valid[:refined_pairs].flatten(1)
    sure = (motion.residual < 0.5).float()[:, None] * valid
    return ((error / sigma + sigma.log()) * sure).sum() / sure.sum().clamp(min=1)


def focal_head_loss(model: ClipNet, shots: list[Shot], clips: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Cross-entropy of the head, which sees a few pairs of a shot, to the posterior of all its pairs.

    The label is the shot's own, smoothed by one candidate: no ground truth is involved.
    """
    curves, summaries, labels = [], [], []
    for index in torch.randint(len(shots), (clips,), generator=rng).tolist():
        cameras = shots[index].cameras
        count = len(cameras.curves)
        size = int(torch.randint(2, count + 1, (1,), generator=rng)) if count > 2 else count
        chosen = torch.randperm(count, generator=rng)[:size].numpy()
        summary = torch.from_numpy(cameras.summaries[chosen])
        curves.append(pool_curves(torch.from_numpy(cameras.curves[chosen])[None], summary[None, :, 1])[0])
        summaries.append(summary.mean(0))
        labels.append(torch.from_numpy(cameras.log_probability))
    label = smooth_label(torch.stack(labels).exp())
    belief = model.focal_head(torch.stack(curves), torch.stack(summaries), focal_candidates(1.0))
    loss = -(label * belief.log_probability).sum(-1).mean()
    return {"loss": loss, "entropy": belief.entropy.mean()}


def smooth_label(probability: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Blur over neighbouring candidates (6.6 % apart): the teacher is no more exact than that."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    smooth = F.conv1d(F.pad(probability[:, None], (1, 1), mode="replicate"), kernel[None, None])[:, 0]
    return smooth / smooth.sum(-1, keepdim=True)


def estimate_shot(name: str, row: dict, curate: str, score: str, out: str, sharpness: float) -> None:
    """Write OUT/NAME.npz with the cameras of the shot of one row of scores.csv; a file already there is kept."""
    path = Path(out) / f"{name}.npz"
    if path.exists():
        return
    torch.set_num_threads(1)  # one shot per process keeps the cores busier than one shot on all of them
    shot = load_shot(SimpleNamespace(**row), Path(curate), Path(score))
    with atomic_write(path) as temporary:
        save_cameras(temporary, estimate_cameras(shot, sharpness))


def estimate_all(curate: str, score: str, out: str, sharpness: float, workers: int) -> dict[str, str]:
    """Cameras of all kept shots, several shots at a time, with progress; returns the errors by shot."""
    rows = pd.read_csv(Path(score) / "scores.csv", keep_default_na=False)
    rows = rows[rows.kept == 1].to_dict("records")
    Path(out).mkdir(parents=True, exist_ok=True)
    jobs = [(row["shot"], row, curate, score, out, sharpness) for row in rows]
    done = progress(run_jobs(estimate_shot, jobs, workers), len(jobs), "cameras of shots")
    return {job[0]: error for job, _, error in done if error}
