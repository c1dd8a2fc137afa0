"""What every video of the corpus is: domain, format, shots, faults. All of it follows from the video's name.

A name is SPLIT_INDEX ("train_007"). Its seed is a hash of that name, so that a world is never shared between
videos, let alone between splits, and any video can be made again alone. More training videos are simply
further indices. Proportions are kept by golden-ratio sequences over the index, not by luck.
"""
import hashlib
from dataclasses import dataclass

import numpy as np

DOMAINS = ("street", "indoor", "tabletop", "terrain", "forest", "warehouse")
TEST_ONLY_DOMAIN = "harbour"
COUNTS = {"train": 96, "val": 18, "test": 28}
KINDS = ("multi_view", "static", "rotation", "zoom", "slideshow", "planar", "dynamic_subject")
# cumulative shares of the kinds: a quarter of the shots has no multi-view signal
KIND_EDGES = np.cumsum([0.75, 0.06, 0.05, 0.04, 0.04, 0.03, 0.03])
SIZES = {"landscape": (256, 144), "portrait": (144, 256), "classic": (192, 144)}


@dataclass(frozen=True)
class ShotPlan:
    """One shot: kind, frames, field of view of the longer picture side, and the faults of its picture."""
    seed: int
    kind: str
    frames: int
    fov_deg: float
    movers: bool
    fast: bool
    blur: bool
    fog: bool


@dataclass(frozen=True)
class VideoPlan:
    """One video. content_px is the picture without its black bars; size_px the stored size (width, height)."""
    name: str
    split: str
    index: int
    seed: int
    domain: str
    size_px: tuple
    content_px: tuple
    fps: float
    crf: int
    transitions: tuple   # between neighbours: "cut" | "cross" | "black"
    logo: bool
    caption: bool
    shots: tuple


def seed_of(text: str) -> int:
    """A 64-bit seed from a text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"ss3d-corpus/{text}".encode()).digest()[:8], "little")


def video_name(split: str, index: int) -> str:
    """SPLIT_INDEX, the index of three digits or more."""
    return f"{split}_{index:03d}"


def _golden(index: int, salt: str) -> float:
    """The index-th term of an evenly spread sequence in [0, 1) that belongs to `salt`."""
    return (index * 0.6180339887498949 + seed_of(salt) / 2**64) % 1


def plan_video(name: str) -> VideoPlan:
    """The plan of the video called `name`; raises ValueError when the name is no SPLIT_INDEX of the corpus."""
    split, _, digits = name.partition("_")
    if split not in COUNTS or not digits.isdecimal() or name != video_name(split, int(digits)):
        raise ValueError(f"no such video: {name!r}; names look like train_007, val_003 or test_012")
    index, rng = int(digits), np.random.default_rng(seed_of(name))
    if split != "train" and index >= COUNTS[split]:
        raise ValueError(f"{name}: the {split} split ends at {video_name(split, COUNTS[split] - 1)}; only train may grow")
    domains = DOMAINS + (TEST_ONLY_DOMAIN,) if split == "test" else DOMAINS
    size, content = _format(index, split)
    count = int(np.searchsorted([0.34, 0.76, 0.92, 1.0], _golden(index, "count" + split), side="right")) + 1
    shots = tuple(_plan_shot(name, split, index, k, rng) for k in range(count))
    transitions = tuple(str(rng.choice(["cut", "cross", "black"], p=[0.7, 0.18, 0.12])) for _ in range(count - 1))
    return VideoPlan(name, split, index, seed_of(name), domains[index % len(domains)], size, content,
                     float(rng.choice([12, 15, 20, 24, 24, 25, 25, 30, 30])), int(rng.integers(20, 27)), transitions,
                     bool(rng.random() < 0.16), bool(rng.random() < 0.14), shots)


def _format(index: int, split: str) -> tuple:
    """Stored size and picture size: 60 % landscape, 18 % portrait, 22 % 4:3; some with black bars."""
    kind = ("landscape", "portrait", "classic")[np.searchsorted([0.60, 0.78], _golden(index, "format" + split), "right")]
    width, height = SIZES[kind]
    bars = _golden(index // 2 + 7 * (index % 2), "bars" + split)
    if bars < 0.12:
        return SIZES[kind], {"landscape": (256, 108), "portrait": (144, 192), "classic": (192, 108)}[kind]
    if bars < 0.18 and kind == "landscape":
        return SIZES[kind], (192, 144)
    return (width, height), (width, height)


def _plan_shot(name, split, index, k, rng) -> ShotPlan:
    """The k-th shot of a video; the kind comes from an evenly spread sequence over all shots of the split."""
    kind = KINDS[int(np.searchsorted(KIND_EDGES[:-1], _golden(4 * index + k, "kind" + split), side="right"))]
    fov = np.exp(rng.uniform(np.log(35), np.log(100)))
    return ShotPlan(seed_of(f"{name}/{k}"), kind, int(rng.integers(20, 29)), float(fov), bool(rng.random() < 0.4),
                    bool(rng.random() < 0.06), bool(rng.random() < 0.15), bool(rng.random() < 0.06))


def rendering_order() -> list:
    """All names, interleaved so that the first finished videos cover every split and domain."""
    left = {split: [video_name(split, i) for i in range(n)] for split, n in COUNTS.items()}
    total, order = dict(COUNTS), []
    while any(left.values()):
        split = max((s for s in left if left[s]), key=lambda s: len(left[s]) / total[s])
        order.append(left[split].pop(0))
    return order
