"""Which samples of a balanced set make up its long-tailed version.

A pure function of the labels. Published codes share the class sizes but not the choice of samples, so "CIFAR-10-LT" names
several data sets; the index array and its SHA-256 tell them apart.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

Kind = Literal["exp", "step"]
Protocol = Literal["ldam", "first"]


class LongTailError(ValueError):
    """The long tail asked for cannot be cut from these labels."""


def tail_ratio(factor: float) -> float:
    """``mu``, smallest class over largest, from an imbalance factor written either way: 100 and 0.01 both give 0.01.

    Raises:
        LongTailError: not a finite number above 0.
    """
    if isinstance(factor, bool) or not math.isfinite(factor) or factor <= 0:
        raise LongTailError(
            f"imbalance_factor = {factor!r}: give largest over smallest class (such as 100) or its inverse (0.01), above 0"
        )
    return 1 / factor if factor >= 1 else float(factor)


def imbalance_factor(factor: float) -> float:
    """The factor as largest over smallest class, however it was written; for display."""
    return float(f"{1 / tail_ratio(factor):.12g}")


def long_tail_counts(n_max: int, num_classes: int, factor: float, kind: Kind = "exp") -> list[int]:
    """Class sizes ``[C]``: ``floor(n_max mu^(c / (C - 1)))`` for ``exp``; for ``step`` the second half has ``floor(n_max mu)``.

    Args:
        n_max: size of class 0.
        num_classes: C >= 2.
        factor: imbalance factor, 100 or 0.01 for the same thing.
        kind: shape of the tail.

    Raises:
        LongTailError: a class would be empty, or an argument is out of range.
    """
    if num_classes < 2 or n_max < 1:
        raise LongTailError(f"a long tail needs 2 classes or more and n_max >= 1; got {num_classes} classes, n_max = {n_max}")
    mu = tail_ratio(factor)
    if kind == "exp":
        sizes = [n_max * mu ** (c / (num_classes - 1)) for c in range(num_classes)]
    elif kind == "step":
        sizes = [float(n_max)] * (num_classes // 2) + [n_max * mu] * (num_classes - num_classes // 2)
    else:
        raise LongTailError(f"kind = {kind!r}: a long tail is 'exp' or 'step'")
    # Truncated like the published int(); the nudge keeps 1000 * 0.001 style products from losing a sample to rounding.
    counts = [math.floor(size * (1 + 1e-12)) for size in sizes]
    if counts[-1] < 1:
        raise LongTailError(
            f"imbalance_factor = {factor:g} with n_max = {n_max} leaves class {counts.index(0)} without a sample; "
            f"the largest possible factor is {n_max}"
        )
    return counts


def long_tail_indices(
    labels: Sequence[int] | np.ndarray,
    factor: float,
    kind: Kind = "exp",
    protocol: Protocol = "ldam",
    seed: int = 0,
    n_max: int | None = None,
) -> np.ndarray:
    """Indices of the long-tailed subset, class after class, int64 ``[N']``.

    Args:
        labels: class of every sample ``[N]``, values 0 .. C-1; class 0 becomes the largest.
        factor: imbalance factor, 100 or 0.01 for the same thing.
        kind: ``exp`` or ``step``.
        protocol: which samples of a class stay. ``ldam``: those that come first after ``numpy.random.RandomState(seed)`` has
            shuffled the classes one after another (LDAM-DRW and its descendants; one stream for all classes). ``first``: the
            first in file order (the SSE-SAM code).
        seed: of ``ldam``; ``first`` has no randomness.
        n_max: size of class 0; default: the smallest class's, which for a balanced set is every class's.

    Raises:
        LongTailError: labels with a gap, a class that is too small, or an argument out of range.
    """
    values = np.asarray(labels)
    if values.ndim != 1 or not len(values) or not np.issubdtype(values.dtype, np.integer):
        raise LongTailError(f"labels must be whole numbers [N]; got {values.dtype} of shape {values.shape}")
    classes, available = np.unique(values, return_counts=True)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise LongTailError(f"labels must be 0 .. C-1 without a gap; got {classes[:20].tolist()}")
    counts = long_tail_counts(int(available.min()) if n_max is None else n_max, len(classes), factor, kind)
    short = [c for c in range(len(classes)) if counts[c] > available[c]]
    if short:
        c = short[0]
        raise LongTailError(f"class {c} has {available[c]} samples but the long tail asks for {counts[c]}; lower n_max")
    if protocol not in ("ldam", "first"):
        raise LongTailError(f"protocol = {protocol!r}: samples are chosen by 'ldam' or 'first'")
    random = np.random.RandomState(seed)  # the published codes' generator, bit for bit
    kept = []
    for c, count in zip(classes, counts, strict=True):
        members = np.flatnonzero(values == c)
        if protocol == "ldam":
            random.shuffle(members)
        kept.append(members[:count])
    return np.concatenate(kept).astype(np.int64)


def index_sha256(indices: np.ndarray) -> str:
    """SHA-256 of an index array as little-endian int64: the identity of a long-tailed set."""
    return hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()
