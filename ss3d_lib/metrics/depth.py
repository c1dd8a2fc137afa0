"""Depth errors per image, with the alignment in the key so that two alignments are never compared by accident."""

import numpy as np

MIN_DEPTH_M = 1e-3
"""Predictions are clipped to at least this, as every published evaluator does (Monodepth2, `evaluate_depth.py`)."""

ALIGNMENTS = ("metric", "median", "video", "affine")
"""metric: none. median: one scale per image. video: one scale per clip. affine: scale and shift of inverse depth."""

CROPS = {
    # Garg et al. 2016: shares of height and width; on 375 x 1242 rows 153:371, columns 44:1197.
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    # Eigen et al. 2014 on KITTI: shares of height and width.
    "eigen_kitti": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
    # Eigen et al. 2014 on NYUv2: rows 45:471, columns 41:601 of 480 x 640.
    "eigen_nyu": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
}
"""Published evaluation crops as (top, bottom, left, right) shares of the image; bottom and right are exclusive."""


def crop_mask(height: int, width: int, crop: str) -> np.ndarray:
    """Pixels (H, W) bool inside a published crop of `CROPS`; bounds are rounded down, as in the published code.

    Raises KeyError, naming the known crops, for any other name.
    """
    if crop not in CROPS:
        raise KeyError(f"unknown crop {crop!r}: choose one of {sorted(CROPS)}")
    top, bottom, left, right = CROPS[crop]
    mask = np.zeros((height, width), dtype=bool)
    # The tiny addend keeps 45/480*480 from falling to 44.999...
    rows = slice(int(top * height + 1e-9), int(bottom * height + 1e-9))
    columns = slice(int(left * width + 1e-9), int(right * width + 1e-9))
    mask[rows, columns] = True
    return mask


def valid_depth(true_m: np.ndarray, max_depth_m: float) -> np.ndarray:
    """Pixels with a measurement: finite, above 0 and below the cap of the set."""
    return np.isfinite(true_m) & (true_m > 0) & (true_m < max_depth_m)


def video_scale(predicted: np.ndarray, true_m: np.ndarray, max_depth_m: float = 80.0) -> float:
    """The one factor of a clip (K, h, w): ratio of the medians over all valid pixels; nan without any."""
    valid = valid_depth(true_m, max_depth_m)
    if not valid.any():
        return float("nan")
    return float(np.median(true_m[valid]) / np.median(predicted[valid]))


def affine_inverse_depth(predicted: np.ndarray, true_m: np.ndarray) -> tuple[float, float]:
    """Scale s and shift t (1/m) that minimise sum (s / predicted + t - 1 / true)^2 over (P,) pixels.

    Ranftl et al. 2020 (MiDaS): the closed-form alignment of predictions known up to an affine map of disparity.
    """
    design = np.stack([1.0 / predicted, np.ones_like(predicted)], axis=-1)
    (scale, shift), *_ = np.linalg.lstsq(design, 1.0 / true_m, rcond=None)
    return float(scale), float(shift)


def align_depth(
    predicted: np.ndarray, true_m: np.ndarray, alignment: str, max_depth_m: float = 80.0, scale: float | None = None
) -> np.ndarray:
    """Predicted z-depth of (P,) valid pixels in metres after the named alignment.

    `scale` is the clip's factor from `video_scale`, needed by "video" alone. The affine map may send inverse depth
    to zero or below: such pixels are put at the cap. Raises ValueError for an unknown alignment or a missing scale.
    """
    if alignment == "metric":
        return predicted
    if alignment == "median":
        return predicted * (np.median(true_m) / np.median(predicted))
    if alignment == "video":
        if scale is None:
            raise ValueError('alignment "video" needs scale=video_scale(predicted, true_m) of the whole clip')
        return predicted * scale
    if alignment == "affine":
        factor, shift = affine_inverse_depth(predicted, true_m)
        return 1.0 / np.maximum(factor / predicted + shift, 1.0 / max_depth_m)
    raise ValueError(f"unknown alignment {alignment!r}: choose one of {ALIGNMENTS}")


def depth_metrics(
    predicted: np.ndarray,
    true_m: np.ndarray,
    alignment: str,
    max_depth_m: float = 80.0,
    mask: np.ndarray | None = None,
    scale: float | None = None,
) -> dict[str, float]:
    """The seven errors of Eigen et al. 2014 (section 4.2) and log10, of one image, means over its valid pixels.

    predicted (H, W) z-depth, true_m (H, W) metres with 0 or nan where nothing was measured, mask (H, W) the crop.
    Keys: absrel sqrel(m) rmse(m) rmselog log10 d1 d2 d3, each with `_<alignment>`. Predictions are clipped to
    [1 mm, cap] after alignment. Every value is nan where no pixel is valid. Raises ValueError on unequal shapes.
    """
    if predicted.shape != true_m.shape:
        raise ValueError(f"predicted depth is {predicted.shape} but the truth is {true_m.shape}: resize it first")
    valid = valid_depth(true_m, max_depth_m) & (True if mask is None else mask)
    names = ("absrel", "sqrel", "rmse", "rmselog", "log10", "d1", "d2", "d3")
    if not valid.any():
        return {f"{name}_{alignment}": float("nan") for name in names}
    true = true_m[valid].astype(np.float64)
    aligned = align_depth(predicted[valid].astype(np.float64), true, alignment, max_depth_m, scale)
    aligned = np.clip(aligned, MIN_DEPTH_M, max_depth_m)
    difference, log_ratio = aligned - true, np.log(aligned / true)
    ratio = np.exp(np.abs(log_ratio))
    values = (
        np.mean(np.abs(difference) / true),
        np.mean(difference**2 / true),
        np.sqrt(np.mean(difference**2)),
        np.sqrt(np.mean(log_ratio**2)),
        np.mean(np.abs(log_ratio)) / np.log(10),
        np.mean(ratio < 1.25),
        np.mean(ratio < 1.25**2),
        np.mean(ratio < 1.25**3),
    )
    return {f"{name}_{alignment}": float(value) for name, value in zip(names, values, strict=True)}
