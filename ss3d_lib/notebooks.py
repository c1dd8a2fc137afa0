"""Notebooks as text: the percent .py is the truth, the .ipynb beside it is its stripped twin.

`python -m ss3d_lib.notebooks` writes the twins; `--check` only compares, for the tests and pre-commit.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from ss3d_lib.commands import finish
from ss3d_lib.files import atomic_write

NOTEBOOKS = Path("notebooks")
PARAMETERS_TAG = "parameters"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
_VOLATILE_CELL_METADATA = ("papermill", "execution", "ExecuteTime", "collapsed")
_WIDGET_MIME = "application/vnd.jupyter.widget-view+json"


class NotebookError(ValueError):
    """A notebook, or code that it imports, that breaks a rule the runner relies on; the message names file and cell or line."""


def notebook_path(stage: str, folder: Path = NOTEBOOKS) -> Path:
    """notebooks/NN_<stage>.py, or NN_<stage>_<subtitle>.py, such as 03_stage1_intrinsics.py for stage1.

    Raises:
        NotebookError: when none or several match, with the notebooks that there are.
    """
    notebooks = sorted(folder.glob("[0-9][0-9]_*.py"))
    found = [path for path in notebooks if path.stem[3:] == stage] or [
        path for path in notebooks if path.stem[3:].startswith(f"{stage}_")
    ]
    if len(found) != 1:
        names = ", ".join(path.name for path in notebooks) or "none"
        raise NotebookError(f"{folder}/NN_{stage}.py: {len(found)} files match, one is wanted; notebooks here: {names}")
    return found[0]


def read_notebook(path: Path) -> NotebookNode:
    """The notebook in a percent .py, with kernel python3 and cell ids numbered from cell-00."""
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(KERNELSPEC))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return number_cells(notebook)


def number_cells(notebook: NotebookNode) -> NotebookNode:
    """Gives the cells the ids cell-00, cell-01, ... (in place), where Jupyter would draw random ones."""
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:02d}"
    return notebook


def twin_text(path: Path) -> str:
    """The text of the .ipynb twin of a percent .py: no outputs, no metadata but tags and the kernel."""
    notebook = read_notebook(path)
    for cell in notebook.cells:
        cell.metadata = NotebookNode({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
    return nbformat.writes(notebook) + "\n"


def parameters_cell(notebook: NotebookNode, name: str) -> NotebookNode:
    """The one cell tagged "parameters".

    Raises:
        NotebookError: naming the notebook `name`, when there is none or more than one.
    """
    cells = [cell for cell in notebook.cells if PARAMETERS_TAG in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise NotebookError(
            f'{name}: {len(cells)} cells are tagged "parameters": tag exactly one (# %% tags=["parameters"])'
        )
    return cells[0]


def declared_parameters(notebook: NotebookNode, name: str) -> dict[str, Any]:
    """{key: default} of the parameters cell, whose every statement is `key = literal`.

    Raises:
        NotebookError: on anything else, for a derived value would keep its old value when its source changes.
    """
    source = parameters_cell(notebook, name).source
    defaults: dict[str, Any] = {}
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise NotebookError(f"{name}, parameters cell, line {error.lineno}: {error.msg}: write key = literal") from error
    for statement in statements:
        line = source.splitlines()[statement.lineno - 1].strip()
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if len(targets) != 1 or not isinstance(targets[0], ast.Name):
            raise NotebookError(f"{name}, parameters cell: {line!r}: write key = literal, one a line, nothing else")
        try:
            value = ast.literal_eval(statement.value)
        except (TypeError, ValueError) as error:
            raise NotebookError(
                f"{name}, parameters cell: {line!r} is no literal: compute it in a later cell"
            ) from error
        if targets[0].id in defaults:
            raise NotebookError(f"{name}, parameters cell: {targets[0].id} is assigned twice: keep one")
        defaults[targets[0].id] = value
    return defaults


def scrub(notebook: NotebookNode, root: Path) -> NotebookNode:
    """Removes from an executed notebook (in place) what differs between two equal runs.

    Timestamps, injected ids, the language version, widget state (it has no kernel to talk to), addresses of
    objects and the folder `root` go; sources, texts, tables and figures stay.
    """
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(KERNELSPEC))
    for cell in notebook.cells:
        for key in _VOLATILE_CELL_METADATA:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = _merge_streams(cell.outputs)
            for output in cell.outputs:
                _scrub_output(output, str(root))
    return number_cells(notebook)


def _scrub_output(output: NotebookNode, root: str) -> None:
    def clean(text: str) -> str:
        return re.sub(r"\bat 0x[0-9a-f]+", "at 0x", text.replace(f"{root}/", "").replace(root, "."))

    if "text" in output:
        output.text = clean(output.text)
    data = output.get("data", {})
    data.pop(_WIDGET_MIME, None)
    for mime in [mime for mime in data if mime.startswith("text/")]:
        data[mime] = clean(data[mime])


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream as one output: where the pieces end depends on timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        previous = merged[-1] if merged else None
        if (
            previous is not None
            and output.output_type == previous.output_type == "stream"
            and output.name == previous.name
        ):
            previous.text += output.text
        else:
            merged.append(output)
    return merged


def update_twins(folder: Path = NOTEBOOKS, check: bool = False) -> list[Path]:
    """Writes the .ipynb twins that differ from their .py, and returns them; with `check` writes nothing."""
    stale = []
    for path in sorted(folder.glob("[0-9][0-9]_*.py")):
        text, twin = twin_text(path), path.with_suffix(".ipynb")
        if not twin.is_file() or twin.read_text(encoding="utf-8") != text:
            stale.append(twin)
            if not check:
                with atomic_write(twin) as temporary:
                    temporary.write_text(text, encoding="utf-8")
    return stale


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ss3d_lib.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only report twins that are out of date (exit 1)")
    check = parser.parse_args(arguments).check
    if not NOTEBOOKS.is_dir():
        print(f"{NOTEBOOKS}/ does not exist: run from the root of the repository, where it lies", file=sys.stderr)
        return 1
    stale = update_twins(check=check)
    for twin in stale:
        print(f"{twin} {'is out of date: run make twins' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    finish(main)
