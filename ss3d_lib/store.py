"""Fetches what git does not hold, the corpus and the outputs of frozen stages, from the DVC store in this repository.

`python -m ss3d_lib.store` is `dvc pull`, with a message that helps when the store is not there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STORE = Path("dvc_store")
REMEDY = f"""
The corpus could not be fetched from {STORE}/, {{state}}.
  restore it:     git checkout -- {STORE} data.dvc
  or render it:   pip install '.[render]' in an environment of its own, then python -m corpus --out data
  or use yours:   set curate.videos in params.yaml to a folder of videos, then dvc repro distill"""


def store_state(store: Path = STORE) -> str:
    """What is wrong with the store, as the end of a sentence."""
    if not store.is_dir():
        return "which is missing"
    count = sum(path.is_file() for path in store.rglob("*"))
    return f"which holds {count} files but not all that are pinned" if count else "which is empty"


def pull() -> int:
    """Runs `dvc pull`; returns its exit status, after printing the remedy if it failed."""
    if not Path(".git").exists():  # an unpacked archive: DVC wants to be told that there is no git
        subprocess.run(["dvc", "config", "--local", "core.no_scm", "true"], check=True)
    if not Path("data.dvc").exists():
        print("data.dvc is missing: restore it with git checkout -- data.dvc", file=sys.stderr)
        return 1
    status = subprocess.run(["dvc", "pull"]).returncode
    if status != 0:
        print(REMEDY.format(state=store_state()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(pull())
