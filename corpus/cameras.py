"""Camera paths: where the camera of a shot stands and looks, frame by frame. No renderer is needed here.

World frame: metres, x and y on the ground, z up. A yaw of 0 looks along +x, pi/2 along +y; a positive pitch
looks up. Steps are fractions of a typical scene depth, so that the parallax per frame, which is what a
self-supervised learner sees, does not depend on the domain: a step of 0.01 is about 2 px at 256 px width.
"""
from dataclasses import dataclass

import numpy as np

STYLES = {  # style: (smallest, largest step per frame as a fraction of the typical depth), log-uniform
    "forward": (0.014, 0.040), "pure_forward": (0.02, 0.045), "diagonal": (0.009, 0.026),
    "lateral": (0.006, 0.018), "orbit": (0.009, 0.026), "crane": (0.007, 0.020)}


@dataclass
class Path:
    """A camera path: eyes (T, 3) in metres, yaw, pitch and roll (T,) in radians."""
    eyes: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray

    def poses_c2w(self) -> np.ndarray:
        """World-from-camera poses (T, 4, 4), OpenCV axes (x right, y down, z forward), metres."""
        cos_y, sin_y, cos_p, sin_p = np.cos(self.yaw), np.sin(self.yaw), np.cos(self.pitch), np.sin(self.pitch)
        forward = np.stack([cos_y * cos_p, sin_y * cos_p, sin_p], -1)
        right = np.stack([sin_y, -cos_y, np.zeros_like(sin_y)], -1)
        down = np.cross(forward, right)
        cos_r, sin_r = np.cos(self.roll)[:, None], np.sin(self.roll)[:, None]
        pose = np.tile(np.eye(4), (len(self.yaw), 1, 1))
        pose[:, :3, 0] = cos_r * right + sin_r * down
        pose[:, :3, 1] = cos_r * down - sin_r * right
        pose[:, :3, 2] = forward
        pose[:, :3, 3] = self.eyes
        return pose


def wobble(rng, n: int, fps: float, amplitude: float, hz=(0.3, 1.3)) -> np.ndarray:
    """A smooth random signal (n,) with about the given amplitude: a hand that holds a camera."""
    seconds = np.arange(n) / fps
    waves = [np.sin(2 * np.pi * (rng.uniform(*hz) * seconds + rng.random())) * rng.uniform(0.4, 1) for _ in range(4)]
    return amplitude * np.sum(waves, 0) / 2


def ramp(rng, n: int, total: float) -> np.ndarray:
    """From 0 to `total` in n steps, with a little ease in, ease out or change of pace."""
    pace = np.clip(1 + 0.35 * np.sin(np.linspace(0, rng.uniform(1, 4), n) + 6.3 * rng.random()), 0.3, None)
    steps = np.concatenate([[0], np.cumsum(pace)[:-1]])
    return total * steps / steps[-1]


def sway(rng, path: Path, fps: float, degrees: float) -> Path:
    """The path as held in a hand: rotations about all three axes, mostly yaw and pitch."""
    n, amplitude = len(path.yaw), np.radians(degrees)
    return Path(path.eyes, path.yaw + wobble(rng, n, fps, amplitude), path.pitch + wobble(rng, n, fps, 0.7 * amplitude),
                path.roll + wobble(rng, n, fps, 0.5 * amplitude))


def travel(rng, n: int, fps: float, style: str, depth_m: float, height_m: float, pitch_rad: float,
           heading_rad: float = np.pi / 2, turn_deg=(10, 40), speed: float = 1.0, slide: bool = False,
           calm: float = 1.0) -> Path:
    """A moving camera that starts over the origin: `style` is one of STYLES.

    depth_m is the typical depth that the step is measured against; turn_deg bounds the change of yaw over the
    shot (either way); speed multiplies the step. The camera moves along heading_rad and looks aside; with
    `slide` it looks along heading_rad and moves aside. `calm` multiplies turns and sway: long lenses are held still.
    """
    low, high = STYLES[style]
    length = speed * depth_m * np.exp(rng.uniform(np.log(low), np.log(high))) * (n - 1)
    side = rng.choice([-1, 1])
    if style == "orbit":
        return _orbit(rng, n, fps, depth_m, height_m, pitch_rad, heading_rad, length * side, calm)
    still = style == "pure_forward"
    turn = calm * np.radians(rng.uniform(*turn_deg)) * rng.choice([-1, 1]) * (not still)
    offset_deg = {"forward": (-8, 8), "pure_forward": (0, 0), "diagonal": (20, 50), "lateral": (60, 95),
                  "crane": (40, 90)}[style]
    aside = -side * np.radians(rng.uniform(*offset_deg))
    move_yaw = heading_rad + ramp(rng, n, turn * 0.4) - (aside if slide else 0)
    along = np.gradient(ramp(rng, n, length))
    rise = ramp(rng, n, length * rng.choice([-0.4, 0.7])) if style == "crane" else np.zeros(n)
    bob = wobble(rng, n, fps, 0.0025 * depth_m, (1.2, 2.2)) * (not still)
    eyes = np.stack([np.cumsum(along * np.cos(move_yaw)), np.cumsum(along * np.sin(move_yaw)),
                     height_m + np.maximum(rise, -0.4 * height_m) + bob], -1)
    yaw = heading_rad + (0 if slide else aside) + ramp(rng, n, turn) - (turn / 2 if slide else 0)
    pitch = pitch_rad + ramp(rng, n, np.radians(rng.uniform(-8, 8)) * (not still))
    return sway(rng, Path(eyes, yaw, pitch, np.full(n, np.radians(rng.normal(0, 1.5)))), fps,
                0.2 if still else calm * rng.uniform(0.8, 2.2))


def _orbit(rng, n, fps, depth_m, height_m, pitch_rad, heading_rad, length_m, calm) -> Path:
    """Around a point depth_m ahead, looking at it; the length may be negative (the other way round)."""
    centre = depth_m * np.array([np.cos(heading_rad), np.sin(heading_rad)])
    angle = heading_rad + np.pi + ramp(rng, n, length_m / depth_m)
    radius = depth_m + ramp(rng, n, depth_m * rng.uniform(-0.12, 0.12))
    height = height_m + ramp(rng, n, depth_m * rng.uniform(-0.1, 0.1))
    eyes = np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), height], -1)
    look_z = height_m + depth_m * np.tan(pitch_rad)
    pitch = np.arctan2(look_z - height, radius)
    return sway(rng, Path(eyes, angle - np.pi + rng.uniform(-0.1, 0.1), pitch, np.zeros(n)), fps, calm * rng.uniform(0.8, 2.2))


def turn_in_place(rng, n: int, fps: float, height_m: float, pitch_rad: float, heading_rad: float = np.pi / 2,
                  calm: float = 1.0) -> Path:
    """Pure rotation: a pan of 12 to 45 degrees (times `calm`), with some tilt and roll, and no translation at all."""
    pan = calm * np.radians(rng.uniform(12, 45)) * rng.choice([-1, 1])
    eyes = np.tile([0.0, 0.0, height_m], (n, 1))
    path = Path(eyes, heading_rad - pan / 2 + ramp(rng, n, pan), pitch_rad + ramp(rng, n, np.radians(rng.uniform(-6, 6))),
                np.zeros(n))
    return sway(rng, path, fps, rng.uniform(0.2, 1.5))


def stand_still(n: int, height_m: float, pitch_rad: float, heading_rad: float = np.pi / 2) -> Path:
    """A tripod: the same pose in every frame."""
    return Path(np.tile([0.0, 0.0, height_m], (n, 1)), np.full(n, heading_rad), np.full(n, pitch_rad), np.zeros(n))
