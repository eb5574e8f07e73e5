"""What a batch may hold, and what is found in it: any nested structure of tensors with the sample dimension first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, default_collate

from .labels import LabelError, labels_in

#: Which part of a batch the class labels are, by index or key; or the labels themselves ``[N]``; None where that shows.
Labels = Any


class SamplesError(ValueError):
    """The samples cannot be analysed; the message says which and what to do."""


class ShapesError(SamplesError):
    """Samples are alike but for their shapes: they are no one batch."""


def without_names(part: Any) -> Any:
    """An item or batch without WebDataset's names of files (``__key__``, ``__url__``), of dictionaries and tensors.

    Other mappings (a tokeniser's) become dictionaries, arrays tensors.
    """
    if isinstance(part, Mapping):
        part = {key: value for key, value in part.items() if not str(key).startswith("__")}
    return tree_map(_plain, part)


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, Mapping):  # of a kind that torch does not look into
        return tree_map(_plain, dict(leaf))
    return torch.from_numpy(leaf) if _holds_numbers(leaf) else leaf


def _holds_numbers(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf"


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
        if not same(first_look(int(index)), dataset[int(index)]):
            raise SamplesError(
                f"item {index} of the data set changed between two looks: random augmentation (or shuffling) makes "
                "the Hessian a random matrix and fakes saddles in small classes; give the data without random transforms"
            )


def stacked(items: list[Any]) -> Any:
    """Items as one batch; lists of numbers in them (a tokeniser's) are tensors.

    Raises:
        ShapesError: they are not of one shape.
        SamplesError: they are nothing that makes a batch.
    """
    items = [_listed(item) for item in items]
    try:
        return default_collate(items)
    except (RuntimeError, TypeError, LookupError) as error:
        kind = ShapesError if _differ_in_shape(items) else SamplesError
        raise kind(f"the items cannot be stacked into one batch ({error}); resize or pad them to one shape") from None


def _listed(item: Any) -> Any:
    """An item with its lists of numbers as tensors: ``default_collate`` would take them for parts."""
    if isinstance(item, Mapping):
        return {key: _tensor_of(value) for key, value in item.items()}
    return type(item)(map(_tensor_of, item)) if type(item) in (list, tuple) else item


def _tensor_of(value: Any) -> Any:
    if not isinstance(value, list) or isinstance(tree_leaves(value)[0] if tree_leaves(value) else None, Tensor | str | bytes):
        return value
    try:
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError):  # ragged, or no numbers
        return value


def _differ_in_shape(items: list[Any]) -> bool:
    """Whether items are alike but for the shapes of their tensors."""
    kinds = {tuple(type(leaf) for leaf in tree_leaves(item)) for item in items}
    shapes = {tuple(leaf.shape for leaf in tree_leaves(item) if isinstance(leaf, Tensor | np.ndarray)) for item in items}
    ranks = {tuple(len(shape) for shape in one) for one in shapes}
    return len(kinds) == 1 and len(shapes) > 1 and len(ranks) == 1


def tensors_of(batch: Any) -> list[Tensor]:
    """The tensors of a batch.

    Raises:
        SamplesError: it holds anything else.
    """
    leaves = tree_leaves(batch)
    other = next((leaf for leaf in leaves if not isinstance(leaf, Tensor)), None)
    if other is not None:
        raise SamplesError(
            f"a batch may hold tensors only, and this one holds {other!r:.80} ({type(other).__name__}): leave it out, or make "
            "numbers of it (texts: a tokeniser in the data set, or in the collate_fn of a loader)"
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


def unite(parts: list[Any]) -> Any:
    """Batches as one; entries of dictionaries by their keys, whatever their order.

    Raises:
        ShapesError: samples of several shapes.
        SamplesError: batches that are not alike.
    """
    first = parts[0]
    if isinstance(first, Mapping):
        if any(not isinstance(part, Mapping) or set(part) != set(first) for part in parts):
            raise SamplesError(f"not all batches have the entries of the first one: {', '.join(map(str, first))}")
        return {key: unite([part[key] for part in parts]) for key in first}
    if isinstance(first, list | tuple):
        if any(not isinstance(part, list | tuple) or len(part) != len(first) for part in parts):
            raise SamplesError(f"not all batches have the {len(first)} parts of the first one")
        return tuple(unite(list(row)) for row in zip(*parts, strict=True))
    if not isinstance(first, Tensor):
        return first  # refused by name
    if first.dim() == 0 or not all(isinstance(part, Tensor) and part.dim() == first.dim() for part in parts):
        raise SamplesError(
            f"not all batches have a tensor of {first.dim() or 'one or more'} dimensions, the samples first, where the first "
            f"one has one of {first.dim()}"
        )
    if len({part.shape[1:] for part in parts}) > 1:
        raise ShapesError("samples of several shapes")
    return torch.cat(parts)


def batch_size(batch: Any) -> int:
    """Samples in a batch."""
    return len(next(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)))


def find_labels(batch: Any, which: int | str | None = None, beside: Sequence[str] = ()) -> np.ndarray:
    """The labels in a batch: the second part of a pair, or ``label``, ``labels``, ``target`` or ``targets`` of a dictionary.

    Args:
        batch: of any structure.
        which: the part, by index or key, where it is told.
        beside: parts that are neither inputs nor labels.

    Raises:
        SamplesError: there is nothing of the kind, or two things are and it is not told which is meant.
    """
    try:
        found = labels_in(batch, which, beside)
    except LabelError as error:
        raise SamplesError(str(error)) from None
    if isinstance(found, Tensor) and (found.dim() != 1 or found.is_floating_point()):
        raise SamplesError(
            f"targets of shape {tuple(found.shape)} and type {found.dtype} where one whole number per sample is expected, its "
            "class (no one-hot rows). For masks, tokens, regression or several labels a sample give a loss(model, batch), and "
            "groups that need no classes: all, or column:NAME"
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


def row_numbers(indices: Any, samples: int) -> np.ndarray:
    """Rows as int64, of their numbers or of a mask.

    Raises:
        SamplesError: a mask of another length.
    """
    rows = np.asarray(indices)
    if rows.dtype != bool:
        return rows.astype(np.int64)
    if len(rows) != samples:
        raise SamplesError(f"a mask of {len(rows)} for {samples} samples")
    return np.flatnonzero(rows)


def same(one: Any, other: Any) -> bool:
    """Whether two items or batches hold the same."""
    leaves, others = tree_leaves(without_names(one)), tree_leaves(without_names(other))
    return len(leaves) == len(others) and all(_equal(a, b) for a, b in zip(leaves, others, strict=True))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor | np.ndarray):  # a NaN equals itself here: it is refused later, by its own name
        return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind in "fc")
    return bool(one == other)
