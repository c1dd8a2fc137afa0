"""Camera motions that show no depth: a pure rotation, a zoom. How far are matches from the best of each?"""

from __future__ import annotations

import numpy as np

FOCALS = np.geomspace(0.4, 3.0, 7)  # candidate focal lengths of a rotation, in picture sides


def rotation_distance(first: np.ndarray, second: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Distance (N,) px to the best pure rotation, over candidate focal lengths (Kabsch 1976, reweighted)."""
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    best = np.full(len(first), np.inf)
    for focal_px in FOCALS * max(size):
        a = np.c_[(first - centre) / focal_px, np.ones(len(first))]
        b = np.c_[(second - centre) / focal_px, np.ones(len(first))]
        rest, weight = best, np.ones(len(first))
        for _ in range(3):
            rotation = _align(a, b, weight)
            turned = a @ rotation.T
            rest = np.linalg.norm(turned[:, :2] / turned[:, 2:] * focal_px + centre - second, axis=1)
            weight = 1 / (1 + rest**2) ** 2
        if np.median(rest) < np.median(best):
            best = rest
    return best


def _align(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The rotation (3,3) that turns rays a (N,3) into rays b best."""
    a, b = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in (a, b))
    left, _, right = np.linalg.svd((b * weight[:, None]).T @ a)
    return left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right


def zoom_distance(first: np.ndarray, second: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, float]:
    """The best scaling with a shift: the distance (N,) px of the matches to it, its factor, and how far it moves the
    centre of the picture (H,W), in px."""
    weight = np.ones(len(first))
    for _ in range(5):
        mean_a, mean_b = (np.average(p, axis=0, weights=weight) for p in (first, second))
        a, b = first - mean_a, second - mean_b
        zoom = (weight[:, None] * a * b).sum() / (weight[:, None] * a * a).sum()
        rest = np.linalg.norm(zoom * a - b, axis=1)
        weight = 1 / (1 + rest**2) ** 2
    centre = (np.array(size[::-1]) - 1) / 2
    return rest, float(max(zoom, 1e-3)), float(np.linalg.norm(zoom * (centre - mean_a) + mean_b - centre))
