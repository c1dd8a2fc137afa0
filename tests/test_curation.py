"""Curation: shots end where they end, borders go, duplicates go, bad files and crashes stop nothing."""

import os
from dataclasses import asdict

import av
import cv2
import numpy as np
import pytest
from made_shots import texture

from ss3d_lib import borders, curation, duplicates, jobs, shots, video
from ss3d_lib.curation import CurateSettings, curate_video, curate_videos


def pan(seed: int, count: int = 20, step_px: float = 2.0, size=(72, 128)) -> np.ndarray:
    """(T,H,W,3) uint8: a camera that pans over one large texture."""
    wide = texture(np.random.default_rng(seed), 1024)[:600, :600]
    move = lambda t: np.array([[1, 0, 20 + step_px * t], [0, 1, 100 + 0.5 * t]], float)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack([cv2.warpAffine(wide, move(t), size[::-1], flags=flags) for t in range(count)])


def dissolve(a: np.ndarray, b: np.ndarray, length: int) -> np.ndarray:
    share = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    mixed = (1 - share) * a[-length:] + share * b[:length]
    return np.concatenate([a[:-length], mixed.astype(np.uint8), b[length:]])


def through_black(a: np.ndarray, b: np.ndarray, half: int) -> np.ndarray:
    gain = ((np.arange(half) + 0.5) / half)[:, None, None, None]
    a, b = a.astype(float), b.astype(float)
    a[-half:] *= gain[::-1]
    b[:half] *= gain
    return np.concatenate([a, b]).astype(np.uint8)


def test_hard_cut_is_found_to_the_frame():
    assert shots.shot_ranges(np.concatenate([pan(1), pan(2)])) == [(0, 20), (20, 40)]


def test_cut_amid_fast_motion():
    fast = [pan(seed, step_px=14) for seed in (3, 4)]
    assert shots.shot_ranges(np.concatenate(fast)) == [(0, 20), (20, 40)]


@pytest.mark.parametrize("step_px", [0.5, 4, 14])
def test_motion_is_no_cut(step_px):
    assert shots.shot_ranges(pan(5, 30, step_px)) == [(0, 30)]


@pytest.mark.parametrize("length", [4, 6, 12, 20])
def test_dissolves_belong_to_neither_shot(length):
    joined = dissolve(pan(6, 40), pan(7, 40), length)
    first, second = shots.shot_ranges(joined)
    slack = 2 + length // 3  # frames that are hardly mixed may go with the dissolve
    assert first[0] == 0 and -slack <= first[1] - (40 - length) <= 2
    assert -2 <= second[0] - 40 <= slack and second[1] == len(joined)


@pytest.mark.parametrize("half", [2, 3, 6])
def test_fades_through_black_belong_to_neither_shot(half):
    first, second = shots.shot_ranges(through_black(pan(8, 30), pan(9, 30), half))
    assert abs(first[1] - (30 - half)) <= 1 and abs(second[0] - (30 + half)) <= 1


def test_change_of_exposure_is_no_fade():
    gain = np.linspace(1, 0.6, 30)[:, None, None, None]
    assert shots.shot_ranges((pan(10, 30) * gain).astype(np.uint8)) == [(0, 30)]


def test_pages_of_a_slideshow_stay_together():
    pages = [np.repeat(pan(seed, 1), 8, axis=0) for seed in (11, 12, 13)]
    assert shots.shot_ranges(np.concatenate([*pages, pan(14)])) == [(0, 24), (24, 44)]


@pytest.mark.parametrize("bars", [(12, 0), (0, 20), (0, 0)])
def test_black_bars_are_cropped(bars):
    rows, columns = bars
    frames = pan(15, size=(96 - 2 * rows, 160 - 2 * columns))
    padded = np.pad(frames, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    noisy = np.clip(padded + np.random.default_rng(0).normal(0, 2, padded.shape), 0, 255).astype(np.uint8)
    x0, y0, x1, y1 = borders.picture_box(noisy)
    assert 0 <= y0 - rows <= 3 and 0 <= 96 - rows - y1 <= 3 and 0 <= x0 - columns <= 3 and 0 <= 160 - columns - x1 <= 3


def test_dark_picture_keeps_its_size():
    assert borders.picture_box((pan(16) * 0.05).astype(np.uint8)) == (0, 0, 128, 72)


def test_logo_at_the_edge_is_cropped_evenly_and_a_still_camera_is_not():
    frames = pan(17, step_px=3, size=(144, 240))
    for frame in frames:
        cv2.putText(frame, "NEWS", (8, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 2)
    x0, y0, x1, y1 = borders.picture_box(frames)
    assert y0 >= 14 and (x1 - x0) * (y1 - y0) >= 0.75 * 144 * 240
    assert x0 + x1 == 240 and y0 + y1 == 144  # the optical axis stays in the centre
    still = np.repeat(pan(18, 1, size=(144, 240)), 20, axis=0)
    assert borders.picture_box(still) == (0, 0, 240, 144)


def test_pace_by_time_stamps():
    frames = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    for fps, kept in ((60, 30), (30, 60), (50, 30), (24, 60), (100, 15)):
        chunks = iter([(frames[:32], np.arange(32) / fps), (frames[32:], np.arange(32, 60) / fps)])
        out = [numbers for _, _, numbers in curation.paced(chunks, 30.0)]
        assert len(np.concatenate(out)) == kept, fps
        assert len(set(np.diff(np.concatenate(out)))) == 1  # even steps


def test_duplicates_across_encodings(tmp_path):
    clip = pan(19, 24, size=(96, 160))
    video.write_video(tmp_path / "a.mp4", clip)
    small = np.stack([cv2.resize(f, (120, 72), interpolation=cv2.INTER_AREA) for f in clip])
    video.write_video(tmp_path / "b.mp4", small[3:], crf=34)
    video.write_video(tmp_path / "c.mp4", pan(20, 24, size=(96, 160)))
    rows = curate_videos(video.find_videos(tmp_path), tmp_path / "out", tmp_path / "work", workers=1)
    assert [(row.shot, row.status) for row in rows] == [("a_s00", "kept"), ("b_s00", "dropped"), ("c_s00", "kept")]
    assert rows[1].reason == "duplicate of a_s00"
    assert sorted(p.stem for p in (tmp_path / "out" / "frames").iterdir()) == ["a_s00", "c_s00"]


def test_plain_frames_are_no_duplicates():
    black = duplicates.frame_hashes(np.zeros((5, 20, 20, 3), np.uint8), 1)
    assert len(black) == 0 and not duplicates.same_shot(black, black)


def test_rows_describe_the_shots(tmp_path):
    path = video.write_video(tmp_path / "two.mp4", np.concatenate([pan(21, 30), pan(22, 5)]), fps=20)
    *long, short = curate_video(path, CurateSettings(min_frames=8, max_frames=16))
    assert [r.row.frames for r in long] == [15, 15] and [r.row.status for r in long] == ["kept", "kept"]
    first, second = (r.row for r in long)
    assert (first.start_s, first.end_s, first.fps) == (0.0, 0.75, 20.0)
    assert (second.start_frame, second.end_frame) == (15, 30)
    assert long[0].frames.shape == (15, 144, 240, 3) and first.crop == "0:0:128:72"
    assert short.row.status == "dropped" and short.row.reason.startswith("too_short") and short.frames is None


def test_long_video_in_flat_memory(tmp_path):
    """Blocks: a shot that is longer than the buffer is windowed, and no frame is lost or told twice."""
    path = video.write_video(tmp_path / "long.mp4", pan(24, 260, step_px=1.0))
    found = list(curate_video(path, CurateSettings(max_frames=40)))
    covered = [n for shot in found for n in range(shot.row.start_frame, shot.row.end_frame)]
    assert covered == list(range(260)) and max(shot.row.frames for shot in found) <= 40


def ranges_of(frames: np.ndarray, settings: CurateSettings) -> list[tuple[int, int]]:
    """What is given out of frames that come in chunks, as frame numbers."""
    chunks = ((frames[start : start + 64], np.arange(start, min(start + 64, len(frames))) / 20) for start in range(0, len(frames), 64))
    return [(int(numbers[0]), int(numbers[-1]) + 1) for _, _, numbers in curation._continuous(chunks, settings)]


def test_a_fade_in_a_video_longer_than_a_block_belongs_to_no_shot():
    settings, black = CurateSettings(max_frames=40), np.zeros((50, 72, 128, 3), np.uint8)
    one, other = pan(26, 60, step_px=1.0), pan(27, 200, step_px=1.0)
    mixed = np.stack([(one[-1] * (1.0 - a) + other[0] * a).astype(np.uint8) for a in np.linspace(0, 1, 14)[1:-1]])
    frames = np.concatenate([one, mixed, other])
    given = ranges_of(frames, settings)
    assert given[0][0] == 0 and given[-1][1] == len(frames)
    lost = sorted(set(range(len(frames))) - {n for start, end in given for n in range(start, end)})
    assert len(lost) >= 8 and set(lost) <= set(range(57, 76)), "the mixture, and nothing else"
    given = ranges_of(np.concatenate([other[:140], black, one]), settings)
    assert not {n for start, end in given for n in range(start, end)} & set(range(140, 190)), "no shot of black frames"


def test_two_shots_at_the_end_of_a_block_are_both_given_out():
    settings = CurateSettings(max_frames=40)  # a block ends at 152: both shots end in its last 32 frames
    frames = np.concatenate([pan(28, 135, step_px=1.0), pan(29, 100, step_px=1.0)])
    given = ranges_of(frames, settings)
    assert [n for start, end in given for n in range(start, end)] == list(range(len(frames)))
    assert 135 in [start for start, _ in given], "the cut"


def test_a_clock_that_jumps_back_goes_on(tmp_path):
    """As in MPEG streams that were joined byte by byte: no frame of the second is dropped."""
    path = video.write_video(tmp_path / "one.ts", pan(30, 60, step_px=1.0), fps=20)
    (tmp_path / "twice.ts").write_bytes(path.read_bytes() * 2)
    found = list(curate_video(tmp_path / "twice.ts"))
    assert sum(shot.row.frames for shot in found) == 120 and all(shot.row.status == "kept" for shot in found)
    assert abs(found[-1].row.end_s - 6.0) < 0.2 and all(a.row.end_s <= b.row.start_s + 1e-3 for a, b in zip(found, found[1:]))


def test_a_file_cut_in_half_is_told_of_with_windows_too(tmp_path):
    whole = video.write_video(tmp_path / "whole.mkv", pan(31, 400, step_px=1.0), fps=20)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for every_s in (0.0, 4.0):
        settings = CurateSettings(max_frames=40, every_s=every_s)
        reasons = {path: [s.row.reason for s in curate_video(path, settings) if s.row.status == "failed"] for path in (whole, cut)}
        assert reasons[whole] == [] and len(reasons[cut]) == 1 and "truncated" in reasons[cut][0], every_s


def test_sound_that_outlasts_the_pictures_is_no_truncation(tmp_path):
    path = tmp_path / "loud.mkv"
    with av.open(str(path), "w") as container:
        pictures, sound = container.add_stream("libx264", rate=20), container.add_stream("aac", rate=16000)
        pictures.width, pictures.height = 128, 72
        for array in pan(32, 40, step_px=1.0):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(pictures.encode(None))
        for start in range(0, 6 * 16000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    assert video.probe(path).duration_s > 5.5
    assert [shot.row.status for shot in curate_video(path)] == ["kept"]


def test_what_the_machine_could_not_read_is_tried_again(tmp_path, monkeypatch):
    path = video.write_video(tmp_path / "a.mp4", pan(33, 24))
    run = lambda: curate_videos([path], tmp_path / "out", tmp_path / "work", workers=1)
    probe = video.probe
    monkeypatch.setattr(video, "probe", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error", str(path))))
    (row,) = run()
    assert row.status == "failed" and "Input/output error" in row.reason
    monkeypatch.setattr(video, "probe", probe)
    (row,) = run()
    assert row.status == "kept", "the reason was not the file's"


def test_a_window_every_so_many_seconds(tmp_path):
    path = video.write_video(tmp_path / "long.mp4", pan(25, 200, step_px=1.0), fps=20)
    settings = CurateSettings(max_frames=20, every_s=3.0)
    whole = np.concatenate([shot.frames for shot in curate_video(path, CurateSettings(max_frames=20))])
    found = list(curate_video(path, settings))
    assert [(s.row.start_s, s.row.end_s, s.row.start_frame) for s in found] == [(t, t + 1, 20 * t) for t in (0, 3, 6, 9)]
    for shot in found:  # the same frames, but for what two decoders' scaling leaves
        same = whole[shot.row.start_frame : shot.row.end_frame]
        assert np.abs(shot.frames.astype(int) - same).mean() < 3


def test_a_video_that_ends_in_black_is_not_called_truncated(tmp_path):
    light = np.clip(1 - (np.arange(120) - 50) / 30, 0, 1)  # a fade from frame 50 to 80, then black
    frames = (pan(25, 120, step_px=1.0) * light[:, None, None, None]).astype(np.uint8)
    found = list(curate_video(video.write_video(tmp_path / "fade.mp4", frames, fps=20)))
    assert found[0].row.start_frame == 0 and found[-1].row.end_frame < 80
    assert all(shot.row.status != "failed" for shot in found)


def test_a_video_of_one_window_is_read_as_a_whole(tmp_path):
    path = video.write_video(tmp_path / "short.mp4", pan(25, 30, step_px=1.0), fps=20)
    whole = list(curate_video(path, CurateSettings(max_frames=40)))
    windows = list(curate_video(path, CurateSettings(max_frames=40, every_s=3.0)))
    assert [shot.row for shot in windows] == [shot.row for shot in whole]
    assert all(np.array_equal(one.frames, other.frames) for one, other in zip(windows, whole))


def test_bad_files_stop_nothing_and_nothing_is_done_twice(tmp_path):
    from test_video import bad_files

    (tmp_path / "in").mkdir()
    words = bad_files(tmp_path / "in")
    video.write_video(tmp_path / "in" / "good.mp4", pan(24))
    run = lambda: curate_videos(video.find_videos(tmp_path / "in"), tmp_path / "out", tmp_path / "work", workers=2)
    rows = {row.shot: row for row in run()}
    assert rows["good_s00"].status == "kept"
    for name, word in words.items():
        row = rows[f"{name}_s00"]
        assert row.status == "failed" and word in row.reason and f"{name}.mp4" in row.reason
    table = (tmp_path / "out" / "shots.csv").read_bytes()
    made = (tmp_path / "work" / "good" / "good_s00.npy").stat().st_mtime_ns
    run()
    assert (tmp_path / "out" / "shots.csv").read_bytes() == table
    assert (tmp_path / "work" / "good" / "good_s00.npy").stat().st_mtime_ns == made
    assert [asdict(r) for r in curation.read_rows(tmp_path / "out" / "shots.csv")] == [asdict(r) for r in rows.values()]


def test_names_are_unique_and_plain(tmp_path):
    paths = [tmp_path / p for p in ("x/clip.mp4", "y/clip.mp4", "CLIP.mov", "mein film (1).avi", "-o.mp4")]
    names = curation.shot_names(paths)
    assert len(set(names.values())) == 5 and names[paths[3]] == "mein_film__1_" and names[paths[4]] == "_o"


def crash(path: str) -> str:
    """Ends its process without a word when told to."""
    if path == "crash":
        os._exit(9)
    return path.upper()


def test_a_crash_costs_one_job():
    done = {job[0]: (result, error) for job, result, error in jobs.run_jobs(crash, [("a",), ("crash",), ("b",)], 2)}
    assert done["a"] == ("A", "") and done["b"] == ("B", "")
    assert done["crash"][0] is None and "crashed the process" in done["crash"][1]


def test_after_a_crash_the_others_go_on_together():
    """Only what was in the hands of the pool is tried alone: the rest has new workers, and shares them."""
    paths = [("crash",), *((f"clip{k}",) for k in range(40))]
    done = {job[0]: (result, error) for job, result, error in jobs.run_jobs(where, paths, 2)}
    assert "crashed the process" in done.pop("crash")[1] and len(done) == 40 and not any(error for _, error in done.values())
    assert len({process for process, _ in done.values()}) <= 2 * jobs.AHEAD + 4


def where(path: str) -> int:
    """The process that it runs in."""
    crash(path)
    return os.getpid()
