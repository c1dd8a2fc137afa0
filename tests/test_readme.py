"""The README keeps its promises: links, commands, notebooks and stages that it names exist."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from ss3d_lib.graph import PIPELINES

TEXT = Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else ""
FROM_THE_STORE = "data/"  # it comes with make data


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        if "://" not in link and not link.startswith(FROM_THE_STORE):
            assert Path(link).is_file(), f"README.md: {link} does not exist"


def test_every_notebook_is_in_the_map_with_its_stage():
    stages = {name for path in PIPELINES for name in yaml.safe_load(path.read_text())["stages"]}
    rows = dict(re.findall(r"^\| \[[^]]+\]\(notebooks/(\w+)\.ipynb\) \|.*\| (?:`(\w+)`)? ?\|$", TEXT, re.MULTILINE))
    assert set(rows) == {path.stem for path in Path("notebooks").glob("*.py")}
    assert {stage for stage in rows.values() if stage} == stages


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (ss3d_lib\.\w+)", TEXT))))
def test_modules_to_run_exist(module):
    spec = importlib.util.find_spec(module)
    assert spec is not None and 'if __name__ == "__main__":' in Path(spec.origin).read_text(encoding="utf-8")


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", Path("Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)`", TEXT)) <= targets


def test_options_that_it_names_are_parameters():
    params = yaml.safe_load(Path("params.yaml").read_text())
    assert "videos" in params["curate"] and "video" in params["your_video"]
    assert set(re.findall(r"run_notebook (\w+)", TEXT)) <= set(params)
