"""Classical structure from motion: pycolmap (Schönberger & Frahm 2016) with an unknown focal length, as one predictor.

SIFT features, sequential matching and incremental mapping with COLMAP's own settings; one camera per clip, whose focal
length starts at 1.2 longer sides and is refined. It finds no depth map, and it may find nothing at all: a clip whose
largest model holds fewer than half of the frames is a failure, for which no claim is made.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation, Slerp

from ss3d_lib.borders import content_box
from ss3d_lib.protocol import Answer

CAMERA_MODEL = "SIMPLE_PINHOLE"  # as the student assumes; usable on 65 % of the validation shots, SIMPLE_RADIAL on 50 %
LEAST_SHARE = 0.5  # of the frames, in the largest model; below it the clip is a failure


def import_pycolmap():
    """pycolmap, quiet. Raises ModuleNotFoundError that says what to install."""
    try:
        import pycolmap
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pycolmap is not installed: pip install -e '.[baselines]'") from error
    pycolmap.logging.minloglevel = 3  # what it fails at is counted here, not logged
    return pycolmap


def largest_model(frames: np.ndarray, folder: Path, camera_model: str = CAMERA_MODEL):
    """The pycolmap.Reconstruction of frames (T, H, W, 3) that holds most of them; None where there is none.

    folder: emptied, then holds the images (0000.bmp, ...), the database and the models. One thread.
    """
    pycolmap = import_pycolmap()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    (folder / "model").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "images" / f"{number:04d}.bmp")  # PNG: the zlib of OpenCV and of pycolmap clash
    pycolmap.set_random_seed(0)
    extraction, matching, mapping = (
        pycolmap.FeatureExtractionOptions(), pycolmap.FeatureMatchingOptions(), pycolmap.IncrementalPipelineOptions()
    )  # fmt: skip
    extraction.num_threads = matching.num_threads = mapping.num_threads = 1
    extraction.use_gpu = matching.use_gpu = False
    database = folder / "database.db"
    reader, single = pycolmap.ImageReaderOptions(camera_model=camera_model), pycolmap.CameraMode.SINGLE
    pycolmap.extract_features(
        database, folder / "images", camera_mode=single, reader_options=reader, extraction_options=extraction
    )
    pycolmap.match_sequential(database, matching_options=matching)
    models = pycolmap.incremental_mapping(database, folder / "images", folder / "model", options=mapping)
    return max(models.values(), key=lambda model: model.num_reg_images(), default=None)


def registered_share(frames: np.ndarray, folder: Path) -> float:
    """The share of the frames (T, H, W, 3) that the largest model holds."""
    model = largest_model(frames, folder, "SIMPLE_RADIAL")  # COLMAP's own choice: nothing is measured but the share
    return model.num_reg_images() / len(frames) if model else 0.0


def predict(frames: np.ndarray) -> Answer:
    """Trajectory and focal length of frames (T, H, W, 3); an empty answer where mapping failed.

    Black bars are cut off first, as for the student: they would be features that never move.
    """
    x0, y0, x1, y1 = content_box(frames)
    with tempfile.TemporaryDirectory() as name:
        model = largest_model(frames[:, y0:y1, x0:x1], Path(name) / "sfm")
    if model is None or model.num_reg_images() < LEAST_SHARE * len(frames):
        return Answer()
    poses = {int(Path(i.name).stem): i.cam_from_world().inverse().matrix() for i in registered(model)}
    focal_px = next(iter(model.cameras.values())).mean_focal_length()
    return Answer(world_from_cam=interpolate_poses(poses, len(frames)), focal_px=focal_px)


def registered(model) -> list:
    """The images of a model that have a pose."""
    return [model.images[number] for number in model.reg_image_ids()]


def interpolate_poses(poses: dict[int, np.ndarray], frames: int) -> np.ndarray:
    """world_from_cam (T, 4, 4) of all frames from those of some, {frame: (3, 4) or (4, 4)}, at least one.

    In between: centres on a straight line, rotations by slerp; before the first and after the last: held.
    """
    known = np.array(sorted(poses))
    matrices = np.stack([poses[frame] for frame in known])
    times = np.arange(frames).clip(known[0], known[-1])
    full = np.tile(np.eye(4), (frames, 1, 1))
    full[:, :3, 3] = np.stack([np.interp(times, known, matrices[:, axis, 3]) for axis in range(3)], axis=1)
    rotations = Rotation.from_matrix(matrices[:, :3, :3])
    full[:, :3, :3] = (Slerp(known, rotations)(times) if len(known) > 1 else rotations).as_matrix()
    return full
