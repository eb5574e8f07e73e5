"""Where samples are kept: whole tensors, or ready-made batches of different shapes. Stores know their samples by row only."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .batches import SamplesError, batch_size, require_finite, tensors_of, unite


class Store(ABC):
    """Samples in a fixed order.

    Attributes:
        num_samples: N.
        widest: numbers in the largest sample.
    """

    num_samples: int
    widest: int

    @abstractmethod
    def batches(self, size: int) -> Iterator[Any]:
        """Batches of up to ``size`` samples in order, on the CPU; those of one batch are of one shape."""

    @abstractmethod
    def subset(self, rows: np.ndarray) -> Store:
        """The samples at ``rows`` (int64, at least one), in that order."""

    @abstractmethod
    def whole(self) -> Any:
        """All samples as one batch.

        Raises:
            SamplesError: they are of several shapes, or too many for the memory.
        """

    @abstractmethod
    def in_memory(self) -> Store:
        """The same samples, held in memory.

        Raises:
            SamplesError: they are too many for it.
        """

    @abstractmethod
    def sha256(self, labels: np.ndarray) -> str:
        """Hash of all samples and their labels, in order."""


def update(digest: Any, leaf: Tensor) -> None:
    """Adds shape, type and bytes of a tensor to a hash."""
    digest.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
    digest.update(leaf.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


class TensorStore(Store):
    """Samples as one batch of tensors ``[N, ...]``, on the CPU.

    Raises:
        SamplesError: anything but tensors, tensors of different length, or non-finite inputs.
    """

    def __init__(self, batch: Any, *, checked: bool = False) -> None:
        self._batch = batch
        tensors = tensors_of(batch)
        self.num_samples = len(tensors[0]) if tensors else 0
        self.widest = sum(leaf.numel() // max(1, len(leaf)) for leaf in tensors)
        if not checked:
            require_finite(tensors)

    def batches(self, size: int) -> Iterator[Any]:
        """As of :class:`Store`."""
        for start in range(0, self.num_samples, size):
            yield tree_map(lambda leaf, start=start: leaf[start : start + size], self._batch)

    def subset(self, rows: np.ndarray) -> TensorStore:
        """As of :class:`Store`."""
        where = torch.as_tensor(rows)
        return TensorStore(tree_map(lambda leaf: leaf[where], self._batch), checked=True)

    def whole(self) -> Any:
        """As of :class:`Store`."""
        return self._batch

    def in_memory(self) -> TensorStore:
        """As of :class:`Store`."""
        return self

    def sha256(self, labels: np.ndarray) -> str:
        """As of :class:`Store`."""
        digest = hashlib.sha256()
        for leaf in [*tree_leaves(self._batch), torch.from_numpy(labels)]:
            update(digest, leaf)
        return digest.hexdigest()


class BatchStore(Store):
    """Ready-made batches whose samples differ in shape: texts padded by batch, images of several sizes.

    A sample keeps the shape that it came with. Neighbours of one shape are handed out together, whatever batch they came in.

    Args:
        parts: the batches, of one structure.
        rows: batch and row within it of each sample, ``[N, 2]``; default: all, in order.

    Raises:
        SamplesError: anything but tensors, tensors of different length, or non-finite inputs.
    """

    def __init__(self, parts: list[Any], rows: np.ndarray | None = None) -> None:
        self._parts, self._shapes = parts, [tuple((leaf.shape[1:], leaf.dtype) for leaf in tensors_of(part)) for part in parts]
        if rows is None:
            rows = self._checked()
        self._rows = rows
        self.num_samples = len(rows)
        wide = [sum(leaf.numel() // max(1, len(leaf)) for leaf in tensors_of(part)) for part in parts]
        self.widest = max(wide[part] for part in np.unique(rows[:, 0])) if len(rows) else 0

    def _checked(self) -> np.ndarray:
        rows, before = [], 0
        for place, part in enumerate(self._parts):
            tensors = tensors_of(part)
            lengths = {len(tensor) for tensor in tensors}
            if len(lengths) > 1:
                raise SamplesError(
                    f"tensors of different length ({sorted(lengths)}) in batch {place}; the first dimension must be the sample"
                )
            size = batch_size(part)
            require_finite(tensors, range(before, before + size))
            rows.append(np.stack([np.full(size, place), np.arange(size)], axis=1))
            before += size
        return np.concatenate(rows)

    def batches(self, size: int) -> Iterator[Any]:
        """As of :class:`Store`."""
        start = 0
        while start < self.num_samples:
            shape = self._shapes[self._rows[start, 0]]
            end = start + 1
            while end < min(start + size, self.num_samples) and self._shapes[self._rows[end, 0]] == shape:
                end += 1
            yield self._together(self._rows[start:end])
            start = end

    def longest_run(self) -> np.ndarray:
        """Rows of the largest number of neighbours that are handed out in one batch."""
        shapes = [self._shapes[part] for part in self._rows[:, 0]]
        cuts = [0, *(row for row in range(1, self.num_samples) if shapes[row] != shapes[row - 1]), self.num_samples]
        runs = list(pairwise(cuts))
        return np.arange(*max(runs, key=lambda run: run[1] - run[0]))

    def _together(self, rows: np.ndarray) -> Any:
        """Samples of one shape as one batch: runs out of one part are taken at once."""
        cuts = np.flatnonzero(np.diff(rows[:, 0])) + 1
        runs = [(self._parts[run[0, 0]], torch.as_tensor(run[:, 1])) for run in np.split(rows, cuts)]
        return unite([tree_map(lambda leaf, where=where: leaf[where], part) for part, where in runs])

    def subset(self, rows: np.ndarray) -> BatchStore:
        """As of :class:`Store`; nothing is copied."""
        return BatchStore(self._parts, self._rows[rows])

    def whole(self) -> Any:
        """As of :class:`Store`."""
        if len({self._shapes[part] for part in np.unique(self._rows[:, 0])}) > 1:
            raise SamplesError(
                "these samples are of several shapes, and what is asked for needs them as one tensor: pad or resize all of "
                "them to one shape"
            )
        return self._together(self._rows)

    def in_memory(self) -> BatchStore:
        """As of :class:`Store`."""
        return self

    def sha256(self, labels: np.ndarray) -> str:
        """As of :class:`Store`; which samples came in one batch does not count, their shapes do."""
        digest = hashlib.sha256()
        for part, row in self._rows:
            for leaf in tree_leaves(self._parts[part]):
                update(digest, leaf[row])
        update(digest, torch.from_numpy(labels))
        return digest.hexdigest()
