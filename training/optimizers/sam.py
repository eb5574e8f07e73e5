"""Plain steps and SAM, and the engine that SAM, ImbSAM, SSE-SAM and Focal-SAM share.

Each of these methods splits the batch loss into parts ``L_p(w) = sum_i a_pi l_i(w)`` and differentiates every part at weights
of its own: ``grad = sum_p grad L_p(w + rho_p g_p / ||g_p||)`` with ``g_p = grad L_p(w)``. They differ in the weights ``a`` and
the radii. The engine does the passes that this formula needs and no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from ..class_counts import number
from .buffers import buffers_move_once
from .data_parallel import DataParallel, Gradient
from .passes import Inputs, OptimizerError, Passes, added, perturbed, scaled_to
from .wrapper import Common, Wrapper


@dataclass(frozen=True)
class Part:
    """One part of the batch loss: per-sample weights ``[n]`` and the radius at which it is differentiated."""

    weights: Tensor
    rho: float


#: ``aim(parts, gradients, i)``: how far the weights move for part ``i``, from all moved parts and their gradients at ``w``
Aim = Callable[[Sequence[Part], Sequence[Gradient], int], Gradient]


def ascent(parts: Sequence[Part], gradients: Sequence[Gradient], i: int) -> Gradient:
    """``rho_i g_i / ||g_i||``."""
    return scaled_to(gradients[i], parts[i].rho)


def partwise_gradient(
    passes: Passes,
    inputs: Inputs,
    targets: Tensor,
    parts: Sequence[Part],
    parallel: DataParallel | None = None,
    aim: Aim = ascent,
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
        aim: Where each part with a radius is differentiated.

    Returns:
        This process's share of the gradient, mean loss at ``w``, logits at ``w`` (both detached).
    """
    still = [p.weights for p in parts if p.rho == 0]
    moved = [p for p in parts if p.rho != 0]
    with buffers_move_once(passes.model) if moved else nullcontext() as buffers:
        logits, losses = passes.forward(inputs, targets)
        weightings = [torch.stack(still).sum(dim=0)] if still else []
        weightings += [p.weights for p in moved]
        at_w = [passes.gradient(losses, a, retain=i < len(weightings) - 1) for i, a in enumerate(weightings)]
        total = at_w.pop(0) if still else None
        loss, logits = losses.detach().mean(), logits.detach()
        del losses
        if buffers is not None:
            buffers.moved()
        if moved and parallel is not None and not parallel.m_sharpness:
            at_w = parallel.sum_gradients(at_w, passes.parameters)
        for i, part in enumerate(moved):
            assert buffers is not None
            buffers.rewind()
            with perturbed(passes.parameters, aim(moved, at_w, i)):
                _, losses = passes.forward(inputs, targets)
                total = added(total, passes.gradient(losses, part.weights))
    assert total is not None
    return total, loss, logits


class Plain(Wrapper):
    """The base optimizer as it is (1 forward, 1 backward pass), behind the same interface."""

    name: ClassVar[str] = "sgd"

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        return partwise_gradient(passes, inputs, targets, [Part(self._mean(passes, targets), 0.0)])


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

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        return partwise_gradient(passes, inputs, targets, [Part(self._mean(passes, targets), self.rho)], self.parallel)
