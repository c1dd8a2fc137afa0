"""The complete pipeline with tiny values, through the same runner and stage graph, in a temporary copy."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

from ss3d_lib.graph import PIPELINES

ROOT = Path(__file__).resolve().parents[1]
SECOND_LIMIT_S = 10
ROWS = ("mean_disparity", "constant_focal", "identity_motion", "pycolmap", "monodepth2", "stage2", "student")
METRICS = ("absrel_median", "d1_median", "focal_relerr", "rot_deg", "dir_deg", "ate_sim3")


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory, project_files) -> Path:
    """The project's files, data/ by hard links, params.smoke.yaml as params.yaml, and a DVC cache of its own."""
    assert (ROOT / "data" / "videos").is_dir(), "data/ is missing: make data"
    folder = tmp_path_factory.mktemp("smoke") / "copy"
    for name in project_files:
        if name.name not in ("data.dvc", "dvc.lock"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(ROOT / "data", folder / "data", copy_function=link_or_copy)
    shared = ROOT.parent / "shared"
    if shared.is_dir():  # real sequences, at the same place relative to the copy
        (folder.parent / "shared").symlink_to(shared)
    (folder / "params.smoke.yaml").replace(folder / "params.yaml")
    pipeline = (folder / "dvc.yaml").read_text()  # with tiny values, frozen stages run too
    (folder / "dvc.yaml").write_text(re.sub(r"^    frozen: true.*\n", "", pipeline, flags=re.MULTILINE))
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    return folder


@pytest.fixture(scope="module")
def reproduced(copy) -> tuple[Path, float]:
    """The copy after `dvc repro` of all DVC files, and the seconds it took."""
    start_s = time.monotonic()
    for arguments in ((), *((path.as_posix(),) for path in PIPELINES[1:])):
        done = dvc(copy, "repro", *arguments)
        print(f"{done.stdout}\nafter {time.monotonic() - start_s:.0f} s")
        assert done.returncode == 0, done.stdout[-6000:]
    return copy, time.monotonic() - start_s


@pytest.mark.slow
def test_a_second_repro_does_nothing(reproduced):
    folder, _ = reproduced
    start_s = time.monotonic()
    done = dvc(folder, "repro")
    seconds = time.monotonic() - start_s
    assert done.returncode == 0 and "Running stage" not in done.stdout, done.stdout
    assert seconds < SECOND_LIMIT_S, f"{seconds:.1f} s to find that nothing is to be done"


@pytest.mark.slow
def test_every_stage_left_its_results(reproduced):
    folder, _ = reproduced
    files = [folder / path for path in PIPELINES]
    names, stages = (
        [name for path in files for name in yaml.safe_load(path.with_suffix(suffix).read_text())["stages"]]
        for suffix in (".yaml", ".lock")
    )
    assert {stage.split("@")[0] for stage in stages} == set(names)
    for stage in stages:
        results = folder / "results" / stage.replace("@", "/")
        assert json.loads((results / "timing.json").read_text())["seconds"] > 0
        json.loads((results / "metrics.json").read_text())
        if stage.endswith("-sequences") and not (folder.parent / "shared").exists():
            continue  # a set that is not on this machine is left out: nothing to draw
        assert list((results / "figures").glob("*.png")), f"{stage} made no figure"
        (notebook,) = results.glob("*.ipynb")
        executed = nbformat.read(notebook, as_version=4)
        code = [cell for cell in executed.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), f"{notebook} has cells that did not run"
        assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs), (
            f"{stage}: no figure"
        )


@pytest.mark.slow
def test_the_summary_has_every_row(reproduced):
    folder, _ = reproduced
    summary = json.loads((folder / "results" / "compare" / "summary.json").read_text())
    for row in ROWS:
        assert summary[row]["embedded_test"], f"row {row} is empty"
    for metric in METRICS:
        assert summary["student"]["embedded_test"][metric] is not None, f"student has no {metric}"
    assert all(summary["timings"][stage] > 0 for stage in ("curate", "score", "stage1", "stage2", "experts", "distill"))


@pytest.mark.slow
def test_nothing_is_written_outside_results(reproduced, project_files):
    folder, _ = reproduced
    made = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} - set(project_files)
    known = ("data", "results", ".scratch", ".dvc", "dvc.lock")
    made -= {path.with_suffix(".lock") for path in PIPELINES}
    stray = [str(path) for path in made if path.parts[0] not in known and "__pycache__" not in path.parts]
    assert not stray, f"files outside results/: {stray[:5]}"


@pytest.mark.slow
def test_metrics_and_plots_show(reproduced):
    folder, _ = reproduced
    shown = dvc(folder, "metrics", "show")
    assert shown.returncode == 0 and "results/compare/summary.json" in shown.stdout
    shown = dvc(folder, "plots", "show", "--out", str(folder.parent / "plots"))
    assert shown.returncode == 0, shown.stdout
    assert (folder.parent / "plots" / "index.html").read_text().count(".png") >= 10


@pytest.mark.slow
def test_a_change_of_distill_reruns_distill_and_its_readers(reproduced):
    folder, _ = reproduced
    text = (folder / "params.yaml").read_text()
    values = yaml.safe_load(text)
    key = next(key for key, value in values["distill"].items() if type(value) in (int, float))
    values["distill"][key] += 1
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    planned = dvc(folder, "status").stdout
    (folder / "params.yaml").write_text(text)
    changed = [line for line in planned.splitlines() if line and not line.startswith("\t")]
    readers = {"release:", "ablations/dvc.yaml:student_ablations:"}  # they repeat distill with its parameters
    assert set(changed) == {"distill:"} | readers, planned
