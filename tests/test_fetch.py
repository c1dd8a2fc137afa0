"""Fetching: what arrives is checked, what fails says why, nothing leaves the folder, and a second call asks nothing."""

import csv
import errno
import hashlib
import io
import itertools
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import av
import numpy as np
import pytest
import yt_dlp
from loopback import Loopback, Page

from ss3d_lib import downloads, fetch, video
from ss3d_lib.downloads import Limits, Pacer, RefusedError, TemporaryError, check_video, download_http, retried
from ss3d_lib.fetch import FetchRow, FetchSettings, fetch_list

ANY = FetchSettings(("any",))


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now_s, self.pauses = 0.0, []

    def sleep(self, seconds):
        self.now_s += seconds
        self.pauses.append(seconds)


def quick(**values) -> Pacer:
    return Pacer(**{"interval_s": 0, "sleep": lambda seconds: None} | values)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of 4 s, 96 x 64, that cannot be compressed away."""
    frames = np.random.default_rng(0).integers(0, 255, (40, 64, 96, 3)).astype(np.uint8)
    return video.write_video(tmp_path_factory.mktemp("made") / "clip.mp4", frames, 10).read_bytes()


@pytest.fixture
def server(monkeypatch, clip):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Loopback() as server:
        server.pages["/a.mp4"] = Page(clip)
        yield server


def manifest_of(folder):
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def one(server, folder, page, settings=ANY, pacer=None, row=None):
    server.pages["/x.mp4"] = page
    return fetch_list([row or FetchRow("x", server.url("/x.mp4"))], folder, settings, pacer or quick())[0]


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
def test_happy_path(server, tmp_path, clip, via):
    rows = [FetchRow("first", server.url("/a.mp4"), licence="CC BY 4.0"), FetchRow("same", server.url("/a.mp4"))]
    found = fetch_list(rows, tmp_path / "out", FetchSettings(("cc-by", "unknown"), via=via), quick())
    digest = hashlib.sha256(clip).hexdigest()
    assert [row.status for row in found] == ["fetched", "fetched"], found
    assert {row.path for row in found} == {f"videos/{digest[:2]}/{digest}.mp4"} and found[0].sha256 == digest
    assert [row.licence for row in found] == ["CC BY 4.0", ""]
    lines = manifest_of(tmp_path / "out")
    assert list(lines[0]) == ["id", "url", "path", "sha256", "licence", "status", "message"] and len(lines) == 2
    assert len(video.find_videos(tmp_path / "out" / "videos")) == 1  # what curate reads
    assert not [name for name in files_of(tmp_path) if ".part" in name]


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
def test_what_is_gone_is_refused_and_not_asked_again(server, tmp_path, via):
    settings = FetchSettings(("any",), via=via)
    row = one(server, tmp_path, Page(b"", "text/html", 404), settings)
    assert row.status == "refused" and "404" in row.message
    asked = len(server.asked)
    assert one(server, tmp_path, Page(b"", "text/html", 404), settings) == row and len(server.asked) == asked


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
def test_back_off(server, tmp_path, clip, via):
    clock = Clock()
    settings = FetchSettings(("any",), via=via)
    row = one(server, tmp_path, Page(clip, fails=2), settings, Pacer(0, sleep=clock.sleep, clock=lambda: clock.now_s))
    assert row.status == "fetched" and clock.pauses == [2, 4]
    clock.pauses.clear()
    row = one(server, tmp_path / "b", Page(clip, fails=99), settings, Pacer(0, sleep=clock.sleep, clock=lambda: clock.now_s))
    assert row.status == "failed" and "503" in row.message and clock.pauses == [2, 4, 8]


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
def test_the_server_may_ask_for_a_longer_pause(server, tmp_path, clip, via):
    clock, settings = Clock(), FetchSettings(("any",), via=via)
    page = Page(clip, fails=2, fail_status=429, headers={"Retry-After": "30"})
    assert one(server, tmp_path, page, settings, Pacer(0, sleep=clock.sleep)).status == "fetched"
    assert clock.pauses == [30, 30]
    clock.pauses.clear()
    page = Page(clip, fails=1, fail_status=429, headers={"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=60))})
    assert one(server, tmp_path / "a", page, settings, Pacer(0, sleep=clock.sleep)).status == "fetched"
    assert 50 < clock.pauses[0] <= 60
    clock.pauses.clear()
    page = Page(clip, fails=1, headers={"Retry-After": "600"})
    assert one(server, tmp_path / "b", page, settings, Pacer(0, sleep=clock.sleep)).status == "fetched"
    assert clock.pauses == [600]


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
def test_a_server_that_asks_for_a_long_pause_is_left_for_the_next_call(server, tmp_path, clip, via):
    clock, settings = Clock(), FetchSettings(("any",), via=via)
    server.pages["/b.mp4"] = Page(clip, fails=9, fail_status=429, headers={"Retry-After": "3600"})
    rows = [FetchRow("busy", server.url("/b.mp4")), *(FetchRow(f"same{i}", server.url("/a.mp4")) for i in range(12))]
    with Loopback() as other:
        other.pages["/a.mp4"] = Page(clip)
        rows.append(FetchRow("other", other.url("/a.mp4")))
        pacer = Pacer(0, sleep=clock.sleep)
        found = fetch_list(rows, tmp_path, settings, pacer)
    assert clock.pauses == [] and server.asked == ["/b.mp4"]  # neither shortened nor asked again
    assert [row.status for row in found] == 13 * ["failed"] + ["fetched"] and "429" in found[0].message
    said = f"{server.url().removeprefix('http://')} asks for a pause of 3600 s: run the same command again after it"
    assert all(said in row.message for row in found[:13]) and list(pacer.closed.values()) == [said]
    assert not [row for row in rows[1:13] if fetch._state_file(row, tmp_path).exists()]  # untried still: the first to be asked
    server.pages["/b.mp4"].fails = 0
    assert {row.status for row in fetch_list(rows, tmp_path, settings, quick())} == {"fetched"}
    assert server.asked[1] == "/a.mp4" and server.asked[-1] == "/b.mp4"


def test_the_command_line_names_a_server_that_asks_for_a_long_pause(server, tmp_path, clip, capsys):
    server.pages["/b.mp4"] = Page(clip, fails=1, fail_status=503, headers={"Retry-After": "7200"})
    (tmp_path / "list.csv").write_text(f"id,url\na,{server.url('/b.mp4')}\nb,{server.url('/a.mp4')}\n")
    assert fetch.main([str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"), "--interval-s", "0", "--licences", "any"]) == 2
    said = capsys.readouterr()
    assert "0 fetched, 0 refused, 2 failed" in said.out and server.asked == ["/b.mp4"]
    assert "asks for a pause of 7200 s: run the same command again" in said.err


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
def test_silence_is_a_timeout(server, tmp_path, clip, via):
    settings = FetchSettings(("any",), Limits(silence_s=0.2), via)
    row = one(server, tmp_path, Page(clip, wait_s=1.0), settings, quick(attempts=2))
    assert row.status == "failed" and "timed out" in row.message.lower()


def test_a_drip_is_noticed(server, tmp_path, clip):
    settings = FetchSettings(("any",), Limits(silence_s=5, total_s=0.3))
    row = one(server, tmp_path, Page(clip, drip_s=0.1), settings, quick(attempts=1))
    assert row.status == "failed" and "too slow" in row.message


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
@pytest.mark.parametrize(("seconds", "status"), [(150, "fetched"), (250, "failed")])
def test_our_own_rate_is_no_drip(server, tmp_path, clip, via, seconds, status):
    """At 10 MB/s the largest file allowed takes 100 s, so twice that may pass, whatever total_s says."""
    times_s = itertools.chain([0.0] * 3, itertools.repeat(float(seconds)))  # two questions before the request, one at its start
    settings = FetchSettings(("any",), Limits(total_s=10, max_bytes=10**9), via)
    row = one(server, tmp_path, Page(clip), settings, quick(bytes_per_s=1e7, attempts=1, clock=lambda: next(times_s)))
    assert row.status == status and ("too slow" in row.message) == (status == "failed")


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
@pytest.mark.parametrize("length", [True, False])
def test_cut_downloads_fail_and_leave_nothing(server, tmp_path, clip, via, length):
    row = one(server, tmp_path, Page(clip, short=len(clip) // 2, length=length), FetchSettings(("any",), via=via))
    assert row.status == "failed" and row.path == "" and not list(tmp_path.rglob("*.mp4")), row
    assert all(name == "manifest.csv" or name.startswith("state/") for name in files_of(tmp_path))
    row = one(server, tmp_path, Page(clip), FetchSettings(("any",), via=via))
    assert row.status == "fetched"  # a failure, unlike a refusal, is asked again


def test_a_cut_tail_behind_a_whole_index_is_noticed(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (60, 64, 96, 3)).astype(np.uint8)
    whole = video.write_video(tmp_path / "a.mkv", frames, 10).read_bytes()  # matroska: readable from the front
    (tmp_path / "b").write_bytes(whole)
    assert check_video(tmp_path / "b") == ".mkv"
    (tmp_path / "b").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TemporaryError, match="truncated|cannot be decoded"):
        check_video(tmp_path / "b")


def test_sound_may_go_on_after_the_pictures(tmp_path):
    """Matroska says only how long the whole is: 4 s of pictures and 6 s of sound are a whole file, and half of it is not."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        pictures, sound = container.add_stream("mpeg4", rate=10), container.add_stream("pcm_s16le", rate=8000)
        pictures.width, pictures.height, pictures.pix_fmt = 96, 64, "yuv420p"
        for image in np.random.default_rng(0).integers(0, 255, (40, 64, 96, 3)).astype(np.uint8):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(pictures.encode())
        for second in range(6):
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            piece.sample_rate, piece.pts = 8000, 8000 * second
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    whole = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "b").write_bytes(whole)
    assert check_video(tmp_path / "b") == ".mkv"
    (tmp_path / "b").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TemporaryError, match="truncated|cannot be decoded"):
        check_video(tmp_path / "b")


@pytest.mark.parametrize("words", ["Sign in to confirm you're not a bot", "This content isn't available, try again later", "The current session has been rate-limited by YouTube"])
def test_a_site_that_wants_fewer_questions_is_asked_again_later(words):
    asked_too_often = yt_dlp.utils.DownloadError("no", (None, yt_dlp.utils.ExtractorError(words, expected=True), None))
    assert isinstance(downloads._yt_dlp_error(asked_too_often), TemporaryError)
    gone = yt_dlp.utils.DownloadError("no", (None, yt_dlp.utils.ExtractorError("Video unavailable", expected=True), None))
    assert isinstance(downloads._yt_dlp_error(gone), RefusedError)


def test_a_video_without_formats_is_asked_again_after_an_upgrade(server, tmp_path, monkeypatch):
    plain = yt_dlp.extractor.generic.GenericIE._real_extract
    old = lambda self, url: plain(self, url) | {"formats": [{"url": url, "format_id": "1", "ext": "mp4", "protocol": "m3u8_native"}]}
    call = lambda: fetch_list([FetchRow("x", server.url("/a.mp4"))], tmp_path, FetchSettings(("any",), via="yt-dlp"), quick(attempts=1))[0]
    with monkeypatch.context() as patch:
        patch.setattr(yt_dlp.extractor.generic.GenericIE, "_real_extract", old)
        row = call()
    assert row.status == "failed" and "Requested format is not available" in row.message and "update it" in row.message
    assert call().status == "fetched"


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json", "image/png", "application/vnd.apple.mpegurl"])
def test_other_content_types_are_refused(server, tmp_path, clip, kind):
    row = one(server, tmp_path, Page(clip, kind))
    assert row.status == "refused" and kind.split(";")[0] in row.message


@pytest.mark.parametrize(
    "body",
    [b"<html>sorry</html>", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"", b"\x89PNG\r\n"],
)
def test_what_only_claims_to_be_a_video_is_never_decoded(server, tmp_path, body, monkeypatch):
    monkeypatch.setattr(video, "probe", lambda path: pytest.fail("a decoder opened it"))
    assert one(server, tmp_path, Page(body)).status == "refused"


def test_what_ffmpeg_would_read_as_something_else_is_never_decoded(server, tmp_path, monkeypatch):
    with av.open(str(tmp_path / "a.gif"), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb8"
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24").reformat(format="rgb8")
        container.mux([*stream.encode(picture), *stream.encode(None)])
    body = bytearray((tmp_path / "a.gif").read_bytes())
    body[188] = ord("G")  # like a transport stream
    monkeypatch.setattr(video, "probe", lambda path: pytest.fail("a decoder opened it"))
    row = one(server, tmp_path / "out", Page(bytes(body)))
    assert row.status == "refused" and "only begins like" in row.message


def test_sound_alone_is_refused_at_once(server, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    row = one(server, tmp_path / "out", Page((tmp_path / "sound.mp4").read_bytes()))
    assert row.status == "refused" and "only sound" in row.message and len(server.asked) == 1


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", ".mp4"), ("libx264", ".mkv"), ("mpeg4", ".avi"), ("libx264", ".flv"),
                                               ("mpeg2video", ".mpg"), ("wmv2", ".wmv"), ("libx264", ".ts")])  # fmt: skip
def test_every_container_that_is_read_passes(tmp_path, codec, suffix):
    frames = np.random.default_rng(0).integers(0, 255, (30, 64, 96, 3)).astype(np.uint8)
    video.write_video(tmp_path / f"a{suffix}", frames, 25, codec)
    assert check_video((tmp_path / f"a{suffix}").rename(tmp_path / "a")) == suffix


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
@pytest.mark.parametrize("length", [True, False])
def test_size_cap(server, tmp_path, clip, via, length):
    settings = FetchSettings(("any",), Limits(max_bytes=len(clip) - 1), via)
    row = one(server, tmp_path, Page(clip, length=length), settings)
    assert row.status == "refused" and "larger than" in row.message and not list(tmp_path.rglob("*.mp4"))


TRICKS = ["../x", "/etc/passwd", "..", "$(touch pwned)", "a;touch pwned", "`id`", "-o", "a b", "a\x00b", "é", "x" * 65, "", "%(title)s/x", "C:\\x"]


@pytest.mark.parametrize("name", TRICKS)
def test_ids_with_tricks(server, tmp_path, name, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # where a shell would leave its traces
    before = files_of(tmp_path)
    row = fetch_list([FetchRow(name, server.url("/a.mp4"))], tmp_path / "out", ANY, quick())[0]
    if name == "-o":  # plain characters: it names nothing, so it does no harm
        assert row.status == "fetched" and row.path.startswith("videos/")
    else:
        assert row.status == "refused" and "only letters" in row.message and not server.asked
    assert all(path.startswith("out/") for path in files_of(tmp_path) if path not in before)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/a", "http://", "https://user:pw@host/a", "http://host/a b", "--exec=id", "ytsearch:cat",
     "javascript:1", "http://a..b/", "http://.x/", f"http://{'a' * 70}.com/", "http://[bad/", "http://host/" + "a" * 2000, "http://host/é", "//host/a"],
)  # fmt: skip
@pytest.mark.parametrize("via", ["auto", "yt-dlp"])
def test_urls_with_tricks(tmp_path, url, via):
    row = fetch_list([FetchRow("x", url)], tmp_path, FetchSettings(("any",), via=via), quick())[0]
    assert row.status == "refused" and "only plain http" in row.message


@pytest.mark.parametrize(
    ("via", "page", "status", "message"),
    [("http", Page(status=302, headers={"Location": "/\xff\xfe"}), "refused", "UnicodeDecodeError"),
     ("http", Page(b"\0\0\0\x18ftyp", length=False, headers={"Content-Length": "9" * 5000}), "failed", "cannot be decoded"),
     ("yt-dlp", Page(b"\0\0\0\x18ftyp", length=False, headers={"Content-Length": "9" * 5000}), "failed", "ValueError: Exceeds")],
)  # fmt: skip
def test_a_hostile_answer_stops_no_other_line(server, tmp_path, via, page, status, message):
    server.pages["/x.mp4"] = page
    rows = [FetchRow("x", server.url("/x.mp4")), FetchRow("good", server.url("/a.mp4"))]
    found = fetch_list(rows, tmp_path, FetchSettings(("any",), via=via), quick(attempts=1))
    assert found[0].status == status and message in found[0].message and found[1].status == "fetched", found


def test_a_mistake_of_an_extractor_stops_no_other_line(server, tmp_path, monkeypatch):
    plain = yt_dlp.extractor.generic.GenericIE._real_extract
    broken = lambda self, url: plain(self, url) if url.endswith("/a.mp4") else len(None)
    monkeypatch.setattr(yt_dlp.extractor.generic.GenericIE, "_real_extract", broken)
    rows = [FetchRow("x", server.url("/x.mp4")), FetchRow("good", server.url("/a.mp4"))]
    found = fetch_list(rows, tmp_path, FetchSettings(("any",), via="yt-dlp"), quick())
    assert found[0].status == "failed" and found[0].message == "TypeError: object of type 'NoneType' has no len()"
    assert found[1].status == "fetched"


class FullDisk(io.RawIOBase):
    """A file for which there is no room."""

    def writable(self):
        return True

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
@pytest.mark.parametrize("size", [100, 100_000])  # noticed when the file is closed, and before
def test_a_full_disk_stops_with_a_remedy(server, tmp_path, clip, via, size, monkeypatch):
    monkeypatch.setattr(downloads, "open", lambda path, mode: io.BufferedWriter(FullDisk()), raising=False)
    monkeypatch.setattr(yt_dlp.downloader.common, "sanitize_open", lambda name, mode: (io.BufferedWriter(FullDisk()), name))
    server.pages["/a.mp4"] = Page(clip[:size])
    rows = [FetchRow("x", server.url("/a.mp4")), FetchRow("y", server.url("/y.mp4"))]
    with pytest.raises(OSError, match="the disk is full: .*then the same command goes on.*video"):
        fetch_list(rows, tmp_path, FetchSettings(("any",), via=via), quick())
    assert set(server.asked) == {"/a.mp4"} and [line["status"] for line in manifest_of(tmp_path)] == ["failed", "failed"]


def test_without_room_for_a_video_nothing_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 999, 1))
    with pytest.raises(OSError, match="needs 0.50 GB"):
        one(server, tmp_path, server.pages["/a.mp4"])
    assert not server.asked


def test_redirects_do_not_leave_http(server, tmp_path):
    for target in ("file:///etc/passwd", "/x.mp4"):
        row = one(server, tmp_path / target.strip("/")[:4], Page(b"", status=302, headers={"Location": target}))
        assert row.status == "refused", row
    row = one(server, tmp_path / "good", Page(b"", status=302, headers={"Location": "/a.mp4"}))
    assert row.status == "fetched"


def test_a_server_names_no_file(server, tmp_path, clip):
    page = Page(clip, headers={"Content-Disposition": 'attachment; filename="../../pwned.sh"'})
    for via in ("http", "yt-dlp"):
        row = one(server, tmp_path / via, page, FetchSettings(("any",), via=via))
        assert row.status == "fetched" and row.path.startswith("videos/")
    assert not list(tmp_path.parent.rglob("*pwned*"))


@pytest.mark.parametrize("via", ["http", "yt-dlp"])
def test_resume_fetches_nothing_again(server, tmp_path, clip, via):
    rows = [FetchRow(str(i), server.url(f"/{i}.mp4")) for i in range(4)]
    server.pages |= {f"/{i}.mp4": Page(clip + bytes(i)) for i in range(4)}

    def interrupted(items, total):
        for index, item in enumerate(items):
            if index == 2:
                raise KeyboardInterrupt
            yield item

    settings = FetchSettings(("any",), via=via)
    with pytest.raises(KeyboardInterrupt):
        fetch_list(rows, tmp_path, settings, quick(), interrupted)
    assert [line["status"] for line in manifest_of(tmp_path)] == ["fetched", "fetched", "failed", "failed"]
    server.asked.clear()
    first = fetch_list(rows, tmp_path, settings, quick())
    assert {path for path in server.asked} == {"/2.mp4", "/3.mp4"} and all(row.status == "fetched" for row in first)
    server.asked.clear()
    text = (tmp_path / "manifest.csv").read_bytes()
    assert fetch_list(rows, tmp_path, settings, quick()) == first and not server.asked
    assert (tmp_path / "manifest.csv").read_bytes() == text
    (tmp_path / first[1].path).unlink()  # somebody removed one
    assert fetch_list(rows, tmp_path, settings, quick()) == first and set(server.asked) == {"/1.mp4"}


def test_a_killed_run_goes_on_and_ends_like_an_undisturbed_one(server, tmp_path, clip):
    server.pages |= {f"/{i}.mp4": Page(clip + bytes(i)) for i in range(3)}
    server.pages["/1.mp4"].wait_s = 60  # it is killed while it waits for the second file
    text = "id,url\n" + "".join(f"v{i},{server.url(f'/{i}.mp4')}\n" for i in range(3))
    (tmp_path / "list.csv").write_text(text)
    command = [sys.executable, "-m", "ss3d_lib.fetch", tmp_path / "list.csv", "--out", tmp_path / "a"]
    process = subprocess.Popen([*command, "--interval-s", "0", "--licences", "any"])
    deadline_s = time.monotonic() + 60
    while "/1.mp4" not in server.asked and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert server.asked == ["/0.mp4", "/1.mp4"]
    server.pages["/1.mp4"].wait_s = 0
    for name, asked in (("a", ["/1.mp4", "/2.mp4"]), ("b", ["/0.mp4", "/1.mp4", "/2.mp4"])):
        server.asked.clear()
        fetch_list(fetch.read_list(tmp_path / "list.csv"), tmp_path / name, ANY, quick())
        assert server.asked == asked
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    made = [name for name in files_of(tmp_path / "a") if not name.startswith("state/")]
    assert len(made) == 4 and all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in made)


def test_licences(server, tmp_path):
    rows = [FetchRow(str(i), server.url("/a.mp4"), licence=text) for i, text in enumerate(["CC BY 4.0", "cc0", "CC BY-NC", ""])]
    statuses = lambda *licences: [row.status for row in fetch_list(rows, tmp_path, FetchSettings(licences), quick())]
    assert statuses("cc-by") == ["fetched", "refused", "refused", "refused"]
    assert statuses("CC0", "unknown") == ["refused", "fetched", "refused", "fetched"]  # other settings, other answer
    assert statuses("any") == ["fetched"] * 4


@pytest.mark.parametrize(
    ("family", "texts"),
    [("cc-by", ["Creative Commons Attribution license (reuse allowed)", "https://creativecommons.org/licenses/by/4.0/", "CC_BY",
                "http://creativecommons.org/licenses/by/3.0/us/", "CC BY 3.0 US", "cc-by-2.5-scotland", "CC BY 4.0 International"]),
     ("cc0", ["CC0", "CC0 1.0 Universal", "http://creativecommons.org/publicdomain/zero/1.0/",
              "creativecommons.org/publicdomain/zero/1.0/deed.de"]),
     ("cc-by-nc", ["CC BY-NC 3.0 US", "https://creativecommons.org/licenses/by-nc/4.0/"]), ("cc-by-sa", ["CC BY-SA 2.0 DE"]),
     ("unknown", ["", " "])],
)  # fmt: skip
def test_names_of_the_same_licence(family, texts):
    assert {fetch.plain_licence(text) for text in texts} == {family}


@pytest.mark.parametrize(
    "text",
    ["CC BY-NC", "CC BY-ND 4.0", "CC BY 3.0 NC", "CC BY 3.0 ND", "CC BY 4.0 SA", "cc-by-3.0-us-nc",
     "CC BY 4.0, not commercial", "CC BY NC 3.0 US", "https://creativecommons.org/licenses/by-nc-nd/3.0/us/",
     "https://creativecommons.org/licenses/by/4.0/ or by-nc",
     "no: creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/publicdomain/mark/1.0/"],
)  # fmt: skip
def test_other_licences_pass_neither_as_cc_by_nor_as_cc0(text):
    with pytest.raises(RefusedError, match="is not among those allowed"):
        fetch.licence_check(["cc-by", "cc0"])(text)


def test_a_video_whose_licence_is_no_longer_allowed_goes(server, tmp_path):
    rows = [FetchRow("x", server.url("/a.mp4"), licence="all rights reserved"), FetchRow("twin", server.url("/a.mp4"), licence="cc0")]
    place = tmp_path / fetch_list(rows, tmp_path, ANY, quick())[0].path
    assert [row.status for row in fetch_list(rows, tmp_path, FetchSettings(("cc0",)), quick())] == ["refused", "fetched"]
    assert place.is_file()  # it is the twin's, too
    assert [row.status for row in fetch_list(rows, tmp_path, FetchSettings(("cc-by",)), quick())] == ["refused", "refused"]
    assert not place.exists() and [line["path"] for line in manifest_of(tmp_path)] == ["", ""]


def test_what_a_killed_call_fetched_goes_too_when_its_licence_is_no_longer_allowed(server, tmp_path):
    row = FetchRow("x", server.url("/a.mp4"), licence="all rights reserved")
    place = tmp_path / fetch.fetch_row(row, tmp_path, ANY, quick()).path  # killed before it wrote manifest.csv
    assert place.is_file() and not (tmp_path / "manifest.csv").exists()
    assert [found.status for found in fetch_list([row], tmp_path, FetchSettings(("cc0",)), quick())] == ["refused"]
    assert not place.exists() and [line["path"] for line in manifest_of(tmp_path)] == [""]


def test_lists_share_a_folder(server, tmp_path, clip):
    server.pages["/b.mp4"] = Page(clip + b"b")
    (first,) = fetch_list([FetchRow("x", server.url("/a.mp4"), licence="cc0")], tmp_path, ANY, quick())
    fetch_list([FetchRow("y", server.url("/b.mp4")), FetchRow("z", "")], tmp_path, FetchSettings(("unknown",)), quick())
    assert [(line["id"], line["licence"]) for line in manifest_of(tmp_path)] == [("y", ""), ("z", ""), ("x", "cc0")]
    server.pages["/a.mp4"].fails = 1
    fetch_list([FetchRow("x", server.url("/a.mp4"), licence="cc-by")], tmp_path, ANY, quick(attempts=1))  # corrected, in vain
    assert [(line["id"], line["status"]) for line in manifest_of(tmp_path)] == [("x", "failed"), ("y", "fetched"), ("x", "fetched")]
    fetch_list([FetchRow("x", server.url("/a.mp4"), licence="cc-by")], tmp_path, ANY, quick())
    assert [(line["id"], line["licence"]) for line in manifest_of(tmp_path)] == [("x", "cc-by"), ("y", "")]
    (tmp_path / first.path).unlink()
    fetch_list([FetchRow("z", "")], tmp_path, ANY, quick())
    assert [line["id"] for line in manifest_of(tmp_path)] == ["z", "y"]
    (tmp_path / "manifest.csv").write_text("id,url\nx,\n")
    with pytest.raises(ValueError, match="manifest.csv: no column path.*remove it and fetch each list"):
        fetch_list([FetchRow("z", "")], tmp_path, ANY, quick())


ROW = '{"id": "x", "url": "", "path": "%s", "sha256": "", "licence": "", "status": "fetched", "message": ""}'


@pytest.mark.parametrize(
    "text", ["{", "", "[]", "null", '{"row": {"idd": 1}, "stamp": ""}', '{"row": "x", "stamp": ""}', f'{{"row": {ROW % "../secret.mp4"}}}',
             f'{{"row": {ROW % "../secret.mp4"}, "stamp": ""}}', f'{{"row": {ROW % "manifest.csv"}, "stamp": ""}}', "\xff"],
)  # fmt: skip
def test_a_damaged_state_is_none(server, tmp_path, text):
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    row = one(server, tmp_path / "out", server.pages["/a.mp4"])
    (state,) = (tmp_path / "out" / "state").rglob("*.json")
    state.write_bytes(text.encode("latin-1"))
    assert one(server, tmp_path / "out", server.pages["/a.mp4"]) == row and len(server.asked) == 2


def test_the_licence_that_the_site_states_counts_and_comes_before_the_download(server, tmp_path, monkeypatch):
    plain = yt_dlp.extractor.generic.GenericIE._real_extract
    stated = lambda self, url: plain(self, url) | {"license": "All rights reserved"}
    monkeypatch.setattr(yt_dlp.extractor.generic.GenericIE, "_real_extract", stated)
    monkeypatch.setattr(yt_dlp.YoutubeDL, "dl", lambda *_, **__: pytest.fail("it was downloaded"))
    row = FetchRow("x", server.url("/a.mp4"), licence="cc-by")  # the list is wrong
    found = fetch_list([row], tmp_path, FetchSettings(("cc-by",), via="yt-dlp"), quick())[0]
    assert found.status == "refused" and "All rights reserved" in found.message


@pytest.mark.parametrize("embedded", [False, True])
def test_on_youtube_no_list_states_a_licence(server, tmp_path, monkeypatch, embedded):
    """A video of YouTube, also on another site's page, that states none has all rights reserved."""
    stated, address = {}, "https://www.youtube.com/watch?v=aaaaaaaaaa1"
    made = lambda self, url: {"id": "aaaaaaaaaa1", "title": "t", "url": server.url("/a.mp4"), "ext": "mp4"} | stated
    monkeypatch.setattr(yt_dlp.extractor.youtube.YoutubeIE, "_real_extract", made)
    monkeypatch.setattr(yt_dlp.extractor.generic.GenericIE, "_real_extract", lambda self, url: self.url_result(address))
    row = FetchRow("aaaaaaaaaa1", server.url("/page") if embedded else address, licence="cc-by")  # says the list
    call = lambda *licences: fetch_list([row], tmp_path, FetchSettings(licences, via="yt-dlp"), quick())[0]
    refused = call("cc-by")
    assert refused.status == "refused" and "licence 'unknown'" in refused.message and not server.asked
    assert (call("unknown").status, call("unknown").licence) == ("fetched", "")
    assert call("cc-by").status == "refused" and not list(tmp_path.rglob("*.mp4"))
    stated["license"] = "Creative Commons Attribution license (reuse allowed)"
    assert call("cc-by", "any").licence == stated["license"]


@pytest.mark.parametrize("url", ["https://www.youtube.com/playlist?list=PL0123456789", "https://youtu.be/", "https://youtube.com/@a"])
def test_playlists_and_channels_are_no_videos(tmp_path, url):
    row = fetch_list([FetchRow("x", url)], tmp_path, ANY, quick())[0]
    assert row.status == "refused" and "No suitable extractor" in row.message  # offline: the URL alone tells


def test_youtube_in_trouble_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nobody listens there
    row = fetch_list([FetchRow("aaaaaaaaaa1", "")], tmp_path, ANY, quick(attempts=1))[0]
    assert row.status == "failed" and "[youtube] aaaaaaaaaa1" in row.message


def test_rate_limits(server, tmp_path, clip):
    clock = Clock()
    pacer = Pacer(5, 1000, sleep=clock.sleep, clock=lambda: clock.now_s)
    for name in ("one", "two", "three"):
        download_http(server.url("/a.mp4"), tmp_path / name, Limits(), pacer)
    assert clock.now_s == pytest.approx(3 * len(clip) / 1000)  # longer than the interval, so only the rate counts
    clock = Clock()
    pacer = Pacer(5, sleep=clock.sleep, clock=lambda: clock.now_s)
    for name in ("one", "two", "three"):
        download_http(server.url("/a.mp4"), tmp_path / name, Limits(), pacer)
    assert clock.pauses == [5, 5]


def test_it_gives_up_when_nothing_comes(server, tmp_path):
    rows = [FetchRow(str(i), server.url("/a.mp4")) for i in range(6)]
    server.pages["/a.mp4"] = Page(status=500)
    found = fetch_list(rows, tmp_path, FetchSettings(("any",), give_up_after=2), quick(attempts=1))
    assert len(server.asked) == 2 and "500" in found[1].message and "not tried yet" in found[2].message


def test_dead_lines_never_hold_up_the_others(server, tmp_path):
    rows = [FetchRow(str(i), server.url(f"/{i}.mp4")) for i in range(3)] + [FetchRow("good", server.url("/a.mp4"))]
    server.pages |= {f"/{i}.mp4": Page(status=500) for i in range(3)}
    call = lambda: fetch_list(rows, tmp_path, FetchSettings(("any",), give_up_after=2), quick(attempts=1))
    assert [row.message[:8] for row in call()] == ["HTTP sta", "HTTP sta", "not trie", "not trie"]
    assert [row.status for row in call()] == ["failed", "failed", "failed", "fetched"]  # untried first
    assert server.asked == ["/0.mp4", "/1.mp4", "/2.mp4", "/a.mp4", "/0.mp4", "/1.mp4"]
    assert call()[3].status == "fetched" and server.asked[6:] == ["/0.mp4", "/1.mp4"]
    assert [line["id"] for line in manifest_of(tmp_path)] == ["0", "1", "2", "good"]  # in the order of the list


def test_retried_raises_the_last_error_and_passes_refusals():
    def refuse():
        calls.append(1)
        raise RefusedError("no")

    calls = []
    with pytest.raises(RefusedError):
        retried(refuse, quick())
    assert len(calls) == 1
    with pytest.raises(ValueError, match="attempts"):
        retried(lambda: 1, quick(attempts=0))


def test_command_line(server, tmp_path, clip, capsys):
    (tmp_path / "list.csv").write_text(
        f"id,url,licence,labels\none,{server.url('/a.mp4')},cc-by,Car\none,{server.url('/a.mp4')},cc-by,Car\n"
        f"../two,{server.url('/a.mp4')},cc-by,\nno-url,,,\n"
    )
    command = [str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"), "--interval-s", "0", "--licences", "cc-by"]
    assert fetch.main(command) == 0
    assert "1 fetched, 2 refused, 0 failed" in capsys.readouterr().out and server.asked == ["/a.mp4"]
    with pytest.raises(SystemExit):  # the licences have no default
        fetch.main(command[:-2])
    for text in ("http://host/a.mp4\n", ""):
        (tmp_path / "bad.csv").write_text(text)
        assert fetch.main([str(tmp_path / "bad.csv"), *command[1:]]) == 1 and "no column id" in capsys.readouterr().err
    (tmp_path / "bad.csv").write_text("id,url\n")
    assert fetch.main([str(tmp_path / "bad.csv"), *command[1:]]) == 1 and "no line below" in capsys.readouterr().err
    (tmp_path / "bad.csv").write_bytes("id,url\n".encode("utf-16"))
    assert fetch.main([str(tmp_path / "bad.csv"), *command[1:]]) == 1 and "bad.csv cannot be read" in capsys.readouterr().err
    excel = tmp_path / "excel.csv"
    excel.write_text("id,url\na,b\n", encoding="utf-8-sig")
    assert [row.id for row in fetch.read_list(excel)] == ["a"]
    (tmp_path / "bad.csv").write_text("video\nhttp://host/a.mp4\n")
    assert fetch.main([str(tmp_path / "bad.csv"), *command[1:]]) == 1 and "no column id" in capsys.readouterr().err
    (tmp_path / "list.csv").write_text(f"id,url\nthree,{server.url('/b.mp4')}\n")
    server.pages["/b.mp4"] = Page(clip, fails=1)
    assert fetch.main([*command[:-1], "any"]) == 0  # after a real pause of 2 s
