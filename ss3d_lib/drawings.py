"""Drawings of the conventions (notebook 00) and of one prediction (notebook 11): arrays in, a Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ss3d_lib.plots import show_image, show_inverse_depth

AXES = (("x", "C3"), ("y", "C2"), ("z", "C0"))  # right, down, forward: red, green, blue


def stage_graph(reads: Mapping[str, set[str]], notes: Mapping[str, str]) -> Figure:
    """Boxes and arrows of a pipeline; arrows that follow from others are left out.

    Args:
        reads: the stages whose results each stage reads.
        notes: one line to write in each box.
    """
    every = {name: _upstream(reads, name) for name in reads}
    direct = {
        name: {b for b in before if not any(b in every[c] for c in before - {b})} for name, before in reads.items()
    }
    depth = {name: _longest(reads, name) for name in reads}
    place = {}
    for level in sorted(set(depth.values())):
        members = [name for name in reads if depth[name] == level]
        place |= {name: (level * 2.3, (len(members) - 1) / 2 - index) for index, name in enumerate(members)}
    figure, axis = plt.subplots(figsize=(11, 2.6))
    for name, (x, y) in place.items():
        text = f"{name}\n{notes.get(name, '')}".strip()
        box = {"boxstyle": "round,pad=0.45", "facecolor": "0.95", "edgecolor": "C0"}
        axis.text(x, y, text, ha="center", va="center", fontsize=7, bbox=box, zorder=2)
        for before in direct[name]:
            arrow = {"arrowstyle": "->", "color": "0.4", "shrinkA": 32, "shrinkB": 32}
            axis.annotate("", (x, y), place[before], arrowprops=arrow, zorder=1)
    across, down = zip(*place.values())
    axis.set(xlim=(min(across) - 1.1, max(across) + 1.1), ylim=(min(down) - 0.7, max(down) + 0.7))
    axis.set_axis_off()
    return figure


def _upstream(reads: Mapping[str, set[str]], name: str) -> set[str]:
    return set().union(*({before} | _upstream(reads, before) for before in reads[name]))


def _longest(reads: Mapping[str, set[str]], name: str) -> int:
    return 1 + max((_longest(reads, before) for before in reads[name]), default=-1)


def cameras_3d(
    world_from_cam: np.ndarray,
    points: np.ndarray | None = None,
    colours: np.ndarray | None = None,
    title: str = "",
    size: float = 0.0,
) -> Figure:
    """Cameras (T, 4, 4) as three coloured axes each, with points (P, 3) coloured uint8 (P, 3), seen from behind.

    The picture's depth axis is z, its vertical one -y, so that what is down in the image is down here.
    """
    figure = plt.figure(figsize=(5.2, 4.2))
    axis = figure.add_subplot(projection="3d")
    turn = lambda p: (p[..., 0], p[..., 2], -p[..., 1])  # noqa: E731 - OpenCV to a z-up plot
    centres = world_from_cam[:, :3, 3]
    size = size or 0.15 * max(float(np.ptp(centres, axis=0).max()), 1e-3)
    for pose in world_from_cam:
        for column, (name, colour) in enumerate(AXES):
            ends = np.stack([pose[:3, 3], pose[:3, 3] + size * pose[:3, column]])
            axis.plot(*turn(ends), color=colour, lw=1.2)
            if len(world_from_cam) <= 2:
                axis.text(*(float(v) for v in turn(ends[1])), name, color=colour)
    axis.plot(*turn(centres), color="k", lw=0.8)
    if points is not None:
        axis.scatter(*turn(points), c=None if colours is None else colours / 255, s=2.0, linewidths=0)
    axis.set(xlabel="x (right)", ylabel="z (forward)", zlabel="-y (up)", title=title)
    axis.set_aspect("equal")
    axis.locator_params(nbins=4)  # more labels run into one another on the short axes
    axis.view_init(elev=22, azim=-60)
    return figure


def pictures(images: Mapping[str, np.ndarray], columns: int = 4, depth: Sequence[str] = ()) -> Figure:
    """Named pictures (H, W, 3) in rows; those named in `depth` are (H, W) depth maps."""
    rows = -(-len(images) // columns)
    wide = min(columns, len(images))
    figure, axes = plt.subplots(rows, wide, figsize=(2.7 * wide, 2.0 * rows), squeeze=False)
    for axis in axes.flat[len(images) :]:
        axis.set_axis_off()
    for axis, (name, image) in zip(axes.flat, images.items()):
        if name in depth:
            show_inverse_depth(axis, image, name)
        else:
            show_image(axis, np.clip(image, 0, 1) if image.dtype.kind == "f" else image, name)
    figure.tight_layout()
    return figure


def from_above(world_from_cam: np.ndarray, title: str = "") -> Figure:
    """A figure of its own for `show_path`."""
    figure, axis = plt.subplots(figsize=(4.2, 3.6))
    show_path(axis, world_from_cam, title)
    axis.legend(fontsize=7)
    return figure


def show_path(axis, world_from_cam: np.ndarray, title: str = "") -> None:
    """Camera centres from above, x to the right and z upwards, with the viewing direction of some frames."""
    centres, forward = world_from_cam[:, :3, 3], world_from_cam[:, :3, 2]
    axis.plot(centres[:, 0], centres[:, 2], "-o", ms=2, lw=1)
    every = max(1, len(centres) // 10)
    axis.quiver(*centres[::every, [0, 2]].T, *forward[::every, [0, 2]].T, color="C1", width=0.005, scale=14)
    axis.plot(*centres[0, [0, 2]], "k^", ms=6, label="first frame")
    axis.set(xlabel="x (right), depth units", ylabel="z (forward), depth units", title=title)
    axis.set_aspect("equal", adjustable="datalim")
    axis.locator_params(nbins=4)


def focal_distribution(
    candidates_px: np.ndarray, probability: np.ndarray, focal_px: float, interval_px: np.ndarray
) -> Figure:
    """A figure of its own for `show_focal`."""
    figure, axis = plt.subplots(figsize=(5, 2.6))
    show_focal(axis, candidates_px, probability, focal_px, interval_px)
    axis.legend(fontsize=7)
    figure.tight_layout()
    return figure


def show_focal(axis, candidates_px: np.ndarray, probability: np.ndarray, focal_px: float, interval_px: np.ndarray) -> None:
    """Probability of each focal candidate (C,), and the estimate with its 80 % interval."""
    axis.bar(candidates_px, probability, width=0.05 * candidates_px, color="C0")
    axis.axvspan(*interval_px, color="C1", alpha=0.25, label="80 % interval")
    axis.axvline(focal_px, color="C1", label=f"estimate, {focal_px:.0f} px")
    axis.set(xscale="log", xlabel="focal length, px", ylabel="probability")
    axis.minorticks_off()
    ticks = candidates_px[:: len(candidates_px) // 4]
    axis.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
