"""Fetches what git does not hold, the corpus and the outputs of frozen stages, from the DVC store in this repository.

`python -m ss3d_lib.store` is `dvc pull`, with a message that helps when the store is not there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from ss3d_lib.commands import finish

DVC = (sys.executable, "-m", "dvc")  # of this environment, whether or not it is on the PATH
STORE = Path("dvc_store")
REMEDY = f"""
The corpus and what frozen stages wrote could not be put in place from {STORE}/, {{state}}.
  "unsaved files": move those that DVC names out of data/ or results/ (its --force would delete them)
  restore it:     git checkout -- {STORE} data.dvc
  or render it:   pip install --group render in an environment of its own (Python 3.11 or 3.13), then python -m corpus --out data
  or use yours:   set curate.videos and, to other videos, experts.judge_videos in params.yaml, then dvc repro distill"""


def store_state(store: Path = STORE) -> str:
    """What is wrong with the store, as the end of a sentence."""
    if not store.is_dir():
        return "which is missing"
    count = sum(path.is_file() for path in store.rglob("*"))
    return f"which holds {count} files" if count else "which is empty"


def pull() -> int:
    """Runs `dvc pull`; returns its exit status, after printing the remedy if it failed."""
    if not Path("data.dvc").exists():
        print("data.dvc is missing: run from the root of the repository, or restore it with git checkout -- data.dvc", file=sys.stderr)
        return 1
    if not Path(".git").exists():  # an unpacked archive: DVC wants to be told that there is no git
        subprocess.run([*DVC, "config", "--local", "core.no_scm", "true"])
    status = subprocess.run([*DVC, "pull"]).returncode
    if status != 0:
        print(REMEDY.format(state=store_state()), file=sys.stderr)
        return status
    return make_writable(Path("results"))


def make_writable(results: Path) -> int:
    """Gives files that are links into DVC's cache bytes of their own: whoever runs their notebook by hand writes over them."""
    linked = [folder for folder in results.glob("*") if any(not path.stat().st_mode & 0o200 for path in folder.rglob("*"))]
    return subprocess.run([*DVC, "unprotect", *map(str, linked)]).returncode if linked else 0


def main() -> int:
    """The command line; returns the exit status."""
    argparse.ArgumentParser(prog="python -m ss3d_lib.store", description=__doc__.splitlines()[0]).parse_args()
    return pull()


if __name__ == "__main__":
    finish(main)
