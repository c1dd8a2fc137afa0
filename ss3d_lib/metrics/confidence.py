"""Does the model know where it is wrong? Calibration of the predicted uncertainty."""

import numpy as np


def sparsification_error(error: np.ndarray, uncertainty: np.ndarray, steps: int = 20) -> float:
    """AUSE: area between the error left when dropping the least certain pixels and when dropping the worst ones.

    Ilg et al. 2018 (uncertainty estimates for optical flow): both curves are divided by the mean error. error, uncertainty (P,); 0 is perfect,
    about 0.3 to 0.5 is what uncertainty at random gets for typical errors.
    """
    keep = np.maximum(np.rint(len(error) * (1 - np.arange(steps) / steps)).astype(int), 1)
    by_uncertainty = np.cumsum(error[np.argsort(uncertainty, kind="stable")])[keep - 1] / keep
    by_error = np.cumsum(np.sort(error))[keep - 1] / keep
    return float(np.mean(by_uncertainty - by_error) / max(np.mean(error), 1e-12))


def laplace_coverage(error: np.ndarray, std: np.ndarray, level: float = 0.8) -> float:
    """Share of signed errors (P,) inside the central `level` interval of a Laplace law with deviations std (P,).

    Half-width: -scale ln(1 - level), scale = std / sqrt(2). A calibrated model returns `level`.
    """
    return float(np.mean(np.abs(error) <= -np.log(1 - level) * std / np.sqrt(2)))
