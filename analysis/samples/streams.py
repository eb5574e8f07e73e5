"""Samples that come one after another: iterable data sets, loaders over them, WebDataset; read whole, and twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, IterableDataset

from .batches import Labels, SamplesError, same, without_names
from .labels import LabelError, labels_in
from .memory import free_bytes
from .samples import Samples

#: items or batches that are looked at twice
_LOOKS = 64


def of_stream(
    stream: Iterable[Any], num_classes: int | None = None, labels: Labels = None, column: str | None = None
) -> Samples:
    """Samples of an iterable: of its batches, or its items where it is an ``IterableDataset`` that yields these.

    Args:
        stream: whatever can be read once; what can be read twice is, and has to say the same.
        num_classes: C; default: from the labels.
        labels: as for :meth:`~saddlescope.analysis.samples.samples.Samples.from_dataset`.
        column: likewise.

    Raises:
        SamplesError: it is empty or endless, or its first items changed between two looks.
    """
    parts = list(_bounded(stream))
    if not isinstance(stream, Iterator):
        for place, (one, again) in enumerate(zip(parts, islice(iter(stream), _LOOKS), strict=False)):
            if not same(one, again):
                raise SamplesError(
                    f"element {place} of {type(stream).__name__} changed between two readings: shuffling or augmentation "
                    "makes the Hessian a random matrix and fakes saddles in small classes; give the data without"
                )
    if parts and isinstance(stream, IterableDataset) and not _is_batch(parts[0], labels):
        return Samples.from_dataset(cast("Dataset[Any]", parts), num_classes, labels, column)
    return Samples.from_batches(parts, num_classes, labels, column)


def _bounded(stream: Iterable[Any]) -> Iterator[Any]:
    """The elements, as long as memory holds them."""
    room = free_bytes(torch.device("cpu")) // 2
    for place, element in enumerate(stream):
        if place % _LOOKS == 0 and free_bytes(torch.device("cpu")) < room:
            raise SamplesError(
                f"{place:,} elements of {type(stream).__name__} fill half of the free memory, and more follow: it is endless "
                "(resampled, repeated), or too large; give a part of it"
            )
        yield without_names(element)


def _is_batch(element: Any, which: Labels) -> bool:
    """Whether an element of an iterable data set is a batch: as many classes as rows in tensors of more dimensions."""
    try:
        labels = labels_in(element, which if isinstance(which, int | str) else None)
    except LabelError:
        return False
    others = [leaf for leaf in tree_leaves(element) if isinstance(leaf, Tensor) and leaf is not labels]
    classes = isinstance(labels, list) or (isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point())
    return classes and any(leaf.dim() > 1 for leaf in others) and all(len(leaf) == len(labels) for leaf in others if leaf.dim())
