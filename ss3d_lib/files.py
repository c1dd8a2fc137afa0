"""Files: writes that are whole or absent, JSON with a stable text, names that stay inside their folder."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FREE = "free some space (.venv-render and old folders below results/ can be made again)"  # what to do about a full disk
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # a disk that takes no more is no fault of one file: all stop


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it takes the place of `path`, on an error it goes.

    The suffix is kept, for writers that choose a format by it. An interruption at any moment leaves either
    the old file or the new one, never half of one.

    >>> with atomic_write("results/stage1/cameras.npz") as temporary:
    ...     numpy.savez(temporary, focal_px=focal_px)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        with disk_errors_name(path):
            yield temporary
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes 0600, which other users of a cache cannot read
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors_name(path: str | Path) -> Iterator[None]:
    """Makes the error of a full disk (or quota) say which file could not be written; the system's own does not."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and str(error).endswith("written"))  # so says numpy
        if not full or error.filename is not None:
            raise
        remedy = f"the disk is full: {FREE}, then the same command goes on"
        raise OSError(errno.ENOSPC, remedy, str(path)) from error


def require_place(path: str | Path) -> None:
    """Checks, before long work, that its result can be written to the file `path`.

    Raises:
        OSError: naming the path that is in the way or cannot be written, and what to do.
    """
    path = Path(path)
    if path.is_dir():
        raise OSError(f"{path} is a folder: name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path.parent).close()


def write_json(path: str | Path, value: Any, digits: int = 6) -> None:
    """Writes `value` as JSON: keys sorted, floats rounded to `digits` significant digits, NaN and inf as null.

    numpy scalars and arrays become numbers and lists. The text depends on the values alone, so that a
    re-run that measured the same leaves git and DVC unchanged.
    """
    text = json.dumps(_plain(value, digits), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The value in a JSON file.

    Raises:
        FileNotFoundError, ValueError: naming the file and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run the stage that writes it (dvc repro), or check the path")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it and make it again") from error


def printable(text: object) -> str:
    """As text that UTF-8 and a line of CSV can hold: a file name may be any bytes."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\r", "\\r")


def safe_name(name: str, max_length: int = 120) -> str:
    """`name` itself when it can name one file in any folder, on any system.

    Allowed are letters, digits, dot, dash and underscore, with a letter, digit or underscore first.

    Raises:
        ValueError: on separators, a leading dot or dash, `..`, control characters, an empty or long name.
    """
    if len(name) > max_length or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or ".." in name:
        raise ValueError(
            f"{name!r} cannot be a file name here: use 1 to {max_length} letters, digits, '.', '-' or '_', "
            "starting with a letter, a digit or '_', without '..'"
        )
    return name


def inside(folder: str | Path, name: str) -> Path:
    """`folder / name`, where links and dots in `name` may not lead out of `folder`.

    Raises:
        ValueError: naming both, when the path leaves the folder.
    """
    root = Path(folder).resolve()
    path = (root / name).resolve()
    if path != root and root not in path.parents:
        raise ValueError(f"{name!r} leads out of {folder}: give a path inside it")
    return path


def require_free_space(folder: str | Path, need_bytes: float) -> None:
    """Checks, before long work, that the disk under `folder` has room.

    Raises:
        OSError: naming the folder, what is free and what is needed, in GB.
    """
    folder = Path(folder)
    existing = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < need_bytes:
        raise OSError(
            f"{folder} needs {need_bytes / 1e9:.2f} GB and its disk has {free_bytes / 1e9:.2f} GB left: "
            f"{FREE} or process fewer videos"
        )


def _umask() -> int:
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return mask


def _plain(value: Any, digits: int) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item, digits) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, digits) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} {value!r} has no place in a JSON file: give numbers, text, lists, dicts")
