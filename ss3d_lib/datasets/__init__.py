"""Evaluation sets: one adapter per on-disk layout, each giving `EvalClip`s. They know nothing of models or metrics."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ss3d_lib.datasets import kitti, nyu, scenes, sintel, tum
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
    "open_set",
]


def _kitti_eigen(root: Path) -> Iterator[EvalClip]:
    improved = root / "improved"
    return kitti.iterate_kitti_eigen(root, root / "eigen_test_files.txt", improved if improved.is_dir() else None)


LAYOUTS: dict[str, Callable[[Path], Iterator[EvalClip]]] = {
    "sequences": iterate_sequences,
    "bonn": tum.iterate_bonn,
    "kitti_eigen": _kitti_eigen,
    "kitti_odometry": kitti.iterate_kitti_odometry,
    "nyu": nyu.iterate_nyu,
    "scannet": scenes.iterate_scannet,
    "seven_scenes": scenes.iterate_seven_scenes,
    "sintel": sintel.iterate_sintel,
    "tum_dynamics": tum.iterate_tum_dynamics,
}
"""Folder layouts by name; each adapter's module says where to get the set, its licence and its files. For kitti_eigen
the folder holds the raw days, `eigen_test_files.txt` and, where one has it, the improved ground truth in `improved/`."""


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
