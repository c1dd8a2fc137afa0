"""The embedded corpus: its plans, geometry, coding and effects; its files where they are; its renderer where bpy is."""
import csv
import hashlib
import os
import sys
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from interrupts import interrupt

from corpus import __main__ as command
from corpus import cameras, graphics, plan, post, truth

DATA = Path(__file__).resolve().parents[1] / "data"
needs_data = pytest.mark.skipif(not (DATA / "manifest.csv").exists(), reason="data/ is absent: run `dvc pull`")


# ---- plans

def test_plans_cover_the_specification():
    plans = [plan.plan_video(name) for name in plan.rendering_order()]
    assert Counter(p.split for p in plans) == {"train": 96, "val": 18, "test": 28}
    for split in plan.COUNTS:
        assert set(plan.DOMAINS) <= {p.domain for p in plans if p.split == split}
    assert {p.split for p in plans if p.domain == plan.TEST_ONLY_DOMAIN} == {"test"}
    shots = [shot for p in plans for shot in p.shots]
    assert 1.7 < len(shots) / len(plans) < 2.5 and max(len(p.shots) for p in plans) == 4
    assert 0.20 < np.mean([s.kind != "multi_view" for s in shots]) < 0.30
    assert {s.kind for s in shots} == set(plan.KINDS)
    assert 35 <= min(s.fov_deg for s in shots) < 40 and 90 < max(s.fov_deg for s in shots) <= 100
    assert {t for p in plans for t in p.transitions} == {"cut", "cross", "black"}
    shares = Counter(p.size_px for p in plans)
    assert abs(shares[(256, 144)] / len(plans) - 0.60) < 0.06 and abs(shares[(144, 256)] / len(plans) - 0.18) < 0.05


def test_worlds_are_never_shared():
    names = plan.rendering_order() + [f"train_{k:03d}" for k in range(96, 400)]
    seeds = [shot.seed for name in names for shot in plan.plan_video(name).shots]
    assert len(set(seeds)) == len(seeds)


def test_a_plan_follows_from_its_name_alone():
    assert plan.plan_video("val_003") == plan.plan_video("val_003")
    assert plan.plan_video("val_003").seed != plan.plan_video("train_003").seed


@pytest.mark.parametrize("name", ["holiday", "train_x", "val_018", "test_028", "validation_001", "train_7", "train_0007", "train_²", "train_٠٠٧"])
def test_wrong_names_are_refused(name):
    with pytest.raises(ValueError, match=name):
        plan.plan_video(name)


def test_training_may_grow_beyond_three_digits():
    assert plan.plan_video("train_1000").index == 1000


def test_the_first_videos_cover_splits_and_domains():
    first = [plan.plan_video(name) for name in plan.rendering_order()[:16]]
    assert {p.split for p in first} == set(plan.COUNTS) and {p.domain for p in first} == set(plan.DOMAINS)


# ---- cameras

@pytest.mark.parametrize("style", list(cameras.STYLES))
def test_paths_are_rigid_and_step_as_promised(style):
    path = cameras.travel(np.random.default_rng(0), 24, 25.0, style, 10.0, 1.6, -0.1)
    pose = path.poses_c2w()
    assert np.allclose(pose[:, :3, :3] @ pose[:, :3, :3].transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(pose[:, :3, :3]), 1)
    steps = np.linalg.norm(np.diff(path.eyes, axis=0), axis=1) / 10.0
    assert 0.3 * cameras.STYLES[style][0] < np.median(steps) < 2 * cameras.STYLES[style][1]


def test_axes_are_those_of_opencv():
    pose = cameras.stand_still(1, 1.5, 0.0).poses_c2w()[0]        # looks along +y of a world with z up
    assert np.allclose(pose[:3, 0], [1, 0, 0]) and np.allclose(pose[:3, 1], [0, 0, -1]) and np.allclose(pose[:3, 2], [0, 1, 0])


def test_turning_in_place_does_not_translate():
    pose = cameras.turn_in_place(np.random.default_rng(1), 20, 25.0, 1.5, 0.0).poses_c2w()
    assert np.ptp(pose[:, :3, 3], axis=0).max() == 0
    cos = (np.trace(pose[0, :3, :3].T @ pose[-1, :3, :3]) - 1) / 2
    assert np.degrees(np.arccos(cos)) > 8


# ---- truth

def test_depth_code_round_trip():
    depth = np.exp(np.random.default_rng(0).uniform(np.log(0.05), np.log(1000), (3, 20, 30)))
    assert np.abs(truth.decode_depth(truth.encode_depth(depth)) / depth - 1).max() < 0.0013
    none = np.array([[0.0, np.inf, np.nan, 0.01, 2000.0, 1.0]])
    assert (truth.decode_depth(truth.encode_depth(none)) > 0).tolist() == [[False] * 5 + [True]]


# ---- post effects

def test_join_keeps_count_of_every_frame():
    clips = [np.full((20, 2, 2, 3), value, np.float32) for value in (0.2, 0.5, 0.8)]
    frames, ranges = post.join(clips, [("cross", 6), ("black", 4)])
    assert len(frames) == 20 + 20 + 20 - 6
    assert ranges == [(0, 17, 0), (17, 34, 3), (34, 54, 0)]
    assert frames[16].mean() < 0.35 < frames[17].mean() and frames[33].mean() < 0.2 and frames[34].mean() < 0.3
    assert len(post.join(clips, [("cut", 6), ("cut", 4)])[0]) == 60


def test_zoom_magnifies_about_the_principal_point():
    big = np.zeros((81, 161, 3), np.float32)
    big[40 + 16, 80 + 24] = 1                                   # 24 right of and 16 below the centre at focal 200
    rgb, depth = post.zoomed(big, np.full((81, 161), 3.0, np.float32), 2, 81, 41, 200.0, np.array([100.0, 150.0]))
    for frame, ratio in zip(rgb, (0.5, 0.75)):
        y, x = np.unravel_index(frame.sum(-1).argmax(), frame.shape[:2])
        assert (x - 40, y - 20) == (24 * ratio, 16 * ratio)
    assert np.all(depth == 3)


def test_camera_over_a_picture_is_consistent_with_its_truth():
    path = cameras.travel(np.random.default_rng(3), 12, 25.0, "lateral", 2.0, 1.5, 0.0, turn_deg=(2, 12))
    world = path.poses_c2w()
    poses = np.linalg.inv(world[0]) @ world
    frames, depth = graphics.over_picture(np.random.default_rng(4), poses, 120.0, 128, 96, 2.0)
    camera = np.array([120.0, 120.0, 63.5, 47.5])
    before, after = _warp_errors(frames[0].mean(-1), frames[3].mean(-1), depth[0], poses[0], poses[3], camera, camera, 1)
    assert after < 0.5 * before


def test_video_has_the_promised_frames_and_rate(tmp_path):
    frames = np.random.default_rng(0).random((9, 48, 64, 3)).astype(np.float32)
    post.encode(tmp_path / "clip.mp4", frames, 15, 23)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate, stream.codec_context.name) == (64, 48, 15, "h264")
        assert sum(1 for _ in container.decode(video=0)) == 9
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_half_a_video_is_not_taken_for_one(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(post.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        post.encode(tmp_path / "clip.mp4", np.zeros((2, 48, 64, 3)), 15, 23)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]


def test_effects_keep_the_range():
    rng = np.random.default_rng(0)
    frames = post.develop(rng, rng.gamma(1, 1, (4, 36, 64, 3)).astype(np.float32), np.full((4, 36, 64), 5.0), True)
    frames = post.grain(rng, post.motion_blur(frames, 0.5))
    barred = post.add_bars(frames, 80, 48)
    assert barred.shape == (4, 48, 80, 3) and 0 <= barred.min() and barred.max() <= 1 and np.all(barred[:, :6] == 0)


# ---- the files

def _warp_errors(now, then, depth, pose_now, pose_then, camera_now, camera_then, stride) -> tuple:
    """Mean grey difference before and after warping the later frame (h, w) to the earlier one by the truth."""
    y, x = np.mgrid[:depth.shape[0], :depth.shape[1]] * stride
    fx, fy, cx, cy = camera_now
    points = np.stack([(x - cx) / fx * depth, (y - cy) / fy * depth, depth, np.ones_like(depth)], -1)
    points = points @ (np.linalg.inv(pose_then) @ pose_now).T
    fx, fy, cx, cy = camera_then
    z = np.maximum(points[..., 2], 1e-6)
    u, v = (fx * points[..., 0] / z + cx).astype(np.float32), (fy * points[..., 1] / z + cy).astype(np.float32)
    good = (depth > 0) & (u > 0) & (v > 0) & (u < then.shape[1] - 1) & (v < then.shape[0] - 1)
    warped = cv2.remap(then.astype(np.float32), u, v, cv2.INTER_LINEAR)
    here = now[::stride, ::stride].astype(np.float32)
    return np.abs(then[::stride, ::stride] - here)[good].mean(), np.abs(warped - here)[good].mean()


@needs_data
def test_truth_warps_frames_onto_each_other():
    ratios = []
    for path in sorted((DATA / "truth" / "val").glob("*.npz"))[:6]:
        with np.load(path, allow_pickle=False) as file:
            t = {key: file[key] for key in file.files}
        with av.open(str(DATA / "videos" / "val" / f"{path.stem}.mp4")) as container:
            frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        depth, poses = truth.decode_depth(t["depth_code"]), t["poses_c2w"].astype(float)
        assert len(frames) == len(poses) == len(depth)
        for start, end, kind in zip(t["shot_start"], t["shot_end"], t["shot_kind"]):
            if kind == "multi_view":
                k = (start + end) // 2
                before, after = _warp_errors(frames[k], frames[k + 1], depth[k], poses[k], poses[k + 1],
                                             t["intrinsics"][k], t["intrinsics"][k + 1], int(t["depth_stride"]))
                ratios.append(after / before)
    assert len(ratios) >= 3 and np.median(ratios) < 0.5 and max(ratios) < 0.9, ratios


@needs_data
def test_manifest_names_every_file_and_every_file_has_its_truth():
    with open(DATA / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["video"] for r in rows} == {p.relative_to(DATA).as_posix() for p in DATA.glob("videos/*/*.mp4")}
    for row in rows[::9]:
        path = DATA / row["video"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        with np.load(DATA / "truth" / row["split"] / f"{path.stem}.npz", allow_pickle=False) as t:
            assert len(t["poses_c2w"]) == len(t["intrinsics"]) == int(row["frames"]) == t["shot_end"][-1]
            assert t["shot_start"][0] == 0 and np.all(t["shot_start"][1:] == t["shot_end"][:-1])
            assert t["depth_code"].shape[0] == len(t["depth_frames"])


# ---- the command line

def test_without_the_renderer_one_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert command.main(["--out", str(tmp_path / "new"), "--count", "3"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install --group render" in said and not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", [["--count", "0"], ["--count", "-1"], ["--jobs", "0"]])
def test_numbers_that_make_no_video_are_refused(given, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--out", str(tmp_path), *given])
    assert caught.value.code == 2 and f"{given[0]} must be at least 1, not {given[1]}" in capsys.readouterr().err


def test_one_that_fails_costs_no_other(tmp_path, monkeypatch, capsys):
    def make(name, out):
        if name == "train_097":
            raise RuntimeError(f"{name} failed")

    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(command, "make", make)
    assert command.main(["--out", str(tmp_path / "new"), "--seed-offset", "96", "--count", "3"]) == 1
    said = capsys.readouterr()
    assert "3/3 " in said.out and "FAILED: train_097" in said.out and said.err == "train_097 failed\n"


def test_an_interrupt_ends_the_rendering_in_one_line(tmp_path):
    """The renderer is a stand-in that notes its start and then renders for a minute."""
    (tmp_path / "bpy.py").write_text(f"import os, time\nopen({str(tmp_path)!r} + f'/began{{os.getpid()}}', 'w')\ntime.sleep(60)\n")
    asked = [sys.executable, "-m", "corpus", "--out", str(tmp_path / "out"), "--seed-offset", "96", "--count", "5", "--jobs", "1"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    status, said = interrupt(asked, lambda: list(tmp_path.glob("began*")), env=environment)
    assert status == 130 and said == "\ninterrupted: what was finished is kept\n"
    assert len(list(tmp_path.glob("began*"))) == 1


# ---- the renderer

def test_rendered_depth_is_z_and_pixel_centres_are_integers(monkeypatch):
    """A plane slanted by 45 degrees: z-depth and ray length differ by up to 40 %, half a pixel by more than 0.1 %."""
    pytest.importorskip("bpy", reason="the renderer (group `render`) is not installed")
    from corpus import render, worlds
    from corpus.shapes import Mesh

    def slanted(rng, kit, request):
        Mesh().add([[-50, -43, -50], [50, -43, -50], [50, 57, 50], [-50, 57, 50]], [[0, 1, 2, 3]]).build([kit("white")])
        return worlds.World(cameras.stand_still(1, 0.0, 0.0), [], False)        # the plane y = z + 7

    monkeypatch.setitem(render.BUILDERS, "slanted", slanted)
    request = worlds.Request("static", 1, 25.0, 90.0, np.pi / 2, 1.0, False, False)
    for width, height in ((64, 36), (36, 64)):
        focal = 32.0
        _, depth, _ = render.render_shot("slanted", 0, request, width, height, focal, samples=1)
        down = (np.arange(height) - (height - 1) / 2) / focal
        expected = np.broadcast_to((7 / (1 + down))[:, None], (height, width))  # y = z_up + 7 and z_up = -down * y
        good = expected < 100
        assert np.abs(depth[0] / expected - 1)[good & (expected < 12)].mean() < 0.012
