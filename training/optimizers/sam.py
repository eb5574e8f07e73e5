"""Plain steps and SAM, and the engine that SAM, ImbSAM, SSE-SAM and Focal-SAM share.

Each of these methods splits the batch loss into parts ``L_p(w) = sum_i a_pi l_i(w)`` and differentiates every part at weights
of its own: ``grad = sum_p grad L_p(w + rho_p g_p / ||g_p||)`` with ``g_p = grad L_p(w)``. They differ in the weights ``a`` and
the radii. The engine does the passes that this formula needs and no others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from ..class_counts import number
from .data_parallel import DataParallel, Gradient
from .passes import OptimizerError, Passes, added, perturbed
from .running_statistics import frozen_statistics
from .wrapper import Common, Wrapper


@dataclass(frozen=True)
class Part:
    """One part of the batch loss: per-sample weights ``[n]`` and the radius at which it is differentiated."""

    weights: Tensor
    rho: float


def partwise_gradient(
    passes: Passes, inputs: Tensor, targets: Tensor, parts: Sequence[Part], parallel: DataParallel | None = None
) -> tuple[Gradient, Tensor, Tensor]:
    """``sum_p grad L_p(w + rho_p g_p / ||g_p||)`` with the fewest full-batch passes.

    One forward pass at ``w`` serves all parts (it is the one that moves running statistics), parts with radius 0 share one
    backward pass, every part with a radius costs one more forward and two backward passes.

    Args:
        passes: Evaluates and counts.
        inputs: ``[n, ...]``.
        targets: ``[n]``.
        parts: At least one. Leave out parts without samples.
        parallel: Sums the perturbing gradients over processes, unless it asks for m-sharpness.

    Returns:
        This process's share of the gradient, mean loss at ``w``, logits at ``w`` (both detached).
    """
    logits, losses = passes.forward(inputs, targets)
    still = [p.weights for p in parts if p.rho == 0]
    moved = [p for p in parts if p.rho != 0]
    weightings = [torch.stack(still).sum(dim=0)] if still else []
    weightings += [p.weights for p in moved]
    at_w = [passes.gradient(losses, a, retain=i < len(weightings) - 1) for i, a in enumerate(weightings)]
    total = at_w.pop(0) if still else None
    loss, logits = losses.detach().mean(), logits.detach()
    del losses
    if moved and parallel is not None and not parallel.m_sharpness:
        at_w = parallel.sum_gradients(at_w, passes.parameters)
    with frozen_statistics(passes.model):
        for part, direction in zip(moved, at_w, strict=True):
            with perturbed(passes.parameters, direction, part.rho):
                _, losses = passes.forward(inputs, targets)
                total = added(total, passes.gradient(losses, part.weights))
    assert total is not None
    return total, loss, logits


class Plain(Wrapper):
    """The base optimizer as it is (1 forward, 1 backward pass), behind the same interface."""

    name: ClassVar[str] = "sgd"

    def _gradient(self, passes: Passes, inputs: Tensor, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        weights = torch.full(targets.shape, 1.0 / self._batch_size(targets), dtype=passes.weight_dtype, device=targets.device)
        return partwise_gradient(passes, inputs, targets, [Part(weights, 0.0)])


class SAM(Wrapper):
    """Sharpness-aware minimisation (Foret et al. 2021): ``grad L(w + rho g / ||g||)``, ``g = grad L(w)``.

    2 forward and 2 backward passes; with ``rho = 0`` one of each.

    Args:
        base: Any torch optimizer.
        rho: Radius of the perturbation, joint norm over all parameters.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.
    """

    name: ClassVar[str] = "sam"

    def __init__(self, base: torch.optim.Optimizer, *, rho: float = 0.05, **common: Unpack[Common]) -> None:
        super().__init__(base, **common)
        self.rho = number("rho (radius of the perturbation)", rho, 0, math.inf, OptimizerError)
        self.settings = {"rho": self.rho}

    def _gradient(self, passes: Passes, inputs: Tensor, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        weights = torch.full(targets.shape, 1.0 / self._batch_size(targets), dtype=passes.weight_dtype, device=targets.device)
        return partwise_gradient(passes, inputs, targets, [Part(weights, self.rho)], self.parallel)
