"""The released checkpoint: the pipeline's own stages with a larger budget and more videos (notebook 13).

The stages run in a work folder that holds copies of code, notebooks and videos, and params.yaml with
some values changed. DVC decides there too what is out of date, so an interrupted run goes on where it was.
"""

import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ss3d_lib.files import atomic_write, read_json
from ss3d_lib.params import ParamsError, check_keys, check_types, load_sections
from ss3d_lib.video import find_videos

COPIED = ("ss3d_lib", "notebooks", "benchmarks", "dvc.yaml", ".dvc/config")
STAGES = ("curate", "score", "stage1", "stage2", "experts", "distill")
STUDENT = "results/distill/student.safetensors"


def larger_params(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sections of params.yaml with the values in `changes` ({stage: {key: value}}) put in their place.

    Raises:
        ParamsError: a stage or key that params.yaml does not have, or a value of another type.
    """
    sections = load_sections()
    for stage, values in changes.items():
        if stage not in STAGES:
            raise ParamsError(f"release, changes: no stage {stage!r} leads to the student: choose of {', '.join(STAGES)}")
        given_in = f"release, changes of {stage}"
        check_keys(sections[stage].keys() | values.keys(), sections[stage], given_in, "params.yaml")
        check_types(values, sections[stage], given_in)
        sections[stage] = sections[stage] | values
    return sections


def prepare(work: Path, folders: Sequence[Path], judges: Path, changes: Mapping[str, Mapping[str, Any]]) -> int:
    """Make or renew the work folder; returns the number of training videos.

    Args:
        folders: of training videos; a name that occurs twice is an error.
        judges: the validation videos that the experts stage looks at, without their truth.

    Raises:
        ParamsError: see `larger_params`.
        ValueError: two videos of one name.
    """
    sections = larger_params(changes)
    sections["curate"]["videos"], sections["experts"]["judge_videos"] = "videos", "judges"
    for name in COPIED:
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(name).is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(name, target)
    (work / "params.yaml").write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    (work / ".dvc/config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    copy_videos(work / "judges", [judges])
    return copy_videos(work / "videos", folders)


def copy_videos(target: Path, folders: Sequence[Path]) -> int:
    """Make a folder hold the videos of others, and nothing else; returns how many. ValueError: a name occurs twice.

    What is a copy of its original already is not copied again.
    """
    videos = [video for folder in folders for video in find_videos(folder)]
    names = [video.name for video in videos]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(map(str, folders))}: {twice[0]} occurs twice: rename one of the two")
    target.mkdir(parents=True, exist_ok=True)
    for old in set(target.iterdir()) - {target / name for name in names}:
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for video in videos:
        copy = target / video.name
        if not (copy.is_file() and filecmp.cmp(video, copy)):  # size and time, or else what is in them
            with atomic_write(copy) as temporary:
                shutil.copy2(video, temporary)
    return len(videos)


def reproduce(work: Path) -> None:
    """`dvc repro distill` in the work folder, its lines passed on as they come. Raises RuntimeError where it fails."""
    command = [sys.executable, "-m", "dvc", "repro", STAGES[-1]]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # stages call "python"
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=work, env=os.environ | {"PATH": path}, **pipes) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise RuntimeError(f"the stages in {work} failed, the lines above say why; what is finished there is kept")


def account(work: Path) -> dict[str, Any]:
    """What the checkpoint was made of: videos, shots, frames, steps of each training, and minutes of each stage."""
    rows = pd.read_csv(work / "results/score/scores.csv")
    kept = rows[rows.kept == 1]
    shots = pd.read_csv(work / "results/curate/shots.csv").set_index("shot")
    sections = load_sections(work / "params.yaml")
    minutes = {stage: read_json(work / "results" / stage / "timing.json")["seconds"] / 60 for stage in STAGES}
    return {
        "videos": int(rows.video.nunique()),
        "shots": len(rows),
        "shots_kept": len(kept),
        "frames_kept": int((shots.end_frame - shots.start_frame).loc[kept.shot].sum()),
        "steps": {
            "matcher": sections["stage1"]["matcher_steps"],
            "depth": sections["stage2"]["steps"],
            "each expert": sections["experts"]["steps"],
            "distillation": sections["distill"]["steps"] + sections["distill"]["self_steps"],
        },
        "minutes": {stage: round(value, 1) for stage, value in minutes.items()},
        "hours": sum(minutes.values()) / 60,
    }
