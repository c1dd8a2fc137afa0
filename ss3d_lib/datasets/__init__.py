"""Evaluation sets: one adapter per on-disk layout, each giving `EvalClip`s. They know nothing of models or metrics."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from ss3d_lib.datasets.clip import DatasetError, EvalClip
from ss3d_lib.datasets.embedded import iterate_embedded
from ss3d_lib.datasets.sequences import find_sequences, iterate_sequences, load_sequence

__all__ = [
    "LAYOUTS",
    "DatasetError",
    "EvalClip",
    "find_sequences",
    "has_set",
    "iterate_embedded",
    "iterate_sequences",
    "load_sequence",
    "open_layout",
    "open_set",
]


LAYOUTS: dict[str, tuple[str, str]] = {
    "sequences": ("sequences:iterate_sequences", "NAME/rgb/"),
    "bonn": ("tum:iterate_bonn", "rgbd_bonn_NAME/"),
    "kitti_eigen": ("kitti:iterate_eigen_folder", "the lines of eigen_test_files.txt that have a ground truth"),
    "kitti_odometry": ("kitti:iterate_kitti_odometry", "sequences/09 and sequences/10"),
    "nyu": ("nyu:iterate_nyu", "the pictures that splits.mat numbers"),
    "scannet": ("scenes:iterate_scannet", "sceneNNNN_NN/"),
    "seven_scenes": ("scenes:iterate_seven_scenes", "SCENE/seq-NN/"),
    "sintel": ("sintel:iterate_sintel", "training/"),
    "tum_dynamics": ("tum:iterate_tum_dynamics", "rgbd_dataset_freiburg3_NAME/"),
}
"""{layout: (module:iterator of its adapter, what that looks for in the folder)}. Each adapter's module says where to get
the set, its licence and its files. An iterator takes the folder and `most`, how many frames of a sequence it reads."""


def open_layout(name: str, root: str | Path, most: int = 0) -> Iterator[EvalClip]:
    """The clips of a folder in the layout of that name. Raises DatasetError if it holds none, or as its adapter says.

    most: read only so many frames of each sequence; 0: as many as the set's protocol takes, or all.
    """
    place, sought = LAYOUTS[name]
    module, iterator = place.split(":")
    # By name, not by an import that ss3d_lib.graph would see: the stages, which open none of these sets, would depend on
    # every adapter, and a mend of one would evaluate everything anew.
    iterate = getattr(import_module(f"{__name__}.{module}"), iterator)
    found = False
    for clip in iterate(root, most=most) if most else iterate(root):
        found = True
        yield clip
    if not found:
        raise DatasetError(f"{root}: nothing of the layout {name} in it, looked for {sought}: give the folder that holds that")


def _place(name: str, data: str | Path, sequences: str | Path) -> Path:
    prefix, _, split = name.partition("_")
    return Path(data) / "videos" / split if prefix == "embedded" else Path(sequences) / name / "rgb"


def has_set(name: str, data: str | Path, sequences: str | Path) -> bool:
    """Whether a set lies on this machine: `embedded_SPLIT` under data, any other name a folder under sequences."""
    return _place(name, data, sequences).is_dir()


def open_set(name: str, data: str | Path, sequences: str | Path) -> Iterator[EvalClip]:
    """The clips of `embedded_train|val|test`, or of the one real sequence NAME. Raises DatasetError if it is absent."""
    if not has_set(name, data, sequences):
        raise DatasetError(f"set {name!r} is not on this machine: {_place(name, data, sequences)} does not exist")
    if name.startswith("embedded_"):
        return iterate_embedded(data, name.removeprefix("embedded_"))
    return iter([load_sequence(Path(sequences) / name)])
