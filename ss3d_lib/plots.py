"""Figures: arrays in, a matplotlib Figure out; one style, one way to save. Nothing here computes a result.

Depth is always shown as inverse depth, scaled to the median, so that near and far are both visible and no unit is
claimed that a monocular network does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ss3d_lib.files import atomic_write

INVERSE_DEPTH_CMAP, ERROR_CMAP = "magma", "viridis"


def use_style() -> None:
    """The look of every figure; call it once at the top of a notebook."""
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 120, "image.interpolation": "nearest", "axes.grid": False})


def save_figure(figure: Figure, path: str | Path) -> Figure:
    """Write a PNG (its bytes do not depend on the day) and return the figure, so that a cell shows it too."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return figure


def show_image(axis, image: np.ndarray, title: str = "") -> None:
    """A picture without ticks."""
    axis.imshow(image)
    axis.set(xticks=[], yticks=[], title=title)


def show_inverse_depth(axis, depth: np.ndarray, title: str = "", colorbar: bool = False) -> None:
    """Depth (H, W) as inverse depth over its median; pixels without a depth (0 or nan) are grey."""
    known = np.isfinite(depth) & (depth > 0)
    inverse = np.full(depth.shape, np.nan)
    inverse[known] = np.median(depth[known]) / depth[known] if known.any() else 0
    cmap = plt.get_cmap(INVERSE_DEPTH_CMAP).copy()
    cmap.set_bad("0.6")
    drawn = axis.imshow(inverse, cmap=cmap, vmin=0, vmax=3)
    axis.set(xticks=[], yticks=[], title=title)
    if colorbar:
        axis.figure.colorbar(drawn, ax=axis, fraction=0.046, label="inverse depth / its median")


def depth_comparison(
    images: Sequence[np.ndarray], predicted: Sequence[np.ndarray], true: Sequence[np.ndarray], names: Sequence[str]
) -> Figure:
    """A row per image: picture (H, W, 3), predicted and true depth where that is known, log error after median scaling."""
    figure, axes = plt.subplots(len(images), 4, figsize=(10, 1.9 * len(images)), squeeze=False)
    for row, (image, guess, truth, name) in enumerate(zip(images, predicted, true, names)):
        show_image(axes[row, 0], image, name)
        known = (truth > 0) & np.isfinite(truth)
        show_inverse_depth(axes[row, 1], np.where(known, guess, np.nan), "predicted" if row == 0 else "")
        show_inverse_depth(axes[row, 2], truth, "true" if row == 0 else "")
        error = np.full(truth.shape, np.nan)
        error[known] = np.log(guess[known] / truth[known])
        error -= np.nanmedian(error) if known.any() else 0
        drawn = axes[row, 3].imshow(error, cmap="RdBu", vmin=-0.7, vmax=0.7)
        axes[row, 3].set(xticks=[], yticks=[], title="log(predicted / true)" if row == 0 else "")
        figure.colorbar(drawn, ax=axes[row, 3], fraction=0.046)
    figure.tight_layout()
    return figure


def trajectories(
    predicted_m: Sequence[np.ndarray], true_m: Sequence[np.ndarray], names: Sequence[str], columns: int = 4
) -> Figure:
    """Camera centres (T, 3) from above, after alignment: the two widest axes of each true trajectory."""
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, guess, truth, name in zip(axes.flat, predicted_m, true_m, names):
        first, second = np.sort(np.argsort(np.ptp(truth, axis=0))[1:])
        axis.plot(truth[:, first], truth[:, second], "k-", label="true")
        axis.plot(guess[:, first], guess[:, second], "-", color="C1", label="predicted, Sim(3)")
        axis.set(title=name, xlabel=f"{'xyz'[first]}, m", ylabel=f"{'xyz'[second]}, m")
        axis.set_aspect("equal", adjustable="datalim")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    return figure


def focal_scatter(true_share: np.ndarray, share: np.ndarray, interval: np.ndarray, domain: Sequence[str]) -> Figure:
    """Predicted against true focal lengths (N,), in image widths, with their 80 % intervals (N, 2)."""
    figure, axis = plt.subplots(figsize=(4.5, 4.2))
    for index, name in enumerate(sorted(set(domain))):
        chosen = np.array([item == name for item in domain])
        reach = np.abs(interval[chosen].T - share[chosen])
        axis.errorbar(
            true_share[chosen], share[chosen], yerr=reach, fmt="o", ms=4, lw=0.8, color=f"C{index}", label=name
        )
    ends = np.array([0.9 * true_share.min(), 1.1 * true_share.max()])
    axis.plot(ends, ends, "k--", lw=0.8)
    axis.set(
        xlabel="true focal length, image widths", ylabel="predicted, with its 80 % interval", xscale="log", yscale="log"
    )
    for side in (axis.xaxis, axis.yaxis):
        tick_focals(side)
    axis.legend(fontsize=7)
    return figure


def error_curves(errors: Mapping[str, np.ndarray], xlabel: str, limit: float) -> Figure:
    """Cumulative share of pairs, images or shots with an error below x; one curve per name."""
    figure, axis = plt.subplots(figsize=(5, 3.2))
    for name, values in errors.items():
        values = np.sort(values[np.isfinite(values)])
        axis.plot(values, np.arange(1, len(values) + 1) / max(len(values), 1), label=name)
    axis.set(xlabel=xlabel, ylabel="share below", xlim=(0, limit), ylim=(0, 1))
    axis.legend(fontsize=7)
    return figure


def metric_bars(figures: Mapping[str, Mapping[str, float]], key: str, title: str, factor: float = 1.0, axis=None) -> Figure:
    """One bar per row that has the metric, with its interval; the value is written beside the bar."""
    rows = [row for row in figures if key in figures[row]]
    values = np.array([factor * figures[row][key] for row in rows])
    ends = [[factor * figures[row].get(f"{key}_{end}", figures[row][key]) for end in ("low", "high")] for row in rows]
    if axis is None:
        _, axis = plt.subplots(figsize=(5, 0.35 * len(rows) + 0.8))
    axis.barh(rows, values, color=["C0" if row in ("student", "released") else "0.7" for row in rows])
    for index, (value, (low, high)) in enumerate(zip(values, ends)):
        axis.plot([low, high], [index, index], "k-", lw=1)
        axis.text(max(value, high), index, f" {value:.3g}", va="center", fontsize=7)
    axis.invert_yaxis()
    axis.set(title=title, xlim=(0, 1.25 * np.max(ends, initial=1e-6)))
    return axis.figure


def set_bars(figures: Mapping[str, Mapping[str, float]], columns: Mapping[str, tuple[str, float]], title: str) -> Figure:
    """A panel per metric {key: (heading, factor)} of one set, rows as bars."""
    keys = [key for key in columns if any(key in row for row in figures.values())]
    wide = min(3, len(keys))
    deep = -(-len(keys) // wide)
    most = max(len(figures), 4)
    figure, axes = plt.subplots(deep, wide, figsize=(4.2 * wide, (0.22 * most + 0.8) * deep), squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    for axis, key in zip(axes.flat, keys):
        metric_bars(figures, key, *columns[key], axis=axis)
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def inverse_depth_maps(maps: Mapping[str, np.ndarray]) -> Figure:
    """Mean inverse-depth maps (h, w), one panel per name."""
    figure, axes = plt.subplots(1, len(maps), figsize=(3.2 * len(maps), 2.8), squeeze=False)
    for axis, (name, values) in zip(axes[0], maps.items()):
        show_inverse_depth(axis, 1 / values, name, colorbar=True)
    figure.tight_layout()
    return figure


def shot_sheet(pictures: Sequence[np.ndarray], titles: Sequence[str], good: Sequence[bool], columns: int = 8) -> Figure:
    """A contact sheet: one picture (H, W, 3) a shot, framed green where it was kept and red where it was not."""
    rows = max(1, -(-len(pictures) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.25 * rows), squeeze=False)
    for axis in axes.flat[len(pictures) :]:
        axis.set_axis_off()
    for axis, picture, title, fine in zip(axes.flat, pictures, titles, good):
        show_image(axis, picture)
        axis.set_title(title, fontsize=6, pad=2)
        for spine in axis.spines.values():
            spine.set(color="C2" if fine else "C3", linewidth=2)
    figure.tight_layout(pad=0.3)
    return figure


def score_overview(scores: np.ndarray, reasons: Sequence[str], threshold: float) -> Figure:
    """Left: the distribution of the scores (N,) and the threshold. Right: shots per reason ("" means kept)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    left.hist(scores, bins=np.linspace(0, 1, 21), color="C0")
    left.axvline(threshold, color="k", ls="--", lw=0.8)
    left.set(xlabel="score", ylabel="shots", title="multi-view signal")
    names, counts = np.unique([reason.split(":")[0] or "signal" for reason in reasons], return_counts=True)
    right.barh(names, counts, color=["C2" if name == "signal" else "C3" for name in names])
    right.set(xlabel="shots", title="kept, or why not")
    figure.tight_layout()
    return figure


def term_strips(terms: Mapping[str, np.ndarray], groups: Sequence[str]) -> Figure:
    """One panel per term (N,), one dot per shot, grouped by what the shot was found to be."""
    figure, axes = plt.subplots(1, len(terms), figsize=(1.9 * len(terms), 3), sharey=True, squeeze=False)
    order = sorted(set(groups), key=lambda name: (name != "signal", name))
    np.random.seed(0)  # noqa: NPY002 (the jitter of seaborn draws from here: the same figure every time)
    for axis, (name, values) in zip(axes[0], terms.items()):
        sns.stripplot(x=values, y=list(groups), order=order, hue=list(groups), hue_order=order, size=3.5, ax=axis, legend=False)
        axis.set(xlabel=name, ylabel="")
    figure.tight_layout()
    return figure


def pair_anatomy(image: np.ndarray, points: np.ndarray, layers: Mapping[str, np.ndarray]) -> Figure:
    """A frame (H, W, 3), and on it one scatter of `points` (N, 2) px per layer (N,), each with its colour bar."""
    figure, axes = plt.subplots(1, len(layers) + 1, figsize=(3 * (len(layers) + 1), 2.4))
    show_image(axes[0], image, "frame")
    for axis, (name, values) in zip(axes[1:], layers.items()):
        show_image(axis, np.full_like(image, 235), name)
        drawn = axis.scatter(*points.T, c=values, s=3, cmap=ERROR_CMAP, vmin=0, vmax=max(np.quantile(values, 0.97), 1e-3))
        figure.colorbar(drawn, ax=axis, fraction=0.046)
    figure.tight_layout()
    return figure


def change_curve(change: np.ndarray, marks: Sequence[int], ylabel: str) -> Figure:
    """A value per frame (T,), with the borders of shots as dashed lines."""
    figure, axis = plt.subplots(figsize=(8, 2.2))
    axis.plot(np.arange(1, len(change) + 1), change, lw=1)
    for mark in marks:
        axis.axvline(mark, color="C3", ls="--", lw=0.7)
    axis.set(xlabel="frame", ylabel=ylabel, xlim=(0, len(change) + 1))
    return figure


def residual_curves(candidates: np.ndarray, curves: Mapping[str, np.ndarray], true: float | None = None) -> Figure:
    """Epipolar residual against the focal length (in image widths, log axis), one line each, wide ones below; a grey line marks the truth."""
    figure, axis = plt.subplots(figsize=(6, 3), layout="tight")
    for width, style, (name, curve) in zip(np.linspace(4, 1, len(curves)), cycle(("-", "--", "-.")), curves.items()):
        axis.plot(candidates, curve - curve.min(), style, linewidth=width, label=name)
    if true is not None:
        axis.axvline(true, color="grey", linewidth=1, label="true focal length")
    axis.set(xscale="log", xlabel="focal length / longer image side", ylabel="robust residual above its minimum")
    tick_focals(axis.xaxis)
    axis.legend(fontsize=7)
    return figure


def tick_focals(side: Axis) -> None:
    """Plain numbers on a log axis of focal lengths in image widths."""
    side.set_major_locator(FixedLocator([0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5]))
    side.set_major_formatter("{x:g}")
    side.set_minor_locator(NullLocator())


def loss_curves(history: Mapping[str, np.ndarray], title: str = "", window: int = 20) -> Figure:
    """Each named series over the steps, smoothed by a running mean."""
    figure, axes = plt.subplots(1, len(history), figsize=(3.2 * len(history), 2.4), squeeze=False, layout="tight")
    for axis, (name, values) in zip(axes[0], history.items()):
        size = min(window, len(values))
        axis.plot(values, alpha=0.25)
        axis.plot(np.arange(size - 1, len(values)), np.convolve(values, np.ones(size) / size, "valid"))
        axis.set(xlabel="step", title=name)
    figure.suptitle(title)
    return figure


def map_panel(rows: Sequence[Mapping[str, np.ndarray]]) -> Figure:
    """Rows of named panels: pictures (H, W, 3), and maps (H, W) with colours from the 1st to the 99th percentile, or "none" where all is nan."""
    shape = len(rows), len(rows[0])
    figure, axes = plt.subplots(*shape, figsize=(2.6 * shape[1], 1.75 * shape[0]), squeeze=False, layout="compressed")
    for index, row in enumerate(rows):
        for axis, (name, values) in zip(axes[index], row.items()):
            drawn = axis.imshow(values, cmap=INVERSE_DEPTH_CMAP)
            axis.set(xticks=[], yticks=[])
            axis.set_title(name if index == 0 else "", fontsize=8)
            if np.isnan(values).all():
                axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", va="center")
            elif values.ndim == 2:
                drawn.set_clim(*np.nanquantile(values, (0.01, 0.99)))
                figure.colorbar(drawn, ax=axis, fraction=0.046)
    return figure


def histogram(values: Mapping[str, np.ndarray], xlabel: str) -> Figure:
    """Distributions side by side, one outline each."""
    figure, axis = plt.subplots(figsize=(5, 2.6))
    for name, group in values.items():
        sns.histplot(x=np.asarray(group), ax=axis, label=name, element="step", bins=24, alpha=0.4)
    axis.set(xlabel=xlabel, ylabel="shots")
    axis.legend(fontsize=7)
    figure.tight_layout()
    return figure


def contact_rows(rows: Mapping[str, Sequence[np.ndarray]], columns: int) -> Figure:
    """Pictures (H, W, 3) of any shape, a row of at most `columns` per name (more, where there is only one name)."""
    if len(rows) == 1:
        ((name, pictures),) = rows.items()
        rows = {name if k == 0 else " " * k: pictures[k : k + columns] for k in range(0, len(pictures), columns)}
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.5 * columns, 1.1 * len(rows)), squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items()):
        for axis in line[len(pictures) :]:
            axis.set_axis_off()
        for axis, picture in zip(line, pictures):
            show_image(axis, picture)
        line[0].set_ylabel(name)
    figure.tight_layout(pad=0.3)
    return figure


def score_table(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """A table of values (R, C) coloured by their ratio to the best of their column."""
    figure, axis = plt.subplots(figsize=(1.2 * len(columns) + 2, 0.35 * len(rows) + 1))
    ratio = values / values.min(axis=0, keepdims=True)
    sns.heatmap(
        ratio, annot=values, fmt=".4f", cmap="viridis_r", vmin=1, vmax=max(1.05, float(np.quantile(ratio, 0.9))), ax=axis,
        xticklabels=columns, yticklabels=rows, cbar_kws={"label": "over the best"},
    )  # fmt: skip
    axis.set(title=title)
    axis.tick_params(axis="y", rotation=0)
    return figure


def arrows(vectors: Mapping[str, np.ndarray]) -> Figure:
    """Named vectors (2,) from the origin."""
    figure, axis = plt.subplots(figsize=(4.5, 3.2))
    for index, (name, vector) in enumerate(vectors.items()):
        axis.quiver(0, 0, *vector, color=f"C{index}", angles="xy", scale_units="xy", scale=1, width=0.01, label=name)
    ends = np.array([*vectors.values(), (0, 0)])
    low, high = ends.min(0) - 0.3, ends.max(0) + 0.3
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axis.legend(fontsize=7, loc="best")
    return figure


def ranked_weights(weights: Mapping[str, np.ndarray]) -> Figure:
    """Sampling weights (N,) of the shots in order of ease, one line per name."""
    figure, axis = plt.subplots(figsize=(5.5, 3.2))
    for name, values in weights.items():
        axis.stairs(values, label=name, baseline=None, lw=1.5)
    axis.set(xlabel="shots, the easiest first", ylabel="sampling weight")
    axis.legend(fontsize=8)
    return figure


def learning_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, ylabel: str) -> Figure:
    """One line per name, (x, y); a dashed line marks where the last one ends."""
    figure, axis = plt.subplots(figsize=(5.5, 3.2))
    for name, (x, y) in curves.items():
        axis.plot(x, y, "o-", ms=3, label=name)
    axis.axhline(y[-1], color="0.5", ls="--", lw=0.8)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(fontsize=8)
    return figure
