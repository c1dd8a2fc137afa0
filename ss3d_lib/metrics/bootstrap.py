"""Intervals for every figure, resampled over sequences: frames of one sequence are not independent."""

from collections.abc import Callable, Sequence

import numpy as np

BLOCKS, LONGEST, SHORTEST = 8, 20, 3
"""A single sequence is split into so many blocks at least, but of no more and (if it is short) no fewer images than these."""


def split_blocks(values: np.ndarray) -> list[np.ndarray]:
    """Runs of consecutive images of (T,), the unit of resampling where a set is a single sequence."""
    block = min(LONGEST, max(SHORTEST, len(values) // BLOCKS))
    return [values[start : start + block] for start in range(0, len(values), block)]


def bootstrap_interval(
    groups: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], float] = np.mean,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of statistic(all values), drawing whole groups (each a 1-D array) with replacement.

    Efron 1979. (nan, nan) with fewer than two groups that hold a value: one sequence says nothing about others.
    """
    groups = [np.asarray(group)[np.isfinite(group)] for group in groups]
    groups = [group for group in groups if len(group)]
    if len(groups) < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    samples = [
        statistic(np.concatenate([groups[i] for i in random.integers(len(groups), size=len(groups))]))
        for _ in range(draws)
    ]
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
