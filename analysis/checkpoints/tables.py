"""Tables as data: a ``.csv`` or ``.parquet`` file whose columns are numbers, one of them the class; sets of ``datasets``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..records.results import Choice
from ..samples.columns import column_of, parse_column
from ..samples.labels import LABEL_KEYS
from ..samples.samples import Samples, SamplesError

SUFFIXES = (".csv", ".parquet")
#: what ``datasets.Dataset.save_to_disk`` leaves in a folder
_SAVED = ("dataset_info.json", "state.json")


def read_table(
    path: Path,
    label: str | None = None,
    num_classes: int | None = None,
    column: str | None = None,
    inputs: Sequence[str] | None = None,
) -> Samples:
    """The rows of a table: inputs ``[N, columns]`` in float32, in the order of the columns, and the class.

    Args:
        path: ``.csv``, or ``.parquet`` (which needs pyarrow).
        label: column of the class: whole numbers, or words, which are numbered in the order of the alphabet; default: the one
            that is called ``labels``, ``label``, ``targets`` or ``target``.
        num_classes: C; default: from the labels.
        column: what groups are made of, with cuts where numbers are to be cut (``age:30,60``): no input unless ``inputs`` says.
        inputs: columns that are inputs, in their order; default: all but the class and ``column``.

    Raises:
        SamplesError: unreadable; no such column, or several; an input that is no number; an empty cell.
        ColumnError: ``column`` makes no groups.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except ImportError:
        raise SamplesError(f"--data {path}: reading .parquet needs pyarrow; pip install pyarrow") from None
    except PermissionError:
        raise
    except Exception as error:
        raise SamplesError(f"--data {path}: cannot be read as a table: {(str(error).splitlines() or ['?'])[0][:200]}") from None
    names = [str(name) for name in table.columns]
    found = [name for name in LABEL_KEYS if name in names] if label is None else [label]
    if len(found) != 1 or found[0] not in names or len(set(names)) < len(names):
        raise SamplesError(
            f"--data {path}: which column is the class? Say it with --labels; the columns are {', '.join(names[:12])}"
        )
    table.columns = pd.Index(names)
    grouped = None if column is None else parse_column(column)[0]
    for name in [*([] if grouped is None else [grouped]), *(inputs or ())]:
        if name not in names:
            raise SamplesError(f"--data {path}: no column {name}; the columns are {', '.join(names[:12])}")
    told = None if column is None else column_of(column, table[grouped].to_numpy())
    classes = table[found[0]]
    rest = table[list(inputs) if inputs is not None else [name for name in names if name not in (found[0], grouped)]]
    words = [name for name in rest if not pd.api.types.is_numeric_dtype(rest[name])]
    if table.empty or rest.empty:
        raise SamplesError(f"--data {path}: {'no rows' if table.empty else 'no columns beside the class'}")
    if words:
        raise SamplesError(
            f"--data {path}: column {words[0]} holds no numbers; leave such columns out, encode them, or name the "
            'inputs: --data-args {"inputs": ["a", "b"]}'
        )
    if classes.isna().any():
        raise SamplesError(f"--data {path}: the class of row {int(np.flatnonzero(classes.isna())[0])} is missing")
    numbers = pd.api.types.is_numeric_dtype(classes)
    if numbers and (odd := np.flatnonzero(classes % 1 != 0)).size:
        raise SamplesError(
            f"--data {path}: the class of row {int(odd[0])} is {classes.iloc[int(odd[0])]:g}; give whole numbers, or words"
        )
    kinds = [] if numbers else sorted(map(str, classes.unique()))
    targets = classes.to_numpy() if numbers else np.searchsorted(kinds, classes.astype(str).to_numpy())
    rows = torch.from_numpy(rest.to_numpy(dtype=np.float32, na_value=np.nan, copy=True))
    samples = Samples.from_tensors(rows, torch.tensor(np.array(targets)), num_classes)
    if kinds:
        value = ", ".join(f"{place} {kind}" for place, kind in enumerate(kinds[:12])) + (" ..." if len(kinds) > 12 else "")
        samples.choices = (Choice(name="classes", value=value, flag="--labels", guessed=False),)
    if inputs is not None or grouped not in (None, found[0]):
        value = ", ".join(map(str, rest.columns))
        samples.choices += (Choice(name="inputs", value=value, flag="--data-args", guessed=inputs is None),)
    return samples if told is None else samples.with_column(told.name, told)


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by ``datasets.Dataset.save_to_disk``."""
    return all((folder / name).is_file() for name in _SAVED)


def load_dataset(folder: Path) -> Any:
    """The set in such a folder.

    Raises:
        SamplesError: datasets is not installed, or the folder is damaged.
    """
    if importlib.util.find_spec("datasets") is None:
        raise SamplesError(f"--data {folder}: a set of the library datasets, which is not installed here; pip install datasets")
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SamplesError(f"--data {folder}: cannot be read by datasets: {first}") from None
