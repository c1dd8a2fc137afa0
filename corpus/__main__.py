"""Render the corpus: python -m corpus --out data. Resumable; a video that is there already is skipped."""
import argparse
import csv
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from corpus.plan import COUNTS, plan_video, rendering_order, video_name

INTERRUPTED = 130    # the exit status of a program stopped by Ctrl-C
NO_BPY = "bpy, Blender as a module, is missing: pip install --group render, in an environment of its own (Python 3.11 or 3.13)"


def arguments(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m corpus", description=__doc__, epilog="Any video re-renders from its "
                                     "name: --only train_007. More training videos: --seed-offset 96 --count 500.")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder that receives videos/, truth/, manifest.csv")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="make just these videos, also where they exist already")
    parser.add_argument("--split", choices=list(COUNTS), help="make just one split")
    parser.add_argument("--seed-offset", type=int, metavar="N", help="index of the first of --count training videos")
    parser.add_argument("--count", type=int, metavar="N", help="number of training videos from --seed-offset on")
    parser.add_argument("--jobs", type=int, default=2, help="videos rendered at a time, one thread each (default 2)")
    args = parser.parse_args(argv)
    if args.count is not None and args.split in ("val", "test"):
        parser.error("--count makes training videos only: the val and test worlds are fixed")
    if args.count is not None and args.count < 1:
        parser.error(f"--count must be at least 1, not {args.count}")
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {args.jobs}")
    return args


def wanted(args) -> list:
    """The names to make, in order."""
    if args.only:
        return args.only
    if args.count is not None or args.seed_offset is not None:
        first = COUNTS["train"] if args.seed_offset is None else args.seed_offset
        return [video_name("train", k) for k in range(first, first + (1 if args.count is None else args.count))]
    return [name for name in rendering_order() if args.split in (None, name.split("_")[0])]


def write_manifest(out: Path) -> int:
    """Write manifest.csv over all videos of `out`, atomically; returns how many there are."""
    import av
    rows = []
    for path in sorted(out.glob("videos/*/*.mp4")):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rows.append([path.relative_to(out).as_posix(), path.parent.name, stream.width, stream.height,
                         float(stream.average_rate), stream.frames, hashlib.sha256(path.read_bytes()).hexdigest()])
    part = out / "manifest.csv.part"
    with open(part, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "split", "width", "height", "fps", "frames", "sha256"])
        writer.writerows(rows)
    os.replace(part, out / "manifest.csv")
    return len(rows)


def make(name: str, out: Path) -> None:
    """Build one video in a process of its own: the renderer's memory goes back, and a crash costs one video."""
    code = f"from pathlib import Path; from corpus.build import build_video; build_video({name!r}, Path({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{name} failed; make it alone with --only {name}:\n{done.stderr[-2000:]}")


def main(argv=None) -> int:
    """Make what is asked for; the exit status is 1 when a video failed, 2 when the request is wrong or the renderer missing."""
    args = arguments(argv)
    names = wanted(args)
    try:
        for name in names:
            plan_video(name)                # a wrong name is an error before hours of work
    except ValueError as error:
        print(f"python -m corpus: {error}", file=sys.stderr)
        return 2
    todo = [n for n in names if args.only or not (args.out / "videos" / n.split("_")[0] / f"{n}.mp4").exists()]
    if todo and importlib.util.find_spec("bpy") is None:
        print(f"python -m corpus: {NO_BPY}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(names) - len(todo)} videos are there, {len(todo)} to make", flush=True)
    began, failed = time.monotonic(), []
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {pool.submit(make, name, args.out): name for name in todo}
        try:
            for k, job in enumerate(as_completed(jobs), 1):
                error = job.exception()
                if error:
                    failed.append(jobs[job])
                    print(error, file=sys.stderr, flush=True)
                left = (time.monotonic() - began) / k * (len(todo) - k)
                print(f"{k}/{len(todo)} {jobs[job]}, about {left / 60:.0f} min left", flush=True)
                write_manifest(args.out)
        finally:                            # after Ctrl-C, what has not begun must not begin
            pool.shutdown(wait=False, cancel_futures=True)
    print(f"{write_manifest(args.out)} videos in {args.out / 'manifest.csv'}" + (f"; FAILED: {' '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted: what was finished is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
