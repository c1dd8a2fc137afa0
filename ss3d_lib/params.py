"""Parameters: params.yaml -> one frozen dataclass per stage, with errors that say what to change.

`params.yaml` has a section `base`, which every stage gets, and one section per stage. The cell tagged
"parameters" of a stage's notebook declares the same names; `run_notebook` compares the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

PARAMS_FILE = Path("params.yaml")
BASE = "base"


class ParamsError(ValueError):
    """A parameter that is unknown, missing or of the wrong type; the message names file, section and key."""


def load_sections(path: str | Path = PARAMS_FILE) -> dict[str, dict[str, Any]]:
    """All sections of a params file, {section: {key: value}}.

    Raises:
        ParamsError: no such file, not YAML, no `base` section, or a section that is not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ParamsError(f"{path} does not exist: run from the root of the repository, where it lies")
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from error
    if not isinstance(sections, dict) or BASE not in sections:
        raise ParamsError(f"{path}: no section {BASE!r}: put the keys that every stage gets (seed, threads) there")
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ParamsError(f"{path}: section {name!r} holds {section!r}: write 'key: value' lines under it")
    return sections


def stage_values(stage: str, path: str | Path = PARAMS_FILE) -> dict[str, Any]:
    """The values of one stage: those of `base`, then those of its own section.

    Raises:
        ParamsError: no such section, or a key that stands both in `base` and in the section.
    """
    sections = load_sections(path)
    if stage not in sections or stage == BASE:
        known = ", ".join(name for name in sections if name != BASE)
        raise ParamsError(f"{path}: no section {stage!r}: add one, or choose one of: {known}")
    twice = sorted(sections[BASE].keys() & sections[stage].keys())
    if twice:
        raise ParamsError(f"{path}: {', '.join(twice)} in both {BASE!r} and {stage!r}: keep one of the two")
    return sections[BASE] | sections[stage]


def stage_params(stage: str, path: str | Path = PARAMS_FILE) -> Any:
    """A frozen dataclass named after the stage, with one typed field per key of `base` and of its section.

    >>> stage_params("score").seed
    0
    """
    values = stage_values(stage, path)
    fields = [(key, type(value)) for key, value in values.items()]
    name = "".join(word.title() for word in stage.split("_")) + "Params"
    return dataclasses.make_dataclass(name, fields, frozen=True)(**values)


def check_keys(given: Collection[str], declared: Collection[str], given_in: str, declared_in: str) -> None:
    """Checks that two places name the same parameters.

    Args:
        given: the keys with values, from `given_in`, e.g. "params.yaml, sections base + score".
        declared: the keys expected, from `declared_in`, e.g. "the parameters cell of notebooks/02_score.py".

    Raises:
        ParamsError: naming every unknown and every missing key, with the remedy for each.
    """
    unknown = sorted(set(given) - set(declared))
    missing = sorted(set(declared) - set(given))
    problems = []
    if unknown:
        problems.append(
            f"{given_in}: unknown {_names(unknown)}: remove, correct the spelling, or declare in {declared_in}"
        )
    if missing:
        problems.append(f"{given_in}: missing {_names(missing)}: add, since {declared_in} declares it")
    if problems:
        raise ParamsError("\n".join(problems))


def check_types(values: Mapping[str, Any], defaults: Mapping[str, Any], given_in: str) -> None:
    """Checks every value against the type of the default in the parameters cell.

    An int may stand for a float; None, as a value or as a default, goes with anything.

    Raises:
        ParamsError: naming file, key, value and the type wanted.
    """
    for key, value in values.items():
        default = defaults[key]
        if value is None or default is None:
            continue
        accepted = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, accepted) or isinstance(value, bool) != isinstance(default, bool):
            hint = (
                " (YAML reads 1e-4 as text: write 1.0e-4)"
                if isinstance(value, str) and isinstance(default, float)
                else ""
            )
            raise ParamsError(
                f"{given_in}: {key} is {value!r} ({type(value).__name__}) where the notebook has "
                f"{default!r}: give a {type(default).__name__}{hint}"
            )


def parse_overrides(pairs: Collection[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value} of command line arguments `key=value`, the values read as YAML, but as they stand where text is wanted.

    Raises:
        ParamsError: on an argument without "=", a key given twice, or a value that is not YAML.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.isidentifier():
            raise ParamsError(f"-p {pair}: write key=value, e.g. -p seed=1")
        if key in values:
            raise ParamsError(f"-p {pair}: {key} is given twice: keep one")
        try:
            values[key] = text if isinstance(defaults.get(key), str) else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ParamsError(f"-p {pair}: {text!r} is not YAML: {' '.join(str(error).split())}") from error
    return values


def _names(keys: list[str]) -> str:
    return f"key{'s' if len(keys) > 1 else ''} {', '.join(map(repr, keys))}"
