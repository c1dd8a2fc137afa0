"""The stage graph and the code behind it: which modules of ours a notebook runs, and what the DVC files declare.

`python -m ss3d_lib.graph` writes every notebook's modules into its stage's deps; `--check` only compares.
The runner itself is no dependency: a new message in it must not retrain everything.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML, YAMLError

from ss3d_lib.commands import finish
from ss3d_lib.files import atomic_write
from ss3d_lib.notebooks import NotebookError, notebook_path

PACKAGE = "ss3d_lib"
PIPELINES = (Path("dvc.yaml"), Path("ablations/dvc.yaml"))  # the second is no part of the default `dvc repro`


def imported_names(path: Path, root: Path = Path()) -> set[str]:
    """Dotted names of what a file (relative to `root`) imports, also inside functions, relative imports resolved.

    Raises:
        NotebookError: the file is not Python.
    """
    names: set[str] = set()
    package = ".".join(path.with_suffix("").parts[:-1])
    try:
        tree = ast.parse((root / path).read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise NotebookError(f"{path}, line {error.lineno}: {error.msg}: correct it there") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def module_files(name: str, root: Path = Path()) -> Iterator[Path]:
    """The files that importing a dotted name of our package runs: each package's __init__.py, then the module."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return
    for count in range(1, len(parts) + 1):
        path = Path(*parts[:count])
        if (root / path).is_dir():
            yield path / "__init__.py"
        elif (root / path.with_suffix(".py")).is_file():
            yield path.with_suffix(".py")


def transitive_modules(path: Path, root: Path = Path()) -> set[Path]:
    """Every file of our package that running `path` (relative to `root`) imports, directly or not.

    Raises:
        FileNotFoundError: on an import of a package folder without __init__.py. NotebookError: a file is not Python.
    """
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if not (root / current).is_file():
            raise FileNotFoundError(f"{current}, which {path} needs, does not exist: add it or drop the import")
        for name in imported_names(current, root):
            new = set(module_files(name, root)) - found
            found |= new
            waiting += new
    return found - {path}


def with_modules(deps: list[str], modules: set[Path]) -> list[str]:
    """`deps` with its entries of our package replaced by `modules`, sorted, at the end."""
    others = [dep for dep in deps if not dep.startswith(f"{PACKAGE}/")]
    return others + sorted(module.as_posix() for module in modules)


def update_deps(check: bool = False) -> dict[str, list[str]]:
    """{stage: lines "+ file", "- file", "! problem"} where PIPELINES differ from the imports; mends them but for `check`.

    Raises:
        FileNotFoundError, ValueError: see `read_pipeline`.
    """
    return {stage: lines for path in PIPELINES for stage, lines in update_file(path, check).items()}


def read_pipeline(path: Path) -> dict:
    """What a DVC file holds, with its comments.

    Raises:
        FileNotFoundError: it is not there. ValueError: it is not YAML, or has no stages; the message names it and the line.
    """
    try:
        pipeline = _yaml().load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(pipeline, dict) or not isinstance(pipeline.get("stages"), dict):
        raise ValueError(f"{path} has no stages: write 'stages:' and a stage below it")
    return pipeline


def _yaml() -> YAML:
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096
    return yaml


def update_file(path: Path, check: bool) -> dict[str, list[str]]:
    """The same for one DVC file."""
    pipeline = read_pipeline(path)
    changes: dict[str, list[str]] = {}
    for stage, definition in pipeline["stages"].items():
        body = definition.get("do", definition) if isinstance(definition, dict) else {}
        deps = body.get("deps") if isinstance(body, dict) else None
        if not isinstance(deps, list):
            changes[stage] = [f"! {path} gives it no deps: name there what it reads"]
            continue
        try:
            wanted = with_modules(deps, set().union(*map(transitive_modules, notebooks_run(stage, deps))))
        except (NotebookError, FileNotFoundError) as error:
            changes[stage] = [f"! {error}"]
            continue
        if list(deps) != wanted:
            changes[stage] = [f"+ {dep}" for dep in wanted if dep not in deps]
            changes[stage] += [f"- {dep}" for dep in deps if dep not in wanted]
            _replace(deps, wanted)
    if changes and not check:
        text = io.StringIO()
        _yaml().dump(pipeline, text)
        with atomic_write(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
    return changes


def notebooks_run(stage: str, deps: list[str]) -> set[Path]:
    """The notebook of a stage, and those among its deps: the stage `release` runs others."""
    return {notebook_path(stage)} | {Path(dep) for dep in deps if dep.startswith("notebooks/") and dep.endswith(".py")}


def _replace(deps, wanted: list[str]) -> None:
    """In place, from the first entry of ours on, so that comments at the other entries stay."""
    kept = sum(not dep.startswith(f"{PACKAGE}/") for dep in deps)
    if [dep for dep in deps[:kept]] == wanted[:kept]:
        del deps[kept:]
        deps.extend(wanted[kept:])
    else:
        deps[:] = wanted


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ss3d_lib.graph", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only report what differs (exit 1)")
    check = parser.parse_args(arguments).check
    try:
        changes = update_deps(check)
    except FileNotFoundError as error:
        print(f"{error.filename or error}: run from the root of the repository, where it lies", file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    wrong = {stage for stage, lines in changes.items() if lines[0].startswith("!")}
    for stage, lines in changes.items():
        print(f"stage {stage}: {'wrong' if stage in wrong else 'run make deps' if check else 'mended'}", *lines, sep="\n  ")
    return int(bool(changes if check else wrong))


if __name__ == "__main__":
    finish(main)
