"""Decoding: every codec and orientation gives the same upright frames; bad files give one clear error."""

import os

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss3d_lib import video


def picture(height: int = 64, width: int = 96, frames: int = 10) -> np.ndarray:
    """Red above left, blue below, a bar that moves: orientation and order can be told."""
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[:, : height // 3, : width // 3, 0] = 255
    clip[:, 2 * height // 3 :, :, 2] = 255
    for t in range(frames):
        clip[t, :, 4 * t : 4 * t + 4, 1] = 200
    return clip


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.fixture
def own_priority():
    """SVT-AV1 gives the process of an administrator real-time priority; whatever it started later would starve the rest."""
    policy = getattr(os, "sched_getscheduler", lambda _: None)(0)
    yield
    if policy is not None:
        os.sched_setscheduler(0, policy, os.sched_param(0))


@pytest.mark.usefixtures("own_priority")
@pytest.mark.parametrize(
    "codec, suffix, size",
    [("libx264", "mp4", (64, 96)), ("libx264", "mov", (64, 96)), ("libx264", "mp4", (65, 97)), ("mpeg4", "avi", (64, 96)),
     ("mpeg2video", "mpg", (64, 96)), ("libsvtav1", "mp4", (64, 96)), ("libvpx-vp9", "webm", (64, 96))],
)  # fmt: skip
def test_codecs(tmp_path, codec, suffix, size):
    clip = picture(*size)
    frames, times_s = video.read_video(video.write_video(tmp_path / f"clip.{suffix}", clip, codec=codec))
    assert frames.shape == clip.shape and distance(frames, clip) < 8
    np.testing.assert_allclose(times_s, np.arange(10) / 25, atol=2e-3)


@pytest.mark.parametrize("rotation_deg", [90, -90, 180])
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_phone_rotation_is_obeyed(tmp_path, rotation_deg, decoder):
    clip = picture()
    path = video.write_video(tmp_path / "phone.mp4", clip, rotation_deg=rotation_deg)
    upright = np.rot90(clip, rotation_deg // 90, axes=(1, 2))
    frames, _ = video.read_video(path, decoder=decoder)
    assert frames.shape == upright.shape and distance(frames, upright) < 8
    info = video.probe(path)
    assert (info.height, info.width) == upright.shape[1:3]


def test_variable_frame_rate_comes_as_times(tmp_path):
    times_s = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.2, 10))
    path = video.write_video(tmp_path / "phone.mp4", picture(), times_s=times_s)
    for decoder in ("auto", "pyav"):
        np.testing.assert_allclose(video.read_video(path, decoder=decoder)[1], times_s - times_s[0], atol=1e-3)


def test_chunks_and_reduced_size(tmp_path):
    path = video.write_video(tmp_path / "clip.mp4", picture(120, 200, 20))
    chunks = list(video.read_chunks(path, short_side_px=60, chunk=8))
    assert [len(frames) for frames, _ in chunks] == [8, 8, 4]
    assert chunks[0][0].shape[1:3] == (60, 100)
    assert len(video.read_video(path, max_frames=5)[0]) == 5


def bad_files(folder) -> dict:
    whole = video.write_video(folder / "whole.mp4", picture(frames=30)).read_bytes()
    made = {"empty": b"", "text": b"this is no video\n" * 40, "truncated": whole[: len(whole) // 2]}
    for name, content in made.items():
        (folder / f"{name}.mp4").write_bytes(content)
    video.write_video(folder / "single.mp4", picture(frames=1))
    (folder / "whole.mp4").unlink()
    return {"empty": "empty", "text": "not a video", "truncated": "cut short", "single": "at least 2"}


def test_bad_files_say_what_to_do(tmp_path):
    for name, words in bad_files(tmp_path).items():
        with pytest.raises(video.VideoError, match=words) as error:
            video.read_video(tmp_path / f"{name}.mp4")
        assert f"{name}.mp4" in str(error.value) and any(w in str(error.value) for w in ("again", "remove"))
    with pytest.raises(video.VideoError, match="no such file"):
        video.probe(tmp_path / "absent.mp4")
    with pytest.raises(video.VideoError, match="holds no video"):
        video.find_videos(_empty(tmp_path))


def _empty(folder):
    (folder / "nothing").mkdir()
    return folder / "nothing"


def test_sound_only(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(video.VideoError, match="no picture"):
        video.probe(tmp_path / "sound.mp4")


def test_truncated_after_its_index_is_read_as_far_as_it_goes(tmp_path):
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 255, (60, 64, 96, 3)).astype(np.uint8)
    source = video.write_video(tmp_path / "source.mp4", clip, crf=30)
    with av.open(str(source)) as old, av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    path = tmp_path / "cut.mp4"
    whole = (tmp_path / "fast.mp4").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    frames, times_s = video.read_video(path)
    assert 10 < len(frames) < 50
    assert video.missing_tail(video.probe(path), times_s[-1]).startswith("truncated")
    assert video.missing_tail(video.probe(source), 59 / 25) == ""


def test_find_videos(tmp_path):
    for name in ("b.mp4", "a.MOV", "deep/c.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in video.find_videos(tmp_path)] == ["a.MOV", "b.mp4", "c.webm"]
    assert video.find_videos(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 400), st.integers(40, 400))
def test_to_working_covers_and_keeps_coordinates(height, width):
    """A picture whose values are its coordinates, scaled, must hold the coordinates that the formula gives."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = np.stack([x, y, np.zeros_like(x)], -1)[None]
    working, scale, (crop_x, crop_y) = video.to_working(frames)
    assert working.shape[1:3] == video.working_size(height, width)
    rows, columns = np.mgrid[: working.shape[1], : working.shape[2]]
    want_x, want_y = (columns + crop_x + 0.5) / scale - 0.5, (rows + crop_y + 0.5) / scale - 0.5
    inner = (slice(2, -2), slice(2, -2))
    tolerance = 0.6 / scale + 0.1  # the scaled size is rounded to whole pixels
    assert np.abs(working[0, ..., 0] - want_x)[inner].max() < tolerance
    assert np.abs(working[0, ..., 1] - want_y)[inner].max() < tolerance


def test_working_sizes():
    assert video.working_size(1080, 1920) == (144, 240)
    assert video.working_size(480, 640) == (144, 192)
    assert video.working_size(100, 150) == (144, 192)
    assert video.working_size(100, 100) == (144, 192)
    assert video.working_size(1920, 1080) == (240, 144)
