"""What is analysed: model, samples and loss, put together from a checkpoint's side-car or from a user's own code."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from saddlescope import load_factory

from .losses import BatchLoss, classification_loss
from .provenance import Source, file_sha256
from .results import ResultError
from .samples import Samples
from .weights import fit_weights, load_weights

SIDE_CAR_FORMAT, SIDE_CAR_VERSION = "saddlescope-checkpoint", 1


class SubjectError(ValueError):
    """Model, data or loss cannot be put together; the message names the factory and the fix."""


@dataclass(frozen=True)
class Subject:
    """A model at a checkpoint, its samples and its loss.

    Attributes:
        eta: threshold of head and tail, where the side-car tells.
        source: names for the provenance.
        notes: what was done to make the file fit.
    """

    model: nn.Module
    samples: Samples
    loss: BatchLoss
    source: Source
    eta: int | None = None
    notes: list[str] = field(default_factory=list)


def side_car_of(checkpoint: Path) -> dict[str, Any] | None:
    """The side-car beside a checkpoint, None if there is none.

    Raises:
        ResultError: damaged, of another kind or of a newer version.
    """
    path = checkpoint.with_suffix(".json")
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"{path}: not readable as JSON ({error}); train the run again or give --model and --data") from None
    if not isinstance(raw, dict) or raw.get("format") != SIDE_CAR_FORMAT:
        return None  # a JSON file of somebody else
    if raw.get("version", 0) > SIDE_CAR_VERSION:
        raise ResultError(f"{path}: version {raw['version']} is newer than {SIDE_CAR_VERSION}; update saddlescope to read it")
    return raw


def open_checkpoint(checkpoint: Path, *, data_root: str | None = None) -> Subject:
    """Everything from the side-car that training wrote beside the checkpoint.

    Args:
        checkpoint: a ``.pt`` with a ``.json`` of the same stem.
        data_root: folder to look for the data in first, instead of the one they were found in at training.

    Raises:
        SubjectError: no side-car, weights changed since, or data other than those trained on.
    """
    side_car = side_car_of(checkpoint)
    if side_car is None:
        raise SubjectError(
            f"{checkpoint}: no side-car {checkpoint.with_suffix('.json').name} beside it; give --model and --data"
        )
    digest = file_sha256(checkpoint)
    if digest != side_car["sha256"]:
        raise SubjectError(f"{checkpoint}: not the weights that its side-car describes (SHA-256 differs); train the run again")
    model = build_model(side_car["model"]["factory"], side_car["model"]["args"])
    fit_weights(model, load_weights(checkpoint), checkpoint)
    data = side_car["data"]
    arguments = data["args"] | ({"root": data_root} if data_root is not None else {})
    samples = cached_samples(data["factory"], json.dumps(arguments, sort_keys=True), len(data["class_counts"]))
    if samples.class_counts.tolist() != data["class_counts"]:
        raise SubjectError(
            f"{checkpoint}: trained on class counts {data['class_counts']}, but {data['factory']} now gives "
            f"{samples.class_counts.tolist()}; the data have changed"
        )
    loss = side_car["loss"]
    source = Source(
        checkpoint=checkpoint.name,
        checkpoint_sha256=digest,
        model=_described(side_car["model"]),
        data=data["name"],
        loss=loss["name"],
        index_sha256=data["index_sha256"],
        training=side_car["training"],
    )
    output_loss = load_factory(loss["factory"])(**loss["args"])
    return Subject(model, samples, classification_loss(output_loss), source, side_car.get("groups", {}).get("eta"))


def _described(model: Mapping[str, Any]) -> str:
    name = model["args"].get("name")
    return str(name) if name else str(model["factory"])


def build_model(reference: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Calls a model factory.

    Raises:
        SubjectError: it raised, or returned no module.
    """
    factory = load_factory(reference)
    if isinstance(factory, nn.Module):
        return factory
    model = call(factory, reference, arguments)
    if not isinstance(model, nn.Module):
        raise SubjectError(f"model factory {reference} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def call(factory: Callable[..., Any], reference: str, arguments: Mapping[str, Any]) -> Any:
    """Calls user code; what it raises comes back as one sentence that names it.

    Raises:
        SubjectError: the arguments do not fit, or the call raised.
    """
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise SubjectError(f"{reference} does not take these arguments {dict(arguments)}: {error}") from None
    except ValueError:
        pass  # a builtin without a signature
    try:
        return factory(**arguments)
    except Exception as error:
        if type(error).__module__.startswith("saddlescope."):
            raise  # says itself what is wrong
        raise SubjectError(f"{reference} raised {type(error).__name__}: {error}") from error


@lru_cache(maxsize=2)
def cached_samples(reference: str, arguments: str, num_classes: int | None) -> Samples:
    """The samples that a data factory gives, kept for the next checkpoint of the same study.

    Args:
        reference: the factory.
        arguments: its keyword arguments as JSON.
        num_classes: C, default: from the labels.
    """
    return as_samples(call(load_factory(reference), reference, json.loads(arguments)), reference, num_classes)


def as_samples(data: Any, reference: str = "data", num_classes: int | None = None) -> Samples:
    """Samples from what a data factory returned: ``(inputs, targets)``, a Dataset, a loader, or an iterable of batches.

    Raises:
        SubjectError: nothing of the kind.
        SamplesError: the data cannot be analysed (they change between two looks, hold no labels ...).
    """
    if isinstance(data, Samples):
        return data
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor | np.ndarray) for part in data):
        inputs, targets = (torch.as_tensor(part) for part in data)
        if targets.dim() == 1 and not targets.is_floating_point() and len(inputs) == len(targets):
            return Samples.from_tensors(inputs, targets, num_classes)
    if isinstance(data, torch.utils.data.DataLoader):
        if isinstance(data.dataset, torch.utils.data.IterableDataset):
            return Samples.from_batches(data, num_classes)
        return Samples.from_dataset(data.dataset, num_classes)  # its own order: a loader may shuffle and drop
    if isinstance(data, Dataset) or (
        hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, dict | str)
    ):
        first = data[0] if len(data) else None  # type: ignore[arg-type]
        batches = isinstance(data, list) and _is_batch(first)
        return Samples.from_batches(data, num_classes) if batches else Samples.from_dataset(data, num_classes)  # type: ignore[arg-type]
    if hasattr(data, "__iter__") and not isinstance(data, dict | str | Tensor):
        return Samples.from_batches(data, num_classes)
    raise SubjectError(
        f"{reference} returned {type(data).__name__}; return (inputs, targets), a Dataset of (input, label), or batches"
    )


def _is_batch(item: Any) -> bool:
    if isinstance(item, dict):
        return any(isinstance(value, Tensor) and value.dim() >= 1 for value in item.values())
    return isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], Tensor) and item[1].dim() == 1


def with_command(subject: Subject, command: str) -> Subject:
    """The same, with the command line that asked for it in the provenance."""
    return replace(subject, source=replace(subject.source, command=command))
