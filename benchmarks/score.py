"""What scoring costs, as ratios measured in one run: `python -m benchmarks.score`, on a quiet machine (`make bench`).

1. A video scored, against the same video only decoded at the size that scoring decodes it at; seconds of video per second
   of one core; with every frame, and with one window of four seconds in twelve (`--every-s 12`). The 480p clip is made of
   the validation videos, enlarged; real clips of 400 to 540 lines are measured too where ../shared/data is present.
2. The score against pycolmap's sparse reconstruction of the same shots (the extra `baselines`): seconds, and how well each
   tells the shots with a multi-view signal from the others; pycolmap's score is the share of the frames it registers. Shots
   of the validation split, which have 20 frames; and, for seconds alone, the first shot of each real clip of 1.
3. Two Ray workers against one.

Seconds are of processor time, of one thread, but for Ray (of the clock). Writes benchmarks/score.json, from which notebook 02
computes what YouTube-8M would cost.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported: a second thread that waits spends processor time too

import cv2
import numpy as np

from benchmarks.score_oracle import corpus_shots
from ss3d_lib import score, sfm, shards, signal, video
from ss3d_lib.commands import whole
from ss3d_lib.curation import DECODE_SHORT_SIDE_PX, CurateSettings, curate_video
from ss3d_lib.files import read_json, write_json
from ss3d_lib.progress import progress

EVERY_S = 12.0
SIZE_480P = (854, 480)
CLIP_S = 36.0
REAL = Path("../shared/data/videos")
PARTS = ("speed", "storage", "pycolmap", "clips", "ray")


def cpu_s(work: Callable, repeats: int = 2) -> tuple[float, object]:
    """Processor seconds of the fastest of some calls, and what it returned."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        spent.append(time.process_time() - start)
    return min(spent), result


def clip_480p(folder: Path) -> Path:
    """A clip of 854 x 480 at 30 frames a second, of the validation videos one after the other, CLIP_S long."""
    frames, count = [], round(CLIP_S * 30)
    for path in video.find_videos("data/videos/val"):
        whole = video.read_video(path)[0]
        if whole.shape[2] > whole.shape[1]:
            frames += [cv2.resize(frame, SIZE_480P, interpolation=cv2.INTER_CUBIC) for frame in whole]
    repeats = -(-count // len(frames))
    return video.write_video(folder / "made_480p.mp4", np.stack((frames * repeats)[:count]), fps=30, crf=23)


def video_costs(path: Path) -> dict:
    """Decoding and scoring of one video: seconds, ratios, and times faster than it plays at 30 frames a second."""
    read = lambda: sum(len(frames) for frames, _ in video.read_chunks(path, DECODE_SHORT_SIDE_PX))
    decode_s, frames = cpu_s(read)
    whole_s, rows = cpu_s(lambda: score.score_video(path))
    windows_s, seen = cpu_s(lambda: score.score_video(path, settings=CurateSettings(every_s=EVERY_S)))
    plays_s = frames / 30
    return {
        "seconds_at_30_fps": plays_s,
        "bytes_per_s": path.stat().st_size / plays_s,
        "decode_x_real_time": plays_s / decode_s,
        "score_to_decode": whole_s / decode_s,
        "score_x_real_time": plays_s / whole_s,
        "windows_to_decode": windows_s / decode_s,
        "windows_x_real_time": plays_s / windows_s,
        "windows_share_seen": sum(r.end_s - r.start_s for r in seen) / max(sum(r.end_s - r.start_s for r in rows), 1e-9),
        "kept_share": sum((r.end_s - r.start_s) * r.kept for r in rows) / max(sum(r.end_s - r.start_s for r in rows), 1e-9),
    }


def real_clips() -> list[Path]:
    """The real clips of about 480p; none where ../shared/data is absent."""
    sides = {path: min(video.probe(path).height, video.probe(path).width) for path in (video.find_videos(REAL) if REAL.is_dir() else [])}
    return [path for path, side in sides.items() if 400 <= side <= 540]


def speed(folder: Path) -> dict:
    """Costs of the made 480p clip, and of real clips."""
    return {path.stem: video_costs(path) for path in [clip_480p(folder), *real_clips()]}


def storage(shots: list) -> dict:
    """Bytes of a frame in exact shards (with flow) and in small ones."""
    jpegs = [len(code) for _, frames in shots for code in shards.jpeg_codes(frames[:4])]
    height, width = video.WORKING_SIZES["landscape"]
    return {"exact_bytes_per_frame": height * width * 3 + 2 * (height // 2) * (width // 2) * 2 * 2,
            "small_bytes_per_frame": float(np.mean(jpegs))}  # fmt: skip


def against_pycolmap(shots: list, folder: Path) -> dict:
    """Seconds and separation of both on the same frames."""
    from sklearn.metrics import roc_auc_score

    ours, theirs = [], []
    for _, frames in progress(shots, label="shots by score and by pycolmap"):
        ours.append(cpu_s(partial(signal.shot_signal, frames), repeats=1))
        theirs.append(cpu_s(partial(sfm.registered_share, frames, folder / "sfm"), repeats=1))
    truth = [kind == "multi_view" for kind, _ in shots]
    return {
        "shots": len(shots),
        "score_s": float(np.mean([s for s, _ in ours])),
        "pycolmap_s": float(np.mean([s for s, _ in theirs])),
        "pycolmap_to_score": sum(s for s, _ in theirs) / sum(s for s, _ in ours),
        "score_auc": roc_auc_score(truth, [found.score for _, found in ours]),
        "pycolmap_auc": roc_auc_score(truth, [value for _, value in theirs]),
    }


def clips_against_pycolmap(folder: Path) -> dict:
    """Seconds of both on the first shot of each real clip: {clip: frames, seconds of both, their ratio}."""
    found = {}
    for path in progress(real_clips(), label="real clips by score and by pycolmap"):
        frames = next(shot.frames for shot in curate_video(path) if shot.frames is not None)
        ours, _ = cpu_s(partial(signal.shot_signal, frames))
        theirs, _ = cpu_s(partial(sfm.registered_share, frames, folder / "sfm"), repeats=1)
        found[path.stem] = {"frames": len(frames), "score_s": ours, "pycolmap_s": theirs, "pycolmap_to_score": theirs / ours}
    return found


def ray_throughput(folder: Path) -> dict:
    """Videos a second of one and of two Ray workers, their start not counted."""
    import ray

    rates = {}
    for workers in (1, 2):
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        try:
            score.score_folder(Path("data/videos/test"), folder / f"warm{workers}.csv", workers, backend="ray")
            start = time.monotonic()
            counts = score.score_folder(Path("data/videos/train"), folder / f"{workers}.csv", workers, backend="ray")
            rates[workers] = counts["new"] / (time.monotonic() - start)
        finally:
            ray.shutdown()
    same = (folder / "1.csv").read_bytes() == (folder / "2.csv").read_bytes()
    return {"videos_per_s": rates, "two_to_one": rates[2] / rates[1], "same_manifest": same}


def spread(items: list, count: int | None) -> list:
    """`count` of the items at even distances; all of them where it is None or there are no more."""
    count = min(count or len(items), len(items))
    return [items[k] for k in np.linspace(0, len(items) - 1, count).round().astype(int)]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write: after each part, so that a later one that fails costs no other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these, keep the rest of the file")
    parser.add_argument("--shots", type=whole(1), help="shots for pycolmap, spread over the split (default: all)")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    found = read_json(options.out) if options.out.is_file() else {}
    shots = [(kind, frames) for kind, frames, *_ in corpus_shots(Path("data"), "val")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "speed": lambda: speed(folder),
            "storage": lambda: storage(shots),
            "pycolmap": lambda: against_pycolmap(spread(shots, options.shots), folder),
            "clips": lambda: clips_against_pycolmap(folder),
            "ray": lambda: ray_throughput(folder),
        }
        for part in PARTS:
            if part in options.only:
                found |= {"every_s": EVERY_S, part: parts[part]()}
                write_json(options.out, found, digits=4)
    for title, row in found.get("speed", {}).items():
        print(f"{title:22s}", *(f"{name} {row[name]:.2f}" for name in row if "_to_" in name or "_x_" in name))
    for title, row in found.get("clips", {}).items():
        print(f"{title:22s} pycolmap_to_score {row['pycolmap_to_score']:.0f}")
    for title in ("storage", "pycolmap", "ray"):
        print(f"{title:22s}", found.get(title, "not measured"))


if __name__ == "__main__":
    main()
