"""Which shots a training step draws: from the easy ones to all, in proportion to their score."""

import numpy as np


def sampling_weights(scores: np.ndarray, progress: float, easy_share: float) -> np.ndarray:
    """Sampling weight of every shot (sums to 1).

    At progress 0 only the best `easy_share` of the shots can be drawn; the share grows linearly until, at
    progress 1 and after, every shot takes part. Among those that take part the score is the weight, so
    dim or fast shots enter late and seldom, but are never thrown away.

    Args:
        scores: multi-view signal of each shot, in [0, 1].
        progress: share of the curriculum that is over; clipped to [0, 1].
    """
    share = easy_share + (1 - easy_share) * float(np.clip(progress, 0, 1))
    admitted = max(1, round(share * len(scores)))
    weights = np.zeros(len(scores))
    best = np.argsort(-scores, kind="stable")[:admitted]
    weights[best] = np.maximum(scores[best], 1e-3)
    return weights / weights.sum()
