"""Are wrong operators refused and right ones let through? Random small models, every other one with a planted defect.

    python tests/benchmarks/planted.py [models [seed]]

A defect is a part of the second derivative that is missing (symmetric or not), a gradient that is not the loss's, an operator
that is random, or a loss that is another one without gradients. Prints what was accepted wrongly and what was refused wrongly;
one thread, a few minutes for 200 models.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from saddlescope import AnalysisSettings, Samples, analyze

ACTIVATIONS = (torch.tanh, functional.gelu, functional.relu, functional.silu, functional.leaky_relu, functional.softplus)
GOALS = ({"goal": "spectrum"}, {"goal": "ends"}, {"goal": "verdict"}, {"engine": "exact"})


class SavedDerivative(torch.autograd.Function):
    """Softplus whose backward multiplies with a number from forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(torch.sigmoid(x))
        return functional.softplus(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


class SavedLossGradient(torch.autograd.Function):
    """Cross-entropy as fused losses do it: the gradient is made in forward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits.softmax(1) - functional.one_hot(targets, logits.shape[1]))
        return functional.cross_entropy(logits, targets, reduction="none")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[:, None] * ctx.saved_tensors[0], None


class FixedNorm(torch.autograd.Function):
    """A normalised weight; the right gradient, with the norm as a constant."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v, v.norm(dim=1, keepdim=True))
        return v / v.norm(dim=1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        v, norm = ctx.saved_tensors
        return gradient / norm - v * (gradient * v).sum(1, keepdim=True) / norm**3


class Scaled(torch.autograd.Function):
    """The identity, its gradient times a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradient, None


class NoisyBackward(torch.autograd.Function):
    """The identity, its gradient with noise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (1 + 0.05 * torch.randn_like(gradient))


def _branch(x: Tensor) -> Tensor:
    return x if torch.is_grad_enabled() else 1.1 * x


#: put behind the first layer
IN_MODEL: dict[str, Callable[[Tensor], Tensor]] = {
    "derivative saved in forward": SavedDerivative.apply,
    "norm as a constant": FixedNorm.apply,
    "gradient scaled": lambda x: Scaled.apply(x, 0.7),
    "gradient reversed": lambda x: Scaled.apply(x, -1.0),
    "straight through": lambda x: x + (torch.round(8 * x) / 8 - x).detach(),
    "detached factor": lambda x: x * torch.sigmoid(x).detach(),
    "dropout always on": lambda x: functional.dropout(x, 0.2, training=True),
    "noise in backward": NoisyBackward.apply,
    "another path without gradients": _branch,
}


def _focal(model: nn.Module, batch: Any) -> Tensor:
    loss = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return (1 - (-loss).exp()).detach() ** 2 * loss


#: instead of cross-entropy
IN_LOSS: dict[str, Callable[[nn.Module, Any], Tensor]] = {
    "loss gradient saved in forward": lambda model, batch: SavedLossGradient.apply(model(batch[0]), batch[1]),
    "detached weight of a focal loss": _focal,
}
DEFECTS = (*IN_MODEL, *IN_LOSS)


class Net(nn.Module):
    """A first part, what is planted behind it, and a head."""

    def __init__(self, first: nn.Module, width: int, activation: Callable[[Tensor], Tensor], planted: Any) -> None:
        super().__init__()
        self.first, self.middle, self.head = first, nn.Linear(width, width), nn.Linear(width, 3)
        self.activation, self.planted = activation, planted or (lambda x: x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[n, 3]``."""
        hidden = self.planted(self.first(x).flatten(1))
        return self.head(self.activation(self.middle(self.activation(hidden))))


def _first(kind: int, width: int) -> tuple[nn.Module, tuple[int, ...]]:
    channels = max(1, width // 4)
    image = (2, 6, 6)
    pool = nn.AdaptiveAvgPool2d(2)
    convolution = nn.Conv2d(2, channels, 3, padding=1)
    kinds: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
        (lambda: nn.Linear(5, width), (5,)),
        (lambda: nn.Sequential(nn.LayerNorm(5), nn.Linear(5, width)), (5,)),
        (lambda: parametrizations.weight_norm(nn.Linear(5, width)), (5,)),
        (lambda: parametrizations.spectral_norm(nn.Linear(5, width)), (5,)),
        (lambda: nn.Sequential(convolution, nn.BatchNorm2d(channels), pool, nn.Flatten()), image),
        (lambda: nn.Sequential(convolution, nn.GroupNorm(1, channels), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten()), image),
        (lambda: nn.Sequential(parametrizations.weight_norm(convolution), nn.Hardsigmoid(), pool, nn.Flatten()), image),
        (lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu"), (width // 4, 4)),
    ]
    make, shape = kinds[kind % len(kinds)]
    return make(), shape


def trial(number: int, defect: str | None) -> str | None:
    """One model and its analysis.

    Args:
        number: seed, and choice of architecture, activation, goal and training.
        defect: one of :data:`DEFECTS`; None: a right model.

    Returns:
        What the refusal said; None where it was accepted.
    """
    torch.manual_seed(number)
    width = 8 + 4 * (number % 3)
    first, shape = _first(number, width)
    net = Net(first, width, ACTIVATIONS[number // 3 % len(ACTIVATIONS)], IN_MODEL.get(defect or ""))
    count = 24 + number % 17
    x, y = torch.randn(count, *shape), torch.arange(count) % 3
    step = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range((0, 30, 300)[number % 3]):
        step.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        step.step()
    settings = AnalysisSettings(
        scheme="all", steps=12, min_steps=4, escape=False, seed=number, products="exact", **GOALS[number // 2 % 4]
    )
    try:
        analyze(net, Samples.from_tensors(x, y), loss=IN_LOSS.get(defect or ""), settings=settings)
    except ValueError as error:
        return str(error)
    return None


def main(models: int, first: int = 0) -> None:
    """Prints the counts."""
    torch.set_num_threads(1)
    began, wrongly, caught = time.monotonic(), [], Counter[str]()
    defects = itertools.cycle(DEFECTS)
    for number in range(first, first + models):
        defect = next(defects) if number % 2 else None
        # Neighbours share an architecture otherwise: 97 turns through all of them.
        said = trial(97 * number, defect)
        caught[defect or "right"] += said is not None
        if (said is None) != (defect is None):
            wrongly.append(f"{number}: {defect or 'right'}: {said or 'accepted'}")
    planted = models // 2
    accepted = sum(line.endswith("accepted") for line in wrongly)
    print(f"{planted} with a defect, accepted wrongly: {accepted}; {models - planted} right, refused wrongly: "
          f"{len(wrongly) - accepted}; {time.monotonic() - began:.0f} s")  # fmt: skip
    print("refused:", ", ".join(f"{name} {count}" for name, count in sorted(caught.items())))
    for line in wrongly:
        print(line)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:] or ["200"]))
