"""Several experts into one student, and then the student into itself (notebook 06).

Both phases are the same asymmetry of context: the teacher sees the evidence of all frame pairs, the student a
degraded part of it or none, and is pulled towards what the teacher says.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ss3d_lib.data import Shot
from ss3d_lib.joint import DepthBatch, Terms, draw_batch, prediction_terms
from ss3d_lib.losses import LOG_CLAMP
from ss3d_lib.models.triangulation import as_channels
from ss3d_lib.twoview import weighted_median


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


def gated(shots: Sequence[Shot], power: float) -> np.ndarray:
    """Sampler weights score^power: a mean of one's own opinions is only worth hearing where there is a signal."""
    return np.array([shot.score for shot in shots]) ** power
