"""Scoring at scale: the same manifest from one process, from Ray, after a kill, after a stop; a thousand videos."""

import csv
import errno
import os
import signal as signals
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from made_shots import make_shot

from ss3d_lib import jobs, score, video
from ss3d_lib.curation import CurateSettings
from ss3d_lib.journal import Journal

needs_ray = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("ray"), reason="Ray is not installed: pip install -e '.[cluster]'"
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six short videos, one of them broken, one a twin of another in a smaller encoding."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(4):
        video.write_video(folder / f"clip_{seed}.mp4", make_shot("multi_view", seed, 12, noise=0), crf=14)
    video.write_video(folder / "twin.mp4", make_shot("multi_view", 1, 12, noise=0), crf=30)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def undisturbed(clips, tmp_path_factory):
    """The manifest that one process writes."""
    out = tmp_path_factory.mktemp("undisturbed") / "scores.csv"
    counts = score.score_folder(clips, out, workers=1)
    assert (counts["videos"], counts["new"], counts["duplicates"]) == (6, 6, 1)
    return out.read_bytes()


def test_a_twin_is_not_kept(undisturbed):
    rows = {row["shot"]: row for row in csv.DictReader(undisturbed.decode().splitlines())}
    assert rows["twin_s00"]["reason"] == "duplicate of clip_1_s00" and rows["twin_s00"]["kept"] == "0"
    assert rows["clip_1_s00"]["kept"] == "1" and "broken.mp4" in rows["broken_s00"]["reason"]


def test_a_stopped_run_goes_on_and_a_finished_one_rests(clips, undisturbed, tmp_path):
    def stop_after_two(done, total):
        for count, item in enumerate(done, 1):
            yield item
            if count == 2:
                raise KeyboardInterrupt

    out = tmp_path / "scores.csv"
    with pytest.raises(KeyboardInterrupt):
        score.score_folder(clips, out, workers=1, watch=stop_after_two)
    assert not out.exists()
    with open(f"{out}.journal", "ab") as file:
        file.write(b'{"key": "clip_3", "stamp": "cut sho')  # as a kill in the middle of a write leaves it
    assert score.score_folder(clips, out, workers=1)["new"] == 4
    assert out.read_bytes() == undisturbed
    assert score.score_folder(clips, out, workers=1)["new"] == 0
    assert out.read_bytes() == undisturbed


def test_a_changed_video_is_scored_again(clips, tmp_path):
    (tmp_path / "a.mp4").write_bytes((clips / "clip_0.mp4").read_bytes())
    out = tmp_path / "scores.csv"
    assert score.score_folder(tmp_path, out, workers=1)["new"] == 1
    (tmp_path / "a.mp4").write_bytes((clips / "clip_2.mp4").read_bytes())
    assert score.score_folder(tmp_path, out, workers=1)["new"] == 1
    assert score.score_folder(tmp_path, out, workers=1, settings=CurateSettings(max_frames=10))["new"] == 1


def test_journal_keeps_the_newest_and_forgets_a_half_line(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.add("a", "1", [1.5])
        journal.add("a", "2", {"x": "ä\n"})
        journal.add("b", "1", 0.1 + 0.2)
    with open(tmp_path / "j", "ab") as file:
        file.write(b'not json\n{"key": "c"')
    with Journal(tmp_path / "j") as journal:
        assert journal.holds("a", "2") and not journal.holds("a", "1") and not journal.holds("c", "")
        assert journal.get("a") == {"x": "ä\n"} and journal.get("b") == 0.1 + 0.2
        journal.add("c", "1", None)
    with Journal(tmp_path / "j") as journal:
        assert journal.holds("c", "1") and len(journal.places) == 3
    with pytest.raises(KeyError), Journal(tmp_path / "j") as journal:
        journal.get("absent")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'spark': choose one of processes, ray"):
        list(jobs.run_jobs(len, [("a",)], 1, "spark"))


def busy_worker() -> psutil.Process:
    """A worker of our Ray that is at work: Ray writes what a worker does into its title, and between two jobs nothing."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "ray::ray_attempt" in " ".join(process.cmdline()):
                    return process
        time.sleep(0.02)
    raise AssertionError("no worker is at work")


@needs_ray
@pytest.mark.slow
def test_kill_of_a_ray_worker_loses_nothing(clips, undisturbed, tmp_path):
    killed = []

    def kill_after_one(done, total):
        for item in done:
            if not killed:
                killed.append(busy_worker())
                killed[0].send_signal(signals.SIGKILL)
            yield item

    out = tmp_path / "scores.csv"
    counts = score.score_folder(clips, out, workers=2, watch=kill_after_one, backend="ray")
    assert counts["new"] == 6 and not killed[0].is_running()
    assert out.read_bytes() == undisturbed
    assert len(Path(f"{out}.journal").read_bytes().splitlines()) == 6  # and nothing was written twice


def crash(path: str) -> str:
    """Ends its process without a word when told to."""
    if path == "crash":
        os._exit(9)
    return path.upper()


@needs_ray
@pytest.mark.slow
def test_a_video_that_kills_every_worker_costs_itself_only():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    found = jobs.run_jobs(crash, [("a",), ("crash",), ("b",)], 1, "ray")
    done = {job[0]: (result, error) for job, result, error in found}
    assert done["a"] == ("A", "") and done["b"] == ("B", "")
    assert done["crash"][0] is None and "crashed the process" in done["crash"][1]


def fill_the_disk(path: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@needs_ray
@pytest.mark.slow
def test_a_full_disk_stops_a_ray_run():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.raises(OSError) as caught:
        list(jobs.run_jobs(fill_the_disk, [("a",)], 1, "ray"))
    assert caught.value.errno == errno.ENOSPC


THOUSAND = """
import resource, sys
from pathlib import Path
from ss3d_lib import score
from ss3d_lib.curation import CurateSettings

peaks_mb, out = [], Path(sys.argv[2])
def watch(done, total):
    for count, item in enumerate(done, 1):
        if count in (100, 1000):
            peaks_mb.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        yield item
counts = score.score_folder(Path(sys.argv[1]), out, workers=1, watch=watch, settings=CurateSettings(min_frames=4))
again = score.score_folder(Path(sys.argv[1]), out, workers=1, settings=CurateSettings(min_frames=4))
print(*(counts[k] for k in ("videos", "new", "kept", "duplicates")), again["new"], again["duplicates"], *peaks_mb)
"""


@pytest.mark.slow
def test_a_thousand_videos(tmp_path):
    """The corpus' openings under many names: memory stays flat, the duplicates are found, a second run does no work."""
    (tmp_path / "in").mkdir()
    openings = 12
    for number, path in enumerate(video.find_videos("data/videos/val")[:openings]):
        frames, _ = video.read_video(path, max_frames=5)
        opening = video.write_video(tmp_path / f"{number}.mp4", frames)
        for copy in range(number, 1000, openings):
            os.link(opening, tmp_path / "in" / f"v{copy:04d}.mp4")
    command = [sys.executable, "-c", THOUSAND, str(tmp_path / "in"), str(tmp_path / "scores.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    videos, new, kept, duplicates, new_again, duplicates_again, early_mb, late_mb = map(float, done.stdout.split())
    print(done.stdout)
    assert (videos, new, new_again) == (1000, 1000, 0) and duplicates == duplicates_again
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    firsts = [row for row in rows if row["kept"] == "1"]
    assert kept == len(firsts) and 0 < kept <= openings
    signal_share = sum(row["kept"] == "1" or row["reason"].startswith("duplicate") for row in rows)
    assert duplicates == signal_share - kept and duplicates > 50 * kept
    assert late_mb < 1.1 * early_mb + 10
