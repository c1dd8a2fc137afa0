"""What the domains share: the request for a shot, the camera for it, and placing things out of the camera's way."""
from dataclasses import dataclass, field

import numpy as np

from corpus import cameras


@dataclass(frozen=True)
class Request:
    """What a shot asks of its world. tall_rad is the vertical field of view."""
    kind: str
    frames: int
    fps: float
    fov_deg: float
    wide_rad: float
    tall_rad: float
    movers: bool
    fast: bool


@dataclass
class Mover:
    """An object that moves by itself: at `start` in the middle of the shot, with a velocity and a swing about x."""
    thing: object
    start: np.ndarray
    velocity: np.ndarray
    yaw: float = 0.0
    swing_rad: float = 0.0
    swing_hz: float = 0.7
    spin: float = 0.0      # rad/s about z
    sweep: np.ndarray = field(default_factory=lambda: np.zeros(3))   # metres, a swing of the place

    def move(self, seconds: float) -> None:
        """Put the object where it is `seconds` after the middle of the shot."""
        wave = np.sin(2 * np.pi * self.swing_hz * seconds)
        self.thing.location = self.start + self.velocity * seconds + self.sweep * wave
        self.thing.rotation_euler = (self.swing_rad * wave, 0, self.yaw + self.spin * seconds)


@dataclass
class World:
    """A furnished scene: its camera path, its movers, and whether lamps (True) or the sun light it."""
    path: cameras.Path
    movers: list
    indoor: bool


def camera(rng, request: Request, depth_m: float, height_m, pitch_deg, styles: dict, turn_deg=(10, 40),
           slide: float = 0.5) -> cameras.Path:
    """The path for a request: a style drawn by the weights `styles`, or the camera that its kind needs.

    `slide` is the chance to move aside while looking ahead, rather than to look aside while moving ahead.
    """
    height, pitch = rng.uniform(*height_m), np.radians(rng.uniform(*pitch_deg))
    pitch -= max(0.0, request.tall_rad - np.radians(55)) * 0.22     # tall pictures look down more: less sky
    calm = float(np.clip(request.fov_deg / 70, .5, 1.2))
    if request.kind == "rotation":
        return cameras.turn_in_place(rng, request.frames, request.fps, height, pitch, calm=calm)
    if request.kind in ("static", "zoom", "dynamic_subject"):
        return cameras.stand_still(request.frames, height, pitch)
    style = str(rng.choice(list(styles), p=np.array(list(styles.values())) / sum(styles.values())))
    return cameras.travel(rng, request.frames, request.fps, style, depth_m, height, pitch, turn_deg=turn_deg,
                          speed=(2.0 if request.fast else 1.0) * calm**.5, calm=calm, slide=bool(rng.random() < slide))


def is_clear(path: cameras.Path, xy, gap_m: float) -> bool:
    """Whether a thing at xy stays gap_m away from every eye of the path (on the ground plan)."""
    return bool(np.min(np.linalg.norm(path.eyes[:, :2] - np.asarray(xy)[:2], axis=1)) > gap_m)


def in_view(rng, path: cameras.Path, near_m: float, far_m: float, spread_rad: float) -> np.ndarray:
    """A random place (2,) before the camera: distance log-uniform, direction within +-spread of a viewing direction."""
    k = rng.integers(len(path.yaw))
    angle = path.yaw[k] + rng.uniform(-1, 1) * spread_rad
    distance = np.exp(rng.uniform(np.log(near_m), np.log(far_m)))
    return path.eyes[k, :2] + distance * np.array([np.cos(angle), np.sin(angle)])


def scatter(rng, path: cameras.Path, count: int, near_m: float, far_m: float, spread_rad: float, gap_m: float) -> list:
    """Up to `count` places before the camera that are clear of its path by gap_m."""
    spots = [in_view(rng, path, near_m, far_m, spread_rad) for _ in range(count)]
    return [spot for spot in spots if is_clear(path, spot, gap_m)]


def smooth_noise(rng, xs, ys, size_m: float, octaves: int = 5) -> np.ndarray:
    """Fractal noise (len(ys), len(xs)) of about unit height: sums of waves in random directions."""
    gx, gy = np.meshgrid(xs, ys)
    total = np.zeros_like(gx, dtype=float)
    for octave in range(octaves):
        for _ in range(6):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            turn = 2 * np.pi * 2**octave / size_m * rng.uniform(.7, 1.4)
            total += 0.5**octave * np.sin(turn * (gx * np.cos(angle) + gy * np.sin(angle)) + phase) / 3.5
    return total


def walkers(rng, kit, path, count: int, near_m: float, far_m: float, spread_rad: float, ground=lambda xy: 0.0) -> list:
    """People who walk before the camera."""
    from corpus import props
    out = []
    for xy in scatter(rng, path, count, near_m, far_m, spread_rad, 1.5):
        yaw = rng.uniform(0, 2 * np.pi)
        speed = rng.uniform(.6, 1.6)
        out.append(Mover(props.person(rng, kit, rng.uniform(1.5, 1.9)), np.array([*xy, ground(xy)]),
                         speed * np.array([np.cos(yaw), np.sin(yaw), 0]), yaw, rng.uniform(.02, .08), 1.0))
    return out
