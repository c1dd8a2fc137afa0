"""NYU Depth v2, the labelled images: 654 test pictures, Eigen's crop, capped at 10 m.

https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html (research). ROOT/nyu_depth_v2_labeled.mat (HDF5, needs the
extra `datasets`) and ROOT/splits.mat (testNdxs). The pictures stand alone: each is given as a clip of two equal frames, so
that a clip network must fall back on what one image shows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.io

from ss3d_lib.datasets.clip import DatasetError, EvalClip, intrinsic_matrices

CAMERA = (518.857901, 519.469611, 325.582449, 253.736166)  # fx fy cx cy of the colour camera, the set's toolbox
MAX_DEPTH_M = 10.0


def iterate_nyu(root: str | Path, most: int = 0) -> Iterator[EvalClip]:
    """The test pictures of the split, in order, two frames each whatever `most` is.

    Raises DatasetError for a missing file or package.
    """
    labelled, splits = Path(root) / "nyu_depth_v2_labeled.mat", Path(root) / "splits.mat"
    for path in (labelled, splits):
        if not path.is_file():
            raise DatasetError(f"{path}: missing; download it from the set's page")
    try:
        import h5py
    except ImportError as error:
        raise DatasetError(f"{labelled} is an HDF5 file: pip install -e '.[datasets]' to read it") from error
    chosen = scipy.io.loadmat(splits)["testNdxs"].ravel() - 1  # Matlab counts from 1
    with h5py.File(labelled, "r") as file:
        for index in chosen:
            # Matlab stores columns first: (3, W, H) and (W, H)
            image, depth_m = file["images"][index].transpose(2, 1, 0), file["depths"][index].T
            yield EvalClip(
                name=f"nyu_{index:04d}",
                frames=np.repeat(image[None], 2, axis=0),
                intrinsics=np.repeat(intrinsic_matrices(np.array([CAMERA])), 2, axis=0),
                depth_m=depth_m[None].astype(np.float32),
                depth_frames=np.array([0]),
                domain="nyu",
                max_depth_m=MAX_DEPTH_M,
                crop="eigen_nyu",
            )
