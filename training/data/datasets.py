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
from .image_lists import OWN, PUBLISHED, image_lists
from .images import ImageSet
from .longtail import Kind, Protocol, imbalance_factor, index_sha256, long_tail_indices
from .photos import Photos
from .sources import DataError, Source


@dataclass(frozen=True)
class LongTailedData:
    """A training set with its held-out part.

    Attributes:
        title: data set, tail and protocol, to show.
        train: the long-tailed training images, class after class; as listed where no tail is cut.
        test: the part that accuracy is measured on.
        split: one phrase that says what ``test`` is.
        class_counts: training images of each class ``[C]``.
        index_sha256: identity of the choice of training images: of their index, or of their names and classes where a list
            names them.
    """

    title: str
    train: ImageSet
    test: ImageSet
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
    train_list: str | None = None,
    test_list: str | None = None,
    image_size: int | None = None,
    root: str | Path | None = None,
) -> LongTailedData:
    """Loads a data set and cuts its long tail.

    Args:
        name: one of :data:`SOURCES` or :data:`LISTED`.
        imbalance_factor: 100 or 0.01 for the same thing; ``None`` leaves the set as published.
        kind: ``exp`` or ``step``.
        protocol: ``ldam`` or ``first``, see :func:`~saddlescope.training.data.longtail.long_tail_indices`.
        seed: of the protocol and of the held-out part.
        n_max: size of the largest class; default: all there is.
        held_out: images of each class set aside, for sets that come in one part.
        train_list: list of training images, for ``image-list``.
        test_list: list of the images that accuracy is measured on, likewise.
        image_size: height and width of what is made of listed images; default 224.
        root: folder to look in first.

    Raises:
        DataError: unknown name; missing or damaged files; a setting that would change nothing.
        LongTailError: a tail that the set does not have.
    """
    if name in LISTED:
        source = image_lists(name, train_list, test_list, image_size, root)
    elif name in SOURCES:
        given = {"train_list": train_list, "test_list": test_list, "image_size": image_size}
        other = next((field for field, value in given.items() if value is not None), None)
        if other is not None:
            raise DataError(f"[data] {other} is for data sets of listed images ({', '.join(LISTED)}), not for {name!r}")
        if held_out is not None and name not in IN_ONE_PART:
            raise DataError(f"[data] held_out is for sets in one part ({', '.join(IN_ONE_PART)}); {name!r} has a test part")
        source = SOURCES[name](held_out, seed, root)
    else:
        raise DataError(f"[data] name = {name!r} is not known; known are {', '.join(sorted([*SOURCES, *LISTED]))}")
    labels = source.train.targets.numpy()
    if imbalance_factor is None:
        shape = {"n_max": n_max is not None, "kind": kind != "exp", "protocol": protocol != "ldam"}
        unused = next((field for field, given in shape.items() if given), None)
        if unused is not None:
            raise DataError(f"[data] {unused} shapes a long tail: give imbalance_factor, too (without it the set is as it is)")
        index, suffix = np.arange(len(labels), dtype=np.int64), source.unchanged
    else:
        index = long_tail_indices(labels, imbalance_factor, kind, protocol, seed, n_max)
        suffix = (
            f"{_factor(imbalance_factor)} ({protocol})" if kind == "exp" else f"{kind} {_factor(imbalance_factor)} ({protocol})"
        )
    classes = 1 + max(int(source.test.targets.max()), int(labels.max()))
    train = source.train.subset(torch.from_numpy(index))
    return LongTailedData(
        title=f"{source.title} {suffix}",
        train=train,
        test=source.test,
        split=source.split,
        class_counts=np.bincount(labels[index], minlength=classes).tolist(),
        index_sha256=train.list_sha256() if isinstance(train, Photos) else index_sha256(index),
    )


def _factor(factor: float) -> str:
    return f"IF {imbalance_factor(factor):g}"


def analysis_set(**args: object) -> tuple[Tensor, Tensor] | Photos:
    """The long-tailed training set, clean and in its fixed order: inputs ``[N, C, H, W]``, labels ``[N]``.

    Listed photos are a map-style data set of ``(input, label)`` instead, for ``Samples`` to read as it needs them.

    Args:
        **args: as for :func:`load_data`.
    """
    return load_data(**args).train.for_analysis()  # type: ignore[arg-type,no-any-return]  # JSON from a side-car


def evaluation_set(**args: object) -> tuple[Tensor, Tensor] | Photos:
    """The held-out part, clean and in its fixed order; arguments and forms as in :func:`analysis_set`."""
    return load_data(**args).test.for_analysis()  # type: ignore[arg-type,no-any-return]


#: names in recipes of the sets whose images a list names
LISTED = (*PUBLISHED, OWN)
#: names of the sets that come in one part, of which some is held out
IN_ONE_PART = ("digits", "synthetic")
#: name in recipes -> loader(held_out, seed, root)
SOURCES: dict[str, Callable[[int | None, int, str | Path | None], Source]] = {
    "cifar10": lambda _held_out, _seed, root: cifar(10, root),
    "cifar100": lambda _held_out, _seed, root: cifar(100, root),
    "digits": lambda held_out, seed, _root: digits(held_out, seed),
    "fashion-mnist": lambda _held_out, _seed, root: fashion_mnist(root),
    "synthetic": lambda held_out, seed, _root: synthetic(held_out, seed),
}
