"""A room small enough to be drawn by arithmetic: its pictures and depth maps are exact for every camera.

Notebook 00 shows the conventions on it, and the tests compare warps with it; it trains nothing. The floor is
y = 1, the back wall z = 6, and a box one unit wide stands on the floor (OpenCV axes, any unit of length).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

FLOOR_Y, WALL_Z = 1.0, 6.0
BOX = ((-0.6, 0.1, 2.6), (0.4, 1.0, 3.6))  # two opposite corners
FAR = 1e6  # what looks past everything


def _texture(first: np.ndarray, second: np.ndarray, tint: tuple[float, float, float]) -> np.ndarray:
    """Smooth waves in two surface coordinates, as RGB in [0, 1]: no edge that sampling would alias."""
    waves = 0.5 + 0.22 * np.sin(5 * first) * np.cos(4 * second) + 0.18 * np.sin(2.3 * first + 3.1 * second)
    return waves[..., None] * np.array(tint)


def _planes() -> Iterator[tuple[int, float, tuple[float, float, float], tuple | None]]:
    """(axis, position, tint, extent): a plane perpendicular to an axis, cut to the box's extent where it has one."""
    yield 1, FLOOR_Y, (0.9, 0.8, 0.6), None
    yield 2, WALL_Z, (0.6, 0.8, 1.0), None
    for axis in range(3):
        for corner in BOX:
            yield axis, corner[axis], (1.0, 0.6, 0.5), BOX


def render(
    world_from_cam: np.ndarray, intrinsics: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Picture and depth of the room, by intersecting the ray of every pixel centre with every plane.

    Args:
        world_from_cam: (4, 4) pose, OpenCV axes.
        intrinsics: (3, 3) in pixels, pixel centres at integers.

    Returns:
        RGB (H, W, 3) float32 in [0, 1], and z-depth (H, W) float32.
    """
    y, x = np.mgrid[:height, :width].astype(np.float64)
    rays = (
        np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(intrinsics).T
    )  # z = 1: distances along them are depths
    directions, origin = rays @ world_from_cam[:3, :3].T, world_from_cam[:3, 3]
    image, depth = np.ones((height, width, 3)), np.full((height, width), FAR)
    for axis, position, tint, extent in _planes():
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = (position - origin[axis]) / directions[..., axis]
            points = origin + directions * reach[..., None]
        hit = np.isfinite(reach) & (reach > 1e-6) & (reach < depth)
        others = [a for a in range(3) if a != axis]
        if extent is not None:
            for a in others:
                hit &= (points[..., a] >= extent[0][a]) & (points[..., a] <= extent[1][a])
        depth[hit] = reach[hit]
        image[hit] = _texture(*(points[..., a][hit] for a in others), tint)
    return image.astype(np.float32), depth.astype(np.float32)
