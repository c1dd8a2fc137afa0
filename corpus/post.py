"""From linear renderings to a web video: exposure, blur, grain, bars, titles, transitions, H.264. numpy, cv2, av."""
import os
from pathlib import Path

import av
import cv2
import numpy as np

from corpus.graphics import phrase, write


def develop(rng, linear: np.ndarray, depth_m: np.ndarray, fog: bool) -> np.ndarray:
    """Linear rgb (T, h, w, 3) to display rgb in [0, 1]: fog, white balance, auto exposure with drift, film curve."""
    if fog:
        middle = np.median(depth_m[np.isfinite(depth_m)])
        clear = np.exp(-np.minimum(depth_m, 1e4) / (middle * rng.uniform(2, 5)))[..., None]
        linear = linear * clear + (1 - clear) * np.median(linear) * rng.uniform(1, 2)
    level = np.quantile(linear.mean(-1)[0], .6)
    t = np.linspace(0, 1, len(linear))
    drift = 2 ** (rng.uniform(-.25, .25) * t + rng.uniform(0, .12) * np.sin(rng.uniform(1, 9) * t))
    gain = np.exp(rng.normal(np.log(.26), .25)) / max(level, 1e-4)
    exposed = np.maximum(linear * gain * drift[:, None, None, None] * (1 + rng.normal(0, .05, 3)), 0)
    curve = exposed * (2.51 * exposed + .03) / (exposed * (2.43 * exposed + .59) + .14)    # the ACES fit of K. Narkowicz, 2015
    grey = curve.mean(-1, keepdims=True)
    return np.clip(grey + rng.uniform(.45, 1.0) * (curve - grey), 0, 1).astype(np.float32) ** (1 / 2.2)


def motion_blur(frames: np.ndarray, shutter: float) -> np.ndarray:
    """Blur frames (T, h, w, 3) along their optical flow; shutter is the share of the frame interval."""
    flow_of = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [cv2.cvtColor((255 * f).astype(np.uint8), cv2.COLOR_RGB2GRAY) for f in frames]
    h, w = grey[0].shape
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float32)
    out = []
    for k, frame in enumerate(frames):
        near = min(k + 1, len(frames) - 2) if k + 1 >= len(frames) else k + 1
        flow = flow_of.calc(grey[k], grey[near], None)
        steps = np.linspace(-shutter / 2, shutter / 2, 5)
        out.append(np.mean([cv2.remap(frame, (grid + s * flow).astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for s in steps], 0))
    return np.stack(out)


def grain(rng, frames: np.ndarray) -> np.ndarray:
    """Sensor noise (stronger in the dark) and a slight vignette on frames in [0, 1]."""
    h, w = frames.shape[1:3]
    y, x = np.mgrid[-1:1:h * 1j, -1:1:w * 1j]
    vignette = 1 - rng.uniform(0, .25) * (x**2 + y**2) / 2
    sigma = np.exp(rng.uniform(np.log(.002), np.log(.02)))
    noise = rng.normal(0, sigma, frames.shape).astype(np.float32)
    return np.clip(frames * vignette[None, :, :, None] + noise * (1.3 - frames), 0, 1).astype(np.float32)


def zoomed(linear: np.ndarray, depth_m: np.ndarray, frames: int, width: int, height: int, wide_px: float, focals_px) -> tuple:
    """A zoom cut out of one large picture (H, W, 3) of focal wide_px: (T, h, w, 3) and depth (T, h, w)."""
    big_h, big_w = depth_m.shape
    rgb, depth = [], []
    for focal in focals_px:
        ratio = wide_px / focal
        move = np.array([[ratio, 0, (big_w - 1) / 2 - ratio * (width - 1) / 2], [0, ratio, (big_h - 1) / 2 - ratio * (height - 1) / 2]])
        soft = cv2.GaussianBlur(linear, (0, 0), ratio * .45) if ratio > 1.2 else linear
        rgb.append(cv2.warpAffine(soft, move, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE))
        depth.append(cv2.warpAffine(depth_m, move, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE))
    return np.maximum(np.stack(rgb), 0), np.stack(depth)


def join(clips: list, transitions: list) -> tuple:
    """Join clips of frames by hard cuts, crossfades and fades through black.

    Returns: frames (T, h, w, 3), and for each clip (start, end, first): the half-open range of the result that
    belongs to it, and the clip's own frame that is shown at `start`.
    """
    frames, ranges, first = list(clips[0]), [], 0
    start = 0
    for clip, (kind, length) in zip(clips[1:], transitions):
        if kind == "cross":
            half, base = length // 2, len(frames) - length
            for k in range(length):
                a = (k + 1) / (length + 1)
                frames[base + k] = (1 - a) * frames[base + k] + a * clip[k]
            ranges.append((start, base + half, first))
            start, first = base + half, half
            frames += list(clip[length:])
        else:
            half = length // 2 if kind == "black" else 0
            clip = np.array(clip)
            for k in range(half):
                frames[-1 - k] = frames[-1 - k] * ((k + .5) / half)
                clip[k] = clip[k] * ((k + .5) / half)
            ranges.append((start, len(frames), first))
            start, first = len(frames), 0
            frames += list(clip)
    ranges.append((start, len(frames), first))
    return np.stack(frames), ranges


def add_bars(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """Centre the picture on a black canvas: letterbox or pillarbox. Any trailing channels."""
    top, left = (height - frames.shape[1]) // 2, (width - frames.shape[2]) // 2
    out = np.zeros((len(frames), height, width, *frames.shape[3:]), frames.dtype)
    out[:, top:top + frames.shape[1], left:left + frames.shape[2]] = frames
    return out


def overlays(rng, width: int, height: int, logo: bool, caption: bool) -> tuple:
    """Titles over the whole video: their colour (h, w, 3) in 0..1 and their opacity (h, w)."""
    ink, cover = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    if logo:
        size = int(min(width, height) * rng.uniform(.10, .16))
        x = int(rng.choice([4, width - 2 * size - 6]))
        y = int(rng.choice([4, height - size - 5]))
        cv2.rectangle(ink, (x, y), (x + 2 * size, y + size), tuple(int(c) for c in rng.integers(0, 256, 3)), -1)
        cv2.rectangle(cover, (x, y), (x + 2 * size, y + size), 200, -1)
        write(ink, phrase(rng, 1)[:4], x + 2, y + size * .75, size * .45, (255, 255, 255))
    if caption:
        size, y = height * .05, int(height * rng.uniform(.82, .92))
        strip = rng.random() < .5
        if strip:
            cover[y - int(size * 1.7):y + int(size * .8)] = 160
        text = phrase(rng, 3)
        lettering = np.zeros_like(ink)
        write(lettering, text, width * .08, y, size, (255, 255, 255))
        ink = np.maximum(ink, lettering)
        cover = np.maximum(cover, lettering[..., 0])
    return ink.astype(np.float32) / 255, cover.astype(np.float32) / 255


def encode(path: Path, frames: np.ndarray, fps: float, crf: int) -> None:
    """Write frames (T, h, w, 3) in [0, 1] as H.264 (yuv420p); first to a name that is no video's, so that half a file is none.

    The same frames need not give the same bytes: x264's macroblock tree differs from run to run by compression noise.
    """
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=int(round(fps)))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"crf": str(crf), "preset": "slow", "threads": "1"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.round(255 * frame).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    os.replace(part, path)
