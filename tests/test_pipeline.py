"""The stage graph: what feeds what, what is declared, who may read ground truth; layers, lock and commands."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from interrupts import interrupt

from ss3d_lib import graph, notebooks, params, run_notebook, store

ROOT = Path(__file__).resolve().parents[1]
LABEL_FREE = ("curate", "score", "stage1", "stage2", "experts", "distill", "finetune")
READS_TRUTH = ("datasets", "evaluate", "baselines", "protocol", "report", "labels")  # modules no label-free notebook may import
SETS = ("embedded_test", "sequences")
MATRIX = {"evaluate": {"checkpoint": "student", "set": "embedded_test"}, "ablations": {"group": "score"}}
PARAMS_FILES = ("params.yaml", "params.smoke.yaml")
# What each module of ss3d_lib may import of the others; modules that are not listed may not be imported by these.
LAYERS = {
    "files": set(),
    "progress": set(),
    "params": set(),
    "plots": {"files"},  # figures are written whole or not at all
    "metrics": set(),
    "geometry": set(),
    "twoview": {"geometry"},
    "video": {"files"},
    "flow": {"video", "geometry"},
    "models": {"geometry", "twoview"},
    "losses": {"geometry", "twoview", "models"},
    "datasets": {"files", "video"},
    "data": {"files", "geometry", "twoview", "models", "video", "flow"},
}


@pytest.fixture(scope="module")
def stages():
    """{stage: (paths it depends on, paths it writes)} as DVC resolves the DVC files."""
    with Repo(str(ROOT)) as repository:
        return {
            stage.name: (
                [dep.def_path for dep in stage.deps if dep.def_path != "params.yaml"],
                [out.def_path for out in stage.outs],
            )
            for stage in repository.index.stages
            if not stage.is_data_source
        }


@pytest.fixture(scope="module")
def written():
    """The stages of the DVC files as they are written."""
    files = [yaml.safe_load((ROOT / path).read_text())["stages"] for path in graph.PIPELINES]
    return {name: definition for stages in files for name, definition in stages.items()}


def overlaps(first: str, second: str) -> bool:
    """Whether one path is, or holds, the other."""
    a, b = Path(first).parts, Path(second).parts
    return a[: len(b)] == b or b[: len(a)] == a


def upstream(stages, name: str) -> set[str]:
    """The stage itself and every stage whose results it reads, directly or not."""
    found, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            needs = stages[current][0]
            waiting += [s for s, (_, outs) in stages.items() if any(overlaps(o, n) for o in outs for n in needs)]
    return found


@pytest.mark.parametrize("name", LABEL_FREE)
def test_no_label_free_stage_depends_on_ground_truth(stages, name):
    for stage in upstream(stages, name):
        for dep in stages[stage][0]:
            assert not overlaps(dep, "data/truth"), f"{name} reads ground truth: {dep}, through {stage}"


@pytest.mark.parametrize("name", LABEL_FREE)
def test_no_label_free_notebook_runs_code_that_reads_ground_truth(name):
    notebook = notebooks.notebook_path(name)
    for path in [notebook, *graph.transitive_modules(notebook)]:
        assert path == notebook or path.parts[1].removesuffix(".py") not in READS_TRUTH, f"{notebook} imports {path}"
        assert "data/truth" not in path.read_text(encoding="utf-8"), f"{path}, run by {notebook}, names data/truth"


def test_the_order_of_the_stages(stages):
    order = ["curate", "score", "stage1", "stage2", "experts", "distill"]
    for before, after in zip(order, order[1:]):
        assert before in upstream(stages, after) and after not in upstream(stages, before)
    apart = {"student_ablations", "robustness"} | {name for name in stages if name.startswith("ablations@")}
    assert upstream(stages, "compare") == set(stages) - apart, "those are for themselves"


def test_a_change_of_distill_runs_what_reads_it_and_nothing_before(stages):
    affected = {name for name in stages if "distill" in upstream(stages, name)}
    assert affected == {"distill", "finetune", "few_labels", "rivals", "compare", *(f"evaluate@student-{name}" for name in SETS)}


def test_every_checkpoint_is_evaluated_and_all_but_the_ceiling_on_every_set(stages, written):
    weights = params.load_sections()["evaluate"]["weights"]
    assert {"stage2", "student", "released", "supervised_ceiling"} <= set(weights)
    rows = written["evaluate"]["foreach"]
    main = [f"{name}-{of}" for name in ("stage2", "student", "released") for of in SETS]
    assert set(rows) == {f"{name}-embedded_test" for name in weights} | set(main)
    for key, row in rows.items():
        assert key == f"{row['checkpoint']}-{row['set']}"
        assert weights[row["checkpoint"]] in stages[f"evaluate@{key}"][0]


def test_declared_modules_are_those_that_notebooks_import():
    changes = graph.update_deps(check=True)
    assert not changes, "run make deps:\n" + "\n".join(f"{stage}: {lines}" for stage, lines in changes.items())


def test_every_stage_runs_its_notebook_and_writes_its_folder_only(stages, written):
    for name, definition in written.items():
        body = definition.get("do", definition)
        assert body["cmd"].startswith(f"python -m ss3d_lib.run_notebook {name}")
        assert body["params"][0] == "base" and body["params"][-1] == name
        notebook = notebooks.notebook_path(name)
        assert str(notebook) in body["deps"]
        for stage, (_, outs) in stages.items():
            if stage.split("@")[0] == name:
                folder = f"results/{stage.replace('@', '/')}/"
                assert all(out.startswith(folder) for out in outs), f"{stage} writes outside {folder}"
                names = {out.removeprefix(folder) for out in outs}
                assert {"metrics.json", "timing.json", "figures", f"{notebook.stem}.ipynb"} <= names


def test_no_stage_depends_on_an_executed_notebook(stages):
    for stage, (deps, _) in stages.items():
        assert not [dep for dep in deps if dep.endswith(".ipynb")], f"{stage}: depend on the .py, its bytes are stable"


def test_metrics_and_plots_are_shown(stages):
    with Repo(str(ROOT)) as repository:
        metrics = {out.def_path for out in repository.index.metrics}
        plots = {out.def_path for stage in repository.index.stages for out in stage.outs if out.plot}
    for stage, (_, outs) in stages.items():
        assert {out for out in outs if out.endswith(("metrics.json", "summary.json"))} <= metrics
        assert {out for out in outs if out.endswith("/figures")} <= plots, f"{stage}: its figures belong under plots"


@pytest.mark.parametrize("file", PARAMS_FILES)
def test_params_and_parameters_cells_agree(file, written, monkeypatch):
    monkeypatch.setattr(run_notebook, "PARAMS_FILE", Path(file))
    monkeypatch.setattr(run_notebook, "stage_values", lambda stage: params.stage_values(stage, file))
    for stage in written:
        run_notebook.plan(stage, MATRIX.get(stage))


def test_both_params_files_have_the_same_keys():
    first, second = (params.load_sections(file) for file in PARAMS_FILES)
    assert {name: set(section) for name, section in first.items()} == {n: set(s) for n, s in second.items()}


def test_layers():
    modules = {path.stem if path.stem != "__init__" else path.parent.name for path in Path("ss3d_lib").rglob("*.py")}
    assert set(LAYERS) <= modules
    for layer, allowed in LAYERS.items():
        for path in [Path(f"ss3d_lib/{layer}.py"), *Path("ss3d_lib", layer).glob("**/*.py")]:
            if path.is_file():
                used = {name.split(".")[1] for name in graph.imported_names(path) if name.startswith("ss3d_lib.")}
                wrong = used - allowed - {layer}
                assert not wrong, f"{path} imports {sorted(wrong)}; the layer {layer} may know {sorted(allowed)}"


def test_modules_do_not_import_in_circles():
    def first_part(path: Path) -> str:
        return path.with_suffix("").parts[1]

    edges = {}
    for path in Path("ss3d_lib").rglob("*.py"):
        used = {first_part(file) for name in graph.imported_names(path) for file in graph.module_files(name)}
        edges.setdefault(first_part(path), set()).update(used - {first_part(path), "__init__"})
    while free := {name for name, used in edges.items() if not used & edges.keys()}:
        edges = {name: used for name, used in edges.items() if name not in free}
    assert not edges, f"these import one another in a circle: {sorted(edges)}"


def test_only_the_runner_uses_papermill():
    users = [path.name for path in Path("ss3d_lib").rglob("*.py") if "papermill" in graph.imported_names(path)]
    assert users == ["run_notebook.py"]


def test_nothing_is_unpickled():
    for path in [*Path("ss3d_lib").rglob("*.py"), *Path("notebooks").glob("*.py"), *Path("corpus").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = ast.unparse(node) if isinstance(node, ast.Call) else ""
            assert not re.match(r"(torch|pickle|joblib|dill)\.loads?\(", call), f"{path}: {call[:60]}: use safetensors"
            assert "allow_pickle=True" not in call, f"{path}: {call[:60]}: plain arrays need no pickle"


def test_modules_are_of_a_size_to_read():
    for path in Path("ss3d_lib").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, f"{path} is longer than 350 lines: split it"


def test_imported_names_resolve_relative_and_nested_imports(tmp_path):
    folder = tmp_path / "ss3d_lib" / "a"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from . import b\n")
    (folder / "b.py").write_text("def f():\n    from ..c import value\n    return value\n")
    (tmp_path / "ss3d_lib" / "__init__.py").write_text("")
    (tmp_path / "ss3d_lib" / "c.py").write_text("import numpy.linalg\nvalue = 1\n")
    (tmp_path / "n.py").write_text("from ss3d_lib import a\n")
    found = {path.as_posix() for path in graph.transitive_modules(Path("n.py"), tmp_path)}
    assert found == {f"ss3d_lib/{name}.py" for name in ("__init__", "a/__init__", "a/b", "c")}


@pytest.mark.parametrize(
    "text, said",
    [
        ("stages: [\n", "dvc.yaml is not YAML: .* line 2"),
        ("7\n", "dvc.yaml has no stages"),
        ("stages:\n", "dvc.yaml has no stages"),
        ("stages: {tiny: {cmd: x}}\n", "stage tiny: wrong\n  ! dvc.yaml gives it no deps"),
        ("stages: {tiny: {foreach: [a], do: {cmd: x}}}\n", "stage tiny: wrong\n  ! dvc.yaml gives it no deps"),
        ("stages: {tiny: x}\n", "stage tiny: wrong\n  ! dvc.yaml gives it no deps"),
        ("stages: {tiny: {deps: []}}\n", r"stage tiny: wrong\n  ! notebooks/02_tiny.py, line 2: '\(' was never closed"),
    ],
)
@pytest.mark.parametrize("given", [[], ["--check"]])
def test_a_graph_that_cannot_be_read_is_one_clear_error(tmp_path, monkeypatch, capsys, text, said, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(graph, "PIPELINES", (Path("dvc.yaml"),))
    Path("dvc.yaml").write_text(text)
    Path("notebooks").mkdir()
    Path("notebooks/02_tiny.py").write_text("x = 1\ny = (\n")
    assert graph.main(given) == 1
    printed = capsys.readouterr()
    assert re.search(said, printed.out + printed.err) and Path("dvc.yaml").read_text() == text


def test_the_lock_pins_every_dependency_with_hashes_and_no_addresses():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and " @ " not in lock
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==.*\\$", lock, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[A-Za-z]", lock, re.MULTILINE)), "a requirement without hashes: make lock"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = ("dev", "baselines", "youtube", "cluster", "datasets", "viewer")
    wanted = project["dependencies"] + [item for name in locked for item in extras[name]]
    normal = lambda text: re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", text)[0]).lower()  # noqa: E731 - PEP 503
    missing = {normal(text) for text in wanted} - {normal(text) for text in pinned}
    assert not missing, f"{missing} are not in requirements.lock: make lock"
    assert all(line.endswith("'never' \\") for line in lock.splitlines() if line.startswith("opencv-python=="))


def test_conda_users_install_the_same_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    names = [re.split(r"[=<> ]", item)[0] for item in environment["dependencies"] if isinstance(item, str)]
    assert {"python", "pip", "ffmpeg", "make"} == set(names)
    assert environment["dependencies"][-1]["pip"] == ["-e .[dev,baselines,youtube,cluster,datasets,viewer]"]


def test_ci_runs_what_the_readme_says():
    text = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK) and text.rstrip().endswith("make test")


def test_the_installation_pins_its_own_installer(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    import install

    pin = install.uv_requirement()
    assert re.match(r"uv==[\d.]+ \\\n", pin) and pin.count("--hash=sha256:") > 1 and pin.count("==") == 1
    monkeypatch.setattr(install, "VENV", tmp_path / "venv")
    monkeypatch.setattr(install, "PYTHON", tmp_path / "venv" / "bin" / "python")
    monkeypatch.setattr(install, "find_python", lambda: "false")  # a Python that cannot make environments
    with pytest.raises(SystemExit, match="install its venv module"):
        install.make_venv()


def test_an_environment_that_was_moved_is_made_anew(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    import install

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "a"], check=True)
    monkeypatch.setattr(install, "VENV", tmp_path / "a")
    assert not install.was_moved()
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.setattr(install, "VENV", tmp_path / "b")
    assert install.was_moved()


def test_what_was_pulled_is_not_written_through_into_the_cache(tmp_path, monkeypatch):
    """Stages that are frozen come as links; a notebook that is run by hand writes over them."""
    monkeypatch.chdir(tmp_path)
    subprocess.run([*store.DVC, "init", "--no-scm", "-q"], check=True)
    cached = tmp_path / "cached.png"
    cached.write_bytes(b"theirs")
    written = tmp_path / "results" / "stage" / "a.png"
    assert store.make_writable(Path("results")) == 0
    written.parent.mkdir(parents=True)
    os.link(cached, written)
    cached.chmod(0o444)
    assert store.make_writable(Path("results")) == 0
    written.write_bytes(b"mine")
    assert cached.read_bytes() == b"theirs" and written.stat().st_mode & 0o200


def test_the_release_depends_on_the_code_of_every_stage_that_it_runs():
    deps = set(graph.read_pipeline(ROOT / "dvc.yaml")["stages"]["release"]["deps"])
    for number in ("01_curate", "03_stage1_intrinsics", "04_stage2_joint", "06_distill"):
        assert {path.as_posix() for path in graph.transitive_modules(Path("notebooks", f"{number}.py"))} <= deps, number


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    shown = subprocess.run(["make", "--no-print-directory", "help"], capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in shown.splitlines()} == targets
    assert {"repro", "test", "smoke", "lab", "lint"} <= targets


def test_no_file_names_a_machine(project_files):
    for path in project_files:
        if path.suffix in {".py", ".md", ".yaml", ".yml", ".json", ".toml", ".ipynb", ".lock", ".dvc", ""}:
            found = re.search(r"(?<![\w.])/(?:home|Users|root|work)/\w+", (ROOT / path).read_text(encoding="utf-8"))
            assert not found, f"{path} names a folder of one machine: {found[0]}"


def _dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": "nowhere"}  # dvc is found without it
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_pull_without_the_store_says_how_to_restore_it(tmp_path):
    """In an unpacked archive, without git: the data comes from the store; without the store, one clear message."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text((ROOT / ".dvc" / "config").read_text())
    (tmp_path / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")
    for command in (("add", "data"), ("push",)):
        done = _dvc(tmp_path, "-m", "dvc", *command)
        assert done.returncode == 0, done.stderr
    for path in (tmp_path / ".dvc" / "cache", tmp_path / "data"):
        subprocess.run(["rm", "-rf", path], check=True)
    (tmp_path / ".dvc" / "config.local").unlink()
    done = _dvc(tmp_path, "-m", "ss3d_lib.store")
    assert done.returncode == 0 and (tmp_path / "data" / "a.txt").read_text() == "a", done.stderr
    for path in (tmp_path / ".dvc" / "cache", tmp_path / "data", tmp_path / store.STORE):
        subprocess.run(["rm", "-rf", path], check=True)
    done = _dvc(tmp_path, "-m", "ss3d_lib.store")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "dvc_store/, which is missing" in done.stderr and "git checkout -- dvc_store data.dvc" in done.stderr


def test_pull_in_another_folder_changes_nothing_and_says_where_to_run_it(tmp_path):
    done = _dvc(tmp_path, "-m", "ss3d_lib.store")
    assert done.returncode == 1 and "data.dvc is missing: run from the root of the repository" in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_interrupt_ends_the_pull_in_one_line(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "data.dvc").touch()
    (tmp_path / "dvc.py").write_text("import time\nopen('began', 'w')\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise SystemExit(1)\n")
    command, environment = [sys.executable, "-m", "ss3d_lib.store"], os.environ | {"PYTHONPATH": str(ROOT)}
    status, said = interrupt(command, (tmp_path / "began").exists, cwd=tmp_path, env=environment)
    assert status == 130 and said == "\ninterrupted: what was finished is kept\n"


def test_store_state(tmp_path):
    assert store.store_state(tmp_path / "none") == "which is missing"
    assert store.store_state(tmp_path) == "which is empty"
    (tmp_path / "a").write_text("")
    assert store.store_state(tmp_path).startswith("which holds 1 files")


def test_the_corpus_is_pinned():
    assert (ROOT / "data.dvc").is_file(), "data.dvc is missing: dvc add data"
    outs = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]
    assert [out["path"] for out in outs] == ["data"]
