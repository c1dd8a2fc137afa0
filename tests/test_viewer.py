"""The 3D viewer: points and cameras by invariants, files that are none, and a page that a browser can open."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ss3d_lib import export, predict, viewer
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
    pictures, found = predict.read_prediction(write(tmp_path / "a.npz", shot))
    assert (pictures == shot[0]).all() and found.trust == shot[1].trust and found.focal_px == FOCAL_PX
    assert all((getattr(found, name) == getattr(shot[1], name)).all() for name in ("depth_m", "world_from_cam", "intrinsics"))


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "other", "pickled", "array", "sizes"])
def test_a_file_that_is_no_prediction_is_named_with_the_remedy(kind, shot, tmp_path):
    path = write(tmp_path / "shot.npz", shot, **{"pickled": {"trust": np.array([{}])}, "sizes": {"depth_m": np.ones((2, 3, 4))}}.get(kind, {}))
    if kind == "other":
        np.savez(path, depth=np.zeros(3))
    elif kind == "array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif kind not in ("pickled", "sizes"):
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": path.read_bytes()[:500]}[kind])
    with pytest.raises(ValueError, match=r"shot\.npz is not a prediction: .* ss3d_lib\.predict") as caught:
        predict.read_prediction(path)
    assert "pickle" not in str(caught.value)


def test_what_a_killed_prediction_left_is_passed_over(shot, tmp_path):
    write(tmp_path / "b.npz", shot)
    (tmp_path / ".a.x1y2.npz").write_bytes(b"half")
    assert list(viewer.find_predictions(tmp_path)) == ["b"]


@pytest.mark.parametrize("folder, said", [("missing", "is not a folder"), (".", "holds no prediction")])
def test_a_folder_without_predictions_is_one_line(folder, said, tmp_path, capsys):
    assert viewer.main([str(tmp_path / folder)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and "ss3d_lib.predict" in lines[0]


def test_a_bad_file_is_one_line_before_anything_is_served(tmp_path, capsys):
    (tmp_path / "a.npz").write_bytes(b"hello")
    assert viewer.main([str(tmp_path), "--port", "0"]) == 1
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1 and "a.npz is not a prediction" in told.err and not told.out


@pytest.mark.parametrize("address", [["--port", "99999"], ["--host", "203.0.113.5"]])  # RFC 5737: nobody's
def test_an_address_that_is_not_ours_is_one_line(address, shot, tmp_path, capsys):
    write(tmp_path / "a.npz", shot)
    assert viewer.main([str(tmp_path), *address]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and address[1] in lines[0]


def test_without_viser_the_message_says_what_to_install(shot, tmp_path, capsys, monkeypatch):
    write(tmp_path / "a.npz", shot)
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    assert viewer.main([str(tmp_path)]) == 1
    assert "pip install '.[viewer]'" in capsys.readouterr().err


@pytest.fixture
def server():
    pytest.importorskip("viser", reason="viser is not installed: pip install '.[viewer]'")
    server = viewer.start_server("127.0.0.1", 0)
    yield server
    server.stop()


def choose(server, label, value):
    """Give a control of the page another value, as a visitor would."""
    next(c for c in server.gui._gui_input_handle_from_uuid.values() if c.label == label).value = value


def test_the_page_opens_and_shows_every_frame(shot, server):
    scene = viewer.make_scene(*shot, max_std=0.25)
    asked = []
    viewer.show(server, ["a", "b"], lambda name: asked.append(name) or scene)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}", timeout=20) as page:
        assert page.status == 200 and b"<html" in page.read().lower()
    nodes = server.scene._handle_from_node_name
    assert {"/path"} | {f"/frame{k}/{kind}" for k in range(FRAMES) for kind in ("points", "camera")} <= set(nodes)
    for k, view in enumerate(scene.views):
        assert len(nodes[f"/frame{k}/points"].points) == len(view.points)
        np.testing.assert_allclose(nodes[f"/frame{k}/camera"].position, view.position)
    choose(server, "all frames", False)
    choose(server, "frame", 1)
    assert [nodes[f"/frame{k}/points"].visible for k in range(FRAMES)] == [False, True, False]
    choose(server, "shot", "b")
    assert asked == ["a", "b"]


def test_shots_chosen_in_haste_do_not_mix(shot, server):
    scene = viewer.make_scene(*shot, max_std=0.25)
    viewer.show(server, ["a", "b"], lambda _: scene)
    choices = server.gui._gui_input_handle_from_uuid.values()
    chosen = next(c for c in choices if c.label == "shot")._impl.update_cb[0]
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(chosen) for _ in range(12)]:
            done.result()  # raises what the thread raised
