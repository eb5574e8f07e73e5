"""Losses and hits of all samples at the model's present weights, in one pass without gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..samples.labels import LabelError, labels_in
from ..samples.samples import Samples, batch_size
from .losses import BatchLoss, ClassificationLoss, loss_of, summed
from .modules import evaluation_mode, without_gradients
from .outputs import OutputError, find_logits

#: name -> mean over the group, None where not finite or not defined
Means = dict[str, float | None]


@dataclass(frozen=True)
class PerSample:
    """What is known of every sample by itself.

    Attributes:
        losses: ``[N]``; None where the loss returns means over batches.
        right: ``[N]``, whether the largest logit is the label's; None where there is no such thing as accuracy.
    """

    losses: np.ndarray | None
    right: np.ndarray | None


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
        Losses, and accuracies (``None`` where there is no such thing, see :func:`per_sample`).
    """
    loss = loss_of(loss, samples)
    found = per_sample(model, samples, loss, device=device, dtype=dtype, size=size)
    if found.losses is None:
        parts = {name: samples.subset(rows) for name, rows in indices.items()}
        means = {name: _batch_means(model, part, loss, device, dtype, size) for name, part in parts.items()}
    else:
        means = {name: float(found.losses[rows].mean()) for name, rows in indices.items()}
    shares: Means = {name: None if found.right is None else float(found.right[rows].mean()) for name, rows in indices.items()}
    return {name: value if math.isfinite(value) else None for name, value in means.items()}, shares


def per_sample(
    model: nn.Module, samples: Samples, loss: BatchLoss, *, device: torch.device, dtype: torch.dtype, size: int = 256
) -> PerSample:
    """Loss and hit of every sample, in one pass.

    Hits are counted where the model returns one logit for each class, the batch holds the classes, and the loss depends on
    them: that of a regression, or of several labels a sample, has no accuracy.

    Args:
        model: its eval mode is used.
        samples: all of them.
        loss: one that returns batch means tells nothing here.
        device: where the model is.
        dtype: of the floating-point inputs.
        size: samples a batch.
    """
    loss = loss_of(loss, samples)
    outputs: list[Any] = []
    hook = model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    losses: list[np.ndarray] = []
    hits: list[np.ndarray] = []
    counts = True
    try:
        with evaluation_mode(model):
            for batch in samples.batches(size, device, dtype):
                outputs.clear()
                values = without_gradients(partial(loss, model, batch))
                if values.dim() == 0:
                    return PerSample(None, None)
                summed(values, batch_size(batch))  # refuses any other shape
                losses.append(values.double().cpu().numpy())
                counts = counts and (pair := _logits_and_labels(outputs, batch, loss, samples.num_classes)) is not None
                if counts and not hits:
                    counts = _depends_on_labels(model, loss, batch, values, samples.num_classes)
                if counts and pair is not None:
                    hits.append((pair[0].argmax(1) == pair[1]).cpu().numpy())
    finally:
        hook.remove()
    return PerSample(np.concatenate(losses), np.concatenate(hits) if counts else None)


def _logits_and_labels(outputs: list[Any], batch: Any, loss: BatchLoss, num_classes: int) -> tuple[Tensor, Tensor] | None:
    """What accuracy is counted on; None where model or batch are not a classifier's."""
    classifies = isinstance(loss, ClassificationLoss)
    try:
        found = loss.find_logits(outputs[-1]) if isinstance(loss, ClassificationLoss) else find_logits(outputs[-1], num_classes)
        labels = labels_in(batch, loss.labels, loss.beside) if isinstance(loss, ClassificationLoss) else labels_in(batch)
    except (LabelError, OutputError, LookupError, TypeError):
        return None
    logits = found.tensor
    # A classifier may have more outputs than the labels show classes; of anything else that would be a guess.
    columns = logits.dim() == 2 and logits.shape[1] >= 2 and (logits.shape[1] == num_classes or classifies)
    fits = columns and isinstance(labels, Tensor) and labels.shape == logits.shape[:1] and not labels.is_floating_point()
    return (logits, labels) if fits else None


def _depends_on_labels(model: nn.Module, loss: BatchLoss, batch: Any, values: Tensor, num_classes: int) -> bool:
    """Whether losses change with the classes: a loss of somebody's own may only group by it."""
    if isinstance(loss, ClassificationLoss):
        return True
    labels = labels_in(batch)
    others = tree_map(lambda leaf: (leaf + 1) % num_classes if leaf is labels else leaf, batch)
    return bool((without_gradients(lambda: loss(model, others)) != values).any())


def _batch_means(
    model: nn.Module, samples: Samples, loss: BatchLoss, device: torch.device, dtype: torch.dtype, size: int
) -> float:
    total = 0.0
    with evaluation_mode(model):
        for batch in samples.batches(size, device, dtype):
            total += float(summed(without_gradients(partial(loss, model, batch)), batch_size(batch)))
    return total / samples.num_samples
