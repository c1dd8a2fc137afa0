"""The public sets' adapters, each on a tiny copy of its own layout that the test writes with known answers; and the parts of
the benchmarks of scoring, training and adaptation, on tiny shots (what takes how long is not a test's matter)."""

import sys
import weakref
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from scipy.spatial.transform import Rotation
from test_datasets import write_sequence
from test_distillation import made_shot

from benchmarks import adaptation, score, training
from ss3d_lib import joint
from ss3d_lib.datasets import DatasetError, kitti, nyu, open_layout, scenes, sequences, sintel, tum
from ss3d_lib.files import read_json, write_json
from ss3d_lib.models.depth import DepthNet

SIZE = (12, 20)


def write_image(path: Path, shade: int = 100, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), (10, 20, shade), np.uint8))


def write_depth(path: Path, metres: float, per_metre: float, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    depth = np.full(size, round(metres * per_metre), np.uint16)
    depth[0, 0] = 0
    assert cv2.imwrite(str(path), depth)


def shifted(x: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_euler("y", 10 * x, degrees=True).as_matrix(), [x, 0, 0]
    return pose


# --- Sintel -----------------------------------------------------------------------------------------------------


def write_sintel(root: Path, frames: int = 2) -> None:
    tag = np.float32(sintel.TAG).tobytes()
    for name in sintel.SEQUENCES:
        for frame in range(1, frames + 1):
            write_image(root / f"training/final/{name}/frame_{frame:04d}.png")
            depth = np.tile(np.arange(20, dtype="<f4") + frame, (12, 1))
            camera = np.concatenate([[30, 0, 10, 0, 30, 6, 0, 0, 1], np.linalg.inv(shifted(frame))[:3].ravel()])
            for kind, suffix, content in (
                ("depth", "dpt", np.array([20, 12], "<i4").tobytes() + depth.tobytes()),
                ("camdata_left", "cam", camera.astype("<f8").tobytes()),
            ):
                path = root / f"training/{kind}/{name}/frame_{frame:04d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tag + content)


def test_sintel(tmp_path):
    write_sintel(tmp_path)
    clips = list(sintel.iterate_sintel(tmp_path))
    assert [clip.name for clip in clips] == list(sintel.SEQUENCES) and len(clips) == 14
    clip = clips[0]
    assert clip.frames.shape == (2, *SIZE, 3) and clip.focal_px == 30 and clip.max_depth_m == 70
    np.testing.assert_allclose(clip.poses_c2w[1], shifted(2), atol=1e-12)
    np.testing.assert_array_equal(clip.depth_m[1, 3], np.arange(20) + 2)


def test_sintel_names_a_foreign_and_a_short_file(tmp_path):
    write_sintel(tmp_path)
    path = tmp_path / "training/depth/alley_2/frame_0001.dpt"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DatasetError, match="holds 239 values"):
        next(sintel.iterate_sintel(tmp_path))
    path.write_bytes(b"hello, I am text")
    with pytest.raises(DatasetError, match="frame_0001.dpt: does not begin with"):
        next(sintel.iterate_sintel(tmp_path))
    with pytest.raises(DatasetError, match="no such folder"):
        next(sintel.iterate_sintel(tmp_path / "nowhere"))
    for image in (tmp_path / "training/final/alley_2").iterdir():
        image.unlink()
    with pytest.raises(DatasetError, match="alley_2: 0 images"):
        next(sintel.iterate_sintel(tmp_path))


# --- TUM and Bonn -----------------------------------------------------------------------------------------------


def write_rgbd(folder: Path, frames: int = 9, written=lambda pose: pose) -> None:
    """Colour every 33 ms; depth 5 ms later, missing for frame 2; poses at 100 Hz, shifted(seconds) as `written` has them."""
    folder.mkdir(parents=True)
    colours, depths = ["# colour"], ["# depth"]
    for index in range(frames):
        time_s = 100 + index / 30
        write_image(folder / f"rgb/{time_s:.6f}.png", shade=index * 10)
        colours.append(f"{time_s:.6f} rgb/{time_s:.6f}.png")
        if index != 2:
            write_depth(folder / f"depth/{time_s:.6f}.png", 1 + index / 10, 5000)
            depths.append(f"{time_s + 0.005:.6f} depth/{time_s:.6f}.png")
    truth = ["# timestamp tx ty tz qx qy qz qw"]
    for tick in range(frames * 4):
        pose = written(shifted(tick / 100))
        quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat()
        truth.append(" ".join(f"{value:.9f}" for value in (100 + tick / 100, *pose[:3, 3], *quaternion)))
    for name, lines in (("rgb", colours), ("depth", depths), ("groundtruth", truth)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_tum_associates_by_time(tmp_path):
    write_rgbd(tmp_path / "seq")
    clip = tum.load_rgbd(tmp_path / "seq", tum.CAMERAS["freiburg3"], "tum")
    assert len(clip.frames) == 8, "the frame without a depth within 20 ms is left out"
    np.testing.assert_allclose(clip.depth_m[2, 1, 1], 1.3, atol=1e-4)
    assert clip.depth_m[0, 0, 0] == 0 and abs(clip.frames[2, 0, 0, 0] - 30) <= 1
    np.testing.assert_allclose(clip.poses_c2w[-1], shifted(0.27), atol=0.01)
    assert clip.focal_px == 535.4
    thinned = tum.load_rgbd(tmp_path / "seq", tum.CAMERAS["freiburg3"], "tum", step=3, most=2)
    np.testing.assert_allclose(thinned.depth_m[:, 1, 1], [1.0, 1.4], atol=1e-4)


def test_tum_dynamics_and_bonn_find_their_sequences(tmp_path):
    for name in tum.DYNAMIC:
        write_rgbd(tmp_path / name)
    write_rgbd(tmp_path / "rgbd_bonn_balloon")
    clips = list(tum.iterate_tum_dynamics(tmp_path))
    assert len(clips) == 8 and len(clips[0].frames) == 3
    (bonn,) = tum.iterate_bonn(tmp_path)
    assert bonn.domain == "bonn" and bonn.focal_px == pytest.approx(542.822841)
    (tmp_path / tum.DYNAMIC[1] / "depth.txt").unlink()
    with pytest.raises(DatasetError, match="depth.txt: missing"):
        list(tum.iterate_tum_dynamics(tmp_path))


def test_bonn_gives_the_camera_though_its_file_holds_the_markers(tmp_path):
    """The page's chain T_cam = T_ROS T T_ROS T_m, written a second time and inverted."""
    ros = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    rows = "1.0157 0.1828 -0.2389 0.0113 0.0009 -0.8431 -0.6413 -0.0098 -0.3009 0.6147 -0.8085 0.0111 0 0 0 1"
    markers = np.array(rows.split(), float).reshape(4, 4)
    markers[:3, :3] /= np.cbrt(np.linalg.det(markers[:3, :3]))
    write_rgbd(tmp_path / "rgbd_bonn_balloon", written=lambda pose: np.linalg.inv(ros) @ pose @ np.linalg.inv(ros @ markers))
    (clip,) = tum.iterate_bonn(tmp_path)
    exact = clip.poses_c2w[[0, 2, 5]]  # frames 0, 3 and 6 are at whole ticks of the trajectory
    np.testing.assert_allclose(exact, [shifted(x) for x in (0, 0.1, 0.2)], atol=3e-4)
    np.testing.assert_allclose(exact[:, :3, :3] @ exact[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (3, 1, 1)), atol=1e-8)


def test_depths_that_are_listed_but_absent_are_left_out(tmp_path):
    write_rgbd(tmp_path / "rgbd_bonn_balloon")
    depths = sorted((tmp_path / "rgbd_bonn_balloon/depth").iterdir())
    depths[0].unlink(), depths[4].unlink()
    (clip,) = open_layout("bonn", tmp_path)
    np.testing.assert_allclose(clip.depth_m[:, 1, 1], [1.1, 1.3, 1.4, 1.6, 1.7, 1.8], atol=1e-4)
    assert np.abs(clip.frames[:, 0, 0, 0] - [10, 30, 40, 60, 70, 80.0]).max() <= 1
    for path in depths[1:4] + depths[5:]:
        path.unlink()
    with pytest.raises(DatasetError, match="rgbd_bonn_balloon: 0 frames have a depth and a pose"):
        next(open_layout("bonn", tmp_path))


# --- 7-Scenes and ScanNet ---------------------------------------------------------------------------------------


def write_seven_scenes(root: Path, frames: int = 2) -> Path:
    folder = root / "chess" / "seq-01"
    for index in range(frames):
        write_image(folder / f"frame-{index:06d}.color.png")
        write_depth(folder / f"frame-{index:06d}.depth.png", 65.535 if index else 2.0, 1000)
        np.savetxt(folder / f"frame-{index:06d}.pose.txt", shifted(index))
    return folder


def test_seven_scenes(tmp_path):
    folder = write_seven_scenes(tmp_path)
    (clip,) = scenes.iterate_seven_scenes(tmp_path)
    assert clip.name == "chess_seq-01" and clip.depth_m[0, 1, 1] == 2 and clip.depth_m[1].max() == 0
    np.testing.assert_allclose(clip.poses_c2w[1], shifted(1))
    (folder / "frame-000001.pose.txt").unlink()
    with pytest.raises(DatasetError, match="frame-000001.pose.txt: missing"):
        next(scenes.iterate_seven_scenes(tmp_path))


def write_scannet(root: Path) -> Path:
    """Frames 0, 1, 2 and 10, the pose of 1 lost; colours of twice the depths' size."""
    folder = root / "scene0000_00"
    (folder / "intrinsic").mkdir(parents=True)
    np.savetxt(folder / "intrinsic/intrinsic_depth.txt", np.diag([15.0, 15, 1, 1]))
    (folder / "pose").mkdir()
    for index in (0, 1, 2, 10):
        write_image(folder / f"color/{index}.jpg", size=(24, 40))
        write_depth(folder / f"depth/{index}.png", 1 + index, 1000)
        np.savetxt(folder / f"pose/{index}.txt", np.full((4, 4), -np.inf) if index == 1 else shifted(index))
    return folder


def test_scannet_leaves_out_lost_poses_and_takes_the_depth_size(tmp_path):
    write_scannet(tmp_path)
    (clip,) = scenes.iterate_scannet(tmp_path)
    assert clip.frames.shape == (3, *SIZE, 3) and clip.focal_px == 15
    assert clip.depth_m[:, 1, 1].tolist() == [1, 3, 11], "frames go by number, not by the alphabet"
    np.testing.assert_allclose(clip.poses_c2w, [shifted(index) for index in (0, 2, 10)], atol=1e-12)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_text("hello\n"), "not a table of numbers"),
        (lambda path: path.write_text(""), "not a table of numbers"),
        (lambda path: path.write_text("1 0 0\n0 1 0\n"), "need 4 rows of 4"),
        (lambda path: np.savetxt(path, 1.1 * np.eye(4)), "no camera pose"),
    ],
)
def test_scannet_names_a_pose_that_is_none(tmp_path, spoil, said):
    spoil(write_scannet(tmp_path) / "pose/2.txt")
    with pytest.raises(DatasetError, match=f"2.txt.*{said}"):
        next(scenes.iterate_scannet(tmp_path))


# --- KITTI ------------------------------------------------------------------------------------------------------

DRIVE = "2011_09_26/2011_09_26_drive_0002_sync"


def write_kitti(root: Path) -> np.ndarray:
    """One drive of 5 frames; a camera of 10 px that looks along the scanner's x; three points, one hidden."""
    for index in range(5):
        write_image(root / DRIVE / f"image_02/data/{index:010d}.png")
    points = np.float32([[8, 0, 0, 0.5], [4, 0, 0, 0.5], [5, 1, 0.5, 0.5], [-5, 0, 0, 0.5]])
    (root / DRIVE / "velodyne_points/data").mkdir(parents=True)
    points.tofile(root / DRIVE / "velodyne_points/data/0000000002.bin")
    day = root / "2011_09_26"
    (day / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\nR_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 10 0 10 0 0 10 6 0 0 0 1 0\n"
    )
    (day / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n")
    (root / "split.txt").write_text(f"{DRIVE} 0000000002 l\n")
    expected = np.zeros(SIZE)
    expected[6, 10], expected[5, 8] = 4, 5  # the nearer of two on one ray; (x, y) = (-1, -0.5) * 10 / 5 + centre
    return expected


def test_kitti_raw_lidar_and_neighbours(tmp_path):
    expected = write_kitti(tmp_path)
    (clip,) = kitti.iterate_kitti_eigen(tmp_path, tmp_path / "split.txt")
    assert len(clip.frames) == 5 and clip.depth_frames.tolist() == [2] and clip.crop == "garg"
    np.testing.assert_allclose(clip.depth_m[0], expected)
    assert clip.focal_px == 10


def test_kitti_improved_truth_leaves_out_lines_without_it(tmp_path):
    write_kitti(tmp_path)
    (tmp_path / "split.txt").write_text(f"{DRIVE} 0000000002 l\n{DRIVE} 0000000000 l\n")
    folder = tmp_path / "improved/val" / Path(DRIVE).name / "proj_depth/groundtruth/image_02"
    write_depth(folder / "0000000000.png", 7.5, 256)
    (clip,) = kitti.iterate_kitti_eigen(tmp_path, tmp_path / "split.txt", tmp_path / "improved", crop="eigen_kitti")
    assert clip.depth_m[0, 3, 3] == 7.5 and clip.depth_frames.tolist() == [0] and len(clip.frames) == 3


def test_the_frame_with_depth_is_kept_by_a_limit(tmp_path):
    expected = write_kitti(tmp_path)
    (tmp_path / "split.txt").rename(tmp_path / "eigen_test_files.txt")
    for most, depth_frame in ((2, 1), (3, 1), (4, 2), (9, 2)):
        (clip,) = open_layout("kitti_eigen", tmp_path, most)
        assert len(clip.frames) == min(most, 5) and clip.depth_frames.tolist() == [depth_frame]
        np.testing.assert_allclose(clip.depth_m[0], expected)


def test_kitti_names_what_is_missing(tmp_path):
    write_kitti(tmp_path)
    (tmp_path / DRIVE / "velodyne_points/data/0000000002.bin").unlink()
    with pytest.raises(DatasetError, match="0000000002.bin: missing"):
        next(kitti.iterate_kitti_eigen(tmp_path, tmp_path / "split.txt"))
    (tmp_path / "split.txt").write_text("drive 12\n")
    with pytest.raises(DatasetError, match="line 1"):
        next(kitti.iterate_kitti_eigen(tmp_path, tmp_path / "split.txt"))


def write_odometry(root: Path, name: str = "09", frames: int = 2) -> None:
    for index in range(frames):
        write_image(root / f"sequences/{name}/image_2/{index:06d}.png")
    (root / f"sequences/{name}/calib.txt").write_text("P0: 10 0 10 0 0 10 6 0 0 0 1 0\nP2: 10 0 10 5 0 10 6 0 0 0 1 0\n")
    (root / "poses").mkdir(exist_ok=True)
    np.savetxt(root / f"poses/{name}.txt", np.stack([shifted(3 * x)[:3].ravel() for x in range(frames)]))


def test_kitti_odometry_moves_the_poses_to_the_colour_camera(tmp_path):
    write_odometry(tmp_path)
    (clip,) = kitti.iterate_kitti_odometry(tmp_path, ("09",))
    # P2's last column is fx * 0.5: the colour camera stands half a metre to the left of the grey one
    np.testing.assert_allclose(clip.poses_c2w[0][:3, 3], [-0.5, 0, 0])
    np.testing.assert_allclose(
        clip.poses_c2w[1], shifted(3) @ np.linalg.inv(np.array([[1, 0, 0, 0.5], *np.eye(4)[1:]]))
    )


# --- NYU --------------------------------------------------------------------------------------------------------


def write_nyu(root: Path, chosen: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Three pictures as Matlab lies on disk: (N, 3, W, H) and (N, W, H). chosen: numbers of the test pictures, from 1."""
    images = np.arange(3 * 3 * 20 * 12, dtype=np.uint8).reshape(3, 3, 20, 12)
    depths = np.arange(3 * 20 * 12, dtype=np.float32).reshape(3, 20, 12) / 100
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:  # Matlab's own header lies there
        file["images"], file["depths"] = images, depths
    scipy.io.savemat(root / "splits.mat", {"testNdxs": np.array(chosen).reshape(-1, 1)})
    return images, depths


def test_nyu_reads_matlab_order_and_counting(tmp_path):
    with pytest.raises(DatasetError, match="nyu_depth_v2_labeled.mat: missing"):
        next(nyu.iterate_nyu(tmp_path))
    images, depths = write_nyu(tmp_path, [1, 3])
    first, second = nyu.iterate_nyu(tmp_path)
    assert (first.name, second.name) == ("nyu_0000", "nyu_0002") and first.crop == "eigen_nyu"
    assert second.frames.shape == (2, 12, 20, 3) and second.depth_m.shape == (1, 12, 20)
    assert second.depth_m[0, 5, 7] == depths[2, 7, 5] and second.frames[1, 5, 7, 2] == images[2, 2, 7, 5]
    assert [len(clip.frames) for clip in open_layout("nyu", tmp_path, 3)] == [2, 2]


def test_nyu_names_the_extra_that_it_needs(tmp_path, monkeypatch):
    write_nyu(tmp_path, [1])
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DatasetError, match=r"nyu_depth_v2_labeled.mat is an HDF5 file: pip install -e '\.\[datasets\]'"):
        next(nyu.iterate_nyu(tmp_path))


# --- all layouts ------------------------------------------------------------------------------------------------


def write_both_odometries(root: Path) -> None:
    write_odometry(root, "09", 3), write_odometry(root, "10", 4)


def write_eigen(root: Path) -> None:
    write_kitti(root)
    (root / "split.txt").rename(root / "eigen_test_files.txt")


LONG = {
    "sequences": (sequences, lambda root: write_sequence(root / "office")),
    "bonn": (tum, lambda root: write_rgbd(root / "rgbd_bonn_balloon")),
    "kitti_eigen": (kitti, write_eigen),
    "kitti_odometry": (kitti, write_both_odometries),
    "scannet": (scenes, write_scannet),
    "seven_scenes": (scenes, lambda root: write_seven_scenes(root, 3)),
    "sintel": (sintel, lambda root: write_sintel(root, 3)),
    "tum_dynamics": (tum, lambda root: [write_rgbd(root / name) for name in tum.DYNAMIC]),
}
"""Layouts with sequences of three frames or more: where they are read, and who writes a tiny copy."""


@pytest.mark.parametrize("layout", LONG)
def test_a_limit_stops_the_reading(tmp_path, monkeypatch, layout):
    module, write = LONG[layout]
    write(tmp_path)
    read, plain = [], sequences.read_rgb
    monkeypatch.setattr(module, "read_rgb", lambda path: read.append(path) or plain(path))
    whole, count = list(open_layout(layout, tmp_path)), len(read)
    assert count == sum(len(clip.frames) for clip in whole) and all(len(clip.frames) > 2 for clip in whole)
    read.clear()
    for full, clip in zip(whole, open_layout(layout, tmp_path, 2), strict=True):
        assert len(clip.frames) == len(clip.intrinsics) == len(read) == 2, "more was read than asked for"
        if clip.poses_c2w is not None:
            np.testing.assert_array_equal(clip.poses_c2w, full.poses_c2w[:2])
        if clip.depth_m is not None:
            assert len(clip.depth_m) == len(clip.depth_frames) and clip.depth_frames.max() < 2
        read.clear()


@pytest.mark.parametrize("layout", LONG)
def test_only_one_picture_is_held_beside_the_stack(tmp_path, monkeypatch, layout):
    module, write = LONG[layout]
    write(tmp_path)
    held, plain = [], sequences.read_rgb

    def watched(path):
        assert sum(image() is not None for image in held) <= 1
        image = plain(path)
        held.append(weakref.ref(image))
        return image

    monkeypatch.setattr(module, "read_rgb", watched)
    assert all(len(clip.frames) > 2 for clip in open_layout(layout, tmp_path)) and held


@pytest.mark.parametrize(
    "layout, write, sought",
    [
        ("bonn", lambda root: write_rgbd(root / "balloon"), "rgbd_bonn_NAME/"),
        ("kitti_eigen", lambda root: (root / "eigen_test_files.txt").write_text("\n"), "the lines of eigen_test_files.txt"),
        ("kitti_eigen", lambda root: [write_eigen(root), (root / "improved").mkdir()], "that have a ground truth"),
        ("nyu", lambda root: write_nyu(root, []), "the pictures that splits.mat numbers"),
        ("scannet", lambda root: write_scannet(root / "scans").rename(root / "one"), "sceneNNNN_NN/"),
        ("seven_scenes", lambda root: write_seven_scenes(root / "7scenes"), "SCENE/seq-NN/"),
    ],
)
def test_a_folder_that_holds_nothing_of_the_layout_is_an_error(tmp_path, layout, write, sought):
    write(tmp_path)
    with pytest.raises(DatasetError) as caught:
        list(open_layout(layout, tmp_path))
    assert all(part in str(caught.value) for part in (str(tmp_path), f"the layout {layout} ", sought))


# --- what scoring costs -----------------------------------------------------------------------------------------


def test_a_part_that_fails_costs_no_other(tmp_path, monkeypatch):
    def no_ray(folder):
        raise ModuleNotFoundError("No module named 'ray'")

    monkeypatch.setattr(score, "corpus_shots", lambda *_: iter([("multi_view", k) for k in range(40)]))
    monkeypatch.setattr(score, "speed", lambda folder: {"made": {"score_to_decode": 2.0}})
    monkeypatch.setattr(score, "storage", lambda shots: {"shots": len(shots)})
    monkeypatch.setattr(score, "against_pycolmap", lambda shots, folder: {"shots": [k for _, k in shots]})
    monkeypatch.setattr(score, "clips_against_pycolmap", lambda folder: {"clip": {"pycolmap_to_score": 90.0}})
    monkeypatch.setattr(score, "ray_throughput", no_ray)
    out = tmp_path / "score.json"
    write_json(out, {"ray": {"two_to_one": 1.9}, "storage": {"shots": 1}})
    with pytest.raises(ModuleNotFoundError):
        score.main(["--out", str(out), "--shots", "30"])
    found = read_json(out)
    assert found["speed"]["made"] == {"score_to_decode": 2.0} and found["storage"] == {"shots": 40} and found["ray"] == {"two_to_one": 1.9}
    assert found["clips"]["clip"] == {"pycolmap_to_score": 90.0}
    seen = found["pycolmap"]["shots"]
    assert len(set(seen)) == 30 and (seen[0], seen[-1]) == (0, 39) and set(np.diff(seen)) == {1, 2}


@pytest.mark.parametrize("count, chosen", [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (None, [0, 1, 2, 3, 4])])
def test_chosen_shots_are_spread_over_all(count, chosen):
    assert score.spread(list(range(5)), count) == chosen


@pytest.mark.parametrize("module, option", [(score, "--shots"), (training, "--rounds"), (adaptation, "--seeds"), (adaptation, "--steps")])
def test_a_benchmark_of_nothing_is_refused(module, option, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", option, "0"])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 2 and f"argument {option}: 0 is less than 1" in capsys.readouterr().err


# --- what a training step costs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(0)
    shots = [made_shot(seed, along=False) for seed in range(2)]
    return training.our_rows(training.ClipNet(), shots, 2, joint.Terms(), 0.5) | training.recipe_rows(shots, 2)


def test_every_row_of_the_benchmark_is_timed_and_every_ratio_told(rows):
    spent = training.seconds(rows, 1)
    assert spent.keys() == rows.keys() and all(values.shape == (1, 2) and (values > 0).all() for values in spent.values())
    found = training.summary(spent, 2)
    assert found["clock"].keys() == found["processor"].keys() == {"images_per_s", *training.RATIOS}
    assert found["clock"]["images_per_s"]["ours"] == pytest.approx(2 / spent["ours"][0, 0])


def test_ratios_are_of_the_same_round():
    """A machine that is three times slower in one round than in the others changes no ratio."""
    slow = np.array([[1.0, 1.0], [3.0, 3.0], [1.0, 1.0]])
    spent = {row: slow * (6 if row == "recipe" else 2) for pair in training.RATIOS.values() for row in pair}
    found = training.summary(spent, 12)["clock"]
    assert found["recipe_to_ours"] == 3 and found["ours_to_bare"] == 1 and found["images_per_s"]["ours"] == 6


def test_only_the_steps_change_the_weights():
    row = training.our_rows(model := training.ClipNet(), [made_shot(0, along=False)], 2, joint.Terms(), 0.5)
    weights = lambda: [parameter.detach().clone() for parameter in model.depth_net.parameters()]  # noqa: E731
    same = lambda one, other: all(map(torch.equal, one, other))  # noqa: E731
    before = weights()
    row["data"](0), row["bare"](0)
    assert same(before, weights()) and all(parameter.grad is not None for parameter in model.depth_net.parameters())
    row["ours"](0)
    assert not same(before, weights())


def test_arithmetic_turns_off_what_it_says_and_puts_it_back(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    net, seen = DepthNet(), []
    net.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.encoder.register_forward_hook(lambda _, __, outputs: seen.append(outputs[0]))
    work = training.there_and_back(net, lambda: list(net(torch.rand(2, 3, 64, 96), torch.rand(2, 5, 32, 48))))
    for how in ({}, {"bf16": False}, {"channels_last": False}, {}):
        training.within(work, **how)(0)
    last = [x.is_contiguous(memory_format=torch.channels_last) for x in seen[::2]]
    assert [x.dtype for x in seen[1::2]] == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]
    assert last == [True, True, False, True]


def test_missing_results_say_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="make repro"):
        training.stage2_shots()


# --- what adaptation to one sequence is worth -------------------------------------------------------------------


def test_adaptation_is_summed_up_over_seeds_and_against_the_last_of_scratch():
    runs = {"student": ([0.4, 0.2, 0.3], [0.4, 0.3, 0.3]), "released": ([0.6, 0.5, 0.5],) * 2, "scratch": ([0.9, 0.5, 0.2], [0.9, 0.5, 0.4])}
    curves = pd.DataFrame(
        [(start, seed, 10 * k, error) for start, of in runs.items() for seed, errors in enumerate(of) for k, error in enumerate(errors)],
        columns=["start", "seed", "step", "error"],
    )
    found = adaptation.summary(curves)
    student = found["student"]
    assert student["steps"] == [0, 10, 20] and student["absrel_median"] == pytest.approx([0.4, 0.25, 0.3])
    assert student["spread"] == pytest.approx([0, 0.05, 0]) and student["improvement_over_zero_shot"] == pytest.approx(0.25)
    assert student["best_improvement"] == pytest.approx(0.375)
    assert student["steps_to_scratch"] == 10 and student["share_of_scratch_steps"] == 0.5
    assert student["steps_to_best_scratch"] == 10 and found["scratch"]["steps_to_scratch"] == 20
    assert np.isnan([found["released"][key] for key in ("steps_to_scratch", "share_of_scratch_steps", "steps_to_best_scratch")]).all()


def test_adaptation_says_what_is_missing(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out.json")]
    assert adaptation.main(["--sequence", str(tmp_path / "nowhere"), *out]) == 1
    assert "error:" in (said := capsys.readouterr().err) and "nowhere" in said
    for index in range(4):
        write_image(tmp_path / f"seen/rgb/{index:06d}.png")
    np.savetxt(tmp_path / "seen/intrinsics.txt", np.eye(3))
    assert adaptation.main(["--sequence", str(tmp_path / "seen"), *out]) == 1
    assert "has no depth to learn from or to judge by" in capsys.readouterr().err and not (tmp_path / "out.json").exists()
    with pytest.raises(SystemExit) as stopped:
        adaptation.main(["--help"])
    assert stopped.value.code == 0 and "--seeds" in capsys.readouterr().out
