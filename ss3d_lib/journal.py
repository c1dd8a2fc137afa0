"""What is already done, in one file that only grows: a line per finished item, so that a stopped run goes on.

Memory holds a place in the file per item and no more. One process writes; a line that was cut short by a kill or
damaged (each begins with its checksum), and lines of an older state of their item, are passed over.
"""

from __future__ import annotations

import errno
import json
import zlib
from pathlib import Path
from typing import Any

from ss3d_lib.files import disk_errors_name


class Journal:
    """Values by key, each valid for one stamp (what it was made from).

    >>> with Journal("scores.csv.journal") as journal:
    ...     if not journal.holds("clip", stamp):
    ...         journal.add("clip", stamp, score("clip.mp4"))
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.places: dict[str, tuple[str, int]] = {}
        self.end = open(self.path, "ab", buffering=0)  # after an error nothing is left that closing would write again
        self.file = open(self.path, "rb")
        self._read()

    def _read(self) -> None:
        whole = place = 0
        for line in self.file:
            if line.endswith(b"\n"):
                entry = _parsed(line)
                if entry:
                    self.places[entry["key"]] = entry["stamp"], place
                whole = place + len(line)
            place += len(line)
        self.end.truncate(whole)  # the next line must not be glued to a half one

    def holds(self, key: str, stamp: str) -> bool:
        """Whether there is a value for `key` that was made from the same."""
        return key in self.places and self.places[key][0] == stamp

    def add(self, key: str, stamp: str, value: Any) -> None:
        """Remember a value (what JSON can hold); on disk before this returns, as far as the system tells."""
        place = self.end.seek(0, 2)
        text = json.dumps({"key": key, "stamp": stamp, "value": value}, sort_keys=True).encode()
        with disk_errors_name(self.path):
            line = b"%08x %s\n" % (zlib.crc32(text), text)
            if self.end.write(line) < len(line):
                raise OSError(errno.ENOSPC, "written in part")
        self.places[key] = stamp, place

    def get(self, key: str) -> Any:
        """The value of `key`, read from the file. Raises KeyError."""
        self.file.seek(self.places[key][1])
        return json.loads(self.file.readline()[9:])["value"]

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        self.end.close()
        self.file.close()


def _parsed(line: bytes) -> dict | None:
    check, _, text = line.rstrip(b"\n").partition(b" ")
    return json.loads(text) if check == b"%08x" % zlib.crc32(text) else None
