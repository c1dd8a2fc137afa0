"""One checkpoint, one protocol: depth, ego-motion and focal length of the same forward passes, on any set.

    python -m ss3d_lib.evaluate --checkpoint FILE --sequences FOLDER --out FILE.json

The protocol (notebook 07 draws it):
- The frame stride of a clip comes from its own optical flow, never from truth; the model sees frames[::stride].
- Depth: per image, pixels with a measurement below the set's cap (80 m; flights 1 km), mean over pixels, then mean
  over images. `absrel_median` scales each image by the ratio of medians, `absrel_video` a whole clip,
  `absrel_affine` fits disparity.
- Ego-motion: consecutive frames of the strided clip. `rot_deg` over all pairs, `dir_deg` over the pairs whose true
  baseline is at least a fifth of the clip's median (else there is no direction to speak of); `dir_axis_deg` forgives
  the sign. `ate_sim3` is the RMS distance after Sim(3) alignment as a share of the path's length. Medians.
- Focal length: one per clip; `focal_relerr` is a median, `focal_covered` the share of clips whose 80 % interval
  holds the truth, `focal_spread` the |log ratio| of what either half of a long clip says alone.
- Every figure of a set has an interval, `_low` and `_high`: 95 %, by drawing clips (or, in a set of one sequence,
  blocks of 3 to 20 images) with replacement; none where there is one value.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ss3d_lib import metrics
from ss3d_lib.commands import finish, whole
from ss3d_lib.datasets import LAYOUTS, DatasetError, EvalClip, find_sequences, load_sequence, open_layout, open_set
from ss3d_lib.files import require_place, write_json
from ss3d_lib.jobs import run_jobs
from ss3d_lib.progress import progress
from ss3d_lib.protocol import ClipResult, Predictor, choose_stride, evaluate_clip

HEADLINE = ("absrel_median", "d1_median", "focal_relerr", "rot_deg", "dir_deg", "ate_sim3")
"""The columns of the tables; each has `_low` and `_high` beside it."""

MEAN_PREFIXES = ("absrel", "sqrel", "rmse", "log10", "d1_", "d2_", "d3_", "fscore", "focal_covered", "depth_")
"""What is averaged over images (or clips); everything else is a median over pairs or clips."""

BLIND_KINDS = ("static", "slideshow", "planar", "dynamic_subject")
"""Kinds of shot in which no focal length can be observed."""


REAL_SETS = "sequences"
"""The name under which all real sequences of a folder are evaluated together, each a set of its own."""


def load_sets(
    name: str, data: str | Path, sequences: str | Path, max_frames: int = 0, max_clips: int = 0
) -> dict[str, list[EvalClip]]:
    """{set: clips} of `embedded_SPLIT`, or of every sequence on this machine for "sequences" (none: {}).

    max_frames: only so many frames of each clip; 0 takes all.
    max_clips: only so many clips of a set, spread over all of it; 0 takes all.
    """
    if name == REAL_SETS:
        folders = find_sequences(sequences) if Path(sequences).is_dir() else []
        sets = {folder.name: [load_sequence(folder, max_frames)] for folder in folders}
    else:
        sets = {name: list(open_set(name, data, sequences))}
    if max_clips:
        sets = {key: clips[:: -(-len(clips) // max_clips) or 1] for key, clips in sets.items()}
    return {key: [clip.head(max_frames) if max_frames else clip for clip in clips] for key, clips in sets.items()}


def evaluate_set(
    clips: Iterable[EvalClip],
    predict: Predictor,
    stride_of: Callable[[EvalClip], int] = choose_stride,
    total: int | None = None,
    label: str = "evaluating",
) -> list[ClipResult]:
    """Every clip of a set with one predictor."""
    return [evaluate_clip(clip, predict, stride_of(clip)) for clip in progress(clips, total, label)]


def choose_strides(clips: Sequence[EvalClip], workers: int) -> list[int]:
    """The label-free stride of every clip, several clips at a time."""
    return in_processes(_stride, [(clip.name, clip) for clip in clips], workers, "strides")


def evaluate_checkpoint(
    clips: Sequence[EvalClip], checkpoint: str | Path, workers: int, label: str = "evaluating"
) -> list[ClipResult]:
    """Every clip of a set, at its own stride, with one checkpoint; a clip per core keeps them busiest."""
    threads = max(1, workers // max(1, len(clips)))
    jobs = [(clip.name, clip, str(checkpoint), threads) for clip in clips]
    return in_processes(_judge, jobs, workers, label)


def in_processes(function: Callable, jobs: Sequence[tuple], workers: int, label: str) -> list[Any]:
    """The results of all jobs in their order. Raises RuntimeError with the reason if one of them failed."""
    place, results = {job[0]: index for index, job in enumerate(jobs)}, [None] * len(jobs)
    if len(place) < len(jobs):
        raise ValueError(f"{label}: two clips of a set have one name")
    for job, result, error in progress(run_jobs(function, jobs, workers), len(jobs), label):
        if error:
            raise RuntimeError(f"{label}: {error}")
        results[place[job[0]]] = result
    return results


def _stride(name: str, clip: EvalClip) -> int:
    return choose_stride(clip)


def _judge(name: str, clip: EvalClip, checkpoint: str, threads: int) -> ClipResult:
    torch.set_num_threads(threads)
    return evaluate_clip(clip, _predictor(checkpoint), choose_stride(clip))


@lru_cache(maxsize=1)
def _predictor(checkpoint: str) -> Predictor:
    return checkpoint_predictor(checkpoint)


def reduce_values(key: str, values: np.ndarray) -> float:
    """Mean or median of the finite values, by MEAN_PREFIXES; nan without any."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan")
    return float(np.mean(values) if key.startswith(MEAN_PREFIXES) else np.median(values))


def pool(results: Sequence[ClipResult]) -> dict[str, float]:
    """One figure per metric over all images, pairs or clips of `results`; and how many clips there are."""
    keys = sorted({key for result in results for key in result.values})
    pooled = {
        key: reduce_values(key, np.concatenate([result.values[key] for result in results if key in result.values]))
        for key in keys
    }
    return pooled | {"clips": len(results), "stride": float(np.median([result.stride for result in results] or [1]))}


def intervals(results: Sequence[ClipResult], keys: Iterable[str] = (), draws: int = 500) -> dict[str, float]:
    """KEY_low and KEY_high of every metric, or of the named ones. A key with one value only (focal of one clip) has none."""
    bounds = {}
    for key in keys or sorted({key for result in results for key in result.values}):
        groups = [result.values[key] for result in results if key in result.values]
        if len(groups) == 1:
            groups = metrics.split_blocks(groups[0])
        low, high = metrics.bootstrap_interval(groups, lambda drawn, key=key: reduce_values(key, drawn), draws=draws)
        if np.isfinite(low):
            bounds |= {f"{key}_low": low, f"{key}_high": high}
    return bounds


def set_metrics(results: Sequence[ClipResult]) -> dict[str, float]:
    """The figures of a set: those of its multi-view shots, with intervals.

    `focal_width_ratio`: how many times wider the focal interval is on shots in which it cannot be observed.
    """
    main = [result for result in results if result.kind == "multi_view"]
    figures = pool(main) | intervals(main)
    blind = pool([result for result in results if result.kind in BLIND_KINDS]).get("focal_log_width")
    if blind is not None and "focal_log_width" in figures:
        figures["focal_width_ratio"] = blind / max(figures["focal_log_width"], 1e-9)
    return figures


def split_metrics(name: str, results: Sequence[ClipResult]) -> dict[str, dict[str, float]]:
    """{NAME: figures of its multi-view shots, NAME_DOMAIN: of one domain's, NAME_kind_KIND: of every other kind}."""
    sets = {name: set_metrics(results)}
    main = [result for result in results if result.kind == "multi_view"]
    domains = sorted({result.domain for result in main})
    for domain in domains if len(domains) > 1 else []:
        chosen = [result for result in main if result.domain == domain]
        sets[f"{name}_{domain}"] = headline(pool(chosen)) | intervals(chosen, HEADLINE)
    for kind in sorted({result.kind for result in results} - {"multi_view"}):
        chosen = [result for result in results if result.kind == kind]
        keys = (*HEADLINE, "focal_covered", "focal_log_width", "trust")
        sets[f"{name}_kind_{kind}"] = headline(pool(chosen), keys) | intervals(chosen, keys)
    return sets


def headline(pooled: dict[str, float], keys: Sequence[str] = HEADLINE) -> dict[str, float]:
    """The named figures that are there, and the number of clips."""
    return {key: pooled[key] for key in (*keys, "clips") if key in pooled}


def clip_rows(results: Sequence[ClipResult]) -> list[dict[str, Any]]:
    """One flat row per clip, for a table: name, domain, kind, stride and every metric reduced over the clip."""
    return [
        {"clip": result.name, "domain": result.domain, "kind": result.kind, "stride": result.stride}
        | {key: reduce_values(key, values) for key, values in sorted(result.values.items())}
        for result in results
    ]


def file_sha256(path: str | Path) -> str:
    """Identity of a checkpoint: tables refuse rows whose sets were measured with different files."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def checkpoint_predictor(path: str | Path) -> Predictor:
    """The predictor of one checkpoint file: depth, ego-motion and focal length all come from it."""
    from ss3d_lib.checkpoints import load_model
    from ss3d_lib.predict import predict_frames

    model = load_model(path)
    return lambda frames: predict_frames(model, frames)


def format_line(name: str, figures: dict[str, Any]) -> str:
    """One line of the printed table."""
    cells = [f"{figures[key]:10.3f}" if key in figures else f"{'-':>10}" for key in HEADLINE]
    return f"{name:24s}" + " ".join(cells)


def evaluate_folder(
    folder: str | Path, predict: Predictor, layout: str = "sequences", stride: int = 0, max_frames: int = 0
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """{clip: metrics} of every clip of a folder, and of all of them together under the layout's name if it is a set;
    and what is to be said of the sequences that cannot be read (of a public set, every file must be there).

    stride 0 is chosen per clip. max_frames: read only so many frames of each sequence; 0 takes as many as the layout does.
    Raises ValueError for one frame, and DatasetError where the folder holds nothing of the layout.
    """
    if max_frames == 1:
        raise ValueError("one frame of a sequence is not a clip: take at least 2 frames, or 0 for all")
    results, problems = [], []
    for clip in progress(_readable(Path(folder), layout, max_frames, problems), label=layout):
        results.append(evaluate_clip(clip, predict, stride or choose_stride(clip)))
    sets = {result.name: set_metrics([result]) for result in results}
    return (sets if layout == REAL_SETS else sets | {layout: set_metrics(results)}), problems


def _readable(folder: Path, layout: str, most: int, problems: list[str]) -> Iterator[EvalClip]:
    if layout != REAL_SETS:
        yield from open_layout(layout, folder, most)
        return
    for path in find_sequences(folder):
        try:
            clip = load_sequence(path, most)
        except DatasetError as error:
            problems.append(str(error))
        else:
            yield clip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ss3d_lib.evaluate", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--checkpoint", required=True, type=Path, help="a .safetensors file written by a stage")
    parser.add_argument("--sequences", required=True, type=Path, help="folder of NAME/rgb/*.jpg, intrinsics.txt, ...")
    parser.add_argument("--out", required=True, type=Path, help="JSON: {NAME: {metric: value}}")
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default=REAL_SETS, help="how the folder lies on disk: ss3d_lib/datasets")
    parser.add_argument("--stride", type=whole(0), default=0, help="frame stride; 0 (default) chooses it per sequence")
    parser.add_argument("--max-frames", type=whole(0), default=0, help="only the first frames of each sequence; 0 = all, or the published 110 of bonn and 90 of tum_dynamics")
    options = parser.parse_args(arguments)
    try:
        require_place(options.out)
        predict = checkpoint_predictor(options.checkpoint)
        identity = {"checkpoint_sha256": file_sha256(options.checkpoint)}  # figures of two checkpoints cannot be mixed unnoticed
        sets, problems = evaluate_folder(options.sequences, predict, options.layout, options.stride, options.max_frames)
        write_json(options.out, {name: figures | identity for name, figures in sets.items()})
    except (DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'':24s}" + " ".join(f"{key[:10]:>10}" for key in HEADLINE))
    for name, figures in sets.items():
        print(format_line(name, figures))
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    finish(main)
