"""Several losses, one step that lowers all of them: the multiple-gradient descent algorithm, MGDA.

Of all convex combinations of the tasks' gradients the shortest one is, unless it is zero, a direction along which
every task improves; where it is zero the point is Pareto stationary (Sener & Koltun 2018, eqs. 3 and 4; Désidéri
2012). Introduced in notebook 06.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def two_task_share(first: Float[Tensor, "D"], second: Float[Tensor, "D"]) -> float:
    """The share a in [0, 1] that makes a * first + (1 - a) * second shortest (Sener & Koltun 2018, algorithm 1)."""
    gap = first - second
    square = float(gap @ gap)
    return 0.5 if square == 0 else min(1.0, max(0.0, -float(second @ gap) / square))


def min_norm_weights(gram: Float[Tensor, "K K"], steps: int = 200) -> Float[Tensor, "K"]:
    """Weights on the simplex that make the combined gradient shortest.

    Frank-Wolfe, with its steps taken pairwise (Lacoste-Julien & Jaggi 2015), for it then converges linearly: weight
    moves from the task that adds most to the length to the one that adds least, as far as the closed form says.

    Args:
        gram: inner products of the tasks' gradients.
    """
    gram = gram.double()
    weights = torch.full((len(gram),), 1 / len(gram), dtype=torch.float64, device=gram.device)
    for _ in range(steps):
        slope = gram @ weights
        least = int(slope.argmin())
        most = int(torch.where(weights > 0, slope, -torch.inf).argmax())
        curvature = gram[least, least] + gram[most, most] - 2 * gram[least, most]
        gain = slope[most] - slope[least]
        if gain <= 1e-12 * gram.diagonal().max() or curvature <= 0:
            break
        moved = torch.minimum(gain / curvature, weights[most])
        weights[least] += moved
        weights[most] -= moved
    return weights / weights.sum()


def add_pareto_gradient(tasks: list[Tensor], parameters: list[nn.Parameter], scale: float = 1.0) -> dict[str, Tensor]:
    """Add the min-norm combination of the tasks' gradients to parameter.grad, in place of loss.backward().

    Every gradient is brought to length 1 first, so that a task counts by its direction and not by its units (dividing
    by the losses instead, as is also done, goes wrong here: a log likelihood may be zero or negative). The result is
    multiplied by the gradients' mean length, so that it has the size that a mean would have.

    Returns:
        {"weight_0": ..., ...}: the weights on the simplex.
    """
    rows = [torch.autograd.grad(task, parameters, materialize_grads=True) for task in tasks]
    flat = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    norms = flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
    flat = flat / norms
    weights = min_norm_weights(flat @ flat.T)
    combined = (weights.to(flat.dtype) @ flat) * norms.mean() * scale
    for parameter, part in zip(parameters, combined.split([p.numel() for p in parameters])):
        part = part.view_as(parameter)
        parameter.grad = part.clone() if parameter.grad is None else parameter.grad + part
    return {f"weight_{index}": weight for index, weight in enumerate(weights)}
