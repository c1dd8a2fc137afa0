"""The photometric recipe, Monodepth2 (Godard et al. 2019) with a learnt focal length (Gordon et al. 2019): our rival.

A depth network reads one frame, a motion network reads two; nothing ties them but that a frame, warped by both, must look
like its neighbour. Written from the papers, with the student's encoder (from scratch) and its decoder's widths, on the
student's shots at the size at which its encoder reads them.

Depth is 1 / disparity, disparity a sigmoid between 1 / 100 and 1 / 0.1, as in Monodepth2, and not the student's zero-mean
log inverse depth: that one has a scale of its own in every frame, but here translations come from a network that must
be able to share one scale with all depth maps, or a chained trajectory means nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.losses import inverse_depth_smoothness_loss
from torch import Tensor

from ss3d_lib.data import Shot, frames_tensor, pick_shots
from ss3d_lib.geometry import chain_poses, intrinsics_matrix, invert_pose, rigid, so3_exp
from ss3d_lib.models.depth import DECODER_WIDTHS, MEAN, STD, convolution, encoder_size, half_precision
from ss3d_lib.photometric import minimum_reprojection, unmoved_errors, warped_errors
from ss3d_lib.predict import fit_frames, unfit
from ss3d_lib.protocol import Answer, Predictor

ENCODER = "resnet10t"  # the student's
MIN_DEPTH, MAX_DEPTH = 0.1, 100.0  # in the recipe's own unit
MOTION_SCALE = 0.01  # so that training starts near no motion
SMOOTHNESS = 0.001  # weight of the edge-aware term, on disparity over its mean
JITTER, HUE_JITTER_RAD = 0.2, 0.1 * 2 * torch.pi  # brightness, contrast and saturation by +- 20 %, hue by a tenth of the circle
CHUNK = 32  # frames a forward pass of the predictor, to bound its memory


def features_of(encoder: nn.Module, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
    """Feature maps of a timm encoder, finest first."""
    x = ((images - MEAN) / STD).contiguous(memory_format=torch.channels_last)
    with half_precision(x.device):
        return encoder(x)


def make_encoder(channels: int) -> nn.Module:
    """The student's encoder from scratch, for images of so many channels."""
    import timm  # here, because it takes seconds

    return timm.create_model(ENCODER, pretrained=False, features_only=True, in_chans=channels)


class DisparityNet(nn.Module):
    """U-Net over the student's encoder; a disparity map at every level of the decoder (multi-scale, section 3.2)."""

    def __init__(self):
        super().__init__()
        self.encoder = make_encoder(3)
        channels, strides = self.encoder.feature_info.channels(), self.encoder.feature_info.reduction()
        self.decoder, self.heads = nn.ModuleList(), nn.ModuleList()
        below = channels[-1]
        for skip, stride in list(zip(channels, strides))[-2::-1]:
            width = DECODER_WIDTHS[stride]
            block = nn.Sequential(convolution(below + skip, width, bias=False), nn.BatchNorm2d(width), nn.ELU())
            self.decoder.append(block)
            self.heads.append(convolution(width, 1))
            below = width

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Disparity (B, h, w) of every scale, finest first (half of the images' size)."""
        features = features_of(self.encoder, images)
        y, maps = features[-1], []
        for layer, head, skip in zip(self.decoder, self.heads, features[-2::-1]):
            with half_precision(images.device):
                y = layer(torch.cat([F.interpolate(y, size=skip.shape[-2:], mode="nearest"), skip], dim=1))
            share = torch.sigmoid(head(y.float()))[:, 0]
            maps.append(1 / MAX_DEPTH + (1 / MIN_DEPTH - 1 / MAX_DEPTH) * share)
        return maps[::-1]


class MotionNet(nn.Module):
    """Motion between two frames, and the focal length, from one encoder over both."""

    def __init__(self):
        super().__init__()
        self.encoder = make_encoder(6)
        width = self.encoder.feature_info.channels()[-1]
        self.motion = nn.Sequential(
            nn.Conv2d(width, 256, 1), nn.ReLU(), convolution(256, 256), nn.ReLU(), convolution(256, 256), nn.ReLU(),
            nn.Conv2d(256, 6, 1),
        )  # fmt: skip
        self.focal = nn.Linear(width, 1)

    def forward(
        self, first: Float[Tensor, "B 3 H W"], second: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B 4 4"], Float[Tensor, "B"]]:
        """second_from_first poses, and focal lengths over the longer side (softplus: about 0.7 at the start)."""
        deepest = features_of(self.encoder, torch.cat([first, second], dim=1))[-1].float()
        vector = MOTION_SCALE * self.motion(deepest).mean((2, 3))
        return rigid(so3_exp(vector[:, :3]), vector[:, 3:]), F.softplus(self.focal(deepest.mean((2, 3))))[:, 0]


class MonoDepth2(nn.Module):
    """Both networks."""

    def __init__(self):
        super().__init__()
        self.depth_net, self.motion_net = DisparityNet(), MotionNet()


@dataclass(frozen=True)
class Triplets:
    """The frame before, the frame itself and the frame after, at the shots' strides."""

    frames: Float[Tensor, "B 3 3 H W"]  # what is compared
    seen: Float[Tensor, "B 3 3 H W"]  # what the networks read: the same in other colours


def long_enough(shots: list[Shot]) -> list[Shot]:
    """The shots that hold a triplet."""
    return [shot for shot in shots if shot.starts(2) > 0]


def draw_triplets(shots: list[Shot], count: int, rng: torch.Generator) -> Triplets:
    """Random triplets of one working size, shots drawn by their score, flipped and recoloured half of the time."""
    chosen = pick_shots(shots, np.array([shot.score for shot in shots]), count, rng)
    starts = [int(torch.randint(shot.starts(2), (1,), generator=rng)) for shot in chosen]
    images = [shot.frames[start + k * shot.stride] for shot, start in zip(chosen, starts) for k in range(3)]
    frames = shrink(frames_tensor(images)).unflatten(0, (-1, 3))
    flip = torch.rand(count, generator=rng) < 0.5
    frames = torch.where(flip[:, None, None, None, None], frames.flip(-1), frames)
    recolour = torch.rand(count, generator=rng) < 0.5
    return Triplets(frames, torch.where(recolour[:, None, None, None, None], jitter(frames, rng), frames))


def shrink(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
    """Images at the size at which the student's encoder reads them."""
    return F.interpolate(images, encoder_size(*images.shape[-2:]), mode="bilinear", align_corners=False, antialias=True)


def jitter(frames: Float[Tensor, "B N 3 H W"], rng: torch.Generator) -> Float[Tensor, "B N 3 H W"]:
    """Other colours, the same for all frames of a triplet."""
    draw = lambda: (2 * torch.rand(len(frames), generator=rng) - 1).repeat_interleave(frames.shape[1])  # noqa: E731
    x = adjust_brightness_accumulative(frames.flatten(0, 1), 1 + JITTER * draw())
    x = adjust_contrast_with_mean_subtraction(x, 1 + JITTER * draw())
    x = adjust_saturation_with_gray_subtraction(x, 1 + JITTER * draw())
    return adjust_hue(x, HUE_JITTER_RAD * draw()).clamp(0, 1).unflatten(0, frames.shape[:2])


def photometric_loss(model: MonoDepth2, batch: Triplets) -> dict[str, Tensor]:
    """Minimum reprojection over the frame before and the one after with auto-mask, and smoothness, over all scales."""
    before, target, after = batch.seen.unbind(1)
    target_from_before, first_focal = model.motion_net(before, target)
    after_from_target, second_focal = model.motion_net(target, after)
    src_from_tgt = torch.stack([invert_pose(target_from_before), after_from_target], dim=1)
    height, width = target.shape[-2:]
    focal_share = (first_focal + second_focal) / 2
    intrinsics = intrinsics_matrix(focal_share * max(height, width), height, width)
    compared = batch.frames[:, 1], batch.frames[:, [0, 2]]
    unmoved = unmoved_errors(*compared)
    photometric, smoothness = 0.0, 0.0
    maps = model.depth_net(target)
    for scale, disparity in enumerate(maps):
        full = F.interpolate(disparity[:, None], (height, width), mode="bilinear", align_corners=False)
        warped, valid = warped_errors(*compared, 1 / full[:, 0], intrinsics, src_from_tgt)
        error, mask = minimum_reprojection(warped, valid, unmoved)
        if scale == 0:
            kept = mask.float().mean()
        photometric = photometric + error.mean() / len(maps)
        smoothness = smoothness + smoothness_term(disparity, target) / 2**scale / len(maps)
    loss = photometric + SMOOTHNESS * smoothness
    return {"loss": loss, "photometric": photometric, "smoothness": smoothness, "kept": kept, "focal_share": focal_share.mean()}


def smoothness_term(disparity: Float[Tensor, "B h w"], images: Float[Tensor, "B 3 H W"]) -> Tensor:
    """Edge-aware smoothness of disparity over its mean (eq. 3)."""
    images = F.interpolate(images, disparity.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
    normalised = disparity / disparity.mean((1, 2), keepdim=True)
    return inverse_depth_smoothness_loss(normalised[:, None], images)


@torch.no_grad()
def predict_frames(model: MonoDepth2, frames: UInt8[np.ndarray, "T H W 3"]) -> Answer:
    """Depth of every frame, poses of neighbours chained, and the median of their focal lengths."""
    clip, fit = fit_frames(frames)
    images = shrink(clip[0])
    disparity = torch.cat([model.depth_net(part)[0] for part in images.split(CHUNK)])
    motions = [model.motion_net(*pair) for pair in zip(images[:-1].split(CHUNK), images[1:].split(CHUNK))]
    next_from_prev, focal_share = (torch.cat(parts) for parts in zip(*motions))
    depth = 1 / F.interpolate(disparity[:, None], clip.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return Answer(
        depth_m=unfit(depth.numpy(), fit),
        world_from_cam=chain_poses(next_from_prev[None])[0].double().numpy(),
        focal_px=float(focal_share.median()) * max(clip.shape[-2:]) / fit.scale,
    )


def predictor(model: MonoDepth2) -> Predictor:
    """The predictor of a trained model."""
    model.eval()
    return lambda frames: predict_frames(model, frames)
