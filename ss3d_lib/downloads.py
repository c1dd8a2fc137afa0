"""One polite download: over http, or through yt-dlp, into a file that was checked before anything decodes it.

Politeness is a `Pacer` (time between requests, bytes per second, servers that are left alone) and `retried` (exponential
back-off, and the server's own Retry-After). What went wrong is one of two errors: RefusedError will not change by asking
again, TemporaryError may.
Names never come from a server, and nothing is passed to a shell. Introduced in notebook 01.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import av
import requests
import urllib3
import yt_dlp
from yt_dlp.networking.exceptions import HTTPError, TransportError

from ss3d_lib import video
from ss3d_lib.files import DISK, printable

Result = TypeVar("Result")

TYPES = ("video/", "application/octet-stream", "binary/octet-stream", "application/mp4", "application/ogg")
PIECE_BYTES = 1 << 16
MAX_TEXT_BYTES = 4096  # the longest answer of an id mapping
MAX_WAIT_S = 600.0  # a server that asks for a longer pause is not asked again in this run
GIVE_UP_AFTER = 10  # failures in a row: the server, or the network, wants no more of us
TOO_OFTEN = ("not a bot", "rate-limited", "try again later", "captcha")  # YouTube's words for: you ask too often
NO_FORMAT = "requested format is not available"  # also what an old yt-dlp says of a video that has formats
SIGNATURES = (  # first bytes, suffix: the containers we let FFmpeg open; a playlist could name files of this machine
    (rb".{4}ftyp", ".mp4"), (rb".{4}(moov|mdat|wide)", ".mov"), (rb"\x1aE\xdf\xa3", ".mkv"), (rb"RIFF.{4}AVI ", ".avi"),
    (rb"FLV", ".flv"), (rb"OggS", ".ogv"), (rb"\x00\x00\x01\xba", ".mpg"), (rb"\x30\x26\xb2\x75", ".wmv"),
    (rb"G.{187}G", ".ts"),
)  # fmt: skip
DEMUXERS = "mov,matroska,avi,flv,ogg,mpeg,asf,mpegts"  # of the signatures: FFmpeg judges by more than the first bytes


class RefusedError(Exception):
    """Asking again would give the same: gone, not a video, too large, or under a licence that was not allowed."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status  # of the HTTP answer, if that was the reason


class TemporaryError(Exception):
    """May go well later: a time-out, a cut connection, a server in trouble or one that wants us to wait."""

    def __init__(self, message: str, wait_s: float = 0.0):
        super().__init__(message)
        self.wait_s = wait_s  # what the server asked for


class NotAskedError(TemporaryError):
    """Nothing was sent: this server asked for a longer pause, earlier in this run."""


@dataclass
class Pacer:
    """At least `interval_s` between requests, at most `bytes_per_s` (0: no limit), `attempts` with growing pauses.

    `closed` says of each server that asked for a pause of more than MAX_WAIT_S why it is not asked again.
    """

    interval_s: float = 1.0
    bytes_per_s: float = 0.0
    attempts: int = 4
    back_off_s: float = 2.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    closed: dict[str, str] = field(default_factory=dict)
    _next_s: float = field(default=float("-inf"), repr=False)

    @contextmanager
    def asking(self, server: str) -> Iterator[None]:
        """One request: entered when it may be sent. Raises NotAskedError for a closed server; a TemporaryError may close it."""
        if server in self.closed:
            raise NotAskedError(self.closed[server], math.inf)
        pause_s = self._next_s - self.clock()
        if pause_s > 0:
            self.sleep(pause_s)
        self._next_s = self.clock() + self.interval_s
        try:
            yield
        except TemporaryError as error:
            if error.wait_s <= MAX_WAIT_S:
                raise
            self.closed[server] = f"{server} asks for a pause of {error.wait_s:.0f} s: run the same command again after it"
            raise TemporaryError(f"{error}; {self.closed[server]}", error.wait_s) from error

    def throttle(self, done_bytes: int, start_s: float) -> None:
        """Sleep until `done_bytes` since `start_s` are no faster than allowed."""
        early_s = start_s + done_bytes / self.bytes_per_s - self.clock() if self.bytes_per_s else 0.0
        if early_s > 0:
            self.sleep(early_s)


@dataclass(frozen=True)
class Limits:
    """What one download may take."""

    resolution_px: int = 480  # short side that is asked of yt-dlp; more than twice the working size is wasted
    max_bytes: int = 500_000_000  # ten minutes of 480p are about 100 MB
    silence_s: float = 30.0  # a server that says nothing for so long
    total_s: float = 1800.0  # one that drips; more where our own limit of the rate needs more, see allowed_s


def retried(action: Callable[[], Result], pacer: Pacer) -> Result:
    """action(), again after a TemporaryError: back_off_s, then twice that, ... or as long as the server asks.

    A pause of more than MAX_WAIT_S is neither made nor shortened: the error is raised at once.
    """
    for attempt in range(pacer.attempts):
        try:
            return action()
        except TemporaryError as error:
            if attempt + 1 == pacer.attempts or error.wait_s > MAX_WAIT_S:
                raise
            pacer.sleep(max(pacer.back_off_s * 2**attempt, error.wait_s))
    raise ValueError(f"attempts must be at least 1, not {pacer.attempts}")


def get_text(url: str, pacer: Pacer, silence_s: float = 30.0) -> str:
    """The beginning of a small text; bytes that are no ASCII become '?'. Raises RefusedError, TemporaryError."""
    with _response(url, pacer, silence_s) as response:
        return next(response.iter_content(MAX_TEXT_BYTES), b"").decode("ascii", "replace")


def download_http(url: str, target: Path, limits: Limits, pacer: Pacer) -> None:
    """Write what an http(s) URL gives to `target`. Raises RefusedError, TemporaryError; `target` may then be partial."""
    with _response(url, pacer, limits.silence_s) as response, open(target, "wb") as file:
        kind = response.headers.get("Content-Type", "application/octet-stream").lower()
        if not kind.startswith(TYPES):
            raise RefusedError(f"content type {kind!r} is no video")
        length = response.headers.get("Content-Length", "")
        expected = int(length) if re.fullmatch("[0-9]{1,18}", length) and "Content-Encoding" not in response.headers else -1
        _check_size(expected, limits)
        start_s, done = pacer.clock(), 0
        while piece := response.raw.read1(PIECE_BYTES, decode_content=True):  # what has come, so that a drip is noticed
            done += file.write(piece)
            _check_size(done, limits)
            _check_time(done, pacer.clock() - start_s, limits, pacer)
            pacer.throttle(done, start_s)
    if expected >= 0 and done != expected:
        raise TemporaryError(f"cut off: {done} of {expected} bytes came")


@contextmanager
def _response(url: str, pacer: Pacer, silence_s: float) -> Iterator[requests.Response]:
    """A streamed answer with status 200; every other outcome is one of our two errors."""
    with pacer.asking(urlsplit(url).netloc):
        try:
            # identity: Content-Length is then the length of what is written
            with requests.get(url, stream=True, timeout=silence_s, headers={"Accept-Encoding": "identity"}) as response:
                if response.status_code != 200:
                    raise _status_error(response.status_code, response.headers, f"HTTP status {response.status_code}")
                yield response
        except (ValueError, requests.exceptions.TooManyRedirects) as error:  # ValueError: an address, or a redirect, that is none
            raise RefusedError(f"{type(error).__name__}: {error}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise TemporaryError(f"{type(error).__name__}: {error}") from error


def _status_error(status: int, headers: Mapping[str, str], text: str) -> Exception:
    if status in (408, 425, 429) or status >= 500:
        return TemporaryError(text, _seconds(headers.get("Retry-After", "")))
    return RefusedError(text, status)


def _seconds(retry_after: str) -> float:
    """The header Retry-After (RFC 9110: seconds, or a date) in seconds from now; 0 for anything else."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise RefusedError(f"larger than {limits.max_bytes} bytes")


def allowed_s(limits: Limits, pacer: Pacer) -> float:
    """How long a download may take, in s: total_s, or twice what the largest file takes at our own rate."""
    own_s = limits.max_bytes / pacer.bytes_per_s if pacer.bytes_per_s else 0.0
    return max(limits.total_s, 2 * own_s)


def _check_time(done: int, seconds: float, limits: Limits, pacer: Pacer) -> None:
    if seconds > allowed_s(limits, pacer):
        raise TemporaryError(f"too slow: {done} bytes in {seconds:.0f} s")


def download_yt_dlp(
    url: str, target: Path, limits: Limits, pacer: Pacer, allow: Callable[[str], None], site: str, listed: str = ""
) -> str:
    """Write the pictures (no sound) of a video that yt-dlp can find to `target`; returns its licence, "" if unknown.

    Args:
        allow: raises RefusedError for a licence; called before the download.
        site: the yt-dlp extractors that may handle the URL, e.g. "youtube" or "default" (all).
        listed: the licence of a video whose site states none; not of one of YouTube, on whatever page: what states none
            there has all rights reserved.
    """
    licences = []

    def inspect(info: dict, *, incomplete: bool = False) -> None:
        if not incomplete:
            unstated = "" if str(info.get("extractor_key")).startswith("Youtube") else listed
            licences.append(printable(info.get("license") or unstated))
            allow(licences[-1])
            if info.get("is_live"):
                raise RefusedError("a live stream has no end")

    def watch(state: dict) -> None:
        done = max(state.get("downloaded_bytes") or 0, state.get("total_bytes") or 0)
        _check_size(done, limits)
        _check_time(done, pacer.clock() - start_s, limits, pacer)

    options = _yt_dlp_options(target, limits, pacer, site) | {"match_filter": inspect, "progress_hooks": [watch]}
    with pacer.asking(urlsplit(url).netloc if site == "default" else site):
        start_s = pacer.clock()
        try:
            with yt_dlp.YoutubeDL(options) as client:
                client.extract_info(url)
        except yt_dlp.utils.YoutubeDLError as error:
            raise _yt_dlp_error(error) from error
    if not target.is_file():
        raise RefusedError("yt-dlp found no video there")
    return licences[-1]


def _yt_dlp_options(target: Path, limits: Limits, pacer: Pacer, site: str) -> dict:
    return {
        "outtmpl": {"default": str(target).replace("%", "%%")},  # a fixed name: no title, no suffix from a server
        "format": "bv[protocol^=http]/b[protocol^=http]",  # one file without sound: nothing to merge, so no ffmpeg runs
        "format_sort": [f"res:{limits.resolution_px}", "vcodec:h264"],  # res is the short side, so portraits are right
        "allowed_extractors": [site],
        "playlist_items": "1",
        "noplaylist": True,
        "fixup": "never",
        "cachedir": False,
        "retries": 0,  # retried() is the only one that asks again
        "extractor_retries": 0,
        "fragment_retries": 2,
        "socket_timeout": limits.silence_s,
        "ratelimit": pacer.bytes_per_s or None,
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silent(),
    }


class _Silent:
    """What yt-dlp says ends in the manifest, through its exception."""

    def debug(self, message: str) -> None:
        pass

    warning = error = debug


def _yt_dlp_error(error: Exception) -> Exception:
    """One of our two errors, by the HTTP status if there was one (what YouTube says of a video is final), or a full disk's own."""
    text, link, expected = str(error).removeprefix("ERROR: "), error, False
    while link is not None:
        if isinstance(link, OSError) and link.errno in DISK:
            return link
        if isinstance(link, HTTPError):
            return _status_error(link.status, link.response.headers, text)
        if isinstance(link, TransportError) or any(words in str(link).lower() for words in TOO_OFTEN):
            return TemporaryError(text)
        if NO_FORMAT in str(link).lower():
            return TemporaryError(f"{text} (perhaps yt-dlp is outdated, or finds no JavaScript runtime: update it)")
        expected = expected or getattr(link, "expected", False) or "No suitable extractor" in str(link)
        inner = getattr(link, "cause", None) or (getattr(link, "exc_info", None) or (None, None))[1]
        link = inner or link.__cause__ or link.__context__
    return RefusedError(text) if expected else TemporaryError(text)


def check_video(path: Path) -> str:
    """The suffix of a downloaded video, from its first bytes. Raises RefusedError (no video), TemporaryError (cut)."""
    with open(path, "rb") as file:
        head = file.read(189)
    suffix = next((end for mark, end in SIGNATURES if re.match(mark, head, re.DOTALL)), "")
    if not suffix:
        raise RefusedError("not a video file: it begins like no container that is read here")
    try:
        _require_pictures(path)
        info = video.probe(path)
        missing = video.missing_tail(info, _last_time_s(path)) and video.missing_tail(info, _end_s(path))
    except (video.VideoError, av.error.FFmpegError) as error:
        raise TemporaryError(f"cannot be decoded, perhaps cut off: {str(error).removeprefix(f'{path}: ')}") from error
    if missing:
        raise TemporaryError(missing.split(";")[0])
    return suffix


def _require_pictures(path: Path) -> None:
    """Raises RefusedError for what FFmpeg would read as another container, and for sound or data alone; decodes nothing."""
    try:
        with av.open(video.address(path), container_options={"format_whitelist": DEMUXERS}) as container:
            pictures = len(container.streams.video)
    except av.error.ArgumentError as error:
        raise RefusedError("not a video file: it only begins like a container that is read here") from error
    if not pictures:
        raise RefusedError("holds no pictures, only sound or data")


def _end_s(path: Path) -> float:
    """End of the last packet of any stream after the first one, in s: sound may go on after the pictures. Decodes nothing."""
    with av.open(video.address(path)) as container:
        packets = [(packet.pts, packet.duration or 0, packet.time_base) for packet in container.demux() if packet.pts is not None]
    ends_s = [float((start + length) * base) for start, length, base in packets]
    return max(ends_s) - min(float(start * base) for start, _, base in packets) if packets else 0.0


def _last_time_s(path: Path) -> float:
    """Time of the last frame after the first one, in s; only the end is decoded where it holds a key frame, else all."""
    with av.open(video.address(path)) as container:
        stream = container.streams.video[0]
        first_s = next(container.decode(stream)).time or 0.0
        for start_us in (max(0, (container.duration or 0) - 1_000_000), 0):
            container.seek(start_us)
            times_s = [frame.time for frame in container.decode(stream) if frame.time is not None]
            if times_s:
                break
    return max(times_s, default=first_s) - first_s
