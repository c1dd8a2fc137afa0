"""Kept shots as webdataset tar shards, and as a stream for training: `python -m ss3d_lib.shards --out FOLDER`.

A sample is SHOT.json (the row of scores.csv), SHOT.frames.npy (exact) or SHOT.jpegs.npz (small), SHOT.flow.npz (exact
only; small shards have flow computed when they are read) and, where asked for, SHOT.cameras.npz of stage 1 and SHOT.stereo.npz,
the depth evidence of stage 2. Shots lie in the shards in the order of a hash of their names,
so neighbours in a shard are of different videos; each shard is made by one job and whole or absent, and the json file beside
it says what it was made from. A shot's text and arrays alone decide a shard's bytes. Needs the extra `cluster`. Introduced
in notebook 02; `ss3d_lib.streaming` trains from them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd

from ss3d_lib import flow
from ss3d_lib.commands import finish, real, whole
from ss3d_lib.data import Shot, load_cameras, load_stereo
from ss3d_lib.files import DISK, atomic_write, read_json, safe_name, write_json
from ss3d_lib.jobs import BACKENDS, run_jobs
from ss3d_lib.progress import progress, silent

VERSION = 2  # change it when the same shots become other bytes: shards of another version are written again
JPEG_QUALITY = 95
TAR_END = bytes(1024)  # how a whole tar ends
SHARD_MB = 256
SMALLER = 8  # times that JPEG frames are smaller, about
STAGES = {"frames.npy": "curate", "flow.npz": "score", "cameras.npz": "stage1", "stereo.npz": "stage2"}  # who writes a part of a sample


@dataclass(frozen=True)
class _Folders:
    """Where the files of a sample lie, and whether its frames are packed small."""

    curate: Path
    score: Path
    cameras: Path | None
    stereo: Path | None
    small: bool

    def frames(self, row: dict) -> Path:
        return self.curate / "frames" / f"{row['shot']}.npy"

    def arrays(self, row: dict) -> dict[str, Path]:
        """The files that a sample takes as they are, by their name in it; small frames are not among them."""
        exact = {} if self.small else {"frames.npy": self.frames(row), "flow.npz": self.score / "flow" / f"{row['shot']}.npz"}
        further = {"cameras.npz": self.cameras, "stereo.npz": self.stereo}
        found = exact | {name: folder / f"{row['shot']}.npz" for name, folder in further.items() if folder is not None}
        for name, path in found.items():
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing: run `dvc repro {STAGES[name]}` first")
        return found

    def size_mb(self, row: dict) -> float:
        bytes_ = sum(path.stat().st_size for path in self.arrays(row).values())
        return (bytes_ + (self.frames(row).stat().st_size / SMALLER if self.small else 0)) / 1e6

    def times(self, row: dict) -> list[int]:
        return [path.stat().st_mtime_ns for path in [self.frames(row), *self.arrays(row).values()]]


def write_shards(
    curate: Path, score: Path, out: Path, cameras: Path | None = None, stereo: Path | None = None, shard_mb: float = SHARD_MB,
    small: bool = False, workers: int = 1, backend: str = "processes", watch=silent,
) -> list[Path]:
    """Put the shots that scores.csv kept into shards of at most about `shard_mb`; returns the paths of the shards.

    Shards that hold the same already are left as they are. Shards of an earlier division are removed once the new ones are
    there; other files in `out` are not touched.

    Args:
        curate, score: result folders of those stages. cameras: folder written by stage 1. stereo: folder written by stage 2.
        small: frames as JPEG, without flow.

    Raises:
        FileNotFoundError: an earlier stage has not run. ValueError: it kept no shot, or its table is not one; or small shards
            are to hold evidence. RuntimeError: a shard could not be written. ModuleNotFoundError: webdataset is not installed.
    """
    _webdataset()
    if small and stereo is not None:
        raise ValueError("small shards hold no evidence, which is larger than the frames: leave one of the two out")
    rows = read_scores(score / "scores.csv")
    kept = sorted(rows[rows.kept == 1].to_dict("records"), key=lambda row: _digest(row["shot"]))
    if not kept:
        raise ValueError(f"{score / 'scores.csv'}: no shot is kept, so there is nothing to write; {out} is left as it was")
    folders = _Folders(curate, score, cameras, stereo, small)
    groups = _divide(kept, [folders.size_mb(row) for row in kept], shard_mb)
    jobs = [(out / f"shots-{i:06d}.tar", group, folders) for i, group in enumerate(groups)]
    out.mkdir(parents=True, exist_ok=True)
    for _, _, error in watch(run_jobs(_write_shard, jobs, workers, backend), len(jobs)):
        if error:
            raise RuntimeError(f"a shard could not be written: {error}")
    for stale in set(out.glob("shots-*")) - {p for path, *_ in jobs for p in (path, path.with_suffix(".json"))}:
        if re.fullmatch(r"shots-\d{6}\.(tar|json)", stale.name):
            stale.unlink()
    return [path for path, *_ in jobs]


def read_scores(path: Path) -> pd.DataFrame:
    """The rows of scores.csv. Raises ValueError where it is not one, FileNotFoundError where it is not there."""
    try:
        rows = pd.read_csv(path, keep_default_na=False, dtype={"shot": str})
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table ({error}): make it again with dvc repro score") from error
    missing = {"video", "shot", "score", "stride", "kept"} - set(rows.columns)
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}: make it again with dvc repro score")
    try:
        rows.shot.map(safe_name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return rows


def _divide(rows: list[dict], sizes_mb: list[float], most_mb: float) -> list[list[dict]]:
    groups: list[list[dict]] = []
    filled_mb = np.inf
    for row, size_mb in zip(rows, sizes_mb):
        if filled_mb + size_mb > most_mb:
            groups.append([])
            filled_mb = 0.0
        groups[-1].append(row)
        filled_mb += size_mb
    return groups


def _webdataset():
    try:
        import webdataset  # reading and writing of shards is all that wants it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("webdataset is not installed: pip install -e '.[cluster]', or do without shards (window: 0)") from error
    return webdataset


def _write_shard(path: Path, rows: list[dict], folders: _Folders) -> None:
    times = [time for row in rows for time in folders.times(row)]
    parts = [sorted(folders.arrays(row)) for row in rows]
    stamp = _digest(repr([VERSION, folders.small and JPEG_QUALITY, rows, parts, times]))
    note, says = path.with_suffix(".json"), lambda: {"stamp": stamp, "shots": len(rows), "bytes": path.stat().st_size}
    with suppress(FileNotFoundError, ValueError):  # no shard, no note, or one that cannot be read
        if read_json(note) == says():
            return
    with atomic_write(path) as temporary, _webdataset().TarWriter(str(temporary), mtime=0, encoder=False) as tar:
        for row in rows:
            tar.write(_sample(row, folders))
    write_json(note, says())


def _sample(row: dict, folders: _Folders) -> dict:
    sample = {"__key__": row["shot"], "json": json.dumps(row, sort_keys=True).encode()}
    sample |= {name: path.read_bytes() for name, path in folders.arrays(row).items()}
    if not folders.small:
        return sample
    coded = jpeg_codes(np.load(folders.frames(row), mmap_mode="r", allow_pickle=False))
    packed = io.BytesIO()
    np.savez(packed, lengths=np.array([len(code) for code in coded]), bytes=np.concatenate(coded))
    return sample | {"jpegs.npz": packed.getvalue()}


def jpeg_codes(frames: np.ndarray) -> list[np.ndarray]:
    """Frames (T,H,W,3) uint8 RGB as JPEG files, each (n,) uint8; colours at full resolution."""
    full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return [cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *full])[1].ravel() for frame in frames]


def stream_shots(
    folder: Path, seed: int = 0, epoch: int = 0, buffer: int = 64, rank: int = 0, world: int = 1
) -> Iterator[Shot]:
    """Every shot of a folder of shards once, as `data.load_shots` gives them, at most `buffer` in memory.

    The order is a pure function of (seed, epoch): shards are shuffled, then shots in a buffer. Process `rank` of `world`
    reads every world-th shard.

    Raises:
        FileNotFoundError: the folder holds no shards. ValueError: one of them is damaged.
    """
    paths = order_of_shards(folder, seed, epoch)
    rng = random.Random(f"{seed} {epoch} {rank}")
    held: list[Shot] = []
    for shot in (shot for path in paths[rank::world] for shot in read_shard(path)):
        if len(held) < buffer:
            held.append(shot)
            continue
        place = rng.randrange(buffer)
        yield held[place]
        held[place] = shot
    rng.shuffle(held)
    yield from held


def order_of_shards(folder: Path, seed: int, epoch: int) -> list[Path]:
    """The shards of a folder, shuffled as (seed, epoch) say. Raises FileNotFoundError where there are none."""
    paths = sorted(Path(folder).glob("shots-*.tar"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no shots-*.tar: python -m ss3d_lib.shards --out {folder}")
    random.Random(f"{seed} {epoch}").shuffle(paths)
    return paths


def note_of(path: Path) -> tuple[int, str]:
    """How many shots a shard holds, and the stamp of what they were made from, by the json file beside it.

    Raises ValueError where that does not say it.
    """
    try:
        note = read_json(path.with_suffix(".json"))
        return int(note["shots"]), str(note["stamp"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has no {path.stem}.json that counts its shots: copy it too, or write the shards again") from error


def read_shard(path: Path) -> Iterator[Shot]:
    """The shots of one shard, in its order. Nothing is unpickled, whoever made it. Raises ValueError where it is damaged."""
    reader = _webdataset().tariterators
    with open(path, "rb") as stream:
        try:
            stream.seek(-len(TAR_END), io.SEEK_END)
            if stream.read() != TAR_END:  # tarfile says nothing of a tar that was cut between two files
                raise EOFError("its end is missing")
            stream.seek(0)
            files = (dict(item, __url__=str(path)) for item in reader.tar_file_iterator(stream))
            for sample in reader.group_by_keys(files):
                yield _shot(sample)
        except Exception as error:  # each reader in between has errors of its own
            if isinstance(error, OSError) and (error.filename or error.errno in DISK):
                raise  # of the folder for temporary files: no fault of the shard
            raise ValueError(f"{path} is damaged: remove it and run again what wrote it (python -m ss3d_lib.shards, or the stage)") from error


def _shot(sample: dict) -> Shot:
    row = json.loads(sample["json"])
    if "frames.npy" in sample:
        frames = np.load(io.BytesIO(sample["frames.npy"]), allow_pickle=False)
        stride, forward, backward = flow.read_cache(io.BytesIO(sample["flow.npz"]))
    else:
        with np.load(io.BytesIO(sample["jpegs.npz"]), allow_pickle=False) as packed:
            coded = np.split(packed["bytes"], np.cumsum(packed["lengths"])[:-1])
        frames, stride = np.stack([cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1] for code in coded]), int(row["stride"])
        forward, backward = flow.to_cache(frames, stride)
    cameras, stereo = _read(sample, "cameras.npz", load_cameras), _read(sample, "stereo.npz", load_stereo)
    return Shot(row["shot"], str(row["video"]), float(row["score"]), stride, frames, forward, backward, cameras, stereo)


def _read(sample: dict, name: str, load: Callable[[Path], Any]) -> Any:
    """What `load` reads from a file of a sample; None where the sample has none."""
    if name not in sample:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(sample[name])
        return load(path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ss3d_lib.shards", description="Tar shards of the kept shots.")
    parser.add_argument("--curate", type=Path, default=Path("results/curate"), help="frames of the shots (default: %(default)s)")
    parser.add_argument("--score", type=Path, default=Path("results/score"), help="scores and flow (default: %(default)s)")
    parser.add_argument("--cameras", type=Path, help="pack the cameras of a folder too, such as results/stage1/cameras")
    parser.add_argument("--stereo", type=Path, help="pack the depth evidence of a folder too, such as results/stage2/stereo")
    parser.add_argument("--out", type=Path, required=True, help="folder for shots-NNNNNN.tar")
    parser.add_argument("--shard-mb", type=real(0, above=True), default=SHARD_MB, help="largest size of a shard (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="JPEG frames without flow: about a tenth of the size")
    parser.add_argument("--workers", type=whole(1), default=2, help="processes (default: %(default)s)")
    parser.add_argument("--backend", choices=BACKENDS, default="processes")
    options = vars(parser.parse_args(arguments))
    try:
        paths = write_shards(**options, watch=partial(progress, label="writing shards"))
    except (OSError, ModuleNotFoundError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options['out']}: {len(paths)} shards, {sum(path.stat().st_size for path in paths) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    finish(main)
