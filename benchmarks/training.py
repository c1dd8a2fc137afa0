"""What a training step costs, as ratios measured in one run: `python -m benchmarks.training`, on a quiet machine (`make bench`).

Every round takes each row once, one after the other, with stage 2's batch, encoder and landscape shots (from results/, which
`make repro` writes); ratios are medians over rounds of the two rows' times in the same round.

- ours: a step of stage 2 as notebook 04 takes it: a batch from cached flow and sweeps, losses, gradients, optimiser.
- data: the batch of such a step alone.
- bare: our depth network alone, forward and backward, on ready tensors; bare_fp32 without bfloat16 autocast,
  bare_contiguous without channels_last.
- recipe: a step of Monodepth2 with the arithmetic that it was published with (fp32, contiguous), its batch included.
- recipe_bare: its networks alone, with the same arithmetic, on ready tensors.
- recipe_bf16: its step as notebook 12 takes it, with our arithmetic.

Seconds are of the clock, and of the processor (all threads) beside it: that one tells less of what other programs do, but
nothing of threads that wait. Writes benchmarks/training.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ss3d_lib import joint, monodepth2
from ss3d_lib.checkpoints import load_model
from ss3d_lib.commands import whole
from ss3d_lib.curriculum import ease, sampling_weights
from ss3d_lib.data import Shot, generator, load_shots
from ss3d_lib.files import write_json
from ss3d_lib.models import ClipNet
from ss3d_lib.models.triangulation import as_channels
from ss3d_lib.params import stage_values
from ss3d_lib.progress import progress
from ss3d_lib.training import LossFn, Plan, take_step
from ss3d_lib.video import WORKING_SIZES

ROUNDS = 15  # the median moves by about a hundredth between runs on a quiet machine
RATIOS = {  # name: (row, row), times of the first over times of the second
    "recipe_to_ours": ("recipe", "ours"),
    "recipe_bf16_to_ours": ("recipe_bf16", "ours"),
    "ours_to_bare": ("ours", "bare"),
    "recipe_to_recipe_bare": ("recipe", "recipe_bare"),
    "data_share": ("data", "ours"),
    "fp32_to_bf16": ("bare_fp32", "bare"),
    "contiguous_to_channels_last": ("bare_contiguous", "bare"),
}
Work = Callable[[int], object]  # one step, of the given number


_autocast = torch.autocast


def _no_autocast(*device: str, **given) -> torch.autocast:
    return _autocast(*device, **given | {"enabled": False})


@contextmanager
def arithmetic(bf16: bool = True, channels_last: bool = True) -> Iterator[None]:
    """The networks' arithmetic with one or both of the things turned off that the library always turns on."""
    with ExitStack() as off:
        if not bf16:
            off.enter_context(mock.patch.object(torch, "autocast", _no_autocast))
        if not channels_last:
            off.enter_context(mock.patch.object(torch, "channels_last", torch.contiguous_format))
        yield


def within(work: Work, **how: bool) -> Work:
    """The same work with other arithmetic."""

    def changed(step: int) -> object:
        with arithmetic(**how):
            return work(step)

    return changed


def training_step(module: nn.Module, loss: LossFn) -> Work:
    """The training loop's step, with an optimiser of its own."""
    trained, plan = list(module.train().parameters()), Plan(steps=10**6)
    optimiser, accelerator = torch.optim.AdamW(trained, fused=True), Accelerator(cpu=True)
    return lambda step: take_step(loss, plan, step, 0, optimiser, trained, accelerator)


def there_and_back(module: nn.Module, outputs: Callable[[], list[Tensor]]) -> Work:
    """Forward and backward pass of networks that need nothing else."""
    module.train()

    def work(step: int) -> None:
        module.zero_grad(set_to_none=True)
        sum(output.mean() for output in outputs()).backward()

    return work


def our_rows(model: ClipNet, shots: list[Shot], images: int, terms: joint.Terms, easy_share: float) -> dict[str, Work]:
    """Stage 2's step with all shots admitted, its batch, and its bare network in three arithmetics."""
    scores, eases = np.array([shot.score for shot in shots]), np.array([ease(shot) for shot in shots])
    weights = sampling_weights(scores, eases, 1.0, easy_share)
    with torch.no_grad():
        batch = joint.draw_batch(shots, weights, images, terms, generator(0, 0))
    bare = there_and_back(model.depth_net, lambda: list(model.depth_net(batch.frames, evidence)))
    evidence = as_channels(batch.given)
    return {
        "ours": training_step(model.depth_net, lambda rng: joint.joint_loss(model, shots, weights, images, terms, rng)),
        "data": lambda step: joint.draw_batch(shots, weights, images, terms, generator(0, step)),
        "bare": bare,
        "bare_fp32": within(bare, bf16=False),
        "bare_contiguous": within(bare, channels_last=False),
    }


def recipe_rows(shots: list[Shot], images: int) -> dict[str, Work]:
    """Monodepth2's step and its bare networks, as published, and its step with our arithmetic."""
    shots, model = monodepth2.long_enough(shots), monodepth2.MonoDepth2()
    before, target, after = monodepth2.draw_triplets(shots, images, generator(0, 0)).seen.unbind(1)
    pairs = (before, target), (target, after)

    def outputs() -> list[Tensor]:
        return [*model.depth_net(target), *(part for pair in pairs for part in model.motion_net(*pair))]

    step = training_step(
        model, lambda rng: monodepth2.photometric_loss(model, monodepth2.draw_triplets(shots, images, rng))
    )
    published = {"bf16": False, "channels_last": False}
    return {
        "recipe": within(step, **published),
        "recipe_bare": within(there_and_back(model, outputs), **published),
        "recipe_bf16": step,
    }


def seconds(rows: dict[str, Work], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of the clock and of the processor (rounds, 2) of every row; a round before them warms up."""
    spent: dict[str, list] = {name: [] for name in rows}
    for step in progress(range(rounds + 1), label="rounds"):
        for name, work in rows.items():
            start = time.perf_counter(), time.process_time()
            work(step)
            spent[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: np.array(values[1:]) for name, values in spent.items()}


def summary(spent: dict[str, np.ndarray], images: int) -> dict[str, dict]:
    """Images a second, and ratios: of the clock, and of the processor."""
    found = {}
    for column, kind in enumerate(("clock", "processor")):
        of = {name: values[:, column] for name, values in spent.items()}
        found[kind] = {
            "images_per_s": {name: images / float(np.median(values)) for name, values in of.items()},
            **{name: float(np.median(of[above] / of[below])) for name, (above, below) in RATIOS.items()},
        }
    return found


def stage2_shots() -> list[Shot]:
    """The landscape shots with all that notebook 04 caches."""
    try:
        shots = load_shots("results/curate", "results/score", "results/stage1/cameras", "results/stage2/stereo")
    except FileNotFoundError as error:
        raise SystemExit(f"{error}\n(`make repro` makes all that this benchmark reads)") from error
    return [shot for shot in shots if shot.size == WORKING_SIZES["landscape"]]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--rounds", type=whole(1), default=ROUNDS)
    parser.add_argument("--threads", type=whole(1), default=0, help="of torch (default: those of params.yaml)")
    options = parser.parse_args()
    stage2 = stage_values("stage2")
    threads = options.threads or stage2["threads"]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shots, images = stage2_shots(), stage2["images"]
    terms = joint.Terms(**{name: stage2[name] for name in joint.Terms.__dataclass_fields__})
    model = load_model("results/stage1/model.safetensors")
    rows = our_rows(model, shots, images, terms, stage2["easy_share"]) | recipe_rows(shots, images)
    found = summary(seconds(rows, options.rounds), images)
    about = {"images": images, "threads": threads, "rounds": options.rounds, "size": list(shots[0].size)}
    about |= {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    write_json(options.out, about | found, digits=4)
    for kind, values in found.items():
        print(f"{kind}: images/s", *(f"{name} {rate:.1f}" for name, rate in values["images_per_s"].items()))
        print(f"{kind}: ratios", *(f"{name} {values[name]:.2f}" for name in RATIOS))


if __name__ == "__main__":
    main()
