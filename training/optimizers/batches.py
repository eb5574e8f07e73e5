"""The forms that a batch may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .passes import Inputs, OptimizerError

#: ``(inputs, labels [n])``, or a dictionary that holds the labels under one of ``LABELS`` and the inputs by name
Batch = tuple[Inputs, Tensor] | Sequence[Any] | Mapping[str, Any]
LABELS = ("labels", "label", "targets", "target")


def split_labels(batch: Batch) -> tuple[Inputs, Tensor]:
    """Inputs and labels of a batch.

    Raises:
        OptimizerError: Of none of the forms, empty, or of parts that differ in their number of samples.
    """
    inputs: Any
    if isinstance(batch, Mapping):
        found = [key for key in LABELS if key in batch]
        if len(found) != 1:
            raise OptimizerError(
                f"a batch that is a dictionary has its labels under one of {', '.join(LABELS)}; this one has the keys "
                f"{', '.join(map(str, batch))}. Give (inputs, labels) instead"
            )
        inputs, targets = {key: value for key, value in batch.items() if key != found[0]}, batch[found[0]]
    elif isinstance(batch, Sequence) and len(batch) == 2:
        inputs, targets = batch
    else:
        parts = f"of {len(batch)} parts" if isinstance(batch, Sequence) else f"of type {type(batch).__name__}"
        raise OptimizerError(f"a batch is (inputs [n, ...], labels [n]) or a dictionary with its labels; got one {parts}")
    sizes = _sizes(inputs)
    if not isinstance(targets, Tensor) or targets.ndim != 1 or len(targets) == 0 or any(n != len(targets) for n in sizes):
        labels = f"labels of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else f"labels {targets!r}"
        raise OptimizerError(
            f"a batch is (inputs [n, ...], labels [n]) with n > 0; inputs of {', '.join(map(str, sizes))} samples, {labels}"
        )
    return inputs, targets


def _sizes(inputs: Inputs) -> list[int]:
    """Number of samples by each tensor of the inputs."""
    if isinstance(inputs, Tensor):
        return [len(inputs)]
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs
    return [len(part) for part in parts if isinstance(part, Tensor) and part.ndim > 0]


def take(inputs: Inputs, index: Tensor) -> Inputs:
    """The samples of an index ``[m]``; what is no tensor of samples goes along as it is."""
    if isinstance(inputs, Tensor):
        return inputs[index]
    if isinstance(inputs, Mapping):
        return {key: _taken(value, index) for key, value in inputs.items()}
    return tuple(_taken(value, index) for value in inputs)


def _taken(value: Any, index: Tensor) -> Any:
    return value[index] if isinstance(value, Tensor) and value.ndim > 0 else value
