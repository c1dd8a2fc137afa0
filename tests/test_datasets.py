"""The adapters on tiny copies of each layout that the test writes itself, with known answers."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ss3d_lib import datasets, graph
from ss3d_lib.datasets import embedded, sequences
from ss3d_lib.datasets.clip import intrinsic_matrices
from ss3d_lib.video import write_video

REAL = Path("../shared/data/sequences")


def encode_depth(depth_m: np.ndarray) -> np.ndarray:
    """The corpus's code, written a second time from data/README.md: delta of 1 + 4094 ln(z / .05) / ln(20000)."""
    code = np.zeros(depth_m.shape, np.uint16)
    measured = depth_m > 0
    code[measured] = np.rint(1 + 4094 * np.log(depth_m[measured] / 0.05) / np.log(1000 / 0.05))
    return np.diff(code, axis=-1, prepend=np.uint16(0))


def write_corpus(root: Path) -> dict[str, np.ndarray]:
    """One test video of two shots, 6 and 4 frames of 32x48; the second is a slideshow without a camera."""
    random = np.random.default_rng(0)
    depth_m = np.exp(random.uniform(np.log(0.1), np.log(500), (10, 16, 24)))
    depth_m[:, 0] = 0.0
    poses = np.tile(np.eye(4, dtype=np.float32), (10, 1, 1))
    poses[:, 2, 3] = 0.1 * np.arange(10)
    intrinsics = np.tile(np.float32([40, 41, 23.5, 15.5]), (10, 1))
    intrinsics[6:] = np.nan
    (root / "videos/test").mkdir(parents=True)
    (root / "truth/test").mkdir(parents=True)
    shades = np.repeat(np.uint8(20 * np.arange(10))[:, None, None, None], 32 * 48 * 3).reshape(10, 32, 48, 3)
    write_video(root / "videos/test/clip.mp4", shades, crf=4)
    truth = {
        "domain": np.array("street"),
        "shot_start": np.int32([0, 6]),
        "shot_end": np.int32([6, 10]),
        "shot_kind": np.array(["multi_view", "slideshow"]),
        "poses_c2w": poses,
        "intrinsics": intrinsics,
        "depth_frames": np.arange(10, dtype=np.int32),
        "depth_code": encode_depth(depth_m),
        "depth_stride": np.array(2),
    }
    np.savez_compressed(root / "truth/test/clip.npz", **truth)
    return truth | {"depth_m": depth_m}


def write_sequence(folder: Path) -> np.ndarray:
    """Three frames of 12x16, of which the first and the last have a depth; depth in mm = 1000 + row."""
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    depth_mm = np.tile(np.uint16(1000 + np.arange(12))[:, None], (1, 16))
    depth_mm[0, 0] = 0
    for index in range(3):
        cv2.imwrite(str(folder / f"rgb/{index:06d}.jpg"), np.full((12, 16, 3), (10, 20, 200), np.uint8))
    for index in (0, 2):
        cv2.imwrite(str(folder / f"depth/{index:06d}.png"), depth_mm)
    np.savetxt(folder / "intrinsics.txt", [[20, 0, 7.5], [0, 21, 5.5], [0, 0, 1]])
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0, 1, 2]
    np.savetxt(folder / "poses_c2w.txt", poses.reshape(3, 16))
    return depth_mm


def test_embedded_clips_carry_their_own_truth(tmp_path):
    truth = write_corpus(tmp_path)
    first, second = datasets.open_set("embedded_test", tmp_path, "nowhere")
    assert (first.name, first.kind, first.domain, len(first.frames)) == ("clip_s00", "multi_view", "street", 6)
    assert (second.name, second.kind, len(second.frames)) == ("clip_s01", "slideshow", 4)
    assert first.focal_px == pytest.approx(40) and np.isnan(second.focal_px)
    assert first.frames.mean(axis=(1, 2, 3)) == pytest.approx(20 * np.arange(6), abs=6)
    np.testing.assert_allclose(second.poses_c2w[:, 2, 3], 0.1 * np.arange(6, 10), rtol=1e-6)
    assert (first.depth_m[:, 0] == 0).all() and second.depth_frames.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(first.depth_m[:, 1:], truth["depth_m"][:6, 1:], rtol=1.3e-3)


def test_flights_are_judged_farther_than_the_usual_cap(tmp_path):
    truth = write_corpus(tmp_path)
    del truth["depth_m"]
    assert next(embedded.iterate_embedded(tmp_path, "test")).max_depth_m == 80
    np.savez_compressed(tmp_path / "truth/test/clip.npz", **truth | {"domain": np.array("terrain")})
    assert next(embedded.iterate_embedded(tmp_path, "test")).max_depth_m == 1000


def test_striding_keeps_truth_and_frames_together(tmp_path):
    write_corpus(tmp_path)
    clip = next(iter(embedded.iterate_embedded(tmp_path, "test")))
    strided = clip.strided(2)
    assert strided.depth_frames.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(strided.depth_m[1], clip.depth_m[2])
    np.testing.assert_array_equal(strided.frames[2], clip.frames[4])
    np.testing.assert_array_equal(strided.poses_c2w[2], clip.poses_c2w[4])
    head = clip.head(3)
    assert len(head.frames) == len(head.depth_m) == len(head.poses_c2w) == 3


def test_a_sequence_with_some_depths(tmp_path):
    depth_mm = write_sequence(tmp_path / "office")
    clip = datasets.load_sequence(tmp_path / "office")
    assert clip.frames.shape == (3, 12, 16, 3) and clip.depth_frames.tolist() == [0, 2]
    np.testing.assert_allclose(clip.depth_m[1], depth_mm / 1000, rtol=1e-6)
    assert np.abs(clip.frames[0, 6, 8].astype(int) - [200, 20, 10]).max() < 6, "frames must be RGB, not BGR"
    assert clip.strided(2).depth_frames.tolist() == [0, 1]
    assert clip.poses_c2w[2, 0, 3] == 2
    np.testing.assert_allclose(clip.intrinsics[0], intrinsic_matrices(np.array([[20, 21, 7.5, 5.5]]))[0])


def test_the_head_of_a_sequence_has_the_truth_of_its_frames(tmp_path):
    write_sequence(tmp_path / "office")
    head = datasets.load_sequence(tmp_path / "office", 2)
    assert len(head.frames) == len(head.poses_c2w) == len(head.intrinsics) == 2 and head.depth_frames.tolist() == [0]


@pytest.mark.parametrize(
    "name, spoil, message",
    [
        ("intrinsics.txt", lambda path: path.unlink(), "missing"),
        ("intrinsics.txt", lambda path: path.write_text("1 2\n3 4\n"), "need 3 rows of 3"),
        ("poses_c2w.txt", lambda path: path.write_text("hello\n"), "not a table of numbers"),
        ("poses_c2w.txt", lambda path: np.savetxt(path, np.loadtxt(path) * 1.1), "is no camera pose"),
        ("poses_c2w.txt", lambda path: np.savetxt(path, np.loadtxt(path).reshape(3, 4, 4).transpose(0, 2, 1).reshape(3, 16)), "matrix 1 is no"),
        ("rgb/000001.jpg", lambda path: path.write_text("hello"), "cannot be read as an image"),
        ("rgb/000001.jpg", lambda path: cv2.imwrite(str(path), np.zeros((6, 8, 3), np.uint8)), "bring them to one size"),
        ("depth/000002.png", lambda path: path.write_bytes(b""), "need a uint16 png"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, spoil, message):
    write_sequence(tmp_path / "office")
    spoil(tmp_path / "office" / name)
    with pytest.raises(datasets.DatasetError, match=message) as caught:
        datasets.load_sequence(tmp_path / "office")
    assert Path(name).name in str(caught.value)


def test_rounded_rotations_are_made_exact(tmp_path):
    write_sequence(tmp_path / "office")
    path = tmp_path / "office/poses_c2w.txt"
    poses = np.loadtxt(path).reshape(3, 4, 4)
    poses[:, :3, :3] *= 0.9999
    np.savetxt(path, poses.reshape(3, 16))
    rotations = datasets.load_sequence(tmp_path / "office").poses_c2w[:, :3, :3]
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (3, 3, 3)), atol=1e-12)


def test_an_absent_set_says_what_to_do(tmp_path):
    assert not datasets.has_set("redkitchen", tmp_path, tmp_path)
    with pytest.raises(datasets.DatasetError, match="not on this machine"):
        datasets.open_set("redkitchen", tmp_path, tmp_path)
    with pytest.raises(datasets.DatasetError, match="dvc pull"):
        next(iter(embedded.iterate_embedded(tmp_path, "test")))
    with pytest.raises(datasets.DatasetError, match="no NAME/rgb"):
        sequences.find_sequences(tmp_path)


def test_evaluation_depends_on_no_adapter_of_a_public_set():
    """Else a mend of one of them would put every stage that evaluates out of date."""
    adapters = {place.partition(":")[0] for place, _ in datasets.LAYOUTS.values()}
    used = {path.stem for path in graph.transitive_modules(Path("ss3d_lib/evaluate.py")) if path.parts[1] == "datasets"}
    assert used & adapters == {"sequences"} and len(adapters) > 4


def test_a_truth_without_a_key_is_named(tmp_path):
    truth = write_corpus(tmp_path)
    del truth["shot_kind"], truth["depth_m"]
    np.savez_compressed(tmp_path / "truth/test/clip.npz", **truth)
    with pytest.raises(datasets.DatasetError, match="shot_kind"):
        embedded.load_truth(tmp_path / "truth/test/clip.npz")


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/sequences is not on this machine")
@pytest.mark.parametrize("name, size, depths", [("redkitchen", (240, 320), 400), ("kitti_drive", (185, 613), 0)])
def test_real_sequences(name, size, depths):
    clip = datasets.load_sequence(REAL / name)
    assert clip.frames.shape[1:3] == size
    assert (0 if clip.depth_m is None else len(clip.depth_m)) == depths
    np.testing.assert_allclose(np.linalg.det(clip.poses_c2w[:, :3, :3]), 1, atol=1e-9)
