"""What is already done, in one file that only grows: a line per finished item, so that a stopped run goes on.

Memory holds a place in the file per item and no more. One process writes; a line that was cut short by a kill or
damaged (each begins with its checksum), and lines of an older state of their item, are passed over.
"""

from __future__ import annotations

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
        self.file = open(self.path, "a+b")
        self._read()

    def _read(self) -> None:
        self.file.seek(0)
        whole = place = 0
        for line in self.file:
            if line.endswith(b"\n"):
                entry = _parsed(line)
                if entry:
                    self.places[entry["key"]] = entry["stamp"], place
                whole = place + len(line)
            place += len(line)
        self.file.truncate(whole)  # the next line must not be glued to a half one

    def holds(self, key: str, stamp: str) -> bool:
        """Whether there is a value for `key` that was made from the same."""
        return key in self.places and self.places[key][0] == stamp

    def add(self, key: str, stamp: str, value: Any) -> None:
        """Remember a value (what JSON can hold); on disk before this returns, as far as the system tells."""
        self.file.seek(0, 2)
        place = self.file.tell()
        text = json.dumps({"key": key, "stamp": stamp, "value": value}, sort_keys=True).encode()
        with disk_errors_name(self.path):
            self.file.write(b"%08x %s\n" % (zlib.crc32(text), text))
            self.file.flush()
        self.places[key] = stamp, place

    def get(self, key: str) -> Any:
        """The value of `key`, read from the file. Raises KeyError."""
        self.file.seek(self.places[key][1])
        return json.loads(self.file.readline()[9:])["value"]

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


def _parsed(line: bytes) -> dict | None:
    check, _, text = line.rstrip(b"\n").partition(b" ")
    return json.loads(text) if check == b"%08x" % zlib.crc32(text) else None
