"""Score shots: the stage's workers, and `python -m ss3d_lib.score FOLDER_OR_VIDEO --out scores.csv` from the shell.

Both call the same `signal.shot_signal`. Introduced in notebook 02.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ss3d_lib import flow, signal, video
from ss3d_lib.commands import finish, real, whole
from ss3d_lib.curation import DEFAULTS, CurateSettings, ShotRow, curate_video, shot_names, source_stamp, write_rows
from ss3d_lib.duplicates import DuplicateIndex
from ss3d_lib.files import atomic_write, printable, read_json, require_place, write_json
from ss3d_lib.jobs import BACKENDS, run_jobs
from ss3d_lib.journal import Journal
from ss3d_lib.progress import progress, silent

VERSION = 3  # change it when scores change: videos scored by another version are scored again

@dataclass(frozen=True)
class ScoreRow:
    """One line of scores.csv: where the shot is, its score and stride, why it was rejected, and the terms."""

    video: str
    shot: str
    start_s: float
    end_s: float
    score: float
    stride: int
    reason: str
    kept: int
    visible: float = 0.0
    matched: float = 0.0
    parallax: float = 0.0
    spread: float = 0.0
    epipolar: float = 0.0
    rigid: float = 0.0
    still: float = 0.0
    moving: float = 0.0
    subject: float = 0.0
    parallax_px: float = 0.0
    flow_px: float = 0.0
    luma: float = 0.0


def score_row(row: ShotRow, frames: np.ndarray | None, min_score: float = signal.KEPT) -> ScoreRow:
    """The score of one shot; a shot that curation dropped, or a file that failed, scores 0 for curation's reason."""
    place = {"video": row.video, "shot": row.shot, "start_s": row.start_s, "end_s": row.end_s}
    if frames is None:
        return ScoreRow(**place, score=0.0, stride=1, reason=row.reason, kept=0)
    found = signal.shot_signal(frames, min_score)
    return ScoreRow(**place, kept=int(not found.reason), **asdict(found))


def score_video(path: Path, name: str = "", settings: CurateSettings = DEFAULTS) -> list[ScoreRow]:
    """The rows of one video, straight from the file."""
    return [row for row, _ in score_and_hash(path, name, settings)]


def score_and_hash(path: Path, name: str, settings: CurateSettings) -> list[tuple[ScoreRow, np.ndarray]]:
    """The rows of one video, each with the perceptual hashes of its shot: what duplicates are told by."""
    return [(score_row(shot.row, shot.frames), shot.hashes) for shot in curate_video(path, settings, name)]


def score_folder(
    folder: Path, out: Path, workers: int = 2, watch=silent, backend: str = "processes", settings: CurateSettings = DEFAULTS
) -> Counter:
    """Score every video under a folder (or one video) into the CSV `out`: a row per shot, in order of path and time.

    Finished videos are kept in `out`.journal: a run that was stopped goes on, and one of which nothing has changed does
    nothing. The text of `out` depends on the videos alone, not on who scored them, in which order, and who died.

    Args:
        watch: called with the finished videos and their number; gives them back, e.g. `progress`.
        backend: see `jobs.run_jobs`.

    Returns counts: videos, new (scored by this call), unreadable, shots, kept, duplicates.

    Raises:
        VideoError: no video, or `out` is one of them. OSError: `out` cannot be written.
    """
    out = Path(out)
    names = shot_names(video.find_videos(folder))
    if out.resolve() in {path.resolve() for path in names}:
        raise video.VideoError(f"{out} is one of the videos: name another file for the scores")
    require_place(out)
    with Journal(out.with_name(f"{out.name}.journal")) as journal:
        stamps = {name: f"{VERSION}-{source_stamp(path, settings)}" for path, name in names.items()}
        jobs = [(path, name, settings) for path, name in names.items() if not journal.holds(name, stamps[name])]
        for (path, name, _), found, error in watch(run_jobs(score_and_hash, jobs, workers, backend), len(jobs)):
            lost = ScoreRow(printable(path.as_posix()), f"{name}_s00", 0.0, 0.0, 0.0, 1, printable(error), 0)
            shots = [(lost, np.zeros(0, np.uint64))] if error else found
            stamp = "" if error else stamps[name]  # what failed by surprise (out of memory, a dead node) is tried again next time
            journal.add(name, stamp, [[asdict(row), hashes.tolist()] for row, hashes in shots])
        counts = Counter(videos=len(names), new=len(jobs))
        write_rows(out, _without_twins(journal, names.values(), settings.duplicate_bits, counts))
    return counts


def _without_twins(journal: Journal, names: Iterable[str], max_bits: int, counts: Counter) -> Iterator[ScoreRow]:
    """The rows of the journal in the order of names; a shot that an earlier video shows too is not kept."""
    index = DuplicateIndex(max_bits)
    for name in names:
        for values, hashes in journal.get(name):
            row = ScoreRow(**values)
            twin = row.kept and index.find_or_add(row.shot, name, np.array(hashes, np.uint64))
            if twin:
                row = replace(row, kept=0, reason=f"duplicate of {twin}")
            lost = row.end_s == row.start_s  # what is told of a file that cannot be read
            counts.update(unreadable=lost, shots=not lost, kept=row.kept, duplicates=bool(twin))
            yield row


def score_shots(
    rows: Sequence[ShotRow], frames_folder: Path, out: Path, work: Path, min_score: float, workers: int = 2, watch=silent
) -> list[ScoreRow]:
    """The stage: score the kept shots of curation; write scores.csv and flow/SHOT.npz of the shots with a signal.

    Args:
        frames_folder: holds SHOT.npy. work: where finished shots wait, so that an interrupted run goes on.
    """
    (out / "flow").mkdir(parents=True, exist_ok=True)
    kept = [row for row in rows if row.status == "kept"]
    jobs = [(row, frames_folder / f"{row.shot}.npy", out / "flow", work, min_score) for row in kept]
    scored: list[ScoreRow] = []
    for (row, *_), result, error in watch(run_jobs(_score_to, jobs, workers), len(jobs)):
        if error:  # frames that curation wrote can be read: this is a fault of ours, not of a video
            raise RuntimeError(f"{row.shot}: scoring failed: {error}")
        scored.append(result)
    scored.sort(key=lambda row: row.shot)
    write_rows(out / "scores.csv", scored)
    return scored


def _score_to(row: ShotRow, frames_path: Path, flow_folder: Path, work: Path, min_score: float) -> ScoreRow:
    done, cache = work / f"{row.shot}.json", flow_folder / f"{row.shot}.npz"
    if done.is_file():
        earlier = read_json(done)
        if earlier["row"] == asdict(row) and earlier["min_score"] == min_score:
            found = ScoreRow(**earlier["score"])
            if cache.is_file() or not found.kept:
                return found
    frames = np.load(frames_path, mmap_mode="r", allow_pickle=False)
    found = score_row(row, np.asarray(frames), min_score)
    if found.kept:
        frames = np.asarray(frames)
        with atomic_write(cache) as temporary, open(temporary, "wb") as file:
            flow.write_cache(file, found.stride, *flow.to_cache(frames, found.stride))
    write_json(done, {"row": asdict(row), "min_score": min_score, "score": asdict(found)}, digits=12)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ss3d_lib.score", description="Multi-view signal score of videos.")
    parser.add_argument("videos", type=Path, help="a video, or a folder that holds videos at any depth")
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write: a row per shot")
    parser.add_argument("--workers", type=whole(1), default=2, help="processes, or cores for Ray (default: 2)")
    parser.add_argument("--every-s", type=real(0), default=0.0, help="score one window of 4 s in so many s (default: all)")
    parser.add_argument("--backend", choices=BACKENDS, default="processes", help="ray: a cluster, named by RAY_ADDRESS")
    options = parser.parse_args(arguments)
    try:
        settings = CurateSettings(every_s=options.every_s)
        counts = score_folder(options.videos, options.out, options.workers, partial(progress, label="scoring videos"), options.backend, settings)
    except (video.VideoError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("{shots} shots of {videos} videos, {kept} with a multi-view signal, {duplicates} duplicates".format_map(counts))
    print(f"{options.out}: {counts['new']} videos scored now, the others before")
    if counts["unreadable"]:
        print(f"{counts['unreadable']} videos could not be read: see the column `reason`", file=sys.stderr)
    return int(not counts["shots"])


if __name__ == "__main__":
    finish(main)
