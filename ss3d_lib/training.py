"""One training loop for every stage: it knows nothing of the model but its loss.

Each step's random numbers depend on (seed, retries, step) alone, and the rolling checkpoint holds weights,
optimiser, history and retries; so training that was interrupted at any moment, even by kill -9, ends with the
weights of an undisturbed run. A loss that is not finite, or that explodes, sends it back to the last good state.
Several processes (accelerate) share the micro-batches of a step, and the processors: nothing here moves to a GPU.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ss3d_lib.data import Shot, generator
from ss3d_lib.files import atomic_write
from ss3d_lib.pareto import add_pareto_gradient
from ss3d_lib.progress import progress

LossFn = Callable[[torch.Generator], dict[str, Tensor]]
MAX_RETRIES = 3  # returns to the last good state before training gives up
BLOCK, SPREADS, PATIENCE = 20, 5, 10  # steps that make a level; how far above it, and how often in a row, is diverged


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train; everything that the final weights depend on."""

    steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 50
    final_rate: float = 0.02  # share of the learning rate left at the end of the cosine
    max_gradient_norm: float = 1.0
    micro_batches: int = 1  # gradients of so many batches are averaged in each step
    seed: int = 0
    save_every: int = 100  # steps between rolling checkpoints
    gradients: str = "sum"  # "sum": of "loss"; "pareto": min-norm combination of the tasks' (ss3d_lib.pareto)


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then a cosine down to final_rate."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / max(1, plan.steps)))
    return plan.learning_rate * warm * (plan.final_rate + (1 - plan.final_rate) * cosine)


def train(
    module: nn.Module,
    loss_fn: LossFn,
    plan: Plan,
    folder: str | Path,
    label: str,
    parameters: Iterable[nn.Parameter] | None = None,
    fingerprint: str = "",
    measure: Callable[[], dict[str, float]] | None = None,
) -> pd.DataFrame:
    """Minimise loss_fn(rng)["loss"] over the module's parameters.

    Args:
        loss_fn: takes the step's generator and returns scalar tensors by name, "loss" among them; with
            gradients="pareto" also the losses to be balanced, "task_0", "task_1", ...
        folder: where the rolling checkpoint lies; a checkpoint of another plan or fingerprint is ignored.
        parameters: those to train, all by default.
        fingerprint: what else the result depends on, see `fingerprint`.
        measure: called in evaluation mode every `save_every` steps; its numbers join the step's row.

    Returns:
        One row per step: every returned scalar, the learning rate and the gradient norm.

    Raises:
        FloatingPointError: when the loss is not finite, or explodes (`far_above`), although the last good state was
            restored 3 times.
        ValueError: processes that would have no micro-batch, or a rolling checkpoint that cannot be read.
    """
    accelerator = Accelerator(cpu=True)  # gloo: a GPU's NCCL could not add up the gradients, which lie on the CPU
    if plan.micro_batches % accelerator.num_processes:
        raise ValueError(
            f"{label}: {accelerator.num_processes} processes cannot share {plan.micro_batches} micro-batches evenly: "
            "set micro_batches to a multiple of the processes"
        )
    trained = list(module.parameters() if parameters is None else parameters)
    optimiser = torch.optim.AdamW(trained, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True)
    rolling = Path(folder) / "rolling.safetensors"
    identity = json.dumps([asdict(plan), fingerprint], sort_keys=True)
    history, retries = restore(rolling, module, optimiser, identity)
    save(rolling, module, optimiser, identity, history, retries, accelerator)
    module.train()
    steps = iter(progress(range(len(history), plan.steps), plan.steps - len(history), label))
    step = next(steps, None)
    while step is not None:
        row = take_step(loss_fn, plan, len(history), retries, optimiser, trained, accelerator)
        above = far_above([past["loss"] for past in [*history, row]]) if row else np.ones(PATIENCE, bool)
        if above.all():
            retries += 1
            if retries > MAX_RETRIES:
                raise FloatingPointError(
                    f"{label}: loss {'exploded' if row else 'not finite'} at step {len(history)}; "
                    f"lower learning_rate ({plan.learning_rate})"
                )
            history, _ = restore(rolling, module, optimiser, identity)
            save(rolling, module, optimiser, identity, history, retries, accelerator)
            continue
        history.append(row)
        if len(history) % plan.save_every == 0 or len(history) == plan.steps:
            if measure is not None:
                module.eval()
                row |= measure()
                module.train()
            if not above.any():  # else it may be the start of an explosion: the next one will do
                save(rolling, module, optimiser, identity, history, retries, accelerator)
        while step is not None and step < len(history):
            step = next(steps, None)
    module.eval()
    return pd.DataFrame(history)


def fingerprint(model: nn.Module, shots: Sequence[Shot], *facts) -> str:
    """What a training run depends on beside its plan, as a hash: the first weights, the shots and any settings.

    Without it a notebook that is run by hand with another setting would take an earlier run's rolling checkpoint for its own.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.contiguous().cpu().numpy().tobytes())
    for shot in shots:
        focal_px = shot.cameras.focal_px if shot.cameras else 0.0
        digest.update(f"{shot.name} {len(shot.frames)} {shot.stride} {shot.score} {focal_px!r}".encode())
        digest.update(shot.frames[0].tobytes())
    for fact in facts:
        digest.update(fact.tobytes() if isinstance(fact, np.ndarray) else repr(fact).encode())
    return digest.hexdigest()


def take_step(loss_fn, plan: Plan, step: int, retries: int, optimiser, trained, accelerator) -> dict | None:
    """One optimiser step over the micro-batches; None when loss or gradient is not finite."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(plan, step)
    optimiser.zero_grad(set_to_none=True)
    mine = range(accelerator.process_index, plan.micro_batches, accelerator.num_processes)
    means: dict[str, float] = {}
    for index in mine:
        rng = generator(plan.seed + 7919 * retries, step * plan.micro_batches + index)
        parts = loss_fn(rng)
        if plan.gradients == "pareto":
            tasks = [value for name, value in parts.items() if name.startswith("task_")]
            parts |= add_pareto_gradient(tasks, trained, 1 / plan.micro_batches)
        else:
            (parts["loss"] / plan.micro_batches).backward()
        for name, value in parts.items():
            means[name] = means.get(name, 0.0) + float(value.detach()) / plan.micro_batches
    if accelerator.num_processes > 1:
        for parameter in trained:
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, "sum")
        names = sorted(means)
        summed = accelerator.reduce(torch.tensor([means[name] for name in names]), "sum")
        means = dict(zip(names, summed.tolist()))
    norm = float(torch.nn.utils.clip_grad_norm_(trained, plan.max_gradient_norm))
    if not (math.isfinite(norm) and math.isfinite(means["loss"])):
        return None
    optimiser.step()
    return {"step": step, **means, "learning_rate": learning_rate(plan, step), "gradient_norm": norm}


def far_above(losses: list[float]) -> np.ndarray:
    """Which of the last PATIENCE losses lie far above the calmest block of steps: all of them, and training diverged.

    Far is SPREADS times a block's range, plus its largest |loss|, above its highest; the block that asks for least
    counts, so neither the first descent, nor an odd batch, nor an explosion that is slow can hide one. Noise gets there
    by single steps at most: were even one in ten so high, ten in a row would come once in 10^10 steps. An explosion that
    begins before the first block is full is never seen, nor is one in the last nine steps.
    """
    past = np.array(losses)
    blocks = past[: len(past) // BLOCK * BLOCK].reshape(-1, BLOCK)
    high, low = blocks.max(1), blocks.min(1)
    limit = (high + SPREADS * (high - low) + abs(blocks).max(1)).min(initial=np.inf)
    return past[-PATIENCE:] > limit


def save(
    path: Path, module: nn.Module, optimiser, identity: str, history: list[dict], retries: int, accelerator: Accelerator
) -> None:
    """Write the rolling checkpoint in one atomic move (rank 0 only)."""
    if not accelerator.is_main_process:
        return
    tensors = {f"model/{name}": value.contiguous() for name, value in module.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimiser/{index}/{name}"] = torch.as_tensor(value).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {"identity": identity, "history": json.dumps(history), "retries": str(retries)})


def restore(path: Path, module: nn.Module, optimiser, identity: str) -> tuple[list[dict], int]:
    """Load the rolling checkpoint if it belongs to this run; return its history (empty = from the start) and retries."""
    if not path.exists():
        return [], 0
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            if meta.get("identity") != identity:
                return [], 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}): delete it to train from the start") from error
    module.load_state_dict(
        {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return json.loads(meta["history"]), int(meta.get("retries", 0))  # older checkpoints have none
