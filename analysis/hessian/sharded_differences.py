"""Differences of the gradient of a model that is never whole: each process has its part of weights, gradients and vectors.

One derivative is what any sharding can do: FSDP2 in any setting, tensor parallel layers, both. Products by differences
need no more than gradients at two places (:mod:`~saddlescope.analysis.hessian.difference_products`), so the memory is that of a
training step and the vectors', over the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..krylov.linear_operator import OperatorError
from ..krylov.space import Slices, Space
from ..samples.samples import Samples
from .adding_up import require_sums
from .difference_products import DifferenceOperator
from .distributed import WorldError, everyone, speaking_of_loss, summed
from .losses import BatchLoss, loss_of
from .modules import matching_parameters
from .operator import Reduce
from .replicas import Part, require_alike, require_all
from .sharded_models import gradient_part, is_dtensor, is_sharded, local, ranges_of, reshard
from .slopes import require_slope


class ShardedDifferenceOperator(DifferenceOperator):
    """The Hessian of a sharded model by differences of the gradient, over slices of vectors.

    The model is used as it is, in its own precision; weights are moved and put back to the bit, ``grad`` is as before.
    Every process makes the same calls. Vectors come and go as this process's slices ``[local]``.

    Args:
        model: whose weights are DTensors, spread over all processes or repeated over equal parts of them. Where all processes
            have the same samples, weights that are not spread may be among them (layer norms beside tensor parallel layers).
        samples: this process's share of the samples, or all of them in every process (tensor parallel).
        loss: as for :class:`HessianOperator`.
        params: likewise.
        micro_batch: likewise.
        memory: budget in bytes, of which half at most is for the Krylov vectors; ``None``: a quarter of what is free.
        vectors: of the Krylov space.
        reduce: sums over the processes that share the samples, which are those that FSDP2 averages gradients over; None where
            all have the same samples.

    Attributes:
        space: which of the n numbers are here.

    Raises:
        OperatorError: a weight is spread in a way that is not understood, or the gradient is not that of the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        loss: BatchLoss | None = None,
        *,
        params: str | None = None,
        micro_batch: int | None = None,
        memory: int | None = 1,
        vectors: int = 0,
        reduce: Reduce | None = None,
    ) -> None:
        self.model, self.loss = model, loss_of(loss, samples)
        reshard(model)
        self.parameter_names, self._sharded = _selected(model, params, shared=reduce is not None)
        self.size = sum(p.numel() for p in self._sharded)
        self.dtype, self.device = self.parameters[0].dtype, self.parameters[0].device
        pairs = zip(self.parameter_names, self._sharded, strict=True)
        self._parts = [Part(name, p.numel(), *ranges_of(p, name)) for name, p in pairs]
        self._space = _space(self._parts, self.device)
        require_all(self._parts, self._space)
        self._vectors = -(-vectors * self._space.local // self.size)  # of whole ones, in bytes
        self._micro_batch, self._memory, self.accelerator, self._work = micro_batch, memory, None, math.inf
        self._take(samples, reduce)
        if not bool(torch.isfinite(self._space.total(self.weights().double().abs().sum().reshape(1)))):
            raise OperatorError("the weights hold NaN or infinity: the checkpoint is of a run that diverged")
        require_alike(self._parts, self.weights(), "weights", "give all the same, by a broadcast before the model is spread")
        require_sums(self)
        require_slope(self, self._parts)

    @property
    def space(self) -> Space:
        """Which of the n numbers are here."""
        return self._space

    @property
    def parameters(self) -> list[Tensor]:  # type: ignore[override]
        """This process's parts of the weights, which share their memory."""
        return [local(p) for p in self._sharded]

    def _take(self, samples: Samples, reduce: Reduce | None) -> None:
        super()._take(samples, reduce)
        self._processes, self._rounds = 1, math.ceil(samples.num_samples / self.micro_batch)
        if reduce is not None:
            self._processes = round(float(reduce(torch.ones(1))))
            # Every forward pass gathers weights, so all processes take as many as the one that takes most.
            self._rounds = max(everyone(sum(1 for _ in self._batches())))

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Mean loss, and this process's slice of its gradient.

        Raises:
            OperatorError: the loss or the gradient is not finite.
        """
        total, gradient = self._backward(self._all_rounds())
        mean = float(self._sum(total.reshape(1)).item()) / self.num_samples
        gradient = gradient / self.num_samples
        finite = bool(torch.isfinite(self.space.total(gradient.double().abs().sum().reshape(1))))
        if not math.isfinite(mean) or not finite:
            raise OperatorError(f"the loss ({mean}) or its gradient is not finite at these weights: was the run diverging?")
        return mean, gradient

    def mean_loss(self) -> float:
        """Mean loss at the current weights; may be infinite."""
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        with self.differentiable():
            for counts, batch in self._all_rounds():
                total += counts * self._value(batch)
        reshard(self.model)
        return float(self._sum(total).item()) / self.num_samples

    def sum_and_slope(self, samples: Samples, *, slope: bool = True) -> tuple[float, Tensor]:
        """Summed loss over other samples, each shape as one batch, and the slice of its gradient (empty without ``slope``).

        Of those of all processes that share samples: each gives some of its own.
        """
        batches = ((1.0, batch) for batch in samples.batches(samples.num_samples, self.device, self.dtype))
        if slope:
            total, gradient = self._backward(batches)
        else:
            total, gradient = torch.zeros((), dtype=torch.float64, device=self.device), torch.zeros(0, device=self.device)
            with self.differentiable():
                for _, batch in batches:
                    total += self._value(batch)
            reshard(self.model)
        return float(self._sum(total.reshape(1)).item()), gradient

    def look(self, vectors: Mapping[str, Tensor] | None = None, *, seed: int = 0) -> list[str]:
        """Nothing: the gradient was held against the loss when the operator was made, and products measure their own error.

        A look at a few samples of each process would end sooner in one than in another, and every pass gathers weights.
        """
        return []

    def with_model(self, model: nn.Module, *, memory: int | None = 1) -> Any:
        """Nothing: there is no other model of these parts.

        Raises:
            OperatorError: always.
        """
        raise OperatorError("a sharded model has no copy in float64")

    def in_float64(self, memory: int | None = 1) -> Any:
        """Likewise nothing.

        Raises:
            OperatorError: always.
        """
        return self.with_model(self.model)

    def _losses(self, batch: Any) -> Tensor:
        try:
            losses = super()._losses(batch)
        except OperatorError as error:
            try:
                with speaking_of_loss():  # weights could not be gathered, perhaps
                    raise error.__cause__ or error
            except WorldError:
                raise
            except Exception:
                raise error from error.__cause__
        whole: Tensor = losses.full_tensor() if is_dtensor(losses) else losses  # type: ignore[attr-defined]
        return whole

    def _backward(self, batches: Iterator[tuple[float, Any]]) -> tuple[Tensor, Tensor]:
        """Sum of the losses here, and the slice of the gradient of the sum everywhere."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        held = [(p, p.grad) for p in self.model.parameters()]
        for p, _ in held:
            p.grad = None
        try:
            with self.differentiable():
                for counts, batch in batches:
                    loss = self.batch_loss(batch)
                    total += counts * loss.detach()
                    with _speaking_of_backward(), speaking_of_loss():
                        (counts * loss).backward()
            with speaking_of_loss():
                parts = [gradient_part(p) for p in self._sharded]
        finally:
            reshard(self.model)
            for p, before in held:
                p.grad = before
        # FSDP2 hands out the mean over the processes that share the samples.
        return total, torch.cat([part.reshape(-1) for part in parts]) * self._processes

    def _all_rounds(self) -> Iterator[tuple[float, Any]]:
        """Micro-batches, each with 1; with 0 where other processes have one more."""
        taken, first = 0, None
        for batch in self._batches():
            first = batch if first is None else first
            taken += 1
            yield 1.0, batch
        for _ in range(self._rounds - taken):
            yield 0.0, first


@contextmanager
def _speaking_of_backward() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise OperatorError(f"the backward pass failed: {type(error).__name__}: {error}") from error


def _selected(model: nn.Module, pattern: str | None, *, shared: bool) -> tuple[list[str], list[nn.Parameter]]:
    chosen = matching_parameters(model, pattern)
    if not is_sharded(model):
        raise OperatorError("no parameter of the model is spread over the processes: take DifferenceOperator")
    plain = [name for name, p in chosen if not is_dtensor(p)]
    if plain and shared:  # nothing says whether their gradients are sums or means over these processes, or neither
        raise OperatorError(
            f"parameter '{plain[0]}' is not spread over the processes, which have different samples: shard all of the model, "
            "or give every process the same samples and no 'reduce'"
        )
    return [name for name, _ in chosen], [p for _, p in chosen]


def _space(parts: Sequence[Part], device: torch.device) -> Slices:
    ranges, holders, place = list[tuple[int, int]](), list[Tensor](), 0
    for part in parts:
        ranges += [(place + begin, place + to) for begin, to in part.ranges]
        holders.append(torch.full((part.local,), float(part.holders), dtype=torch.float64))
        place += part.size
    once = all(part.holders == 1 for part in parts)
    return Slices(place, ranges, partial(summed, device=device), None if once else torch.cat(holders))
