"""Data sets that need no file: scikit-learn's digits, and a synthetic set for tests."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch

from .images import Images, Normalisation
from .sources import DataError, Source


def digits(held_out: int | None, seed: int) -> Source:
    """The 1,797 handwritten digits, 8x8 with 17 grey levels, that scikit-learn bundles (UCI optical digits, test part).

    They come as one part, so ``held_out`` images of each class (default 50) are set aside for measuring accuracy.
    """
    table = _digits_table()
    scale = Normalisation(mean=(0.3053,), std=(0.3760,), full_scale=16.0)
    pixels = torch.from_numpy(table[:, :-1].astype(np.uint8)).view(-1, 1, 8, 8)
    images = Images(pixels, torch.from_numpy(table[:, -1].astype(np.int64)), scale)
    return hold_out("digits", images, 50 if held_out is None else held_out, seed)


def _digits_table() -> np.ndarray:
    """Pixels and class, ``[1797, 65]``, of the file that is part of scikit-learn.

    Read as it lies there: importing scikit-learn for it takes longer than a small analysis does.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt", encoding="ascii") as lines:
                return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits  # wherever it keeps them

    raw = load_digits()
    return np.column_stack([raw.data, raw.target])


def synthetic(held_out: int | None, seed: int) -> Source:
    """Five classes of 8x8 grey patterns with noise, 80 of each and ``held_out`` (default 20) more for accuracy. For tests."""
    random = np.random.default_rng(20240817)
    held = 20 if held_out is None else held_out
    targets = np.tile(np.arange(5), 80 + held)
    patterns = random.normal(128, 30, (5, 1, 8, 8))
    pixels = patterns[targets] + random.normal(0, 30, (len(targets), 1, 8, 8))
    scale = Normalisation(mean=(0.5,), std=(0.17,))
    images = Images(torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), torch.from_numpy(targets), scale)
    return hold_out("synthetic", images, held, seed)


def hold_out(title: str, images: Images, per_class: int, seed: int) -> Source:
    """Sets ``per_class`` random images of every class aside; the rest keeps its order.

    Raises:
        DataError: a class has too few images.
    """
    targets = images.targets.numpy()
    fewest = int(np.bincount(targets).min())
    if not 1 <= per_class < fewest:
        raise DataError(
            f"[data] held_out = {per_class}: {title} has {fewest} images in its smallest class; give 1 .. {fewest - 1}"
        )
    random = np.random.default_rng([seed, 1])
    chosen = [random.permutation(np.flatnonzero(targets == c))[:per_class] for c in range(int(targets.max()) + 1)]
    test = np.sort(np.concatenate(chosen))
    train = np.setdiff1d(np.arange(len(targets)), test)
    return Source(
        title=title,
        train=images.subset(torch.from_numpy(train)),
        test=images.subset(torch.from_numpy(test)),
        split=f"{per_class} held-out images of each class (seed {seed})",
    )
