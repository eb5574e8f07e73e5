"""Data that papers printed numbers for, known by what a result says of its own."""

from __future__ import annotations

from .results import Provenance

#: images of each class of CIFAR-10-LT, imbalance 100
_CIFAR10_LT_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def on_cifar10_lt_100(source: Provenance) -> bool:
    """Whether a result is on CIFAR-10-LT, imbalance 100, whole, from whichever copy of the images."""
    return source.data.startswith("CIFAR-10 ") and source.class_counts == _CIFAR10_LT_100
