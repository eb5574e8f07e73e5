"""Running statistics of normalisation layers in steps that evaluate the model more than once.

A step of the SAM family runs the model at the weights and at perturbed weights. Batch statistics are right in both (they
belong to the function that is being differentiated), but running statistics describe the model that will be evaluated: they
must move once per step, from the pass at the unperturbed weights. Calling ``model.eval()`` in the perturbed pass would
instead change the function.
"""

from __future__ import annotations

from collections.abc import Iterator
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


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Forward passes inside leave running statistics as they are; batch statistics are used as before.

    The layers' flags are restored on the way out, also after an exception. Layers in eval mode are not touched.
    """
    layers = _tracking(model)
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            if isinstance(layer, _BatchNorm):
                layer.track_running_stats = False  # normalises by the batch and hands no buffer to the kernel
            else:
                layer.momentum = 0.0  # instance norm would normalise by the same values but still write its buffers
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            if isinstance(layer, _BatchNorm):
                layer.track_running_stats = True
            else:
                layer.momentum = momentum


@dataclass
class _Moments:
    """What one layer saw: its buffers before, and count, mean, unbiased variance of every sub-batch."""

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
    for a layer that sees raw inputs exactly the update of the whole batch.

    Raises:
        BatchNormError: A sub-batch holds a single value per channel (batch statistics do not exist), or the model tracks
            running statistics in an instance norm, for which pooling is not defined.
    """
    layers = _tracking(model)
    if any(isinstance(layer, _InstanceNorm) for layer in layers):
        raise BatchNormError(
            "split batches: the model holds an InstanceNorm with running statistics, whose update over sub-batches is not defined; use split_batches=False"
        )
    moments: dict[nn.Module, _Moments] = {}
    hooks = []
    finished = False
    try:
        for layer in layers:
            assert layer.running_mean is not None and layer.running_var is not None
            tracked = layer.num_batches_tracked
            moments[layer] = _Moments(
                layer.running_mean.clone(),
                layer.running_var.clone(),
                None if tracked is None else tracked.clone(),
                layer.momentum,
            )
            layer.momentum = 1.0  # the buffers then hold the moments of the latest sub-batch
            hooks.append(layer.register_forward_pre_hook(_refuse_single_value))
            hooks.append(layer.register_forward_hook(lambda m, args, _out: moments[m].parts.append(_read(m, args[0]))))
        yield
        finished = True
    finally:
        for hook in hooks:
            hook.remove()
        for layer, seen in moments.items():
            _write(layer, seen, pooled=finished)


def _count(layer: nn.Module, inputs: Tensor) -> int:
    return inputs.numel() // int(layer.num_features)  # type: ignore[call-overload, no-any-return]


def _refuse_single_value(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    if _count(layer, args[0]) == 1:
        raise BatchNormError(
            "split batches: a sub-batch of one sample reached a BatchNorm layer with one value per channel, where batch "
            "statistics do not exist; use a larger batch or split_batches=False"
        )


def _read(layer: nn.Module, inputs: Tensor) -> tuple[int, Tensor, Tensor]:
    return _count(layer, inputs), layer.running_mean.clone(), layer.running_var.clone()  # type: ignore[operator, union-attr]


@torch.no_grad()
def _write(layer: nn.Module, seen: _Moments, *, pooled: bool) -> None:
    """Puts the layer's buffers back and, after a clean exit, moves them once by the pooled moments."""
    layer.momentum = seen.momentum  # type: ignore[assignment]
    mean, variance, tracked = layer.running_mean, layer.running_var, layer.num_batches_tracked
    assert isinstance(mean, Tensor) and isinstance(variance, Tensor)
    mean.copy_(seen.mean)
    variance.copy_(seen.variance)
    if seen.tracked is not None:
        assert isinstance(tracked, Tensor)
        tracked.copy_(seen.tracked)
    if not pooled or not seen.parts:
        return
    total = sum(n for n, _, _ in seen.parts)
    batch_mean = sum((n * m for n, m, _ in seen.parts), torch.zeros_like(mean)) / total
    batch_variance = torch.zeros_like(variance)
    for n, m, unbiased in seen.parts:
        batch_variance += (unbiased * (n - 1) + n * (m - batch_mean) ** 2) / (total - 1)
    factor = seen.momentum
    if seen.tracked is not None:
        assert isinstance(tracked, Tensor)
        tracked.add_(1)
        factor = 1.0 / float(tracked) if factor is None else factor
    mean.lerp_(batch_mean, factor if factor is not None else 0.0)
    variance.lerp_(batch_variance, factor if factor is not None else 0.0)
