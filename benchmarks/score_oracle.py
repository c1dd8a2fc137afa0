"""How well does the label-free score rank shots by their true multi-view signal? `python -m benchmarks.score_oracle`

The true signal of a shot, from ground-truth depth, poses and intrinsics, at the stride that the score chose:

    the share of the picture's pixels that (1) have a depth, (2) are seen in the second frame too and are rigid: they land
    inside it, where its depth agrees within 5 %, (3) move, once the best homography is taken away, by at least 1 px of
    the working size, and (4) move by at most a quarter of its width altogether, which is as far as matching reaches;

the mean over up to eight pairs. A shot without a camera (slideshow), or whose camera stays, turns or zooms, has none by
this definition, and so has a flat scene. What moves by itself within the view and keeps its depth passes as rigid.

On the validation split. Then the score with one factor left out: how well it ranks these shots, how well it tells the kinds
apart, and what it lets through; kinds are counted on the training split too, for few validation shots have no signal. The
score never sees what is read here. Writes benchmarks/score_oracle.json, from which notebook 02 takes the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from corpus.truth import decode_depth
from ss3d_lib import borders, signal, video
from ss3d_lib.files import write_json
from ss3d_lib.progress import progress
from ss3d_lib.twoframe import homography_distance

PAIRS = 8
LEAST_PX = 1.0  # of the working size: well above the noise of flow
REACH = 0.25  # of the picture's width
SAME_DEPTH = 0.05
GRID = 2  # every so many depth pixels; those are every second of the video


@dataclass(frozen=True)
class View:
    """One frame's truth: depth (h,w) m, 0 = none; pose (4,4) camera to world; fx fy cx cy px of the stored video."""

    depth_m: np.ndarray
    pose_c2w: np.ndarray
    intrinsics: np.ndarray


def true_signal(views: list[View], stride: int, depth_stride: int, scale: float) -> float:
    """The true multi-view signal of a shot (see above), in [0, 1]; `scale` turns stored px into working px."""
    if stride >= len(views) or not all(np.isfinite(view.intrinsics).all() for view in views):
        return 0.0
    starts = np.unique(np.linspace(0, len(views) - 1 - stride, PAIRS).round().astype(int))
    return float(np.mean([pair_signal(views[k], views[k + stride], depth_stride, scale) for k in starts]))


def pair_signal(first: View, second: View, depth_stride: int, scale: float) -> float:
    """The share of the first picture that is co-visible, rigid, and moves usefully in the second."""
    height, width = first.depth_m.shape
    row, column = (axis.ravel() for axis in np.mgrid[0:height:GRID, 0:width:GRID])
    depth = first.depth_m[row, column]
    start_px = np.stack([column, row], 1) * float(depth_stride)
    end_px, end_depth = project(start_px, depth, first, second)
    at = np.nan_to_num(end_px / depth_stride, nan=-1.0, posinf=-1.0, neginf=-1.0).round().astype(int)
    inside = (at >= 0).all(1) & (at[:, 0] < width) & (at[:, 1] < height)
    seen = second.depth_m[np.where(inside, at[:, 1], 0), np.where(inside, at[:, 0], 0)]
    rigid = (depth > 0) & inside & (end_depth > 0) & (abs(seen - end_depth) < SAME_DEPTH * end_depth)
    if rigid.sum() < 60:
        return 0.0
    rest_px = homography_distance(start_px[rigid], end_px[rigid]) * scale
    flow_px = np.linalg.norm(end_px - start_px, axis=1)[rigid]
    useful = (rest_px >= LEAST_PX) & (flow_px <= REACH * width * depth_stride)
    return float(useful.sum() / len(depth))


def project(pixels: np.ndarray, depth_m: np.ndarray, first: View, second: View) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels (N,2) with depths (N,) m of the first frame are in the second: px (N,2) and depth (N,) m."""
    fx, fy, cx, cy = first.intrinsics
    rays = np.stack([(pixels[:, 0] - cx) / fx, (pixels[:, 1] - cy) / fy, np.ones(len(pixels))], 1)
    second_from_first = np.linalg.inv(second.pose_c2w) @ first.pose_c2w
    points = rays * depth_m[:, None] @ second_from_first[:3, :3].T + second_from_first[:3, 3]
    fx, fy, cx, cy = second.intrinsics
    with np.errstate(divide="ignore", invalid="ignore"):
        return points[:, :2] / points[:, 2:] * (fx, fy) + (cx, cy), points[:, 2]


def corpus_shots(data: Path, split: str) -> Iterator[tuple[str, np.ndarray, list[View], int, float]]:
    """Every true shot of a split without the frames of its fades: kind, working frames, views, depth stride, scale."""
    for path in video.find_videos(data / "videos" / split):
        frames, _ = video.read_video(path)
        with np.load(data / "truth" / split / f"{path.stem}.npz", allow_pickle=False) as truth:
            depth_m = decode_depth(truth["depth_code"])
            views = [View(*v) for v in zip(depth_m, truth["poses_c2w"].astype(float), truth["intrinsics"].astype(float))]
            shots = list(zip(truth["shot_start"], truth["shot_end"], truth["shot_kind"]))
            stride = int(truth["depth_stride"])
        for i, (start, end, kind) in enumerate(shots):
            keep = slice(start + 3 * (i > 0), end - 3 * (i + 1 < len(shots)))
            x0, y0, x1, y1 = borders.picture_box(frames[keep])
            working, scale, _ = video.to_working(frames[keep, y0:y1, x0:x1])
            yield str(kind), working, views[keep], stride, scale


@dataclass(frozen=True)
class Judged:
    """A shot: its kind, what the score found, and its true signal."""

    kind: str
    found: signal.Signal
    true_signal: float


def judge(data: Path, split: str) -> list[Judged]:
    """All shots of a split."""
    shots = []
    for kind, frames, views, depth_stride, scale in progress(corpus_shots(data, split), label=f"shots of {split}"):
        found = signal.shot_signal(frames)
        shots.append(Judged(kind, found, true_signal(views, found.stride, depth_stride, scale)))
    return shots


def without_each(measured: list[Judged], others: list[Judged]) -> dict[str, dict[str, float]]:
    """{what is left out: figures of the rest}: `spearman` with the true signal of `measured`; of all, `auc` for the kind
    multi_view, `kept` and `let_through`, the shares of shots with and without a signal that reach the threshold, and
    `alone_auc`, of that factor and no other."""
    shots = [*measured, *others]
    multi = np.array([shot.kind == "multi_view" for shot in shots])
    truths = np.array([shot.true_signal for shot in measured])
    factors = [signal.score_factors(shot.found, shot.found.rigid, shot.found.still) for shot in shots]  # a Signal holds these terms too
    names, values = list(factors[0]), np.array([list(factor.values()) for factor in factors])
    drawn = [shot.found.score == 0 and factor.min() > 0 for shot, factor in zip(shots, values)]  # slideshows, and cuts inside
    names, values = [*names, "slideshows and cuts"], np.c_[values, 1.0 - np.array(drawn)]

    def figures(score: np.ndarray) -> dict[str, float]:
        good = score >= signal.KEPT
        known = {"auc": roc_auc_score(multi, score), "spearman": spearmanr(score[: len(measured)], truths).statistic}
        return known | {"kept": good[multi].mean(), "let_through": good[~multi].mean()}

    rows = {"nothing": figures(values.prod(1))}
    for index, name in enumerate(names):
        rows[name] = figures(np.delete(values, index, axis=1).prod(1)) | {"alone_auc": roc_auc_score(multi, values[:, index])}
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    shots = judge(options.data, "val")  # every frame has its depth there; of the training split some
    rows = [(shot.kind, shot.found.score, shot.found.stride, shot.true_signal) for shot in shots]
    kinds, scores, _, truths = (np.array(column) for column in zip(*rows))
    multi = kinds == "multi_view"
    result = {
        "shots": len(rows),
        "spearman": spearmanr(scores, truths).statistic,
        "spearman_multi_view_alone": spearmanr(scores[multi], truths[multi]).statistic,
        "true_signal_mean": {kind: truths[kinds == kind].mean() for kind in sorted(set(kinds))},
        "score_mean": {kind: scores[kinds == kind].mean() for kind in sorted(set(kinds))},
        "without": without_each(shots, judge(options.data, "train")),
        "rows": [dict(zip(("kind", "score", "stride", "true_signal"), row)) for row in rows],
    }
    write_json(options.out, result)
    print(f"Spearman of score and true signal, {len(rows)} validation shots: {result['spearman']:.3f}")


if __name__ == "__main__":
    main()
