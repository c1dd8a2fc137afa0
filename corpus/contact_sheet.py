"""A contact sheet of the corpus: one frame of every shot, grouped by domain. python -m corpus.contact_sheet"""
import argparse
from pathlib import Path

import av
import cv2
import numpy as np


def middle_frames(video: Path, truth: Path) -> tuple:
    """The domain of a video and the middle frame (h, w, 3) uint8 of each of its shots, with the shot's kind."""
    with np.load(truth, allow_pickle=False) as file:
        domain, kinds = str(file["domain"]), [str(k) for k in file["shot_kind"]]
        wanted = (file["shot_start"] + file["shot_end"]) // 2
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return domain, [(frames[k], kind) for k, kind in zip(wanted, kinds)]


def tile(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """A frame within a cell of width x height: its shape is kept, the rest is dark grey."""
    scale = min(width / frame.shape[1], height / frame.shape[0])
    small = cv2.resize(frame, (round(frame.shape[1] * scale), round(frame.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    cell = np.full((height, width, 3), 24, np.uint8)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    cell[top:top + small.shape[0], left:left + small.shape[1]] = small
    return cell


def contact_sheet(data: Path, splits=("train", "val", "test"), columns: int = 14, cell=(112, 64), limit: int = 28) -> np.ndarray:
    """The sheet (h, w, 3) uint8: per domain a heading and at most `limit` shots, spread evenly over its shots."""
    domains = {}
    for video in sorted(path for split in splits for path in (data / "videos" / split).glob("*.mp4")):
        domain, shots = middle_frames(video, data / "truth" / video.parent.name / f"{video.stem}.npz")
        domains.setdefault(domain, []).extend(frame for frame, _ in shots)
    if not domains:
        raise FileNotFoundError(f"no videos under {data / 'videos'}: fetch them (dvc pull) or render them (python -m corpus)")
    rows = []
    for domain, frames in sorted(domains.items()):
        picks = np.unique(np.linspace(0, len(frames) - 1, min(limit, len(frames))).round().astype(int))
        cells = [tile(frames[k], *cell) for k in picks]
        cells += [np.full((cell[1], cell[0], 3), 24, np.uint8)] * (-len(cells) % columns)
        heading = np.full((18, columns * cell[0], 3), 24, np.uint8)
        cv2.putText(heading, f"{domain} ({len(frames)} shots)", (4, 13), cv2.FONT_HERSHEY_SIMPLEX, .45, (235, 235, 235), 1, cv2.LINE_AA)
        rows += [heading] + [np.hstack(cells[k:k + columns]) for k in range(0, len(cells), columns)]
    return np.vstack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m corpus.contact_sheet", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("docs/contact_sheet.jpg"), help="a .jpg or a .png")
    parser.add_argument("--splits", nargs="+", default=["train", "val", "test"])
    parser.add_argument("--limit", type=int, default=28, help="shots per domain")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(args.data, args.splits, limit=args.limit)
    if not cv2.imwrite(str(args.out), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82]):
        raise OSError(f"cannot write {args.out}: use a name that ends in .jpg or .png")
    print(f"{args.out}: {sheet.shape[1]}x{sheet.shape[0]}, {args.out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
