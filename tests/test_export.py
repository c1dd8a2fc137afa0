"""Exports are read back by other programs' readers, or by a parser written for the test; the toy room is exact."""

import errno
import json
import os
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pycolmap
import pytest
import torch
from scipy.spatial.transform import Rotation

from ss3d_lib import export, geometry, toy_scene
from ss3d_lib.datasets import load_sequence

HEIGHT, WIDTH = 48, 64
K = geometry.intrinsics_matrix(torch.tensor(55.0, dtype=torch.float64), HEIGHT, WIDTH).numpy()


def poses(count: int = 3) -> np.ndarray:
    """A short walk through the toy room, starting at the world."""
    walk = np.tile(np.eye(4), (count, 1, 1))
    for index in range(count):
        walk[index, :3, :3] = Rotation.from_rotvec([0.02 * index, -0.04 * index, 0.01 * index]).as_matrix()
        walk[index, :3, 3] = [0.1 * index, -0.05 * index, 0.2 * index]
    return walk


def prediction(count: int = 3) -> tuple[np.ndarray, SimpleNamespace]:
    """Frames of the room, and their truth in the shape of a prediction."""
    views = [toy_scene.render(pose, K, HEIGHT, WIDTH) for pose in poses(count)]
    frames = np.stack([(255 * image).astype(np.uint8) for image, _ in views])
    return frames, SimpleNamespace(depth_m=np.stack([d for _, d in views]), world_from_cam=poses(count), intrinsics=K)


def read_ply(path) -> tuple[list[str], np.ndarray]:
    """Header lines and vertices (x, y, z, r, g, b) of a binary PLY, by struct alone."""
    raw = path.read_bytes()
    header, _, body = raw.partition(b"end_header\n")
    assert len(body) % 15 == 0
    return header.decode().splitlines(), np.array(
        [struct.unpack_from("<fffBBB", body, k) for k in range(0, len(body), 15)]
    )


# --- the toy room -----------------------------------------------------------------------------------------------


def test_the_room_has_the_depths_it_was_built_with():
    _, depth = toy_scene.render(np.eye(4), K, HEIGHT, WIDTH)
    assert depth[0, 0] == pytest.approx(toy_scene.WALL_Z)
    assert depth[-1, 0] == pytest.approx(55 / ((HEIGHT - 1) / 2), rel=1e-5)  # the floor: z = f * y / (row - centre)
    assert depth[HEIGHT // 2 + 4, WIDTH // 2 - 2] == pytest.approx(toy_scene.BOX[0][2])


def test_warping_one_view_of_the_room_gives_the_other():
    first, second = (toy_scene.render(pose, K, 2 * HEIGHT, 2 * WIDTH) for pose in poses(2))
    to_tensor = lambda image: torch.tensor(image).permute(2, 0, 1)[None]  # noqa: E731
    second_from_first = torch.tensor(np.linalg.inv(poses(2)[1]), dtype=torch.float32)[None]
    camera = torch.tensor(K, dtype=torch.float32)[None]
    warped, visible = geometry.warp(to_tensor(second[0]), torch.tensor(first[1])[None], camera, second_from_first)
    error = (warped - to_tensor(first[0])).abs().mean(1)[visible]
    assert visible.float().mean() > 0.6 and float(error.median()) < 5e-3


# --- files ------------------------------------------------------------------------------------------------------


def test_depth_comes_back_to_one_step_of_the_code(tmp_path):
    depth = np.random.default_rng(0).uniform(0.3, 9.0, (20, 30)).astype(np.float32)
    depth[3, 4], depth[5, 6] = 0.0, np.nan
    unit = export.depth_unit(depth[None])
    export.write_depth_png(tmp_path / "d.png", depth, unit)
    back = export.read_depth_png(tmp_path / "d.png", unit)
    assert back[3, 4] == 0 and back[5, 6] == 0
    known = np.isfinite(depth) & (depth > 0)
    np.testing.assert_allclose(back[known], depth[known], atol=0.51 * unit)
    assert cv2.imread(str(tmp_path / "d.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16


def test_other_pngs_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "rgb.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"rgb\.png is not a 16-bit PNG"):
        export.read_depth_png(tmp_path / "rgb.png", 1.0)


def test_a_depth_without_any_value_is_written_as_nothing(tmp_path):
    empty = np.zeros((4, 5), np.float32)
    export.write_depth_png(tmp_path / "d.png", empty, export.depth_unit(empty[None]))
    assert not export.read_depth_png(tmp_path / "d.png", 1.0).any()


def test_poses_come_back(tmp_path):
    export.write_poses(tmp_path / "poses.txt", poses(4))
    np.testing.assert_allclose(np.loadtxt(tmp_path / "poses.txt").reshape(4, 4, 4), poses(4), atol=1e-6)
    assert (tmp_path / "poses.txt").read_text().startswith("# camera-to-world")


def test_points_of_all_views_lie_on_the_floor_the_wall_and_the_box():
    frames, p = prediction()
    points, colours = export.point_cloud(
        frames, p.depth_m, p.world_from_cam, K, np.ones(p.depth_m.shape, bool), every=2
    )
    assert len(points) == len(colours) == 3 * (HEIGHT // 2) * (WIDTH // 2) and colours.dtype == np.uint8
    low, high = (np.array(corner) for corner in toy_scene.BOX)
    on_box = ((points > low - 1e-3) & (points < high + 1e-3)).all(1)
    on_plane = (np.abs(points[:, 1] - toy_scene.FLOOR_Y) < 1e-3) | (np.abs(points[:, 2] - toy_scene.WALL_Z) < 1e-3)
    assert (on_box | on_plane).all() and on_box.any()


def test_masked_pixels_stay_out_of_the_cloud():
    frames, p = prediction(1)
    keep = np.zeros(p.depth_m.shape, bool)
    keep[0, :8, :8] = True
    points, colours = export.point_cloud(frames, p.depth_m, p.world_from_cam, K, keep, every=1)
    assert len(points) == 64
    np.testing.assert_array_equal(colours.reshape(8, 8, 3), frames[0, :8, :8])


def test_the_ply_is_read_by_the_format_s_rules(tmp_path):
    points = np.random.default_rng(1).normal(size=(17, 3)).astype(np.float32)
    colours = np.random.default_rng(2).integers(0, 256, (17, 3), dtype=np.uint8)
    export.write_ply(tmp_path / "c.ply", points, colours)
    header, vertices = read_ply(tmp_path / "c.ply")
    assert header[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 17"]
    np.testing.assert_allclose(vertices[:, :3], points)
    np.testing.assert_array_equal(vertices[:, 3:], colours)
    with pytest.raises(ValueError, match=r"c\.ply: 17 points and 16 colours"):
        export.write_ply(tmp_path / "c.ply", points, colours[:16])


def test_an_empty_cloud_is_a_valid_ply(tmp_path):
    export.write_ply(tmp_path / "c.ply", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))
    assert "element vertex 0" in read_ply(tmp_path / "c.ply")[0]


def test_pycolmap_reads_the_model_and_projects_as_we_do(tmp_path):
    export.write_colmap(tmp_path, poses(), K, (HEIGHT, WIDTH), ["a.png", "b.png", "c.png"])
    model = pycolmap.Reconstruction(str(tmp_path))
    assert model.num_images() == 3 and model.num_cameras() == 1
    world = np.array([0.3, 0.4, 5.0])
    for image in model.images.values():
        cam_from_world = np.linalg.inv(poses()[["a.png", "b.png", "c.png"].index(image.name)])
        local = cam_from_world[:3, :3] @ world + cam_from_world[:3, 3]
        ours = (K @ local / local[2])[:2]
        np.testing.assert_allclose(
            image.project_point(world), ours + 0.5, atol=1e-4
        )  # COLMAP's first centre is (.5, .5)


def test_everything_at_once(tmp_path):
    frames, p = prediction()
    facts = export.write_all(tmp_path / "out", frames, p, np.ones(p.depth_m.shape, bool), every=4)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["frames"] == facts["frames"] == 3
    assert len(read_ply(tmp_path / "out" / "cloud.ply")[1]) == facts["points"]
    np.testing.assert_allclose(np.loadtxt(tmp_path / "out" / "intrinsics.txt"), K, atol=1e-5)
    rgb = cv2.imread(str(tmp_path / "out" / "rgb" / "000001.png"))[..., ::-1]
    np.testing.assert_array_equal(rgb, frames[1])
    assert (
        len(list((tmp_path / "out" / "depth16").glob("*.png"))) == 3
        and (tmp_path / "out" / "colmap" / "images.txt").exists()
    )


def test_a_second_export_into_a_folder_leaves_nothing_of_the_first(tmp_path):
    for count in (5, 3):
        frames, p = prediction(count)
        (tmp_path / "rgb").mkdir(exist_ok=True)
        (tmp_path / "rgb" / "notes.txt").write_text("mine")
        export.write_all(tmp_path, frames, p, np.ones(p.depth_m.shape, bool))
    clip = load_sequence(tmp_path)
    np.testing.assert_array_equal(clip.frames, frames)
    np.testing.assert_allclose(clip.poses_c2w, p.world_from_cam, atol=1e-6)
    assert len(list((tmp_path / "depth16").iterdir())) == 3 and (tmp_path / "rgb" / "notes.txt").exists()


@pytest.mark.parametrize("kind, ndim", [("rgb", 3), ("depth16", 2)])
def test_a_picture_that_cannot_be_written_is_named(tmp_path, monkeypatch, kind, ndim):
    code = cv2.imencode

    def full(kind, image):
        if image.ndim == ndim:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return code(kind, image)

    monkeypatch.setattr(cv2, "imencode", full)
    frames, p = prediction(2)
    with pytest.raises(OSError, match=f"the disk is full.*{kind}/000000.png"):
        export.write_all(tmp_path, frames, p, np.ones(p.depth_m.shape, bool))
    assert not list((tmp_path / kind).iterdir())
