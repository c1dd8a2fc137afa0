"""The training loop: interrupted at any moment and resumed, it ends with the weights of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ss3d_lib import training
from ss3d_lib.data import generator
from ss3d_lib.joint import Terms, joint_loss
from ss3d_lib.models import ClipNet
from ss3d_lib.training import PATIENCE, Plan, far_above, learning_rate, train

PLAN = Plan(steps=12, learning_rate=1e-2, warmup_steps=3, save_every=4, seed=3)
LONG = replace(PLAN, steps=60, learning_rate=3e-2)
NAN = float("nan")


def network() -> nn.Module:
    """Two layers and a BatchNorm, whose running statistics a resumed run must remember as well."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def squared_error(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """How far the network is from the sum of its inputs, a mean over the batch."""
    return (module(x)[:, 0] - x.sum(1)).square().mean()


def regression(module: nn.Module, stop_at: int = -1, explode_at: int = -1, factors: Mapping[int, float] | None = None):
    """A loss on random data drawn from the step's generator.

    At the given calls it stops, multiplies the weights by ten, or the loss by a factor.
    """
    calls = count()

    def loss(rng: torch.Generator) -> dict[str, torch.Tensor]:
        call = next(calls)
        if call == stop_at:
            raise KeyboardInterrupt
        if call == explode_at:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter *= 10
        value = squared_error(module, torch.randn(16, 6, generator=rng)) * (factors or {}).get(call, 1)
        return {"loss": value, "half": value.detach() / 2}

    return loss


def run(folder: Path, plan: Plan = PLAN, **how) -> tuple[dict[str, torch.Tensor], object]:
    module = network()
    history = train(module, regression(module, **how), plan, folder, "test")
    return {name: value.clone() for name, value in module.state_dict().items()}, history


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, f"not equal bit for bit: {different}"


def test_it_learns_and_reports_every_step(tmp_path):
    weights, history = run(tmp_path, LONG)
    assert len(history) == 60 and {"step", "loss", "half", "learning_rate", "gradient_norm"} <= set(history.columns)
    assert history["loss"].tail(10).mean() < 0.6 * history["loss"].head(10).mean()
    assert not any(torch.isnan(value).any() for value in weights.values())


@pytest.mark.parametrize("stop_at", [0, 3, 4, 5, 9, 11])
def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, stop_at):
    straight, whole = run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop_at=stop_at)
    resumed, history = run(tmp_path / "broken")
    assert_same(resumed, straight)
    assert history.equals(whole)


def test_a_run_interrupted_twice_ends_the_same(tmp_path):
    straight, _ = run(tmp_path / "straight")
    for stop_at in (5, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", stop_at=stop_at)
    assert_same(run(tmp_path / "broken")[0], straight)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, _ = run(tmp_path)
    again, history = run(tmp_path, stop_at=0)  # the loss would raise if it were called
    assert_same(again, first)
    assert len(history) == PLAN.steps


@pytest.mark.parametrize(
    "change", [{"learning_rate": 2e-2}, {"seed": 4}, {"steps": 13}, {"micro_batches": 2}], ids=lambda c: next(iter(c))
)
def test_a_checkpoint_of_another_plan_is_ignored(tmp_path, change):
    other = replace(PLAN, **change)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "used", stop_at=9)
    assert_same(run(tmp_path / "used", other)[0], run(tmp_path / "fresh", other)[0])


def test_a_checkpoint_of_other_data_is_ignored(tmp_path):
    results = []
    for folder, before in (("used", "shots a b"), ("fresh", None)):
        if before:
            module = network()
            train(module, regression(module), PLAN, tmp_path / folder, "test", fingerprint=before)
        module = network()
        history = train(module, regression(module), PLAN, tmp_path / folder, "test", fingerprint="shots a c")
        results.append((module.state_dict(), history))
    assert_same(results[0][0], results[1][0])


def test_a_truncated_checkpoint_is_named_with_its_remedy(tmp_path):
    run(tmp_path)
    path = tmp_path / "rolling.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"rolling\.safetensors is not a readable checkpoint .* delete it"):
        run(tmp_path)


def test_only_the_given_parameters_are_trained(tmp_path):
    module = network()
    before = {name: value.clone() for name, value in module.named_parameters()}
    train(module, regression(module), PLAN, tmp_path, "test", parameters=module[3].parameters())
    changed = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"3.weight", "3.bias"}


# --- losses that are not finite, or explode ----------------------------------------------------------------------


def saved_history(rolling: Path) -> list[dict]:
    """The steps in a rolling checkpoint, which another process may be writing (none while there is none)."""
    if not rolling.exists():
        return []
    with safe_open(rolling, framework="pt") as file:
        return json.loads(file.metadata()["history"])


def test_one_bad_batch_sends_training_back_to_the_last_good_state(tmp_path):
    weights, history = run(tmp_path, factors={6: NAN})
    assert len(history) == PLAN.steps and history["step"].tolist() == list(range(PLAN.steps))
    assert history["loss"].notna().all() and not any(torch.isnan(value).any() for value in weights.values())


def test_a_loss_that_stays_bad_gives_up_in_words(tmp_path):
    with pytest.raises(FloatingPointError, match=r"test: loss not finite at step 4.*lower learning_rate \(0.01\)"):
        run(tmp_path, factors=dict.fromkeys(range(4, 100), NAN))


def test_giving_up_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError):
        run(tmp_path, factors=dict.fromkeys(range(5, 100), NAN))
    saved = load_file(tmp_path / "rolling.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())
    _, history = run(tmp_path)
    assert history["loss"][:4].equals(run(tmp_path / "straight")[1]["loss"][:4]) and len(history) == PLAN.steps


@pytest.mark.parametrize("stop_at", [7, 8, 11, 14])  # the first step after the return, ..., the last of all
def test_an_interruption_after_a_return_changes_nothing(tmp_path, stop_at):
    """The resumed process meets no NaN of its own: that one went back already is known from the checkpoint alone."""
    straight, whole = run(tmp_path / "straight", factors={6: NAN})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", factors={6: NAN}, stop_at=stop_at)
    resumed, history = run(tmp_path / "broken")
    assert_same(resumed, straight)
    assert history.equals(whole) and not history["loss"].equals(run(tmp_path / "healthy")[1]["loss"])


def test_an_explosion_sends_training_back_to_before_it(tmp_path):
    _, healthy = run(tmp_path / "healthy", LONG)
    _, history = run(tmp_path / "exploded", LONG, explode_at=41)
    assert history["step"].tolist() == list(range(LONG.steps))
    assert history[:40].equals(healthy[:40]) and not (history["loss"][40:] == healthy["loss"][40:]).any()
    assert history["loss"].max() <= 1.5 * healthy["loss"].max()
    assert history["loss"].tail(10).mean() < 0.6 * history["loss"].head(10).mean()


def test_an_exploded_state_is_never_saved(tmp_path):
    """Steps 44 and 48 are due, but lie in the explosion, which is not yet sure; a resumed run goes the same way."""
    straight, _ = run(tmp_path / "straight", LONG, explode_at=41)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", LONG, explode_at=41, stop_at=50)
    assert len(saved_history(tmp_path / "broken/rolling.safetensors")) == 40
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", LONG, explode_at=1, stop_at=13)  # that run's step 41, and one after the return
    assert_same(run(tmp_path / "broken", LONG)[0], straight)


def test_a_learning_rate_that_diverges_gives_up_in_words(tmp_path):
    """Nothing planted: five linear layers, with a learning rate that they cannot stand and one that they can."""

    def deep(plan: Plan) -> list[float]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 8), *(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 1))
        return train(module, regression(module), plan, tmp_path, "test")["loss"].tolist()

    plan = Plan(steps=200, learning_rate=3.0, warmup_steps=100, save_every=5)
    with pytest.raises(FloatingPointError, match=r"test: loss exploded at step \d+; lower learning_rate \(3.0\)"):
        deep(plan)
    saved = [row["loss"] for row in saved_history(tmp_path / "rolling.safetensors")]
    assert saved and not far_above(saved).any()
    assert deep(replace(plan, learning_rate=0.01))[-1] < 0.01


def test_a_spike_changes_nothing(tmp_path, monkeypatch):
    watched, history = run(tmp_path / "watched", LONG, factors={39: 1e5})
    assert history["loss"].max() > 1e4
    monkeypatch.setattr(training, "far_above", lambda losses: np.zeros(PATIENCE, bool))
    assert_same(watched, run(tmp_path / "unwatched", LONG, factors={39: 1e5})[0])


STEPS = np.arange(600)
HEALTHY = {
    "falling": lambda rng: np.exp(-STEPS / 60) + 0.05 * rng.normal(size=600),
    "log likelihood": lambda rng: 5 * np.exp(-STEPS / 60) - 2 + 0.1 * rng.normal(size=600),
    "around zero": lambda rng: rng.normal(size=600),
    "heavy tails": lambda rng: rng.standard_t(1.2, size=600),
    "skewed": lambda rng: np.exp(2 * rng.normal(size=600)),
    "one shot in five is hard": lambda rng: 0.1 + 0.01 * rng.normal(size=600) + 50 * (rng.random(600) < 0.2),
    "waves": lambda rng: 1 + np.sin(STEPS / 30) + 0.15 * rng.normal(size=600),
    "one spike": lambda rng: 0.1 * rng.normal(size=600) - 1 + 1e6 * (STEPS == rng.integers(600)),
    "constant": lambda rng: np.full(600, rng.normal()),
}
EXPLODING = {  # from step 300 on
    "at once": lambda rng, since: 100 * (since > 0) + rng.normal(size=600),
    "slowly": lambda rng, since: 1.03**since * (1 + 0.1 * rng.normal(size=600)),
    "from below zero": lambda rng, since: 5 * np.exp(-STEPS / 60) - 2 + 0.05 * since + 0.1 * rng.normal(size=600),
    "after a spike": lambda rng, since: 1e6 * (STEPS == 290) + since**2 + rng.normal(size=600),
}


def diverged(losses: np.ndarray) -> list[int]:
    """The steps at which training would go back."""
    return [step for step in range(len(losses)) if far_above(losses[: step + 1].tolist()).all()]


@pytest.mark.parametrize("kind", HEALTHY)
def test_ordinary_noise_is_no_explosion(kind):
    assert not any(diverged(HEALTHY[kind](np.random.default_rng(seed))) for seed in range(10))


@pytest.mark.parametrize("kind", EXPLODING)
def test_every_explosion_is_seen(kind):
    for seed in range(10):
        first, *_ = diverged(EXPLODING[kind](np.random.default_rng(seed), np.maximum(STEPS - 300, 0)))
        assert 300 < first < 450


# --- kill -9, and several processes -----------------------------------------------------------------------------

SLOW_PLAN = replace(PLAN, save_every=2, micro_batches=2)
SCRIPT = """
import sys
sys.path.insert(0, "tests")
from test_training import train_slowly
train_slowly(sys.argv[1], sys.argv[2], float(sys.argv[3]))
"""


def toy() -> tuple[nn.Module, training.LossFn, Plan]:
    """A network without BatchNorm, whose statistics would be each process's own."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    return module, regression(module), SLOW_PLAN


def stage2() -> tuple[nn.Module, training.LossFn, Plan]:
    """What notebook 04 trains: the depth network, with all terms of stage 2 that look at one frame, on two made shots."""
    from test_distillation import made_shot

    torch.manual_seed(0)
    model, shots = ClipNet("tiny"), [made_shot(seed, along=seed == 1, frames=6) for seed in range(2)]
    loss = lambda rng: joint_loss(model, shots, np.array([0.4, 0.6]), 2, Terms(), rng)  # noqa: E731
    return model.depth_net, loss, replace(SLOW_PLAN, steps=8, learning_rate=1e-3, micro_batches=1)


def train_slowly(work: str, folder: str | Path, pause_s: float = 0.0) -> dict[str, torch.Tensor]:
    """Train one of the above with a pause in every loss, and save weights and history for each process."""
    torch.set_num_threads(1)
    module, quick, plan = {"toy": toy, "stage2": stage2}[work]()

    def loss(rng: torch.Generator) -> dict[str, torch.Tensor]:
        time.sleep(pause_s)
        return quick(rng)

    history = train(module, loss, plan, folder, "test")
    rank = os.environ.get("RANK", "0")
    history.to_csv(Path(folder) / f"history-{rank}.csv")
    save_file(module.state_dict(), Path(folder) / f"final-{rank}.safetensors")
    return module.state_dict()


def start(work: str, folder: Path, pause_s: float, processes: int = 1) -> subprocess.Popen:
    """train_slowly in processes of its own."""
    path = folder.parent / "script.py"
    path.write_text(SCRIPT)
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen([sys.executable, *launcher, str(path), work, str(folder), str(pause_s)], env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("work", ["toy", "stage2"])
def test_kill_9_loses_nothing(tmp_path, work):
    folder = tmp_path / "killed"
    child = start(work, folder, 0.2)
    while child.poll() is None and len(saved_history(folder / "rolling.safetensors")) < 2:
        time.sleep(0.05)
    assert child.poll() is None, "the run ended before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not list(folder.glob("final-*")) and len(saved_history(folder / "rolling.safetensors")) >= 2
    assert_same(train_slowly(work, folder), train_slowly(work, tmp_path / "straight"))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The folder where two processes have trained the toy."""
    folder = tmp_path_factory.mktemp("processes") / "two"
    assert start("toy", folder, 0, processes=2).wait(timeout=300) == 0
    return folder


@pytest.mark.slow
def test_two_processes_share_the_micro_batches_of_one(tmp_path, two_processes):
    """Gradients of 2 x 1 and 1 x 2 micro-batches are the same sums, but for the order of the additions."""
    straight = train_slowly("toy", tmp_path)
    for rank in (0, 1):
        ours = load_file(two_processes / f"final-{rank}.safetensors")
        for name, expected in straight.items():
            torch.testing.assert_close(ours[name], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_micro_batches_of_two_processes_count_as_one_batch_of_both(tmp_path, two_processes):
    """The loss is a mean over the batch: its curve and its gradient are those of the two batches put together."""
    module, _, plan = toy()
    micro_batch = count()

    def loss(_: torch.Generator) -> dict[str, torch.Tensor]:
        both = [torch.randn(16, 6, generator=generator(plan.seed, next(micro_batch))) for _ in range(2)]
        return {"loss": squared_error(module, torch.cat(both))}

    whole = train(module, loss, replace(plan, micro_batches=1), tmp_path, "test")[["loss", "gradient_norm"]]
    for rank in (0, 1):
        shared = pd.read_csv(two_processes / f"history-{rank}.csv")[["loss", "gradient_norm"]]
        pd.testing.assert_frame_equal(shared, whole, rtol=1e-4)


def test_processes_without_a_micro_batch_are_refused_in_words(tmp_path, monkeypatch):
    class ThreeProcesses:
        num_processes = 3

    monkeypatch.setattr("ss3d_lib.training.Accelerator", lambda **_: ThreeProcesses())
    with pytest.raises(ValueError, match="3 processes cannot share 1 micro-batches evenly"):
        run(tmp_path)


# --- the schedule -----------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_ends_at_its_final_share():
    plan = Plan(steps=1000, learning_rate=1e-3, warmup_steps=100, final_rate=0.02)
    rates = [learning_rate(plan, step) for step in range(plan.steps)]
    assert rates[0] == pytest.approx(1e-5) and max(rates) < 1e-3 and rates.index(max(rates)) in range(95, 105)
    assert rates[-1] == pytest.approx(0.02e-3, rel=1e-2) and all(a > b for a, b in zip(rates[100:], rates[101:]))
