"""Files and progress: whole or absent, stable text, names that stay inside, lines that end with the total."""

import io
import itertools
import sys

import numpy as np
import pytest

from ss3d_lib import files
from ss3d_lib.progress import EXECUTED_ENV, duration, progress


def test_an_atomic_write_is_whole_or_absent(tmp_path):
    path = tmp_path / "new" / "a.json"
    with files.atomic_write(path) as temporary:
        assert temporary.suffix == ".json" and temporary.parent == path.parent
        temporary.write_text("1")
        assert not path.exists()
    with pytest.raises(RuntimeError), files.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "1" and list(path.parent.iterdir()) == [path]


def test_json_is_sorted_rounded_and_plain(tmp_path):
    path = tmp_path / "a.json"
    value = {"b": np.float32(0.1), "a": [np.int64(2), float("nan")], "c": np.eye(2), "d": {"e": 1 / 3, "f": True}}
    files.write_json(path, value)
    assert path.read_text().startswith('{\n  "a": [\n    2,\n    null\n  ],\n  "b": 0.1,')
    assert files.read_json(path)["d"] == {"e": 0.333333, "f": True}
    with pytest.raises(TypeError, match="has no place in a JSON file"):
        files.write_json(path, {"a": object()})
    assert files.read_json(path)["c"] == [[1.0, 0.0], [0.0, 1.0]]


def test_json_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.json does not exist: run the stage"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="half.json is not JSON"):
        files.read_json(tmp_path / "half.json")


@pytest.mark.parametrize("name", ["a", "video_03.mp4", "A-b.c", "_x", "0"])
def test_safe_names_pass(name):
    assert files.safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "a..b", "-rf", ".hidden", "a b", "a\n", "a\0", "é", "a" * 121]
)
def test_unsafe_names_are_refused(name):
    with pytest.raises(ValueError, match="cannot be a file name"):
        files.safe_name(name)


def test_inside_follows_links(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    assert files.inside(tmp_path / "in", "a/b") == (tmp_path / "in" / "a" / "b").resolve()
    for name in ("../out", "link/out", "/etc/passwd"):
        with pytest.raises(ValueError, match="leads out of"):
            files.inside(tmp_path / "in", name)


def test_too_little_space_is_said_before_the_work(tmp_path):
    files.require_free_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(OSError, match="needs 1000000000.00 GB"):
        files.require_free_space(tmp_path, 1e18)


def test_progress_prints_lines_that_end_with_the_total(monkeypatch, capsys):
    clock = itertools.count(step=2.0)
    monkeypatch.setenv(EXECUTED_ENV, "1")
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert list(progress(range(20), label="steps")) == list(range(20))
    lines = capsys.readouterr().out.splitlines()
    assert 3 < len(lines) < 10
    assert lines[0].startswith("steps: 3/20 in 6.0 s, 2.0 s each, 34.0 s left")
    assert lines[-1].startswith("steps: 20/20 in ") and "left" not in lines[-1]


def test_progress_of_a_broken_loop_says_where_it_stopped(monkeypatch, capsys):
    monkeypatch.setenv(EXECUTED_ENV, "1")
    with pytest.raises(RuntimeError):
        for item in progress(iter("abc"), label="clips"):
            if item == "b":
                raise RuntimeError
    for _ in progress(iter("abc"), total=3, label="clips"):
        break
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("clips: 1 in ") and first.endswith("stopped")
    assert second.startswith("clips: 0/3 in ") and second.endswith("stopped")


def test_progress_in_a_terminal_stays_on_one_line(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.delenv(EXECUTED_ENV, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert list(progress("abc")) == ["a", "b", "c"]
    assert terminal.getvalue().count("\r") == 3 and terminal.getvalue().count("\n") == 1


@pytest.mark.parametrize(("seconds", "text"), [(4.25, "4.2 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text
