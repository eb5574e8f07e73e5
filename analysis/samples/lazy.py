"""Samples that memory does not hold: read from a map-style data set as they are needed, the next batch ahead of its use."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Subset

from saddlescope import processors

from .batches import (
    Labels,
    SamplesError,
    find_labels,
    is_part,
    require_finite,
    require_stillness,
    stacked,
    tensors_of,
    whole_numbers,
)
from .memory import free_bytes
from .stores import Store, TensorStore

#: one part in so many of the free memory keeps items from one pass to the next
_KEPT_SHARE = 8


class LazyDataset(Protocol):
    """What a map-style data set can have beside items, to be read piece by piece. Only ``lazy`` and ``targets`` are needed.

    A set may also have ``content_sha256() -> str``, a hash of all that decides its items, which spares a pass over all of them;
    what it covers is the set's to say. And ``list_sha256() -> str``, the identity of the choice of samples, which must be the
    ``index_sha256`` of a side-car.
    """

    #: true: read items when they are needed, in any order, several threads at once
    lazy: bool
    #: class of each item ``[N]``, known without reading it
    targets: Sequence[int] | Tensor

    def __len__(self) -> int: ...

    def __getitem__(self, item: int) -> Any: ...


def lazily(dataset: Any, labels: Labels = None) -> ItemStore | None:
    """A store of items that are read as needed, if the data set asks for that or is too large for memory; None: read it whole.

    Raises:
        SamplesError: the set must be read piece by piece, but its labels are not known without reading; or it changes.
    """
    known = known_labels(dataset) if is_part(labels) else whole_numbers(labels)
    asks = bool(getattr(dataset, "lazy", False))
    if not asks:
        needed = len(dataset) * _item_bytes(dataset)
        free = free_bytes(torch.device("cpu"))
        if 2 * needed <= free or (known is None and needed <= free):  # items and their batch are held at once for a moment
            return None
    if known is None:
        why = "asks to be read piece by piece" if asks else f"needs {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free"
        raise SamplesError(f"the data set {why}: give it an attribute 'targets', the class of each item")
    if len(known) != len(dataset):
        raise SamplesError(f"{len(known)} labels for {len(dataset)} items of the data set")
    items = _Items(dataset, known, labels)
    require_stillness(dataset, items.dataset.__getitem__)
    return ItemStore(items, np.arange(len(known)))


def known_labels(dataset: Any) -> np.ndarray | None:
    """Classes of a data set ``[N]`` by its attribute ``targets`` or ``labels``; None where there is none that fits."""
    if isinstance(dataset, Subset):
        inner = known_labels(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    for name in ("targets", "labels"):
        try:
            found = whole_numbers(getattr(dataset, name))
        except (AttributeError, SamplesError, ValueError, TypeError):
            continue
        if len(found) == len(dataset):
            return found
    return None


def _item_bytes(dataset: Any) -> int:
    """Of the first item, as a part of a batch; 0 for one that makes no batch (which the caller says)."""
    try:
        leaves = tree_leaves(stacked([dataset[0]]))
    except SamplesError:
        return 0
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))


def _readers() -> int:
    return min(16, processors())


class _Items:
    """The items of a data set and what is known of all of them."""

    def __init__(self, dataset: Any, labels: np.ndarray, given: Labels) -> None:
        self.dataset, self.labels, self.given = dataset, labels, given
        asks = bool(getattr(dataset, "lazy", False))
        self.threads = _readers() if asks else 1
        # A set that did not say so may hold one file handle for all its items: one thread, and one iterator at a time.
        self._turn: AbstractContextManager[Any] = nullcontext() if asks else Lock()
        first = stacked([dataset[0]])
        self.shapes, self.bytes = _shapes(first), max(1, sum(leaf.nbytes for leaf in tensors_of(first)))

    @property
    def room(self) -> int:
        """Items that the memory has room for, beside all else."""
        return free_bytes(torch.device("cpu")) // _KEPT_SHARE // self.bytes

    def read(self, row: int) -> Any:
        """One item, as the data set gives it."""
        with self._turn:
            return self.dataset[row]

    def batch(self, rows: np.ndarray, items: list[Any]) -> Any:
        """The items as one checked batch."""
        batch = stacked(items)
        tensors = tensors_of(batch)
        if _shapes(batch) != self.shapes:
            raise SamplesError(
                f"items {rows[0]} to {rows[-1]} are of another shape or type ({_shapes(batch)}) than item 0 ({self.shapes}); "
                "resize or pad all of them to one shape"
            )
        require_finite(tensors, rows)
        if is_part(self.given):
            found = find_labels(batch, self.given)
            wrong = np.flatnonzero(found != self.labels[rows])
            if len(wrong):
                row = int(wrong[0])
                raise SamplesError(
                    f"item {rows[row]} of the data set has label {found[row]}, but its attribute 'targets' (or 'labels') says "
                    f"{self.labels[rows[row]]}"
                )
        return batch


class ItemStore(Store):
    """Items of a data set that are read as they are handed out.

    A set that an eighth of the free memory holds is read once and kept; of a larger one, every group (:meth:`subset`) keeps as
    many items between passes as that.

    Args:
        items: of the data set.
        rows: which of them, in order.
        kept: items of what this is a part of.
    """

    def __init__(self, items: _Items, rows: np.ndarray, kept: _Kept | None = None) -> None:
        self._items, self._rows = items, rows
        self._kept = kept or _Kept(items.room if items.room >= len(rows) else 0)
        self.num_samples = len(rows)
        self.widest = sum(math.prod(shape) for shape, _ in items.shapes)
        self._digest: str | None = None

    @property
    def labels(self) -> np.ndarray:
        """Class of each sample, ``[N]``."""
        labels: np.ndarray = self._items.labels[self._rows]
        return labels

    @property
    def index_sha256(self) -> str | None:
        """Identity of the choice of samples, where the data set knows one."""
        dataset = self._items.dataset
        return str(dataset.list_sha256()) if hasattr(dataset, "list_sha256") else None

    def whole(self) -> Any:
        """All samples as one nested structure, read now.

        Raises:
            SamplesError: they are too many for the memory.
        """
        needed, free = self.num_samples * self._items.bytes, free_bytes(torch.device("cpu"))
        if 3 * needed > free:
            raise SamplesError(
                f"{self.num_samples:,} samples of {self._items.bytes / 1e6:.3g} MB do not fit into {free / 1e9:.3g} GB of free "
                "memory all at once, which is needed here; give fewer or smaller ones"
            )
        (batch,) = self.batches(self.num_samples)
        return batch

    def in_memory(self) -> TensorStore:
        """As of :class:`~saddlescope.analysis.samples.stores.Store`."""
        return TensorStore(self.whole(), checked=True)

    def subset(self, rows: np.ndarray) -> ItemStore:
        """As of :class:`~saddlescope.analysis.samples.stores.Store`; nothing is read."""
        kept = self._kept if self._kept.room else _Kept(self._items.room)
        return ItemStore(self._items, self._rows[rows], kept)

    def batches(self, size: int) -> Iterator[Any]:
        """As of :class:`~saddlescope.analysis.samples.stores.Store`; while the caller works on one batch, the next is read.

        Raises:
            SamplesError: an item holds NaN or infinity, has another shape than the first one, or another label than promised.
        """
        pool = ThreadPoolExecutor(self._items.threads, thread_name_prefix="samples")
        try:
            waiting = [pool.submit(self._item, row) for row in self._rows[:size].tolist()]
            for start in range(0, self.num_samples, size):
                rows, after = self._rows[start : start + size], self._rows[start + size : start + 2 * size]
                batch = self._items.batch(rows, [item.result() for item in waiting])
                waiting = [pool.submit(self._item, row) for row in after.tolist()]
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def sha256(self, labels: np.ndarray) -> str:
        """Hash of all samples in order.

        Of the data set's own ``content_sha256`` and the rows, where it has one. Otherwise of all tensors and labels, as for
        samples in memory and equal to theirs: how much memory there is does not make a set another one.
        """
        if self._digest is None:
            own = getattr(self._items.dataset, "content_sha256", None)
            self._digest = self._of_content(labels) if own is None else self._of_rows(own())
        return self._digest

    def _of_rows(self, content: str) -> str:
        return hashlib.sha256(content.encode() + np.ascontiguousarray(self._rows, dtype="<i8").tobytes()).hexdigest()

    def _of_content(self, labels: np.ndarray) -> str:
        digest = hashlib.sha256()
        size = max(1, 2**28 // self._items.bytes)
        for leaf, (shape, dtype) in enumerate(self._items.shapes):
            digest.update(f"{(self.num_samples, *shape)} {dtype}".encode())
            for batch in self.batches(size):
                digest.update(tree_leaves(batch)[leaf].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(f"{(self.num_samples,)} {torch.int64}".encode())
        digest.update(np.ascontiguousarray(labels).tobytes())
        return digest.hexdigest()

    def _item(self, row: int) -> Any:
        return self._kept.item(row, self._items)


class _Kept:
    """Items that stay in memory: the first ones read. Replacing them would keep none, in passes in one order."""

    def __init__(self, room: int) -> None:
        self.room, self._held = room, dict[int, Any]()

    def item(self, row: int, items: _Items) -> Any:
        held = self._held.get(row)
        if held is None:
            held = items.read(row)
            if len(self._held) < self.room:
                self._held[row] = held
        return held


def _shapes(batch: Any) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of each tensor, without the sample dimension."""
    return [(tuple(leaf.shape[1:]), leaf.dtype) for leaf in tensors_of(batch)]
