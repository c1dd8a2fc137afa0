"""What a checkpoint makes of a folder of videos: a table of all shots, and pictures of those with a signal.

    python -m ss3d_lib.gallery VIDEO_OR_FOLDER --out FOLDER

Writes shots.csv (why each shot was kept or not, focal length, trust), gallery.png (a row per video: its best kept shot:
picture, inverse depth, path from above, belief about the focal length), and per video what
`python -m ss3d_lib.predict` writes. A video that cannot be read is a row of the table; the others go on. After Ctrl-C the
same command goes on with the next video, and a second time it predicts only what is new or changed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ss3d_lib.checkpoints import load_model
from ss3d_lib.commands import finish
from ss3d_lib.curation import shot_names, source_stamp
from ss3d_lib.drawings import show_focal, show_path
from ss3d_lib.files import DISK, atomic_write, printable
from ss3d_lib.journal import Journal
from ss3d_lib.models import ClipNet
from ss3d_lib.plots import save_figure, show_image, show_inverse_depth, use_style
from ss3d_lib.predict import DEFAULT_CHECKPOINT, WHOLE, VideoPrediction, predict_video, read_prediction
from ss3d_lib.progress import progress
from ss3d_lib.training import fingerprint
from ss3d_lib.video import VideoError, find_videos

VERSION = 6  # change it when predictions change: videos predicted by another version are predicted again
COLUMNS = ("video", "results", "shot", "start_s", "end_s", "kept", "score", "reason", "focal_share", "focal_low", "focal_high", "trust")


def table_rows(video: str, results: str, summary: dict[str, dict]) -> list[dict]:
    """One row per shot of what `predict_video` returned; focal lengths in shares of the longer side.

    Args:
        video: its name in the folder. results: the folder, below that of the table, where its predictions lie.
    """
    rows = []
    for shot, said in summary.items():
        row = {"video": video, "results": results, "shot": shot, "kept": 0, "reason": said["reason"] or said["status"]}
        if said["status"] == "predicted":
            longer = max(said["height"], said["width"])
            low, high = (float(bound) / longer for bound in said["focal_interval_px"])
            row |= {name: float(said[name]) for name in ("start_s", "end_s", "score", "trust")}
            row |= {"kept": int(not said["reason"]), "reason": said["reason"]}
            row |= {"focal_share": float(said["focal_px"]) / longer, "focal_low": low, "focal_high": high}
        rows.append(row)
    return rows


def predict_folder(model: ClipNet, path: Path, out: Path) -> pd.DataFrame:
    """Predict all videos, each into a folder of its own; returns the table that shots.csv holds. Raises OSError: a full disk."""
    rows, results, weights = [], shot_names(find_videos(path)), fingerprint(model, ())
    out.mkdir(parents=True, exist_ok=True)
    with Journal(out / "shots.csv.journal") as journal:
        for video, name in progress(results.items(), len(results), "videos"):
            shown = printable(video.relative_to(path) if path.is_dir() else video.name)
            stamp = f"{VERSION}-{source_stamp(video, WHOLE)}-{weights}"
            if not (journal.holds(name, stamp) and predictions_exist(journal.get(name), out)):
                try:
                    journal.add(name, stamp, table_rows(shown, name, predict_video(model, video, out / name)))
                except Exception as error:  # one bad video must not stop the rest: the reason goes into its row
                    if getattr(error, "errno", None) in DISK:
                        raise
                    reason = printable(error) or type(error).__name__
                    lost = {"video": shown, "results": name, "shot": "", "kept": 0, "reason": reason}
                    journal.add(name, "", [lost])  # tried again next time
            rows += journal.get(name)
    table = pd.DataFrame(rows, columns=COLUMNS)
    with atomic_write(out / "shots.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.3f")
    return table


def predictions_exist(rows: list[dict], out: Path) -> bool:
    """Whether what was written of the shots of a video is still there."""
    return all((out / row["results"] / f"{row['shot']}.npz").is_file() for row in rows if "score" in row)


def read_or_remove(path: Path) -> tuple[np.ndarray, VideoPrediction]:
    """What `read_prediction` gives. Raises ValueError where it is damaged: it is removed, so that the next run makes it anew."""
    try:
        return read_prediction(path)
    except ValueError as error:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path} was damaged and is removed: the same command predicts its video anew") from error


def kept_figure(table: pd.DataFrame, out: Path, most: int = 12) -> Figure:
    """Picture, inverse depth, path and focal length of the best kept shot of each video."""
    kept = table[table.kept == 1].sort_values("score", ascending=False).drop_duplicates("video").head(most)
    figure, axes = plt.subplots(max(1, len(kept)), 4, figsize=(11, 2.1 * max(1, len(kept))), squeeze=False)
    for line, row in zip(axes, kept.itertuples()):
        frames, found = read_or_remove(out / row.results / f"{row.shot}.npz")
        middle = len(frames) // 2
        show_image(line[0], frames[middle], f"{row.shot}, score {row.score:.2f}")
        show_inverse_depth(line[1], found.depth_m[middle], f"inverse depth, trust {row.trust:.2f}")
        show_path(line[2], found.world_from_cam, "path from above")
        show_focal(line[3], found.focal_candidates_px, found.focal_probability, found.focal_px, found.focal_interval_px)
        line[3].set_title(f"focal length {row.focal_share:.2f} of the longer side")
    figure.tight_layout()
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ss3d_lib.gallery", description="A table of all shots of your videos, and pictures of the good ones."
    )
    parser.add_argument("videos", type=Path, help="a video file, or a folder of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for shots.csv, gallery.png and predictions")
    parser.add_argument("--checkpoint", type=Path, default=Path(DEFAULT_CHECKPOINT), help="default: %(default)s")
    options = parser.parse_args(arguments)
    use_style()
    try:
        table = predict_folder(load_model(options.checkpoint), options.videos, options.out)
        save_figure(kept_figure(table, options.out), options.out / "gallery.png")
    except (VideoError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table.drop(columns="results").to_string(index=False, float_format="%.2f", na_rep="-"))
    failed = table.groupby("video").score.apply(lambda scores: scores.isna().all())
    if failed.any():
        print(f"{failed.sum()} of {len(failed)} videos gave no shot: {', '.join(failed.index[failed])}", file=sys.stderr)
    return int(failed.all())


if __name__ == "__main__":
    finish(main)
