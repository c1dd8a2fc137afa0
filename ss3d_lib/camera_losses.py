"""What stage 1 minimises: the matcher learns from cached flow, the focal head from the shots' own soft labels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.data import Shot, cached_motion, chain_flow, frames_tensor, pick_shots
from ss3d_lib.geometry import image_centre, inside, pixel_grid
from ss3d_lib.intrinsics import texture_weight
from ss3d_lib.models import ClipNet
from ss3d_lib.models.matching import MATCH_STRIDE, coarse_flow
from ss3d_lib.models.trajectory import GAPS
from ss3d_lib.twoview import Motion, epipolar_error_px, focal_candidates, length


def matcher_loss(
    model: ClipNet, shots: list[Shot], weights, pairs: int, refined_pairs: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """Loss of the matcher on a batch of frame pairs.

    flow: cross-entropy of the coarse match to where the cached flow leads, at stride 8. trust: negative log
    likelihood (Laplace) of the refined matches' epipolar error under the shot's own motion, on a few pairs.
    """
    chosen = pick_shots(shots, weights, pairs, rng)
    steps = GAPS[int(torch.randint(len(GAPS), (1,), generator=rng))]
    steps = max(s for s in GAPS if s <= steps and all(shot.starts(s) for shot in chosen))
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
    rotation, translation, residual = cached_motion(used, starts[:refined_pairs], steps)
    motion = Motion(rotation, F.normalize(translation, dim=-1), residual)
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
    """Cross-entropy of the head, which sees a short clip of a shot, to the posterior of the whole shot.

    The label is the shot's own, smoothed by one candidate: no ground truth is involved.
    """
    curves, summaries, labels = [], [], []
    for index in torch.randint(len(shots), (clips,), generator=rng).tolist():
        cameras = shots[index].cameras
        chosen = int(torch.randint(len(cameras.curves), (1,), generator=rng))
        curves.append(torch.from_numpy(cameras.curves[chosen]))
        summaries.append(torch.from_numpy(cameras.summaries[chosen]))
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
