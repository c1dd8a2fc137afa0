"""The evaluator: an oracle gets zero error, a known mistake gets the known error, checkpoints are never mixed."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation
from test_datasets import write_corpus, write_sequence

from ss3d_lib import baselines, evaluate, metrics, protocol, report
from ss3d_lib.datasets import LAYOUTS, EvalClip, open_set, sequences
from ss3d_lib.files import write_json
from ss3d_lib.protocol import Answer

REAL = Path("../shared/data/sequences")


def make_clip(seed: int = 0, frames: int = 9, stride: int = 2, **changes) -> EvalClip:
    """A clip of 24x36 with a smooth trajectory, a random depth at half resolution, and a camera of 30 px."""
    random = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    turns = np.cumsum(0.03 * random.normal(size=(frames, 3)), axis=0)
    poses[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    poses[:, :3, 3] = np.cumsum(0.2 * random.normal(size=(frames, 3)), axis=0)
    rows, columns = np.mgrid[0:24, 0:36]
    depth_m = np.stack([5 + 0.1 * rows + 0.05 * columns + index for index in range(frames)]).astype(np.float32)
    clip = EvalClip(
        name=f"clip{seed}_s00",
        frames=random.integers(0, 255, (frames, 24, 36, 3), dtype=np.uint8),
        intrinsics=np.tile([[30.0, 0, 17.5], [0, 30.0, 11.5], [0, 0, 1]], (frames, 1, 1)),
        poses_c2w=poses,
        depth_m=depth_m[:, ::stride, ::stride],
        depth_frames=np.arange(frames),
        depth_stride=stride,
        domain="street",
    )
    return replace(clip, **changes)


def oracle(clip: EvalClip, stride: int = 1, **changes):
    """A predictor that answers with the truth of the clip, in another scale and world, but for the given changes."""
    rows, columns = np.mgrid[0:24, 0:36]
    depth = np.stack([5 + 0.1 * rows + 0.05 * columns + index for index in range(len(clip.frames))])[::stride]
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = Rotation.from_rotvec([0.4, -1.0, 0.2]).as_matrix(), [3, 4, 5]
    poses = world @ clip.poses_c2w[::stride]
    poses[:, :3, 3] *= 0.25
    guess = Answer(
        depth_m=0.25 * depth,
        log_depth_std=np.full(depth.shape, 0.1),
        world_from_cam=poses,
        focal_px=clip.focal_px,
        focal_interval_px=np.array([25.0, 36.0]),
        trust=1.0,
    )
    return lambda frames: replace(guess, **changes)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_an_oracle_has_no_error_at_any_stride(stride):
    clip = make_clip()
    figures = evaluate.set_metrics([protocol.evaluate_clip(clip, oracle(clip, stride), stride)])
    zero = ("absrel_median", "absrel_video", "absrel_affine", "focal_relerr", "fov_deg", "ate_sim3", "rpe_sim3_m", "rpe_sim3_deg")
    for key in zero:
        assert figures[key] == pytest.approx(0.0, abs=1e-5), key
    assert figures["rot_deg"] < 1e-5 and figures["dir_deg"] < 1e-4 and figures["d1_median"] == 1.0
    assert figures["absrel_metric"] == pytest.approx(0.75, abs=1e-5), "the metric error keeps the wrong scale"
    assert figures["ate_se3"] > 0.01 and figures["rpe_se3_m"] > 0.001 and figures["rpe_se3_deg"] == figures["rpe_sim3_deg"]
    assert figures["fscore"] == pytest.approx(1.0)
    assert figures["focal_covered"] == 1.0 and figures["stride"] == stride


def test_known_mistakes_get_the_known_error():
    clip = make_clip()
    truth = oracle(clip)(clip.frames)
    turned = truth.world_from_cam.copy()
    step = Rotation.from_euler("y", 2.0, degrees=True).as_matrix()
    for index in range(1, len(turned)):  # every pair turns 2 degrees too far
        turned[index, :3, :3] = turned[index, :3, :3] @ np.linalg.matrix_power(step, index)
    relative = protocol.evaluate_clip(clip, oracle(clip, world_from_cam=turned))
    assert np.median(relative.values["rot_deg"]) == pytest.approx(2.0, abs=0.3)
    wrong_focal = protocol.evaluate_clip(clip, oracle(clip, focal_px=33.0))
    assert wrong_focal.values["focal_relerr"][0] == pytest.approx(0.1)
    missed = protocol.evaluate_clip(clip, oracle(clip, focal_interval_px=np.array([31.0, 40.0])))
    assert missed.values["focal_covered"][0] == 0.0
    half = truth.depth_m.copy()
    half[:, :, :18] *= 2.0
    spoilt = protocol.evaluate_clip(clip, oracle(clip, depth_m=half))
    assert 0.3 < np.mean(spoilt.values["absrel_median"]) < 0.7


def test_the_crop_of_a_set_is_what_is_judged():
    """Nonsense outside the crop costs nothing; with another set's crop it does."""
    random = np.random.default_rng(0)
    true_m = random.uniform(1.0, 4.0, (2, 480, 640)).astype(np.float32)
    intrinsics = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
    frames = np.zeros((2, 480, 640, 3), np.uint8)
    clip = EvalClip("c", frames, np.repeat(intrinsics[None], 2, axis=0), None, true_m, np.arange(2), crop="eigen_nyu")
    spoilt = np.where(metrics.crop_mask(480, 640, "eigen_nyu"), true_m, 50.0)
    values = protocol.evaluate_clip(clip, lambda frames: protocol.Answer(depth_m=spoilt)).values
    assert values["absrel_median"].max() < 1e-6 and values["absrel_affine"].max() < 1e-6 and values["fscore"][0] == 1.0
    for other in ("eigen_kitti", ""):
        values = protocol.evaluate_clip(replace(clip, crop=other), lambda frames: protocol.Answer(depth_m=spoilt)).values
        assert values["absrel_median"].min() > 0.1 and values["fscore"][0] < 1.0, other


def test_the_spread_of_a_lens_within_a_video_is_that_of_its_halves():
    clip = make_clip(frames=2 * protocol.MIN_HALF)
    guess = oracle(clip)(clip.frames)
    says = lambda frames: replace(guess, focal_px=30.0 if np.array_equal(frames, clip.frames[: len(frames)]) else 33.0)
    assert protocol.evaluate_clip(clip, says).values["focal_spread"][0] == pytest.approx(np.log(1.1))
    assert protocol.evaluate_clip(clip, oracle(clip)).values["focal_spread"][0] == 0.0
    short = clip.head(2 * protocol.MIN_HALF - 2)
    assert "focal_spread" not in protocol.evaluate_clip(short, oracle(short)).values
    silent = lambda frames: replace(guess, focal_px=30.0 if len(frames) == len(clip.frames) else None)
    assert "focal_spread" not in protocol.evaluate_clip(clip, silent).values


def test_every_figure_of_a_set_has_its_interval():
    results = [protocol.evaluate_clip(clip, oracle(clip)) for clip in (make_clip(0), make_clip(1))]
    figures = evaluate.set_metrics(results)
    plain = {key for key in figures if not key.endswith(("_low", "_high"))} - {"clips", "stride"}
    assert {f"{key}_{end}" for key in plain for end in ("low", "high")} <= set(figures) and len(plain) > 20


def transposed_rotations(poses: np.ndarray) -> np.ndarray:
    poses = poses.copy()
    poses[:, :3, :3] = np.swapaxes(poses[:, :3, :3], 1, 2)
    return poses


@pytest.mark.parametrize(
    "mistake, key",
    [
        (lambda g: {"world_from_cam": transposed_rotations(g.world_from_cam)}, "rot_deg"),
        (lambda g: {"world_from_cam": np.linalg.inv(g.world_from_cam)}, "dir_deg"),
        (lambda g: {"depth_m": np.roll(g.depth_m, 1, axis=0)}, "absrel_video"),
        (lambda g: {"depth_m": g.depth_m[:, :, ::-1]}, "absrel_median"),
        (lambda g: {"depth_m": 1 / g.depth_m}, "absrel_median"),
    ],
)
def test_planted_mistakes_are_caught(mistake, key):
    clip = make_clip(1)
    good = oracle(clip)(clip.frames)
    spoilt = protocol.evaluate_clip(clip, lambda frames: replace(good, **mistake(good)))
    fine = protocol.evaluate_clip(clip, lambda frames: good)
    assert evaluate.reduce_values(key, spoilt.values[key]) > evaluate.reduce_values(key, fine.values[key]) + 0.005


def test_depth_is_read_at_the_pixels_of_the_truth():
    """A half-resolution truth belongs to the even pixels: an off-by-one sampling must cost something."""
    clip = make_clip(2)
    good = oracle(clip)(clip.frames)
    shifted = np.roll(good.depth_m, 1, axis=2)
    error = protocol.evaluate_clip(clip, lambda frames: replace(good, depth_m=shifted)).values["absrel_metric"]
    assert np.ptp(error - protocol.evaluate_clip(clip, lambda frames: good).values["absrel_metric"]) > 0


def test_bars_and_unmeasured_pixels_play_no_part():
    clip = make_clip()
    depth_m = clip.depth_m.copy()
    depth_m[:, :3] = 0.0
    good = oracle(clip)(clip.frames)
    wild = good.depth_m.copy()
    wild[:, :6] = 1e5
    result = protocol.evaluate_clip(replace(clip, depth_m=depth_m), lambda frames: replace(good, depth_m=wild))
    assert np.max(result.values["absrel_median"]) < 1e-5


def test_kinds_and_domains_are_kept_apart():
    clips = [make_clip(seed) for seed in range(4)]
    clips[1] = replace(clips[1], domain="forest")
    clips[3] = replace(clips[3], kind="static", poses_c2w=np.tile(np.eye(4), (9, 1, 1)))
    results = [protocol.evaluate_clip(clip, oracle(clip)) for clip in clips[:3]]
    wide = oracle(clips[3], focal_interval_px=np.array([10.0, 90.0]))
    results.append(protocol.evaluate_clip(clips[3], wide))
    sets = evaluate.split_metrics("toy", results)
    figures = sets["toy"]
    assert figures["clips"] == 3 and sets["toy_street"]["clips"] == 2 and sets["toy_kind_static"]["clips"] == 1
    assert figures["focal_width_ratio"] == pytest.approx(np.log(9) / np.log(36 / 25))
    assert figures["rot_deg_low"] <= figures["rot_deg"] <= figures["rot_deg_high"]
    assert sets["toy_kind_static"]["focal_covered"] == 1.0
    assert "ate_sim3" not in results[3].values, "a standing camera has no trajectory to err from"


def test_trivial_baselines_on_a_tiny_corpus(tmp_path):
    clips = [make_clip(seed) for seed in range(3)]
    prior = baselines.fit_prior(clips)
    assert prior.focal_share == pytest.approx(30 / 36)
    rows = baselines.trivial_baselines(prior)
    figures = {row: evaluate.set_metrics([protocol.evaluate_clip(c, rows[row]) for c in clips]) for row in rows}
    assert figures["constant_focal"]["focal_relerr"] == pytest.approx(0.0)
    assert figures["mean_disparity"]["absrel_median"] < 0.7 * figures["constant_depth"]["absrel_median"]
    assert figures["identity_motion"]["dir_deg"] == 90.0 and figures["identity_motion"]["rot_deg"] > 0.5
    assert figures["constant_direction"]["dir_deg"] <= figures["constant_motion"]["dir_deg"] + 10
    assert "rot_deg" not in figures["mean_disparity"] and "absrel_median" not in figures["identity_motion"]
    write_corpus(tmp_path)
    assert baselines.fit_prior(open_set("embedded_test", tmp_path, tmp_path)).inverse_depth.keys() == {"standard"}


def test_always_forward_is_right_on_a_forward_drive():
    clip = make_clip()
    poses = np.tile(np.eye(4), (9, 1, 1))
    poses[:, 2, 3] = np.arange(9)
    forward = lambda frames: Answer(world_from_cam=baselines.straight_line(len(frames), np.array([0.0, 0, -1])))
    values = protocol.evaluate_clip(replace(clip, poses_c2w=poses), forward).values
    assert np.max(values["dir_deg"]) < 1e-6 and values["ate_sim3"][0] < 1e-6


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/sequences is not on this machine")
def test_trivial_figures_of_real_sequences():
    """Independent figures: constant depth 0.252 and 0.310, rotation 4.2, 0.38, 0.06, forward axis 40, 69, 1.3."""
    known = {"hololens_office": (0.252, 4.2, 40), "redkitchen": (0.310, 0.38, 69), "kitti_drive": (None, 0.06, 1.3)}
    for name, (absrel, rot_deg, axis_deg) in known.items():
        (clip,) = open_set(name, "data", REAL)
        guess = lambda frames: Answer(
            depth_m=np.broadcast_to(1.0, frames.shape[:3]),
            world_from_cam=baselines.straight_line(len(frames), np.array([0.0, 0, -1])),
        )
        values = protocol.motion_values(clip.poses_c2w, guess(clip.frames).world_from_cam)
        assert np.median(values["rot_deg"]) == pytest.approx(rot_deg, rel=0.02)
        assert np.median(values["dir_axis_deg"]) == pytest.approx(axis_deg, rel=0.04)
        if absrel:
            short = clip.strided(40)
            assert np.mean(protocol.depth_values(short, guess(short.frames))["absrel_median"]) == pytest.approx(
                absrel, rel=0.1
            )


# --- the report ---------------------------------------------------------------------------------------------------


def write_results(root: Path, sha: str = "a") -> None:
    figures = {"absrel_median": 0.2, "absrel_median_low": 0.1, "absrel_median_high": 0.3, "ate_sim3": 0.05, "clips": 3}
    street = {"absrel_median": 0.25, "clips": 2, "dir_deg": None}
    static = {"focal_relerr": 0.2, "clips": 1}
    test = {"embedded_test": figures, "embedded_test_street": street, "embedded_test_kind_static": static}
    write_json(root / "evaluate/student-embedded_test/metrics.json", test | {"checkpoint": "a"})
    write_json(root / "evaluate/student-sequences/metrics.json", {"redkitchen": figures, "checkpoint": sha})
    for name in ("embedded_test", "sequences"):
        write_json(root / f"evaluate/student-{name}/timing.json", {"seconds": 2.0})
    write_json(root / "baselines/metrics.json", {"identity_motion-redkitchen": {"rot_deg": 0.4, "clips": 1}})
    write_json(root / "stage2/timing.json", {"seconds": 60.0})


def test_the_summary_has_rows_sets_domains_and_timings(tmp_path):
    write_results(tmp_path)
    summary = report.build_summary(tmp_path)
    assert list(summary) == ["identity_motion", "student", "timings"]
    assert summary["student"]["embedded_test"]["absrel_median"] == 0.2
    assert summary["student"]["embedded_test_street"] == {"absrel_median": 0.25, "clips": 2}
    assert "checkpoint" not in summary["student"]
    assert summary["timings"] == {"evaluate": 4.0, "stage2": 60.0}
    assert "| student | 0.200 (0.100 to 0.300) | 5.0 |" in report.set_table(summary, "embedded_test")
    assert "| street | 2 | 0.250 |" in report.domain_table(summary, "student")


def test_rivals_join_the_summary_and_their_other_blocks_do_not(tmp_path):
    write_results(tmp_path)
    counted = {"ate_sim3": 0.04, "usable": 0.5, "failed_share": 0.25}
    rows = {"pycolmap-embedded_test": counted, "monodepth2-redkitchen": {"rot_deg": 1.0}}
    others = {"monodepth2_seeds": {"rot_deg_std": 0.1}, "usable_embedded_test": {"student_usable": 1.0}}
    write_json(tmp_path / "rivals/metrics.json", rows | others)
    write_json(tmp_path / "rivals/timing.json", {"seconds": 3600.0})
    summary = report.build_summary(tmp_path)
    assert list(summary) == ["identity_motion", "pycolmap", "monodepth2", "student", "timings"]
    assert summary["pycolmap"] == {"embedded_test": counted}
    assert "rivals" not in summary["timings"], "make repro does not run it"
    assert "pycolmap gives a trajectory of 75% of the shots" in report.results_block(summary)
    assert "| pycolmap |  | 4.0 |" in report.set_table(summary, "embedded_test")


def test_rows_sets_and_minutes_are_told_in_their_order_though_files_sort_their_keys(tmp_path):
    depth = {"absrel_median": 0.2, "clips": 1, "focal_relerr": 0.1}
    rows = ("student", "released", "stage2", "supervised_ceiling", "constant_depth", "mean_disparity", "another")
    summary = {row: {"embedded_test": depth, "redkitchen": depth, "kitti_drive": depth} for row in rows}
    write_json(tmp_path / "summary.json", summary | {"timings": dict.fromkeys(["stage2", "baselines", "curate"], 60.0)})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == sorted(summary), "a file has no order"
    told = re.findall(r"^\| ([a-z0-9 ]+) \| 0", report.set_table(summary, "embedded_test"), re.MULTILINE)
    ranked = "mean_disparity constant_depth supervised_ceiling stage2 student released".split()
    assert [name.replace(" ", "_") for name in told] == [*ranked, "another"]
    block = report.results_block(summary)
    assert "curate 1.0, stage2 1.0, baselines 1.0." in block
    assert block.index("| redkitchen |") < block.index("| kitti_drive |")


def test_every_stage_of_make_repro_has_its_place_in_the_order():
    stages = set(yaml.safe_load(Path("dvc.yaml").read_text())["stages"]) - set(report.APART)
    assert set(report.STAGES) == stages


def test_mixed_checkpoints_are_refused(tmp_path):
    write_results(tmp_path, sha="b")
    with pytest.raises(report.ReportError, match="mixes checkpoints"):
        report.build_summary(tmp_path)


MADE = {
    "videos": 156, "shots": 306, "shots_kept": 208, "frames_kept": 15000, "steps": {"matcher": 1000, "depth": 1500},
    "minutes": {"stage1": 9.4, "stage2": 30.2}, "hours": 0.9,
}  # fmt: skip
MAKE_REPORT = "run `python -m ss3d_lib.report`, and commit what it writes"


def test_the_readme_block_is_replaced_and_nothing_else(tmp_path):
    write_results(tmp_path / "results")
    write_json(tmp_path / "summary.json", report.build_summary(tmp_path / "results"))
    readme = tmp_path / "README.md"
    marks = "\nold\n".join(report.RESULTS), "\nold\n".join(report.IDEAS), "\nkept\n".join(report.VIDEOS)
    readme.write_text("\n".join(["before", *marks, "after", ""]))
    gallery, card, release = tmp_path / "shots.csv", tmp_path / "CARD.md", tmp_path / "release.json"
    card.write_text("\nold\n".join(report.CARD))
    files = {"summary": tmp_path / "summary.json", "readme": readme, "gallery": gallery, "card": card, "release": release}
    command = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert report.main(command) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "0.200" in text and "\nkept\n" in text
    assert report.main(command) == 0 and readme.read_text() == text, "a second run changes nothing"
    head = "video,shot,start_s,end_s,kept,score,reason,focal_share,focal_low,focal_high,trust\n"
    gallery.write_text(head + "a.mp4,a_s00,0,1.5,1,0.9,,0.8,0.7,0.9,0.6\nb.mp4,,,,0,,no video,,,,\n")
    assert report.main(command) == 0
    lines = readme.read_text().splitlines()
    assert "| a_s00 | 0.0 to 1.5 | yes | 0.90 |  | 0.80 (0.70 to 0.90) | 0.60 |" in lines
    assert "| b.mp4 |  | no |  | no video |  |  |" in lines and "kept" not in lines
    assert "old" in card.read_text(), "no checkpoint was released"
    write_json(release, MADE)
    assert report.main(command) == 0
    assert "156 videos" in card.read_text() and "stage2 30" in card.read_text() and "old" not in card.read_text()
    readme.write_text("no markers")
    assert report.main(command) == 1


def test_the_model_card_has_every_set_of_the_row_with_intervals(tmp_path):
    write_results(tmp_path)
    block = report.card_block(report.build_summary(tmp_path), MADE, "student")
    assert "| student | 0.200 (0.100 to 0.300) | 5.0 |" in block and "| street | 2 | 0.250 |" in block
    assert "matcher 1000, depth 1500" in block and "0.9 hours" in block
    assert "What experts" not in block, "an older release did not write it"
    distill = {"stage2_error": 0.10, "expert_error": 0.09, "student_error": 0.11, "worst_ratio": 1.2}
    nothing = report.card_block(report.build_summary(tmp_path), MADE | {"distill": distill}, "student")
    assert "gained nothing" in nothing and "1.200 times" in nothing
    made = MADE | {"distill": distill | {"student_error": 0.09}}
    assert "gained something" in report.card_block(report.build_summary(tmp_path), made, "student")


def test_readme_and_card_agree_with_the_results_committed_with_them(tmp_path):
    """Not with those on disk: another machine takes other minutes, and rounds otherwise."""
    ideas = [Path("results") / stage / "metrics.json" for stage in report.ABLATIONS]
    for path in (report.SUMMARY, report.RELEASE, *ideas):
        committed = subprocess.run(["git", "show", f"HEAD:{path.as_posix()}"], capture_output=True, text=True)
        assert committed.returncode == 0, committed.stderr
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(committed.stdout)
    summary = json.loads((tmp_path / report.SUMMARY).read_text())
    readme, card = (Path(name).read_text() for name in ("README.md", "docs/MODEL_CARD.md"))
    assert readme == report.replace_block(readme, report.results_block(summary)), MAKE_REPORT
    assert readme == report.replace_block(readme, report.ablations_block(tmp_path / "results"), report.IDEAS), MAKE_REPORT
    block = report.card_block(summary, json.loads((tmp_path / report.RELEASE).read_text()))
    assert card == report.replace_block(card, block, report.CARD), MAKE_REPORT


def test_the_pictures_of_the_readme_are_copies_of_figures(tmp_path):
    for name, source in report.PICTURES.items():
        if name != "focal.png":
            (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / source).write_bytes(name.encode())
    written = report.copy_pictures(tmp_path, tmp_path / "docs")
    assert {path.name for path in written} == set(report.PICTURES) - {"focal.png"}
    assert (tmp_path / "docs" / "depth.png").read_bytes() == b"depth.png"
    shown = re.findall(r"!\[[^]]*\]\(docs/([^)]+)\)", Path("README.md").read_text())
    assert set(shown) == set(report.PICTURES), "every picture of the README is made by `python -m ss3d_lib.report`"


# --- the command line -----------------------------------------------------------------------------------------------


def test_evaluate_folder_gives_the_figures_of_a_folder(tmp_path):
    write_sequence(tmp_path / "office")
    guess = lambda frames: Answer(
        depth_m=np.ones(frames.shape[:3]),
        world_from_cam=baselines.straight_line(len(frames), np.array([-1.0, 0, 0])),
        focal_px=22.0,
    )
    sets, problems = evaluate.evaluate_folder(tmp_path, guess, stride=1)
    assert not problems
    assert sets["office"]["focal_relerr"] == pytest.approx(0.1)
    assert sets["office"]["dir_deg"] == pytest.approx(0.0, abs=1e-6)
    assert sets["office"]["ate_sim3"] == pytest.approx(0.0, abs=1e-6)


def test_evaluate_folder_reads_no_more_frames_than_asked_for(tmp_path, monkeypatch):
    write_sequence(tmp_path / "office")
    read, plain = [], sequences.read_rgb
    monkeypatch.setattr(sequences, "read_rgb", lambda path: read.append(path) or plain(path))
    guess = lambda frames: Answer(depth_m=np.ones(frames.shape[:3]))
    for most, count in ((2, 2), (0, 3)):
        assert evaluate.evaluate_folder(tmp_path, guess, stride=1, max_frames=most)[1] == [] and len(read) == count
        read.clear()
    with pytest.raises(ValueError, match="not a clip"):
        evaluate.evaluate_folder(tmp_path, guess, stride=1, max_frames=1)
    assert not read


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_folder_is_an_error_in_every_layout(tmp_path, capsys, monkeypatch, layout):
    monkeypatch.setattr(evaluate, "checkpoint_predictor", lambda path: None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.safetensors").write_bytes(b"")
    given = {"checkpoint": tmp_path / "m.safetensors", "sequences": tmp_path / "empty", "out": tmp_path / "o.json", "layout": layout}
    assert evaluate.main([word for key, value in given.items() for word in (f"--{key}", str(value))]) == 1
    printed = capsys.readouterr().err
    assert "error: " in printed and str(tmp_path / "empty") in printed and not (tmp_path / "o.json").exists()


@pytest.mark.parametrize("missing", ["checkpoint", "sequences"])
def test_the_command_names_what_is_missing(tmp_path, capsys, missing, monkeypatch):
    checkpoint = tmp_path / "model.safetensors"
    if missing != "checkpoint":
        checkpoint.write_bytes(b"")
        monkeypatch.setattr(evaluate, "checkpoint_predictor", lambda path: None)
    command = [
        "--checkpoint",
        str(checkpoint),
        "--sequences",
        str(tmp_path / "none"),
        "--out",
        str(tmp_path / "o.json"),
    ]
    assert evaluate.main(command) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and ("does not exist" in printed or "no NAME/rgb" in printed)
