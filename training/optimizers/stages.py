"""Methods with two stages, switched by epoch; and ImbSAM from the switch on, the arm that tells the switch from the method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Literal, Unpack, get_args

import torch
from torch import Tensor

from ..class_counts import number
from .data_parallel import Gradient
from .group_sam import HeadTail, Normalisation
from .passes import Inputs, OptimizerError, Passes
from .sam import Part, partwise_gradient
from .wrapper import Common, Wrapper


def whole_epochs(epochs: int) -> int:
    """``epochs`` if it is a whole number of at least 1.

    Raises:
        OptimizerError: It is not.
    """
    if isinstance(epochs, bool) or epochs != int(epochs) or epochs < 1:
        raise OptimizerError(f"epochs (length of the whole training) must be a whole number >= 1, got {epochs!r}")
    return int(epochs)


def epoch_of(optimizer: Wrapper, what: str) -> int:
    """The epoch last given to ``set_epoch``.

    Raises:
        OptimizerError: None was.
    """
    if optimizer.epoch is None:
        raise OptimizerError(f"{what} by epoch: call optimizer.set_epoch(epoch), from 0, before each epoch")
    return optimizer.epoch


class Staged(HeadTail):
    """Head and tail parts whose radii change once, after ``gamma`` of the training.

    A training that stops early may never come to stage 2, and neither does one so short that ``gamma * epochs`` rounds up to
    ``epochs`` (``stage_switch_epoch`` is ``epochs`` then): :meth:`next_stage` ends stage 1 by a criterion of one's own.
    """

    def _set_stages(self, epochs: int, gamma: float) -> None:
        self.epochs = whole_epochs(epochs)
        self.gamma = number("gamma (fraction of the epochs in stage 1)", gamma, 0, 1, OptimizerError)
        self._switched: int | None = None
        self.settings |= {"gamma": self.gamma, "epochs": self.epochs}

    @property
    def stage_switch_epoch(self) -> int:
        """First epoch (from 0) of stage 2; equal to ``epochs`` if stage 2 never comes."""
        return math.ceil(Fraction(repr(self.gamma)) * self.epochs) if self._switched is None else self._switched

    @property
    def stage(self) -> int:
        """1 or 2, by the epoch last given to :meth:`set_epoch`."""
        return 1 if epoch_of(self, f"{type(self).__name__} changes stage") < self.stage_switch_epoch else 2

    def next_stage(self) -> None:
        """Stage 2 begins with the next step, whatever ``gamma`` says: where a loop would stop early in stage 1, say.

        Raises:
            OptimizerError: Stage 2 has begun already.
        """
        if self.stage == 2:
            raise OptimizerError(f"stage 2 began with epoch {self.stage_switch_epoch}; there is no stage after it")
        self._switched = self.epoch

    def _memory(self) -> dict[str, Any]:
        return super()._memory() | {"switched": self._switched}

    def _remember(self, memory: dict[str, Any]) -> None:
        super()._remember(memory)
        self._switched = memory.get("switched")


class SSESAM(Staged):
    """SSE-SAM (Lyu et al., AAAI 2025): first the head escapes its saddles, then the tail.

    Stage 1 (epoch < gamma * epochs, from 0): ``grad L_H(w + rho_H g_H / ||g_H||) + grad L_T(w + rho_T g_T / ||g_T||)``,
    3 forward and 4 backward passes. Stage 2: the same with ``rho_H = 0``, 2 and 3 passes. The rule is that of the authors'
    code, which spends 4 and 4 in both stages and moves running statistics four times a step, twice at perturbed weights;
    here they move once.

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
        normalisation: As in :class:`~saddlescope.training.optimizers.group_sam.ImbSAM`; the SSE-SAM code uses ``"batch"``.
        split_batches: Evaluate head and tail samples as separate sub-batches, see
            :func:`~saddlescope.training.optimizers.split_batches.split_gradient`.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

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
        self._set_stages(epochs, gamma)
        self.rho_head = number("rho_head (radius for the head part)", rho_head, 0, math.inf, OptimizerError)
        self.rho_tail = number("rho_tail (radius for the tail part)", rho_tail, 0, math.inf, OptimizerError)
        self.settings |= {"rho_head": self.rho_head, "rho_tail": self.rho_tail}

    def radii(self) -> tuple[float, float]:
        """``rho_head`` (0 in stage 2) and ``rho_tail``."""
        return (self.rho_head if self.stage == 1 else 0.0), self.rho_tail


Before = Literal["sgd", "sam"]


class LateImbSAM(Staged):
    """ImbSAM from the switch on, plain steps or SAM before it: SSE-SAM's second stage without its first.

    What SSE-SAM gains over it is its first stage; what both gain over ImbSAM all along is the late start.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``.
        eta: A class is tail iff its count is below ``eta``.
        epochs: Length of the whole training, in epochs.
        gamma: Fraction of the training before the switch, as in :class:`SSESAM`.
        before: ``"sgd"`` (1 forward and 1 backward pass) or ``"sam"`` (2 and 2, over the whole batch).
        rho: Radius for the tail part after the switch.
        rho_before: Radius of SAM before it; without effect for ``"sgd"``.
        normalisation: How the parts are weighted after the switch; before it the loss is the mean over the batch.
        split_batches: As in :class:`~saddlescope.training.optimizers.group_sam.ImbSAM`, after the switch.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: As :class:`SSESAM`, or another word for ``before``.
    """

    name: ClassVar[str] = "imbsam-late"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        class_counts: Sequence[int],
        *,
        eta: float,
        epochs: int,
        gamma: float = 0.7,
        before: Before = "sgd",
        rho: float = 0.05,
        rho_before: float = 0.05,
        normalisation: Normalisation = "batch",
        split_batches: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, class_counts, eta=eta, normalisation=normalisation, split_batches=split_batches, **common)
        self._set_stages(epochs, gamma)
        if before not in get_args(Before):
            raise OptimizerError(f"before must be one of {', '.join(get_args(Before))}; got {before!r}")
        self.before = before
        self.rho = number("rho (radius for the tail part)", rho, 0, math.inf, OptimizerError)
        self.rho_before = number("rho_before (radius of SAM before the switch)", rho_before, 0, math.inf, OptimizerError)
        self.settings |= {"before": before, "rho": self.rho, "rho_before": self.rho_before}

    def radii(self) -> tuple[float, float]:
        """Of stage 2: zero for the head, ``rho`` for the tail."""
        return 0.0, self.rho

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        if self.stage == 2:
            return super()._gradient(passes, inputs, targets)
        whole = Part(self._mean(passes, targets), self.rho_before if self.before == "sam" else 0.0)
        return partwise_gradient(passes, inputs, targets, [whole], self.parallel)
