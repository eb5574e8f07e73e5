"""What is averaged: a loss of a model on a batch, one number per sample."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..records.results import Choice
from ..samples.labels import label_key, label_place
from ..samples.samples import Samples
from .modules import evaluation_mode
from .outputs import Logits, find_logits

#: ``loss(model, batch) -> [n]``, one number per sample. A scalar is taken as the mean over the batch.
BatchLoss = Callable[[nn.Module, Any], Tensor]
#: ``loss(outputs [n, C], targets [n]) -> [n]``
OutputLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-sample cross-entropy ``[n]`` of logits ``[n, C]``."""
    return functional.cross_entropy(outputs, targets, reduction="none")


class ClassificationLoss:
    """The loss of a classifier; a class rather than a closure so that PyHessian can be given ``output_loss``.

    Batches are ``(inputs, targets)``, or dictionaries as text models take them: the model is called with every entry but the
    labels. Which part of its output the logits are is decided by :func:`~saddlescope.analysis.hessian.outputs.find_logits`.

    Args:
        output_loss: per-sample loss of the logits; default: cross-entropy.
        logits: which part of the model's output the logits are, by index or name; default: decided by shape.
        labels: key of the class labels in dictionary batches, or their index in a pair; default: one of the usual keys, and
            the second of a pair.
        num_classes: C, by which shapes are told apart; :meth:`of_samples` sets it.

    Attributes:
        beside: entries of a batch that are neither inputs nor labels: columns that groups are made of.
    """

    def __init__(
        self,
        output_loss: OutputLoss = cross_entropy,
        *,
        logits: int | str | None = None,
        labels: int | str | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.output_loss = output_loss
        self.logits, self.labels, self.num_classes = logits, labels, num_classes
        self.beside: tuple[str, ...] = ()

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Per-sample losses ``[n]``.

        Raises:
            LossError: the batch is neither a pair nor a dictionary.
            LabelError: its labels cannot be told.
            OutputError: the logits cannot be told among the parts of the output.
        """
        outputs, targets = self.outputs_and_targets(model, batch)
        return self.output_loss(self.find_logits(outputs).tensor, targets)

    def of_samples(self, samples: Samples) -> ClassificationLoss:
        """The same loss, told how many classes there are, and what of a batch is not for the model.

        Raises:
            SamplesError: cross-entropy, of samples that have no classes.
        """
        if self.output_loss is cross_entropy:
            samples.require_classes()
        told = copy.copy(self)
        told.num_classes, told.beside = None if samples.unlabelled else samples.num_classes, tuple(samples.columns)
        return told

    def find_logits(self, outputs: Any) -> Logits:
        """The logits in what the model returned."""
        return find_logits(outputs, self.num_classes, self.logits)

    def outputs_and_targets(self, model: nn.Module, batch: Any) -> tuple[Any, Tensor]:
        """What the model returns for a batch, and the batch's labels."""
        if isinstance(batch, Mapping):
            name = label_key(batch, self.labels)
            inputs = {key: value for key, value in batch.items() if key != name and key not in self.beside}
            return model(**inputs), _classes(batch[name])
        parts = [at for at in range(len(batch)) if str(at) not in self.beside]
        if len(parts) != 2:
            raise LossError(
                f"batches of {len(batch)} parts: which of them the model takes is not known; give pairs (inputs, targets), "
                "dictionaries, or a loss(model, batch) that takes these"
            )
        place = label_place(batch, self.labels, self.beside)
        return model(batch[sum(parts) - place]), _classes(batch[place])


def _classes(targets: Tensor) -> Tensor:
    """Whole numbers of any type as int64, the one that torch's losses take."""
    return targets if targets.is_floating_point() else targets.long()


def classification_loss(output_loss: OutputLoss = cross_entropy) -> ClassificationLoss:
    """The loss of a classifier from a per-sample loss of its logits."""
    return ClassificationLoss(output_loss)


def with_logits(loss: BatchLoss | None, logits: int | str | None) -> BatchLoss | None:
    """The loss, told which part of the model's output the logits are.

    Raises:
        LossError: a loss of the form loss(model, batch), which takes them by itself.
    """
    if logits is None:
        return loss
    told = copy.copy(loss or ClassificationLoss())
    if not isinstance(told, ClassificationLoss):
        raise LossError("logits (--logits) is for losses of (logits, targets); a loss(model, batch) takes them by itself")
    told.logits = logits
    return told


def logits_choice(loss: BatchLoss, model: nn.Module, samples: Samples) -> Choice | None:
    """Which part of the model's output the loss takes as the logits, by one batch; None where there is but one."""
    if not isinstance(loss, ClassificationLoss):
        return None
    tensor = next(model.parameters(), torch.empty(0))
    batch = next(samples.subset(np.arange(min(2, samples.num_samples))).batches(2, tensor.device, tensor.dtype))
    with evaluation_mode(model), torch.no_grad():
        try:
            outputs, _ = loss.outputs_and_targets(model, batch)
        except Exception:  # said, with its cause, by whoever needs the loss
            return None
    found = loss.find_logits(outputs)
    if found.part is None:
        return None
    told = loss.logits is not None
    return Choice(
        name="logits", value=f"part '{found.part}' of the model's output, {found.why}", flag="--logits", guessed=not told
    )


def loss_of(loss: BatchLoss | None, samples: Samples) -> BatchLoss:
    """The loss that is meant (default: cross-entropy), told of the samples what it can use.

    Raises:
        SamplesError: as :meth:`ClassificationLoss.of_samples`.
    """
    loss = loss or ClassificationLoss()
    return loss.of_samples(samples) if isinstance(loss, ClassificationLoss) else loss


class LossError(ValueError):
    """A loss returned something that cannot be averaged over samples."""


def summed(losses: Tensor, samples: int) -> Tensor:
    """Sum over a batch of ``samples`` samples; a scalar is taken as their mean.

    Raises:
        LossError: neither a scalar nor ``[samples]``.
    """
    if not isinstance(losses, Tensor):
        raise LossError(f"the loss returned {type(losses).__name__}; return one number per sample, or their mean, as a tensor")
    if losses.dim() == 0:
        return losses * samples
    if losses.shape != (samples,):
        raise LossError(
            f"the loss returned shape {tuple(losses.shape)} for {samples} samples; return one number per sample or their mean"
        )
    return losses.sum()
