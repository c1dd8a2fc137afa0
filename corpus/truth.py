"""The ground-truth file of a video: what it holds, and the coding of depth. numpy only."""
import numpy as np

NEAR_M, FAR_M, CODES = 0.05, 1000.0, 4094
STRIDES = {"train": (8, 4), "val": (1, 2), "test": (1, 2)}   # split: (every n-th frame, every s-th pixel)


def encode_depth(depth_m: np.ndarray) -> np.ndarray:
    """Metres (..., w) to horizontally delta-coded uint16 (..., w): 12 log-spaced bits (0.24 % a step), 0 = none.

    Not finite, or outside of 0.05 to 1000 m, means no measurement. Deltas compress about twice as well.
    """
    depth_m = np.asarray(depth_m, np.float64)
    good = np.isfinite(depth_m) & (depth_m >= NEAR_M) & (depth_m <= FAR_M)
    log = np.log(np.where(good, depth_m, NEAR_M) / NEAR_M) / np.log(FAR_M / NEAR_M)
    code = np.where(good, 1 + np.rint(CODES * log), 0).astype(np.uint16)
    return np.diff(code, axis=-1, prepend=np.uint16(0))


def decode_depth(code: np.ndarray) -> np.ndarray:
    """The inverse of encode_depth: metres (float32), 0 where there is no measurement."""
    code = np.cumsum(code, axis=-1, dtype=np.uint16)
    depth_m = NEAR_M * np.exp((code.astype(np.float64) - 1) / CODES * np.log(FAR_M / NEAR_M))
    return np.where(code == 0, 0, depth_m).astype(np.float32)


def save_truth(path, split: str, domain: str, shots: list, poses_c2w, intrinsics, depth_m) -> None:
    """Write one video's truth.

    Args:
        shots: (start, end, kind) per shot, half-open frame ranges of the mp4.
        poses_c2w: (T, 4, 4) camera-to-world, OpenCV axes, metres.
        intrinsics: (T, 4) fx fy cx cy in pixels of the stored video, nan where there is no camera.
        depth_m: (T, H, W) z-depth at the stored size; 0 or inf = no measurement.
    """
    every, stride = STRIDES[split]
    frames = np.arange(0, len(depth_m), every)
    with open(path, "wb") as file:
        np.savez_compressed(
            file, domain=np.array(domain), shot_start=np.array([s[0] for s in shots], np.int32),
            shot_end=np.array([s[1] for s in shots], np.int32), shot_kind=np.array([s[2] for s in shots]),
            poses_c2w=np.asarray(poses_c2w, np.float32), intrinsics=np.asarray(intrinsics, np.float32),
            depth_frames=frames.astype(np.int32), depth_code=encode_depth(depth_m[frames][:, ::stride, ::stride]),
            depth_stride=np.array(stride))
