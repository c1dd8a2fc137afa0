"""Runs one stage: python -m ss3d_lib.run_notebook STAGE [-p key=value ...], from the repository root.

The stage's notebook notebooks/NN_STAGE.py is executed by Papermill with the values of params.yaml, sections
`base` and STAGE. Results go to results/STAGE/, with the executed notebook and timing.json. Keys given with
-p that params.yaml does not have are matrix keys: their values name the folder, results/STAGE/<a>-<b>/.
What a notebook saves in .scratch/STAGE/ outlives an interruption, and is there for the next run unless code,
parameters or inputs have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    from ss3d_lib.commands import INTERRUPTED
    from ss3d_lib.files import atomic_write, safe_name, write_json
    from ss3d_lib.graph import PIPELINES, read_pipeline, transitive_modules
    from ss3d_lib.notebooks import NotebookError, declared_parameters, notebook_path, read_notebook, scrub
    from ss3d_lib.params import BASE, PARAMS_FILE, check_keys, check_types, parse_overrides, stage_values
    from ss3d_lib.progress import EXECUTED_ENV
except ModuleNotFoundError as error:  # dvc found another Python on the PATH
    sys.exit(f"{error}: {sys.executable} is not the project's Python; . .venv/bin/activate, or use make")

RESULTS = Path("results")
SCRATCH = Path(".scratch")
KERNEL_LOG = "--IPKernelApp.log_level=50"  # its warnings are about itself; what a cell raises arrives anyway
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS")


@dataclass(frozen=True)
class Plan:
    """What one run will do: the notebook, the values of its parameters and where its results go."""

    stage: str
    notebook: Path
    parameters: dict[str, Any]
    results: Path
    scratch: Path
    given: dict[str, Any]  # by -p
    matrix: tuple[str, ...]  # those of its keys that name the folder; the others change params.yaml's values

    @property
    def command(self) -> str:
        """What runs this again: DVC where it knows the stage and would run it with the same values."""
        file = next((path for path in PIPELINES if self.stage in stages(path)), None)
        if set(self.given) > set(self.matrix) or file is None:
            given = "".join(f" -p {shlex.quote(f'{key}={value}')}" for key, value in self.given.items())
            return f"python -m ss3d_lib.run_notebook {self.stage}{given}"
        place = "" if file == PIPELINES[0] else f"{file.as_posix()}:"
        matrix = f"@{self.results.name}" if self.matrix else ""
        if stages(file)[self.stage].get("frozen"):  # a plain `dvc repro` leaves it as it is
            return f"dvc unfreeze {self.stage} && dvc repro -s {self.stage}; dvc freeze {self.stage}"
        return f"dvc repro {place}{self.stage}{matrix}"


class StageError(RuntimeError):
    """A cell of the notebook raised; the message holds its traceback and where the notebook is kept."""


def stages(path: Path) -> dict[str, Any]:
    """The stages of a DVC file; none where it cannot be read, for its error must not stand in the place of a stage's own."""
    try:
        return read_pipeline(path)["stages"]
    except (OSError, ValueError):
        return {}


def plan(stage: str, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Finds the notebook and checks every parameter, before anything runs.

    Args:
        stage: e.g. "score".
        overrides: values that replace those of params.yaml, and the matrix keys.

    Raises:
        ParamsError, NotebookError: naming file, section, key and remedy.
    """
    overrides = dict(overrides or {})
    path, values, defaults = notebook_path(stage), stage_values(stage), declared_defaults(stage)
    matrix = tuple(key for key in overrides if key not in values)
    values |= overrides
    given_in = f"{PARAMS_FILE}, sections {BASE} + {stage}" + (" and -p" if overrides else "")
    check_keys(values, defaults, given_in, f"the parameters cell of {path}")
    check_types(values, defaults, given_in)
    folder = Path(stage, "-".join(safe_name(str(overrides[key])) for key in matrix))
    return Plan(stage, path, values, RESULTS / folder, SCRATCH / folder, overrides, matrix)


def declared_defaults(stage: str) -> dict[str, Any]:
    """{key: default} of the parameters cell of a stage's notebook. Raises NotebookError."""
    path = notebook_path(stage)
    return declared_parameters(read_notebook(path), str(path))


def run(plan: Plan) -> float:
    """Executes the notebook of a plan and writes its copy and timing.json to plan.results; returns seconds.

    Raises:
        StageError: a cell raised. NotebookError: the notebook, or a module that it imports, is not Python.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the kernel got it too, and has ended.
    """
    for logger in ("papermill", "asyncio"):  # they log what is raised anyway, and an interrupted wait
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    plan.results.mkdir(parents=True, exist_ok=True)
    prepare_scratch(plan)
    source = plan.scratch / f"{plan.notebook.stem}.input.ipynb"
    running = plan.scratch / f"{plan.notebook.stem}.running.ipynb"
    _write_notebook(read_notebook(plan.notebook), source)
    start_s = time.monotonic()
    try:
        executed = papermill.execute_notebook(
            source, running, parameters=plan.parameters, kernel_name="python3", cwd=str(Path.cwd()),
            progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr, extra_arguments=[KERNEL_LOG],
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from error
        raise StageError(_failure(plan, running, error)) from error
    except DeadKernelError as error:
        message = f"stage {plan.stage}: its process was killed, most often for want of memory"
        raise StageError(f"{message}: close other programs or take smaller values, then: {plan.command}") from error
    seconds = time.monotonic() - start_s
    _write_notebook(scrub(executed, Path.cwd()), plan.results / f"{plan.notebook.stem}.ipynb")
    write_json(plan.results / "timing.json", {"seconds": round(seconds, 1)})
    shutil.rmtree(plan.scratch)  # it served to go on after an interruption; a finished stage starts afresh
    return seconds


def inputs_fingerprint(plan: Plan) -> str:
    """SHA-256 of what a stage's result depends on: code, parameters, and the hashes of earlier results in dvc.lock."""
    digest = hashlib.sha256(repr(sorted(plan.parameters.items())).encode())
    for path in [plan.notebook, *sorted(transitive_modules(plan.notebook)), Path("dvc.lock")]:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def prepare_scratch(plan: Plan) -> None:
    """Makes plan.scratch; what an interrupted run left in it stays only if that run had the same inputs."""
    marker, fingerprint = plan.scratch / "inputs.sha256", inputs_fingerprint(plan)
    if plan.scratch.is_dir() and (not marker.is_file() or marker.read_text() != fingerprint):
        print(f"{plan.scratch} is of a run with other code, parameters or inputs: starting afresh", flush=True)
        shutil.rmtree(plan.scratch)
    plan.scratch.mkdir(parents=True, exist_ok=True)
    marker.write_text(fingerprint)


def _write_notebook(notebook, path: Path) -> None:
    with atomic_write(path) as temporary:
        nbformat.write(notebook, temporary)


def _failure(plan: Plan, running: Path, error) -> str:
    kept = plan.scratch / f"{plan.notebook.stem}.failed.ipynb"
    shutil.move(running, kept)
    traceback = "\n".join(error.traceback)
    return (
        f"{traceback}\n\nstage {plan.stage} failed at [{error.exec_count}] of {plan.notebook}: "
        f"{error.ename}: {error.evalue}\nThe notebook up to there is {kept}. Mend the cause, then: {plan.command}"
    )


def set_environment(parameters: Mapping[str, Any]) -> None:
    """Sets what the kernel inherits: threads, progress as lines, this environment's kernel, fixed hashing.

    Thread counts must stand in the environment before numpy and torch are imported, so no notebook can do it.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(parameters.get("threads", os.cpu_count()))
    os.environ[EXECUTED_ENV] = "1"
    os.environ["PYTHONHASHSEED"] = "0"
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # repeatable matrix products on a GPU
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # figures belong in the notebook
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # a stale kernelspec in the home folder must not win
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or each kernel greets with a debugger warning


def _raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _fail(message: object) -> int:
    print(message, file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m ss3d_lib.run_notebook", description=description, epilog=details)
    parser.add_argument("stage", help="name of the stage: the notebook's without its number")
    parser.add_argument("-p", dest="pairs", action="append", default=[], metavar="key=value", help="a parameter")
    options = parser.parse_args(arguments)
    try:
        planned = plan(options.stage, parse_overrides(options.pairs, declared_defaults(options.stage)))
        set_environment(planned.parameters)
    except ValueError as error:
        return _fail(error)
    for number in (signal.SIGINT, signal.SIGTERM):  # explicitly: a parent may have had them ignored
        signal.signal(number, _raise_interrupt)
    try:
        seconds = run(planned)
    except KeyboardInterrupt:
        print(f"\nstage {options.stage} interrupted; what it had saved is in {planned.scratch}/. "
              f"The same command goes on from there: {planned.command}", file=sys.stderr)  # fmt: skip
        return INTERRUPTED
    except (StageError, NotebookError, OSError) as error:
        return _fail(error)
    print(f"{planned.results}: done in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
