"""From a list of videos to a folder of videos: polite, resumable, and nothing in the list can reach outside the folder.

`python -m ss3d_lib.fetch list.csv --out FOLDER --licences cc-by` reads a CSV with the columns id, url, licence (the last
two may be empty or absent) and writes

    FOLDER/videos/ab/SHA256.mp4   named by content: what two ids share lies there once; `curate: videos:` reads this
    FOLDER/manifest.csv           a row per line of the list: id, url, path, sha256, licence, status, message
    FOLDER/state/                 a small file per finished line: the same command goes on where it was stopped

The licence in the list counts where the site states none; on YouTube it never does, for what states none there is not free.

Several lists may share a folder: the rows of the others stay in the manifest as long as their videos are there. A video
whose licence is no longer allowed goes when its own list is fetched again.

Run one process per folder: the pace is kept per process, and a second one would double it.

You answer for what you fetch: the terms of the site (YouTube's forbid downloads without permission), the licence of
each video, and the privacy of the people in it. So the licences must be named; there is no default.
Introduced in notebook 01.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ss3d_lib.commands import finish, real, whole
from ss3d_lib.curation import write_rows
from ss3d_lib.downloads import (
    GIVE_UP_AFTER,
    Limits,
    NotAskedError,
    Pacer,
    RefusedError,
    TemporaryError,
    check_video,
    download_http,
    download_yt_dlp,
    retried,
)  # fmt: skip
from ss3d_lib.files import DISK, disk_errors_name, inside, printable, read_json, require_free_space, write_json
from ss3d_lib.progress import progress, silent

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
ANY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
PLACE = re.compile(r"videos/[0-9a-f]{2}/[0-9a-f]{64}\.[a-z0-9]+")
YOUTUBE_HOSTS = frozenset({"youtube.com", "www.youtube.com", "m.youtube.com", "youtu.be"})
YOUTUBE_LICENCE = "creative commons attribution license (reuse allowed)"  # how YouTube spells CC BY
CC_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?creativecommons\.org/(?:licenses/([a-z-]+)|publicdomain/zero)(?:/\S*)?")
# " 4.0" or " 3.0 US" at the end; a condition in the place of the country (NC, ND, SA) stays, so that it is another licence
CC_VERSION = re.compile(r"-\d\.\d(?:-(?!n[cd]$|sa$)(?:[a-z]{2}|igo|scotland|unported|international|generic|universal))?$")
UNKNOWN, ANY = "unknown", "any"


@dataclass(frozen=True)
class FetchRow:
    """One line of manifest.csv. `path` is relative to the folder, with forward slashes; empty unless fetched."""

    id: str
    url: str
    path: str = ""
    sha256: str = ""
    licence: str = ""
    status: str = "failed"  # fetched | refused (will not be asked for again) | failed (will be)
    message: str = "not tried yet; run the same command again"


@dataclass(frozen=True)
class FetchSettings:
    """What may be fetched and how. `via` is auto (yt-dlp for YouTube, http for the rest), http or yt-dlp."""

    licences: tuple[str, ...]
    limits: Limits = Limits()
    via: str = "auto"
    give_up_after: int = GIVE_UP_AFTER


COLUMNS = tuple(field.name for field in fields(FetchRow))


def read_csv(path: str | Path, columns: Sequence[str], remedy: str) -> list[dict[str, str | None]]:
    """The lines of a CSV that a person wrote or saved, by column; None where a line is too short.

    Raises ValueError, naming the file, where it is no CSV, lacks one of `columns` or has no line below their names.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # Excel's "CSV UTF-8" begins with a mark
            reader = csv.DictReader(file)
            names, lines = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error}): save it as CSV in UTF-8") from error
    missing = [f"column {name}" for name in columns if name not in names]
    if missing or not lines:
        raise ValueError(f"{path}: no {' and no '.join(missing) or 'line below the names of the columns'}; {remedy}")
    return lines


def read_list(path: str | Path) -> list[FetchRow]:
    """The lines of a list, each once, as rows that were not tried yet. Raises ValueError for one without column id or lines."""
    lines = read_csv(path, ["id"], "the first line must name the columns: id,url,licence")
    clean = lambda line, key: " ".join((line.get(key) or "").split())
    rows = (FetchRow(clean(line, "id"), clean(line, "url"), licence=clean(line, "licence")) for line in lines)
    return list(dict.fromkeys(rows))


def checked_url(row: FetchRow) -> str:
    """The URL of a row; a YouTube id without one gets YouTube's. Raises RefusedError for ids and URLs of other forms."""
    if not ANY_ID.fullmatch(row.id):
        raise RefusedError(f"id {row.id[:80]!r}: only letters, digits, '-' and '_', at most 64")
    if not row.url and not YOUTUBE_ID.fullmatch(row.id):
        raise RefusedError(f"id {row.id!r} is no YouTube id (11 characters) and no url is given")
    url = row.url or f"https://www.youtube.com/watch?v={row.id}"
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # a ValueError for a name that cannot be looked up
        good = parts.scheme in ("http", "https") and bool(host) and "@" not in parts.netloc
    except ValueError:
        good = False
    if not good or len(url) > 2000 or not re.fullmatch(r"[!-~]+", url):
        raise RefusedError(f"url {url[:80]!r}: only plain http:// and https:// addresses without a user name")
    return url


def plain_licence(text: str) -> str:
    """A licence as it is compared: "CC BY 3.0 US", "cc-by", its address and YouTube's own phrase are all cc-by; nothing is unknown.

    What is not recognised stays as it is written, so that it is none of those allowed.
    """
    text = " ".join(text.lower().split())
    if text == YOUTUBE_LICENCE:
        return "cc-by"
    if address := CC_ADDRESS.fullmatch(text):
        return f"cc-{address[1]}" if address[1] else "cc0"
    return CC_VERSION.sub("", re.sub(r"[ _]+", "-", text)) or UNKNOWN


def licence_check(licences: Iterable[str]) -> Callable[[str], None]:
    """A function that raises RefusedError for a licence that is not on the list."""
    allowed = {plain_licence(text) for text in licences}

    def check(licence: str) -> None:
        if ANY not in allowed and plain_licence(licence) not in allowed:
            raise RefusedError(f"licence {licence or UNKNOWN!r} is not among those allowed ({', '.join(sorted(allowed))})")

    return check


def fetch_row(row: FetchRow, folder: Path, settings: FetchSettings, pacer: Pacer) -> FetchRow:
    """Fetch one line of the list into the folder, or say why not, and remember it.

    Raises OSError when the disk is full, and NotAskedError, with nothing to remember, for a server that wants a pause.
    """
    done = _state_file(row, folder)
    partial = done.with_suffix(".part")
    try:
        found = retried(lambda: _download(row, folder, partial, settings, pacer), pacer)
    except NotAskedError:
        raise
    except Exception as error:  # no line of a list, and no answer of a server, may stop the other lines
        if isinstance(error, OSError) and error.errno in DISK:
            raise
        text = str(error) if isinstance(error, RefusedError | TemporaryError) else f"{type(error).__name__}: {error}"
        status = "refused" if isinstance(error, RefusedError) else "failed"
        found = replace(row, status=status, message=" ".join(printable(text).split())[:300])
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    write_json(done, {"row": asdict(found), "stamp": _stamp(settings)})
    return found


def _state_file(row: FetchRow, folder: Path) -> Path:
    key = hashlib.sha256(f"{row.id}\n{row.url}\n{row.licence}".encode()).hexdigest()[:32]
    return folder / "state" / key[:2] / f"{key}.json"


def _stamp(settings: FetchSettings) -> str:
    return hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:16]


def _written(values: dict[str, str]) -> FetchRow:
    """A row that an earlier call wrote. Raises KeyError, TypeError for anything else."""
    return FetchRow(*(str(values[name]) for name in COLUMNS))


def _is_there(row: FetchRow, folder: Path) -> bool:
    """Whether a row was fetched and its video still lies at its place."""
    return row.status == "fetched" and bool(PLACE.fullmatch(row.path)) and (folder / row.path).is_file()


def _state(row: FetchRow, folder: Path) -> tuple[FetchRow | None, str]:
    """What an earlier call, perhaps a killed one, remembered of a row and the stamp of its settings; None where it did not."""
    try:
        state = read_json(_state_file(row, folder))
        return _written(state["row"]), state["stamp"]
    except (OSError, ValueError, KeyError, TypeError):  # absent, or damaged
        return None, ""


def _earlier(row: FetchRow, folder: Path, settings: FetchSettings) -> FetchRow:
    """What an earlier call made of a row; the row itself where there was none, or what it left no longer counts.

    Fetched counts while the video is there under a licence that is allowed, refused under the very same settings.
    """
    found, stamp = _state(row, folder)
    if found is None:
        return row
    if found.status == "failed" or (found.status == "refused" and stamp == _stamp(settings)):
        return found
    try:
        licence_check(settings.licences)(found.licence)
    except RefusedError:
        return row
    return found if _is_there(found, folder) else row


def _download(row: FetchRow, folder: Path, partial: Path, settings: FetchSettings, pacer: Pacer) -> FetchRow:
    """One attempt, into `partial`, then checked and moved to its place by content."""
    url, allow, licence = checked_url(row), licence_check(settings.licences), row.licence
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    target = partial / "video"
    youtube = urlsplit(url).hostname in YOUTUBE_HOSTS
    with disk_errors_name(target):
        if settings.via == "yt-dlp" or (settings.via == "auto" and youtube):
            site = "youtube" if youtube else "default"
            licence = download_yt_dlp(url, target, settings.limits, pacer, allow, site, row.licence)  # the site knows better than a list
        else:
            allow(licence)
            download_http(url, target, settings.limits, pacer)
    suffix = check_video(target)
    with open(target, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    path = f"videos/{digest[:2]}/{digest}{suffix}"
    place = inside(folder, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    target.replace(place)
    return replace(row, path=path, sha256=digest, licence=licence, status="fetched", message="")


def fetch_list(
    rows: Sequence[FetchRow], folder: str | Path, settings: FetchSettings, pacer: Pacer | None = None, watch=silent
) -> list[FetchRow]:
    """Fetch rows, one after the other, and write manifest.csv, also when interrupted. Returns what became of each row.

    What an earlier call settled is not asked again; what failed there comes last, so that it never holds up the others.
    After settings.give_up_after failures in a row the rest is left for the next call, and so are the lines of a server that
    asks for a pause of more than downloads.MAX_WAIT_S (pacer.closed names it). Raises OSError, naming the folder, when the
    disk has no room for the largest video allowed, and ValueError for a manifest.csv of other columns.
    """
    folder, pacer, failures = Path(folder), pacer or Pacer(), 0
    folder.mkdir(parents=True, exist_ok=True)
    killed = [state for row in rows if (state := _state(row, folder)[0]) and _is_there(state, folder)]  # may have written no manifest
    before = list(dict.fromkeys(_listed(folder) + killed))
    found = [_earlier(row, folder, settings) for row in rows]
    waiting = [index for index, row in enumerate(found) if row.status == "failed"]
    waiting.sort(key=lambda index: found[index] != rows[index])  # the untried first
    try:
        for index in watch(waiting, len(waiting)):
            require_free_space(folder, settings.limits.max_bytes)
            try:
                found[index] = fetch_row(rows[index], folder, settings, pacer)
            except NotAskedError as error:
                found[index] = replace(found[index], message=str(error))
                continue  # no failure: other servers may be well
            failures = failures + 1 if found[index].status == "failed" else 0
            if failures == settings.give_up_after:
                break
    finally:
        if found:
            _write_manifest(folder, found, before)
    return found


def _listed(folder: Path) -> list[FetchRow]:
    """The rows of an earlier manifest.csv whose videos are there."""
    manifest = folder / "manifest.csv"
    remedy = "remove it and fetch each list of this folder again: what is there is not asked again"
    lines = read_csv(manifest, COLUMNS, remedy) if manifest.exists() else []
    return [row for row in map(_written, lines) if _is_there(row, folder)]


def _write_manifest(folder: Path, found: list[FetchRow], before: list[FetchRow]) -> None:
    """Write what became of a list. Rows of `before` stay unless it settled their id and url; videos without a row go."""
    settled = {(row.id, row.url) for row in found if row.status != "failed"}
    rows = found + [row for row in before if (row.id, row.url) not in settled]
    for path in {row.path for row in before} - {row.path for row in rows}:
        (folder / path).unlink(missing_ok=True)
    write_rows(folder / "manifest.csv", rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 when every line is settled, 2 when some should be tried again."""
    parser = argparse.ArgumentParser(
        prog="python -m ss3d_lib.fetch", description="Fetch the videos of a list into a folder, politely.",
        epilog="You answer for what you fetch: the site's terms (YouTube's forbid downloads without permission), each "
        "video's licence, and the privacy of those it shows.",
    )  # fmt: skip
    limits, pacer = Limits(), Pacer(interval_s=5.0, bytes_per_s=2e6)
    parser.add_argument("list", type=Path, help="CSV with the columns id, url, licence (youtube8m writes one)")
    parser.add_argument("--out", type=Path, required=True,
                        help="the folder; `curate: videos:` reads FOLDER/videos; what other lists brought there stays")  # fmt: skip
    parser.add_argument("--licences", nargs="+", required=True, metavar="NAME",
                        help="allowed, e.g. cc-by cc0; 'unknown' allows videos that state none, 'any' all")  # fmt: skip
    parser.add_argument("--resolution-px", type=whole(1), default=limits.resolution_px, help="short side asked for (default: %(default)s)")
    parser.add_argument("--max-mb", type=real(0, above=True), default=limits.max_bytes / 1e6, help="largest file (default: %(default)s)")
    parser.add_argument("--interval-s", type=real(0), default=pacer.interval_s, help="least time between videos (default: %(default)s)")
    parser.add_argument("--rate-mb-s", type=real(0), default=pacer.bytes_per_s / 1e6, help="0: no limit (default: %(default)s)")
    parser.add_argument("--via", choices=["auto", "http", "yt-dlp"], default="auto", help="auto: yt-dlp for YouTube, http for the rest")
    options = parser.parse_args(arguments)
    limits = Limits(resolution_px=options.resolution_px, max_bytes=int(options.max_mb * 1e6))
    settings = FetchSettings(tuple(options.licences), limits, options.via)
    try:
        pacer = Pacer(options.interval_s, options.rate_mb_s * 1e6)
        rows = fetch_list(read_list(options.list), options.out, settings, pacer, partial(progress, label="fetching videos"))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = {status: sum(row.status == status for row in rows) for status in ("fetched", "refused", "failed")}
    print(f"{options.out / 'manifest.csv'}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    for reason in pacer.closed.values():
        print(reason, file=sys.stderr)
    return 2 if counts["failed"] else 0


if __name__ == "__main__":
    finish(main)
