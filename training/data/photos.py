"""Photos that stay on disk: decoded when they are needed, by several threads, one batch ahead.

Pillow decodes outside of Python's global lock. Every random number is drawn before anything is read, so the digits depend on
neither the number of threads nor their order.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saddlescope import processors

from .images import Augment, Normalisation
from .sources import DataError

#: mean and standard deviation of ImageNet's channels, the custom for photos
IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
#: a photo's shorter side before the centre is cut out, relative to what is cut out: 256 for 224
MARGIN = 256 / 224
#: random resized crops: share of the area, width over height, tries before the centre is taken
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
_DRAWS = 2 * TRIES + 3  # area and ratio of each try, row, column, mirror
_FILTER = Image.Resampling.BILINEAR  # with the triangle widened when a photo is made smaller, as Pillow always does
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
#: raised when a photo comes to be made into other pixels
VERSION = 1

#: a photo to read: its row, and the draws of its augmentation, none for a clean one; whether it may be mirrored
Order = tuple[int, Sequence[float] | None, bool]


def readers() -> int:
    """Threads that decode at a time: the processors that this process may use, up to 16."""
    return min(16, processors())


@dataclass(frozen=True)
class Photos:
    """Photos named by a list. To an analysis this is a map-style data set of clean photos that asks to be read lazily.

    A photo is decoded as Pillow does it, without turning it by its EXIF orientation, and made RGB: grey is repeated, alpha is
    dropped. Clean photos are scaled with a bilinear (triangle) filter until the shorter side is ``256 / 224 size``, and the
    centre ``size x size`` is cut out.

    Attributes:
        folder: that the names are relative to.
        names: of the photos, as listed, ``N`` of them.
        targets: int64 ``[N]``, on the device that inputs go to.
        lines: of the list, from 1, for messages ``[N]``.
        source: the list's path, for messages.
        size: height and width of what is handed out.
        normalisation: what turns pixels into inputs.
    """

    folder: Path
    names: tuple[str, ...]
    targets: Tensor
    lines: np.ndarray
    source: Path
    size: int = 224
    normalisation: Normalisation = IMAGENET

    #: tells an analysis to read items when they are needed, several threads at once
    lazy = True

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        """One clean photo ``[3, size, size]`` and its class."""
        if not 0 <= item < len(self):
            raise IndexError(item)
        return self.normalisation(torch.from_numpy(self._pixels((item, None, False)))), int(self.targets[item])

    @property
    def in_channels(self) -> int:
        """Channels of a photo."""
        return 3

    def to(self, device: torch.device | str) -> Photos:
        """The same photos, handed out on another device; nothing is read."""
        return replace(self, targets=self.targets.to(device))

    def subset(self, index: Tensor) -> Photos:
        """The photos at ``index``, in its order."""
        rows = index.tolist()
        names = tuple(self.names[row] for row in rows)
        return replace(self, names=names, targets=self.targets[index.to(self.targets.device)], lines=self.lines[rows])

    def for_analysis(self) -> Photos:
        """These: items ``(input, class)``, read as they are needed."""
        return self

    def clean(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Normalised inputs ``[n, 3, size, size]``, the same at every call."""
        return next(self._read(iter([_clean_orders(torch.arange(len(self))[_host(index)])])))

    def clean_batches(self, size: int) -> Iterator[Tensor]:
        """All clean inputs in order, ``size`` at a time, the next ones read meanwhile."""
        return self._read(_clean_orders(part) for part in torch.arange(len(self)).split(size))

    def augmented(self, index: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
        """Inputs for a training step: a random resized crop (8 to 100 % of the area, sides 3:4 to 4:3), and mirror image.

        Args:
            index: which photos, ``[n]``.
            augment: ``none``, ``crop``, or ``crop-flip``.
            generator: a CPU generator.
        """
        return next(self._read(iter([_drawn(index, augment, generator)])))

    def augmented_batches(self, batches: Iterable[tuple[Tensor, torch.Generator]], augment: Augment) -> Iterator[Tensor]:
        """:meth:`augmented` for one ``(index, generator)`` after another, the next photos read meanwhile."""
        return self._read(_drawn(index, augment, generator) for index, generator in batches)

    def list_sha256(self) -> str:
        """Hash of names and classes in order: which photos these are, wherever they lie."""
        digest = hashlib.sha256()
        for name, target in zip(self.names, self.targets.tolist(), strict=True):
            digest.update(f"{name} {target}\n".encode())
        return digest.hexdigest()

    def content_sha256(self) -> str:
        """Identity of the clean inputs without decoding one: of names, classes, file sizes, ``size`` and normalisation.

        It does not see a photo that was exchanged for another of the same name and the same number of bytes.
        """
        with ThreadPoolExecutor(readers()) as pool:
            sizes = list(pool.map(self._bytes, range(len(self))))
        settings = [VERSION, self.size, MARGIN, _FILTER.name, self.normalisation.mean, self.normalisation.std]
        return hashlib.sha256(json.dumps([self.list_sha256(), settings, sizes]).encode()).hexdigest()

    def _read(self, batches: Iterable[Sequence[Order]]) -> Iterator[Tensor]:
        """Inputs of one batch after another; while the caller works on one, the threads read the next."""
        pool = ThreadPoolExecutor(readers(), thread_name_prefix="photos")
        try:
            waiting = None
            for orders in batches:
                ahead = [pool.submit(self._pixels, order) for order in orders]
                if waiting is not None:
                    yield self._inputs([photo.result() for photo in waiting])
                waiting = ahead
            if waiting is not None:
                yield self._inputs([photo.result() for photo in waiting])
        finally:
            pool.shutdown(cancel_futures=True)

    def _inputs(self, photos: list[np.ndarray]) -> Tensor:
        pixels = torch.from_numpy(np.stack(photos)) if photos else torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return self.normalisation(pixels.to(self.targets.device))

    def _path(self, row: int) -> Path:
        return self.folder / self.names[row]

    def _bytes(self, row: int) -> int:
        try:
            return self._path(row).stat().st_size
        except OSError as error:
            raise self._unreadable(row, error) from None

    def _unreadable(self, row: int, error: BaseException) -> DataError:
        why = "no such file" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
        return DataError(
            f"image {self._path(row)} cannot be read: {why} (line {self.lines[row]} of {self.source}); restore the file, or "
            "take the line out of the list"
        )

    def _pixels(self, order: Order) -> np.ndarray:
        """uint8 ``[3, size, size]``.

        Raises:
            DataError: the file is missing or damaged.
        """
        row, draws, mirror = order
        try:
            with Image.open(self._path(row)) as opened:
                photo = opened.convert("RGB")
        except _UNREADABLE as error:
            raise self._unreadable(row, error) from None
        photo = centre(photo, self.size) if draws is None else random_crop(photo, self.size, draws, mirror)
        return np.asarray(photo).transpose(2, 0, 1).copy()


def centre(photo: Image.Image, size: int) -> Image.Image:
    """Shorter side to ``256 / 224 size``, then the middle ``size x size``; rounded as in torchvision's Resize, CenterCrop."""
    short, long = sorted(photo.size)
    to_short = round(size * MARGIN)
    to_long = to_short * long // short
    wide = photo.width > photo.height
    scaled = photo.resize((to_long, to_short) if wide else (to_short, to_long), _FILTER)
    left, top = round((scaled.width - size) / 2), round((scaled.height - size) / 2)
    return scaled.crop((left, top, left + size, top + size))


def random_crop(photo: Image.Image, size: int, draws: Sequence[float], mirror: bool) -> Image.Image:
    """A part of random area and ratio, scaled to ``size x size``; the middle where ten tries do not fit into the photo.

    Args:
        photo: RGB.
        size: of the result.
        draws: 23 numbers in [0, 1): area and ratio of each try, row, column, mirror.
        mirror: mirror the result where the last draw is below 1/2.
    """
    width, height = photo.size
    shape = None
    for area, ratio in zip(draws[0 : 2 * TRIES : 2], draws[1 : 2 * TRIES : 2], strict=True):
        pixels = width * height * (AREA[0] + (AREA[1] - AREA[0]) * area)
        wanted = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio  # uniform on a logarithmic scale
        w, h = round(math.sqrt(pixels * wanted)), round(math.sqrt(pixels / wanted))
        if 0 < w <= width and 0 < h <= height:
            shape = w, h
            break
    if shape is not None:
        w, h = shape
        top, left = int(draws[-3] * (height - h + 1)), int(draws[-2] * (width - w + 1))
    else:
        w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
        top, left = (height - h) // 2, (width - w) // 2
    part = photo.crop((left, top, left + w, top + h)).resize((size, size), _FILTER)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror and draws[-1] < 0.5 else part


def _drawn(index: Tensor, augment: Augment, generator: torch.Generator) -> list[Order]:
    if augment == "none":
        return _clean_orders(index)
    draws = torch.rand(len(index), _DRAWS, generator=generator, dtype=torch.float64).tolist()
    return [(row, line, augment == "crop-flip") for row, line in zip(index.tolist(), draws, strict=True)]


def _clean_orders(index: Tensor) -> list[Order]:
    return [(row, None, False) for row in index.tolist()]


def _host(index: Tensor | slice) -> Tensor | slice:
    return index if isinstance(index, slice) else index.cpu()
