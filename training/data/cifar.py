"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from whatever form they lie in.

The official python and binary versions, as folders or archives; and class folders of image files (``train/<class>/``,
``test/<class>/``), as a folder or a tar. Images that went through JPEG are not the published pixels, and the title says so.
"""

from __future__ import annotations

import io
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from .cache import cached_arrays
from .images import Images, Normalisation
from .sources import DataError, Source, find

#: per channel, of the 50,000 training images in [0, 1]: the values in general use (of JPEG copies of CIFAR-10 the means agree
#: to three digits, the standard deviations to 0.002)
NORMALISATION = {
    10: Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    100: Normalisation(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
}
SPLIT = "the published test part"
SUFFIXES = {".png": "", ".bmp": "", ".jpg": " (JPEG)", ".jpeg": " (JPEG)"}


@dataclass(frozen=True)
class _Names:
    """Where one of the two sets may lie."""

    classes: int

    @property
    def title(self) -> str:
        return f"CIFAR-{self.classes}"

    @property
    def forms(self) -> dict[str, Callable[[Path, int], dict[str, np.ndarray]]]:
        """File or folder name -> how to read it; official forms first."""
        dashed, joined = f"cifar-{self.classes}", f"cifar{self.classes}"
        python = "cifar-10-batches-py" if self.classes == 10 else "cifar-100-python"
        binary = "cifar-10-batches-bin" if self.classes == 10 else "cifar-100-binary"
        tars = [f"{stem}{kind}{end}" for stem in (joined, dashed) for kind in ("", "-jpeg", "-png") for end in _TARS]
        return {
            python: _python,
            f"{dashed}-python.tar.gz": _python,
            binary: _binary,
            f"{dashed}-binary.tar.gz": _binary,
            **dict.fromkeys(tars, _pictures),
            joined: _pictures,
            dashed: _pictures,
        }


_TARS = (".tar", ".tar.gz", ".tar.xz", ".tgz")


def cifar(classes: int, root: str | Path | None) -> Source:
    """50,000 training and 10,000 test images, 32x32 colour.

    Args:
        classes: 10 or 100.
        root: folder to look in first.

    Raises:
        DataError: not found, damaged, or of another number of classes.
    """
    names = _Names(classes)
    subfolders = (f"cifar{classes}", f"cifar-{classes}")
    # a folder of that name holds either class folders or one of the official forms
    path = find(
        names.title,
        list(names.forms),
        root,
        subfolders,
        lambda place: (place / "train").is_dir() if place.name in subfolders else place.exists(),
    )
    arrays = cached_arrays(path, lambda: names.forms[path.name](path, classes))
    parts = {}
    for part in ("train", "test"):
        pixels, labels = arrays[f"{part}_pixels"], arrays[f"{part}_labels"]
        if pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) != len(labels) or not len(labels):
            raise DataError(f"{path}: {part} images {pixels.shape} and labels {labels.shape} do not belong together")
        if len(np.unique(labels)) != classes or labels.max() != classes - 1:
            raise DataError(f"{path}: the {part} part has {len(np.unique(labels))} classes, {names.title} has {classes}")
        parts[part] = Images(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), NORMALISATION[classes])
    return Source(names.title + str(arrays["form"]), parts["train"], parts["test"], SPLIT)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """``(name, content)`` of every file in a folder or tar, in a fixed order."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield str(PurePosixPath(*file.relative_to(path.parent).parts)), file.read_bytes()
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:  # in the order of the archive: seeking in a compressed one reads it over and over
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name, stream.read()
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read to its end ({error}); the archive is incomplete, get it again") from None


class _OnlyArrays(pickle.Unpickler):
    """The official python version is pickled; nothing but arrays is let through."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return super().find_class(module, name)
        if module.split(".", maxsplit=1)[0] == "numpy" and name in {"_reconstruct", "ndarray", "dtype"}:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a CIFAR batch")


def _python(path: Path, classes: int) -> dict[str, np.ndarray]:
    label_key = b"labels" if classes == 10 else b"fine_labels"
    found: dict[str, tuple[np.ndarray, list[int]]] = {}
    for name, content in _members(path):
        stem = PurePosixPath(name).name
        if not (stem.startswith(("data_batch", "test_batch")) or (classes == 100 and stem in ("train", "test"))):
            continue
        try:
            batch = _OnlyArrays(io.BytesIO(content), encoding="bytes").load()
            found[stem] = (np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32), list(batch[label_key]))
        except Exception as error:
            raise DataError(f"{path}: batch {stem} cannot be read ({error}); get the file again") from None
    return _joined(path, {name: (pixels, np.array(labels)) for name, (pixels, labels) in found.items()})


def _binary(path: Path, classes: int) -> dict[str, np.ndarray]:
    labels = 1 if classes == 10 else 2  # CIFAR-100: coarse, fine
    found = {}
    for name, content in _members(path):
        stem = PurePosixPath(name).stem
        if not name.endswith(".bin"):
            continue
        width = labels + 3072
        if not content or len(content) % width:
            raise DataError(f"{path}: {name} has {len(content)} bytes, no multiple of {width}; get the file again")
        rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, width)
        found[stem] = (rows[:, labels:].reshape(-1, 3, 32, 32), rows[:, labels - 1])
    return _joined(path, found)


def _joined(path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    parts = {
        "train": sorted(n for n in batches if not n.startswith("test")),
        "test": [n for n in batches if n.startswith("test")],
    }
    missing = [part for part, names in parts.items() if not names]
    if missing:
        raise DataError(f"{path}: no {' and no '.join(missing)} batches in it (found: {', '.join(batches) or 'nothing'})")
    arrays = {"form": np.array("")}
    for part, names in parts.items():
        arrays[f"{part}_pixels"] = np.concatenate([batches[name][0] for name in names])
        arrays[f"{part}_labels"] = np.concatenate([batches[name][1] for name in names]).astype(np.int64)
    return arrays


def _pictures(path: Path, classes: int) -> dict[str, np.ndarray]:
    """``.../train/<class>/<image>``: classes by name (alphabetical, which is the official order), images by name."""
    from PIL import Image

    found: dict[str, list[tuple[str, str, np.ndarray]]] = {"train": [], "test": []}
    forms = set()
    for name, content in _members(path):
        steps = PurePosixPath(name).parts
        form = SUFFIXES.get(PurePosixPath(name).suffix.lower())
        if form is None or len(steps) < 3 or steps[-3] not in found:
            continue
        forms.add(form)
        try:
            with Image.open(io.BytesIO(content)) as picture:
                found[steps[-3]].append((steps[-2], steps[-1], np.asarray(picture.convert("RGB"))))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: image {name} cannot be read ({error})") from None
    names = sorted({row[0] for row in found["train"]})
    if len(names) != classes:
        raise DataError(
            f"{path}: {len(names)} class folders under train/, CIFAR-{classes} has {classes}: {', '.join(names[:12])}"
        )
    arrays = {"form": np.array(max(forms, key=len))}
    for part, rows in found.items():
        rows.sort(key=lambda row: row[:2])
        unknown = sorted({row[0] for row in rows} - set(names))
        shapes = {row[2].shape for row in rows}
        if not rows or unknown or len(shapes) != 1:
            raise DataError(f"{path}: {part}/ holds {len(rows)} images of shapes {shapes or '{}'}; unknown classes: {unknown}")
        arrays[f"{part}_pixels"] = np.stack([row[2] for row in rows]).transpose(0, 3, 1, 2).copy()
        arrays[f"{part}_labels"] = np.array([names.index(row[0]) for row in rows], dtype=np.int64)
    return arrays
