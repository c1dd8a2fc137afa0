"""The 3D viewer: points and cameras by invariants, files that are none, and a page that a browser can open."""

import urllib.request

import numpy as np
import pytest

from ss3d_lib import export, viewer
from ss3d_lib.predict import VideoPrediction

FRAMES, HEIGHT, WIDTH, FOCAL_PX = 3, 24, 40, 30.0


@pytest.fixture
def shot():
    """A camera that turns and moves before a wavy wall; its upper left corner moves, its lower right is unsure."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    depth = np.stack([2 + 0.3 * np.sin(x / 5 + k) + 0.01 * y for k in range(FRAMES)]).astype(np.float32)
    moving, std = np.zeros_like(depth), np.full_like(depth, 0.1)
    moving[:, :6, :6], std[:, -6:, -6:] = 1.0, 0.9
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    for k in range(FRAMES):
        c, s = np.cos(0.1 * k), np.sin(0.1 * k)
        poses[k, :3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        poses[k, :3, 3] = [0.2 * k, 0, 0.1 * k]
    matrix = np.array([[FOCAL_PX, 0, (WIDTH - 1) / 2], [0, FOCAL_PX, (HEIGHT - 1) / 2], [0, 0, 1]])
    pictures = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    found = VideoPrediction(depth, std, poses, FOCAL_PX, np.array([25.0, 36.0]), matrix, moving, 0.7, np.ones(4), np.full(4, 0.25))
    return pictures, found


def write(path, shot, **changes):
    pictures, found = shot
    values = {name: getattr(found, name) for name in found.__dataclass_fields__} | {"frames": pictures} | changes
    np.savez_compressed(path, **values)
    return path


def test_points_are_seen_where_they_came_from(shot):
    pictures, found = shot
    scene = viewer.make_scene(pictures, found, max_std=0.25, every=2)
    for k, view in enumerate(scene.views):
        inverse = np.linalg.inv(found.world_from_cam[k])
        local = view.points @ inverse[:3, :3].T + inverse[:3, 3]
        pixels = local @ found.intrinsics.T
        column, row = (pixels[:, :2] / pixels[:, 2:]).round(3).T
        assert np.allclose(column % 2, 0, atol=2e-3) and np.allclose(row % 2, 0, atol=2e-3)
        column, row = column.round().astype(int), row.round().astype(int)
        assert np.allclose(local[:, 2], found.depth_m[k, row, column], rtol=1e-5)
        assert (view.colours == pictures[k, row, column]).all()
        assert not ((row < 6) & (column < 6)).any() and not ((row >= HEIGHT - 6) & (column >= WIDTH - 6)).any()
    assert scene.aspect == WIDTH / HEIGHT and np.isclose(np.tan(scene.fov_rad / 2) * FOCAL_PX, HEIGHT / 2)


def test_cameras_keep_their_rotation(shot):
    scene = viewer.make_scene(*shot, max_std=0.25)
    for view, pose in zip(scene.views, shot[1].world_from_cam):
        w, x, y, z = view.wxyz
        turned = np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])  # of the optical axis
        np.testing.assert_allclose(turned, pose[:3, 2], atol=1e-9)
        np.testing.assert_array_equal(view.position, pose[:3, 3])


def test_where_hardly_a_pixel_is_reliable_all_that_rest_are_taken(shot):
    found = shot[1]
    assert (export.reliable(found, 1e-6) == (found.moving < 0.5)).all()
    keep = export.reliable(found, 0.25)
    assert (keep == ((found.moving < 0.5) & (found.log_depth_std < 0.25))).all()
    found.depth_m[:, :, -1] = 1e4
    assert not export.reliable(found, 0.25)[:, :, -1].any()


def test_a_file_comes_back_as_it_was_written(shot, tmp_path):
    pictures, found = viewer.read_prediction(write(tmp_path / "a.npz", shot))
    assert (pictures == shot[0]).all() and found.trust == shot[1].trust and found.focal_px == FOCAL_PX
    assert all((getattr(found, name) == getattr(shot[1], name)).all() for name in ("depth_m", "world_from_cam", "intrinsics"))


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "other", "pickled"])
def test_a_file_that_is_no_prediction_is_named_with_the_remedy(kind, shot, tmp_path):
    path = write(tmp_path / "shot.npz", shot, **({"trust": np.array([{}])} if kind == "pickled" else {}))
    if kind == "other":
        np.savez(path, depth=np.zeros(3))
    elif kind != "pickled":
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": path.read_bytes()[:500]}[kind])
    with pytest.raises(ValueError, match=r"shot\.npz is not a prediction .* ss3d_lib\.predict"):
        viewer.read_prediction(path)


@pytest.mark.parametrize("folder", ["missing", "."])
def test_a_folder_without_predictions_is_one_line(folder, tmp_path, capsys):
    assert viewer.main([str(tmp_path / folder)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "holds no prediction" in lines[0]


def test_without_viser_the_message_says_what_to_install(shot, tmp_path, capsys, monkeypatch):
    write(tmp_path / "a.npz", shot)
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    assert viewer.main([str(tmp_path)]) == 1
    assert "pip install '.[viewer]'" in capsys.readouterr().err


def test_the_page_opens_and_shows_every_frame(shot):
    pytest.importorskip("viser", reason="the extra 'viewer' is not installed")
    server = viewer.start_server("127.0.0.1", 8790)
    try:
        scene = viewer.make_scene(*shot, max_std=0.25)
        asked = []
        viewer.show(server, ["a", "b"], lambda name: asked.append(name) or scene)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}", timeout=20) as page:
            assert page.status == 200 and b"<html" in page.read().lower()
        drawn = viewer.draw(server, scene)
        assert asked == ["a"] and len(drawn) == FRAMES
        for (cloud, camera), view in zip(drawn, scene.views):
            assert len(cloud.points) == len(view.points) and np.allclose(camera.position, view.position)
    finally:
        server.stop()
