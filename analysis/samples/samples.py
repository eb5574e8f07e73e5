"""Fixed, ordered, labelled samples: what a group's loss is averaged over.

Samples hold clean data in memory and hand it out in one order, so that two products of one vector agree. A batch is whatever
nested structure (tuple, dictionary ...) the user's loss understands, with the sample dimension first in every tensor. Sets that
memory does not hold are read as they are needed, see :mod:`~saddlescope.analysis.samples.lazy`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, default_collate

from ..records.results import Choice
from .labels import LabelError, labels_in

#: Which part of a batch the class labels are, by index or key; or the labels themselves ``[N]``; None where that shows.
Labels = Any


class SamplesError(ValueError):
    """The samples cannot be analysed; the message says which and what to do."""


class Samples:
    """Labelled samples in a fixed order.

    Args:
        batch: all samples as one nested structure of tensors ``[N, ...]``, on the CPU.
        labels: class of each sample, ``[N]``.
        num_classes: C; default: largest label + 1.

    Attributes:
        labels: int64 array ``[N]``.
        num_classes: C.
        index_sha256: identity of the choice of samples, where the data set knows one.
        choices: what was taken for granted in making them.

    Raises:
        SamplesError: no samples, tensors of different length, anything but tensors in the batch, labels that are not whole
            numbers within range, or non-finite inputs.
    """

    index_sha256: str | None = None
    choices: tuple[Choice, ...] = ()

    def __init__(self, batch: Any, labels: np.ndarray | Tensor, num_classes: int | None = None) -> None:
        self._batch = batch
        whole = whole_numbers(labels)
        tensors = tensors_of(batch)
        lengths = {len(tensor) for tensor in tensors} | {len(whole)}
        if len(whole) and tensors and len(lengths) > 1:
            raise SamplesError(
                f"tensors and labels of different length ({sorted(lengths)}); the first dimension must be the sample"
            )
        self._take_labels(whole if tensors else whole[:0], num_classes)
        require_finite(tensors)

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
        """All samples as one nested structure of tensors ``[N, ...]``."""
        return self._batch

    def in_memory(self) -> Samples:
        """The same samples, held in memory.

        Raises:
            SamplesError: they are too many for it.
        """
        return self

    @classmethod
    def from_tensors(cls, inputs: Tensor, targets: Tensor, num_classes: int | None = None) -> Samples:
        """Samples of a classifier: ``inputs [N, ...]`` and int64 ``targets [N]``; batches are ``(inputs, targets)``."""
        labels = whole_numbers(targets)
        return cls((inputs.detach().cpu(), torch.from_numpy(labels)), labels, num_classes)

    @classmethod
    def from_dataset(cls, dataset: Dataset[Any], num_classes: int | None = None, labels: Labels = None) -> Samples:
        """Reads a map-style data set once, in index order; or piece by piece, again and again, where memory does not hold it.

        A second look at up to 64 items tells a data set that augments from one that stands still. A set is read piece by piece
        if it asks for that, see :class:`~saddlescope.analysis.samples.lazy.LazyDataset`, or if it is too large and its
        attribute ``targets`` or ``labels`` tells the classes without reading.

        Args:
            dataset: items are ``(input, label)``, or dictionaries with ``label`` or ``labels``.
            num_classes: C; default: largest label + 1.
            labels: ``[N]``, where the items do not tell; or which part of an item they are (2, ``"class"``), where that does
                not show: a triple, or a dictionary without the usual keys.

        Raises:
            SamplesError: items change between two looks, cannot be stacked, or hold no label; or the set is too large.
        """
        from .lazy import lazily

        length = len(dataset)  # type: ignore[arg-type]
        if not length:
            raise SamplesError("the data set is empty")
        lazy = lazily(dataset, num_classes, labels)
        if lazy is not None:
            return lazy
        items = [dataset[index] for index in range(length)]
        require_stillness(dataset, items.__getitem__)
        batch = stacked(items)
        return cls(batch, find_labels(batch, labels) if is_part(labels) else labels, num_classes)

    @classmethod
    def from_batches(cls, batches: Iterable[Any], num_classes: int | None = None, labels: Labels = None) -> Samples:
        """Joins ready-made batches, in their order.

        Args:
            batches: each with the sample dimension first.
            num_classes: C; default: largest label + 1.
            labels: as for :meth:`from_dataset`.

        Raises:
            SamplesError: no batches, or batches that differ in more than their number of samples.
        """
        parts = list(batches)
        if not parts:
            raise SamplesError("no batches: the iterable is empty")
        batch = _joined(parts)
        return cls(batch, find_labels(batch, labels) if is_part(labels) else labels, num_classes)

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def class_counts(self) -> np.ndarray:
        """Samples per class, int64 ``[C]``."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def subset(self, indices: np.ndarray) -> Samples:
        """The samples at ``indices``, in that order.

        Raises:
            SamplesError: ``indices`` is empty.
        """
        where = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        return Samples(tree_map(lambda leaf: leaf[where], self._batch), self.labels[where.numpy()], self.num_classes)

    def batches(self, size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Iterator[Any]:
        """Batches of up to ``size`` samples in order; the last one may be smaller.

        Args:
            size: samples a batch.
            device: where the tensors go.
            dtype: what floating-point tensors become; integers keep theirs.
        """
        for start in range(0, self.num_samples, size):
            yield move(tree_map(lambda leaf, start=start: leaf[start : start + size], self._batch), device, dtype)

    def sha256(self) -> str:
        """Hash of all tensors and labels, in order: two results are comparable only if theirs agree."""
        digest = hashlib.sha256()
        for leaf in [*tree_leaves(self._batch), torch.from_numpy(self.labels)]:
            digest.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
            digest.update(leaf.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def is_part(labels: Labels) -> bool:
    """Whether labels are to be found in the batch, at the place named or the usual one, rather than given."""
    return labels is None or isinstance(labels, int | str)


def require_stillness(dataset: Dataset[Any], first_look: Callable[[int], Any]) -> None:
    """Looks a second time at up to 64 items of a map-style data set.

    Raises:
        SamplesError: one of them changed.
    """
    length = len(dataset)  # type: ignore[arg-type]
    for index in np.unique(np.linspace(0, length - 1, min(64, length)).astype(int)):
        if not _same(first_look(int(index)), dataset[int(index)]):
            raise SamplesError(
                f"item {index} of the data set changed between two looks: random augmentation (or shuffling) makes "
                "the Hessian a random matrix and fakes saddles in small classes; give the data without random transforms"
            )


def stacked(items: list[Any]) -> Any:
    """Items as one batch.

    Raises:
        SamplesError: they are not of one shape.
    """
    try:
        return default_collate(items)
    except (RuntimeError, TypeError, LookupError) as error:
        raise SamplesError(f"the items cannot be stacked into one batch ({error}); resize or pad them to one shape") from None


def tensors_of(batch: Any) -> list[Tensor]:
    """The tensors of a batch.

    Raises:
        SamplesError: it holds anything else.
    """
    leaves = tree_leaves(batch)
    other = next((leaf for leaf in leaves if not isinstance(leaf, Tensor)), None)
    if other is not None:
        raise SamplesError(
            f"a batch may hold tensors only, and this one holds {other!r} ({type(other).__name__}): leave it out"
        )
    return leaves


def require_finite(tensors: list[Tensor], rows: Sequence[int] | np.ndarray | None = None) -> None:
    """Checks the inputs.

    Args:
        tensors: of a batch.
        rows: what to call its samples; default: by their place.

    Raises:
        SamplesError: NaN or infinity.
    """
    for tensor in tensors:
        # NaN and infinity both show in the extremes, which need no copy of the tensor.
        if tensor.is_floating_point() and tensor.numel() and not all(bool(end.isfinite()) for end in tensor.aminmax()):
            row = int((~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero()[0])
            raise SamplesError(f"sample {row if rows is None else rows[row]} holds NaN or infinity")


def move(batch: Any, device: torch.device | str | None, dtype: torch.dtype | None) -> Any:
    """A batch elsewhere; ``dtype`` is for floating-point tensors, integers keep theirs."""

    def one(leaf: Tensor) -> Tensor:
        moved = leaf.to(device, dtype if leaf.is_floating_point() else None)
        return moved.clone() if moved.is_inference() and not torch.is_inference_mode_enabled() else moved  # autograd takes none

    return tree_map(one, batch)


def _joined(parts: list[Any]) -> Any:
    """Batches as one; entries of dictionaries by their keys, whatever their order."""
    first = parts[0]
    if isinstance(first, Mapping):
        if any(not isinstance(part, Mapping) or set(part) != set(first) for part in parts):
            raise SamplesError(f"not all batches have the entries of the first one: {', '.join(map(str, first))}")
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, list | tuple):
        if any(not isinstance(part, list | tuple) or len(part) != len(first) for part in parts):
            raise SamplesError(f"not all batches have the {len(first)} parts of the first one")
        return tuple(_joined(list(row)) for row in zip(*parts, strict=True))
    if not isinstance(first, Tensor):
        return first  # refused by name
    shapes = {tuple(part.shape[1:]) if isinstance(part, Tensor) else None for part in parts}
    if len(shapes) > 1 or None in shapes or first.dim() == 0:
        raise SamplesError(
            f"samples of {len(shapes)} shapes in the batches ({', '.join(map(str, sorted(shapes, key=str)[:3]))} ...): pad or "
            "resize all of them to one shape"
        )
    return torch.cat(parts)


def batch_size(batch: Any) -> int:
    """Samples in a batch."""
    return len(next(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)))


def find_labels(batch: Any, which: int | str | None = None) -> np.ndarray:
    """The labels in a batch: the second part of a pair, or ``label``, ``labels``, ``target`` or ``targets`` of a dictionary.

    Args:
        batch: of any structure.
        which: the part, by index or key, where it is told.

    Raises:
        SamplesError: there is nothing of the kind, or two things are and it is not told which is meant.
    """
    try:
        found = labels_in(batch, which)
    except LabelError as error:
        raise SamplesError(str(error)) from None
    if isinstance(found, Tensor) and (found.dim() != 1 or found.is_floating_point()):
        raise SamplesError(
            f"targets of shape {tuple(found.shape)} and type {found.dtype} where one whole number per sample is expected, its "
            "class (no one-hot rows): groups are made of classes. For regression or several labels a sample give dictionaries "
            "that also hold 'labels', the class of each sample (all 0 for one group), and a loss(model, batch)"
        )
    if not isinstance(found, Tensor):
        raise SamplesError(
            "no class labels found: give pairs (input, label), a dictionary with 'labels', or the labels themselves"
        )
    return found.cpu().numpy()


def whole_numbers(labels: Any) -> np.ndarray:
    """Labels as int64 ``[N]``.

    Raises:
        SamplesError: they are something else.
    """
    raw = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if raw.ndim != 1:
        raise SamplesError(f"labels of shape {raw.shape}: give one class per sample, as a whole number")
    whole = raw.astype(np.int64)
    if not np.array_equal(whole, raw):
        raise SamplesError("labels must be whole numbers, one class per sample")
    return whole


def _same(one: Any, other: Any) -> bool:
    leaves, others = tree_leaves(one), tree_leaves(other)
    return len(leaves) == len(others) and all(_equal(a, b) for a, b in zip(leaves, others, strict=True))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor | np.ndarray):  # a NaN equals itself here: it is refused later, by its own name
        return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind in "fc")
    return bool(one == other)
