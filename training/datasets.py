"""Long-tailed data sets by name: what a recipe's ``[data]`` table means.

:func:`analysis_set` and :func:`evaluation_set` are the data factories that checkpoints name in their side-cars: clean, in a
fixed order, normalised as in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .cifar import cifar
from .embedded import digits, synthetic
from .idx import fashion_mnist
from .images import Images
from .longtail import Kind, Protocol, imbalance_factor, index_sha256, long_tail_indices
from .sources import DataError, Source


@dataclass(frozen=True)
class LongTailedData:
    """A training set with its held-out part.

    Attributes:
        title: data set, tail and protocol, to show.
        train: the long-tailed training images, class after class.
        test: the part that accuracy is measured on.
        split: one phrase that says what ``test`` is.
        class_counts: training images of each class ``[C]``.
        index_sha256: identity of the choice of training images.
    """

    title: str
    train: Images
    test: Images
    split: str
    class_counts: list[int]
    index_sha256: str

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_counts)


def load_data(
    name: str,
    imbalance_factor: float | None = None,
    kind: Kind = "exp",
    protocol: Protocol = "ldam",
    seed: int = 0,
    n_max: int | None = None,
    held_out: int | None = None,
    root: str | Path | None = None,
) -> LongTailedData:
    """Loads a data set and cuts its long tail.

    Args:
        name: one of :data:`SOURCES`.
        imbalance_factor: 100 or 0.01 for the same thing; ``None`` leaves the set as published.
        kind: ``exp`` or ``step``.
        protocol: ``ldam`` or ``first``, see :func:`~saddlescope.training.longtail.long_tail_indices`.
        seed: of the protocol and of the held-out part.
        n_max: size of the largest class; default: all there is.
        held_out: images of each class set aside, for sets that come in one part.
        root: folder to look in first.

    Raises:
        DataError: unknown name; missing or damaged files.
        LongTailError: a tail that the set does not have.
    """
    if name not in SOURCES:
        raise DataError(f"[data] name = {name!r} is not known; known are {', '.join(sorted(SOURCES))}")
    source = SOURCES[name](held_out, seed, root)
    labels = source.train.targets.numpy()
    if imbalance_factor is None:
        index, suffix = np.arange(len(labels), dtype=np.int64), "as published"
    else:
        index = long_tail_indices(labels, imbalance_factor, kind, protocol, seed, n_max)
        suffix = (
            f"{_factor(imbalance_factor)} ({protocol})" if kind == "exp" else f"{kind} {_factor(imbalance_factor)} ({protocol})"
        )
    classes = int(source.test.targets.max()) + 1
    return LongTailedData(
        title=f"{source.title} {suffix}",
        train=source.train.subset(torch.from_numpy(index)),
        test=source.test,
        split=source.split,
        class_counts=np.bincount(labels[index], minlength=classes).tolist(),
        index_sha256=index_sha256(index),
    )


def _factor(factor: float) -> str:
    return f"IF {imbalance_factor(factor):g}"


def analysis_set(**args: object) -> tuple[Tensor, Tensor]:
    """The long-tailed training set, clean and in its fixed order: inputs ``[N, C, H, W]``, labels ``[N]``.

    Args:
        **args: as for :func:`load_data`.
    """
    data = load_data(**args)  # type: ignore[arg-type]  # JSON from a side-car
    return data.train.clean(), data.train.targets


def evaluation_set(**args: object) -> tuple[Tensor, Tensor]:
    """The held-out part, clean and in its fixed order; arguments and shapes as in :func:`analysis_set`."""
    data = load_data(**args)  # type: ignore[arg-type]
    return data.test.clean(), data.test.targets


#: name in recipes -> loader(held_out, seed, root)
SOURCES: dict[str, Callable[[int | None, int, str | Path | None], Source]] = {
    "cifar10": lambda _held_out, _seed, root: cifar(10, root),
    "cifar100": lambda _held_out, _seed, root: cifar(100, root),
    "digits": lambda held_out, seed, _root: digits(held_out, seed),
    "fashion-mnist": lambda _held_out, _seed, root: fashion_mnist(root),
    "synthetic": lambda held_out, seed, _root: synthetic(held_out, seed),
}
