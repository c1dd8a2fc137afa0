"""From a folder of videos to shots of frames: cut, paced, cropped, scaled to the working size, without duplicates.

`curate_video` is the one function that handles a video; `curate_videos` runs it over all videos in spawned
processes, keeps each finished video on disk, and so goes on where it was stopped. A file that fails becomes a row
with its reason; it never stops the others. Introduced in notebook 01.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path

import numpy as np

from ss3d_lib import shots, video
from ss3d_lib.borders import picture_box
from ss3d_lib.duplicates import DuplicateIndex, frame_hashes
from ss3d_lib.files import atomic_write, disk_errors_name, printable, read_json, write_json
from ss3d_lib.jobs import run_jobs
from ss3d_lib.progress import silent

DECODE_SHORT_SIDE_PX = 288  # twice the working size: enough for any crop, and a long video still fits in memory
LOOK_AHEAD = 32  # frames at the end of a block that may still belong to a fade
VERSION = 4  # change it when the shots that come out change: finished work of another version is not reused


@dataclass(frozen=True)
class CurateSettings:
    """What curation may be told; the reasons stand in the parameters cell of notebook 01."""

    max_fps: float = 30.0
    min_frames: int = 8
    max_frames: int = 120
    duplicate_bits: int = 8
    every_s: float = 0.0  # look at one window of max_frames in so many seconds; 0 looks at every frame


DEFAULTS = CurateSettings()
Piece = tuple[list[np.ndarray], np.ndarray, np.ndarray]  # frames (H,W,3), their times (T,) s and numbers (T,) in the video


@dataclass(frozen=True)
class ShotRow:
    """One line of shots.csv: a shot, or a file that failed.

    Frame k of the shot is the video's frame start_frame + k where the video is not faster than max_fps. `crop` is
    what is left of the picture, x0:y0:x1:y1 in px of the displayed video; to_working is applied to it.
    """

    shot: str
    video: str
    shot_index: int
    start_s: float
    end_s: float
    fps: float
    frames: int
    height: int
    width: int
    crop: str
    status: str  # kept | dropped | failed
    reason: str
    start_frame: int
    end_frame: int


@dataclass(frozen=True)
class Shot:
    """A row, its frames (T,H,W,3) uint8 RGB at the working size (None unless kept), and their perceptual hashes."""

    row: ShotRow
    frames: np.ndarray | None
    hashes: np.ndarray


def curate_video(path: str | Path, settings: CurateSettings = DEFAULTS, name: str = "") -> Iterator[Shot]:
    """Yield the shots of one video, in order, one at a time: memory does not grow with the video's length.

    Args:
        name: the stem of the shot ids; the file's stem by default.

    An unreadable video yields one shot with status "failed" and the reason; so does, after its readable part, the
    missing tail of a truncated one.

    Raises OSError, MemoryError: the machine's fault, not the video's; another time it may be read.
    """
    path, name, index, reading = Path(path), name or Path(path).stem, 0, _Reading()
    try:
        info = video.probe(path)
        for frames, times_s, numbers in _pieces(info, settings, reading):
            yield _make_shot(info, name, index, frames, times_s, numbers, settings)
            index += 1
        reason = video.missing_tail(info, reading.last_s) if reading.to_end else ""
        if reason:
            yield _failed(path, name, index, reason, reading.last_s, info.duration_s)
    except video.VideoError as error:
        yield _failed(path, name, index, str(error), reading.last_s, reading.last_s)


@dataclass
class _Reading:
    """How far a video is read: the time of its last frame, and whether no frame is left to be looked for."""

    last_s: float = 0.0
    to_end: bool = False


def paced(chunks: Iterator[tuple[np.ndarray, np.ndarray]], max_fps: float) -> Iterator[tuple]:
    """Drop frames until no more than `max_fps` are left, by timestamps, so that variable rates come out even.

    The step between kept frames is a whole number of the source's frame intervals: uneven steps would look like
    jerks of the camera. A clock that jumps back, as where two recordings were joined, goes on instead.
    Yields (frames, times_s, frame numbers in the source).
    """
    interval_s, step, last_s, number, latest_s, shift_s = None, 1, -np.inf, 0, -np.inf, 0.0
    for frames, times_s in chunks:
        if interval_s is None:
            interval_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1 / max_fps
            step = max(1, int(np.ceil(1 / (interval_s * max_fps) - 0.05)))
        steps_s = np.diff(times_s, prepend=latest_s)
        shifts_s = shift_s + np.cumsum(np.where(steps_s < 0, interval_s - steps_s, 0.0))
        latest_s, shift_s, times_s = times_s[-1], shifts_s[-1], times_s + shifts_s
        keep = []
        for i, time_s in enumerate(times_s):
            if time_s - last_s >= (step - 0.5) * interval_s:
                keep.append(i)
                last_s = time_s
        kept = slice(None) if len(keep) == len(frames) else keep  # no copy where nothing is dropped
        yield frames[kept], times_s[kept], number + np.array(keep, int)
        number += len(frames)


def _pieces(info: video.VideoInfo, settings: CurateSettings, reading: _Reading) -> Iterator[Piece]:
    """Continuous pieces, of the whole video or of a window of it every so many seconds; `reading` notes how far it is read."""

    def read(span_s: tuple[float, float] | None) -> Iterator:
        reading.to_end = True  # a window that holds no frame may lie beyond the end of a truncated file
        for frames, times_s in video.read_chunks(info.path, DECODE_SHORT_SIDE_PX, span_s=span_s):
            reading.last_s, reading.to_end = max(reading.last_s, float(times_s[-1])), span_s is None
            yield frames, times_s

    length_s = settings.max_frames / min(settings.max_fps, info.fps)
    if not settings.every_s or info.duration_s <= length_s:  # a single window is the whole video: no need to seek
        yield from _continuous(read(None), settings)
        return
    for start_s in np.arange(0, info.duration_s, max(settings.every_s, length_s)):
        for frames, times_s, numbers in _continuous(read((start_s, start_s + length_s)), settings):
            yield frames, times_s, numbers + round(start_s * info.fps)


def _continuous(chunks: Iterator, settings: CurateSettings) -> Iterator[Piece]:
    """The continuous pieces of what `read_chunks` yields, windowed to max_frames, in decoding size."""
    chunks = paced(chunks, settings.max_fps)
    block = 3 * settings.max_frames + LOOK_AHEAD
    held = _Held()
    for chunk in chunks:
        held.add(*chunk)
        while len(held.small) >= block:
            ranges = shots.shot_ranges(held.small)
            safe = len(held.small) - LOOK_AHEAD
            done = [r for r in ranges if r[1] <= safe]
            start = ranges[len(done)][0] if len(done) < len(ranges) else safe  # of the shot that may go on
            if start < safe - settings.max_frames:  # it fills the block: window it
                done += [(start, start + settings.max_frames)]
            yield from (held.piece(*window) for window in _windows(done, settings.max_frames))
            held.forget(done[-1][1] if done else min(start, safe))
    if len(held.small) >= 2:
        yield from (held.piece(*window) for window in _windows(shots.shot_ranges(held.small), settings.max_frames))


class _Held:
    """Frames that are not yet given out, one by one as they lie in their chunks: joining large frames anew would cost as
    much as decoding them. `small` (T,72,128,3) are their small pictures."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.times_s, self.numbers = np.zeros(0), np.zeros(0, int)
        self.small = np.zeros((0, *shots.TINY, 3), np.uint8)

    def add(self, frames: np.ndarray, times_s: np.ndarray, numbers: np.ndarray) -> None:
        if len(frames):
            self.frames += list(frames)
            self.times_s, self.numbers = np.r_[self.times_s, times_s], np.r_[self.numbers, numbers]
            self.small = np.concatenate([self.small, shots.tiny(frames)])

    def piece(self, start: int, end: int) -> Piece:
        """The frames start..end."""
        return self.frames[start:end], self.times_s[start:end], self.numbers[start:end]

    def forget(self, count: int) -> None:
        """Drop the first `count` frames."""
        self.frames, self.small = self.frames[count:], self.small[count:]
        self.times_s, self.numbers = self.times_s[count:], self.numbers[count:]


def _windows(ranges: Sequence[tuple[int, int]], max_frames: int) -> Iterator[tuple[int, int]]:
    for start, end in ranges:
        parts = -(-(end - start) // max_frames)
        edges = np.linspace(start, end, parts + 1).astype(int)
        yield from zip(edges[:-1].tolist(), edges[1:].tolist())


def _make_shot(info, name, index, frames, times_s, numbers, settings: CurateSettings) -> Shot:
    interval_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1 / info.fps
    height, width = frames[0].shape[:2]
    x0, y0, x1, y1 = picture_box(frames)
    working, _, _ = video.to_working([frame[y0:y1, x0:x1] for frame in frames])
    scale = info.height / height
    crop = ":".join(str(round(v * scale)) for v in (x0, y0, x1, y1))
    kept = len(frames) >= settings.min_frames
    row = ShotRow(
        shot=f"{name}_s{index:02d}",
        video=Path(info.path).as_posix(),
        shot_index=index,
        start_s=round(float(times_s[0]), 4),
        end_s=round(float(times_s[-1] + interval_s), 4),
        fps=round(1 / interval_s, 3),
        frames=len(frames),
        height=working.shape[1],
        width=working.shape[2],
        crop=crop,
        status="kept" if kept else "dropped",
        reason="" if kept else f"too_short: {len(frames)} frames, at least {settings.min_frames} are needed",
        start_frame=int(numbers[0]),
        end_frame=int(numbers[-1]) + 1,
    )
    every = max(1, round(1 / interval_s / 12), len(working) // 48)  # about 12 a second, at most 48 a shot
    return Shot(row, working if kept else None, frame_hashes(working, every))


def _failed(path: Path, name: str, index: int, reason: str, start_s: float, end_s: float) -> Shot:
    text = printable(" ".join(reason.split()))
    row = ShotRow(
        f"{name}_s{index:02d}", printable(path.as_posix()), index, round(start_s, 4), round(end_s, 4), 0.0, 0, 0, 0, "", "failed", text, 0, 0
    )  # fmt: skip
    return Shot(row, None, np.zeros(0, np.uint64))


def shot_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A short unique name per video: its stem in plain characters, with a hash of the path where two are alike."""
    plain = {p: "".join(c if c.isascii() and c.isalnum() or c in "-_" else "_" for c in p.stem)[:80] or "_" for p in paths}
    plain = {p: n if n[0] != "-" else f"_{n[1:]}" for p, n in plain.items()}
    counts: dict[str, int] = {}
    for stem in plain.values():
        counts[stem.lower()] = counts.get(stem.lower(), 0) + 1
    digest = lambda p: hashlib.sha256(os.fsencode(p.as_posix())).hexdigest()[:8]  # noqa: E731
    return {p: n if counts[n.lower()] == 1 else f"{n}-{digest(p)}" for p, n in plain.items()}


def curate_to(path: Path, name: str, folder: Path, settings: CurateSettings) -> Path:
    """Curate one video into `folder`/NAME/: SHOT.npy of each kept shot and video.json, written last.

    A folder whose video.json was made from the same file with the same settings is left as it is.
    """
    home, stamp = Path(folder) / name, source_stamp(path, settings)
    done = home / "video.json"
    if done.is_file() and read_json(done).get("stamp") == stamp:
        return home
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    records = []
    for shot in curate_video(path, settings, name):
        if shot.frames is not None:
            with disk_errors_name(home):
                np.save(home / f"{shot.row.shot}.npy", shot.frames, allow_pickle=False)
        records.append({"row": asdict(shot.row), "hashes": [f"{h:016x}" for h in shot.hashes.tolist()]})
    write_json(done, {"stamp": stamp, "shots": records}, digits=12)
    return home


def source_stamp(path: Path, settings: CurateSettings) -> str:
    """Changes when the file, the settings or the way in which shots are made do: 16 hex digits."""
    stat = path.stat() if path.exists() else None
    facts = [VERSION, path.as_posix(), stat and stat.st_size, stat and stat.st_mtime_ns, asdict(settings)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def curate_videos(
    paths: Sequence[Path], out: Path, work: Path, settings: CurateSettings = DEFAULTS, workers: int = 2, watch=silent,
    backend: str = "processes",
) -> list[ShotRow]:
    """Curate the videos `paths` into `out`: shots.csv and frames/SHOT.npy. Returns the rows, sorted.

    Args:
        work: where finished videos wait; after an interruption the next call goes on from there.
        watch: called with the finished videos and their number; gives them back, e.g. `progress`.
        backend: "processes", or "ray" for a cluster (`work` must then lie on a disk that all nodes share).
    """
    names = shot_names(paths)
    jobs = [(path, name, Path(work), settings) for path, name in names.items()]
    for (path, name, *_), _, error in watch(run_jobs(curate_to, jobs, workers, backend), len(jobs)):
        if error:
            record = {"row": asdict(_failed(path, name, 0, error, 0.0, 0.0).row), "hashes": []}
            (Path(work) / name).mkdir(parents=True, exist_ok=True)
            write_json(Path(work) / name / "video.json", {"stamp": "", "shots": [record]})
    return assemble(list(names.values()), Path(work), Path(out), settings)


def assemble(names: Sequence[str], work: Path, out: Path, settings: CurateSettings) -> list[ShotRow]:
    """Put the finished videos together: drop near-duplicates across videos, link the frames, write shots.csv."""
    frames = out / "frames"
    shutil.rmtree(frames, ignore_errors=True)
    frames.mkdir(parents=True)
    rows, index = [], DuplicateIndex(settings.duplicate_bits)
    for name in sorted(names):
        for record in read_json(work / name / "video.json")["shots"]:
            row = ShotRow(**record["row"])
            if row.status == "kept":
                twin = index.find_or_add(row.shot, name, np.array([int(h, 16) for h in record["hashes"]], np.uint64))
                if twin:
                    row = ShotRow(**{**asdict(row), "status": "dropped", "reason": f"duplicate of {twin}"})
                else:
                    _link(work / name / f"{row.shot}.npy", frames / f"{row.shot}.npy")
            rows.append(row)
    write_rows(out / "shots.csv", rows)
    return rows


def write_rows(path: Path, rows: Iterable) -> None:
    """Dataclass rows of one kind as CSV, whole or not at all; they are written as they come. At least one is needed."""
    rows = iter(rows)
    first = next(rows)
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(first)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in chain([first], rows))


def read_rows(path: Path) -> list[ShotRow]:
    """The rows of shots.csv, with their types."""
    kinds = {"int": int, "float": float, "str": str}
    with open(path, newline="", encoding="utf-8") as file:
        return [ShotRow(**{f.name: kinds[f.type](line[f.name]) for f in fields(ShotRow)}) for line in csv.DictReader(file)]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # no second copy of the frames on the disk
    except OSError:
        shutil.copyfile(source, target)
