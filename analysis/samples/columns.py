"""What is told of every sample beside its class (domain, length, annotator, several labels): groups are made of it, too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ..records.results import Choice
from .labels import LabelError, label_key, label_place

#: values of a column of numbers from which on they are told apart by cuts only
MANY = 100


class ColumnError(ValueError):
    """A column is not there, or makes no groups; the message says what there is."""


@dataclass(frozen=True)
class Column:
    """A value of every sample, or several.

    Attributes:
        name: of the column.
        values: names of the values that there are, in the order of the numbers or of the alphabet.
        codes: int64 ``[N]``, places in ``values``; or bool ``[N, K]`` where a sample may have several of the K values.
    """

    name: str
    values: tuple[str, ...]
    codes: np.ndarray

    @property
    def single(self) -> bool:
        """Whether every sample has exactly one value."""
        return self.codes.ndim == 1 or bool((self.codes.sum(1) == 1).all())

    def having(self, members: Sequence[int]) -> np.ndarray:
        """Indices of the samples that have one of these values, ascending."""
        if self.codes.ndim == 1:
            return np.flatnonzero(np.isin(self.codes, members))
        return np.flatnonzero(self.codes[:, list(members)].any(1))

    def subset(self, rows: np.ndarray) -> Column:
        """Of the samples at ``rows``."""
        return replace(self, codes=self.codes[rows])


def parse_column(text: str) -> tuple[str, tuple[float, ...]]:
    """``length:16,64`` -> its name and cuts; a name alone has none."""
    name, colon, tail = text.rpartition(":")
    try:
        cuts = tuple(float(part) for part in tail.split(",")) if colon and name else ()
    except ValueError:
        cuts = ()
    if any(high <= low for low, high in pairwise(cuts)):
        raise ColumnError(f"column {text}: write the cuts in ascending order, such as column:{name}:16,64")
    return (name, cuts) if cuts else (text, ())


def column_of(text: str, raw: Any, names: Sequence[str] | None = None) -> Column:
    """A column by the values of the samples.

    Args:
        text: its name, and where its numbers are cut: ``length:16,64`` (below 16, from 16 to below 64, from 64 on).
        raw: words or whole numbers ``[N]``; numbers of any kind where there are cuts; rows of zeros and ones ``[N, K]``; or a
            list of values for each sample.
        names: of the whole numbers from 0 on, or of the K places.

    Raises:
        ColumnError: a sample without a value; numbers that are not whole, or too many of them, without cuts.
    """
    name, cuts = parse_column(text)
    values = _plain(raw)
    if not isinstance(values, np.ndarray) and values and all(isinstance(value, list | tuple | set) for value in values):
        strange = {type(one).__name__ for value in values for one in value if not isinstance(one, str | int)}
        if strange:
            raise ColumnError(
                f"column {name} holds lists of {', '.join(sorted(strange))}: give lists of words or whole numbers"
            )
        sizes, known = {len(value) for value in values}, {one for value in values for one in value}
        if len(sizes) > 1 or max(sizes) < 2 or not known <= {0, 1} or any(isinstance(value, set) for value in values):
            return _of_lists(name, values)
        values = np.array(values)  # rows of zeros and ones: as lists of values all samples would have the same
    array = values if isinstance(values, np.ndarray) else _array(name, values)
    if array.ndim == 2 and array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all():
        kinds = tuple(names or (f"{name} {place}" for place in range(array.shape[1])))
        return Column(name, kinds, array.astype(bool))
    if array.ndim != 1:
        raise ColumnError(f"column {name} of shape {array.shape}: give one value a sample, or a row of zeros and ones")
    if array.dtype.kind not in "biuf":
        if cuts:
            raise ColumnError(
                f"column {name} holds words ({str(array[0])!r} ...), which cannot be cut at numbers; leave the cuts out"
            )
        kinds_found, codes = np.unique(array.astype(str), return_inverse=True)
        return Column(name, tuple(map(str, kinds_found)), codes.astype(np.int64))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ColumnError(f"column {name}: sample {int(np.flatnonzero(~np.isfinite(array))[0])} has no value there")
    return _of_cuts(name, array, cuts) if cuts else _of_numbers(name, array, names)


def _of_numbers(name: str, array: np.ndarray, names: Sequence[str] | None) -> Column:
    kinds, codes = np.unique(array, return_inverse=True)
    example = f"column:{name}:{float(np.median(array)):g}"
    if array.dtype.kind == "f" and not np.array_equal(kinds, np.round(kinds)):
        raise ColumnError(
            f"column {name} holds numbers that are not whole ({kinds[0]:g} ...): say where to cut them, {example}"
        )
    if names is None and len(kinds) > MANY:
        raise ColumnError(f"column {name} holds {len(kinds)} different numbers: say where to cut them, {example}")
    if names is not None and not 0 <= kinds.min() <= kinds.max() < len(names):  # -1 says in many sets that nobody knows
        row = int(np.flatnonzero((array < 0) | (array >= len(names)))[0])
        raise ColumnError(
            f"column {name}: sample {row} has the value {int(array[row])}, and there are {len(names)} names, from 0 on"
        )
    words = [names[int(kind)] if names is not None else f"{name} {int(kind)}" for kind in kinds]
    return Column(name, tuple(words), codes.astype(np.int64))


def cut_values(name: str, cuts: tuple[float, ...]) -> tuple[str, ...]:
    """What the values of a column are called whose numbers are cut."""
    middle = (f"{low:g} <= {name} < {high:g}" for low, high in pairwise(cuts))
    return (f"{name} < {cuts[0]:g}", *middle, f"{name} >= {cuts[-1]:g}")


def _of_cuts(name: str, array: np.ndarray, cuts: tuple[float, ...]) -> Column:
    return Column(name, cut_values(name, cuts), np.searchsorted(cuts, array, side="right").astype(np.int64))


def _of_lists(name: str, values: list[Any]) -> Column:
    if not any(values):
        raise ColumnError(f"column {name}: no sample has a value there")
    kinds = sorted({one for value in values for one in value}, key=lambda one: (isinstance(one, str), one))
    places = {kind: place for place, kind in enumerate(kinds)}
    codes = np.zeros((len(values), len(kinds)), dtype=bool)
    for row, value in enumerate(values):
        codes[row, [places[one] for one in value]] = True
    return Column(name, tuple(kind if isinstance(kind, str) else f"{name} {kind}" for kind in kinds), codes)


def _plain(raw: Any) -> Any:
    """A tensor as an array; of a sequence, its tensors and bytes as plain values."""
    if isinstance(raw, Tensor):
        return raw.detach().cpu().numpy()
    if isinstance(raw, np.ndarray):
        return raw if raw.dtype.kind in "biuf" else _plain(raw.tolist())
    plain = [value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value for value in raw]
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in plain]


def _array(name: str, values: list[Any]) -> np.ndarray:
    missing = [row for row, value in enumerate(values) if value is None or (isinstance(value, float) and math.isnan(value))]
    if missing:
        raise ColumnError(f"column {name}: sample {missing[0]} has no value there")
    kinds = {type(value) for value in values}
    if not (kinds <= {int, float, bool} or kinds <= {str}):
        raise ColumnError(
            f"column {name} holds {', '.join(sorted(kind.__name__ for kind in kinds))}: give words, or whole numbers"
        )
    return np.array(values)


def beside(source: Any, text: str) -> Column | None:
    """A column that a data set tells of itself, in an attribute of that name or as ``datasets.Dataset`` does; None: none.

    Raises:
        ColumnError: as :func:`column_of`.
    """
    name, _ = parse_column(text)
    if isinstance(source, DataLoader):
        return beside(source.dataset, text)
    if isinstance(source, Subset):
        inner = beside(source.dataset, text)
        return None if inner is None else inner.subset(np.asarray(source.indices, dtype=np.int64))
    if name in (getattr(source, "column_names", None) or ()) and hasattr(source, "features"):
        feature = source.features[name]
        return column_of(text, list(source.with_format(None)[name]), getattr(feature, "names", None))
    raw = getattr(source, name, None) if name.isidentifier() and not isinstance(source, Tensor | Mapping) else None
    try:
        fits = raw is not None and len(raw) == len(source) and not isinstance(raw, str | bytes | Mapping)
    except TypeError:
        return None
    return column_of(text, raw) if fits else None


def read_column(source: Any, parts: list[Any], text: str, *, batches: bool) -> tuple[Column, list[Any]]:
    """A column that a data set tells of itself, or that lies in its items or batches; words there become their numbers.

    Args:
        source: the data set, loader or iterable.
        parts: its items, or batches: dictionaries, or tuples and lists, where the column is a place, from 0 on.
        text: as for :func:`column_of`.
        batches: the parts are batches, with a value for each sample.

    Raises:
        ColumnError: there is no such column; else as :func:`column_of`.
    """
    name, _ = parse_column(text)
    found, entries = beside(source, text), entries_of(parts, name)
    if entries is None:
        if found is None:
            raise ColumnError(f"no column {name}: {_there(source, parts)}")
        return found, parts
    column = found or column_of(text, _of_all(entries, batches=batches))
    return column, parts if _numeric(entries) else replaced(parts, name, column.codes, batches=batches)


def words_numbered(
    parts: list[Any], which: int | str | None, other: Sequence[str] = (), *, batches: bool
) -> tuple[list[Any], Choice | None]:
    """Items or batches whose class labels are words with numbers instead, in the order of the alphabet, and what they are."""
    try:
        place = _place_of_labels(parts[0], which, other)
    except LabelError:  # said, where they are needed
        return parts, None
    entries = None if place is None else entries_of(parts, place)
    if place is None or entries is None:
        return parts, None
    words = [value for entry in entries for value in entry] if batches and not isinstance(entries[0], str) else entries
    if not words or not all(isinstance(word, str) for word in words):
        return parts, None
    column = column_of(place, words)
    listed = ", ".join(f"{code} {word}" for code, word in enumerate(column.values[:12]))
    choice = Choice(name="classes", value=listed + (" ..." if len(column.values) > 12 else ""), flag="--labels", guessed=False)
    return replaced(parts, place, column.codes, batches=batches), choice


def _place_of_labels(part: Any, which: int | str | None, other: Sequence[str]) -> str | None:
    if isinstance(part, Mapping):
        return label_key(part, which)
    return str(label_place(part, which, other)) if isinstance(part, tuple | list) else None


def entries_of(parts: list[Any], name: str) -> list[Any] | None:
    """What every part has under a key or at a place; None where not all have it."""
    if parts and all(isinstance(part, Mapping) and name in part for part in parts):
        return [part[name] for part in parts]
    if parts and name.isdecimal() and all(isinstance(part, tuple | list) and len(part) > int(name) for part in parts):
        return [part[int(name)] for part in parts]
    return None


def replaced(parts: list[Any], name: str, rows: np.ndarray, *, batches: bool) -> list[Any]:
    """The parts with the rows of an array in that place."""
    tensor, done = torch.from_numpy(rows), 0
    result: list[Any] = []
    for part in parts:
        count = len(part[name] if isinstance(part, Mapping) else part[int(name)]) if batches else 1
        value = tensor[done : done + count] if batches else tensor[done]
        done += count
        if isinstance(part, Mapping):
            result.append({**part, name: value})
        else:
            result.append(tuple(value if place == int(name) else own for place, own in enumerate(part)))
    return result


def _of_all(entries: list[Any], *, batches: bool) -> Any:
    """The values of all samples; rows of zeros and ones as one array."""
    if all(isinstance(entry, Tensor | np.ndarray) and entry.ndim == 1 + batches for entry in entries):
        arrays = [entry.numpy() if isinstance(entry, Tensor) else entry for entry in entries]
        if len({array.shape[-1] for array in arrays}) == 1:
            return np.concatenate(arrays) if batches else np.stack(arrays)
    return [value for entry in entries for value in entry] if batches else entries


def _numeric(entries: list[Any]) -> bool:
    return all(
        isinstance(value, Tensor | int | float | np.number) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
        for value in entries
    )


def _there(source: Any, parts: list[Any]) -> str:
    first = parts[0] if parts else None
    if isinstance(first, Mapping):
        entries = f"the samples have {', '.join(map(str, first))}"
    else:
        entries = (
            f"the samples have parts 0 to {len(first) - 1}" if isinstance(first, tuple | list) else "the samples have no parts"
        )
    return f"{entries}, and {type(source).__name__} has no attribute of that name and the samples' length"
