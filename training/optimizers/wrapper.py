"""What every optimizer of the suite has in common: one ``step``, around any optimizer of torch.

A wrapper computes the gradient that its method prescribes and hands it to the base optimizer, which owns learning rate,
momentum and weight decay. Schedulers are attached to ``wrapper.base``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .data_parallel import DataParallel, Gradient, resolve
from .passes import OptimizerError, Passes, PerSampleLoss


@dataclass(frozen=True)
class Step:
    """What one step reports. Nothing here forces a device to synchronise.

    Attributes:
        loss: Mean loss at the weights before the step, over this process's samples, without dimensions, detached.
        logits: Logits at those weights ``[n, C]``, detached (for the training accuracy).
        forwards: Forward passes, in units of the whole batch (sub-batches count by their samples).
        backwards: Backward passes, likewise.
    """

    loss: Tensor
    logits: Tensor
    forwards: float
    backwards: float


class Common(TypedDict, total=False):
    """Keywords that every wrapper takes.

    ``max_norm``: clip the final gradient to this Euclidean norm. ``autocast``: dtype of mixed precision; with
    ``torch.bfloat16`` nothing else is needed. ``scaler``: for ``torch.float16``, a ``torch.amp.GradScaler``, which the wrapper
    scales, unscales and updates itself. ``parallel``: how processes share a step; ``"auto"`` (default) uses the default process
    group if there is one with several processes when the wrapper is built, ``None`` never does.
    """

    max_norm: float | None
    autocast: torch.dtype | None
    scaler: torch.amp.GradScaler | None
    parallel: DataParallel | Literal["auto"] | None


class Wrapper(ABC):
    """Base of all optimizers here.

    Subclasses implement :meth:`_gradient`. The model may be wrapped in ``DistributedDataParallel``, which is looked through.

    Attributes:
        base: The wrapped optimizer.
        epoch: As last told by :meth:`set_epoch`, counted from 0.
        settings: The method's own settings, JSON-able (for records and for checking a resumed run).
    """

    name: ClassVar[str]

    def __init__(self, base: torch.optim.Optimizer, **common: Unpack[Common]) -> None:
        if unknown := common.keys() - Common.__annotations__.keys():
            raise TypeError(
                f"{type(self).__name__} takes no {', '.join(sorted(unknown))}; there are {', '.join(Common.__annotations__)}"
            )
        self.base = base
        self.epoch: int | None = None
        self.settings: dict[str, Any] = {}
        self.max_norm = common.get("max_norm")
        self.autocast = common.get("autocast")
        self.scaler = common.get("scaler")
        self.parallel = resolve(common.get("parallel", "auto"))
        if self.max_norm is not None and not self.max_norm > 0:
            raise OptimizerError(f"max_norm (gradient clipping) must be positive, got {self.max_norm}; None is no clipping")
        if self.autocast == torch.float16 and self.scaler is None:
            raise OptimizerError(
                "autocast=torch.float16 needs scaler=torch.amp.GradScaler(...), since small gradients vanish in float16; "
                "autocast=torch.bfloat16 needs none"
            )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's parameter groups."""
        return self.base.param_groups

    @property
    def stage(self) -> int | None:
        """Current stage (1 or 2) of a method with stages, else ``None``."""
        return None

    @property
    def stage_switch_epoch(self) -> int | None:
        """First epoch (from 0) of stage 2 of a method with stages, else ``None``."""
        return None

    def set_epoch(self, epoch: int) -> None:
        """Tells the method which epoch begins, counted from 0."""
        if epoch < 0:
            raise OptimizerError(f"epochs count from 0, got {epoch}")
        self.epoch = epoch

    def step(self, model: nn.Module, loss_fn: PerSampleLoss, batch: tuple[Tensor, Tensor]) -> Step:
        """One update of the weights.

        Afterwards ``p.grad`` holds the final gradient (clipped, unscaled), ``None`` for unused and frozen parameters.

        Args:
            model: Inputs to logits, in train mode for training.
            loss_fn: ``loss_fn(outputs [n, C], targets [n]) -> losses [n]``.
            batch: Inputs ``[n, ...]`` and integer labels ``[n]``.

        Raises:
            OptimizerError: Empty batch, a loss that is not per sample, nothing to train, or labels out of range.
        """
        if isinstance(model, DistributedDataParallel):
            model = model.module
        inputs, targets = batch
        parameters = [p for group in self.base.param_groups for p in group["params"] if p.requires_grad]
        if not parameters:
            raise OptimizerError("every parameter of the base optimizer is frozen (requires_grad is False): nothing to train")
        if targets.ndim != 1 or targets.shape[0] == 0 or len(inputs) != targets.shape[0]:
            got = f"{len(inputs)} inputs and labels of shape {tuple(targets.shape)}"
            raise OptimizerError(f"a batch is (inputs [n, ...], labels [n]) with n > 0; got {got}")
        scale = None if self.scaler is None else self.scaler.scale(torch.ones((), device=parameters[0].device))
        passes = Passes(model, loss_fn, parameters, targets.shape[0], self.autocast, scale)
        gradient, loss, logits = self._gradient(passes, inputs, targets)
        if self.parallel is not None:
            (gradient,) = self.parallel.sum_gradients([gradient], parameters)
        if all(g is None for g in gradient):
            raise OptimizerError(
                "the loss depends on no trainable parameter of the base optimizer; was it built from this model?"
            )
        self._update(parameters, gradient, scale)
        return Step(loss, logits, passes.forwards, passes.backwards)

    @abstractmethod
    def _gradient(self, passes: Passes, inputs: Tensor, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        """This process's share of the final gradient, mean loss and logits at the weights (detached)."""

    def _update(self, parameters: Sequence[nn.Parameter], gradient: Gradient, scale: Tensor | None) -> None:
        """Clips and hands the gradient to the base optimizer."""
        for group in self.base.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # a stale gradient would let the base optimizer move a frozen parameter
        for parameter, g in zip(parameters, gradient, strict=True):
            if g is not None:
                parameter.grad = g.to(parameter.dtype) if scale is None else (g * scale.to(g)).to(parameter.dtype)
        if self.scaler is not None:
            self.scaler.unscale_(self.base)  # also where it looks for overflow, which came through from any of the passes
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
        if self.scaler is None:
            self.base.step()
        else:
            self.scaler.step(self.base)
            self.scaler.update()

    def _global_counts(self, counts: Tensor) -> list[int]:
        """Integer counts over the joined batch of all processes."""
        summed = counts if self.parallel is None else self.parallel.sum_counts(counts)
        return [int(n) for n in summed.tolist()]

    def _batch_size(self, targets: Tensor) -> int:
        if self.parallel is None:
            return targets.shape[0]
        return self._global_counts(torch.tensor([targets.shape[0]], device=targets.device))[0]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue to the same digits; loads with ``torch.load(weights_only=True)``."""
        return {
            "method": self.name,
            "settings": dict(self.settings),
            "epoch": self.epoch,
            "base": self.base.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`.

        Raises:
            OptimizerError: The state belongs to another method or to other settings.
        """
        if state["method"] != self.name:
            raise OptimizerError(f"the saved optimizer state is of {state['method']!r}, this optimizer is {self.name!r}")
        saved, here = state["settings"], self.settings
        differing = [k for k in sorted(saved.keys() | here.keys()) if saved.get(k) != here.get(k)]
        if differing:
            what = ", ".join(f"{k} was {saved.get(k)!r}, is {here.get(k)!r}" for k in differing)
            raise OptimizerError(
                f"the saved {self.name} state has other settings: {what}. Use the saved ones, or load state['base'] "
                "into optimizer.base alone"
            )
        if (state["scaler"] is None) != (self.scaler is None):
            raise OptimizerError("the saved optimizer state has a gradient scaler and this optimizer has none, or the reverse")
        self.base.load_state_dict(state["base"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.epoch = state["epoch"]
