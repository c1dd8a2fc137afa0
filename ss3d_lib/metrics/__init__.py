"""Every error measure of the project; numpy and scipy only, so that any model can be judged by them.

A depth key carries its alignment (`absrel_median`, `absrel_affine`, `absrel_video`, `absrel_metric`), a trajectory
key its group (`ate_sim3`, `ate_se3`), every angle its unit. Notebook 07 introduces them; tests hold them against
evo, scikit-learn and plain loops.
"""

from ss3d_lib.metrics.bootstrap import bootstrap_interval, split_blocks
from ss3d_lib.metrics.camera import focal_errors, horizontal_fov_deg, interval_covers
from ss3d_lib.metrics.cloud import backproject, cloud_fscore, depth_consistency
from ss3d_lib.metrics.confidence import laplace_coverage, sparsification_error
from ss3d_lib.metrics.depth import ALIGNMENTS, CROPS, align_depth, crop_mask, depth_metrics, valid_depth, video_scale
from ss3d_lib.metrics.trajectory import (
    PairErrors,
    Similarity,
    absolute_trajectory_error_m,
    pair_errors,
    path_length_m,
    relative_pose_errors,
    relative_poses,
    umeyama,
)

__all__ = [
    "ALIGNMENTS",
    "CROPS",
    "PairErrors",
    "Similarity",
    "absolute_trajectory_error_m",
    "align_depth",
    "backproject",
    "bootstrap_interval",
    "cloud_fscore",
    "crop_mask",
    "depth_consistency",
    "depth_metrics",
    "focal_errors",
    "horizontal_fov_deg",
    "interval_covers",
    "laplace_coverage",
    "pair_errors",
    "path_length_m",
    "relative_pose_errors",
    "relative_poses",
    "sparsification_error",
    "split_blocks",
    "umeyama",
    "valid_depth",
    "video_scale",
]
