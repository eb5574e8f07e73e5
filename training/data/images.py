"""Labelled images and the two ways to hand them out: clean for measuring, augmented for training.

Only :meth:`Images.augmented` is random. An analysis cannot be given augmented images by mistake: a Hessian over images that
are redrawn at every product is a random operator, and shows negative curvature that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Augment = Literal["none", "crop", "crop-flip"]


class ImageSet(Protocol):
    """What training and accuracy ask of a set of labelled images, wherever its pixels are.

    :class:`Images` holds them in memory, :class:`~saddlescope.training.data.photos.Photos` reads them when they are needed. The
    iterators exist for the latter: it reads one batch ahead.
    """

    @property
    def targets(self) -> Tensor:
        """Classes, int64 ``[N]``."""

    @property
    def in_channels(self) -> int:
        """Channels of an image."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> ImageSet:
        """The same images, handed out on another device."""

    def subset(self, index: Tensor) -> ImageSet:
        """The images at ``index``, in its order."""

    def for_analysis(self) -> Any:
        """All of them clean, as ``Samples`` take them: ``(inputs, targets)``, or a map-style data set of such pairs."""

    def clean(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Normalised inputs ``[n, C, H, W]``, the same at every call."""

    def clean_batches(self, size: int) -> Iterator[Tensor]:
        """All clean inputs in order, ``size`` at a time."""

    def augmented(self, index: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
        """Inputs of a training step; all draws come from the CPU ``generator``."""

    def augmented_batches(self, batches: Iterable[tuple[Tensor, torch.Generator]], augment: Augment) -> Iterator[Tensor]:
        """:meth:`augmented` for one ``(index, generator)`` after another."""


@dataclass(frozen=True)
class Normalisation:
    """``(pixel / full_scale - mean) / std`` per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    full_scale: float = 255.0

    def __call__(self, pixels: Tensor) -> Tensor:
        """``pixels`` uint8 ``[n, C, H, W]`` -> float32."""
        shape = (-1, 1, 1)
        mean = torch.tensor(self.mean, device=pixels.device).view(shape)
        std = torch.tensor(self.std, device=pixels.device).view(shape)
        return (pixels.float() / self.full_scale - mean) / std


@dataclass(frozen=True)
class Images:
    """Small images, held whole on one device.

    Attributes:
        pixels: uint8 ``[N, C, H, W]``.
        targets: int64 ``[N]``.
        normalisation: what turns pixels into inputs.
    """

    pixels: Tensor
    targets: Tensor
    normalisation: Normalisation

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return int(self.pixels.shape[1])

    def to(self, device: torch.device | str) -> Images:
        """The same images on another device."""
        return replace(self, pixels=self.pixels.to(device), targets=self.targets.to(device))

    def subset(self, index: Tensor) -> Images:
        """The images at ``index``, in its order."""
        return replace(self, pixels=self.pixels[index], targets=self.targets[index])

    def for_analysis(self) -> tuple[Tensor, Tensor]:
        """Clean inputs ``[N, C, H, W]`` and classes ``[N]``."""
        return self.clean(), self.targets

    def clean(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Normalised inputs ``[n, C, H, W]``, the same at every call."""
        return self.normalisation(self.pixels[index])

    def clean_batches(self, size: int) -> Iterator[Tensor]:
        """All clean inputs in order, ``size`` at a time."""
        return (self.clean(slice(start, start + size)) for start in range(0, len(self), size))

    def augmented(self, index: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
        """Inputs for a training step: random crop after padding by an eighth of the height (4 of 32), and mirror image.

        Args:
            index: which images, ``[n]``.
            augment: ``none``, ``crop``, or ``crop-flip``.
            generator: a CPU generator, so that the draws do not depend on the device.
        """
        if augment == "none":
            return self.clean(index)
        pixels = self.pixels[index]
        n, _, height, width = pixels.shape
        pad = max(1, height // 8)
        top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator)
        rows, columns = top + torch.arange(height), left + torch.arange(width)
        if augment == "crop-flip":
            mirrored = torch.rand(n, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        rows, columns = rows.to(pixels.device), columns.to(pixels.device)
        padded = torch.nn.functional.pad(pixels, (pad, pad, pad, pad))  # black, like torchvision's RandomCrop before scaling
        picture = torch.arange(n, device=pixels.device)[:, None, None]
        cropped = padded[picture, :, rows[:, :, None], columns[:, None, :]]
        return self.normalisation(cropped.permute(0, 3, 1, 2))

    def augmented_batches(self, batches: Iterable[tuple[Tensor, torch.Generator]], augment: Augment) -> Iterator[Tensor]:
        """:meth:`augmented` for one ``(index, generator)`` after another."""
        return (self.augmented(index, augment, generator) for index, generator in batches)
