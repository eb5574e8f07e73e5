"""Residual networks in the two forms that papers on long tails use, which share names but not sizes.

:class:`CifarResNet` is He et al. (2016), section 4.2: three stages of 16, 32, 64 channels and shortcuts without parameters;
its ResNet-32 has 0.46 M parameters. :class:`ImageNetResNet` is their section 3.3 as torchvision builds it: four stages of 64
to 512 channels and 1x1 shortcuts; its ResNet-34 has 21.3 M parameters, also with a small stem for 32x32 images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Classifier = Literal["linear", "cosine"]


class CosineLinear(nn.Module):
    """Cosines between features and class weights, in [-1, 1]; the loss scales them (LDAM: by s)."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        nn.init.normal_(self.weight)  # uniform directions; lengths do not matter

    def forward(self, features: Tensor) -> Tensor:
        """``[n, F]`` -> ``[n, C]``."""
        return functional.linear(functional.normalize(features, dim=1), functional.normalize(self.weight, dim=1))


def classifier(kind: Classifier, in_features: int, num_classes: int) -> nn.Module:
    """The last layer.

    Raises:
        TypeError: no such kind.
    """
    if kind not in get_args(Classifier):
        raise TypeError(f"classifier = {kind!r}: the last layer is one of {', '.join(get_args(Classifier))}")
    return CosineLinear(in_features, num_classes) if kind == "cosine" else nn.Linear(in_features, num_classes)


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class PlainShortcut(nn.Module):
    """Option A of He et al.: every second pixel, and channels of zeros on either side."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` -> ``[n, c + extra, h / stride, w / stride]``."""
        before = self.extra // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, *, plain: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride, plain)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` -> ``[n, width, h / stride, w / stride]``."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, kernel=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, kernel=1), nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(inputs, 4 * width, stride, plain=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` -> ``[n, 4 width, h / stride, w / stride]``."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int, plain: bool) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if plain:
        return PlainShortcut(stride, outputs - inputs)
    return nn.Sequential(_conv(inputs, outputs, stride, kernel=1), nn.BatchNorm2d(outputs))


class CifarResNet(nn.Module):
    """He et al. (2016), section 4.2, shortcuts of option A, weights drawn as in LDAM-DRW (He normal, fan in).

    Args:
        blocks: basic blocks of each stage; ``(5, 5, 5)`` is ResNet-32.
        num_classes: C.
        widths: channels of each stage; every stage but the first halves the image.
        in_channels: of the image.
        classifier: ``cosine`` for LDAM.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int] = (16, 32, 64),
        in_channels: int = 3,
        classifier: Classifier = "linear",
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(in_channels, widths[0]), nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for stage, (number, width) in enumerate(zip(blocks, widths, strict=True)):
            layers = []
            for block in range(number):
                layers.append(BasicBlock(inputs, width, 2 if stage and not block else 1, plain=True))
                inputs = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.classifier = _last_layer(classifier, inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, in_channels, h, w]`` -> logits ``[n, C]``."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.classifier(self.stages(x).mean((2, 3)))  # type: ignore[no-any-return]


class ImageNetResNet(nn.Module):
    """He et al. (2016), section 3.3, in torchvision's form and initialisation (He normal, fan out).

    Args:
        block: :class:`BasicBlock` (ResNet-34) or :class:`Bottleneck` (ResNet-50).
        blocks: of each of the four stages.
        num_classes: C.
        stem: ``imagenet``: 7x7 of stride 2 and max-pool; ``cifar``: 3x3 of stride 1, no pool.
        in_channels: of the image.
        classifier: ``cosine`` for LDAM.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        num_classes: int,
        *,
        stem: Literal["imagenet", "cifar"],
        in_channels: int = 3,
        classifier: Classifier = "linear",
    ) -> None:
        super().__init__()
        small = stem == "cifar"
        self.conv1 = _conv(in_channels, 64) if small else _conv(in_channels, 64, 2, kernel=7)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        stages, inputs = [], 64
        for stage, (number, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True)):
            layers = []
            for index in range(number):
                layers.append(block(inputs, width, 2 if stage and not index else 1))
                inputs = width * block.expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.classifier = _last_layer(classifier, inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, in_channels, h, w]`` -> logits ``[n, C]``."""
        x = self.pool(functional.relu(self.bn1(self.conv1(x))))
        return self.classifier(self.stages(x).mean((2, 3)))  # type: ignore[no-any-return]


_last_layer = classifier  # the constructors have an argument of that name
