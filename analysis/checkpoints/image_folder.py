"""A folder of class folders of images as samples: what is done to the pixels is told, or said to be a guess."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..records.results import Choice
from ..samples.samples import Samples

#: name -> mean and standard deviation of each channel of pixels in [0, 1], subtracted and divided by
NORMALISATIONS = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval"}


class ImageFolderError(ValueError):
    """A folder of images cannot be read as classes; the message says which and what to do."""


def image_folder(
    path: Path,
    *,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalise: str | None = None,
    num_classes: int | None = None,
) -> Samples:
    """Samples from ``path/<class>/<image>``; classes in the order of their names.

    Args:
        path: the folder.
        size: the shorter side is scaled to it (bicubic) and the centre cut out; default: images as they are, of one size.
        mean: of each channel of pixels in [0, 1].
        std: likewise; given with ``mean``.
        normalise: name of a mean and standard deviation, see :data:`NORMALISATIONS`; default: ``none``.
        num_classes: C; default: one a folder.

    Raises:
        ImageFolderError: no images, a folder of splits instead of classes, images of several sizes, or a normalisation that is
            unknown or only half given.
    """
    told = normalise is not None or mean is not None or std is not None
    offset, scale, words = _normalisation(mean, std, normalise)
    classes = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    splits = [name for name in classes if name.lower() in _SPLITS]
    if splits and (len(splits) == len(classes) or any(part.is_dir() for part in (path / splits[0]).iterdir())):
        first = next((name for name in splits if name.lower().startswith("train")), splits[0])
        raise ImageFolderError(
            f"--data {path}: holds {', '.join(classes)}, parts of a data set and not classes: give --data {path / first}"
        )
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((path / name).rglob("*"))
        if file.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise ImageFolderError(f"--data {path}: no images in class folders there ({len(classes)} folders)")
    pictures = [_picture(file, size) for file, _ in files]
    shapes = sorted({tuple(picture.shape[1:]) for picture in pictures})
    if len(shapes) > 1:
        found = ", ".join(f"{height} x {width}" for height, width in shapes[:3])
        raise ImageFolderError(f"--data {path}: images of {len(shapes)} sizes ({found} ...); give --image-size 224, say")
    inputs = (torch.stack(pictures) - offset[:, None, None]) / scale[:, None, None]
    samples = Samples.from_tensors(inputs, torch.tensor([label for _, label in files]), num_classes or len(classes))
    height, width = shapes[0]
    made = "as they are" if size is None else "shorter side scaled (bicubic), centre cut out"
    samples.choices = (
        Choice(name="normalisation", value=words, flag="--normalise, --mean, --std", guessed=not told),
        Choice(name="image size", value=f"{height} x {width}, {made}", flag="--image-size", guessed=size is None),
    )
    return samples


def _normalisation(mean: Sequence[float] | None, std: Sequence[float] | None, name: str | None) -> tuple[Tensor, Tensor, str]:
    if name is not None and (mean is not None or std is not None):
        raise ImageFolderError(f"--normalise {name} and --mean or --std exclude each other")
    if (mean is None) != (std is None):
        raise ImageFolderError("--mean and --std go together: give both, each one number or one a channel")
    if mean is not None and std is not None:
        rows = [_channels(values, flag) for values, flag in ((mean, "--mean"), (std, "--std"))]
        words = f"pixels in [0, 1], mean {_numbers(rows[0])}, std {_numbers(rows[1])}"
    else:
        name = name or "none"
        if name not in NORMALISATIONS:
            raise ImageFolderError(f"--normalise {name}: unknown; known: {', '.join(NORMALISATIONS)}")
        rows = [list(values) for values in NORMALISATIONS[name]]
        words = f"{name}, pixels in [0, 1]"
        words += "" if name == "none" else f", mean {_numbers(rows[0])}, std {_numbers(rows[1])}"
    if not all(value > 0 for value in rows[1]):
        raise ImageFolderError(f"--std {_numbers(rows[1])}: must be positive")
    return torch.tensor(rows[0]), torch.tensor(rows[1]), words


def _channels(values: Sequence[float], flag: str) -> list[float]:
    if len(values) not in (1, 3):
        raise ImageFolderError(f"{flag}: {len(values)} numbers; give one, or one for each of red, green and blue")
    return list(values) * (3 // len(values))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _picture(file: Path, size: int | None) -> Tensor:
    """Pixels ``[3, height, width]`` in [0, 1]."""
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageFolderError(f"--data: {file} cannot be read as an image ({error})") from None
    if size is not None:
        scale = size / min(picture.size)
        picture = picture.resize((max(size, round(picture.width * scale)), max(size, round(picture.height * scale))))
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)
