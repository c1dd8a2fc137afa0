"""The rules of the notebooks, checked on their text."""

import ast
import re
import shutil
from pathlib import Path

import jupytext
import nbformat
import pytest

from ss3d_lib.files import atomic_write
from ss3d_lib.notebooks import PARAMETERS_TAG, declared_parameters, parameters_cell, read_notebook, twin_text

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
HEADER = ("Goal", "Prerequisites", "Inputs", "Outputs", "Time and memory", "The number you should get")
MAX_CELL_LINES = 20
FIGURE = re.compile(r"\b(plt|sns|plots)\.(?!use_style)\w+|\.plot\(|\bImage\(|\bimshow\(")


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path):
    return read_notebook(path)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks_numbered_without_gaps():
    numbers = [int(path.stem[:2]) for path in NOTEBOOKS]
    assert numbers == list(range(len(numbers))) and len(numbers) >= 11


def test_header(notebook, path):
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# "), f"{path.name}: open with a header block"
    missing = [word for word in HEADER if f"**{word}" not in first.source]
    assert not missing, f"{path.name}: the header block lacks **{'**, **'.join(missing)}**"


def test_one_parameters_cell_of_literals_with_reasons(notebook, path):
    cell = parameters_cell(notebook, path.name)
    declared_parameters(notebook, path.name)
    first_code = code_cells(notebook)[0]
    assert first_code is cell, f"{path.name}: the parameters cell comes before all other code"
    for statement in ast.parse(cell.source).body:
        end = cell.source.splitlines()[statement.end_lineno - 1]
        assert re.search(r"#\s+\S", end), f"{path.name}, parameters cell: give a reason beside {end!r}"


def test_a_figure_within_the_first_five_code_cells(notebook, path):
    sources = [re.sub(r"#.*", "", cell.source) for cell in code_cells(notebook)[:5]]
    assert any(FIGURE.search(source) for source in sources), f"{path.name}: show a figure in the first five code cells"


def test_cells_are_short(notebook, path):
    for index, cell in enumerate(code_cells(notebook)):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if PARAMETERS_TAG not in cell.metadata.get("tags", []):
            assert len(lines) <= MAX_CELL_LINES, (
                f"{path.name}, code cell {index}: {len(lines)} lines; move to ss3d_lib what is not the lesson"
            )


def test_no_notebook_changes_the_working_folder(notebook, path):
    for cell in code_cells(notebook):
        assert not re.search(r"\bchdir\(|^\s*%cd\b", cell.source, re.MULTILINE), f"{path.name}: runs from the root"


def test_it_checks_before_it_works(notebook, path):
    assert any(re.search(r"^\s*assert ", cell.source, re.MULTILINE) for cell in code_cells(notebook)), (
        f"{path.name}: add a sanity check (assert)"
    )


def test_it_ends_with_a_link_to_the_next(notebook, path):
    last = notebook.cells[-1]
    links = re.findall(r"\]\([\w./-]+\)", last.source) if last.cell_type == "markdown" else []
    assert links, f"{path.name}: end with a text cell that links to the next notebook"


def test_every_link_leads_somewhere(notebook, path):
    for cell in notebook.cells:
        for link in re.findall(r"\]\(([\w./-]+\.(?:ipynb|py|md))", cell.source) if cell.cell_type == "markdown" else []:
            assert (path.parent / link).is_file(), f"{path.name}: {link} does not exist"


def test_the_twin_is_in_sync_and_has_no_outputs(path):
    twin = path.with_suffix(".ipynb")
    assert twin.is_file(), f"{twin.name} is missing: run make twins"
    assert twin.read_text(encoding="utf-8") == twin_text(path), f"{twin.name} is out of date: run make twins"
    notebook = nbformat.read(twin, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_the_kernel_is_python3(path):
    metadata = jupytext.read(path).metadata
    assert metadata.get("kernelspec", {}).get("name") == "python3", f"{path.name}: kernelspec python3 in the header"
    assert set(metadata) <= {"kernelspec", "jupytext"}, f"{path.name}: versions in the header would restage everything"


def test_every_ipynb_has_its_py():
    twins = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert [twin.stem for twin in twins] == [path.stem for path in NOTEBOOKS]


def test_a_training_run_by_hand_never_takes_the_checkpoint_of_other_settings():
    """The runner clears .scratch when an input changes; in JupyterLab only the fingerprint tells two runs apart."""
    calls = {path.stem: re.findall(r"\btrain\((?:[^()]|\([^()]*\))*\)", path.read_text()) for path in sorted(Path("notebooks").glob("*.py"))}
    assert sum(map(len, calls.values())) >= 5
    for name, found in calls.items():
        assert all("fingerprint=depends" in call for call in found), name


def test_every_figure_that_is_saved_is_shown(notebook):
    """A cell shows its last expression only: a figure that is saved above it is seen by nobody."""
    for cell in code_cells(notebook):
        body = ast.parse(cell.source).body
        saved = [node for node in body if "save_figure(" in ast.unparse(node) and "display(" not in ast.unparse(node)]
        assert all(node is body[-1] and isinstance(node, ast.Expr) for node in saved), ast.unparse(saved[0])


def test_what_a_killed_worker_left_half_written_is_not_copied(notebook, tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    (work / "shot.npz").touch()
    with pytest.raises(KeyboardInterrupt), atomic_write(work / "other.npz") as temporary:
        shutil.copy2(temporary, work / f"{temporary.stem}x.npz")  # as a kill leaves it: nobody unlinks it
        raise KeyboardInterrupt
    for cell in code_cells(notebook):
        calls = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
        for call in [call for call in calls if ast.unparse(call.func) == "shutil.copytree"]:
            call.args = [ast.Constant(str(work)), ast.Constant(str(out))]
            eval(ast.unparse(call), {"shutil": shutil})
            assert [file.name for file in out.iterdir()] == ["shot.npz"], ast.unparse(call)
            shutil.rmtree(out)
