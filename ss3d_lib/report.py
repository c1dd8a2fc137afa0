"""From what the stages wrote to one summary, its tables, and the results block of README.md.

    python -m ss3d_lib.report        rewrites the blocks of README.md and docs/MODEL_CARD.md from results/compare/summary.json,
                                     those of the release and the ablations and (where it was made) of the gallery, and
                                     copies the figures that README.md shows to docs/

`results/compare/summary.json` is {row: {set: {metric: value}}} and "timings": {stage: seconds}: the one place that
tables, README and figures read. No number in a text is typed by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ss3d_lib.commands import finish
from ss3d_lib.files import atomic_write, read_json

SUMMARY = Path("results/compare/summary.json")
RELEASE = Path("results/release/metrics.json")
GALLERY = Path("results/gallery/shots.csv")
BLOCKS = ("results", "model card", "ablations", "your videos")
RESULTS, CARD, IDEAS, VIDEOS = ((f"<!-- {name}: made by `python -m ss3d_lib.report` -->", f"<!-- {name}: end -->") for name in BLOCKS)

COLUMNS = {
    "absrel_median": ("AbsRel", 1, 3),
    "d1_median": ("d1", 1, 3),
    "focal_relerr": ("focal error", 1, 3),
    "rot_deg": ("rotation, deg", 1, 2),
    "dir_deg": ("direction, deg", 1, 1),
    "ate_sim3": ("ATE, % of path", 100, 1),
}
"""metric -> (heading, factor, decimals)."""

ROWS = (
    "mean_disparity", "constant_depth", "constant_focal", "identity_motion", "constant_motion", "constant_direction",
    "pycolmap", "monodepth2", "supervised_ceiling", "stage2", "student", "released",
)  # fmt: skip
"""The order of known rows, from knowing nothing to what we ship; others follow by name."""

SETS = ("embedded_test", "embedded_val", "hololens_office", "redkitchen", "kitti_drive")
"""The order of known sets; the domains of the embedded split (`embedded_test_street`) come last."""

STAGES = tuple("curate score stage1 stage2 experts distill evaluate finetune baselines few_labels compare".split())
"""The order of the pipeline, in which minutes are told."""

MEASURED_APART = ("baselines", "rivals")
"""Stages that measure rows which have no checkpoint."""

ABLATIONS = ("ablations/score", "ablations/teacher", "ablations/design", "student_ablations")
"""Folders of the stages that change one idea at a time."""

REFERENCE_ROWS = ("full", "student")
"""Of each of them, the row that changes nothing."""

APART = ("release", "rivals", "ablations", "student_ablations", "robustness")
"""Stages that `make repro` does not run: their minutes are not its minutes."""

PICTURES = {
    "depth.png": "evaluate/student-embedded_test/figures/depth.png",
    "trajectories.png": "evaluate/student-embedded_test/figures/trajectories.png",
    "focal.png": "evaluate/student-embedded_test/figures/focal.png",
}
"""What README.md shows: a file in docs/ -> the figure below results/ that it is a copy of. Frames of others' sets stay out."""

LEGEND = (
    "Medians over pairs and shots, means over images; 95 % intervals in brackets, over shots, or over blocks of images of a "
    "real sequence, which is one shot."
)


class ReportError(Exception):
    """Results that cannot stand in one table; the message names the files."""


def build_summary(results: str | Path = "results") -> dict[str, Any]:
    """{row: {set: {metric: value}}, "timings": {stage: seconds}} of everything below `results`.

    Reads evaluate/ROW-SET/metrics.json ({"checkpoint": sha256, NAME: figures}) and metrics.json of MEASURED_APART
    ({"ROW-NAME": figures}; a name without a dash is no row). Sets that are not on this machine are in neither. Raises
    ReportError where the sets of one row were measured with different checkpoints.
    """
    results = Path(results)
    summary: dict[str, Any] = {}
    checkpoints: dict[str, set[str]] = {}
    for path in sorted((results / "evaluate").glob("*-*/metrics.json")):
        row, sets = path.parent.name.partition("-")[0], read_json(path)
        if "checkpoint" not in sets:
            raise ReportError(f"{path} does not say which checkpoint it measured; run `dvc repro evaluate` again")
        checkpoints.setdefault(row, set()).add(sets.pop("checkpoint"))
        if len(checkpoints[row]) > 1:
            raise ReportError(f"{path}: row {row!r} mixes checkpoints; run `dvc repro evaluate` again")
        summary.setdefault(row, {}).update(numbers(sets))
    apart = [results / stage / "metrics.json" for stage in MEASURED_APART]
    for key, figures in [item for path in apart if path.exists() for item in numbers(read_json(path)).items()]:
        row, dash, name = key.partition("-")
        if dash:
            summary.setdefault(row, {})[name] = figures
    return in_order(summary, ROWS) | {"timings": stage_timings(results)}


def numbers(sets: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The blocks of figures, without values that a run could not measure (null)."""
    blocks = {name: figures for name, figures in sets.items() if isinstance(figures, dict)}
    return {name: {key: value for key, value in figures.items() if value is not None} for name, figures in blocks.items()}


def stage_timings(results: Path) -> dict[str, float]:
    """{stage: seconds} of what `make repro` runs; the cells of a matrix stage are added up."""
    timings: dict[str, float] = {}
    for path in sorted(results.glob("*/timing.json")) + sorted(results.glob("*/*/timing.json")):
        stage = path.relative_to(results).parts[0]
        if stage not in APART:
            timings[stage] = round(timings.get(stage, 0.0) + float(read_json(path)["seconds"]), 1)
    return in_order(timings, STAGES)


def in_order(found: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The known names in their order, then the others sorted: files keep all of theirs sorted."""
    return {name: found[name] for name in [*filter(found.__contains__, known), *sorted(set(found) - set(known))]}


def rows_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary without its timings, in the order of ROWS, the sets of each in that of SETS."""
    return {row: in_order(sets, SETS) for row, sets in in_order(summary, ROWS).items() if row != "timings"}


def sets_of(summary: dict[str, Any]) -> list[str]:
    """Every set that some row has, in order."""
    return list(in_order({name: None for sets in rows_of(summary).values() for name in sets}, SETS))


def whole_sets(summary: dict[str, Any]) -> list[str]:
    """The embedded splits, and every real sequence that was found; not the domains and kinds of a split."""
    return [name for name in sets_of(summary) if name in SETS or not name.startswith("embedded_")]


def cell(figures: dict[str, float], key: str) -> str:
    """ "0.123 (0.110 to 0.140)", or an empty cell where the row makes no such claim."""
    if key not in figures:
        return ""
    _, factor, decimals = COLUMNS[key]
    text = f"{factor * figures[key]:.{decimals}f}"
    if f"{key}_low" in figures:
        low, high = (f"{factor * figures[f'{key}_{end}']:.{decimals}f}" for end in ("low", "high"))
        text += f" ({low} to {high})"
    return text


def set_table(summary: dict[str, Any], name: str) -> str:
    """The markdown table of one set: rows = baselines and checkpoints, columns = COLUMNS that some row has."""
    rows = {row: sets[name] for row, sets in rows_of(summary).items() if name in sets}
    keys = [key for key in COLUMNS if any(key in figures for figures in rows.values())]
    lines = ["| " + " | ".join([name, *(COLUMNS[key][0] for key in keys)]) + " |", "|---" * (len(keys) + 1) + "|"]
    for row, figures in rows.items():
        cells = [cell(figures, key) for key in keys]
        if any(cells):
            lines.append("| " + " | ".join([row.replace("_", " "), *cells]) + " |")
    return "\n".join(lines)


def domain_table(summary: dict[str, Any], row: str, name: str = "embedded_test") -> str:
    """The markdown table of one row: the domains of a split, columns = COLUMNS. Empty where there are none."""
    sets = {
        key.removeprefix(f"{name}_"): figures
        for key, figures in rows_of(summary).get(row, {}).items()
        if key.startswith(f"{name}_") and not key.startswith(f"{name}_kind_")
    }
    if not sets:
        return ""
    heading = [f"{row} on {name}", "shots", *(title for title, *_ in COLUMNS.values())]
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    rows = ([domain, str(int(of["clips"])), *(cell(of, key) for key in COLUMNS)] for domain, of in sorted(sets.items()))
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])


def results_block(summary: dict[str, Any]) -> str:
    """The text between the README's markers: one table per set, then how long each stage took."""
    tables = [set_table(summary, name) for name in whole_sets(summary)]
    minutes = ", ".join(f"{stage} {seconds / 60:.1f}" for stage, seconds in in_order(summary.get("timings", {}), STAGES).items())
    legend = f"{LEGEND} Depth is scaled per image by its median. An empty cell: the row makes no such claim."
    return "\n\n".join([*tables, legend, *failures(summary), f"Minutes per stage: {minutes}."])


def failures(summary: dict[str, Any]) -> list[str]:
    """A sentence for each row and set that may have no trajectory: of how many shots the row gives one, and one of use."""
    found = [(row, name, figures) for row, sets in rows_of(summary).items() for name, figures in sets.items()]
    return [
        f"{row} gives no trajectory of {name}: no row there."
        if figures["failed_share"] == 1
        else f"{row} gives a trajectory of {1 - figures['failed_share']:.0%} of the shots of {name}, to which its other figures "
        f"refer, and one of use (ATE below 10 % of the path) of {figures['usable']:.0%}."
        for row, name, figures in found
        if "failed_share" in figures and name in whole_sets(summary)
    ]


def videos_block(shots: pd.DataFrame) -> str:
    """The table of what `ss3d_lib.gallery` made of a folder of videos: why each shot was kept or not, and its lens."""
    missing = set("video shot start_s end_s kept score reason focal_share focal_low focal_high trust".split()) - set(shots.columns)
    if missing:
        raise ReportError(f"no shots.csv of `python -m ss3d_lib.gallery`: it lacks the columns {', '.join(sorted(missing))}")
    lines = ["| shot | seconds | kept | score | why not | focal length / longer side (80 %) | trust |", "|---" * 7 + "|"]
    for row in shots.itertuples():
        known = np.isfinite(row.focal_share)
        lens = f"{row.focal_share:.2f} ({row.focal_low:.2f} to {row.focal_high:.2f})" if known else ""
        seconds = f"{row.start_s:.1f} to {row.end_s:.1f}" if known else ""
        numbers = [f"{value:.2f}" if np.isfinite(value) else "" for value in (row.score, row.trust)]
        cells = [row.shot if isinstance(row.shot, str) else row.video, seconds, "yes" if row.kept else "no", numbers[0]]
        cells += ["" if row.kept else row.reason, lens, numbers[1]]
        lines.append("| " + " | ".join(str(text).replace("|", " ").replace("\n", " ") for text in cells) + " |")
    return "\n".join(lines)


def card_block(summary: dict[str, Any], made: dict[str, Any], row: str = "released") -> str:
    """What the model card says that is measured: the making of the checkpoint, and its figures on every set."""
    trained = in_order(made["steps"], ("matcher", "depth", "each expert", "distillation"))
    steps = ", ".join(f"{name} {count}" for name, count in trained.items())
    minutes = ", ".join(f"{stage} {value:.0f}" for stage, value in in_order(made["minutes"], STAGES).items())
    text = (
        f"**How it was made.** {made['videos']} videos, {made['shots']} shots, of which {made['shots_kept']} with "
        f"{made['frames_kept']} frames have a multi-view signal. Steps: {steps}. {made['hours']:.1f} hours on two CPU cores "
        f"(minutes: {minutes}). Seed 0."
    )
    if taught := made.get("distill"):
        verdict = "something" if taught["student_error"] < taught["stage2_error"] else "nothing"
        text += (
            "\n\n**What experts and distillation gave.** Mean |log error| of depth on the judging videos: "
            f"{taught['stage2_error']:.4f} after stage 2, {taught['expert_error']:.4f} of the experts at home, "
            f"{taught['student_error']:.4f} of the released student, which gained {verdict}. On its worst cluster it is "
            f"{taught['worst_ratio']:.3f} times as far off as the best expert; of a student at most 1.05 is asked (notebook 06)."
        )
    tables = [set_table({row: summary.get(row, {})}, name) for name in whole_sets({row: summary.get(row, {})})]
    return "\n\n".join([text, *tables, domain_table(summary, row), LEGEND])


def in_spreads(row: dict[str, float], key: str) -> float:
    """The difference to the reference row in units of the spread; infinite where the seeds agree exactly and the rows do not."""
    difference, spread = row[f"{key}_difference"], row[f"{key}_spread"]
    return difference / spread if spread else float(np.sign(difference)) * np.inf if difference else 0.0


def sentence(row: dict[str, float]) -> str:
    """Of each figure, whether the difference to the reference row exceeds its spread."""
    if row["seeds"] < 2:
        return "One seed: the spread is not known."
    parts, alike = [], []
    for key in [key for key in COLUMNS if f"{key}_difference" in row]:
        title, factor, decimals = COLUMNS[key]
        name, times = title.split(",")[0], in_spreads(row, key)
        size = f"{factor * abs(row[f'{key}_difference']):.{decimals + 1}f}"
        if abs(times) > 1:
            parts.append(f"{name} {'worse' if times > 0 else 'better'} by {size}, {abs(times):.1f} times the spread")
        else:
            alike.append(name)
    if alike:
        named = " and ".join(filter(None, [", ".join(alike[:-1]), alike[-1]]))
        parts.append(f"no difference beyond the spread in {named}")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def ablation_table(block: dict[str, dict[str, float]]) -> str:
    """The markdown table of `ablations.summarise`: mean ± spread over seeds of each row, its difference to the reference row
    in spreads, and its sentence."""
    first = next(name for name in REFERENCE_ROWS if name in block)
    keys = [key for key in COLUMNS if f"{key}_mean" in block[first]]
    heading = ["row", *(title for key in keys for title in (COLUMNS[key][0], "in spreads"))]
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    for name, row in sorted(block.items(), key=lambda item: item[0] != first):
        cells = [f"**{name.replace('_', ' ')}**" + ("" if name == first else f"<br>{sentence(row)}")]
        for key in keys:
            _, factor, decimals = COLUMNS[key]
            mean, std = (f"{factor * row[f'{key}_{part}']:.{decimals + 1}f}" for part in ("mean", "std"))
            cells += [f"{mean} ± {std}", "" if name == first else f"{in_spreads(row, key):+.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ablations_block(results: str | Path) -> str:
    """The tables of the stages that take an idea out, of those whose figures are there."""
    paths = [Path(results) / stage / "metrics.json" for stage in ABLATIONS]
    tables = []
    for path in paths:
        rows = read_json(path).get("rows", {}) if path.is_file() else None
        if rows is not None and not set(REFERENCE_ROWS) & set(rows):
            raise ReportError(f"{path} holds no row {' or '.join(REFERENCE_ROWS)}; run `dvc repro ablations/dvc.yaml` again")
        tables += [ablation_table(rows)] if rows else []
    return "\n\n".join([*tables, "Mean ± standard deviation over the seeds, on the validation split; the first row changes nothing."])


def replace_block(text: str, block: str, marks: tuple[str, str] = RESULTS) -> str:
    """A text with a new block between two marks. Raises ReportError where one is missing."""
    before, start, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not start or not end:
        raise ReportError("a marker is missing; put these two lines where the block belongs:\n" + "\n".join(marks))
    return f"{before}{start}\n{block}\n{end}{after}"


def copy_pictures(results: str | Path, docs: str | Path) -> list[Path]:
    """Copy the figures of PICTURES that exist below `results` into `docs`; returns what was written."""
    written = []
    for name, source in PICTURES.items():
        if (Path(results) / source).is_file():
            with atomic_write(Path(docs) / name) as temporary:
                temporary.write_bytes((Path(results) / source).read_bytes())
            written.append(Path(docs) / name)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ss3d_lib.report", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--summary", type=Path, default=SUMMARY)
    parser.add_argument("--gallery", type=Path, default=GALLERY, help="a shots.csv of `python -m ss3d_lib.gallery`")
    parser.add_argument("--release", type=Path, default=RELEASE, help="what the released checkpoint was made of")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--card", type=Path, default=Path("docs/MODEL_CARD.md"))
    options = parser.parse_args(arguments)
    try:
        summary = read_json(options.summary)
        text = replace_block(options.readme.read_text(encoding="utf-8"), results_block(summary))
        if options.gallery.is_file():
            text = replace_block(text, videos_block(pd.read_csv(options.gallery)), VIDEOS)
        text = replace_block(text, ablations_block(options.summary.parent.parent), IDEAS)
        card = options.card.read_text(encoding="utf-8")
        if options.release.is_file():
            card = replace_block(card, card_block(summary, read_json(options.release)), CARD)
    except (ReportError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path, content in ((options.readme, text), (options.card, card)):
        with atomic_write(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    pictures = copy_pictures(options.summary.parent.parent, options.readme.parent / "docs")
    print(f"{options.readme}: results block made from {options.summary}; {len(pictures)} of {len(PICTURES)} pictures in docs/")
    return 0


if __name__ == "__main__":
    finish(main)
