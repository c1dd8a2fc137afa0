"""Which shots a training step draws: from the easy ones to all, in proportion to their score."""

import numpy as np

from ss3d_lib.data import Shot

FAST_PX = 8.0  # from a frame to the next, at the working size: such a shot is half as easy as one that hardly moves
EXTREME_LIGHT = 60.0  # grey levels from black or white on the average: closer is harder


def ease(shot: Shot) -> float:
    """How early a shot may be learnt from, in [0, 1]: its score, less for fast motion and for extreme light, the limits that
    the paper states. Speed is the median length of the cached flow, light the mean of the frames."""
    flow_px = shot.forward[::4, ::4, ::4].astype(np.float32)
    speed_px = float(np.median(np.hypot(flow_px[..., 0], flow_px[..., 1]))) / shot.stride
    luma = float(shot.frames[::8].mean())
    light = min(1.0, luma / EXTREME_LIGHT, (255 - luma) / EXTREME_LIGHT)
    return shot.score * light / (1 + (speed_px / FAST_PX) ** 2)


def sampling_weights(scores: np.ndarray, eases: np.ndarray, progress: float, easy_share: float) -> np.ndarray:
    """Sampling weight of every shot (sums to 1).

    At progress 0 only the easiest `easy_share` of the shots can be drawn; the share grows linearly until, at
    progress 1 and after, every shot takes part. Among those that take part the score is the weight: dark, glaring
    and fast shots enter late, but are never thrown away.

    Args:
        scores: multi-view signal of each shot, in [0, 1].
        eases: `ease` of each shot.
        progress: share of the curriculum that is over; clipped to [0, 1].
    """
    share = easy_share + (1 - easy_share) * float(np.clip(progress, 0, 1))
    admitted = max(1, round(share * len(scores)))
    weights = np.zeros(len(scores))
    easiest = np.argsort(-eases, kind="stable")[:admitted]
    weights[easiest] = np.maximum(scores[easiest], 1e-3)
    return weights / weights.sum()
