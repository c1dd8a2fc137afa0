"""Depth of one frame from its pixels and from what the clip's motion triangulates.

An encoder (timm's, or ss3d_lib.models.vit's) reads the image together with the maps of ss3d_lib.models.triangulation
and sweep; where those are empty (static clips, untextured walls) it falls back on what the image alone suggests, for
training drops them at random. The output is log inverse depth with zero mean: no scale can collapse (notebook 04).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MEAN, STD = 0.45, 0.225  # of natural images, as in the ImageNet recipes
EVIDENCE_CHANNELS = 5
CLIP_VIT = "clip_vit"  # the one encoder that is not timm's: its maps of a frame depend on the whole clip
SIZES = {"tiny": "resnet10t", "base": "resnet18", "paper": CLIP_VIT}  # encoders; 6, 12 and 22 million parameters in all
LOG_LIMIT = 4.0  # log inverse depth stays within e^4 = 55x of its mean
DECODER_WIDTHS = {32: 128, 16: 96, 8: 64, 4: 64, 2: 32}  # channels at each stride


def encoder_size(height: int, width: int) -> tuple[int, int]:
    """Size at which the encoder reads a frame: about 2/3 of it, in multiples of 32 (144x240 -> 96x160)."""
    return tuple(max(32, round(side * 2 / 3 / 32) * 32) for side in (height, width))


def half_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where it pays: with AVX-512 or a GPU that has it. Elsewhere it is emulated, 20 times slower."""
    if device.type == "cuda":
        pays = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        pays = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=pays)


def convolution(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    """3x3; the border repeats: zeros would draw a frame around every depth map."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate", bias=bias)


def make_encoder(name: str) -> nn.Module:
    """The encoder of that name, from random weights.

    Raises:
        ValueError: timm knows no such model.
    """
    import timm  # here, because it takes seconds: processes that only solve cameras do without

    from ss3d_lib.models.vit import ClipViT

    channels = 3 + EVIDENCE_CHANNELS
    if name == CLIP_VIT:
        return ClipViT(channels)
    if not timm.is_model(name):
        raise ValueError(f"no network of size {name!r}: give {', '.join(SIZES)} or a name of timm.list_models()")
    return timm.create_model(name, pretrained=False, features_only=True, in_chans=channels)


class DepthNet(nn.Module):
    """U-Net over an encoder; two output maps: log inverse depth and its log standard error."""

    def __init__(self, size: str = "tiny"):
        super().__init__()
        name = SIZES.get(size, size)  # any timm encoder's will do
        self.encoder, self.reads_clips = make_encoder(name), name == CLIP_VIT
        channels, self.strides = self.encoder.feature_info.channels(), self.encoder.feature_info.reduction()
        self.decoder = nn.ModuleList()
        below = channels[-1]
        for skip, stride in list(zip(channels, self.strides))[-2::-1]:
            width = DECODER_WIDTHS[stride]
            self.decoder.append(
                nn.Sequential(convolution(below + skip, width, bias=False), nn.BatchNorm2d(width), nn.ELU())
            )
            below = width
        self.head = nn.Sequential(
            convolution(below + EVIDENCE_CHANNELS, 32), nn.ELU(), convolution(32, 2)
        )
        nn.init.normal_(self.head[-1].weight, std=1e-3)
        nn.init.zeros_(self.head[-1].bias)

    def forward(
        self, frames: Float[Tensor, "B 3 H W"], evidence: Float[Tensor, "B 5 h w"], frames_per_clip: int = 1
    ) -> tuple[Float[Tensor, "B a b"], Float[Tensor, "B a b"]]:
        """Log inverse depth (zero mean) and its log standard error, at the finest stride of the encoder.

        Frames come clip by clip; images that belong to no clip are clips of one frame.
        """
        features = self.encode(frames, evidence, frames_per_clip)
        with half_precision(frames.device):
            y = features[-1]
            for layer, skip in zip(self.decoder, features[-2::-1]):
                y = layer(torch.cat([F.interpolate(y, size=skip.shape[-2:], mode="nearest"), skip], dim=1))
            known = F.interpolate(evidence, y.shape[-2:], mode="bilinear", align_corners=False)
            y = self.head(torch.cat([y, known.to(y.dtype)], dim=1)).float()
        doubt = 1 - known[:, 1]  # where evidence is certain the network leaves it as it is
        log_inverse = known[:, 0] + doubt * (known[:, 3] + y[:, 0])
        log_inverse = log_inverse - log_inverse.mean((1, 2), keepdim=True)
        return LOG_LIMIT * torch.tanh(log_inverse / LOG_LIMIT), y[:, 1].clamp(-4, 2)

    def encode(
        self, frames: Float[Tensor, "B 3 H W"], evidence: Float[Tensor, "B 5 h w"], frames_per_clip: int = 1
    ) -> list[Tensor]:
        """Feature maps of the encoder, finest first."""
        size = encoder_size(*frames.shape[-2:])
        image = F.interpolate((frames - MEAN) / STD, size, mode="bilinear", align_corners=False, antialias=True)
        known = F.interpolate(evidence, size, mode="bilinear", align_corners=False)
        x = torch.cat([image, known], dim=1).contiguous(memory_format=torch.channels_last)
        with half_precision(x.device):
            return self.encoder(x, frames_per_clip) if self.reads_clips else self.encoder(x)
