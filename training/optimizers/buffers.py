"""The buffers of a model in steps that evaluate it more than once.

A step of the SAM family runs the model at the weights and at perturbed weights. Running statistics, the vectors of a power
iteration (``spectral_norm``) and queues of earlier samples describe the model that will be evaluated: they must move once per
step, by the pass at the unperturbed weights. And the function that is differentiated at perturbed weights must be the one at
the weights: a queue that already holds this batch makes it another. So every pass begins with the buffers of before the step,
and the step ends with those that the first pass left. This holds for whatever is a registered buffer, written in place or
replaced; state that a module keeps elsewhere (plain attributes) cannot be seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Kept:
    """One buffer: where it hangs, the tensor itself and its values."""

    module: nn.Module
    name: str
    tensor: Tensor | None
    values: Tensor | None


def _kept(model: nn.Module) -> list[_Kept]:
    found = [(module, name, tensor) for module in model.modules() for name, tensor in module._buffers.items()]
    values = [None if tensor is None else torch.empty_like(tensor) for _, _, tensor in found]
    _copy([(to, tensor) for to, (_, _, tensor) in zip(values, found, strict=True) if to is not None and tensor is not None])
    return [_Kept(*place, copy) for place, copy in zip(found, values, strict=True)]


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copies each second tensor into the first, in few kernels."""
    alike: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for to, source in pairs:
        # .data: a graph that has saved a constant buffer must not take this for a change of it
        alike[to.dtype, to.device].append((to.data, source.data))
    for same in alike.values():
        torch._foreach_copy_([to for to, _ in same], [source for _, source in same])


class Buffers:
    """The buffers of a model before a step, and after its first pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = _kept(model)
        self._after: list[_Kept] | None = None

    def moved(self) -> None:
        """What is there now is what the step shall leave."""
        self._after = _kept(self._model)

    def rewind(self) -> None:
        """As before the step, for the next pass."""
        _restore(self._before)

    def settle(self) -> None:
        """As at the call of :meth:`moved`; if there was none, as before the step."""
        _restore(self._before if self._after is None else self._after)

    def changed(self) -> list[tuple[nn.Module, str]]:
        """Which differ from before the step, by module and name."""
        return [
            (kept.module, kept.name)
            for kept in self._before
            if (now := kept.module._buffers.get(kept.name)) is not kept.tensor
            or (now is not None and kept.values is not None and not torch.equal(now, kept.values))
        ]


def _restore(kept: list[_Kept]) -> None:
    for item in kept:
        if item.module._buffers.get(item.name) is not item.tensor:
            item.module._buffers[item.name] = item.tensor
    _copy([(item.tensor, item.values) for item in kept if item.tensor is not None and item.values is not None])


@contextmanager
def buffers_move_once(model: nn.Module) -> Iterator[Buffers]:
    """Inside, call ``moved`` after the pass at the weights and ``rewind`` before each other one.

    On the way out buffers are as at the call of ``moved``; after an exception before that call, as before the step.
    """
    buffers = Buffers(model)
    try:
        yield buffers
    finally:
        buffers.settle()
