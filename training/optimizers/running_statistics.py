"""Running statistics of batch normalisation in steps that evaluate a batch in pieces.

Batch statistics belong to the function that is being differentiated; running statistics describe the model that will be
evaluated and must move once per step (see :mod:`~saddlescope.training.optimizers.buffers`), here by the pooled moments
of the pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


class BatchNormError(ValueError):
    """A normalisation layer does not admit the asked way of evaluating the batch."""


def _tracking(model: nn.Module) -> list[_BatchNorm | _InstanceNorm]:
    """The normalisation layers whose running statistics a forward pass would move."""
    layers = [m for m in model.modules() if isinstance(m, (_BatchNorm, _InstanceNorm))]
    return [m for m in layers if m.training and m.track_running_stats and m.running_mean is not None]


@dataclass
class _Seen:
    """One layer's buffers and momentum before, and what its sub-batches held: count, mean, unbiased variance."""

    mean: Tensor
    variance: Tensor
    tracked: Tensor | None
    momentum: float | None
    parts: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)


@contextmanager
def pooled_statistics(model: nn.Module) -> Iterator[None]:
    """The forward passes inside are sub-batches of one batch: running statistics move once, by the pooled moments.

    With counts ``n_i``, means ``m_i`` and biased variances ``v_i`` of the sub-batches, the pooled mean is
    ``m = sum n_i m_i / n`` and the pooled variance ``sum n_i (v_i + (m_i - m)^2) / n``, made unbiased by ``n / (n - 1)``:
    for a layer that sees raw inputs exactly the update of the whole batch. After an exception the buffers are as before.

    Raises:
        BatchNormError: A sub-batch holds a single value per channel (batch statistics do not exist), or the model tracks
            running statistics in an instance norm (pooling is not defined), or it is compiled (its layers run unseen).
    """
    layers: list[_BatchNorm] = []
    for layer in _tracking(model):
        if isinstance(layer, _InstanceNorm):
            raise BatchNormError(
                "split batches: pooling is not defined for InstanceNorm with running statistics; use split_batches=False"
            )
        layers.append(layer)
    seen: dict[nn.Module, _Seen] = {}
    hooks = []
    finished = False
    try:
        for layer in layers:
            mean, variance, tracked = _buffers(layer)
            copy = None if tracked is None else tracked.clone()
            seen[layer] = _Seen(mean.clone(), variance.clone(), copy, layer.momentum)
            layer.momentum = 1.0  # the buffers then hold the moments of the latest sub-batch
            hooks.append(layer.register_forward_pre_hook(_refuse_single_value))
            hooks.append(layer.register_forward_hook(lambda m, args, _out: seen[m].parts.append(_read(m, args[0]))))
        yield
        finished = True
    finally:
        for hook in hooks:
            hook.remove()
        unseen = [_put_back(layer, seen[layer], pooled=finished) for layer in layers if layer in seen]
    if any(unseen):
        raise BatchNormError("split batches: batch normalisation ran unseen, as in a compiled model; pass the model itself")


def require_pooled(changed: Sequence[tuple[nn.Module, str]]) -> None:
    """Refuses buffers that sub-batches moved one after the other.

    Args:
        changed: Modules and names of the buffers that the sub-batches changed.

    Raises:
        BatchNormError: One of them is no running statistic of batch normalisation.
    """
    for module, name in changed:
        if not isinstance(module, _BatchNorm):
            raise BatchNormError(
                f"split batches: buffer {name!r} of {type(module).__name__} moves with every pass, and how to pool it over "
                "sub-batches is not known; use split_batches=False"
            )


def _buffers(layer: _BatchNorm) -> tuple[Tensor, Tensor, Tensor | None]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var, layer.num_batches_tracked


def _count(layer: _BatchNorm, inputs: Tensor) -> int:
    """Values per channel."""
    return inputs.numel() // layer.num_features


def _refuse_single_value(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    assert isinstance(layer, _BatchNorm)
    if _count(layer, args[0]) == 1:
        raise BatchNormError(
            "split batches: a sub-batch of one sample reached a BatchNorm layer with one value per channel, where batch "
            "statistics do not exist; use a larger batch or split_batches=False"
        )


def _read(layer: nn.Module, inputs: Tensor) -> tuple[int, Tensor, Tensor]:
    assert isinstance(layer, _BatchNorm)
    mean, variance, _ = _buffers(layer)
    return _count(layer, inputs), mean.clone(), variance.clone()


@torch.no_grad()
def _put_back(layer: _BatchNorm, seen: _Seen, *, pooled: bool) -> bool:
    """Restores the layer and, if ``pooled``, moves its buffers once; returns whether it ran without being seen."""
    layer.momentum = seen.momentum
    mean, variance, tracked = _buffers(layer)
    ran = tracked is not None and seen.tracked is not None and not torch.equal(tracked, seen.tracked)
    mean.copy_(seen.mean)
    variance.copy_(seen.variance)
    if tracked is not None and seen.tracked is not None:
        tracked.copy_(seen.tracked)
    if not pooled or not seen.parts:
        return pooled and ran
    total = sum(n for n, _, _ in seen.parts)
    batch_mean, batch_variance = torch.zeros_like(mean), torch.zeros_like(variance)
    for n, m, _ in seen.parts:
        batch_mean += n / total * m
    for n, m, unbiased in seen.parts:
        batch_variance += ((n - 1) * unbiased + n * (m - batch_mean) ** 2) / (total - 1)
    factor = 0.0 if seen.momentum is None else seen.momentum
    if tracked is not None:
        tracked.add_(1)
        if seen.momentum is None:  # torch's cumulative average
            factor = 1.0 / float(tracked)
    mean.lerp_(batch_mean, factor)
    variance.lerp_(batch_variance, factor)
    return False
