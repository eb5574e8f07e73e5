"""Class-aware members of the SAM family: what those with a head and a tail part share, ImbSAM, and Focal-SAM."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Unpack, get_args

import torch
from torch import Tensor

from ..class_counts import ClassTable, number, whole_counts
from .data_parallel import Gradient
from .passes import Inputs, OptimizerError, Passes
from .sam import Part, ascent, partwise_gradient
from .split_batches import split_gradient
from .wrapper import Common, Wrapper

Normalisation = Literal["batch", "batch-x2", "group"]


class HeadTail(Wrapper):
    """Head part plus tail part, each differentiated at its own radius."""

    def __init__(
        self,
        base: torch.optim.Optimizer,
        class_counts: Sequence[int],
        *,
        eta: float,
        normalisation: Normalisation,
        split_batches: bool,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, **common)
        counts = whole_counts(class_counts, OptimizerError)
        tail = tail_classes(counts, eta)
        if normalisation not in get_args(Normalisation):
            raise OptimizerError(f"normalisation must be one of {', '.join(get_args(Normalisation))}; got {normalisation!r}")
        if not isinstance(split_batches, bool):
            raise OptimizerError(f"split_batches must be true or false; got {split_batches!r}")
        self.eta, self.normalisation, self.split_batches = eta, normalisation, split_batches
        self.settings: dict[str, Any] = {
            "eta": eta,
            "normalisation": normalisation,
            "split_batches": self.split_batches,
            "class_counts": counts,
        }
        self._is_tail = ClassTable(tail, torch.bool, OptimizerError)

    @abstractmethod
    def radii(self) -> tuple[float, float]:
        """Radii of the head and of the tail part in the current epoch."""

    def arranged(self, parts: list[Part]) -> list[Part]:
        """The parts of a batch, where a method has other ones."""
        return parts

    def aim(self, parts: Sequence[Part], gradients: Sequence[Gradient], i: int) -> Gradient:
        """How far the weights move for part ``i``: ``rho_i g_i / ||g_i||``, if a method does not say otherwise."""
        return ascent(parts, gradients, i)

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        is_tail = self._is_tail(targets)
        tail, batch = self._global_counts(torch.stack([is_tail.sum(), torch.tensor(len(targets), device=targets.device)]))
        head = batch - tail
        denominators = {
            "batch": (batch, batch),
            "batch-x2": (batch, batch / 2),
            "group": (head, tail),
        }[self.normalisation]
        parts = [
            Part(mask.to(passes.weight_dtype) / denominator, rho)
            for mask, size, denominator, rho in zip((~is_tail, is_tail), (head, tail), denominators, self.radii(), strict=True)
            if size > 0  # a part without samples is zero: no perturbation and no pass
        ]
        evaluate = split_gradient if self.split_batches else partwise_gradient
        return evaluate(passes, inputs, targets, self.arranged(parts), self.parallel, self.aim)


def tail_classes(counts: list[int], eta: float) -> list[bool]:
    """Which classes are tail (count below ``eta``); head and tail must both hold training samples."""
    number("eta (count below which a class is tail)", eta, 0, math.inf, OptimizerError)
    tail = [n < eta for n in counts]
    in_tail = sum(n for n, is_tail in zip(counts, tail, strict=True) if is_tail)
    if 0 < in_tail < sum(counts):
        return tail
    present = sorted({n for n in counts if n > 0})
    side = "tail (count < eta)" if in_tail == 0 else "head (count >= eta)"
    fix = (
        f"choose eta above {present[0]} and at most {present[-1]}"
        if len(present) > 1
        else "all classes are of one size, so that no eta divides them"
    )
    raise OptimizerError(f"eta = {eta} leaves no training sample in the {side}: class counts are {counts}; {fix}")


class ImbSAM(HeadTail):
    """ImbSAM (Zhou et al., ICCV 2023): only the tail part is sharpness-aware.

    ``grad L_H(w) + grad L_T(w + rho g_T / ||g_T||)`` with 2 forward and 3 backward passes (one forward pass at ``w`` serves
    both parts), 1 and 1 for a batch without tail samples. Batches without a head or without a tail sample are ordinary.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``.
        eta: A class is tail iff its count is below ``eta``.
        rho: Radius for the tail part.
        normalisation: How the parts are weighted. ``"batch"``: both are sums over the batch size; ``"batch-x2"``: the tail
            twice that (the authors' code); ``"group"``: each is a mean over its own samples (the ImbSAM baseline in the
            SSE-SAM code; it re-weights the tail by batch size over tail samples, besides changing the sharpness).
        split_batches: Evaluate head and tail samples as separate sub-batches, see
            :func:`~saddlescope.training.optimizers.split_batches.split_gradient`.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: Negative radius, unknown normalisation, or ``eta`` that leaves head or tail without a training sample.
    """

    name: ClassVar[str] = "imbsam"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        class_counts: Sequence[int],
        *,
        eta: float,
        rho: float = 0.05,
        normalisation: Normalisation = "batch",
        split_batches: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, class_counts, eta=eta, normalisation=normalisation, split_batches=split_batches, **common)
        self.rho = number("rho (radius of the perturbation)", rho, 0, math.inf, OptimizerError)
        self.settings["rho"] = self.rho

    def radii(self) -> tuple[float, float]:
        """Zero for the head, ``rho`` for the tail."""
        return 0.0, self.rho


class FocalSAM(Wrapper):
    """Focal-SAM (ICML 2025): a class is the more sharpness-aware the rarer it is.

    With ``c_y = strength * (1 - n_y / N)^focus``, ``B`` the batch size and ``S(w) = sum_i c_{y_i} l_i(w) / B`` the gradient is
    that of ``sum_i (1 - c_{y_i}) l_i(w) / B`` plus ``grad S(w + rho g / ||g||)``, ``g = grad S(w)``: 2 forward and 3 backward
    passes whatever the number of classes. Rule and settings are those of the authors' code, where ``strength`` is called lambda
    and ``focus`` gamma; the published text was not available to check against.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``.
        rho: Radius. The authors' code: 0.2 on CIFAR-10-LT, 0.3 on CIFAR-100-LT.
        strength: Largest weight of the sharpness-aware part, in [0, 1] (code: 0.5 and 0.8).
        focus: Exponent, >= 0 (code: 3.0 and 3.2).
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: A setting out of its range.
    """

    name: ClassVar[str] = "focalsam"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        class_counts: Sequence[int],
        *,
        rho: float = 0.2,
        strength: float = 0.5,
        focus: float = 3.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, **common)
        counts = whole_counts(class_counts, OptimizerError)
        total = sum(counts)
        if total == 0:
            raise OptimizerError("class_counts are all zero: there is no training sample")
        self.rho = number("rho (radius of the perturbation)", rho, 0, math.inf, OptimizerError)
        self.strength = number("strength (largest weight of the sharpness-aware part)", strength, 0, 1, OptimizerError)
        self.focus = number("focus (exponent of the class weight)", focus, 0, math.inf, OptimizerError)
        self.settings = {"rho": self.rho, "strength": self.strength, "focus": self.focus, "class_counts": counts}
        coefficients = [self.strength * (1 - n / total) ** self.focus for n in counts]
        self._coefficient = ClassTable(coefficients, torch.float64, OptimizerError)
        self._has_still, self._has_moved = min(coefficients) < 1, max(coefficients) > 0

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        coefficient = self._coefficient(targets).to(passes.weight_dtype)
        batch = self._batch_size(targets)
        parts = [Part((1 - coefficient) / batch, 0.0)] if self._has_still else []
        parts += [Part(coefficient / batch, self.rho)] if self._has_moved else []
        return partwise_gradient(passes, inputs, targets, parts, self.parallel)
