"""KITTI: depth on the Eigen test split (raw LiDAR or the improved ground truth), and odometry 09 and 10.

https://www.cvlibs.net/datasets/kitti (CC BY-NC-SA 3.0). Layout:
    RAW/2011_09_26/2011_09_26_drive_0002_sync/{image_02/data/0000000069.png,velodyne_points/data/0000000069.bin}
    RAW/2011_09_26/{calib_cam_to_cam.txt,calib_velo_to_cam.txt}
    IMPROVED/{train,val}/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png
    ODOMETRY/{sequences/09/image_2/000000.png,sequences/09/calib.txt,poses/09.txt}
The split is a text file of lines "2011_09_26/2011_09_26_drive_0002_sync 0000000069 l" (697 in Eigen's list; 652 of
them have improved ground truth). Monodepth2 keeps Eigen's list in that form: github.com/nianticlabs/monodepth2,
splits/eigen/test_files.txt. `--layout kitti_eigen` reads it as RAW/eigen_test_files.txt, and takes IMPROVED to be
RAW/improved.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ss3d_lib.datasets.clip import DatasetError, EvalClip
from ss3d_lib.datasets.sequences import find_images, need_folder, read_all, read_depth_png, read_matrix, read_rgb

PER_METRE = 256.0  # of the improved ground truth


def iterate_eigen_folder(root: str | Path, most: int = 0) -> Iterator[EvalClip]:
    """The test split of one folder: the raw days, eigen_test_files.txt and, where one has it, improved/."""
    split, improved = Path(root) / "eigen_test_files.txt", Path(root) / "improved"
    yield from iterate_kitti_eigen(root, split, improved if improved.is_dir() else None, most=most)


def iterate_kitti_eigen(
    raw: str | Path,
    split: str | Path,
    improved: str | Path | None = None,
    crop: str = "garg",
    reach: int = 2,
    most: int = 0,
) -> Iterator[EvalClip]:
    """One clip per line of the split: its frame with depth, and up to `reach` neighbours on either side.

    improved: the folder of the improved ground truth; lines without it are left out. None: projected raw LiDAR.
    most: the `most` frames nearest to that of the line; 0: all.
    """
    for number, line in enumerate(read_lines(Path(split))):
        drive, frame, side = line
        folder = Path(raw) / drive / {"l": "image_02", "r": "image_03"}[side] / "data"
        index = int(frame)
        near = [i for i in range(index - reach, index + reach + 1) if (folder / f"{i:010d}.png").is_file()]
        if index not in near:
            raise DatasetError(f"{folder / f'{index:010d}.png'}: missing; line {number + 1} of {split} needs it")
        path = improved_path(Path(improved), drive, index, folder.parent.name) if improved else None
        if improved and path is None:
            continue
        near = sorted(sorted(near, key=lambda i: abs(i - index))[: most or None])
        frames = read_all([folder / f"{i:010d}.png" for i in near], read_rgb)
        calibration = read_calibration(Path(raw) / drive.split("/")[0] / "calib_cam_to_cam.txt")
        projection = calibration[f"P_rect_{folder.parent.name[-2:]}"].reshape(3, 4)
        if path:
            depth_m = read_depth_png(path, PER_METRE)
        else:
            depth_m = lidar_depth(Path(raw) / drive, index, projection, calibration, frames.shape[1:3])
        yield EvalClip(
            name=f"{Path(drive).name}_{index:010d}",
            frames=frames,
            intrinsics=np.repeat(projection[None, :, :3], len(near), axis=0),
            depth_m=depth_m[None].astype(np.float32),
            depth_frames=np.array([near.index(index)]),
            domain="kitti",
            crop=crop,
        )


def iterate_kitti_odometry(
    root: str | Path, names: tuple[str, ...] = ("09", "10"), most: int = 0
) -> Iterator[EvalClip]:
    """The first `most` frames (0: all) of odometry sequences of the left colour camera, with its own poses."""
    for name in names:
        folder = need_folder(Path(root) / "sequences" / name, "a sequence of KITTI odometry")
        images = find_images(folder / "image_2")
        projection = read_calibration(folder / "calib.txt")["P2"].reshape(3, 4)
        grey_c2w = np.tile(np.eye(4), (len(images), 1, 1))
        grey_c2w[:, :3] = read_matrix(Path(root) / "poses" / f"{name}.txt", (len(images), 12)).reshape(-1, 3, 4)
        # The file holds the left grey camera; the colour camera stands beside it in the same rectified axes.
        colour_from_grey = np.eye(4)
        colour_from_grey[:3, 3] = np.linalg.inv(projection[:, :3]) @ projection[:, 3]
        frames = read_all(images[: most or None], read_rgb)
        yield EvalClip(
            name=f"kitti_{name}",
            frames=frames,
            intrinsics=np.repeat(projection[None, :, :3], len(frames), axis=0),
            poses_c2w=grey_c2w[: len(frames)] @ np.linalg.inv(colour_from_grey),
            domain="kitti",
        )


def read_lines(split: Path) -> list[tuple[str, str, str]]:
    """(drive, frame, side) of every line. Raises DatasetError naming the line that is none."""
    if not split.is_file():
        raise DatasetError(f"{split}: missing; give Eigen's list of test files")
    lines = [tuple(line.split()) for line in split.read_text().splitlines() if line.strip()]
    for number, words in enumerate(lines):
        if len(words) != 3 or words[2] not in "lr" or not words[1].isdigit():
            raise DatasetError(f"{split}, line {number + 1}: need DATE/DRIVE FRAME l|r, found {' '.join(words)!r}")
    return lines


def read_calibration(path: Path) -> dict[str, np.ndarray]:
    """{key: numbers (N,)} of a KITTI calibration file; lines that hold no numbers (dates) are left out."""
    if not path.is_file():
        raise DatasetError(f"{path}: missing; unpack the calibration archive of that day")
    values = {}
    for line in path.read_text().splitlines():
        key, _, numbers = line.partition(":")
        try:
            values[key] = np.array(numbers.split(), dtype=np.float64)
        except ValueError:
            continue
    return values


def improved_path(root: Path, drive: str, index: int, camera: str) -> Path | None:
    """The improved ground truth of a frame, in whichever half it lies; None where there is none."""
    tail = Path(Path(drive).name) / "proj_depth" / "groundtruth" / camera / f"{index:010d}.png"
    return next((root / half / tail for half in ("val", "train") if (root / half / tail).is_file()), None)


def lidar_depth(
    drive: Path, index: int, projection: np.ndarray, calibration: dict[str, np.ndarray], size: tuple[int, int]
) -> np.ndarray:
    """(H, W) z-depth of the LiDAR points that fall into the picture, the nearest per pixel; 0 elsewhere.

    Eigen et al. 2014: x = P_rect R_rect_00 [R | T] X. P_rect's last column moves the points to the camera asked for.
    Pixels count from 0 here; some evaluators subtract one more pixel, after KITTI's Matlab code.
    """
    path = drive / "velodyne_points" / "data" / f"{index:010d}.bin"
    if not path.is_file():
        raise DatasetError(f"{path}: missing; unpack the synced drive with its LiDAR points")
    points = np.fromfile(path, dtype=np.float32).reshape(-1, 4).astype(np.float64)
    points[:, 3] = 1.0  # reflectance is not needed
    velo = read_calibration(drive.parent / "calib_velo_to_cam.txt")
    cam_from_velo = np.eye(4)
    cam_from_velo[:3, :3], cam_from_velo[:3, 3] = velo["R"].reshape(3, 3), velo["T"]
    rectify = np.eye(4)
    rectify[:3, :3] = calibration["R_rect_00"].reshape(3, 3)
    seen = points[points[:, 0] > 0] @ (projection @ rectify @ cam_from_velo).T  # in front of the scanner only
    seen = seen[seen[:, 2] > 0]
    columns, rows = (np.rint(seen[:, axis] / seen[:, 2]).astype(np.int64) for axis in (0, 1))
    inside = (columns >= 0) & (columns < size[1]) & (rows >= 0) & (rows < size[0])
    depth_m = np.full(size, np.inf)
    np.minimum.at(depth_m, (rows[inside], columns[inside]), seen[inside, 2])
    return np.where(np.isfinite(depth_m), depth_m, 0.0)
