"""Where training draws its shots from: all of them, or a window that moves over tar shards (`window` in notebooks 03 and 04).

More shots than memory holds are streamed: as many as the window is large are at hand, and after every step the oldest gives
way to the next of an endless stream. Which these are is a pure function of (seed, step), so training that was stopped goes on
with the shots it would have had. Under several processes each reads the same window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np

from ss3d_lib.curriculum import ease
from ss3d_lib.data import Shot, load_shots
from ss3d_lib.progress import progress
from ss3d_lib.shards import order_of_shards, read_shard, shots_in, write_shards


@dataclass(frozen=True)
class Pool:
    """The shots that a step may draw from, with the score and the ease of each."""

    shots: list[Shot]
    scores: np.ndarray
    eases: np.ndarray

    @classmethod
    def of(cls, shots: list[Shot]) -> Pool:
        return cls(shots, np.array([shot.score for shot in shots]), np.array([ease(shot) for shot in shots]))


class Whole:
    """All shots at every step."""

    def __init__(self, shots: list[Shot]):
        self.pool, self.count = Pool.of(shots), len(shots)

    def at(self, step: int) -> Pool:
        """The shots of a training step."""
        return self.pool


class Window:
    """The shots `step` to `step + size` of a stream that runs through a folder of shards again and again.

    Raises:
        FileNotFoundError: the folder holds no shards. ValueError: one of them is damaged, or lacks its json file.
    """

    def __init__(self, folder: Path, size: int, seed: int = 0):
        self.folder, self.seed = folder, seed
        self.counts = {path: shots_in(path) for path in order_of_shards(folder, seed, 0)}
        self.count = sum(self.counts.values())
        self.held: deque[tuple[Shot, float]] = deque(maxlen=min(size, self.count))
        self._go_to(0)

    def at(self, step: int) -> Pool:
        """The shots of a training step."""
        size = self.held.maxlen
        if not self.coming - size <= step <= self.coming:  # a training goes on where it was stopped, or back after an explosion
            self._go_to(step)
        while self.coming < step + size:
            shot = next(self.stream)
            self.held.append((shot, ease(shot)))
            self.coming += 1
        shots, eases = zip(*self.held)
        return Pool(list(shots), np.array([shot.score for shot in shots]), np.array(eases))

    def _go_to(self, number: int) -> None:
        self.held.clear()
        self.stream, self.coming = self._stream(number), number

    def _stream(self, number: int) -> Iterator[Shot]:
        """The stream from its shot `number` on; shards that lie before it are not read."""
        first, skip = divmod(number, self.count)
        for epoch in count(first):
            for path in order_of_shards(self.folder, self.seed, epoch):
                if skip < self.counts[path]:
                    yield from islice(read_shard(path), skip, None)
                skip = max(0, skip - self.counts[path])


def open_pool(
    curate: str | Path, score: str | Path, cameras: Path, stereo: Path | None, window: int, shards: Path, seed: int, workers: int
) -> Whole | Window:
    """The kept shots: all of them in memory where `window` is 0, else so many at a time, from shards packed for that.

    Args:
        curate, score, cameras, stereo: as of `data.load_shots`.
        shards: folder for the shards. seed: of their order. workers: processes that write them.

    Raises:
        ModuleNotFoundError: a window is asked for, and webdataset (extra `cluster`) is not installed. Else as `write_shards`.
    """
    if not window:
        return Whole(load_shots(curate, score, cameras, stereo))
    watch = partial(progress, label="writing shards")
    write_shards(Path(curate), Path(score), shards, cameras, stereo, workers=workers, watch=watch)
    return Window(shards, window, seed)
