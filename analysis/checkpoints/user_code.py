"""Losses and data that a user names on the command line, or a side-car names for us: one mechanism for both."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saddlescope import load_factory

from ..hessian.losses import BatchLoss, ClassificationLoss
from ..samples.given import as_samples
from ..samples.labels import label_place
from ..samples.samples import Samples
from .formats.errors import first_line
from .image_folder import image_folder
from .tables import SUFFIXES, is_saved_dataset, load_dataset, read_table

#: factories of the suite's own data sets and losses: found by name, like anybody's
OUR_DATA = "saddlescope:analysis_set"
OUR_LOSSES = "saddlescope:build_loss"


class SubjectError(ValueError):
    """Model, data or loss cannot be put together; the message names the factory and the fix."""


def call(factory: Callable[..., Any], reference: str, arguments: Mapping[str, Any]) -> Any:
    """Calls user code; what it raises comes back as one sentence that names it.

    Raises:
        SubjectError: the arguments do not fit, or the call raised.
    """
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise SubjectError(f"{reference} does not take the arguments {dict(arguments)}: {first_line(error)}") from None
    except ValueError:
        pass  # a builtin without a signature
    try:
        return factory(**arguments)
    except Exception as error:
        if type(error).__module__.split(".")[0] == "saddlescope":
            raise  # says itself what is wrong
        raise SubjectError(f"{reference} raised {type(error).__name__}: {first_line(error)}") from error


def build_loss(
    reference: str | None, class_counts: list[int], *, logits: str | None = None, labels: str | None = None
) -> tuple[BatchLoss, str]:
    """The loss and its name.

    Args:
        reference: ``None`` for cross-entropy; a loss of the suite (``ldam``, ``la`` ...); or ``file.py:loss`` that is called as
            ``loss(model, batch)`` and returns one number per sample, or their mean.
        class_counts: for losses that depend on them.
        logits: which part of the model's output the logits are, see
            :class:`~saddlescope.analysis.hessian.losses.ClassificationLoss`.
        labels: which part of a batch the labels are, see there.

    Raises:
        SubjectError: the reference is no function of two arguments, or one of its own with ``logits``.
    """
    if reference is None or reference == "cross-entropy":
        return ClassificationLoss(logits=logits, labels=labels), "cross-entropy"
    if ":" not in reference:
        own = load_factory(OUR_LOSSES)(name=reference, class_counts=class_counts)
        return ClassificationLoss(own, logits=logits, labels=labels), reference
    if logits is not None:
        raise SubjectError(f"--logits {logits}: --loss {reference} is called with the model, and takes its logits by itself")
    function = load_factory(reference)
    try:
        fits = callable(function) and bool(inspect.signature(function).bind(None, None))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise SubjectError(f"loss {reference}: must be a function loss(model, batch)")
    return function, reference


def load_samples(
    reference: str,
    arguments: Mapping[str, Any],
    num_classes: int | None = None,
    labels: str | None = None,
    column: str | None = None,
) -> Samples:
    """The samples that a reference names, kept for the next checkpoint on the same data.

    Args:
        reference: ``file.py:function`` or ``package.module:function``; a data set of the suite (``cifar10``, with
            ``imbalance_factor`` and so on as arguments); a ``.npz``, ``.pt`` or ``.safetensors`` file with inputs and labels;
            a ``.csv`` or ``.parquet`` table; a folder of class folders of images, or of ``datasets.Dataset.save_to_disk``.
        arguments: keyword arguments.
        num_classes: C; default: from the labels.
        labels: which part of a batch or item, or which array of a file, the class labels are, where that does not show.
        column: what else is told of each sample, for groups: a column of a table, an entry of items or batches, an attribute of
            the data set.

    Raises:
        SubjectError: nothing that can be read as labelled samples.
        SamplesError: the samples cannot be analysed.
        ColumnError: no such column, or it makes no groups.
    """
    return _load_samples(reference, json.dumps(dict(arguments), sort_keys=True), num_classes, labels, column)


def names_part(reference: str) -> bool:
    """Whether ``labels`` names a part of the batches; of a file it names a column or an array, and its batches are pairs."""
    path = Path(reference).expanduser()
    return is_saved_dataset(path) or (":" in reference and not path.exists())


@lru_cache(maxsize=2)
def _load_samples(
    reference: str, arguments: str, num_classes: int | None, labels: str | None = None, column: str | None = None
) -> Samples:
    given = json.loads(arguments)
    path = Path(reference).expanduser()
    if ":" not in reference or path.exists():
        if path.suffix in SUFFIXES and path.is_file():
            given = {"path": path, "label": labels, "num_classes": num_classes, "column": column, **given}
            table: Samples = call(read_table, f"--data {reference}", given)
            return table
        if path.is_file():
            return as_samples(_tensors_of(path, labels, column), reference, num_classes, None, column)
        if path.is_dir() and is_saved_dataset(path):
            return as_samples(load_dataset(path), reference, num_classes, labels, column)
        if path.is_dir():
            folder: Samples = call(image_folder, f"--data {reference}", {"path": path, "num_classes": num_classes, **given})
            return as_samples(folder, reference, column=column)
        if "/" in reference or path.suffix in (".npz", ".pt", ".safetensors", *SUFFIXES):
            raise SubjectError(f"--data {reference}: no such file or folder")
        return as_samples(
            call(load_factory(OUR_DATA), reference, {"name": reference, **given}), reference, num_classes, None, column
        )
    return as_samples(call(load_factory(reference), reference, given), reference, num_classes, labels, column)


def _tensors_of(path: Path, which: str | None = None, column: str | None = None) -> tuple[Any, ...]:
    """Inputs and labels in a file of arrays, and the column that was asked for; ``which`` are the labels, if that is told."""
    try:
        if path.suffix == ".npz":
            content: Any = dict(np.load(path, allow_pickle=False))
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SubjectError(f"--data {path}: cannot be read: {first_line(error)}") from None
    if isinstance(content, tuple | list) and len(content) == 2:
        place = label_place(content, which)
        return content[1 - place], content[place]
    if isinstance(content, dict):
        if which is not None and which not in content:
            raise SubjectError(f"--labels {which}: {path} holds no array of that name, but {', '.join(map(str, content))}")
        inputs = [key for key in ("inputs", "images", "x", "X", "data") if key in content and key != which]
        labels = [key for key in ("labels", "targets", "y", "Y", "target", "label") if key in content]
        labels = labels if which is None else [which]
        if len(inputs) == len(labels) == 1:
            pair = tuple(_tensor(path, name, content[name]) for name in (inputs[0], labels[0]))
            return pair if column is None else (*pair, content)
        twice = next((found for found in (inputs, labels) if len(found) > 1), None)
        why = f", and {' and '.join(twice)} can both be meant" if twice else ""
        raise SubjectError(
            f"--data {path}: holds {', '.join(map(str, content))}{why}; name the arrays 'inputs' and 'labels', and only these"
        )
    raise SubjectError(f"--data {path}: holds a {type(content).__name__}, not inputs and labels")


def _tensor(path: Path, name: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SubjectError(f"--data {path}: {name} is no array of numbers ({first_line(error)})") from None
