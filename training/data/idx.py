"""Fashion-MNIST from its four IDX files (Xiao, Rasul and Vollgraf 2017, MIT licence)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from .images import Images, Normalisation
from .sources import DataError, Source, find

#: mean and standard deviation of the 60,000 training images' pixels, computed from the files
FASHION_MNIST = Normalisation(mean=(0.2860,), std=(0.3530,))
_TYPES = {8: np.dtype("u1")}


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes, gzipped or not: two zero bytes, type, number of dimensions, big-endian sizes, data.

    Raises:
        DataError: truncated, damaged, or another format.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be unpacked ({error}); the file is incomplete, get it again") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise DataError(f"{path}: no IDX file of bytes (starts with {raw[:4].hex(' ')})")
    dimensions = raw[3]
    start = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(raw[4:start], dtype=">u4"))
    if len(shape) != dimensions or len(raw) - start != int(np.prod(shape)):
        raise DataError(f"{path}: holds {len(raw) - start} bytes of data, its head says {shape}; get the file again")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def fashion_mnist(root: str | Path | None) -> Source:
    """60,000 training and 10,000 test images, 28x28 grey, 10 classes.

    Raises:
        DataError: files are missing or damaged, or images and labels do not belong together.
    """
    parts = {}
    for part in ("train", "t10k"):
        images, labels = (read_idx(_file(f"{part}-{kind}-ubyte", root)) for kind in ("images-idx3", "labels-idx1"))
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max() > 9:
            raise DataError(f"Fashion-MNIST {part}: images {images.shape} and labels {labels.shape} do not belong together")
        pixels = torch.from_numpy(images.copy()).unsqueeze(1)
        parts[part] = Images(pixels, torch.from_numpy(labels.astype(np.int64)), FASHION_MNIST)
    return Source("Fashion-MNIST", parts["train"], parts["t10k"], "the published test part")


def _file(name: str, root: str | Path | None) -> Path:
    return find("Fashion-MNIST", (name, f"{name}.gz"), root, ("fashion-mnist", "FashionMNIST/raw", "fashion_mnist"))
