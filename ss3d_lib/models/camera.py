"""The focal length of a clip as a distribution: a geometric layer with a small learnt head.

Regressing a focal length from features does not generalise on a small corpus (notebook 03); measuring it
does. Every candidate focal length gets the robust reprojection error that the clip's matches keep under it
(ss3d_lib.models.calibration); the head turns that curve into a likelihood, learning how sharp such curves
deserve to be. It may not move them: a head that could shift the odds of candidates was no better on validation
(relative error 0.056 for 0.053), and where a curve is flat it guessed by the look of the training films. Where it is
flat, what is known of ordinary cameras is left.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ss3d_lib.geometry import image_centre, pixel_grid
from ss3d_lib.models.bundle import FocalPrior
from ss3d_lib.models.matching import Matches
from ss3d_lib.twoview import NUM_FOCALS, focal_candidates, length

MATCH_STEP = 8  # one match every so many pixels: 540 a pair at the working size
SURER = 4.0  # exponent of the learnt probabilities, for labels are wider than the errors: the least CRPS on validation (0.051; 0.056 at 1, 0.054 at 8)
FLAT_RANGE = 0.05  # half of a curve counts that rises by so much, of lower ones next to nothing: noise. On validation curves of still
# cameras and moving subjects rise by 0.01 to 0.02, of a slideshow by 0.04, of cameras that move through a scene or turn by 0.09 at least


@dataclass(frozen=True)
class FocalBelief:
    """Distribution of the clip's focal length over log-spaced candidates."""

    candidates_px: Float[Tensor, "*#B C"]
    log_probability: Float[Tensor, "B C"]

    def moved(self, focal_px: Float[Tensor, "B"], width: Float[Tensor, "B"]) -> "FocalBelief":
        """The same distribution around other means, so many times as wide in log space."""
        around = width[:, None] * (self.candidates_px / self.mean_px[:, None]).log()
        return FocalBelief(focal_px[:, None] * around.exp(), self.log_probability)

    @property
    def mean_px(self) -> Float[Tensor, "B"]:
        """Mean in log space: between the candidates, and the least squared relative error."""
        return (self.log_probability.exp() * self.candidates_px.log()).sum(-1).exp()

    @property
    def log_std(self) -> Float[Tensor, "B"]:
        """Standard deviation of the log focal length."""
        gap = self.candidates_px.log() - self.mean_px.log()[:, None]
        return (self.log_probability.exp() * gap**2).sum(-1).sqrt()

    def quantile_px(self, share: float) -> Float[Tensor, "B"]:
        """Focal length below which this share of the probability lies (log-linear between candidates)."""
        probability = self.log_probability.exp()
        cumulative = probability.cumsum(-1)
        index = (cumulative >= share - 1e-6).float().argmax(-1, keepdim=True)
        low, mass = (cumulative - probability).gather(-1, index), probability.gather(-1, index)
        fraction = ((share - low) / mass.clamp(min=1e-9)).clamp(0, 1)[..., 0] - 0.5
        candidates_px = self.candidates_px.expand_as(probability)
        step = (candidates_px[..., 1] / candidates_px[..., 0]).log()
        return candidates_px.gather(-1, index)[..., 0] * (fraction * step).exp()

    def interval_px(self, coverage: float = 0.8) -> Float[Tensor, "B 2"]:
        """Central interval that holds this share of the probability."""
        tail = (1 - coverage) / 2
        return torch.stack([self.quantile_px(tail), self.quantile_px(1 - tail)], dim=-1)

    @property
    def entropy(self) -> Float[Tensor, "B"]:
        """Entropy over its greatest value: 0 is certain, 1 knows nothing."""
        return -(self.log_probability.exp() * self.log_probability).sum(-1) / torch.tensor(float(NUM_FOCALS)).log()


def pick_matches(matches: Matches) -> tuple[Tensor, Tensor, Tensor]:
    """A regular grid of matches: centred pixels p, their positions q, and weights 1 / (1 + (2 sigma)^2)."""
    height, width = matches.flow.shape[1:3]
    grid = on_match_grid(pixel_grid(height, width, matches.flow.device).movedim(-1, 0)).movedim(0, -1)
    p = (grid - image_centre(height, width, matches.flow.device)).reshape(1, -1, 2).expand(len(matches.flow), -1, -1)
    flow = on_match_grid(matches.flow.movedim(-1, 1)).movedim(1, -1).reshape(len(p), -1, 2)
    return p, p + flow, on_match_grid(match_weight(matches)).flatten(1)


def on_match_grid(maps: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B a b"]:
    """Maps of whole frames, read at the points of the grid of matches."""
    half = MATCH_STEP // 2
    return maps[..., half::MATCH_STEP, half::MATCH_STEP]


def pick_prior(log_inverse: Float[Tensor, "F a b"], height: int, width: int) -> Float[Tensor, "F M"]:
    """Log inverse depth of frames of that size, read at the grid of `pick_matches`."""
    full = F.interpolate(log_inverse[:, None], (height, width), mode="bilinear", align_corners=False)
    return on_match_grid(full[:, 0]).flatten(1)


def match_weight(matches: Matches) -> Float[Tensor, "P H W"]:
    """Weight in [0, 1] of every match in the geometry: valid, and its standard error small against 0.5 px."""
    return matches.valid / (1 + (2 * matches.sigma_px) ** 2)


class FocalHead(nn.Module):
    """From the residual curve of a clip to the distribution of its focal length."""

    def __init__(self, hidden: int = 64):
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(6.0))
        self.sharpen = nn.Sequential(
            nn.Linear(NUM_FOCALS + 3, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )
        nn.init.zeros_(self.sharpen[-1].weight)
        nn.init.zeros_(self.sharpen[-1].bias)

    def forward(
        self, curve: Float[Tensor, "B C"], summary: Float[Tensor, "B 3"], candidates_px: Float[Tensor, "C"]
    ) -> FocalBelief:
        """Belief of each clip, p(f) proportional to exp(-sharpness * curve(f)) times that of ordinary cameras.

        Args:
            curve: mean robust residual of the clip's matches at each candidate.
            summary: what `summarise` says of the clip.
        """
        rise = curve - curve.amin(1, keepdim=True)
        sharpness = (self.log_sharpness + self.sharpen(torch.cat([(rise * 10).clamp(max=3), summary], dim=1))).exp()
        square = rise.amax(1, keepdim=True) ** 2
        fit = -sharpness * square / (square + FLAT_RANGE**2) * rise
        return FocalBelief(candidates_px, ((fit if self.training else SURER * fit) + ordinary_cameras().log_probability).log_softmax(-1))


def ordinary_cameras() -> FocalBelief:
    """What is believed of a clip before it is seen (`bundle.FocalPrior.ordinary`), for a longer side of 1 px."""
    prior, candidates = FocalPrior.ordinary(1.0), focal_candidates(1.0)
    return FocalBelief(candidates, (-(((candidates.log() - prior.log_px) / prior.log_std) ** 2) / 2)[None].log_softmax(-1))


def summarise(
    curve: Float[Tensor, "B C"], flow: Float[Tensor, "B D M 2"], weight: Float[Tensor, "B D M"]
) -> Float[Tensor, "B 3"]:
    """Best residual, share of usable matches and log of the mean flow of each clip."""
    moved_px = (length(flow) * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-3)
    return torch.stack([curve.amin(1), weight.mean((1, 2)), (moved_px + 0.1).log() / 3], dim=1)
