"""Fixed, ordered, labelled samples: what a group's loss is averaged over.

Samples hand out clean data in one order, so that two products of one vector agree. A batch is whatever nested structure (tuple,
dictionary ...) the user's loss understands, with the sample dimension first in every tensor. They lie in a store: whole tensors
or batches of different shapes (:mod:`~saddlescope.analysis.samples.stores`), or a data set that is read as it is needed
(:mod:`~saddlescope.analysis.samples.lazy`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..records.results import Choice
from .batches import (
    Labels,
    SamplesError,
    ShapesError,
    batch_size,
    find_labels,
    is_part,
    move,
    require_stillness,
    row_numbers,
    stacked,
    tensors_of,
    unite,
    whole_numbers,
    without_names,
)
from .columns import Column, ColumnError, beside, column_of, read_column, words_numbered
from .lazy import lazily
from .stores import BatchStore, Store, TensorStore

__all__ = ["Labels", "Samples", "SamplesError", "batch_size", "find_labels"]


class Samples:
    """Labelled samples in a fixed order.

    Args:
        batch: all samples as one nested structure of tensors ``[N, ...]``, on the CPU.
        labels: class of each sample, ``[N]``.
        num_classes: C; default: largest label + 1.

    Attributes:
        store: where they lie.
        labels: int64 array ``[N]``.
        num_classes: C.
        unlabelled: why there are no classes (masks, tokens, several labels a sample ...), None where there are: ``labels`` are
            then all 0, and groups are ``all`` or those of a column.
        columns: what is told of every sample beside its class, by name.
        index_sha256: identity of the choice of samples, where the data set knows one.
        choices: what was taken for granted in making them.

    Raises:
        SamplesError: no samples, tensors of different length, anything but tensors in the batch, labels that are not whole
            numbers within range, or non-finite inputs.
    """

    index_sha256: str | None = None
    choices: tuple[Choice, ...] = ()
    unlabelled: str | None = None
    columns: Mapping[str, Column] = MappingProxyType({})
    store: Store

    def __init__(self, batch: Any, labels: np.ndarray | Tensor, num_classes: int | None = None) -> None:
        whole = whole_numbers(labels)
        tensors = tensors_of(batch)
        lengths = {len(tensor) for tensor in tensors} | {len(whole)}
        if len(whole) and tensors and len(lengths) > 1:
            raise SamplesError(
                f"tensors and labels of different length ({sorted(lengths)}); the first dimension must be the sample"
            )
        self._take_labels(whole if tensors else whole[:0], num_classes)
        self.store = TensorStore(batch)

    @classmethod
    def of_store(
        cls, store: Store, labels: np.ndarray, num_classes: int | None = None, index_sha256: str | None = None
    ) -> Samples:
        """Samples that lie in a store, of the classes ``labels [N]``.

        Raises:
            SamplesError: there are none, or labels out of range.
        """
        made = Samples.__new__(Samples)
        made._take_labels(labels, num_classes)
        made.store, made.index_sha256 = store, index_sha256
        return made

    def _take_labels(self, labels: np.ndarray, num_classes: int | None) -> None:
        if not len(labels):
            raise SamplesError("no samples: the data set or the group is empty")
        self.labels = labels
        highest = int(self.labels.max()) + 1
        self.num_classes = num_classes or highest
        if self.labels.min() < 0 or highest > self.num_classes:
            bad = int(np.flatnonzero((self.labels < 0) | (self.labels >= self.num_classes))[0])
            raise SamplesError(f"label {self.labels[bad]} of sample {bad} is outside 0..{self.num_classes - 1}")

    @property
    def batch(self) -> Any:
        """All samples as one nested structure of tensors ``[N, ...]``.

        Raises:
            SamplesError: they are of several shapes, or too many for the memory.
        """
        return self.store.whole()

    def in_memory(self) -> Samples:
        """The same samples, held in memory.

        Raises:
            SamplesError: they are too many for it.
        """
        store = self.store.in_memory()
        return self if store is self.store else self._elsewhere(store, np.arange(self.num_samples))

    @classmethod
    def from_tensors(cls, inputs: Tensor, targets: Tensor, num_classes: int | None = None) -> Samples:
        """Samples of a classifier: ``inputs [N, ...]`` and int64 ``targets [N]``; batches are ``(inputs, targets)``."""
        labels = whole_numbers(targets)
        return cls((inputs.detach().cpu(), torch.from_numpy(labels)), labels, num_classes)

    @classmethod
    def from_dataset(
        cls, dataset: Dataset[Any], num_classes: int | None = None, labels: Labels = None, column: str | None = None
    ) -> Samples:
        """Reads a map-style data set once, in index order; or piece by piece, again and again, where memory does not hold it.

        Items of different shapes (images of several sizes) keep them. A second look at up to 64 items tells a data set that
        augments from one that stands still. A set is read piece by piece if it asks for that, see
        :class:`~saddlescope.analysis.samples.lazy.LazyDataset`, or if it is too large and its attribute ``targets`` or
        ``labels`` tells the classes without reading.

        Args:
            dataset: items are ``(input, label)``, or dictionaries with ``label`` or ``labels``.
            num_classes: C; default: largest label + 1.
            labels: ``[N]``, where the items do not tell; or which part of an item they are (2, ``"class"``), where that does
                not show: a triple, or a dictionary without the usual keys. Words are numbered in the order of the alphabet.
            column: what else is told of each sample, for groups: an entry or part of the items, or an attribute of the data set
                with a value for each; ``length:16,64`` cuts numbers.

        Raises:
            SamplesError: items change between two looks, or cannot be stacked; or the set is too large.
            ColumnError: no such column, or it makes no groups.
        """
        length = len(dataset)  # type: ignore[arg-type]
        if not length:
            raise SamplesError("the data set is empty")
        lazy = lazily(dataset, labels)
        if lazy is not None:
            made = cls.of_store(lazy, lazy.labels, num_classes, lazy.index_sha256)
            told = beside(dataset, column) if column is not None else None
            if column is not None and told is None:
                raise ColumnError(f"no column {column}: items are read when needed; give the set an attribute of that name")
            return made if told is None else made.with_column(told.name, told)
        items = [dataset[index] for index in range(length)]
        require_stillness(dataset, items.__getitem__)
        return cls._of_parts(dataset, items, num_classes, labels, column, batches=False)

    @classmethod
    def from_batches(
        cls, batches: Iterable[Any], num_classes: int | None = None, labels: Labels = None, column: str | None = None
    ) -> Samples:
        """Joins ready-made batches, in their order; where their samples differ in shape (padded by batch), each keeps its own.

        Args:
            batches: each with the sample dimension first.
            num_classes: C; default: largest label + 1.
            labels: as for :meth:`from_dataset`.
            column: likewise.

        Raises:
            SamplesError: no batches, or batches that differ in more than number and shape of their samples.
            ColumnError: as :meth:`from_dataset`.
        """
        parts = list(batches)
        if not parts:
            raise SamplesError("no batches: the iterable is empty")
        return cls._of_parts(batches, parts, num_classes, labels, column, batches=True)

    @classmethod
    def _of_parts(
        cls, source: Any, parts: list[Any], num_classes: int | None, labels: Labels, column: str | None, *, batches: bool
    ) -> Samples:
        """Samples of the items or batches of a source."""
        parts, told = [without_names(part) for part in parts], None
        if column is not None:
            told, parts = read_column(source, parts, column, batches=batches)
        words, other = None, () if told is None else (told.name,)
        if is_part(labels):
            parts, words = words_numbered(parts, labels, other, batches=batches)
        alone = unite if batches else stacked
        try:
            wholes = [unite(parts) if batches else stacked(parts)]
        except ShapesError:
            wholes = [alone([part]) for part in parts]
        found = [_classes(whole, labels, other) for whole in wholes] if is_part(labels) else [(labels, None)]
        why = next((why for _, why in found if why is not None), None)
        classes = found[0][0] if len(found) == 1 else np.concatenate([one for one, _ in found])
        made = cls._joined(wholes, classes if why is None else np.zeros(len(classes)), num_classes if why is None else None)
        made.unlabelled, made.choices = why, (words,) if words is not None else ()
        return made if told is None else made.with_column(told.name, told)

    @classmethod
    def _joined(cls, wholes: list[Any], labels: Any, num_classes: int | None) -> Samples:
        """Samples of one batch, or of several whose samples differ in shape."""
        if len(wholes) == 1:
            return cls(wholes[0], labels, num_classes)
        store, classes = BatchStore(wholes), whole_numbers(labels)
        if len(classes) != store.num_samples:
            raise SamplesError(f"{len(classes)} labels for {store.num_samples} samples")
        return cls.of_store(store, classes, num_classes)

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def class_counts(self) -> np.ndarray:
        """Samples per class, int64 ``[C]``."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def subset(self, indices: np.ndarray) -> Samples:
        """The samples at ``indices``, in that order; or where a mask ``[N]`` is true.

        Raises:
            SamplesError: ``indices`` is empty, or a mask of another length.
        """
        rows = row_numbers(indices, self.num_samples)
        return self._elsewhere(self.store.subset(rows) if len(rows) else self.store, rows)

    def _elsewhere(self, store: Store, rows: np.ndarray) -> Samples:
        """The samples at ``rows``, which lie in that store."""
        made = Samples.of_store(store, self.labels[rows], self.num_classes)
        made.unlabelled = self.unlabelled
        made.columns = {name: column.subset(rows) for name, column in self.columns.items()}
        return made

    def with_column(self, name: str, values: Any) -> Samples:
        """The same samples with something told of each, by which groups can be made (``scheme="column"``).

        Args:
            name: of the column, with cuts where numbers are to be cut: ``length:16,64``.
            values: words or whole numbers ``[N]``, rows of zeros and ones ``[N, K]``, or a list of values a sample.

        Raises:
            ColumnError: there are not N of them, or they make no groups.
        """
        column = values if isinstance(values, Column) else column_of(name, values)
        if len(column.codes) != self.num_samples:
            raise ColumnError(f"column {name}: {len(column.codes)} values for {self.num_samples} samples")
        made = self._elsewhere(self.store, np.arange(self.num_samples))
        made.index_sha256, made.choices = self.index_sha256, self.choices
        made.columns = {**self.columns, column.name: column}
        return made

    def require_classes(self) -> None:
        """Returns if the samples have classes.

        Raises:
            SamplesError: they have none; it says why.
        """
        if self.unlabelled is not None:
            raise SamplesError(self.unlabelled)

    def batches(self, size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Iterator[Any]:
        """Batches of up to ``size`` samples in order; the last one, and those before another shape, may be smaller.

        Args:
            size: samples a batch.
            device: where the tensors go.
            dtype: what floating-point tensors become; integers keep theirs.
        """
        for batch in self.store.batches(size):
            yield move(batch, device, dtype)

    def sha256(self) -> str:
        """Hash of all tensors and labels, in order: two results are comparable only if theirs agree."""
        return self.store.sha256(self.labels)


def _classes(batch: Any, which: int | str | None, beside: tuple[str, ...]) -> tuple[np.ndarray, str | None]:
    """The classes in a batch; zeros, and why, where nobody said which they are and there are none."""
    try:
        return whole_numbers(find_labels(batch, which, beside)), None
    except SamplesError as error:
        if which is not None:
            raise
        return np.zeros(batch_size(batch), dtype=np.int64), str(error)
