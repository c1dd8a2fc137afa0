"""What every test shares: shapes checked, one thread, the repository root as working folder."""

import os
import subprocess
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy and torch are imported: small arrays, and tests beside others
os.environ.setdefault("MPLBACKEND", "agg")

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SHAPED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "ss3d_lib").rglob("*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int may stand for a float
install_import_hook(SHAPED, CHECKER)  # the shapes in signatures are checked under pytest only

SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items):
    """The smoke run, which is as long as all the others, comes first: with two processes it has one for itself."""
    items.sort(key=lambda item: item.path.name != "test_smoke.py")


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture
def shared_data() -> Path:
    """Real videos and sequences beside the repository; the test is skipped where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data, real videos and sequences, is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    """Files of the project, relative to its root: what git tracks or would; without git, all but what is made."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True) if (ROOT / ".git").exists() else None
    if listed is not None and listed.returncode == 0:
        names = [Path(name) for name in listed.stdout.splitlines()]
    else:
        made = ("data", "results", "__pycache__", ".scratch", "cache", "tmp")
        every = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        names = [p for p in every if not any(part in made or part.startswith(".venv") for part in p.parts)]
    return [name for name in names if name.parts[0] not in ("results", "dvc_store") and (ROOT / name).is_file()]
