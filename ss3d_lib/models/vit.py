"""The encoder of size `paper`: a ViT whose blocks attend within a frame and over all frames of a clip, in turns.

The alternating attention is VGGT's (Wang et al. 2025, section 3.2), whose architecture the paper takes; so are the
normalised queries and keys and the layer scale. VGGT has 24 + 24 blocks of width 1024 behind a pretrained encoder (1.2 billion
parameters); these are 6 + 6 of width 384 (ViT-S, 22 million) from random weights. As in pi3 (Wang et al. 2025) no frame is
special: cameras come from matches, so there are no camera tokens, and frames may be permuted. Convolutions before the first
block make a ViT train steadily (Xiao et al. 2021), and their maps are the decoder's finer skips, as in DPT's hybrid (Ranftl et
al. 2021).
"""

from functools import partial
from itertools import pairwise

import torch.nn as nn
from jaxtyping import Float
from timm.layers import ConvNormAct, build_sincos2d_pos_embed
from timm.models import FeatureInfo
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor

LAYER_SCALE = 0.01  # of every residual branch at the start, as in VGGT
STRIDES = (2, 4, 8, 16)  # of the maps


class ClipViT(nn.Module):
    """Maps of the frames of clips, with the interface of a timm encoder but for the length of the clips."""

    def __init__(self, channels: int, width: int = 384, pairs: int = 6, heads: int = 6):
        super().__init__()
        widths = [width // 8, width // 4, width // 2, width]
        self.feature_info = FeatureInfo(
            [{"num_chs": w, "reduction": s, "module": ""} for w, s in zip(widths, STRIDES)], tuple(range(len(STRIDES)))
        )
        self.stem = nn.ModuleList(
            ConvNormAct(a, b, 3, stride=2, act_layer=nn.GELU) for a, b in pairwise([channels, *widths[:-1]])
        )
        self.patches = nn.Conv2d(widths[-2], width, 2, stride=2)
        block = partial(Block, width, heads, qkv_bias=True, qk_norm=True, init_values=LAYER_SCALE)
        self.frame_blocks = nn.ModuleList(block() for _ in range(pairs))
        self.global_blocks = nn.ModuleList(block() for _ in range(pairs))
        self.norm = nn.LayerNorm(width)
        self.apply(partial(init_weights_vit_timm, needs_reset=False))

    def forward(self, x: Float[Tensor, "F C H W"], frames_per_clip: int = 1) -> list[Tensor]:
        """Maps (F, width, H / stride, W / stride), finest first, of F = clips x frames_per_clip frames, clip by clip."""
        maps = []
        for layer in self.stem:
            x = layer(x)
            maps.append(x)
        x = self.patches(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + build_sincos2d_pos_embed(x.shape[-2:], tokens.shape[-1], device=x.device)
        for within, across in zip(self.frame_blocks, self.global_blocks):
            clips = within(tokens).unflatten(0, (-1, frames_per_clip))
            tokens = across(clips.flatten(1, 2)).view_as(clips).flatten(0, 1)
        return [*maps, self.norm(tokens).transpose(1, 2).unflatten(2, x.shape[-2:])]
