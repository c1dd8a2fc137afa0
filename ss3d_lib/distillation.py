"""Several experts into one student, and then the student into itself (notebook 06).

Both phases are the same asymmetry of context: the teacher sees the evidence of all frame pairs, the student a
degraded part of it or none, and is pulled towards what the teacher says.
"""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ss3d_lib.checkpoints import load_model
from ss3d_lib.data import Shot, load_shots
from ss3d_lib.experts import Clusters, load_clusters
from ss3d_lib.joint import DepthBatch, Terms, draw_batch, prediction_terms
from ss3d_lib.losses import LOG_CLAMP
from ss3d_lib.models import ClipNet
from ss3d_lib.models.triangulation import as_channels
from ss3d_lib.training import Plan, fingerprint, train
from ss3d_lib.twoview import weighted_median


@dataclass(frozen=True)
class Recipe(Terms):
    """Both phases: the terms of stage 2, and what else the section `distill` of params.yaml says."""

    clusters: int = 4
    images: int = 24
    distillation: float = 2.0
    gradients: str = "pareto"
    steps: int = 120
    learning_rate: float = 4e-4
    self_steps: int = 60
    self_images: int = 12
    self_weight: float = 1.0
    self_single_image: float = 0.5
    momentum: float = 0.95
    gate: float = 2.0

    @property
    def terms(self) -> Terms:
        """Those of stage 2 alone."""
        return Terms(*(getattr(self, field.name) for field in dataclasses.fields(Terms)))


@dataclass(frozen=True)
class School:
    """The student as stage 2 left it, its teachers (a depth network per cluster), and the shots with their clusters.

    The judges are among the shots; they have no weight in any sampler.
    """

    student: ClipNet
    teachers: list[nn.Module]
    shots: list[Shot]
    clusters: Clusters

    @property
    def sampling(self) -> list[np.ndarray]:
        """Sampler weights over the shots, of each cluster."""
        return [self.clusters.sampling(self.shots, k) for k in range(self.clusters.count)]

    def trust(self, power: float) -> np.ndarray:
        """Sampler weights score^power: a mean of one's own opinions is only worth hearing where there is a signal."""
        return np.array([shot.score for shot in self.shots]) ** power * ~self.clusters.judge


def load_school(results: Path) -> School:
    """What the stages wrote below `results`."""
    judges = results / "experts/judges"
    shots = load_shots(results / "curate", results / "score", results / "stage1/cameras", results / "stage2/stereo")
    shots += load_shots(judges, judges, judges / "cameras", judges / "stereo")
    clusters = load_clusters(results / "experts/clusters.csv", shots)
    weights = results / "experts/weights"
    teachers = [load_model(weights / f"expert_{k}.safetensors").depth_net for k in range(clusters.count)]
    return School(load_model(results / "stage2/model.safetensors"), teachers, shots, clusters)


def learn_from_experts(
    student: ClipNet, teachers: Sequence[nn.Module], shots: list[Shot], sampling: Sequence[np.ndarray], recipe: Recipe,
    seed: int, folder: Path,
) -> pd.DataFrame:
    """Phase 1: train the student's depth network on batches of several clusters, each with its own teacher; the history.

    Args:
        teachers, sampling: as in `cluster_tasks`. folder: where the rolling checkpoint lies.
    """
    plan = _plan(recipe.steps, recipe.learning_rate, seed, recipe.gradients)
    net, settings = student.depth_net, (recipe.clusters, recipe.images, recipe.terms, recipe.distillation)
    loss = lambda rng: cluster_tasks(net, teachers, shots, sampling, *settings, rng)  # noqa: E731
    depends = fingerprint(student, shots, *sampling, *settings) + "".join(fingerprint(teacher, []) for teacher in teachers)
    return train(net, loss, plan, folder, "distilling the experts", fingerprint=depends)


def learn_from_itself(student: ClipNet, shots: list[Shot], trust: np.ndarray, recipe: Recipe, seed: int, folder: Path) -> pd.DataFrame:
    """Phase 2: the student's depth network follows its running mean, which takes its place in the end; the history.

    Args:
        trust: sampler weights over the shots.
    """
    plan = _plan(recipe.self_steps, recipe.learning_rate / 2, seed + 1)
    pair = SelfDistiller(student.depth_net, recipe.momentum)
    sparse = dataclasses.replace(recipe.terms, single_image=recipe.self_single_image)
    settings = shots, trust, recipe.self_images, sparse, recipe.self_weight
    history = train(
        pair, lambda rng: pair.loss(*settings, rng), plan, folder, "self-distillation",
        parameters=pair.student.parameters(), fingerprint=fingerprint(student, *settings, recipe.momentum),
    )  # fmt: skip
    student.depth_net = pair.teacher.requires_grad_(True)  # the running mean is the steadier of the two
    return history


def _plan(steps: int, learning_rate: float, seed: int, gradients: str = "sum") -> Plan:
    return Plan(steps, learning_rate=learning_rate, warmup_steps=max(1, steps // 10), seed=seed, gradients=gradients)


def distillation_loss(
    log_inverse: Float[Tensor, "B h w"], teacher: Float[Tensor, "B h w"], teacher_log_std: Float[Tensor, "B h w"]
) -> Tensor:
    """Mean |log ratio| of the student's and the teacher's depth, after its weighted median is taken away.

    Pixels weigh by the inverse of the teacher's own standard error, the precision of its Laplace likelihood.
    """
    weight = (-teacher_log_std).exp()
    gap = teacher - log_inverse
    median = weighted_median(gap.detach().flatten(1), weight.flatten(1))
    error = (gap - median[:, None, None]).abs().clamp(max=LOG_CLAMP)
    return (error * weight).sum() / weight.sum()


def asymmetric_terms(student: nn.Module, teacher: nn.Module, batch: DepthBatch, terms: Terms, weight: float) -> dict[str, Tensor]:
    """All terms of stage 2 for a student that sees batch.given, and the pull of a teacher that sees batch.target.

    Args:
        student, teacher: depth networks; the teacher is in evaluation mode and gets no gradient.
        weight: of the distillation term.
    """
    log_inverse, log_std = student(batch.frames, as_channels(batch.given))
    with torch.no_grad():
        taught, taught_log_std = teacher(batch.frames, as_channels(batch.target))
    parts = prediction_terms(log_inverse, log_std, batch, terms)
    parts["distillation"] = distillation_loss(log_inverse, taught, taught_log_std)
    parts["loss"] = parts["loss"] + weight * parts["distillation"]
    return parts


def cluster_tasks(
    student: nn.Module, experts: Sequence[nn.Module], shots: list[Shot], sampling: Sequence[np.ndarray],
    clusters: int, images: int, terms: Terms, weight: float, rng: torch.Generator,
) -> dict[str, Tensor]:
    """The losses of a few random clusters as tasks "task_0", ..., and the means of all terms over them.

    Args:
        experts: one depth network per cluster, in evaluation mode.
        sampling: one array of sampler weights over the shots per cluster.
        clusters: how many clusters a batch draws from (all, where there are fewer).
        images: of the whole batch, shared evenly by its clusters.
    """
    chosen = torch.randperm(len(experts), generator=rng)[:clusters].tolist()
    drawn = []
    for cluster in chosen:
        with torch.no_grad():
            batch = draw_batch(shots, sampling[cluster], max(1, images // len(chosen)), terms, rng)
        drawn.append(asymmetric_terms(student, experts[cluster], batch, terms, weight))
    means = {name: torch.stack([parts[name] for parts in drawn]).mean() for name in drawn[0]}
    return means | {f"task_{index}": parts["loss"] for index, parts in enumerate(drawn)}


class SelfDistiller(nn.Module):
    """A student and its teacher, the running mean of its weights (Tarvainen & Valpola 2017).

    Both are in the state, so that a rolling checkpoint holds the teacher too; the teacher always infers in
    evaluation mode.
    """

    def __init__(self, student: nn.Module, momentum: float):
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()
        self.momentum = momentum

    def train(self, mode: bool = True) -> "SelfDistiller":
        """The student's mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def follow(self) -> None:
        """Move the teacher a step towards the student, its BatchNorm statistics included."""
        for mine, theirs in zip(self.teacher.state_dict().values(), self.student.state_dict().values()):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - self.momentum)
            else:
                mine.copy_(theirs)

    def loss(self, shots: list[Shot], weights: np.ndarray, images: int, terms: Terms, weight: float, rng: torch.Generator) -> dict[str, Tensor]:
        """All terms on a fresh batch; the teacher follows first."""
        self.follow()
        with torch.no_grad():
            batch = draw_batch(shots, weights, images, terms, rng)
        return asymmetric_terms(self.student, self.teacher, batch, terms, weight)
