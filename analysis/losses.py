"""What is averaged: a loss of a model on a batch, one number per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

#: ``loss(model, batch) -> [n]``, one number per sample. A scalar is taken as the mean over the batch.
BatchLoss = Callable[[nn.Module, Any], Tensor]
#: ``loss(outputs [n, C], targets [n]) -> [n]``
OutputLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-sample cross-entropy ``[n]`` of logits ``[n, C]``."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def classification_loss(output_loss: OutputLoss = cross_entropy) -> BatchLoss:
    """The loss of a classifier on ``(inputs, targets)`` batches."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return output_loss(model(inputs), targets)

    return loss


class LossError(ValueError):
    """A loss returned something that cannot be averaged over samples."""


def summed(losses: Tensor, samples: int) -> Tensor:
    """Sum over a batch of ``samples`` samples; a scalar is taken as their mean.

    Raises:
        LossError: neither a scalar nor ``[samples]``.
    """
    if losses.dim() == 0:
        return losses * samples
    if losses.shape != (samples,):
        raise LossError(
            f"the loss returned shape {tuple(losses.shape)} for {samples} samples; return one number per sample or their mean"
        )
    return losses.sum()
