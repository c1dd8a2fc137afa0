"""The runner, on throw-away notebooks in a temporary repository: what it injects, writes, refuses and survives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from ss3d_lib import params, run_notebook
from ss3d_lib.notebooks import NotebookError, declared_parameters, read_notebook, scrub, twin_text, update_twins

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# %% [markdown]\n# # A stage\n\n"
PARAMETERS = '# %% tags=["parameters"]\nseed = 0  # why\nrate = 0.1  # why\nname = "a"  # why\n\n'
PARAMS = {"base": "{seed: 3}", "tiny": "{rate: 1.0e-3, name: b}"}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """write(cells, parameters, sections) makes a repository of one stage, `tiny`, and the working folder is there."""
    monkeypatch.chdir(tmp_path)

    def write(cells="# %%\nprint(seed)\n", parameters=PARAMETERS, sections=PARAMS, name="02_tiny.py"):
        Path("notebooks").mkdir(exist_ok=True)
        Path("notebooks", name).write_text(HEADER + parameters + cells)
        Path("params.yaml").write_text("".join(f"{key}: {text}\n" for key, text in sections.items()))
        return tmp_path

    return write


def start(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "ss3d_lib.run_notebook", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def execute(*arguments) -> tuple[int, str, str]:
    process = start(*arguments)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def test_values_are_injected_and_two_runs_are_the_same_bytes(repository):
    folder = repository(
        "# %%\nimport os\nfrom pathlib import Path\n"
        "print(seed, rate, name, os.environ['OMP_NUM_THREADS'], Path.cwd(), object())\n\n"
        "# %%\nimport matplotlib.pyplot as plt\nplt.plot([seed, rate])\n",
        PARAMETERS.replace("seed = 0  # why", "seed = 0  # why\nthreads = 9  # why"),
        PARAMS | {"base": "{seed: 3, threads: 1}"},
    )
    copies = []
    for _ in range(2):
        status, out, error = execute("tiny")
        assert status == 0, error
        assert f"3 0.001 b 1 {folder}" in out  # cells print to the terminal as they run
        copies.append(Path("results/tiny/02_tiny.ipynb").read_text())
    assert copies[0] == copies[1]
    assert str(folder) not in copies[0]
    notebook = nbformat.reads(copies[0], as_version=4)
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[-1].outputs)
    assert json.loads(Path("results/tiny/timing.json").read_text())["seconds"] > 0
    assert not Path(".scratch/tiny").exists()


def test_a_failing_cell_gives_the_traceback_and_keeps_the_notebook(repository):
    repository('# %%\nprint("before")\n\n# %%\nraise RuntimeError("no such light")\n')
    status, out, error = execute("tiny")
    assert status == 1 and "before" in out
    assert "RuntimeError: no such light" in error and ".scratch/tiny/02_tiny.failed.ipynb" in error
    assert "before" in Path(".scratch/tiny/02_tiny.failed.ipynb").read_text()
    assert not Path("results/tiny/02_tiny.ipynb").exists()


def test_a_broken_graph_does_not_hide_why_the_stage_failed(repository):
    repository('# %%\nraise RuntimeError("no such light")\n')
    Path("dvc.yaml").write_text("stages: [\n")
    status, _, error = execute("tiny")
    assert status == 1 and error.endswith("Mend the cause, then: python -m ss3d_lib.run_notebook tiny\n")
    assert "RuntimeError: no such light" in error and "YAML" not in error


def test_a_cell_that_is_no_python_is_named_before_anything_runs(repository):
    repository("# %%\nprint('ran')\n\n# %%\nx = (\n")
    status, out, error = execute("tiny")
    assert (status, out) == (1, "") and error == "notebooks/02_tiny.py, line 13: '(' was never closed: correct it there\n"


def test_a_killed_kernel_is_told_as_such(repository):
    repository("# %%\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    status, _, error = execute("tiny")
    assert status == 1 and "stage tiny: its process was killed" in error and "memory" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_cell_and_says_how_to_go_on(repository, number):
    repository(
        "# %%\nimport time\nfrom pathlib import Path\nPath('started').touch()\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    Path('.scratch/tiny/rolling').touch()\n    raise\n"
    )
    process = start("tiny")
    deadline_s = time.monotonic() + 60
    while not Path("started").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == run_notebook.INTERRUPTED
    assert Path(".scratch/tiny/rolling").exists()
    assert "interrupted" in error and "run_notebook tiny" in error and "Traceback" not in error
    assert not Path("results/tiny/02_tiny.ipynb").exists()


def test_scratch_outlives_an_interruption_but_not_a_change(repository, capsys):
    repository()
    saved = Path(".scratch/tiny/rolling")

    def prepare(**overrides) -> bool:
        run_notebook.prepare_scratch(run_notebook.plan("tiny", overrides))
        there = saved.exists()
        saved.touch()
        return there

    assert not prepare()
    assert prepare() and not capsys.readouterr().out
    assert not prepare(rate=3.0)
    assert "starting afresh" in capsys.readouterr().out
    assert prepare(rate=3.0)
    Path("dvc.lock").write_text("an earlier stage ran again")
    assert not prepare(rate=3.0)
    with Path("notebooks/02_tiny.py").open("a") as file:
        file.write("print(2)\n")
    assert not prepare(rate=3.0)


def test_matrix_keys_name_the_folder(repository):
    repository(sections={"base": "{seed: 0}", "tiny": "{rate: 1.0}"})
    Path("dvc.yaml").write_text("stages: {tiny: {cmd: x}}")
    planned = run_notebook.plan("tiny", {"name": "student-v1"})
    assert planned.results == Path("results/tiny/student-v1")
    assert planned.parameters == {"seed": 0, "rate": 1.0, "name": "student-v1"}
    assert planned.command == "dvc repro tiny@student-v1"
    both = run_notebook.plan("tiny", {"name": "student-v1", "rate": 2.0})
    assert both.command == "python -m ss3d_lib.run_notebook tiny -p name=student-v1 -p rate=2.0"
    with pytest.raises(ValueError, match="'../x' cannot be a file name"):
        run_notebook.plan("tiny", {"name": "../x"})


def test_an_override_of_a_known_key_keeps_the_folder(repository):
    repository()
    planned = run_notebook.plan("tiny", {"rate": 2})
    assert planned.results == Path("results/tiny") and planned.parameters["rate"] == 2


def test_the_command_that_goes_on_is_the_one_that_was_given(repository):
    repository()
    command = lambda **given: run_notebook.plan("tiny", given).command
    assert command() == "python -m ss3d_lib.run_notebook tiny", "DVC does not know it"
    assert command(name="a b.mp4") == "python -m ss3d_lib.run_notebook tiny -p 'name=a b.mp4'"
    for path, target in ((Path("dvc.yaml"), "tiny"), (Path("ablations/dvc.yaml"), "ablations/dvc.yaml:tiny")):
        path.parent.mkdir(exist_ok=True)
        path.write_text("stages: {tiny: {cmd: x}}")
        assert command() == f"dvc repro {target}" and "dvc repro" not in command(rate=2)
        path.unlink()
    Path("dvc.yaml").write_text("stages: {tiny: {cmd: x, frozen: true}}")
    assert command() == "dvc unfreeze tiny && dvc repro -s tiny; dvc freeze tiny"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"base": "{seed: 0}", "tiny": "{rate: 1.0, name: a, rat: 2}"}, r"base \+ tiny: unknown key 'rat': remove"),
        ({"base": "{seed: 0}", "tiny": "{name: a}"}, r"base \+ tiny: missing key 'rate': add"),
        ({"base": "{}", "tiny": "{}"}, r"missing keys 'name', 'rate', 'seed'"),
        ({"base": "{seed: 0}", "tiny": "{rate: 1e-3, name: a}"}, r"rate is '1e-3' \(str\).*write 1.0e-4"),
        ({"base": "{seed: 0.5}", "tiny": "{rate: 1.0, name: a}"}, r"seed is 0.5 \(float\).*give a int"),
        ({"base": "{seed: true}", "tiny": "{rate: 1.0, name: a}"}, r"seed is True \(bool\)"),
        ({"base": "{seed: 0}", "tiny": "{seed: 1, rate: 1.0, name: a}"}, r"seed in both 'base' and 'tiny'"),
        ({"base": "{seed: 0}", "score": "{}"}, r"no section 'tiny': add one, or choose one of: score"),
        ({"tiny": "{}"}, r"no section 'base'"),
        ({"base": "{seed: 0}", "tiny": "7"}, r"section 'tiny' holds 7"),
        ({"base": "{seed: 0"}, r"params.yaml is not YAML"),
    ],
)
def test_wrong_params_are_refused_before_anything_runs(repository, sections, message):
    repository(sections=sections)
    with pytest.raises(params.ParamsError, match=message):
        run_notebook.plan("tiny")
    assert not Path("results").exists()


def test_without_params_file_or_notebook(repository):
    repository()
    with pytest.raises(NotebookError, match="0 files match, one is wanted; notebooks here: 02_tiny.py"):
        run_notebook.plan("tin")
    Path("params.yaml").unlink()
    with pytest.raises(params.ParamsError, match="params.yaml does not exist"):
        run_notebook.plan("tiny")


def test_the_subtitle_of_a_notebook_is_not_part_of_its_stage(repository):
    repository(name="02_tiny_things.py")
    assert run_notebook.plan("tiny").notebook == Path("notebooks/02_tiny_things.py")
    repository(name="03_tiny.py")
    assert run_notebook.plan("tiny").notebook == Path("notebooks/03_tiny.py")
    repository(name="04_tiny.py")
    with pytest.raises(NotebookError, match="2 files match"):
        run_notebook.plan("tiny")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("", "0 cells are tagged"),
        (PARAMETERS + PARAMETERS, "2 cells are tagged"),
        (PARAMETERS.replace("0.1", "seed / 2"), "'rate = seed / 2  # why' is no literal"),
        (PARAMETERS.replace("seed = 0", "import os"), "write key = literal"),
        (PARAMETERS.replace("rate", "seed"), "seed is assigned twice"),
        (PARAMETERS.replace("0.1", ""), r"02_tiny.py, parameters cell, line 2: invalid syntax: write key = literal"),
        (PARAMETERS.replace("0.1", "(0.1"), r"02_tiny.py, parameters cell, line 2: '\(' was never closed"),
        (PARAMETERS.replace("0.1", "{[]: 1}"), r"'rate = \{\[\]: 1\}  # why' is no literal"),
    ],
)
def test_a_parameters_cell_holds_literals_only(repository, parameters, message):
    repository(parameters=parameters)
    with pytest.raises(NotebookError, match=message):
        run_notebook.plan("tiny")


@pytest.mark.parametrize("pair", ["rate", "=1", "a b=1"])
def test_a_malformed_override_is_refused(pair):
    with pytest.raises(params.ParamsError, match="write key=value"):
        params.parse_overrides([pair], {})


def test_overrides_are_read_as_yaml():
    assert params.parse_overrides(["a=1", "b=x=y", "c=[1, 2]", "d=1.0e-3"], {}) == {
        "a": 1,
        "b": "x=y",
        "c": [1, 2],
        "d": 1e-3,
    }
    with pytest.raises(params.ParamsError, match="a is given twice"):
        params.parse_overrides(["a=1", "a=2"], {})


def test_text_is_taken_as_it_stands_where_text_is_wanted():
    given = params.parse_overrides(["video=clip #2: a.mp4", "seed=1"], {"video": "", "seed": 0})
    assert given == {"video": "clip #2: a.mp4", "seed": 1}
    with pytest.raises(params.ParamsError, match="-p seed=\\[1: .* is not YAML"):
        params.parse_overrides(["seed=[1"], {"seed": 0})


def test_stage_params_is_a_frozen_dataclass(repository):
    repository()
    values = params.stage_params("tiny")
    assert type(values).__name__ == "TinyParams" and (values.seed, values.rate, values.name) == (3, 1e-3, "b")
    with pytest.raises(AttributeError):
        values.rate = 1.0


def test_twins_are_stripped_and_stable(repository):
    repository()
    assert update_twins(check=True) == [Path("notebooks/02_tiny.ipynb")]
    assert update_twins() == [Path("notebooks/02_tiny.ipynb")]
    assert update_twins() == []
    text = Path("notebooks/02_tiny.ipynb").read_text()
    assert text == twin_text(Path("notebooks/02_tiny.py"))
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    assert [cell.id for cell in notebook.cells] == ["cell-00", "cell-01", "cell-02"]
    assert notebook.cells[1].metadata == {"tags": ["parameters"]}
    assert declared_parameters(notebook, "twin") == {"seed": 0, "rate": 0.1, "name": "a"}


def test_scrub_merges_streams_and_drops_what_differs_between_runs(repository):
    folder = repository()
    notebook = read_notebook(Path("notebooks/02_tiny.py"))
    cell = notebook.cells[-1]
    stream = lambda text: nbformat.v4.new_output("stream", name="stdout", text=text)  # noqa: E731
    widget = {"text/plain": "<Slider at 0x7f01>", "application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    cell.outputs = [stream("1 "), stream(f"2 {folder}/data\n"), nbformat.v4.new_output("display_data", data=widget)]
    cell.metadata["papermill"] = {"duration": 1.0}
    notebook.metadata["widgets"] = {"state": {}}
    scrub(notebook, folder)
    assert cell.outputs[0].text == "1 2 data\n"
    assert cell.outputs[1].data == {"text/plain": "<Slider at 0x>"}
    assert "papermill" not in cell.metadata and "widgets" not in notebook.metadata
