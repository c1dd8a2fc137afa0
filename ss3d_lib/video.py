"""Videos in, RGB frames out: one decoder interface over decord and PyAV, and the working size of every shot.

decord reads what it can open (H.264 and the older codecs); PyAV reads the rest (AV1, platforms without a decord
wheel, files on which decord stops). Frames come as uint8 RGB in display orientation: the rotation that phones write
into the file is obeyed. Introduced in notebook 01.

decord keeps threads and handles that do not survive a fork: use this module in spawned processes, never forked ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from ss3d_lib.files import printable

os.environ.setdefault("DECORD_EOF_RETRY_MAX", "65536")  # decord polls; the default can give up on a busy machine
try:
    import decord
except ImportError:  # no wheel on macOS arm64 and Linux aarch64: PyAV reads everything there
    decord = None

SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mpg .mpeg .mkv .webm .wmv .flv .ts .mts .m2ts .3gp .ogv .vob .divx".split()
)
WORKING_SIZES = {"landscape": (144, 240), "standard": (144, 192), "portrait": (240, 144)}  # (H, W)


class VideoError(Exception):
    """A file that cannot be read as a video; the message names the file, the cause and the remedy."""


class _BadClockError(Exception):
    """decord gives no usable timestamps for this file."""


@dataclass(frozen=True)
class VideoInfo:
    """What the container says. Sizes are those of the displayed picture, after the rotation."""

    path: Path
    width: int
    height: int
    fps: float
    frames: int  # 0 where the container does not say
    duration_s: float  # 0 where the container does not say
    rotation_deg: int  # counter-clockwise, a multiple of 90: turns the stored picture into the displayed one
    codec: str


def find_videos(folder: str | Path) -> list[Path]:
    """All files under `folder` with a video suffix, sorted; or the one file that `folder` names.

    Raises VideoError where nothing is found.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise VideoError(f"{folder}: no such file or folder; give a video or a folder that holds videos")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise VideoError(f"{folder}: holds no video ({' '.join(sorted(SUFFIXES))}); check the path")
    return found


def address(path: str | Path) -> str:
    """What FFmpeg is given: a relative name with a colon in it would be a protocol to it."""
    return str(Path(path).absolute())


def probe(path: str | Path) -> VideoInfo:
    """Open the container and decode the first frame.

    Raises VideoError for what is not a readable video; PermissionError for a file that this user may not read.
    """
    path = Path(path)
    if printable(path) != str(path):
        raise VideoError(f"{printable(path)}: the file's name is not UTF-8, or holds a carriage return; rename it")
    if not path.is_file():
        raise VideoError(f"{path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty; download or copy it again")
    try:
        with av.open(address(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: holds no picture stream, only sound or data; remove it from the folder")
            stream = container.streams.video[0]
            frame = next(container.decode(stream), None)
            if frame is None:
                raise VideoError(f"{path}: not one frame can be decoded; download it again")
            turned = round(frame.rotation / 90) * 90
            size = (frame.width, frame.height) if turned % 180 == 0 else (frame.height, frame.width)
            duration_s = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
            fps = float(stream.average_rate or stream.guessed_rate or 0) or 25.0  # 25: a stream without any clock
            return VideoInfo(path, *size, fps, int(stream.frames), duration_s, turned, stream.codec_context.name)
    except av.error.PermissionError as error:
        raise PermissionError(error.errno, "may not be read; allow it: chmod +r", str(path)) from error
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise VideoError(
            f"{path}: not a video, or cut short before its index ({error}); download it again or remove it"
        ) from error


def read_chunks(
    path: str | Path, short_side_px: int | None = None, chunk: int = 64, decoder: str = "auto",
    span_s: tuple[float, float] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Decode a video from its beginning, `chunk` frames at a time, so that memory stays flat on long videos.

    Args:
        short_side_px: frames larger than this are decoded at this short side (even sizes); None keeps the size.
        decoder: "auto" (decord, then PyAV for what decord cannot read), "decord" or "pyav".
        span_s: only the frames whose time lies in [start, end); PyAV goes to the key frame before it. May hold none.

    Yields:
        frames (n,H,W,3) uint8 RGB in display orientation, and their timestamps (n,) float64 in s after the first frame.

    Raises:
        VideoError: the file cannot be opened, or holds fewer than two frames.
    """
    info = probe(path)
    size = decode_size(info.height, info.width, short_side_px)
    done = 0
    if span_s is not None:
        yield from _pyav_chunks(info, size, chunk, 0, span_s)
        return
    if decoder == "decord" or (decoder == "auto" and decord is not None and not info.rotation_deg):
        try:  # rotated files go to PyAV: decord turns them by itself, but not in every version
            for frames, times_s in _decord_chunks(info, size, chunk):
                yield frames, times_s
                done += len(frames)
        except (decord.DECORDError, _BadClockError):
            if decoder == "decord":
                raise VideoError(f"{path}: decord cannot read it; use decoder='auto'") from None
        else:
            _check_count(info, done)
            return
    for frames, times_s in _pyav_chunks(info, size, chunk, done):
        yield frames, times_s
        done += len(frames)
    _check_count(info, done)


def read_video(
    path: str | Path, short_side_px: int | None = None, max_frames: int | None = None, decoder: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """The first `max_frames` frames (all by default) of a video: (T,H,W,3) uint8 RGB, and timestamps (T,) in s."""
    frames, times_s = [], []
    for chunk_frames, chunk_times_s in read_chunks(path, short_side_px, decoder=decoder):
        frames.append(chunk_frames)
        times_s.append(chunk_times_s)
        if max_frames is not None and sum(map(len, frames)) >= max_frames:
            break
    return np.concatenate(frames)[:max_frames], np.concatenate(times_s)[:max_frames]


def missing_tail(info: VideoInfo, last_s: float) -> str:
    """Why a file ends (last frame at `last_s`) before it says it does; "" when it is whole, to 2 % and 0.5 s.

    Times are compared, not frame counts: AVI files count repeated frames that no decoder returns. Sound may go on after
    the pictures.
    """
    least_s = info.duration_s * 0.98 - 0.5
    if last_s < least_s and _end_s(info.path) < least_s:
        return f"truncated: readable to {last_s:.1f} of {info.duration_s:.1f} s; the readable part is used"
    return ""


def _end_s(path: Path) -> float:
    """End of the last packet of any stream after the first one, in s. Decodes nothing."""
    first_s, last_s = np.inf, 0.0
    with av.open(address(path)) as container:
        for packet in _until_broken(container.demux()):
            if packet.pts is not None:
                start_s = float(packet.pts * packet.time_base)
                first_s, last_s = min(first_s, start_s), max(last_s, start_s + float((packet.duration or 0) * packet.time_base))
    return max(0.0, last_s - first_s)


def decode_size(height: int, width: int, short_side_px: int | None) -> tuple[int, int]:
    """(H, W) at which a video is decoded: never enlarged; even numbers where it is reduced."""
    if short_side_px is None or min(height, width) <= short_side_px:
        return height, width
    scale = short_side_px / min(height, width)
    return 2 * round(height * scale / 2), 2 * round(width * scale / 2)


def working_size(height: int, width: int) -> tuple[int, int]:
    """The working size (H, W) that suits a picture's aspect: landscape > 1.5, standard from 1 to 1.5, portrait < 1."""
    aspect = width / height
    return WORKING_SIZES["landscape" if aspect > 1.5 else "standard" if aspect >= 1.0 else "portrait"]


def to_working(frames: Sequence[np.ndarray]) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Scale frames, T of (H,W,3), to cover their working size, and crop its centre.

    Returns:
        frames (T,H',W',3) of the same dtype, the scale, and the crop (x, y) in px of the scaled picture:
        x_working = (x + .5) * scale - .5 - crop_x, with pixel centres at integers (the scaled size is rounded to
        whole pixels, so the longer side's true scale may differ by half a pixel over its whole length).
    """
    height, width = frames[0].shape[:2]
    out_h, out_w = working_size(height, width)
    scale = max(out_h / height, out_w / width)
    full_h, full_w = round(height * scale), round(width * scale)
    top, left = (full_h - out_h) // 2, (full_w - out_w) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    if (full_h, full_w) != (height, width):
        frames = [cv2.resize(frame, (full_w, full_h), interpolation=interpolation) for frame in frames]
    working = np.stack([frame[top : top + out_h, left : left + out_w] for frame in frames])
    return working, scale, (left, top)


def write_video(
    path: str | Path,
    frames: np.ndarray,
    fps: float = 25.0,
    codec: str = "libx264",
    crf: int = 18,
    rotation_deg: int = 0,
    times_s: np.ndarray | None = None,
) -> Path:
    """Encode frames (T,H,W,3) uint8 RGB; for tests and previews. Odd sizes are stored as yuv444p.

    rotation_deg is written as display metadata (counter-clockwise); times_s gives a variable frame rate.
    """
    height, width = frames.shape[1:3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=round(fps))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
        stream.options = {"crf": str(crf)} if codec != "mpeg4" else {}
        stream.time_base = stream.codec_context.time_base = _time_base(fps, times_s)
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            seconds = i / fps if times_s is None else float(times_s[i])
            frame.time_base, frame.pts = stream.time_base, round(seconds / stream.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def _time_base(fps: float, times_s: np.ndarray | None) -> Fraction:
    return Fraction(1, 90000) if times_s is not None or fps != round(fps) else Fraction(1, round(fps))


def _check_count(info: VideoInfo, count: int) -> None:
    if count < 2:
        raise VideoError(f"{info.path}: {count} frame decoded, at least 2 are needed; remove it from the folder")


def _decord_chunks(info: VideoInfo, size: tuple[int, int], chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    height, width = size
    reader = decord.VideoReader(address(info.path), width=width, height=height, num_threads=1)
    times_s = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    if np.any(np.diff(times_s) <= 0) or not np.all(np.isfinite(times_s)):
        raise _BadClockError  # MPEG program streams: decord has no timestamps for them
    for start in range(0, len(reader), chunk):
        indices = list(range(start, min(start + chunk, len(reader))))
        frames = reader.get_batch(indices).asnumpy()
        yield frames, times_s[indices] - times_s[0]


def _pyav_chunks(
    info: VideoInfo, size: tuple[int, int], chunk: int, skip: int, span_s: tuple[float, float] = (0.0, np.inf)
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    height, width = size if info.rotation_deg % 180 == 0 else size[::-1]
    frames, times_s, first_s = [], [], None
    with av.open(address(info.path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if span_s[0] > 0:
            first_s = float((stream.start_time or 0) * stream.time_base)
            container.seek(round((first_s + span_s[0]) / stream.time_base), stream=stream)
        for index, frame in enumerate(_until_broken(container.decode(stream))):
            time_s = index / info.fps if frame.time is None else frame.time
            first_s = time_s if first_s is None else first_s
            if time_s - first_s >= span_s[1]:
                break
            if index < skip or time_s - first_s < span_s[0]:
                continue
            interpolation = "AREA" if height < frame.height else "BICUBIC"
            frames.append(frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=interpolation))
            times_s.append(time_s - first_s)
            if len(frames) == chunk:
                yield _upright(np.stack(frames), info.rotation_deg), np.array(times_s)
                frames, times_s = [], []
    if frames:
        yield _upright(np.stack(frames), info.rotation_deg), np.array(times_s)


def _until_broken(frames: Iterator) -> Iterator:
    """Frames or packets; a damaged tail ends the video: what was readable before it is kept, and missing_tail reports it."""
    try:
        yield from frames
    except av.error.FFmpegError:
        return


def _upright(frames: np.ndarray, rotation_deg: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(frames, rotation_deg // 90, axes=(1, 2))) if rotation_deg else frames
