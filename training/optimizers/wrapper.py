"""What every optimizer of the suite has in common: a torch optimizer around a torch optimizer.

A wrapper computes the gradient that its method prescribes and hands it to the base optimizer, which owns learning rate,
momentum and weight decay. Parameter groups and state are the base's own, so schedulers act on either. In an own loop one call
does it all, ``step(model, loss_fn, batch)``; in somebody else's, ``backward(model, loss_fn, batch)`` stands where
``loss.backward()`` stood, and ``zero_grad``, clipping, scaling and ``step()`` stay where they are.

Above 300 lines: one class; a step, its two halves and the state that is saved of it are parts of one promise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .batches import Batch, split_labels
from .data_parallel import DataParallel, Gradient, resolve
from .passes import Inputs, OptimizerError, Passes, PerSampleLoss

#: where a state dictionary holds what is not the base optimizer's
OURS = "saddlescope"


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


class Wrapper(torch.optim.Optimizer, ABC):
    """Base of all optimizers here.

    Subclasses implement :meth:`_gradient`. The model may be wrapped in ``DistributedDataParallel``, which is looked through.

    Attributes:
        base: The wrapped optimizer.
        epoch: As last told by :meth:`set_epoch`, counted from 0.
        settings: The method's own settings, JSON-able (for records and for checking a resumed run).
    """

    name: ClassVar[str]
    base: torch.optim.Optimizer

    def __init__(self, base: torch.optim.Optimizer, **common: Unpack[Common]) -> None:
        if unknown := common.keys() - Common.__annotations__.keys():
            raise TypeError(
                f"{type(self).__name__} takes no {', '.join(sorted(unknown))}; there are {', '.join(Common.__annotations__)}"
            )
        if not isinstance(base, torch.optim.Optimizer) or isinstance(base, Wrapper):
            raise OptimizerError(
                f"{type(self).__name__} wraps a plain torch optimizer, such as torch.optim.SGD(model.parameters(), lr=0.1); "
                f"got {type(base).__name__}"
            )
        # Torch's own __init__ would make parameter groups of its own; this is how it sets up an optimizer that has them.
        self.__setstate__({"base": base})
        self.epoch: int | None = None
        self.settings: dict[str, Any] = {}
        self.max_norm = common.get("max_norm")
        self.autocast = common.get("autocast")
        self.scaler = common.get("scaler")
        self.parallel = resolve(common.get("parallel", "auto"))
        self._ready = False  # whether .grad holds a gradient of this method's
        if self.max_norm is not None and not self.max_norm > 0:
            raise OptimizerError(f"max_norm (gradient clipping) must be positive, got {self.max_norm}; None is no clipping")
        if self.autocast == torch.float16 and self.scaler is None:
            raise OptimizerError(
                "autocast=torch.float16 needs scaler=torch.amp.GradScaler(...), since small gradients vanish in float16; "
                "autocast=torch.bfloat16 needs none"
            )

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # ours are the base's, also after it loads others
        """The base optimizer's parameter groups."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimizer's state by parameter."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's defaults."""
        return self.base.defaults

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

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters to the base optimizer, as in torch."""
        self.base.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of all parameters of the base optimizer, as in torch."""
        self.base.zero_grad(set_to_none=set_to_none)
        self._ready = False

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    @overload
    def step(self, model: nn.Module, loss_fn: PerSampleLoss, batch: Batch) -> Step: ...

    def step(  # type: ignore[misc]  # torch's own forms are the first two
        self,
        model: Any = None,
        loss_fn: PerSampleLoss | None = None,
        batch: Batch | None = None,
        *,
        closure: Callable[[], Any] | None = None,
    ) -> Any:
        """One update of the weights: all of it with a model, the last part of it after :meth:`backward`.

        Afterwards ``p.grad`` holds the final gradient (clipped, unscaled), ``None`` for unused and frozen parameters.

        Args:
            model: Inputs to logits, in train mode for training. Without it the gradients are those of :meth:`backward`.
            loss_fn: ``loss_fn(outputs [n, C], targets [n]) -> losses [n]``.
            batch: Inputs ``[n, ...]`` and integer labels ``[n]``, or a dictionary, see
                :mod:`~saddlescope.training.optimizers.batches`.
            closure: Called first, once; for loops that give one. It must call :meth:`backward`, unless that was done before.

        Returns:
            What the step reports, or what the closure returned.

        Raises:
            OptimizerError: Empty batch, a loss that is not per sample, nothing to train, labels out of range, or gradients
                that do not come from :meth:`backward`.
        """
        if isinstance(model, nn.Module):
            if loss_fn is None or batch is None:
                raise OptimizerError("step(model, loss_fn, batch) takes all three, or none of them after backward(...)")
            gradient, scale, outcome = self._evaluate(model, loss_fn, batch, self.scaler)
            self.zero_grad()  # a stale gradient would let the base optimizer move a frozen parameter
            self._add(gradient, scale, 1.0)
            self._update()
            return outcome
        if loss_fn is not None or batch is not None:
            raise OptimizerError(
                f"step(model, loss_fn, batch): the model must be a torch.nn.Module, got {type(model).__name__}"
            )
        closure = model if closure is None else closure
        with torch.enable_grad():
            result = None if closure is None else closure()
        if not self._ready:
            raise OptimizerError(
                f"{type(self).__name__}.step() found no gradient of its own: loss.backward() gives that of the plain loss. "
                "Call backward(model, loss_fn, batch) in its place, or step(model, loss_fn, batch) for all of it "
                "(training/README.md has the lines for Lightning, Hugging Face and accelerate)"
            )
        self._update()
        return result

    def backward(
        self,
        model: nn.Module,
        loss_fn: PerSampleLoss,
        batch: Batch,
        *,
        share: float = 1.0,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Step:
        """Adds this method's gradient to ``p.grad``, where another loop calls ``loss.backward()``; the weights stay.

        Several calls before one :meth:`step` accumulate; every batch then has a perturbation of its own.

        Args:
            model: As in :meth:`step`.
            loss_fn: As in :meth:`step`.
            batch: As in :meth:`step`.
            share: Factor of this batch, ``1 / k`` for the mean over k of them.
            scaler: The gradient scaler of a loop that unscales and steps by itself (``scaler.step(optimizer)``); the gradient
                is left scaled for it. Default: the optimizer's own, which :meth:`step` unscales and updates.

        Returns:
            What the step reports.

        Raises:
            OptimizerError: As :meth:`step`.
        """
        gradient, scale, outcome = self._evaluate(model, loss_fn, batch, self.scaler if scaler is None else scaler)
        self._add(gradient, scale, share)
        return outcome

    def _evaluate(
        self, model: nn.Module, loss_fn: PerSampleLoss, batch: Batch, scaler: torch.amp.GradScaler | None
    ) -> tuple[Gradient, Tensor | None, Step]:
        """The final gradient over all processes, unscaled, the loss scale, and what the step reports."""
        if isinstance(model, DistributedDataParallel):
            model = model.module
        inputs, targets = split_labels(batch)
        parameters = self._trained()
        if not parameters:
            raise OptimizerError("every parameter of the base optimizer is frozen (requires_grad is False): nothing to train")
        if any(hasattr(p, "device_mesh") for p in parameters):
            raise OptimizerError(
                "the parameters are sharded (FSDP, DTensor): a step here evaluates the whole model on every process; use "
                "DistributedDataParallel or the bare model"
            )
        scale = None if scaler is None else scaler.scale(torch.ones((), device=parameters[0].device))
        passes = Passes(model, loss_fn, parameters, targets.shape[0], self.autocast, scale)
        gradient, loss, logits = self._gradient(passes, inputs, targets)
        if self.parallel is not None:
            (gradient,) = self.parallel.sum_gradients([gradient], parameters)
        if all(g is None for g in gradient):
            raise OptimizerError(
                "the loss depends on no trainable parameter of the base optimizer; was it built from this model?"
            )
        return gradient, scale, Step(loss, logits, passes.forwards, passes.backwards)

    @abstractmethod
    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        """This process's share of the final gradient, mean loss and logits at the weights (detached)."""

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.base.param_groups for p in group["params"] if p.requires_grad]

    @torch.no_grad()
    def _add(self, gradient: Gradient, scale: Tensor | None, share: float) -> None:
        for parameter, g in zip(self._trained(), gradient, strict=True):
            if g is None:
                continue
            scaled = g if scale is None else g * scale.to(g)
            own = (scaled if share == 1.0 else scaled * share).to(parameter.dtype)
            parameter.grad = own if parameter.grad is None else parameter.grad + own
        self._ready = True

    def _update(self) -> None:
        """Unscales, clips, and lets the base optimizer step."""
        if self.scaler is not None:
            self.scaler.unscale_(self.base)  # also where it looks for overflow, which came through from any of the passes
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._trained(), self.max_norm)
        if self.scaler is None:
            self.base.step()
        else:
            self.scaler.step(self.base)
            self.scaler.update()
        self._ready = False

    def _global_counts(self, counts: Tensor) -> list[int]:
        """Integer counts over the joined batch of all processes."""
        summed = counts if self.parallel is None else self.parallel.sum_counts(counts)
        return [int(n) for n in summed.tolist()]

    def _batch_size(self, targets: Tensor) -> int:
        if self.parallel is None:
            return targets.shape[0]
        return self._global_counts(torch.tensor([targets.shape[0]], device=targets.device))[0]

    def _mean(self, passes: Passes, targets: Tensor) -> Tensor:
        """The per-sample weights ``[n]`` whose sum over all processes is the mean."""
        return torch.full(targets.shape, 1.0 / self._batch_size(targets), dtype=passes.weight_dtype, device=targets.device)

    def _memory(self) -> dict[str, Any]:
        """What a method must remember from step to step besides the epoch; restored by :meth:`_remember`."""
        return {}

    def _remember(self, memory: dict[str, Any]) -> None:
        """Restores :meth:`_memory`."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue to the same digits; loads with ``torch.load(weights_only=True)``.

        The base optimizer's own state dictionary, and under ``"saddlescope"`` what is not the base's.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        ours = {
            "method": self.name,
            "settings": dict(self.settings),
            "epoch": self.epoch,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            **self._memory(),
        }
        state = {**self.base.state_dict(), OURS: ours}
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`.

        Raises:
            OptimizerError: The state belongs to another method or to other settings.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        ours, base = _parts(state_dict, self.name)
        if ours["method"] != self.name:
            raise OptimizerError(f"the saved optimizer state is of {ours['method']!r}, this optimizer is {self.name!r}")
        saved, here = ours["settings"], self.settings
        differing = [k for k in sorted(saved.keys() | here.keys()) if saved.get(k) != here.get(k)]
        if differing:
            what = ", ".join(f"{k} was {saved.get(k)!r}, is {here.get(k)!r}" for k in differing)
            raise OptimizerError(
                f"the saved {self.name} state has other settings: {what}. Use the saved ones, or load the state without its "
                f"entry {OURS!r} into optimizer.base alone"
            )
        if (ours["scaler"] is None) != (self.scaler is None):
            raise OptimizerError("the saved optimizer state has a gradient scaler and this optimizer has none, or the reverse")
        self.base.load_state_dict(base)
        if self.scaler is not None:
            self.scaler.load_state_dict(ours["scaler"])
        self.epoch = ours["epoch"]
        self._remember(ours)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies. Hooks, and what schedulers put over ``step``, stay behind as with any torch optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "step" and not key.startswith("_optimizer_")}

    def __repr__(self) -> str:
        """The method and its settings, around the base optimizer."""
        settings = ", ".join(f"{key}={value!r}" for key, value in self.settings.items())
        return f"{type(self).__name__}({settings}) around {self.base!r}"


def _parts(state: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our part of a saved state and the base optimizer's.

    Raises:
        OptimizerError: There is no part of ours.
    """
    if OURS in state:
        return state[OURS], {key: value for key, value in state.items() if key != OURS}
    if "base" in state and "method" in state:  # as it was stored until 0.1.0
        return state, state["base"]
    raise OptimizerError(
        f"the saved state has no entry {OURS!r}: it is no state of {name!r}, but perhaps of a plain torch optimizer, which "
        "loads into optimizer.base"
    )
