"""What each idea of the recipe is worth: stage 2 with one thing changed, over seeds; and one network on bad pictures.

One row, `all_at_once`, trains another design in its place: depth, motion and focal length together (ss3d_lib.monodepth2).

A row of params.yaml, section ablations, changes keys of the sections score, stage1 and stage2 (notebook 14); one of the
section student_ablations changes keys of distill (notebook 15). Every (row, seed) is one job, whose figures wait in a small
JSON, so that a stopped run goes on.
"""

import copy
import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ss3d_lib import distillation, evaluate, monodepth2
from ss3d_lib.checkpoints import load_model
from ss3d_lib.curation import read_rows
from ss3d_lib.curriculum import sampling_weights
from ss3d_lib.data import Shot, load_shots, step_of
from ss3d_lib.datasets import EvalClip
from ss3d_lib.degradations import INTACT, degrade
from ss3d_lib.files import read_json, write_json
from ss3d_lib.intrinsics import estimate_all
from ss3d_lib.joint import Terms, joint_loss
from ss3d_lib.metrics import bootstrap_interval
from ss3d_lib.models import ClipNet
from ss3d_lib.models.camera import FocalHead
from ss3d_lib.params import check_keys, check_types
from ss3d_lib.predict import predict_frames
from ss3d_lib.progress import progress
from ss3d_lib.protocol import Predictor
from ss3d_lib.report import REFERENCE_ROWS
from ss3d_lib.rivals import seed_spread
from ss3d_lib.score import score_shots
from ss3d_lib.stereo import sweep_all
from ss3d_lib.streaming import Pool
from ss3d_lib.training import Plan, fingerprint, train

FULL, STUDENT = REFERENCE_ROWS
"""The rows that change nothing, of stage 2 and of distillation."""

KEYS = ("absrel_median", "focal_relerr", "dir_deg")
"""What a row is judged by; less is better."""


@dataclass(frozen=True)
class Recipe(Terms):
    """How a row is trained: the terms of stage 2, its curriculum, and what its shots and cameras come from."""

    SECTIONS: ClassVar = ("score", "stage1", "stage2")
    REFERENCE: ClassVar = FULL

    easy_share: float = 0.5  # 1 is no curriculum
    curriculum: float = 0.5
    min_score: float = 0.5  # 0 keeps every shot of curation
    sharpness: float = 400.0  # of the focal posterior of a shot; 0 knows nothing but ordinary cameras: 0.8 longer sides
    by_score: bool = True  # draw shots in proportion to their score, or all alike
    all_at_once: bool = False  # the photometric recipe instead of stages 1 and 2; of all other keys only min_score counts

    @property
    def sees_evidence(self) -> bool:
        """Whether some training image came with evidence; a network that never saw any is judged without."""
        return self.single_image < 1


@dataclass(frozen=True)
class StudentRecipe(distillation.Recipe):
    """How a student is made: notebook 06 from the networks of notebooks 04 and 05, or from the first alone."""

    SECTIONS: ClassVar = ("distill",)
    REFERENCE: ClassVar = STUDENT

    experts: bool = True  # whether the teachers are the experts, or stage 2's network stands in for each


R = TypeVar("R", Recipe, StudentRecipe)


def recipes(
    rows: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Mapping[str, Any]], kind: type[R] = Recipe
) -> dict[str, R]:
    """{row: recipe}: the values of params.yaml (of the sections of that kind) with the row's changes in their place.

    Raises:
        ParamsError: a change of a key that no recipe has, or of another type.
        ValueError: no reference row without changes.
    """
    if rows.get(kind.REFERENCE) != {}:
        raise ValueError(f"rows: comparisons need a row {kind.REFERENCE!r} without changes: add `{kind.REFERENCE}: {{}}`")
    known = {key: value for section in kind.SECTIONS for key, value in sections[section].items()}
    usual = {field.name: known.get(field.name, field.default) for field in dataclasses.fields(kind)}
    for name, changes in rows.items():
        check_keys(usual.keys() | changes.keys(), usual, f"row {name}", f"ss3d_lib.ablations.{kind.__name__}")
        check_types(changes, usual, f"row {name}")
    return {name: kind(**(usual | changes)) for name, changes in rows.items()}


@dataclass(frozen=True)
class Sources:
    """Folders that the training shots of a row come from."""

    curate: Path
    score: Path
    cameras: Path
    stereo: Path


def prepare(recipe: Recipe, usual: Recipe, results: Path, work: Path, workers: int) -> Sources:
    """The folders of the stages; of what the recipe changes about shots or cameras, new ones below `work`.

    Raises RuntimeError naming shots whose cameras or plane sweeps failed.
    """
    stages = Sources(results / "curate", results / "score", results / "stage1/cameras", results / "stage2/stereo")
    if (recipe.min_score, recipe.sharpness) == (usual.min_score, usual.sharpness):
        return stages
    folder = work / f"score{recipe.min_score:g}-sharpness{recipe.sharpness:g}"
    made = dataclasses.replace(stages, cameras=folder / "cameras", stereo=folder / "stereo")
    if recipe.min_score != usual.min_score:
        made = dataclasses.replace(made, score=folder / "score")
        rows = [row for row in read_rows(made.curate / "shots.csv") if row.status == "kept"]
        watch = partial(progress, label="scoring shots")
        score_shots(rows, made.curate / "frames", made.score, folder / "shots", recipe.min_score, workers, watch)
    if recipe.sharpness == usual.sharpness:  # shots that the stages have looked at keep their cameras
        shutil.copytree(stages.cameras, made.cameras, dirs_exist_ok=True)
        shutil.copytree(stages.stereo, made.stereo, dirs_exist_ok=True)
    where = str(made.curate), str(made.score)
    errors = estimate_all(*where, str(made.cameras), recipe.sharpness, workers)
    errors |= sweep_all(*where, str(made.cameras), str(made.stereo), workers)
    if errors:
        raise RuntimeError(f"{folder}: {len(errors)} shots failed, such as {list(errors.values())[:3]}")
    return made


@lru_cache(maxsize=1)
def training_shots(sources: Sources) -> list[Shot]:
    """The shots of a row; a process that trains several rows in turn reads each set once."""
    return load_shots(sources.curate, sources.score, sources.cameras, sources.stereo)


@lru_cache(maxsize=1)
def judges(data: str, max_frames: int, max_clips: int) -> list[EvalClip]:
    """The multi-view clips of the validation split (of `max_clips` spread over it; 0: all), with their truth."""
    clips = evaluate.load_sets("embedded_val", data, "", max_frames, max_clips)["embedded_val"]
    return [clip for clip in clips if clip.kind == "multi_view"]


class Blind(nn.Module):
    """A depth network that is shown no evidence."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor, evidence: Tensor, frames_per_clip: int = 1) -> tuple[Tensor, Tensor]:
        """Depth and its error from the pictures alone."""
        return self.net(frames, torch.zeros_like(evidence), frames_per_clip)


@dataclass(frozen=True)
class Budget:
    """What every row and seed gets."""

    steps: int
    images: int
    learning_rate: float


@dataclass(frozen=True)
class Judging:
    """On what a trained row is judged; the strides are of `evaluate.choose_strides`."""

    data: str
    max_frames: int
    max_clips: int
    strides: tuple[int, ...]


def once(path: Path, measure: Callable[[], Any]) -> Any:
    """Figures from a file; where it is not there yet, measured and written."""
    if not path.is_file():
        write_json(path, measure())
    return read_json(path)


def run_seed(
    name: str, recipe: Recipe, seed: int, sources: Sources, start: str, budget: Budget, judging: Judging, folder: Path
) -> dict[str, float]:
    """Train a row with one seed and judge it: its figures. What is finished in `folder` is not done again.

    Args:
        name: ROW-SEED, for messages. start: the checkpoint of stage 1.
    """
    torch.set_num_threads(1)  # a job per core keeps them busier than one on all

    def measure() -> dict[str, float]:
        if recipe.all_at_once:
            predict = monodepth2.predictor(train_at_once(name, seed, sources, budget, folder))
        else:
            predict = partial(predict_frames, train_row(name, recipe, seed, sources, start, budget, folder))
        return judge(predict, judging, name)

    return once(folder / "figures.json", measure)


def train_row(name: str, recipe: Recipe, seed: int, sources: Sources, start: str, budget: Budget, folder: Path) -> ClipNet:
    """Stage 2 under a recipe: only the depth network is trained, from where stage 1 left it; `Blind` if no evidence was seen."""
    shots, model = training_shots(sources), load_model(start)
    if recipe.sharpness == 0:  # whoever knows no lens of the training shots has nothing to teach the focal head
        model.focal_head = FocalHead().eval()
    pool = Pool.of(shots)
    scores = pool.scores if recipe.by_score else np.ones(len(shots))

    def loss(rng: torch.Generator) -> dict[str, Tensor]:
        weights = sampling_weights(scores, pool.eases, step_of(rng) / budget.steps / recipe.curriculum, recipe.easy_share)
        return joint_loss(model, shots, weights, budget.images, recipe, rng)

    plan = Plan(budget.steps, learning_rate=budget.learning_rate, seed=seed)
    train(model.depth_net, loss, plan, folder, name, fingerprint=fingerprint(model, shots, recipe, budget))
    if not recipe.sees_evidence:
        model.depth_net = Blind(model.depth_net)
    return model.eval()


def train_at_once(name: str, seed: int, sources: Sources, budget: Budget, folder: Path) -> monodepth2.MonoDepth2:
    """Depth, motion and focal length together and from nothing, by what must look alike (notebook 12), for the budget of a row."""
    shots = monodepth2.long_enough(training_shots(sources))
    torch.manual_seed(seed)
    model = monodepth2.MonoDepth2()
    loss = lambda rng: monodepth2.photometric_loss(model, monodepth2.draw_triplets(shots, budget.images, rng))  # noqa: E731
    plan = Plan(budget.steps, learning_rate=budget.learning_rate, seed=seed)
    train(model, loss, plan, folder, name, fingerprint=fingerprint(model, shots, budget))
    return model


def run_student(name: str, recipe: StudentRecipe, seed: int, results: Path, judging: Judging, folder: Path) -> dict[str, float]:
    """Make a student with one seed and judge it, as `run_seed` does.

    Args:
        results: where the stages wrote.
    """
    torch.set_num_threads(1)
    made = lambda: partial(predict_frames, train_student(recipe, seed, results, folder))  # noqa: E731
    return once(folder / "figures.json", lambda: judge(made(), judging, name))


def train_student(recipe: StudentRecipe, seed: int, results: Path, folder: Path) -> ClipNet:
    """Both phases of notebook 06 under a recipe; a phase of no steps is left out."""
    school = distillation.load_school(results)
    student = school.student
    teachers = school.teachers if recipe.experts else [copy.deepcopy(student.depth_net).eval()] * school.clusters.count
    if recipe.steps:
        distillation.learn_from_experts(student, teachers, school.shots, school.sampling, recipe, seed, folder / "experts")
    if recipe.self_steps:
        trust = school.trust(recipe.gate)
        distillation.learn_from_itself(student, school.shots, trust, recipe, seed, folder / "self")
    return student.eval()


def judge(predict: Predictor, judging: Judging, label: str) -> dict[str, float]:
    """The figures of a predictor by the protocol of notebook 07, pooled over the clips."""
    clips = judges(judging.data, judging.max_frames, judging.max_clips)
    strides = {clip.name: stride for clip, stride in zip(clips, judging.strides, strict=True)}
    return figures_of(evaluate.evaluate_set(clips, predict, lambda clip: strides[clip.name], label=f"{label}, judged"))


def figures_of(results: Sequence) -> dict[str, float]:
    """KEYS over all clips, and how many clips there are."""
    return evaluate.headline(evaluate.pool(results), KEYS)


def robustness(
    clips: Sequence[EvalClip], levels: Mapping[str, Sequence[float]], checkpoint: str, work: Path, workers: int
) -> list[dict[str, Any]]:
    """A row {kind, level, clip, and of KEYS what the clip has} for every clip of every degradation.

    Strides are chosen on the bad pictures themselves.
    """
    rows = []
    for kind, graded in levels.items():
        for level in sorted({INTACT[kind], *graded}):
            worse = [degrade(clip, kind, level) for clip in clips]
            label = "intact" if level == INTACT[kind] else f"{kind}{level:g}"
            measure = lambda: evaluate.clip_rows(evaluate.evaluate_checkpoint(worse, checkpoint, workers, label))  # noqa: E731, B023
            for row in once(work / f"{label}.json", measure):
                rows.append({"kind": kind, "level": level} | {key: row[key] for key in ("clip", *KEYS) if key in row})
    return rows


def graded_medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """{kind: {level: of each of KEYS the median over clips, and KEY_low and KEY_high, its 95 % interval over clips}}.

    A median, for the degradations are compared with one another: of the mean one clip that fails anyway makes the most.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, level in dict.fromkeys((row["kind"], row["level"]) for row in rows):
        figures = found.setdefault(kind, {}).setdefault(f"{level:g}", {})
        for key in KEYS:
            values = np.array([row.get(key, np.nan) for row in rows if (row["kind"], row["level"]) == (kind, level)], np.float64)
            if np.isfinite(values).any():
                low, high = bootstrap_interval(values[:, None], np.median)
                figures |= {key: float(np.nanmedian(values)), f"{key}_low": low, f"{key}_high": high}
    return found


def summarise(measured: Mapping[str, Sequence[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """{row: of each of KEYS mean, std, least and greatest over its seeds, and what `against` says of the first row}."""
    spreads = {row: seed_spread(figures, KEYS) for row, figures in measured.items()}
    first = next(iter(spreads))
    return {row: spread | against(spread, spreads[first]) for row, spread in spreads.items()}


def against(row: Mapping[str, float], first: Mapping[str, float]) -> dict[str, float]:
    """KEY_difference of the means (positive: worse than the first) and KEY_spread, the root mean square of the two stds."""
    found = {}
    for key in [key for key in KEYS if f"{key}_mean" in row and f"{key}_mean" in first]:
        found[f"{key}_difference"] = row[f"{key}_mean"] - first[f"{key}_mean"]
        found[f"{key}_spread"] = float(np.hypot(row[f"{key}_std"], first[f"{key}_std"]) / np.sqrt(2))
    return found


def bars(block: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What `plots.set_bars` draws: of each row the means, from one standard deviation below to one above."""
    of = lambda row, key: {  # noqa: E731
        key: row[f"{key}_mean"],
        f"{key}_low": row[f"{key}_mean"] - row[f"{key}_std"],
        f"{key}_high": row[f"{key}_mean"] + row[f"{key}_std"],
    }
    return {
        name: {title: value for key in KEYS if f"{key}_mean" in row for title, value in of(row, key).items()}
        for name, row in block.items()
    }
