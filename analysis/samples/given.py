"""Samples of whatever somebody has at hand: tensors, a data set, a loader, batches; for the command line and the monitor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from .batches import without_names
from .columns import Column, ColumnError, beside, column_of, parse_column
from .samples import Labels, Samples, SamplesError
from .streams import of_stream


def as_samples(
    data: Any,
    reference: str = "data",
    num_classes: int | None = None,
    labels: Labels = None,
    column: str | None = None,
) -> Samples:
    """Samples from ``(inputs, targets)``, a Dataset, a loader, or an iterable of batches.

    A dictionary as the last part of a tuple holds columns, a value of each sample: ``(inputs, targets, {"domain": [...]})``,
    ``(data_set, {"domain": [...]})``.

    Args:
        data: that.
        reference: what to call it: the factory that returned it, or the argument that it is.
        num_classes: C; default: from the labels.
        labels: as for :meth:`~saddlescope.analysis.samples.samples.Samples.from_dataset`.
        column: likewise.

    Raises:
        SamplesError: nothing of the kind; the data cannot be read, or not analysed (they change between two looks ...).
        ColumnError: no such column, or it makes no groups.
    """
    name = None if column is None else parse_column(column)[0]
    if type(data) is tuple and len(data) > 1 and isinstance(data[-1], Mapping) and not isinstance(data[0], Mapping):
        *rest, columns = data
        data = rest[0] if len(rest) == 1 else tuple(rest)
        if column is not None and name in columns:
            return as_samples(data, reference, num_classes, labels).with_column(column, columns[name])
    if isinstance(data, Samples):
        if name is not None and name not in data.columns:
            there = f"they have {', '.join(data.columns)}" if data.columns else "they have none"
            raise ColumnError(f"no column {name} in the samples of {reference}: {there}; Samples.with_column gives them one")
        return data
    with _reading(reference):
        return _read(_as_tensors(data), reference, num_classes, labels, column)


def _read(data: Any, reference: str, num_classes: int | None, labels: Labels, column: str | None) -> Samples:
    if isinstance(data, tuple | list) and len(data) > 1 and all(isinstance(part, Tensor | np.ndarray) for part in data):
        parts = tuple(torch.as_tensor(part).detach().cpu() for part in data)
        return Samples.from_batches([parts], num_classes, labels, column)
    if isinstance(data, DataLoader):
        return _of_loader(data, reference, num_classes, labels, column)
    if isinstance(data, IterableDataset):
        return of_stream(data, num_classes, labels, column)
    if isinstance(data, Mapping):
        batch = without_names(data)
        if any(isinstance(value, Tensor) and value.dim() > 0 for value in batch.values()):
            return Samples.from_batches([batch], num_classes, labels, column)
    if isinstance(data, list) and data and _is_batch(data[0]):
        return Samples.from_batches(data, num_classes, labels, column)
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str)):
        return Samples.from_dataset(data, num_classes, labels, column)
    if hasattr(data, "__iter__") and not isinstance(data, dict | str | Tensor):
        return of_stream(data, num_classes, labels, column)
    raise SamplesError(
        f"{reference}: of {type(data).__name__} no samples can be made; give (inputs, targets), a Dataset of (input, label), a "
        "loader, or batches"
    )


@contextmanager
def _reading(reference: str) -> Iterator[None]:
    """What other people's data sets and collators raise comes out as one sentence."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] == "saddlescope":
            raise  # says itself what is wrong
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise SamplesError(f"{reference}: reading the samples raised {type(error).__name__}: {first}") from error


def _as_tensors(data: Any) -> Any:
    """A ``datasets.Dataset`` whose items are tensors, whatever format it is in; anything else as it is."""
    kind = type(data)
    if kind.__module__.split(".")[0] == "datasets" and hasattr(data, "with_format") and hasattr(data, "column_names"):
        return data.with_format("torch")
    return data


def _of_loader(loader: DataLoader[Any], reference: str, num_classes: int | None, labels: Labels, column: str | None) -> Samples:
    """All samples of a loader in the order of its data set: a loader may shuffle and drop, and neither may count.

    Raises:
        SamplesError: the loader draws its samples, so that nobody knows which they are; or it augments.
    """
    if isinstance(loader.dataset, IterableDataset):
        return of_stream(loader, num_classes, labels, column)
    # A batch sampler that was given has a sampler of its own, and the loader's is another one, which it does not use.
    sampler: Any = loader.sampler if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", None)
    shuffles = isinstance(sampler, RandomSampler) and not sampler.replacement
    plain = loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler
    once = (shuffles or isinstance(sampler, SequentialSampler)) and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
    if not plain or not once:
        name = type(sampler if plain else loader.batch_sampler).__name__
        raise SamplesError(
            f"{reference}: a loader whose {name} chooses the samples; give the data set, or a Subset of it, instead"
        )
    if loader.collate_fn is default_collate:
        return Samples.from_dataset(loader.dataset, num_classes, labels, column)
    size = getattr(loader.batch_sampler, "batch_size", None)  # None: there is no sampler, and the items are batches
    ordered = DataLoader(loader.dataset, batch_size=size, collate_fn=loader.collate_fn)
    told = None if column is None or size is None else _of_items(loader.dataset, column)
    # Read as a stream: a second look at the first batches tells a collator that draws (masks, crops) from one that does not.
    if told is None:
        return of_stream(ordered, num_classes, labels, column)
    return of_stream(ordered, num_classes, labels).with_column(told.name, told)


def _of_items(dataset: Any, text: str) -> Column | None:
    """A column that a data set tells in its items, where a collator drops it (words, say)."""
    name, told = parse_column(text)[0], beside(dataset, text)
    first = dataset[0]
    if told is not None or not (isinstance(first, Mapping) and name in first):
        return told
    return column_of(text, [dataset[index][name] for index in range(len(dataset))])


def _is_batch(item: Any) -> bool:
    """Whether an element of a list is a batch rather than one sample: its label has the dimension of a batch."""
    parts = list(item.values()) if isinstance(item, Mapping) else list(item) if isinstance(item, tuple | list) else []
    rows = {len(part) for part in parts if isinstance(part, Tensor) and part.dim() >= 1}
    return len(rows) == 1 and all(
        part.dim() >= 1 if isinstance(part, Tensor) else isinstance(part, list) and {len(part)} == rows for part in parts
    )
