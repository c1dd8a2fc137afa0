"""What adaptation to one real video is worth: `python -m benchmarks.adaptation`, about 20 minutes of one core.

The depth network is fine-tuned as in notebook 08, with its settings, on the first half of a real sequence (redkitchen of
7-Scenes, frames 0 to 199; no label is read), and judged on the second half (200 to 399) with ground truth: AbsRel after
scaling each image by its median, by the protocol of notebook 07. Nothing is chosen by what the judge says. The starts:

- student: the checkpoint that `make repro` ends with; released: the checkpoint that is shipped.
- student_labels, released_labels: the same, trained with the true depth of the first half (ss3d_lib.labels, notebook 16): how
  much there is to gain for this network.
- scratch: a depth network that has seen nothing else. Matches and focal length are the student's, in its favour: with
  untrained ones they, and not the depth network, would be judged.

A network that has learnt nothing returns the depth that the clip triangulates (ss3d_lib.models.depth), so scratch does
not start from nothing: its step 0 is what geometry alone says.

- improvement_over_zero_shot: 1 - last over first AbsRel, of the means over seeds. best_improvement: the same for the best
  step in hindsight, which no one without labels can choose: what a better stopping rule could give at most.
- steps_to_scratch: the first measured step at which a start's mean is at or below scratch's last (null: never);
  share_of_scratch_steps: the same over the steps of scratch. steps_to_best_scratch: against scratch's best mean, in hindsight.

Writes benchmarks/adaptation.json.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ss3d_lib import finetuning, labels
from ss3d_lib.checkpoints import load_model
from ss3d_lib.commands import whole
from ss3d_lib.datasets import DatasetError, EvalClip, load_sequence
from ss3d_lib.files import write_json
from ss3d_lib.joint import Terms
from ss3d_lib.models import ClipNet
from ss3d_lib.params import stage_values
from ss3d_lib.predict import predict_frames
from ss3d_lib.protocol import choose_stride, evaluate_clip
from ss3d_lib.training import Plan

SEQUENCE = Path("../shared/data/sequences/redkitchen")
CHECKPOINTS = {"student": "results/distill/student.safetensors", "released": "results/release/student.safetensors"}
LABELS = "_labels"  # ends the name of a start that is trained with the truth
STEPS, POINTS = 150, 5  # on validation videos 180 were worse than 90; a fifth of the steps between two points of a curve
METRIC = "absrel_median"


def judge_of(clip: EvalClip) -> Callable[[ClipNet], float]:
    """Mean AbsRel of a network on a clip, at the clip's own stride."""
    stride = choose_stride(clip)
    return lambda model: float(np.mean(evaluate_clip(clip, lambda frames: predict_frames(model, frames), stride).values[METRIC]))


def starts_of(seed: int) -> dict[str, ClipNet]:
    """The networks to adapt; only scratch depends on the seed."""
    starts = {name: load_model(path) for name, path in CHECKPOINTS.items()}
    torch.manual_seed(seed)
    scratch = copy.deepcopy(starts["student"])
    scratch.depth_net = ClipNet(scratch.size).depth_net
    return {f"{name}{LABELS}": model for name, model in starts.items()} | starts | {"scratch": scratch.eval()}


def curves_of(early: labels.LabelledShot, judge: Callable[[ClipNet], float], steps: int, seeds: int) -> pd.DataFrame:
    """The learning curves of all starts and seeds: start, seed, step, error."""
    settings = stage_values("finetune")
    terms = Terms(**{name: settings[name] for name in Terms.__dataclass_fields__ if name in settings})
    without = finetuning.without_labels([early.shot], settings["images"], terms)
    taught = labels.with_labels([early], settings["images"], terms)
    curves = []
    for seed in range(seeds):
        for name, model in starts_of(seed).items():
            rate = settings["scratch_rate" if name == "scratch" else "learning_rate"]
            plan = Plan(steps, rate, warmup_steps=max(1, steps // 10), seed=seed, save_every=max(1, steps // POINTS))
            objective = taught if name.endswith(LABELS) else without
            with tempfile.TemporaryDirectory() as folder:
                label = f"{name}, seed {seed}"
                _, curve = finetuning.adapt(model, objective, judge, plan, Path(folder), label, pretrained=name != "scratch")
            curves.append(curve.assign(start=name, seed=seed))
            print(f"{label}:", *(f"{error:.4f}" for error in curve.error), flush=True)
    return pd.concat(curves, ignore_index=True)


def summary(curves: pd.DataFrame) -> dict[str, dict]:
    """Of every start: its curve (step, mean and standard deviation over seeds), and what is derived from it."""
    steps = int(curves.step.max())
    means = curves.groupby(["start", "step"]).error.agg(["mean", lambda errors: errors.std(ddof=0)])
    means.columns = ["error", "spread"]
    of = {start: means.loc[start].reset_index() for start in curves.start.unique()}
    scratch, found = of["scratch"].error, {}
    for start, curve in of.items():
        first = curve.error.iloc[0]
        found[start] = {
            "steps": curve.step.tolist(),
            METRIC: curve.error.tolist(),
            "spread": curve.spread.tolist(),
            "improvement_over_zero_shot": 1 - curve.error.iloc[-1] / first,
            "best_improvement": 1 - curve.error.min() / first,
        }
        reached = finetuning.steps_to_reach(curve, scratch.iloc[-1])  # nan is null in JSON
        found[start] |= {"steps_to_scratch": reached, "share_of_scratch_steps": reached / steps}
        found[start]["steps_to_best_scratch"] = finetuning.steps_to_reach(curve, scratch.min())
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptation", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--sequence", type=Path, default=SEQUENCE, help="default: %(default)s; layout: ss3d_lib.datasets")
    parser.add_argument("--steps", type=whole(1), default=STEPS, help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=whole(1), default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=whole(1), default=0, help="of torch (default: those of params.yaml)")
    options = parser.parse_args(arguments)
    settings = stage_values("finetune")
    threads = options.threads or settings["threads"]
    torch.set_num_threads(threads)
    try:
        clip = load_sequence(options.sequence)
        (first,), (second,) = labels.split([clip], 0.5)
        early = labels.label_clip(first, settings["min_score"])
        starts_of(0)
    except (DatasetError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = summary(curves_of(early, judge_of(second), options.steps, options.seeds))
    about = {"sequence": clip.name, "frames": len(first.frames), "stride": early.shot.stride, "images": settings["images"]}
    about |= {"seeds": options.seeds, "threads": threads, "torch": torch.__version__}
    write_json(options.out, about | found, digits=4)
    for name, values in found.items():
        first, last = values[METRIC][0], values[METRIC][-1]
        gain, steps = values["improvement_over_zero_shot"], values["steps_to_scratch"]
        print(f"{name}: AbsRel {first:.4f} to {last:.4f}, improvement {gain:.1%}; scratch's last reached at step {steps:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
