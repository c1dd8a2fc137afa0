"""The training loop: interrupted at any moment and resumed, it ends with the weights of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ss3d_lib.training import Plan, learning_rate, train

PLAN = Plan(steps=12, learning_rate=1e-2, warmup_steps=3, save_every=4, seed=3)


def network() -> nn.Module:
    """Two layers and a BatchNorm, whose running statistics a resumed run must remember as well."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def regression(module: nn.Module, stop_at: int | None = None, poison: set[int] | None = None):
    """A loss on random data drawn from the step's generator; it can stop, or turn NaN, at the given calls."""
    calls = iter(range(10**6))

    def loss(rng: torch.Generator) -> dict[str, torch.Tensor]:
        call = next(calls)
        if call == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 6, generator=rng)
        value = (module(x)[:, 0] - x.sum(1)).square().mean()
        if poison and call in poison:
            value = value * float("nan")
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
    weights, history = run(tmp_path, replace(PLAN, steps=60, learning_rate=3e-2))
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


# --- numbers that are not finite --------------------------------------------------------------------------------


def test_one_bad_batch_sends_training_back_to_the_last_good_state(tmp_path):
    weights, history = run(tmp_path, poison={6})
    assert len(history) == PLAN.steps and history["step"].tolist() == list(range(PLAN.steps))
    assert history["loss"].notna().all() and not any(torch.isnan(value).any() for value in weights.values())


def test_a_loss_that_stays_bad_gives_up_in_words(tmp_path):
    with pytest.raises(FloatingPointError, match=r"test: loss not finite at step 4.*lower learning_rate \(0.01\)"):
        run(tmp_path, poison=set(range(4, 100)))


def test_giving_up_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError):
        run(tmp_path, poison=set(range(5, 100)))
    saved = load_file(tmp_path / "rolling.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())
    assert_same(run(tmp_path)[0], run(tmp_path / "straight")[0])


# --- kill -9, and several processes -----------------------------------------------------------------------------

SLOW_PLAN = replace(PLAN, save_every=2, micro_batches=2)
SCRIPT = """
import sys
sys.path.insert(0, "tests")
from test_training import train_slowly
train_slowly(sys.argv[1], float(sys.argv[2]))
"""


def train_slowly(folder: str, pause_s: float) -> None:
    """Train a network without BatchNorm, with a pause in every loss, and save its weights for each process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    quick = regression(module)

    def loss(rng: torch.Generator) -> dict[str, torch.Tensor]:
        time.sleep(pause_s)
        return quick(rng)

    train(module, loss, SLOW_PLAN, folder, "test")
    save_file(module.state_dict(), Path(folder) / f"final-{os.environ.get('RANK', '0')}.safetensors")


def start(folder: Path, pause_s: float, processes: int = 1) -> subprocess.Popen:
    """train_slowly in processes of its own, launched as on several GPUs."""
    path = folder.parent / "script.py"
    path.write_text(SCRIPT)
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd()), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, *launcher, str(path), str(folder), str(pause_s)], env=environment)


def saved_steps(rolling: Path) -> int:
    """Steps in a rolling checkpoint that another process writes (0 while there is none)."""
    if not rolling.exists():
        return 0
    with safe_open(rolling, framework="pt") as file:
        return len(json.loads(file.metadata()["history"]))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights of one process that nobody interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train_slowly(str(folder), 0)
    return load_file(folder / "final-0.safetensors")


@pytest.mark.slow
def test_kill_9_loses_nothing(tmp_path, undisturbed):
    folder = tmp_path / "killed"
    child = start(folder, 0.2)
    while child.poll() is None and saved_steps(folder / "rolling.safetensors") < 2:
        time.sleep(0.05)
    assert child.poll() is None, "the run ended before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (folder / "final-0.safetensors").exists() and saved_steps(folder / "rolling.safetensors") < 12
    train_slowly(str(folder), 0)
    assert_same(load_file(folder / "final-0.safetensors"), undisturbed)


@pytest.mark.slow
def test_two_processes_share_the_micro_batches_of_one(tmp_path, undisturbed):
    """Gradients of 2 x 1 and 1 x 2 micro-batches are the same sums, but for the order of the additions."""
    folder = tmp_path / "two"
    assert start(folder, 0, processes=2).wait(timeout=300) == 0
    for rank in (0, 1):
        ours = load_file(folder / f"final-{rank}.safetensors")
        for name, expected in undisturbed.items():
            torch.testing.assert_close(ours[name], expected, atol=1e-6, rtol=1e-6)


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
