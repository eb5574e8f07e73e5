"""The forward and backward passes of one optimizer step, and moving the weights between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .data_parallel import Gradient

#: ``loss(outputs [n, C], targets [n]) -> per-sample losses [n]``
PerSampleLoss = Callable[[Tensor, Tensor], Tensor]
#: a tensor ``[n, ...]`` (``model(x)``), named tensors (``model(**x)``) or several (``model(*x)``)
Inputs = Tensor | Mapping[str, Any] | Sequence[Any]

#: Guards the division by a gradient norm; any larger norm is used as it is.
NORM_FLOOR = 1e-16


class OptimizerError(ValueError):
    """An optimizer was given settings, data or a loss that it cannot work with."""


@dataclass
class Passes:
    """Evaluates one model on the samples of one step and counts what it costs.

    Attributes:
        model: Inputs to logits.
        loss: Per-sample loss.
        parameters: The trainable parameters, in the order of every gradient.
        batch: Number of samples of the step (the unit of the counts).
        autocast: Dtype of mixed precision, or ``None``. Every forward pass has its own autocast region.
        scale: Loss scale (a tensor without dimensions) or ``None``; gradients come back unscaled.
        forwards: Forward passes so far, in units of the whole batch (a sub-batch counts by its samples).
        backwards: Backward passes so far, likewise.
    """

    model: nn.Module
    loss: PerSampleLoss
    parameters: list[nn.Parameter]
    batch: int
    autocast: torch.dtype | None = None
    scale: Tensor | None = None
    forwards: float = 0.0
    backwards: float = 0.0

    @property
    def weight_dtype(self) -> torch.dtype:
        """Dtype of per-sample weights: the parameters' own, float32 at least."""
        return torch.promote_types(self.parameters[0].dtype, torch.float32)

    def precision(self, device: torch.device) -> AbstractContextManager[object]:
        """The mixed-precision region of one forward pass."""
        return nullcontext() if self.autocast is None else torch.autocast(device.type, dtype=self.autocast)

    def forward(self, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[n, C]`` and per-sample losses ``[n]`` with their graph."""
        # Outside an own region autocast keeps the low-precision copies of the weights: those of w would be used at w + eps.
        torch.clear_autocast_cache()
        with self.precision(targets.device):
            outputs = evaluate(self.model, inputs)
            losses = self.loss(outputs, targets)
        if losses.shape != targets.shape[:1]:
            raise OptimizerError(
                f"the loss function must return one loss per sample (shape ({targets.shape[0]},)), it returned shape "
                f"{tuple(losses.shape)}; build it with reduction='none' or training.losses.build_loss"
            )
        self.forwards += targets.shape[0] / self.batch
        return outputs, losses

    def gradient(self, losses: Tensor, weights: Tensor, *, retain: bool = False) -> Gradient:
        """Gradient of ``sum_i weights_i losses_i``; ``None`` for a parameter that the loss does not depend on."""
        gradient = self.scaled_gradient((losses * weights).sum(), self.parameters, retain=retain)
        self.backwards += losses.shape[0] / self.batch
        return gradient

    def scaled_gradient(self, total: Tensor, parameters: Sequence[Tensor], *, retain: bool = False) -> Gradient:
        """Gradient of a scalar, taken through the loss scale; does not count as a pass."""
        if self.scale is not None:
            total = total * self.scale.to(total.device)
        found: Gradient = list(torch.autograd.grad(total, parameters, retain_graph=retain, allow_unused=True))
        if self.scale is None:
            return found
        inverse: Tensor = self.scale.reciprocal()  # exact for the usual powers of two
        return [None if g is None else g * inverse.to(g) for g in found]


def evaluate(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's logits.

    Raises:
        OptimizerError: It returned neither a tensor nor something with ``logits``.
    """
    if isinstance(inputs, Tensor):
        outputs = model(inputs)
    else:
        outputs = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    logits = outputs
    if not isinstance(outputs, Tensor):
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise OptimizerError(
            f"the model returned {type(outputs).__name__}; it must return its logits [n, C], or an object with .logits: wrap "
            "it in a module whose forward does"
        )
    return logits


def joint_norm(gradient: Gradient) -> Tensor | None:
    """Euclidean norm over all parameters together (float32 or better), ``None`` if there is no gradient at all."""
    present = [g.float() if g.dtype in (torch.float16, torch.bfloat16) else g for g in gradient if g is not None]
    if not present:
        return None
    norms = torch._foreach_norm(present)
    joint: Tensor = torch.linalg.vector_norm(torch.stack([n.to(norms[0]) for n in norms]))
    return joint


def added(first: Gradient | None, second: Gradient) -> Gradient:
    """Sum of two gradients."""
    if first is None:
        return second
    return [b if a is None else a if b is None else a + b for a, b in zip(first, second, strict=True)]


def scaled_to(gradient: Gradient, rho: float | Tensor) -> Gradient:
    """``rho g / ||g||``; nothing moves where there is no gradient at all."""
    norm = joint_norm(gradient)
    if norm is None:
        return gradient
    scale = rho / norm.clamp(min=NORM_FLOOR)
    return [None if g is None else g * scale.to(g) for g in gradient]


@contextmanager
def perturbed(parameters: Sequence[nn.Parameter], move: Gradient) -> Iterator[None]:
    """Inside, the weights are ``w + move``; on the way out they are bit for bit ``w``, also after an exception."""
    moved = [(p, m) for p, m in zip(parameters, move, strict=True) if m is not None]
    if not moved:
        yield
        return
    weights: list[Tensor] = [p for p, _ in moved]
    with torch.no_grad():
        saved = [p.clone() for p in weights]
        torch._foreach_add_(weights, [m for _, m in moved])
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, saved)


def dot(first: Gradient, second: Gradient) -> Tensor:
    """Inner product of two gradients, in float32 or better; 0 if they share no parameter."""
    products = [
        torch.dot(a.reshape(-1).to(_wide(a)), b.reshape(-1).to(_wide(b)))
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    ]
    return torch.stack([p.to(products[0]) for p in products]).sum() if products else torch.zeros(())


def combined(a: Tensor | float, first: Gradient, b: Tensor | float, second: Gradient) -> Gradient:
    """``a first + b second``."""

    def times(factor: Tensor | float, g: Tensor) -> Tensor:
        return g * (factor.to(g) if isinstance(factor, Tensor) else factor)

    scaled = [[None if g is None else times(factor, g) for g in gradient] for factor, gradient in ((a, first), (b, second))]
    return added(*scaled)


def _wide(g: Tensor) -> torch.dtype:
    return torch.promote_types(g.dtype, torch.float32)
