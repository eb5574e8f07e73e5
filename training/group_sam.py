"""Class-aware members of the SAM family: ImbSAM, SSE-SAM and Focal-SAM."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from .batchnorm import frozen_statistics, pooled_statistics
from .parallel import DataParallel, Gradient
from .passes import OptimizerError, Passes, added, perturbed
from .sam import Part, partwise_gradient
from .wrapper import Common, Wrapper, check_rho

Normalisation = Literal["batch", "batch-x2", "group"]


def check_class_counts(class_counts: Sequence[int]) -> list[int]:
    """Training samples of every class, as integers."""
    counts = [int(n) for n in class_counts]
    if not counts or any(n < 0 or n != given for n, given in zip(counts, class_counts, strict=True)):
        raise OptimizerError(
            f"class_counts must be the non-negative whole numbers of training samples per class, got {list(class_counts)}"
        )
    return counts


class ClassTable:
    """One value per class, looked up for labels on whatever device they live."""

    def __init__(self, values: Sequence[float] | Sequence[bool], dtype: torch.dtype) -> None:
        self._values = {torch.device("cpu"): torch.tensor(values, dtype=dtype)}
        self.num_classes = len(values)

    def __call__(self, targets: Tensor) -> Tensor:
        """Values ``[n]`` of labels ``[n]``.

        Raises:
            OptimizerError: A label out of range (checked on the CPU; CUDA reports a device assertion).
        """
        if targets.device not in self._values:
            self._values[targets.device] = self._values[torch.device("cpu")].to(targets.device)
        if targets.device.type == "cpu" and not (int(targets.min()) >= 0 and int(targets.max()) < self.num_classes):
            raise OptimizerError(
                f"labels run from {int(targets.min())} to {int(targets.max())}, but class_counts names classes 0 to {self.num_classes - 1}"
            )
        return self._values[targets.device][targets]


class _HeadTail(Wrapper):
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
        counts = check_class_counts(class_counts)
        tail = [n < eta for n in counts]
        samples = {
            side: sum(n for n, t in zip(counts, tail, strict=True) if t == (side == "tail")) for side in ("head", "tail")
        }
        for side, size in samples.items():
            if size == 0:
                rule = "count >= eta" if side == "head" else "count < eta"
                raise OptimizerError(
                    f"eta = {eta:g} leaves no training sample in the {side} ({side} is {rule}): class counts are {counts}; "
                    f"choose eta above {min(counts)} and at most {max(counts)}"
                )
        if normalisation not in get_args(Normalisation):
            raise OptimizerError(f"normalisation must be one of {', '.join(get_args(Normalisation))}; got {normalisation!r}")
        self.eta = eta
        self.normalisation = normalisation
        self.split_batches = split_batches
        self.settings = {"eta": eta, "normalisation": normalisation, "split_batches": split_batches, "class_counts": counts}
        self._is_tail = ClassTable(tail, torch.bool)

    @abstractmethod
    def radii(self) -> tuple[float, float]:
        """Radii of the head and of the tail part in the current epoch."""

    def _gradient(self, passes: Passes, inputs: Tensor, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
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
        if not self.split_batches:
            return partwise_gradient(passes, inputs, targets, parts, self.parallel)
        return split_gradient(passes, inputs, targets, parts, self.parallel)


class ImbSAM(_HeadTail):
    """ImbSAM (Zhou et al., ICCV 2023): only the tail part is sharpness-aware.

    ``grad = grad L_H(w) + grad L_T(w + rho g_T / ||g_T||)`` with 2 forward and 3 backward passes (one forward pass at ``w``
    serves both parts), 1 and 1 for a batch without tail samples.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``.
        eta: A class is tail iff its count is below ``eta``.
        rho: Radius for the tail part.
        normalisation: How the parts are weighted. ``"batch"``: both are sums over the batch size; ``"batch-x2"``: the tail twice
            that (the authors' code); ``"group"``: each is a mean over its own samples (the ImbSAM baseline in the SSE-SAM code;
            it re-weights the tail by batch size over tail samples, besides changing the sharpness).
        split_batches: Evaluate head and tail samples as separate sub-batches, see :func:`split_gradient`.
        **common: See :class:`~saddlescope.training.wrapper.Common`.

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
        self.rho = check_rho("rho", rho)
        self.settings["rho"] = self.rho

    def radii(self) -> tuple[float, float]:
        """Zero for the head, ``rho`` for the tail."""
        return 0.0, self.rho


class SSESAM(_HeadTail):
    """SSE-SAM (Lyu et al., AAAI 2025): first the head escapes its saddles, then the tail.

    Stage 1 (epoch < gamma * epochs, from 0): ``grad L_H(w + rho_H g_H / ||g_H||) + grad L_T(w + rho_T g_T / ||g_T||)``, 3 forward
    and 4 backward passes. Stage 2: the same with ``rho_H = 0``, 2 and 3 passes. Rule as in the authors' code, which spends 4 and
    4 in both stages and moves running statistics four times a step, twice at perturbed weights; here they move once.

    Call :meth:`set_epoch` at the start of every epoch.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``.
        eta: A class is tail iff its count is below ``eta``.
        epochs: Length of the whole training, in epochs.
        rho_head: Radius for the head part in stage 1.
        rho_tail: Radius for the tail part in both stages.
        gamma: Fraction of the training that is stage 1, both 0 (never) and 1 (always) included. With 0.7 of 200 epochs stage 1
            is epochs 0 to 139. Read as a decimal number, so that 0.07 of 100 epochs is 7 of them and not 8.
        normalisation: As in :class:`ImbSAM`; the SSE-SAM code uses ``"batch"``.
        split_batches: Evaluate head and tail samples as separate sub-batches, see :func:`split_gradient`.
        **common: See :class:`~saddlescope.training.wrapper.Common`.

    Raises:
        OptimizerError: A negative radius, gamma outside [0, 1], unknown normalisation, or ``eta`` that leaves head or tail
            without a training sample.
    """

    name: ClassVar[str] = "ssesam"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        class_counts: Sequence[int],
        *,
        eta: float,
        epochs: int,
        rho_head: float = 0.05,
        rho_tail: float = 0.1,
        gamma: float = 0.7,
        normalisation: Normalisation = "batch",
        split_batches: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, class_counts, eta=eta, normalisation=normalisation, split_batches=split_batches, **common)
        if not 0 <= gamma <= 1:
            raise OptimizerError(f"gamma (fraction of the epochs in stage 1) must lie in [0, 1], got {gamma}")
        if epochs < 1:
            raise OptimizerError(f"epochs (length of the training) must be at least 1, got {epochs}")
        self.rho_head, self.rho_tail = check_rho("rho_head", rho_head), check_rho("rho_tail", rho_tail)
        self.gamma, self.epochs = float(gamma), epochs
        self.settings |= {"rho_head": self.rho_head, "rho_tail": self.rho_tail, "gamma": self.gamma, "epochs": epochs}

    @property
    def stage_switch_epoch(self) -> int:
        """First epoch (from 0) of stage 2; equal to ``epochs`` if stage 2 never comes."""
        return math.ceil(Fraction(repr(self.gamma)) * self.epochs)

    @property
    def stage(self) -> int:
        """1 or 2, by the epoch last given to :meth:`set_epoch`."""
        if self.epoch is None:
            raise OptimizerError("SSE-SAM changes stage by epoch: call optimizer.set_epoch(epoch), from 0, before each epoch")
        return 1 if self.epoch < self.stage_switch_epoch else 2

    def radii(self) -> tuple[float, float]:
        """``rho_head`` (0 in stage 2) and ``rho_tail``."""
        return (self.rho_head if self.stage == 1 else 0.0), self.rho_tail


class FocalSAM(Wrapper):
    """Focal-SAM (ICML 2025): a class is the more sharpness-aware the rarer it is.

    With ``c_y = strength * (1 - n_y / N)^focus``, ``B`` the batch size and ``S(w) = sum_i c_{y_i} l_i(w) / B``:
    ``grad = grad sum_i (1 - c_{y_i}) l_i(w) / B + grad S(w + rho g / ||g||)``, ``g = grad S(w)``; 2 forward and 3 backward passes
    whatever the number of classes. Rule and settings as in the authors' code, where ``strength`` is called lambda and ``focus``
    gamma; the published text was not available to check against.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``.
        rho: Radius. The authors' code: 0.2 on CIFAR-10-LT, 0.3 on CIFAR-100-LT.
        strength: Largest weight of the sharpness-aware part, in [0, 1] (code: 0.5 and 0.8).
        focus: Exponent, >= 0 (code: 3.0 and 3.2).
        **common: See :class:`~saddlescope.training.wrapper.Common`.

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
        counts = check_class_counts(class_counts)
        if sum(counts) == 0:
            raise OptimizerError("class_counts are all zero: there is no training sample")
        if not 0 <= strength <= 1:
            raise OptimizerError(f"strength (largest weight of the sharpness-aware part) must lie in [0, 1], got {strength}")
        if not 0 <= focus < math.inf:
            raise OptimizerError(f"focus (exponent of the class weight) must be a finite number >= 0, got {focus}")
        self.rho, self.strength, self.focus = check_rho("rho", rho), float(strength), float(focus)
        self.settings: dict[str, Any] = {
            "rho": self.rho,
            "strength": self.strength,
            "focus": self.focus,
            "class_counts": counts,
        }
        self._coefficient = ClassTable([strength * (1 - n / sum(counts)) ** focus for n in counts], torch.float64)

    def _gradient(self, passes: Passes, inputs: Tensor, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        coefficient = self._coefficient(targets).to(passes.weight_dtype)
        batch = self._batch_size(targets)
        parts = [Part((1 - coefficient) / batch, 0.0), Part(coefficient / batch, self.rho)]
        return partwise_gradient(passes, inputs, targets, parts, self.parallel)


def split_gradient(
    passes: Passes, inputs: Tensor, targets: Tensor, parts: Sequence[Part], parallel: DataParallel | None = None
) -> tuple[Gradient, Tensor, Tensor]:
    """As :func:`~saddlescope.training.sam.partwise_gradient`, every part evaluated on its own samples only.

    The price is that of SAM: in SSE-SAM's stage 1 each sample passes forward twice and backward twice; in stage 2 and in ImbSAM
    only tail samples do. Without batch normalisation the gradient is the same. With it, head and tail samples are normalised by
    the statistics of their own sub-batch, which changes the function that is trained; running statistics move once, by the
    pooled moments.

    Args:
        passes: Evaluates and counts.
        inputs: ``[n, ...]``.
        targets: ``[n]``.
        parts: With disjoint samples (those of non-zero weight).
        parallel: As in ``partwise_gradient``.

    Raises:
        BatchNormError: A sub-batch for which batch statistics do not exist.
        OptimizerError: Synchronised batch normalisation in a data-parallel job, where processes would wait for each other.
    """
    if parallel is not None and any(isinstance(m, nn.SyncBatchNorm) for m in passes.model.modules()):
        raise OptimizerError(
            "split_batches=True does not go with SyncBatchNorm: a process without samples of a group cannot take part"
        )
    members = [part.weights.nonzero().squeeze(1) for part in parts]
    nothing: Gradient = [None] * len(passes.parameters)

    def evaluate(part: Part, index: Tensor) -> tuple[Tensor, Tensor, Gradient] | None:
        if len(index) == 0:
            return None
        logits, losses = passes.forward(inputs[index], targets[index])
        return logits.detach(), losses.detach(), passes.gradient(losses, part.weights[index])

    with pooled_statistics(passes.model):
        at_w = [evaluate(part, index) for part, index in zip(parts, members, strict=True)]
    seen = [(index, values) for index, values in zip(members, at_w, strict=True) if values is not None]
    order = torch.cat([index for index, _ in seen]).argsort()
    logits = torch.cat([values[0] for _, values in seen])[order]
    loss = torch.cat([values[1] for _, values in seen]).mean()
    gradients = [nothing if values is None else values[2] for values in at_w]
    directions = gradients
    if parallel is not None and not parallel.m_sharpness:
        directions = parallel.sum_gradients(gradients, passes.parameters)

    total: Gradient = nothing
    with frozen_statistics(passes.model):
        for part, index, gradient, direction in zip(parts, members, gradients, directions, strict=True):
            if part.rho == 0:
                total = added(total, gradient)
                continue
            with perturbed(passes.parameters, direction, part.rho):
                values = evaluate(part, index)
            total = added(total, nothing if values is None else values[2])
    return total, loss, logits
