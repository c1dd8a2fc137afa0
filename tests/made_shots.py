"""Small made shots of every kind, for tests: textured planes in 3-D seen by a pinhole camera, with a depth buffer.

Nothing here is like the corpus but the kinds: thresholds that hold on both are not tuned to either.
"""

from __future__ import annotations

import cv2
import numpy as np

KINDS = ("multi_view", "static", "rotation", "zoom", "slideshow", "planar", "dynamic_subject", "too_dark")


def texture(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """A picture (size,size,3) uint8 with structure at all scales."""
    total = np.zeros((size, size, 3), np.float32)
    for level in range(2, int(np.log2(size))):
        grid = rng.normal(size=(2**level, 2**level, 3)).astype(np.float32)
        grid = 0.4 * grid + 0.6 * grid.mean(-1, keepdims=True)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) / 1.5**level
    total = (total - total.mean()) / total.std()
    return np.clip(rng.uniform(70, 180, 3) + 45 * total, 0, 255).astype(np.uint8)


def plane(rng, centre, half_u, half_v, tiles: float = 1.0, picture=None) -> dict:
    """A textured parallelogram: centre (3,), half axes (3,) m; tiles repeats the picture, mirrored."""
    return {"o": np.array(centre, float), "u": np.array(half_u, float), "v": np.array(half_v, float),
            "tiles": tiles, "picture": texture(rng) if picture is None else picture}  # fmt: skip


def render(planes: list[dict], pose_c2w: np.ndarray, focal_px: float, size: tuple[int, int]) -> np.ndarray:
    """One frame (H,W,3) uint8 of the planes; OpenCV axes, principal point in the centre, grey where nothing is."""
    height, width = size
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    rays = np.stack([x / focal_px, y / focal_px, np.ones_like(x)], -1) @ pose_c2w[:3, :3].T
    image, nearest = np.full((height, width, 3), 128, np.uint8), np.full((height, width), np.inf)
    for p in planes:
        offset = p["o"] - pose_c2w[:3, 3]
        normal = np.cross(p["u"], p["v"])
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = (normal @ offset) / (rays @ normal)
            hit = depth[..., None] * rays - offset
        u, v = hit @ p["u"] / (p["u"] @ p["u"]), hit @ p["v"] / (p["v"] @ p["v"])
        seen = (depth > 0.05) & (depth < nearest) & (abs(u) <= 1) & (abs(v) <= 1)
        side = p["picture"].shape[0]
        at = [(((c + 1) / 2 * p["tiles"] % 2) * side).astype(np.float32) for c in (u, v)]
        at = [np.where(c < side, c, 2 * side - c) for c in at]
        colour = cv2.remap(p["picture"], at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        image[seen], nearest[seen] = colour[seen], depth[seen]
    return image


def room(rng, boxes: int = 9) -> list[dict]:
    """Ground, a wall far off, and upright boards at many depths."""
    planes = [plane(rng, (0, 1.5, 8), (14, 0, 0), (0, 0, 14), 5), plane(rng, (0, 0, 20), (24, 0, 0), (0, 14, 0), 4)]
    for _ in range(boxes):
        half = rng.uniform(0.3, 1.1, 2)
        turn = rng.uniform(-0.9, 0.9)
        centre = (rng.uniform(-4, 4), 1.5 - half[1], rng.uniform(2.5, 12))
        planes.append(plane(rng, centre, half[0] * np.array([np.cos(turn), 0, np.sin(turn)]), (0, half[1], 0)))
    return planes


def turn(yaw: float, pitch: float, roll: float = 0.0) -> np.ndarray:
    """Rotation (3,3) from angles in rad."""
    return cv2.Rodrigues(np.array([0, yaw, 0.0]))[0] @ cv2.Rodrigues(np.array([pitch, 0, roll]))[0]


def pose(rotation: np.ndarray, centre) -> np.ndarray:
    """Camera-to-world (4,4)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, centre
    return matrix


def make_shot(kind: str, seed: int, frames: int = 24, size: tuple[int, int] = (144, 240), noise: float = 1.5) -> np.ndarray:
    """Frames (T,H,W,3) uint8 of one shot of the given kind."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "slideshow":
        shown = _slides(rng, frames, size)
    else:
        shown = _filmed(rng, kind, frames, size)
    if kind == "too_dark":
        shown = shown * 0.06
    return np.clip(shown + rng.normal(0, noise, shown.shape), 0, 255).astype(np.uint8)


def _filmed(rng, kind: str, frames: int, size) -> np.ndarray:
    height, width = size
    focal = width * rng.uniform(0.6, 1.3)
    planes = room(rng)
    if kind == "planar":
        planes = [plane(rng, (0, 0, 3), (9, 0, 0), (0, 9, 0), 4)]
    mover = plane(rng, (0, 0.3, 2.2), (0.2, 0, 0), (0, 0.3, 0))
    if kind == "dynamic_subject":
        mover = plane(rng, (0, 0, 1.6), (0.75 * 1.6 * width / 2 / focal, 0, 0), (0, 1.6 * height / 2 / focal, 0))
    drift = rng.choice([-1, 1]) * np.array([rng.uniform(0.5, 1.4), rng.uniform(-0.2, 0.2), 0])
    drift += np.array([0, 0, rng.uniform(0, 1.6)])
    pan, tilt, phase = rng.choice([-1, 1]) * rng.uniform(0.15, 0.5), rng.uniform(-0.08, 0.08), rng.uniform(0, 6)
    out = []
    for s in np.linspace(0, 1, frames):
        camera, zoom, shown = np.eye(4), 1.0, list(planes)
        sway = 0.015 * np.sin(7 * s + phase)
        if kind in ("multi_view", "planar", "too_dark"):
            camera = pose(turn(0.35 * pan * s + sway, tilt * s + sway), drift * s)
        elif kind == "rotation":
            camera = pose(turn(pan * (s - 0.5) + sway, tilt * s + sway), (0, 0, 0))
        elif kind == "zoom":
            zoom = 1 + rng_free_zoom(phase) * s
        if kind in ("static", "dynamic_subject"):
            reach = 0.9 if kind == "static" else 0.25
            shift = [reach * np.sin(4 * s + phase), 0.1 * np.sin(9 * s), 0.15 * np.sin(5 * s)]
            lean = 0.25 * np.sin(6 * s + phase)
            turned = mover["u"] @ turn(lean, 0, 0.5 * lean).T
            shown.append({**mover, "o": mover["o"] + shift, "u": turned})
        out.append(render(shown, camera, focal * zoom, size))
    return np.stack(out).astype(np.float32)


def rng_free_zoom(phase: float) -> float:
    """How far a zoom goes, from the shot's phase: 25 to 60 %."""
    return 0.25 + 0.35 * (phase / 6)


def _slides(rng, frames: int, size) -> np.ndarray:
    height, width = size
    pages = [cv2.resize(texture(rng), (width, height)) for _ in range(3)]
    return np.stack([pages[3 * t // frames] for t in range(frames)]).astype(np.float32)
