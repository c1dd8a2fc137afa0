"""YouTube-8M's own files: TFRecords of pseudo ids, labels and features, read without TensorFlow, to a list of videos.

`python -m ss3d_lib.youtube8m train*.tfrecord --vocabulary vocabulary.csv --labels Car Vehicle --out list.csv` keeps the
videos that have one of the labels and resolves their pseudo ids; `python -m ss3d_lib.fetch` then fetches the list.
Format: Abu-El-Haija et al., "YouTube-8M" (arXiv 1609.08675), and https://research.google.com/youtube8m/download.html.
Introduced in notebook 01.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tfrecord import TFRecordWriter, example_pb2

from ss3d_lib.commands import finish, real, whole
from ss3d_lib.downloads import GIVE_UP_AFTER, Pacer, RefusedError, TemporaryError, get_text, retried
from ss3d_lib.fetch import read_csv
from ss3d_lib.files import atomic_write
from ss3d_lib.progress import progress

SERVER = "http://data.yt8m.org"  # its mapping is served without TLS only; the answer is checked, never executed
PSEUDO_ID = re.compile(r"[A-Za-z0-9_-]{4}")
VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
GONE = (403, 404, 410)  # HTTP statuses of the mapping for a video that its owner removed
QUANTISED_RANGE = (-2.0, 2.0)  # of the PCA-whitened features that frame-level files store as bytes
HEAD = struct.Struct("<Q4s")  # of a record: its length, and the checksum of the length; a checksum of 4 bytes ends it


class RecordError(Exception):
    """A file that is not a YouTube-8M TFRecord; the message names the file, the cause and the remedy."""


@dataclass(frozen=True)
class Entry:
    """One video. `id` is a pseudo id of 4 characters (release 2 and 3) or a YouTube id of 11 (release 1).

    Video-level files have (1024,) and (128,) float32 in mean_rgb and mean_audio; frame-level files have (T,1024) and
    (T,128) float32 in rgb and audio, one row per second. What a file does not hold is None. The test partition has no
    labels.
    """

    id: str
    labels: tuple[int, ...]
    mean_rgb: np.ndarray | None = None
    mean_audio: np.ndarray | None = None
    rgb: np.ndarray | None = None
    audio: np.ndarray | None = None


def record_places(path: str | Path) -> list[tuple[int, int]]:
    """First byte and length of every record, without reading them. Raises RecordError for a cut or foreign file, naming the byte."""
    path, places, start = Path(path), [], 0
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if not size:
            raise RecordError(f"{path}: is empty; download it again")
        while start < size:
            file.seek(start)
            head = file.read(HEAD.size)
            length, checksum = HEAD.unpack(head) if len(head) == HEAD.size else (size, b"")
            end = start + HEAD.size + length + 4
            if end > size or checksum != TFRecordWriter.masked_crc(head[:8]):
                raise RecordError(f"{path}: cut short, damaged or not a TFRecord file, at byte {start}; download it again")
            places.append((start + HEAD.size, length))
            start = end
    return places


def read_entries(path: str | Path) -> Iterator[Entry]:
    """Yield the entries of a video-level or a frame-level TFRecord file, one at a time.

    A tf.Example is a tf.SequenceExample without sequences, byte for byte, so one parser reads both.
    Raises RecordError before the first entry where the file is cut, and at a record that is damaged or no video.
    """
    places = record_places(path)
    with open(path, "rb") as file:
        for number, (start, length) in enumerate(places):
            file.seek(start)
            record, checksum = file.read(length), file.read(4)
            if checksum != TFRecordWriter.masked_crc(record):
                raise RecordError(f"{path}: record {number}, at byte {start}, is damaged: its checksum differs; download it again")
            try:
                yield _entry(example_pb2.SequenceExample.FromString(record))
            except (DecodeError, ValueError) as error:
                raise RecordError(
                    f"{path}: record {number}, at byte {start}, is no YouTube-8M video ({error}); download it again"
                ) from error


def _entry(record: example_pb2.SequenceExample) -> Entry:
    context, sequences = record.context.feature, record.feature_lists.feature_list
    names = [*context["id"].bytes_list.value, *context["video_id"].bytes_list.value]  # release 1 says video_id
    name = names[0].decode("ascii", "replace") if names else ""
    if not PSEUDO_ID.fullmatch(name) and not VIDEO_ID.fullmatch(name):
        raise ValueError(f"id {name!r}")
    means = {key: _floats(context[key]) for key in ("mean_rgb", "mean_audio")}
    frames = {key: dequantise([b"".join(f.bytes_list.value) for f in sequences[key].feature]) for key in ("rgb", "audio")}
    return Entry(name, tuple(context["labels"].int64_list.value), **means, **frames)


def _floats(feature: example_pb2.Feature) -> np.ndarray | None:
    return np.array(feature.float_list.value, np.float32) if feature.float_list.value else None


def dequantise(rows: Sequence[bytes]) -> np.ndarray | None:
    """Stored bytes, one row per second, to float32 (T,D) in QUANTISED_RANGE, each the middle of its step; None without rows.

    Raises ValueError for rows that are empty or differ in length.
    """
    if not rows:
        return None
    if not rows[0] or len({len(row) for row in rows}) > 1:
        raise ValueError("rows of features are empty or differ in length")
    low, high = QUANTISED_RANGE
    codes = np.stack([np.frombuffer(row, np.uint8) for row in rows]).astype(np.float32)
    return codes * np.float32((high - low) / 255) + np.float32((high - low) / 512 + low)


def read_vocabulary(path: str | Path) -> dict[int, str]:
    """Label numbers to names, from YouTube-8M's vocabulary.csv (columns Index, Name, ...). Raises ValueError for other files."""
    rows = read_csv(path, ["Index", "Name"], "give YouTube-8M's vocabulary.csv")
    for line, row in enumerate(rows, 2):
        if not re.fullmatch(r"[0-9]{1,9}", row["Index"] or "") or row["Name"] is None:
            raise ValueError(f"{path}: line {line} is cut short or has no number in column Index; download it again")
    return {int(row["Index"]): row["Name"] for row in rows}


def label_numbers(labels: Iterable[str], vocabulary: dict[int, str]) -> frozenset[int]:
    """Numbers of labels given as names (in any case) or as numbers. Raises ValueError for what the vocabulary does not hold."""
    numbers = {name.casefold(): number for number, name in vocabulary.items()}
    found = {label: int(label) if label.isdecimal() else numbers.get(label.casefold()) for label in labels}
    unknown = [label for label, number in found.items() if number is None or (vocabulary and number not in vocabulary)]
    if unknown:
        where = "the vocabulary" if vocabulary else "no vocabulary (--vocabulary vocabulary.csv)"
        raise ValueError(f"labels {unknown}: not in {where}; give a name from its column Name, or a number of its column Index")
    return frozenset(found.values())


def select(entries: Iterable[Entry], labels: frozenset[int] = frozenset()) -> Iterator[Entry]:
    """The entries that have at least one of the labels; all of them where no label is asked for."""
    return (entry for entry in entries if not labels or labels.intersection(entry.labels))


def choose(paths: Sequence[Path], labels: frozenset[int], most: int) -> list[Entry]:
    """The first `most` entries (0: all) of the files that have one of the labels, without their features.

    Raises ValueError where there is none, and RecordError.
    """
    found = (entry for path in paths for entry in select(read_entries(path), labels))
    entries = [Entry(entry.id, entry.labels) for entry in itertools.islice(found, most or None)]
    if not entries:
        files = f"{paths[0]}{f' and {len(paths) - 1} more files' if len(paths) > 1 else ''}"
        raise ValueError(f"{files}: no video has one of the labels {sorted(labels)}; give others, or more files")
    return entries


class IdMap:
    """Pseudo ids to YouTube ids, asked from the public mapping once each and remembered in a file.

    Args:
        path: a line `pseudo,youtube` per answer, appended as it comes; `?` stands for a video that is gone. A last
            line that an interruption cut is dropped, and asked again.

    After GIVE_UP_AFTER failures in a row nothing more is asked; what is known is still told.
    """

    def __init__(self, path: str | Path, server: str = SERVER, pacer: Pacer | None = None):
        self.path, self.server, self.pacer = Path(path), server.rstrip("/"), pacer or Pacer()
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            os.truncate(self.path, len(whole))
        lines = whole.decode("ascii", "replace").splitlines()
        matches = (re.fullmatch(r"([A-Za-z0-9_-]{4}),([A-Za-z0-9_-]{11}|\?)", line) for line in lines)
        self.known = {match[1]: match[2].strip("?") for match in matches if match}
        self.failures: list[str] = []  # in a row

    def resolve(self, name: str) -> str:
        """The YouTube id; "" where the mapping has none any more. Raises TemporaryError, with the address, where it does not say."""
        if VIDEO_ID.fullmatch(name):
            return name
        if name not in self.known:
            if len(self.failures) >= GIVE_UP_AFTER:
                raise TemporaryError(f"not asked after {GIVE_UP_AFTER} failures in a row, the last: {self.failures[-1]}")
            url = mapping_url(name, self.server)
            try:
                self.known[name] = retried(lambda: self._ask(url, name), self.pacer)
            except TemporaryError as error:
                self.failures.append(f"{url}: {error}; run the same command again")
                raise TemporaryError(self.failures[-1]) from error
            self.failures.clear()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="ascii") as file:
                file.write(f"{name},{self.known[name] or '?'}\n")
        return self.known[name]

    def _ask(self, url: str, name: str) -> str:
        try:
            return parse_mapping(get_text(url, self.pacer), name)
        except RefusedError as error:
            if error.status in GONE:
                return ""
            raise TemporaryError(f"{error}: this is not the id mapping; check --server and the network") from error


def mapping_url(name: str, server: str = SERVER) -> str:
    """Where the mapping of a pseudo id lies."""
    if not PSEUDO_ID.fullmatch(name):
        raise ValueError(f"{name!r} is no pseudo id: 4 letters, digits, '-' or '_'")
    return f"{server}/2/j/i/{name[:2]}/{name}.js"


def parse_mapping(text: str, name: str) -> str:
    """The YouTube id in an answer `i("ABCD","videoid");`. Raises RefusedError for any other text, or another pseudo id."""
    match = re.fullmatch(r'\s*i\("([^"]*)","([^"]*)"\);?\s*', text)
    if not match or match[1] != name or not VIDEO_ID.fullmatch(match[2]):
        raise RefusedError(f"it answers {text[:40]!r}")
    return match[2]


@dataclass
class Counts:
    """What became of the videos of a selection."""

    listed: int = 0
    gone: int = 0
    missing: int = 0  # the mapping did not say: to be asked again
    trouble: str = ""  # why, of the last of these


def write_list(path: str | Path, entries: Iterable[Entry], ids: IdMap, vocabulary: dict[int, str]) -> Counts:
    """Write the CSV that fetch reads (id, url, licence, labels): what is resolved, also where the mapping fails for others."""
    counts = Counts()
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "url", "licence", "labels"])
        for entry in entries:
            try:
                video = ids.resolve(entry.id)
            except TemporaryError as error:
                counts.missing, counts.trouble = counts.missing + 1, str(error)
                continue
            counts.listed, counts.gone = counts.listed + bool(video), counts.gone + (not video)
            if video:
                labels = "|".join(vocabulary.get(number, str(number)) for number in entry.labels)
                writer.writerow([video, f"https://www.youtube.com/watch?v={video}", "", labels])
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 when every video is settled, 2 when some should be asked for again."""
    parser = argparse.ArgumentParser(
        prog="python -m ss3d_lib.youtube8m", description="YouTube-8M TFRecords to a list of videos, for ss3d_lib.fetch.",
        epilog="The TFRecords and vocabulary.csv come from https://research.google.com/youtube8m/download.html (CC BY 4.0).",
    )  # fmt: skip
    parser.add_argument("records", type=Path, nargs="+", help="TFRecord files, video-level or frame-level")
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write; OUT.ids keeps the resolved ids")
    parser.add_argument("--labels", nargs="*", default=[], help="keep videos with one of these names or numbers")
    parser.add_argument("--vocabulary", type=Path, help="vocabulary.csv, to give labels by name")
    parser.add_argument("--max", type=whole(0), default=0, help="stop after this many videos (default: all)")
    parser.add_argument("--interval-s", type=real(0), default=0.5, help="least time between two requests (default: 0.5)")
    parser.add_argument("--server", default=SERVER, help=f"serves the id mapping (default: {SERVER})")
    options = parser.parse_args(arguments)
    try:
        vocabulary = read_vocabulary(options.vocabulary) if options.vocabulary else {}
        entries = choose(options.records, label_numbers(options.labels, vocabulary), options.max)
        ids = IdMap(options.out.with_name(options.out.name + ".ids"), options.server, Pacer(options.interval_s))
        counts = write_list(options.out, progress(entries, label="resolving ids"), ids, vocabulary)
    except (RecordError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {counts.listed} videos; {counts.gone} more are no longer in the mapping")
    if counts.missing:
        print(f"{counts.missing} more have no answer yet; the last: {counts.trouble}", file=sys.stderr)
    return 2 if counts.missing else 0


if __name__ == "__main__":
    finish(main)
