"""Where training draws its shots from: all of them, or a window that moves over tar shards (`window` in notebooks 03 and 04).

More shots than memory holds are streamed: as many as the window is large are at hand, and after every step (every micro-batch,
where a step has several) the oldest gives way to the next of an endless stream. Shards are shuffled anew in each round, the shots of
one stay together. Which shots are at hand is a pure function of (seed, step), so training that was stopped goes on with those it
would have had. Each process of several reads the stream itself.
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
from ss3d_lib.shards import note_of, order_of_shards, read_shard, write_shards

SHARD_MB = 16  # a few shots: the shots of a shard stay together, in memory too


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

    stamp = ""

    def __init__(self, shots: list[Shot]):
        self.pool, self.count = Pool.of(shots), len(shots)

    def at(self, step: int) -> Pool:
        """The shots of a training step."""
        return self.pool

    def seen(self, steps: int) -> int:
        """How many shots a training of so many steps could draw from."""
        return self.count


class Window:
    """The shots `step` to `step + size` of a stream that runs through a folder of shards again and again; all, if it holds no more.

    Raises:
        FileNotFoundError: the folder holds no shards. ValueError: a size below 1; a shard that is damaged, or lacks its json file.
    """

    def __init__(self, folder: Path, size: int, seed: int = 0):
        if size < 1:
            raise ValueError(f"window {size}: give 0, which is all shots, or how many are to be in memory at a time")
        self.folder, self.seed = folder, seed
        notes = {path: note_of(path) for path in order_of_shards(folder, seed, 0)}
        self.counts = {path: shots for path, (shots, _) in notes.items()}
        self.stamp = " ".join(sorted(stamp for _, stamp in notes.values()))
        self.count = sum(self.counts.values())
        self.held: deque[tuple[Shot, float]] = deque(maxlen=min(size, self.count))
        self._go_to(0)

    def at(self, step: int) -> Pool:
        """The shots of a training step."""
        size = self.held.maxlen
        step = step if size < self.count else 0
        if not self.coming - size <= step <= self.coming:  # a training goes on where it was stopped, or back after an explosion
            self._go_to(step)
        try:
            while self.coming < step + size:
                shot = next(self.stream)
                self.held.append((shot, ease(shot)))
                self.coming += 1
        except BaseException:  # Ctrl-C, or a shard that is damaged: a cell that is run again must not go on in the middle
            self._go_to(step)
            raise
        shots, eases = zip(*self.held)
        return Pool(list(shots), np.array([shot.score for shot in shots]), np.array(eases))

    def seen(self, steps: int) -> int:
        """How many shots a training of so many steps could draw from."""
        return min(self.count, steps + self.held.maxlen - 1)

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

    Raises: as `write_shards` and `Window`.
    """
    if not window:
        return Whole(load_shots(curate, score, cameras, stereo))
    watch = partial(progress, label="writing shards")
    write_shards(Path(curate), Path(score), shards, cameras, stereo, SHARD_MB, workers=workers, watch=watch)
    return Window(shards, window, seed)
