"""What is averaged: a loss of a model on a batch, one number per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

#: ``loss(model, batch) -> [n]``, one number per sample. A scalar is taken as the mean over the batch.
BatchLoss = Callable[[nn.Module, Any], Tensor]
#: ``loss(outputs [n, C], targets [n]) -> [n]``
OutputLoss = Callable[[Tensor, Tensor], Tensor]
#: where dictionary batches keep the class labels
LABEL_KEYS = ("labels", "label", "targets", "target")


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-sample cross-entropy ``[n]`` of logits ``[n, C]``."""
    return functional.cross_entropy(outputs, targets, reduction="none")


class ClassificationLoss:
    """The loss of a classifier; a class rather than a closure so that PyHessian can be given ``output_loss``.

    Batches are ``(inputs, targets)``, or dictionaries as text models take them: the model is called with every entry but the
    labels, and its output may carry the logits as ``.logits`` or ``["logits"]``.

    Args:
        output_loss: per-sample loss of the logits; default: cross-entropy.
    """

    def __init__(self, output_loss: OutputLoss = cross_entropy) -> None:
        self.output_loss = output_loss

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Per-sample losses ``[n]``."""
        if isinstance(batch, Mapping):
            name = label_key(batch)
            outputs = model(**{key: value for key, value in batch.items() if key != name})
            return self.output_loss(logits_of(outputs), batch[name])
        if len(batch) != 2:
            raise LossError(f"batches of {len(batch)} parts: give (inputs, targets), or a loss(model, batch) that takes these")
        inputs, targets = batch
        return self.output_loss(logits_of(model(inputs)), targets)


def classification_loss(output_loss: OutputLoss = cross_entropy) -> ClassificationLoss:
    """The loss of a classifier from a per-sample loss of its logits."""
    return ClassificationLoss(output_loss)


def label_key(batch: Mapping[str, Any]) -> str:
    """The key of the class labels in a dictionary batch.

    Raises:
        LossError: none of ``labels``, ``label``, ``targets``, ``target``.
    """
    for key in LABEL_KEYS:
        if key in batch:
            return key
    raise LossError(f"no labels in a batch with {', '.join(batch)}; name them 'labels' or give a loss(model, batch)")


def logits_of(outputs: Any) -> Tensor:
    """The logits in what a model returned: a tensor, ``.logits``, ``["logits"]``, or the first of a tuple.

    Raises:
        LossError: nothing of the kind.
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = getattr(outputs, "logits", None)
    if found is None and isinstance(outputs, Mapping):
        found = outputs.get("logits")
    if found is None and isinstance(outputs, tuple | list) and outputs:
        found = outputs[0]
    if not isinstance(found, Tensor):
        raise LossError(f"the model returned {type(outputs).__name__} without logits; give a loss(model, batch)")
    return found


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
