"""Ablations: rows as changes of params.yaml, what is finished is not done again, the table's words, and bad pictures."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from made_shots import make_shot
from test_evaluate import make_clip

from ss3d_lib import ablations, evaluate, monodepth2, report
from ss3d_lib.data import Shot
from ss3d_lib.degradations import INTACT, degrade
from ss3d_lib.files import read_json, write_json
from ss3d_lib.params import ParamsError, load_sections
from ss3d_lib.protocol import Answer, ClipResult

SECTIONS = load_sections()


@pytest.mark.parametrize("file", ["params.yaml", "params.smoke.yaml"])
def test_full_is_stage_2_and_every_other_row_differs(file):
    sections = load_sections(file)
    groups = [ablations.recipes(rows, sections) for rows in sections["ablations"]["groups"].values()]
    planned = {name: recipe for rows in groups for name, recipe in rows.items()}
    assert sum(map(len, groups)) == len(planned) + len(groups) - 1, "only `full` stands in several groups"
    full, stage2 = planned.pop("full"), sections["stage2"]
    assert {key: value for key, value in vars(full).items() if key in stage2} == {key: stage2[key] for key in stage2 if hasattr(full, key)}
    assert full.min_score == sections["score"]["min_score"] and full.sharpness == sections["stage1"]["sharpness"]
    assert full.by_score and full.sees_evidence and not planned["single_image"].sees_evidence
    assert [name for name, recipe in planned.items() if recipe.all_at_once] == ["all_at_once"] and not full.all_at_once
    assert all(recipe != full for recipe in planned.values())


@pytest.mark.parametrize("file", ["params.yaml", "params.smoke.yaml"])
def test_every_group_is_a_stage(file):
    stages = yaml.safe_load(Path("ablations/dvc.yaml").read_text())["stages"]
    assert set(stages["ablations"]["foreach"]) == set(load_sections(file)["ablations"]["groups"])
    assert {Path(folder) for folder in report.ABLATIONS} >= {Path("ablations") / name for name in stages["ablations"]["foreach"]}


def test_the_default_budget_is_a_quarter_of_stage_2_with_three_seeds():
    ours, stage2 = SECTIONS["ablations"], SECTIONS["stage2"]
    assert ours["steps"] == stage2["steps"] // 4 and ours["seeds"] == 3
    assert all(ours[key] == stage2[key] for key in ("images", "learning_rate"))


@pytest.mark.parametrize("file", ["params.yaml", "params.smoke.yaml"])
def test_the_student_row_is_the_section_distill_and_every_other_row_differs(file):
    sections = load_sections(file)
    planned = ablations.recipes(sections["student_ablations"]["rows"], sections, ablations.StudentRecipe)
    student = planned.pop("student")
    assert sections["distill"].items() <= vars(student).items()
    assert student.experts and all(recipe != student for recipe in planned.values())


def test_a_misspelt_change_and_a_missing_full_row_are_refused():
    with pytest.raises(ParamsError, match="unknown key 'photometrics'"):
        ablations.recipes({"full": {}, "row": {"photometrics": 1.0}}, SECTIONS)
    with pytest.raises(ParamsError, match="triangulation is 'no'"):
        ablations.recipes({"full": {}, "row": {"triangulation": "no"}}, SECTIONS)
    with pytest.raises(ValueError, match="full: {}"):
        ablations.recipes({"row": {"photometric": 1.0}}, SECTIONS)


def test_a_row_that_changes_no_shots_takes_the_folders_of_the_stages(tmp_path):
    planned = ablations.recipes(SECTIONS["ablations"]["groups"]["teacher"], SECTIONS)
    source = ablations.prepare(planned["photometric_only"], planned["full"], tmp_path / "results", tmp_path / "work", 1)
    assert source.cameras == tmp_path / "results/stage1/cameras" and source.stereo == tmp_path / "results/stage2/stereo"
    assert not (tmp_path / "work").exists()


def test_a_row_that_changes_the_lens_makes_cameras_and_sweeps_and_one_that_changes_the_filter_scores_too(tmp_path, monkeypatch):
    groups = SECTIONS["ablations"]["groups"]
    planned = ablations.recipes(groups["score"] | groups["design"], SECTIONS)
    called = []
    for name in ("score_shots", "estimate_all", "sweep_all"):
        monkeypatch.setattr(ablations, name, lambda *arguments, name=name: called.append((name, arguments)) or {})
    monkeypatch.setattr(ablations, "read_rows", lambda path: [])
    for folder in ("stage1/cameras", "stage2/stereo"):
        write_json(tmp_path / "results" / folder / "a.json", {})
    where = tmp_path / "results", tmp_path / "work", 1
    source = ablations.prepare(planned["no_intrinsics_first"], planned["full"], *where)
    assert [name for name, _ in called] == ["estimate_all", "sweep_all"] and called[0][1][3] == 0.0
    assert source.score == tmp_path / "results/score" and not source.cameras.exists(), "no camera of another lens is kept"
    called.clear()
    source = ablations.prepare(planned["no_filter"], planned["full"], *where)
    assert [name for name, _ in called] == ["score_shots", "estimate_all", "sweep_all"] and called[0][1][4] == 0.0
    assert (source.cameras / "a.json").is_file() and (source.stereo / "a.json").is_file() and "work" in str(source.score)
    monkeypatch.setattr(ablations, "sweep_all", lambda *arguments: {"a": "a: ValueError: why"})
    with pytest.raises(RuntimeError, match="why"):
        ablations.prepare(planned["no_filter"], planned["full"], *where)


def test_a_finished_seed_is_not_trained_again(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(ablations, "train_row", lambda *arguments: trained.append(arguments) or torch.nn.Identity())
    monkeypatch.setattr(ablations, "judge", lambda *arguments: {"absrel_median": 0.25, "clips": 3})
    run = lambda: ablations.run_seed("full-0", ablations.Recipe(), 0, None, "", None, None, tmp_path / "full-0")
    first = run()
    assert run() == first == {"absrel_median": 0.25, "clips": 3} and len(trained) == 1
    (tmp_path / "full-0/figures.json").unlink()
    assert run() == first and len(trained) == 2


def test_all_at_once_learns_all_three_from_nothing_is_judged_and_is_not_trained_again(tmp_path, monkeypatch):
    nothing, steps = np.zeros((0, 48, 72, 2), np.float16), []
    shots = [Shot("shot", "video", 0.9, 2, make_shot("multi_view", 0, 12, (96, 144)), nothing, nothing)]
    learn = monodepth2.photometric_loss
    monkeypatch.setattr(ablations, "training_shots", lambda sources: shots)
    monkeypatch.setattr(ablations, "judges", lambda *arguments: [make_clip()])
    monkeypatch.setattr(monodepth2, "photometric_loss", lambda model, batch: steps.append(len(batch.frames)) or learn(model, batch))
    budget, judging, folder = ablations.Budget(2, 3, 0.001), ablations.Judging("", 0, 0, (2,)), tmp_path / "all_at_once-1"
    recipe = ablations.Recipe(all_at_once=True)
    run = lambda: ablations.run_seed("all_at_once-1", recipe, 1, None, "no checkpoint of stage 1", budget, judging, folder)
    first = run()
    assert steps == [3, 3] and first["clips"] == 1 and all(np.isfinite(first[key]) for key in ablations.KEYS)
    (folder / "figures.json").unlink()
    assert run() == first and steps == [3, 3], "the same network from the rolling checkpoint"
    torch.manual_seed(1)
    start, trained = monodepth2.MonoDepth2(), ablations.train_at_once("all_at_once-1", 1, None, budget, folder)
    assert steps == [3, 3] and not trained.training
    for part in ("depth_net.encoder.conv1.0.weight", "motion_net.motion.0.weight", "motion_net.focal.weight"):
        assert not torch.equal(start.get_parameter(part), trained.get_parameter(part)), part


def test_a_row_of_the_student_runs_the_phases_it_keeps_with_the_teachers_it_names(tmp_path, monkeypatch):
    student, expert = (torch.nn.Module() for _ in range(2))
    student.depth_net = torch.nn.Linear(1, 1)
    clusters = dataclasses.make_dataclass("C", ["count"])(2)
    school = dataclasses.make_dataclass("S", ["student", "teachers", "shots", "clusters", "sampling"])
    school.trust = lambda self, power: np.ones(3) * power
    monkeypatch.setattr(ablations.distillation, "load_school", lambda results: school(student, [expert] * 2, [], clusters, []))
    done = []
    phase_1 = lambda pupil, teachers, shots, sampling, recipe, seed, folder: done.append(("experts", teachers, seed))
    phase_2 = lambda pupil, shots, trust, recipe, seed, folder: done.append(("self", trust[0], seed))
    monkeypatch.setattr(ablations.distillation, "learn_from_experts", phase_1)
    monkeypatch.setattr(ablations.distillation, "learn_from_itself", phase_2)
    run = lambda **changes: ablations.train_student(ablations.StudentRecipe(**changes), 4, tmp_path, tmp_path)
    assert run(gate=3.0) is student and not student.training
    assert done == [("experts", [expert] * 2, 4), ("self", 3.0, 4)]
    done.clear()
    run(experts=False, self_steps=0)
    (phase, teachers, _), = done
    assert phase == "experts" and len(teachers) == 2 and expert not in teachers and not teachers[0].training
    assert torch.equal(teachers[0].weight, student.depth_net.weight) and teachers[0] is not student.depth_net


def test_a_blind_network_is_judged_by_the_picture_alone():
    net = lambda frames, evidence, frames_per_clip: (frames.mean(1), evidence.sum(1))
    seen, blind = torch.rand(2, 3, 4, 4), torch.ones(2, 5, 4, 4)
    depth, rest = ablations.Blind(torch.nn.Identity()), None
    depth.net = torch.nn.Module()
    depth.net.forward = net
    mean, rest = depth(seen, blind)
    assert torch.equal(mean, seen.mean(1)) and not rest.any()


def made_up(**rows: list[float]) -> dict:
    return ablations.summarise({name: [{"absrel_median": value} for value in values] for name, values in rows.items()})


def test_mean_spread_and_difference_to_full():
    block = made_up(full=[0.20, 0.21, 0.22], worse=[0.23, 0.24, 0.25], alike=[0.19, 0.21, 0.24], better=[0.10, 0.11, 0.12])
    row = block["worse"]
    assert row["absrel_median_mean"] == pytest.approx(0.24) and row["absrel_median_std"] == pytest.approx(0.01)
    assert row["absrel_median_difference"] == pytest.approx(0.03) and row["absrel_median_spread"] == pytest.approx(0.01)
    assert report.in_spreads(row, "absrel_median") == pytest.approx(3)
    assert report.sentence(row) == "AbsRel worse by 0.0300, 3.0 times the spread."
    assert report.sentence(block["alike"]) == "No difference beyond the spread in AbsRel."
    assert report.sentence(block["better"]).startswith("AbsRel better by 0.1000, 10.0 times")


def test_figures_within_the_spread_are_named_together():
    keys = ("absrel_median", "focal_relerr", "dir_deg")
    row = {"seeds": 3} | {f"{key}_spread": 0.01 for key in keys} | {f"{key}_difference": 0.005 for key in keys}
    assert report.sentence(row) == "No difference beyond the spread in AbsRel, focal error and direction."
    row["absrel_median_difference"] = -0.02
    expected = "AbsRel better by 0.0200, 2.0 times the spread; no difference beyond the spread in focal error and direction."
    assert report.sentence(row) == expected


def test_the_spread_of_one_seed_is_not_known_and_equal_seeds_have_none():
    block = made_up(full=[0.2], other=[0.3])
    assert "not known" in report.sentence(block["other"])
    block = made_up(full=[0.2, 0.2], same=[0.2, 0.2], other=[0.3, 0.3])
    assert report.in_spreads(block["same"], "absrel_median") == 0
    assert report.in_spreads(block["other"], "absrel_median") == np.inf and "worse" in report.sentence(block["other"])


def test_the_table_has_a_line_with_a_sentence_for_each_row():
    lines = report.ablation_table(made_up(full=[0.20, 0.22], no_filter=[0.25, 0.26])).splitlines()
    assert lines[0] == "| row | AbsRel | in spreads |" and len(lines) == 4
    assert lines[2].startswith("| **full** | 0.2100 ± 0.0141 |  |")
    assert lines[3].startswith("| **no filter**<br>AbsRel worse by 0.0450, ") and lines[3].count("|") == lines[0].count("|")


def test_the_block_of_readme_holds_the_tables_whose_figures_are_there(tmp_path):
    for stage, row in (("ablations/score", "full"), ("student_ablations", "student")):
        write_json(tmp_path / stage / "metrics.json", {"rows": made_up(**{row: [0.20, 0.22], "a_row": [0.25, 0.26]})})
        text = report.ablations_block(tmp_path)
        assert f"| **{row}** | 0.2100" in text and text.count("**a row**") == text.count("| row |")
    assert text.count("| row |") == 2 and text.index("**full**") < text.index("**student**")


def test_the_bars_reach_one_standard_deviation_both_ways():
    bars = ablations.bars(made_up(full=[0.20, 0.22]))["full"]
    assert bars["absrel_median"] == pytest.approx(0.21)
    assert bars["absrel_median_high"] - bars["absrel_median_low"] == pytest.approx(2 * np.std([0.20, 0.22], ddof=1))


@pytest.mark.parametrize("level", [0.1, 0.5, 2.0, 4.0])
def test_gain_and_gamma_are_those_of_numpy(level):
    clip = make_clip()
    values = clip.frames.astype(np.float64) / 255
    for kind, curve in (("gain", np.minimum(level * values, 1)), ("gamma", values**level)):
        worse = degrade(clip, kind, level)
        assert worse.frames.dtype == np.uint8 and np.abs(worse.frames - 255 * curve).max() <= 0.5 + 1e-9
        assert worse.depth_m is clip.depth_m, "the truth stays"


def test_blur_keeps_the_mean_and_takes_the_detail():
    clip = make_clip()
    worse = degrade(clip, "blur_px", 2.0)
    assert abs(worse.frames.mean() - clip.frames.mean()) < 3 and worse.frames.std() < 0.7 * clip.frames.std()
    kernel = cv2.getGaussianKernel(13, 2.0)[:, 0]
    around = clip.frames[0, 6:19, 6:19, 0].astype(np.float64)
    assert abs(kernel @ around @ kernel - float(worse.frames[0, 12, 12, 0])) < 3


def test_skipping_keeps_the_truth_of_the_frames_that_stay_and_the_intact_level_changes_nothing():
    clip = make_clip()
    fast = degrade(clip, "skip", 2)
    assert np.array_equal(fast.frames, clip.frames[::2]) and np.array_equal(fast.poses_c2w, clip.poses_c2w[::2])
    assert all(degrade(clip, kind, level) is clip for kind, level in INTACT.items())


def test_robustness_measures_each_level_once_and_the_intact_clips_once_for_all(tmp_path, monkeypatch):
    asked = []

    def evaluated(clips, checkpoint, workers, label):
        asked.append(label)
        frames = np.array([float(len(clips[0].frames))])
        errors = {"absrel_median": frames, "d1_median": frames}
        return [ClipResult(name, "indoor", "multi_view", 1, errors, Answer(None, None, None, None, None)) for name in "ab"]

    monkeypatch.setattr(evaluate, "evaluate_checkpoint", evaluated)
    levels = {"gain": [0.5], "skip": [2, 4]}
    rows = ablations.robustness([make_clip()], levels, "student", tmp_path, 1)
    assert asked == ["gain0.5", "intact", "skip2", "skip4"]
    order = [("gain", 0.5), ("gain", 1.0), ("skip", 1), ("skip", 2), ("skip", 4)]
    assert [(row["kind"], row["level"], row["clip"]) for row in rows] == [(*level, clip) for level in order for clip in "ab"]
    assert rows[0] == {"kind": "gain", "level": 0.5, "clip": "a", "absrel_median": float(len(make_clip().frames))}
    assert ablations.robustness([make_clip()], levels, "student", tmp_path, 1) == rows and len(asked) == 4


def test_a_grade_is_a_median_over_clips_with_its_interval(tmp_path):
    values = np.append(np.linspace(0.1, 0.2, 21), 50.0)  # one clip fails
    rows = [{"kind": "gain", "level": 0.5, "clip": f"c{index}", "absrel_median": value} for index, value in enumerate(values)]
    rows += [{"kind": "gain", "level": 1.0, "clip": "c0", "dir_deg": None}, {"kind": "gain", "level": 1.0, "clip": "c1", "dir_deg": 3.0}]
    graded = ablations.graded_medians(rows)
    assert set(graded) == {"gain"} and set(graded["gain"]) == {"0.5", "1"}
    dark = graded["gain"]["0.5"]
    assert dark["absrel_median"] == pytest.approx(np.median(values)) and set(dark) == {"absrel_median", "absrel_median_low", "absrel_median_high"}
    assert 0.1 <= dark["absrel_median_low"] < dark["absrel_median"] < dark["absrel_median_high"] <= 0.2
    assert graded["gain"]["1"]["dir_deg"] == 3.0
    write_json(tmp_path / "graded.json", graded)
    assert read_json(tmp_path / "graded.json")["gain"]["1"]["dir_deg_low"] is None, "one clip has no interval"


def test_training_follows_the_recipe(monkeypatch):
    """No curriculum and no score: every shot has the same weight from the first step; without a lens the head is as new."""
    still = {"frames": np.full((2, 4, 4, 3), 128, np.uint8), "forward": np.zeros((1, 2, 2, 2), np.float16), "stride": 1, "cameras": None}
    shots = [SimpleNamespace(name=f"s{index}", score=score, **still) for index, score in enumerate((0.9, 0.5, 0.0, 0.1))]
    drawn, start = {}, torch.nn.Module()
    start.depth_net, start.focal_head = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    monkeypatch.setattr(ablations, "training_shots", lambda sources: shots)
    monkeypatch.setattr(ablations, "load_model", lambda path: start)
    monkeypatch.setattr(ablations, "joint_loss", lambda model, shots, weights, count, terms, rng: drawn.update(weights=weights, terms=terms) or {})
    monkeypatch.setattr(ablations, "train", lambda net, loss, plan, *rest, **named: drawn.update(net=net, plan=plan) or loss(torch.Generator().manual_seed(0)))
    budget = ablations.Budget(9, 4, 0.001)
    run = lambda **changes: ablations.train_row("row-2", ablations.Recipe(**changes), 2, None, "", budget, None)
    run(by_score=False, easy_share=1.0)
    assert np.allclose(drawn["weights"], 0.25) and drawn["net"] is start.depth_net
    assert drawn["plan"].seed == 2 and drawn["plan"].steps == 9 and isinstance(start.focal_head, torch.nn.Linear)
    run(photometric=0.3)
    assert np.count_nonzero(drawn["weights"]) == 2 and drawn["terms"].photometric == 0.3, "the better half first"
    assert isinstance(run(sharpness=0.0).focal_head, ablations.FocalHead)
    assert isinstance(run(single_image=1.0).depth_net, ablations.Blind), "who never saw evidence is not shown any"
