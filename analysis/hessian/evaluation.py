"""Losses and hits of all samples at the model's present weights, in one pass without gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..samples.samples import Samples, batch_size
from .losses import BatchLoss, LossError, label_key, logits_of, summed
from .modules import evaluation_mode, without_gradients

#: name -> mean over the group, None where not finite or not defined
Means = dict[str, float | None]


def group_means(
    model: nn.Module,
    samples: Samples,
    indices: Mapping[str, np.ndarray],
    loss: BatchLoss,
    *,
    device: torch.device,
    dtype: torch.dtype,
    size: int = 256,
) -> tuple[Means, Means]:
    """Mean loss and accuracy of every group.

    Args:
        model: its eval mode is used.
        samples: all of them.
        indices: sample indices of each group.
        loss: one number per sample; for one that returns batch means each group is passed through by itself.
        device: where the model is.
        dtype: of the floating-point inputs.
        size: samples a batch.

    Returns:
        Losses, and accuracies (``None`` where the model is no classifier of ``(inputs, targets)``).
    """
    losses, right = _per_sample(model, samples, loss, device, dtype, size)
    if losses is None:
        parts = {name: samples.subset(rows) for name, rows in indices.items()}
        means = {name: _batch_means(model, part, loss, device, dtype, size) for name, part in parts.items()}
    else:
        means = {name: float(losses[rows].mean()) for name, rows in indices.items()}
    shares: Means = {name: None if right is None else float(right[rows].mean()) for name, rows in indices.items()}
    return {name: value if math.isfinite(value) else None for name, value in means.items()}, shares


def _per_sample(
    model: nn.Module, samples: Samples, loss: BatchLoss, device: torch.device, dtype: torch.dtype, size: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    outputs: list[Any] = []
    hook = model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    losses, hits = [], []
    try:
        with evaluation_mode(model):
            for batch in samples.batches(size, device, dtype):
                outputs.clear()
                values = without_gradients(lambda batch=batch: loss(model, batch))
                if values.dim() == 0:
                    return None, None
                summed(values, batch_size(batch))  # refuses any other shape
                losses.append(values.double().cpu().numpy())
                pair = _logits_and_labels(outputs, batch)
                if pair is not None:
                    hits.append((pair[0].argmax(1) == pair[1]).cpu().numpy())
    finally:
        hook.remove()
    right = np.concatenate(hits) if len(hits) == len(losses) else None
    return np.concatenate(losses), right


def _logits_and_labels(outputs: list[Any], batch: Any) -> tuple[Tensor, Tensor] | None:
    """What accuracy is counted on; None where model or batch are not a classifier's."""
    try:
        logits = logits_of(outputs[-1]) if outputs else None
        labels = batch[label_key(batch)] if isinstance(batch, Mapping) else batch[1]
    except (LossError, LookupError, TypeError):
        return None
    fits = isinstance(logits, Tensor) and logits.dim() == 2 and isinstance(labels, Tensor) and labels.shape == logits.shape[:1]
    return (logits, labels) if fits and logits is not None else None


def _batch_means(
    model: nn.Module, samples: Samples, loss: BatchLoss, device: torch.device, dtype: torch.dtype, size: int
) -> float:
    total = 0.0
    with evaluation_mode(model):
        for batch in samples.batches(size, device, dtype):
            total += float(summed(without_gradients(lambda batch=batch: loss(model, batch)), batch_size(batch)))
    return total / samples.num_samples
