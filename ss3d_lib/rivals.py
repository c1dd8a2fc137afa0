"""Measuring rivals beside the student: by the protocol, with seconds a clip, with failures, and over seeds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ss3d_lib.datasets import EvalClip
from ss3d_lib.progress import progress
from ss3d_lib.protocol import ClipResult, Predictor, evaluate_clip

USABLE_ATE = 0.10
"""A trajectory is of use where its RMS error after Sim(3) is less than this share of the path."""

SEED_KEYS = ("absrel_median", "focal_relerr", "rot_deg", "dir_deg")
"""What is told of every seed, not only the mean."""


def timed_set(
    clips: Sequence[EvalClip], predict: Predictor, strides: Sequence[int], label: str
) -> tuple[list[ClipResult], np.ndarray]:
    """Every clip at its stride, and how many seconds each prediction (not its judgement) took (N,)."""
    seconds: list[float] = []

    def clocked(frames: np.ndarray) -> Any:
        start_s = time.perf_counter()
        answer = predict(frames)
        seconds.append(time.perf_counter() - start_s)
        return answer

    pairs = progress(list(zip(clips, strides, strict=True)), len(clips), label)
    results = [evaluate_clip(clip, clocked, stride) for clip, stride in pairs]
    return results, np.array(seconds)


def trajectory_errors(results: Sequence[ClipResult]) -> np.ndarray:
    """`ate_sim3` of the multi-view shots (N,); infinite where no trajectory was claimed."""
    main = [result for result in results if result.kind == "multi_view"]
    return np.array([result.values.get("ate_sim3", [np.inf])[0] for result in main])


def reliability(results: Sequence[ClipResult]) -> dict[str, float]:
    """`failed_share` and `usable` of the multi-view shots; a shot without a trajectory failed, and is not usable."""
    errors = trajectory_errors(results)
    return {"failed_share": float(np.mean(np.isinf(errors))), "usable": float(np.mean(errors < USABLE_ATE))}


def usable_block(
    measured: dict[str, tuple[list[ClipResult], np.ndarray]], ours: str, rival: str, line: str
) -> dict[str, float]:
    """What every row (results, seconds a clip) is good for, over the multi-view shots; ratios are `ours` to `rival`.

    ROW_usable; ROW_beats_LINE, the share of shots with a smaller error than the row `line`; ROW_s, mean seconds.
    """
    block: dict[str, float] = {}
    for row, (results, seconds) in measured.items():
        main = np.array([result.kind == "multi_view" for result in results])
        block[f"{row}_usable"] = reliability(results)["usable"]
        block[f"{row}_beats_{line}"] = float(np.mean(trajectory_errors(results) < trajectory_errors(measured[line][0])))
        block[f"{row}_s"] = float(seconds[main].mean())
    for name, key in (("usable_ratio", "usable"), ("time_ratio", "s")):
        block[name] = block[f"{ours}_{key}"] / (block[f"{rival}_{key}"] or np.nan)
    return block


def mean_over_seeds(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """{set: figures} of several trainings as one: the mean of every figure, bounds of intervals included."""
    return {
        name: {key: float(np.mean([run[name][key] for run in runs])) for key in shared(run[name] for run in runs)}
        for name in shared(runs)
    }


def shared(mappings: Iterable[dict]) -> list:
    """The keys that all have, in the order of the first."""
    first, *others = mappings
    return [key for key in first if all(key in other for other in others)]


def seed_spread(figures: Sequence[dict[str, float]], keys: Sequence[str] = SEED_KEYS) -> dict[str, float]:
    """KEY_mean, KEY_std, KEY_least and KEY_greatest over the figures of several seeds (std of the sample)."""
    spread: dict[str, float] = {}
    for key in [key for key in keys if key in shared(figures)]:
        values = np.array([run[key] for run in figures])
        std = values.std(ddof=1) if len(values) > 1 else 0.0
        spread |= {f"{key}_mean": values.mean(), f"{key}_std": std, f"{key}_least": values.min(), f"{key}_greatest": values.max()}
    return spread | {"seeds": len(figures)}
