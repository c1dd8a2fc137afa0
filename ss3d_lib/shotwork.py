"""One file per kept shot, made by several processes: what is finished is kept, so that a stopped run goes on."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch

from ss3d_lib.data import load_shot
from ss3d_lib.files import atomic_write
from ss3d_lib.jobs import run_jobs
from ss3d_lib.progress import progress


def write_per_shot(write: Callable, arguments: tuple, curate: str, score: str, out: str, workers: int, label: str) -> dict[str, str]:
    """Call write(shot, path, *arguments) for OUT/SHOT.npz of every shot that the score kept; returns the errors by shot.

    Args:
        write: a function of a module, for it is sent to other processes.
    """
    rows = pd.read_csv(Path(score) / "scores.csv", keep_default_na=False)
    rows = rows[rows.kept == 1].to_dict("records")
    Path(out).mkdir(parents=True, exist_ok=True)
    jobs = [(row["shot"], row, curate, score, out, write, arguments) for row in rows]
    done = progress(run_jobs(_write_one, jobs, workers), len(jobs), label)
    return {job[0]: error for job, _, error in done if error}


def _write_one(name: str, row: dict, curate: str, score: str, out: str, write: Callable, arguments: tuple) -> None:
    path = Path(out) / f"{name}.npz"
    if path.exists():
        return
    torch.set_num_threads(1)  # one shot per process keeps the cores busier than one shot on all of them
    shot = load_shot(SimpleNamespace(**row), Path(curate), Path(score))
    with atomic_write(path) as temporary:
        write(shot, temporary, *arguments)
