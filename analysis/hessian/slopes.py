"""Whether the gradient of a sharded model is that of its loss: slopes of the loss along it, and along what has none.

A sum that is taken over the wrong processes is off by a factor, and a part that is cut off has no gradient at all; neither
shows in anything else, for products are differences of the same gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..krylov.linear_operator import OperatorError
from ..krylov.space import Space
from .elsewhere import Movable, shifted
from .replicas import Part, require_alike
from .suspects import listed

#: Largest relative difference of the slope along the gradient and of the loss's difference: a sum taken twice is off by more.
SLOPE = 0.05
#: At most so many of them.
WAYS = 6
#: Relative difference of the loss's slopes over two ways, of which one is ten times the other, that is not curvature's.
SETTLED = 0.1


class Sloped(Movable, Protocol):
    """What is asked of an operator here: each process has its slice ``[local]`` of vectors."""

    @property
    def space(self) -> Space:
        """Of the vectors."""

    def weights(self) -> Tensor:
        """The slice of the weights."""

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Mean loss and the slice of its gradient."""

    def mean_loss(self) -> float:
        """Mean loss at the weights as they are."""


def require_slope(operator: Sloped, parts: Sequence[Part]) -> None:
    """Returns if the gradient is the loss's, as far as slopes along two directions tell.

    Args:
        operator: moved, and put back to the bit.
        parts: of the parameters, as its vectors have them.

    Raises:
        OperatorError: it is not; in every process.
    """
    mean, gradient = operator.loss_and_gradient()
    require_alike(parts, gradient, "gradients", "a layer that is not spread gets its sum in one process only")
    slope, space = operator.space.norm(gradient.double()), operator.space
    if slope == 0:
        return
    for found, rough in _slopes(operator, gradient / slope, mean, slope):
        # All or none: each process knows the loss of its own samples only where the sharing was not told.
        if not _anywhere(space, abs(found - slope) > SLOPE * slope + rough):
            break
    else:
        raise OperatorError(
            f"the gradient ({slope:.4g} long) is not the derivative of the loss (its slope there is {found:.4g}): "
            "do 'samples' and 'reduce' say which processes share the samples, as the sharding has it?"
        )
    sizes = [part.local for part in parts]
    without = space.total(torch.stack([part.abs().sum() for part in gradient.double().split(sizes)])) == 0
    if not bool(without.any()):
        return
    way = space.random(808)
    for part, none in zip(way.split(sizes), without.tolist(), strict=True):
        part.mul_(float(none))
    slopes = list(_slopes(operator, way / space.norm(way), mean, slope))
    # A true slope is the same over ways of different length; what is left of curvature falls with their square.
    seen = any(
        abs(one - other) <= SETTLED * abs(one) and abs(one) > rough and abs(other) > rougher
        for (one, rough), (other, rougher) in itertools.pairwise(slopes)
    )
    if _anywhere(space, seen):
        names = listed([part.name for part, none in zip(parts, without.tolist(), strict=True) if none])
        raise OperatorError(
            f"{names} get no gradient, and the loss does depend on one of them: does reentrant checkpointing (call "
            "checkpoint with use_reentrant=False), no_grad or a detach() cut it off?"
        )


def _slopes(operator: Sloped, unit: Tensor, mean: float, slope: float) -> Iterator[tuple[float, float]]:
    """Of the loss along a unit vector ``[local]``, over ways each a tenth of the one before, and how far rounding goes.

    Over the longest curvature may matter; none is so short that rounding hides a gradient that counts half or twice.
    """
    space = operator.space
    length = space.norm(operator.weights().double()) or 1.0
    here = torch.tensor([abs(mean)], dtype=torch.float64)
    mean = float(space.total(here)) / float(space.total(torch.ones_like(here)))  # as many ways in all processes
    way = min(1e-2 * length, 0.1 * max(mean, 1e-3) / slope)
    for _ in range(WAYS):
        losses = []
        for side in (way, -way):
            with shifted(operator, unit, side):
                losses.append(operator.mean_loss())
        rough = 100 * torch.finfo(operator.dtype).eps * mean / way
        yield (losses[0] - losses[1]) / (2 * way), rough
        way /= 10
        if rough > slope / 40:
            return


def _anywhere(space: Space, is_so: bool) -> bool:
    return float(space.total(torch.tensor([float(is_so)]))) > 0
