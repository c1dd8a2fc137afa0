"""A folder of real sequences: NAME/rgb/*.jpg and, where known, intrinsics, depth and poses.

Layout of one sequence (the generic "images + depth + poses" folder; convert your own recording into it):
    NAME/rgb/%06d.jpg       frames in order (jpg or png)
    NAME/intrinsics.txt     3x3, pixels of the stored size, pixel centres at integers
    NAME/depth/%06d.png     optional: uint16 millimetres of z-depth, 0 = none, named like its frame
    NAME/poses_c2w.txt      optional: a row-major 4x4 camera-to-world matrix a line, metres, OpenCV axes
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from ss3d_lib.datasets.clip import DatasetError, EvalClip

SUFFIXES = (".jpg", ".jpeg", ".png")


def find_sequences(folder: str | Path) -> list[Path]:
    """The sequence folders below `folder`, sorted. Raises DatasetError where there is none."""
    found = sorted(path.parent for path in Path(folder).glob("*/rgb") if path.is_dir())
    if not found:
        raise DatasetError(f"{folder}: holds no NAME/rgb/ folder; see ss3d_lib/datasets/sequences.py for the layout")
    return found


def iterate_sequences(folder: str | Path, most: int = 0) -> Iterator[EvalClip]:
    """Every sequence below `folder`, the first `most` frames of each (0: all), one in memory at a time."""
    for path in find_sequences(folder):
        yield load_sequence(path, most)


def load_sequence(folder: str | Path, most: int = 0) -> EvalClip:
    """The first `most` frames (0: all) of a sequence with the truth it has.

    Raises DatasetError naming the file that is missing or malformed.
    """
    folder = Path(folder)
    images = find_images(folder / "rgb")
    intrinsics = read_matrix(folder / "intrinsics.txt", (3, 3))
    poses = None
    if (folder / "poses_c2w.txt").exists():
        poses = read_poses(folder / "poses_c2w.txt", (len(images), 16))[: most or None]
    images = images[: most or None]
    frames = read_all(images, read_rgb)
    depth_m, depth_frames = read_depths(folder / "depth", images, frames.shape[1:3])
    return EvalClip(
        name=folder.name,
        frames=frames,
        intrinsics=np.repeat(intrinsics[None], len(images), axis=0),
        poses_c2w=poses,
        depth_m=depth_m,
        depth_frames=depth_frames,
    )


def find_images(folder: Path) -> list[Path]:
    """The jpg and png files of a folder, in order. Raises DatasetError where there are fewer than two."""
    images = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if len(images) < 2:
        raise DatasetError(f"{folder}: {len(images)} images; a sequence needs at least two jpg or png files")
    return images


def read_all(paths: Sequence[Path], read: Callable[[Path], np.ndarray]) -> np.ndarray:
    """read(path) of one path or more, stacked: (T, ...). Raises DatasetError for a file that is not of the first's size.

    The stack is filled as the files are read: a list of a long sequence beside it would be twice the memory.
    """
    stack = None
    for index, path in enumerate(paths):
        image = read(path)
        if stack is None:
            stack = np.empty((len(paths), *image.shape), image.dtype)
        if image.shape != stack.shape[1:]:
            raise DatasetError(f"{path}: is {image.shape} but {paths[0].name} {stack.shape[1:]}; bring them to one size")
        stack[index] = image
    return stack


def read_rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; grey images are repeated over the channels. Raises DatasetError for a broken file."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DatasetError(f"{path}: cannot be read as an image; copy it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_depths(folder: Path, images: list[Path], size: tuple[int, int]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Depths (K, H, W) float32 m of the frames that have one, and their indices (K,); (None, None) without any."""
    paths = {index: folder / f"{image.stem}.png" for index, image in enumerate(images)}
    paths = {index: path for index, path in paths.items() if path.exists()}
    if not paths:
        return None, None
    depths = [read_depth_png(path, 1000.0) for path in paths.values()]
    for path, depth_m in zip(paths.values(), depths):
        if depth_m.shape != size:
            raise DatasetError(f"{path}: is {depth_m.shape} but its frame {size}; bring them to one size")
    return np.stack(depths), np.fromiter(paths, dtype=np.int64)


def read_depth_png(path: Path, per_metre: float) -> np.ndarray:
    """(H, W) float32 metres of a uint16 png with `per_metre` units a metre; 0 = not measured."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if image is None or image.dtype != np.uint16 or image.ndim != 2:
        found = "no image" if image is None else f"{image.dtype} {image.shape}"
        raise DatasetError(f"{path}: need a uint16 png of one channel, found {found}; copy it again")
    return image.astype(np.float32) / np.float32(per_metre)


def need_folder(path: Path, what: str) -> Path:
    """The path itself. Raises DatasetError, saying what it should be, where it is no folder."""
    if not path.is_dir():
        raise DatasetError(f"{path}: no such folder; give {what}")
    return path


def read_table(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A text matrix of exactly `shape`, float64; inf and nan are numbers here. Raises DatasetError naming the file otherwise."""
    if not path.exists():
        raise DatasetError(f"{path}: missing; the set's layout needs it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of an empty file numpy only warns
            matrix = np.loadtxt(path, ndmin=2)
    except (ValueError, UserWarning) as error:
        raise DatasetError(f"{path}: not a table of numbers ({error})") from error
    if matrix.shape != shape:
        raise DatasetError(f"{path}: need {shape[0]} rows of {shape[1]} numbers, found {matrix.shape}")
    return matrix


def read_matrix(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A text matrix of exactly `shape`, float64, finite. Raises DatasetError naming the file otherwise."""
    matrix = read_table(path, shape)
    if not np.isfinite(matrix).all():
        raise DatasetError(f"{path}: need {shape[0]} rows of {shape[1]} finite numbers, found inf or nan")
    return matrix


def read_poses(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(N, 4, 4) poses of a text matrix of `shape`. Raises DatasetError naming the file where they are none."""
    return exact_poses(path, read_matrix(path, shape).reshape(-1, 4, 4))


def exact_poses(path: Path, poses: np.ndarray) -> np.ndarray:
    """(N, 4, 4) finite poses with their rotations made exact: some sets round them, 7-Scenes to 1e-4.

    Raises DatasetError naming the file, `path`, where a matrix is farther than 0.01 from a rigid motion.
    """
    left, scales, right = np.linalg.svd(poses[:, :3, :3])
    rotations = left @ right
    mirrored = np.linalg.det(rotations) < 0
    wrong = mirrored | (np.abs(scales - 1) > 0.01).any(axis=1) | (np.abs(poses[:, 3] - [0, 0, 0, 1]) > 1e-6).any(axis=1)
    if wrong.any():
        raise DatasetError(f"{path}: matrix {int(wrong.argmax())} is no camera pose; need rows of R t over 0 0 0 1, in metres")
    poses = poses.copy()
    poses[:, :3, :3] = rotations
    return poses
