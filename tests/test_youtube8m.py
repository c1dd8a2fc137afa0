"""YouTube-8M: records of both levels, labels, the id mapping, damaged files, and the list for fetch; all offline."""

import csv
import struct

import numpy as np
import pytest
import tfrecord
from loopback import Loopback, Page

from ss3d_lib import youtube8m
from ss3d_lib.downloads import Pacer, RefusedError, TemporaryError
from ss3d_lib.youtube8m import IdMap, RecordError, read_entries

VOCABULARY = "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl\n0,1,/m/a,Game,\n3,1,/m/b,Car,\n7,1,/m/c,\"Drive, night\",\n"
VIDEOS = {"AAaa": ("aaaaaaaaaa1", [0, 3]), "bb-_": ("bbbbbbbbbb2", [7]), "cc03": ("ccccccccc-3", [3])}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Loopback() as server:
        for name, (video, _) in VIDEOS.items():
            server.pages[f"/2/j/i/{name[:2]}/{name}.js"] = Page(f'i("{name}","{video}");'.encode(), "text/javascript")
        yield server


@pytest.fixture
def video_level(tmp_path):
    """A file of tf.Examples, as the library writes them."""
    writer = tfrecord.TFRecordWriter(str(tmp_path / "train00.tfrecord"))
    for seed, (name, (_, labels)) in enumerate(VIDEOS.items()):
        rng = np.random.default_rng(seed)
        means = {"mean_rgb": (rng.normal(size=1024), "float"), "mean_audio": (rng.normal(size=128), "float")}
        writer.write({"id": (name.encode(), "byte"), "labels": (labels, "int")} | means)
    writer.close()
    return tmp_path / "train00.tfrecord"


def frame_level(path, codes, name=b"AAaa", labels=(3,)):
    writer = tfrecord.TFRecordWriter(str(path))
    rows = {"rgb": ([row.tobytes() for row in codes], "byte"), "audio": ([row[:128].tobytes() for row in codes], "byte")}
    writer.write({"id": (name, "byte"), "labels": (list(labels), "int")}, rows)
    writer.close()
    return path


def pacer():
    return Pacer(interval_s=0, sleep=lambda seconds: None)


def test_video_level(video_level):
    entries = list(read_entries(video_level))
    assert [(e.id, list(e.labels)) for e in entries] == [(name, labels) for name, (_, labels) in VIDEOS.items()]
    np.testing.assert_allclose(entries[1].mean_rgb, np.random.default_rng(1).normal(size=1024).astype(np.float32))
    assert entries[0].mean_audio.shape == (128,) and entries[0].rgb is None and entries[0].audio is None
    assert len(youtube8m.record_places(video_level)) == 3
    video_level.write_bytes(b"")
    with pytest.raises(youtube8m.RecordError, match="is empty; download it again"):
        youtube8m.record_places(video_level)


def test_frame_level_is_dequantised(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (5, 1024)).astype(np.uint8)
    codes[0, :2] = 0, 255
    (entry,) = read_entries(frame_level(tmp_path / "f.tfrecord", codes))
    assert entry.id == "AAaa" and entry.labels == (3,) and entry.mean_rgb is None
    assert entry.rgb.shape == (5, 1024) and entry.audio.shape == (5, 128) and entry.rgb.dtype == np.float32
    assert entry.rgb[0, 0] == pytest.approx(-2 + 4 / 512) and entry.rgb[0, 1] == pytest.approx(2 + 4 / 512)
    np.testing.assert_allclose(np.diff(np.unique(entry.rgb)), 4 / 255, atol=1e-6)


def test_first_release_and_test_partition(tmp_path):
    writer = tfrecord.TFRecordWriter(str(tmp_path / "a"))
    writer.write({"video_id": (b"dQw4w9WgXcQ", "byte")})  # real ids, and no labels
    writer.close()
    (entry,) = read_entries(tmp_path / "a")
    assert entry.id == "dQw4w9WgXcQ" and entry.labels == ()
    assert IdMap(tmp_path / "ids", "http://127.0.0.1:1").resolve(entry.id) == entry.id  # no server is asked


@pytest.mark.parametrize("damage", ["cut", "length", "text", "record"])
def test_damaged_files_are_named(video_level, damage):
    data = video_level.read_bytes()
    huge = struct.pack("<Q", 1 << 50) + data[8:]  # a reader that trusts it would ask for a petabyte
    spoilt = data[:12] + b"\xff" * 64 + data[76:]
    video_level.write_bytes({"cut": data[:-7], "length": huge, "text": b"<html>not here</html>", "record": spoilt}[damage])
    with pytest.raises(RecordError, match="train00.tfrecord.*download it again"):
        list(read_entries(video_level))


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    """Without the checksums a bit makes another id, label or feature of the same form."""
    path = frame_level(tmp_path / "f.tfrecord", np.zeros((1, 4), np.uint8))
    frame_level(tmp_path / "g.tfrecord", np.zeros((1, 4), np.uint8), b"bb-_")
    data = path.read_bytes() + (tmp_path / "g.tfrecord").read_bytes()
    second = len(path.read_bytes())
    for place in range(second, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        start = second if place < second + 12 else second + 12  # of the record, or of what it holds
        with pytest.raises(RecordError, match=f"f.tfrecord: .*at byte {start}[ ,;].*download it again"):
            list(read_entries(path))
    path.write_bytes(data.replace(b"bb-_", b"bb-a"))
    with pytest.raises(RecordError, match=f"record 1, at byte {second + 12}, is damaged: its checksum differs"):
        list(read_entries(path))


def test_an_empty_row_of_features_is_named(tmp_path):
    for codes in (np.zeros((2, 0), np.uint8), np.zeros((1, 1024), np.uint8)):
        writer = tfrecord.TFRecordWriter(str(tmp_path / "f.tfrecord"))
        rows = {"rgb": ([*(row.tobytes() for row in codes), b""], "byte")}
        writer.write({"id": (b"AAaa", "byte")}, rows)
        writer.close()
        with pytest.raises(RecordError, match="f.tfrecord: record 0.*empty or differ.*download it again"):
            list(read_entries(tmp_path / "f.tfrecord"))


@pytest.mark.parametrize("name", [b"../x", b"a/bc", b"$(x)", b"", b"abc", b"ab;d", b"\xff\xff\xff\xff", b"/etc/passwd", b"ab\ncd"])
def test_ids_with_tricks_are_refused(tmp_path, name):
    with pytest.raises(RecordError, match="no YouTube-8M video"):
        list(read_entries(frame_level(tmp_path / "f.tfrecord", np.zeros((1, 1024), np.uint8), name)))
    with pytest.raises(ValueError):
        youtube8m.mapping_url(name.decode("latin-1"))


def test_labels_by_name_and_number(tmp_path, video_level):
    (tmp_path / "v.csv").write_text(VOCABULARY)
    vocabulary = youtube8m.read_vocabulary(tmp_path / "v.csv")
    assert vocabulary == {0: "Game", 3: "Car", 7: "Drive, night"}
    assert youtube8m.label_numbers(["car", "7"], vocabulary) == {3, 7}
    for unknown in ("Cra", "8"):
        with pytest.raises(ValueError, match=f"'{unknown}'.*: not in the vocabulary"):
            youtube8m.label_numbers(["car", unknown], vocabulary)
    assert youtube8m.label_numbers(["8"], {}) == {8}
    picked = youtube8m.select(read_entries(video_level), youtube8m.label_numbers(["Car"], vocabulary))
    assert [entry.id for entry in picked] == ["AAaa", "cc03"]


@pytest.mark.parametrize("last", ["9", "9,1", "9,1,/m/d", "x,1,/m/d,Train,", ",1,/m/d,Train,", "\u0663,1,/m/d,Train,"])
def test_damaged_vocabularies_are_named(tmp_path, last):
    (tmp_path / "v.csv").write_text(VOCABULARY + last, encoding="utf-8")
    with pytest.raises(ValueError, match="v.csv: line 5 .*download it again"):
        youtube8m.read_vocabulary(tmp_path / "v.csv")


def test_other_tables_are_no_vocabulary(tmp_path):
    (tmp_path / "v.csv").write_text("id,url\nx,\n")
    with pytest.raises(ValueError, match="v.csv: no column Index and no column Name; give YouTube-8M's"):
        youtube8m.read_vocabulary(tmp_path / "v.csv")


@pytest.mark.parametrize(
    "text", ["", "<html>", 'i("ABCD","short");', 'i("WXYZ","dQw4w9WgXcQ");', 'i("ABCD","../../../etc");', 'x();i("ABCD","dQw4w9WgXcQ");']
)
def test_other_answers_of_the_mapping_are_no_ids(text):
    assert youtube8m.parse_mapping('i("ABCD","dQw4w9WgXcQ");\n', "ABCD") == "dQw4w9WgXcQ"
    with pytest.raises(RefusedError, match="it answers"):
        youtube8m.parse_mapping(text, "ABCD")


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_the_mapping_forgot_is_gone(server, tmp_path, status):
    server.pages["/2/j/i/AA/AAaa.js"] = Page(b"AccessDenied", "application/xml", status)
    assert IdMap(tmp_path / "ids", server.url(), pacer()).resolve("AAaa") == ""
    assert (tmp_path / "ids").read_text() == "AAaa,?\n"


@pytest.mark.parametrize("page", [Page(b"<html>log in</html>"), Page(b'i("bb-_","bbbbbbbbbb2");'), Page(status=401), Page(status=407)])
def test_a_login_page_says_nothing_of_a_video(server, tmp_path, page):
    whole = server.pages["/2/j/i/AA/AAaa.js"]
    server.pages["/2/j/i/AA/AAaa.js"] = page
    with pytest.raises(TemporaryError, match="AA/AAaa.js: .*not the id mapping; check --server and the network"):
        IdMap(tmp_path / "ids", server.url(), pacer()).resolve("AAaa")
    server.pages["/2/j/i/AA/AAaa.js"] = whole
    assert IdMap(tmp_path / "ids", server.url(), pacer()).resolve("AAaa") == "aaaaaaaaaa1"


def test_ids_are_asked_once_and_remembered(server, tmp_path):
    ids = IdMap(tmp_path / "ids", server.url(), pacer())
    assert [ids.resolve(name) for name in ("AAaa", "zzzz", "AAaa")] == ["aaaaaaaaaa1", "", "aaaaaaaaaa1"]
    with open(tmp_path / "ids", "a") as file:
        file.write("bb-_,bbbb")  # an interruption cut this line
    again = IdMap(tmp_path / "ids", server.url(), pacer())
    assert again.resolve("AAaa") == "aaaaaaaaaa1" and again.resolve("zzzz") == "" and len(server.asked) == 2
    assert again.resolve("bb-_") == "bbbbbbbbbb2" and len(server.asked) == 3
    third = IdMap(tmp_path / "ids", server.url(), pacer())
    assert third.resolve("bb-_") == "bbbbbbbbbb2" and len(server.asked) == 3  # the cut line did not spoil the next one


def test_a_server_in_trouble_is_asked_again_and_then_left(server, tmp_path):
    server.pages["/2/j/i/AA/AAaa.js"].fails = 2
    pauses = []
    assert IdMap(tmp_path / "a", server.url(), Pacer(0, sleep=pauses.append)).resolve("AAaa") == "aaaaaaaaaa1"
    assert pauses == [2, 4]
    server.pages["/2/j/i/AA/AAaa.js"].fails = 99
    with pytest.raises(TemporaryError, match="http://127.0.0.1:.*/2/j/i/AA/AAaa.js: HTTP status 503; run the same command again"):
        IdMap(tmp_path / "b", server.url(), pacer()).resolve("AAaa")
    assert not (tmp_path / "b").exists()  # trouble is not remembered as an answer


def test_one_odd_answer_holds_up_no_other_video(server, tmp_path, video_level, capsys, monkeypatch):
    monkeypatch.setattr(youtube8m, "Pacer", lambda interval_s: pacer())
    whole = server.pages["/2/j/i/AA/AAaa.js"]
    server.pages["/2/j/i/AA/AAaa.js"] = Page(b"", "text/javascript")
    command = [str(video_level), "--server", server.url(), "--out", str(tmp_path / "list.csv")]
    listed = lambda: [row["id"] for row in csv.DictReader((tmp_path / "list.csv").read_text().splitlines())]
    assert youtube8m.main(command) == 2 and listed() == ["bbbbbbbbbb2", "ccccccccc-3"]
    said = capsys.readouterr()
    assert "2 videos; 0 more" in said.out and "1 more have no answer yet; the last: http://" in said.err
    assert "AAaa.js: it answers ''" in said.err and "run the same command again" in said.err
    server.pages["/2/j/i/AA/AAaa.js"] = whole
    server.asked.clear()
    assert youtube8m.main(command) == 0 and listed() == ["aaaaaaaaaa1", "bbbbbbbbbb2", "ccccccccc-3"]
    assert server.asked == ["/2/j/i/AA/AAaa.js"]


def test_a_mapping_that_fails_ten_times_in_a_row_is_left_alone(server, tmp_path):
    names = [f"f{i:03}" for i in range(15)]
    server.pages |= {f"/2/j/i/{name[:2]}/{name}.js": Page(status=500) for name in names}
    (tmp_path / "ids").write_text("cc03,ccccccccc-3\n")
    entries = [youtube8m.Entry(name, ()) for name in [*names[:9], "AAaa", *names, "bb-_", "cc03"]]
    ids = IdMap(tmp_path / "ids", server.url(), Pacer(interval_s=0, attempts=1))
    counts = youtube8m.write_list(tmp_path / "list.csv", entries, ids, {})
    assert len(server.asked) == 9 + 1 + 10 and (counts.listed, counts.gone, counts.missing) == (2, 0, 25)
    assert "not asked after 10 failures in a row, the last: http" in counts.trouble and "HTTP status 500" in counts.trouble
    assert "aaaaaaaaaa1" in (tmp_path / "list.csv").read_text() and "ccccccccc-3" in (tmp_path / "list.csv").read_text()


def test_a_selection_without_videos_is_an_error_and_no_list(server, tmp_path, video_level, capsys):
    (tmp_path / "v.csv").write_text(VOCABULARY + "9,1,/m/d,Train,\n")
    command = [str(video_level), str(video_level), "--server", server.url(), "--out", str(tmp_path / "list.csv")]
    vocabulary, none = ["--vocabulary", str(tmp_path / "v.csv")], "train00.tfrecord and 1 more files: no video has one of the labels"
    for labels, said in ((["999"], none), (["Train", *vocabulary], none), (["999", *vocabulary], "labels ['999']: not in the vocabulary")):
        assert youtube8m.main([*command, "--labels", *labels]) == 1
        assert said in capsys.readouterr().err
    assert not server.asked and not (tmp_path / "list.csv").exists()


def test_command_line(server, tmp_path, video_level, capsys):
    (tmp_path / "v.csv").write_text(VOCABULARY)
    del server.pages["/2/j/i/cc/cc03.js"]
    command = [str(video_level), "--vocabulary", str(tmp_path / "v.csv"), "--server", server.url(), "--interval-s", "0"]
    assert youtube8m.main([*command, "--labels", "Car", "Drive, night", "--out", str(tmp_path / "list.csv")]) == 0
    assert "2 videos; 1 more" in capsys.readouterr().out
    with open(tmp_path / "list.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["aaaaaaaaaa1", "bbbbbbbbbb2"] and rows[0]["labels"] == "Game|Car"
    assert rows[0]["url"] == "https://www.youtube.com/watch?v=aaaaaaaaaa1"
    assert youtube8m.main([*command, "--labels", "Cra", "--out", str(tmp_path / "x.csv")]) == 1
    assert "error: labels ['Cra']" in capsys.readouterr().err and not (tmp_path / "x.csv").exists()
