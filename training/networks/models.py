"""Models by name, in the forms that papers used, named so that two forms of one number are not mistaken for each other."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope import load_factory

from .resnets import BasicBlock, Bottleneck, CifarResNet, Classifier, ImageNetResNet, classifier


class ModelError(ValueError):
    """A model that does not exist, or arguments that it does not take."""


class SmallCnn(nn.Module):
    """Three 3x3 convolutions with batch normalisation, the image halved after the first two. For quick studies."""

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 16, classifier: Classifier = "linear") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            layers += [nn.Conv2d(channels, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = _last_layer(classifier, channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, in_channels, h, w]`` -> logits ``[n, C]``."""
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


class SmoothMlp(nn.Module):
    """Fully connected layers of one width with SiLU between them, without normalisation: a loss with derivatives of all orders.

    So an eigenvalue describes a neighbourhood and not the point alone, and there are no running statistics beside the weights.

    Args:
        num_classes: C.
        in_channels: of the image.
        size: height and width of the image.
        width: of each hidden layer.
        depth: hidden layers.
        classifier: ``cosine`` for LDAM.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 1,
        size: int = 8,
        width: int = 128,
        depth: int = 4,
        classifier: Classifier = "linear",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = in_channels * size * size
        for _ in range(depth):
            layers += [nn.Linear(inputs, width), nn.SiLU()]
            inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = _last_layer(classifier, inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, in_channels, size, size]`` -> logits ``[n, C]``."""
        return self.classifier(self.features(x))  # type: ignore[no-any-return]


_last_layer = classifier

#: name -> constructor(num_classes, *, in_channels, classifier)
MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits-resnet": partial(CifarResNet, (1, 1), widths=(8, 16), in_channels=1),
    "digits-mlp": SmoothMlp,
    "small-cnn": SmallCnn,
    "resnet8-cifar": partial(CifarResNet, (1, 1, 1)),
    "resnet20-cifar": partial(CifarResNet, (3, 3, 3)),
    "resnet32-cifar": partial(CifarResNet, (5, 5, 5)),
    "resnet56-cifar": partial(CifarResNet, (9, 9, 9)),
    "resnet34-cifar-stem": partial(ImageNetResNet, BasicBlock, (3, 4, 6, 3), stem="cifar"),
    "resnet34-imagenet": partial(ImageNetResNet, BasicBlock, (3, 4, 6, 3), stem="imagenet"),
    "resnet50-imagenet": partial(ImageNetResNet, Bottleneck, (3, 4, 6, 3), stem="imagenet"),
}


def build_model(name: str, num_classes: int | None = None, seed: int | None = None, **args: Any) -> nn.Module:
    """Builds a model; the global random state is left as it was.

    Args:
        name: one of :data:`MODELS`, or a factory ``module:name`` or ``file.py:name``.
        num_classes: C; a factory receives it only if it has such an argument.
        seed: of the initial weights; ``None`` draws from the current random state (the weights will be loaded).
        **args: the model's own, such as ``in_channels``.

    Raises:
        ModelError: unknown name or argument.
    """
    if ":" in name:
        build: Callable[..., Any] = load_factory(name)
        takes = inspect.signature(build).parameters
        if num_classes is not None and "num_classes" in takes:
            args = {"num_classes": num_classes, **args}
    elif name in MODELS:
        if num_classes is None:
            raise ModelError(f"model {name!r} needs num_classes")
        build, args = MODELS[name], {"num_classes": num_classes, **args}
    else:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(f"[model] name = {name!r} is not known; {hint}Known are {', '.join(MODELS)}, or 'file.py:name'")
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            model = build(**args)
        except (TypeError, ValueError, RuntimeError) as error:
            said = (str(error).splitlines() or [""])[0]  # torch adds a stack of its own
            raise ModelError(f"model {name!r} cannot be built with {args}: {said}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"the factory {name!r} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def count_parameters(model: nn.Module) -> int:
    """Entries of all parameters, trained or frozen."""
    return sum(p.numel() for p in model.parameters())
