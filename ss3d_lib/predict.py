"""Depth, trajectory and focal length of any run of frames, of any size, from one checkpoint.

    python -m ss3d_lib.predict VIDEO --out FOLDER

A shot is one forward pass. Longer ones are read in overlapping windows: the residual curves of all windows are pooled
into one belief about the focal length, and what each finds under it into one focal length, under which all are read;
each window is brought to the scale and place of the one before by the frames they share.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from ss3d_lib.borders import content_box
from ss3d_lib.checkpoints import load_model
from ss3d_lib.commands import finish
from ss3d_lib.curation import CurateSettings, Shot, curate_video
from ss3d_lib.files import atomic_write, read_json, write_json
from ss3d_lib.models import ClipNet, ClipPrediction
from ss3d_lib.models.clipnet import Observation
from ss3d_lib.models.refinement import refined_width
from ss3d_lib.signal import reading_stride, shot_signal
from ss3d_lib.video import working_size

WINDOW, OVERLAP = 24, 8  # frames; a window and the one before it share OVERLAP frames
WORKING_AREA_PX = 144 * 240
WHOLE = CurateSettings(max_frames=600)  # a shot of up to 20 s is one path and one lens; longer ones are divided, for memory
DEFAULT_CHECKPOINT = "results/release/student.safetensors"  # comes with the repository (docs/MODEL_CARD.md)


@dataclass(frozen=True)
class VideoPrediction:
    """What the network says of a run of T frames, at their own resolution."""

    depth_m: Float[np.ndarray, "T H W"]  # z-depth; one arbitrary scale for the whole run, metres only by chance
    log_depth_std: Float[np.ndarray, "T H W"]
    world_from_cam: Float[np.ndarray, "T 4 4"]  # the first frame is the world
    focal_px: float
    focal_interval_px: Float[np.ndarray, "2"]  # 80 %
    intrinsics: Float[np.ndarray, "3 3"]
    moving: Float[np.ndarray, "T H W"]  # in [0, 1]
    trust: float  # in [0, 1]: mean share of the view whose depth the motion could triangulate; 0 where homographies explain all motion
    focal_candidates_px: Float[np.ndarray, "C"]
    focal_probability: Float[np.ndarray, "C"]


PARTS = tuple(VideoPrediction.__dataclass_fields__)


@dataclass(frozen=True)
class Fit:
    """How frames were brought to the network: x_net = (x - left + 0.5) * scale - 0.5 - crop, likewise y."""

    height: int
    width: int
    left_px: int  # of the black bars
    top_px: int
    principal_px: tuple[float, float]  # assumed at the centre of what lies between the bars
    scale: float
    crop_x_px: int
    crop_y_px: int


def network_size(height: int, width: int) -> tuple[int, int]:
    """Size at which frames are read: a training size where the aspect is near one, else of the same area.

    Sides are multiples of 16, the coarsest level of the matching.
    """
    working = working_size(height, width)
    if abs(np.log(width / height * working[0] / working[1])) < 0.2:
        return working
    scale = (WORKING_AREA_PX / (height * width)) ** 0.5
    return max(64, round(height * scale / 16) * 16), max(64, round(width * scale / 16) * 16)


def fit_frames(frames: UInt8[np.ndarray, "T H W 3"]) -> tuple[torch.Tensor, Fit]:
    """Frames (T, H, W, 3) uint8 without black bars, scaled to cover the network's size, centre-cropped: (1, T, 3, h, w)."""
    x0, y0, x1, y1 = content_box(frames)
    full, frames = frames.shape[1:3], frames[:, y0:y1, x0:x1]
    height, width = frames.shape[1:3]
    out_h, out_w = network_size(height, width)
    scale = max(out_h / height, out_w / width)
    size = max(out_w, round(width * scale)), max(out_h, round(height * scale))
    left, top = (size[0] - out_w) // 2, (size[1] - out_h) // 2
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = np.stack(
        [cv2.resize(frame, size, interpolation=how)[top : top + out_h, left : left + out_w] for frame in frames]
    )
    tensor = torch.from_numpy(resized).permute(0, 3, 1, 2)[None].float() / 255
    return tensor, Fit(*full, x0, y0, ((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2), scale, left, top)


def unfit(maps: np.ndarray, fit: Fit) -> np.ndarray:
    """Maps (T, h, w) back at the frames' own size; what was cropped repeats the border."""
    x, y = np.meshgrid(np.arange(fit.width, dtype=np.float32), np.arange(fit.height, dtype=np.float32))
    x = (x - fit.left_px + 0.5) * fit.scale - 0.5 - fit.crop_x_px
    y = (y - fit.top_px + 0.5) * fit.scale - 0.5 - fit.crop_y_px
    return np.stack([cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for image in maps])


def windows(frames: int) -> list[tuple[int, int]]:
    """Half-open ranges that cover the frames; the last one is as long as the others."""
    if frames <= WINDOW + OVERLAP:
        return [(0, frames)]
    starts = list(range(0, frames - WINDOW, WINDOW - OVERLAP)) + [frames - WINDOW]
    return [(start, start + WINDOW) for start in starts]


@torch.no_grad()
def predict_frames(model: ClipNet, frames: UInt8[np.ndarray, "T H W 3"]) -> VideoPrediction:
    """Everything about a run of frames from one camera.

    Args:
        frames: (T, H, W, 3) uint8 RGB of any size, already at the stride one wants, T >= 2.

    Raises:
        ValueError: fewer than two frames.
    """
    if len(frames) < 2:
        raise ValueError(
            f"{len(frames)} frame is not a clip: motion and focal length show only between frames; give at least 2"
        )
    clip, fit = fit_frames(frames)
    ranges = windows(len(frames))
    cut = [clip[:, start:stop] for start, stop in ranges]
    seen = [model.observe(window) for window in cut]
    focal = model.focal_head(pooled(seen, "curve"), pooled(seen, "summary"), seen[0].candidates_px)
    solved = [model.align(window, of, focal) for window, of in zip(cut, seen)]
    focal = focal.moved(torch.stack([s.bundle.log_focal for s in solved]).mean(0).exp(), refined_width(focal))
    if len(solved) > 1:
        solved = [solution.with_focal(focal.mean_px) for solution in solved]
    parts = [model.explain(window, of, solution, focal) for window, of, solution in zip(cut, seen, solved)]
    depth, poses = stitch(parts, ranges, len(frames))
    join = lambda name: over_frames([getattr(p, name)[0].numpy() for p in parts], ranges, len(frames))  # noqa: E731
    focal_px = float(focal.mean_px[0]) / fit.scale
    matrix = np.array([[focal_px, 0, fit.principal_px[0]], [0, focal_px, fit.principal_px[1]], [0, 0, 1]])
    return VideoPrediction(
        unfit(depth, fit),
        unfit(join("log_depth_std"), fit),
        poses,
        focal_px,
        focal.interval_px()[0].numpy() / fit.scale,
        matrix,
        unfit(join("moving"), fit),
        float(np.mean([float(p.trust[0]) for p in parts])),
        focal.candidates_px[0].numpy() / fit.scale,
        focal.log_probability[0].exp().numpy(),
    )


def pooled(seen: list[Observation], name: str) -> torch.Tensor:
    """Mean over the windows of a quantity that is itself a mean over frame pairs."""
    return torch.stack([getattr(of, name) for of in seen]).mean(0)


def over_frames(maps: list[np.ndarray], ranges: list[tuple[int, int]], frames: int) -> np.ndarray:
    """One map per frame; where windows overlap, the later one from the middle of the overlap on."""
    out = np.empty((frames, *maps[0].shape[1:]), dtype=maps[0].dtype)
    end = 0
    for part, (start, stop) in zip(maps, ranges):
        first = 0 if start == 0 else (end - start) // 2
        out[start + first : stop] = part[first:]
        end = stop
    return out


def stitch(parts: list[ClipPrediction], ranges: list[tuple[int, int]], frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth and poses of all windows in the scale and world of the first."""
    depths, poses, end = [], [], 0
    for part, (start, stop) in zip(parts, ranges):
        depth, pose = part.depth[0].numpy(), part.world_from_cam[0].numpy().astype(np.float64)
        if depths:
            shared = end - start
            scale = float(np.exp(np.median(np.log(depths[-1][-shared:]) - np.log(depth[:shared]))))
            depth = depth * scale
            pose[:, :3, 3] *= scale
            middle = shared // 2
            pose = poses[-1][-shared + middle] @ np.linalg.inv(pose[middle]) @ pose
        depths.append(depth)
        poses.append(pose)
        end = stop
    return over_frames(depths, ranges, frames), over_frames(poses, ranges, frames)


def predict_video(model: ClipNet, path: str | Path, out: str | Path) -> dict[str, dict]:
    """Predict every shot of a video at its best stride; one npz a shot and a summary.json in the folder `out`.

    What the summary says of other videos stays.

    Returns:
        What the summary says of each shot: focal length and its interval, score, trust, or why it failed.

    Raises:
        OSError, ValueError: `out` cannot be written, or its summary.json is not one.
    """
    out, summary = Path(out), {}
    out.mkdir(parents=True, exist_ok=True)
    earlier = read_json(out / "summary.json") if (out / "summary.json").exists() else {}
    for shot in curate_video(path, WHOLE):
        summary[shot.row.shot] = predict_shot(model, shot, out)
        write_json(out / "summary.json", earlier | summary)
    return summary


def predict_shot(model: ClipNet, shot: Shot, out: Path) -> dict:
    """Predict a shot into the folder `out`, if curation kept it, and say so; returns what the summary says of it."""
    if shot.frames is None:
        return {"status": shot.row.status, "reason": shot.row.reason}
    signal = shot_signal(shot.frames)
    frames = shot.frames[:: reading_stride(signal, len(shot.frames))]
    result = predict_frames(model, frames)
    write_prediction(out / f"{shot.row.shot}.npz", frames, result)
    said = f"focal length {result.focal_px:.0f} px of {frames.shape[2]}, score {signal.score:.2f}, trust {result.trust:.2f}"
    print(f"{shot.row.shot}: {said}{signal.reason and f'; careful, no multi-view signal: {signal.reason}'}", flush=True)
    return {
        "status": "predicted",
        "start_s": shot.row.start_s,
        "end_s": shot.row.end_s,
        "score": signal.score,
        "reason": signal.reason,
        "focal_px": result.focal_px,
        "focal_interval_px": result.focal_interval_px,
        "trust": result.trust,
        "frames": len(frames),
        "height": frames.shape[1],
        "width": frames.shape[2],
    }


def write_prediction(path: str | Path, frames: UInt8[np.ndarray, "T H W 3"], found: VideoPrediction) -> None:
    """Frames and prediction of one shot as npz, an array per name."""
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, frames=frames, **{name: getattr(found, name) for name in PARTS})


def read_prediction(path: str | Path) -> tuple[UInt8[np.ndarray, "T H W 3"], VideoPrediction]:
    """Frames and prediction of one shot (never unpickled). Raises ValueError naming a file that `predict` did not write."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in ("frames", *PARTS)}
        numbers = {name: float(values[name]) for name in ("focal_px", "trust")}
        frames = values.pop("frames")
        size = frames.shape[:3]
        if any(values[name].shape != size for name in ("depth_m", "log_depth_std", "moving")) or len(values["world_from_cam"]) != size[0]:
            raise ValueError("its maps are of different sizes")
    except Exception as error:  # a damaged archive fails in many ways; numpy's own words would advise to unpickle it
        raise ValueError(f"{path} is not a prediction: make it anew with `python -m ss3d_lib.predict`") from error
    return frames, VideoPrediction(**(values | numbers))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ss3d_lib.predict", description="Depth, trajectory and focal length of every shot of a video."
    )
    parser.add_argument("video", type=Path, help="any video file")
    parser.add_argument("--out", type=Path, required=True, help="folder for one npz a shot and summary.json")
    parser.add_argument("--checkpoint", type=Path, default=Path(DEFAULT_CHECKPOINT), help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.video.is_dir():
        print(f"error: {options.video} is a folder: python -m ss3d_lib.gallery reads all of its videos", file=sys.stderr)
        return 1
    try:
        summary = predict_video(load_model(options.checkpoint), options.video, options.out)
    except (FileNotFoundError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    good = [name for name, values in summary.items() if values["status"] == "predicted"]
    for name, values in summary.items():
        if values["status"] != "predicted":
            print(f"{name}: {values['status']}, {values['reason']}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    finish(main)
