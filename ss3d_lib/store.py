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
The corpus could not be fetched from {STORE}/, {{state}}.
  restore it:     git checkout -- {STORE} data.dvc
  or render it:   pip install --group render in an environment of its own (Python 3.11 or 3.13), then python -m corpus --out data
  or use yours:   set curate.videos and, to other videos, experts.judge_videos in params.yaml, then dvc repro distill"""


def store_state(store: Path = STORE) -> str:
    """What is wrong with the store, as the end of a sentence."""
    if not store.is_dir():
        return "which is missing"
    count = sum(path.is_file() for path in store.rglob("*"))
    return f"which holds {count} files but not all that are pinned" if count else "which is empty"


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


def main() -> int:
    """The command line; returns the exit status."""
    argparse.ArgumentParser(prog="python -m ss3d_lib.store", description=__doc__.splitlines()[0]).parse_args()
    return pull()


if __name__ == "__main__":
    finish(main)
