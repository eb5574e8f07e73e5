"""Hessian-vector products by central differences of the gradient: ``(g(w + h u) - g(w - h u)) / 2 h`` for a unit vector u.

They need one derivative where exact products need two, so they exist for fused kernels, recurrent layers of cuDNN, custom
functions and reentrant checkpointing. They are not exact: the gradient is rounded (an error that falls with h), the curvature
changes on the way (one that grows with ``h^2``), and across a kink of a ReLU it jumps. All of it is measured, on the samples
and in the precision of the products themselves, and is the operator's ``error``.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..krylov.lanczos import random_start
from ..krylov.linear_operator import NotFiniteError, OperatorError
from ..krylov.space import Space
from ..samples.samples import Samples
from .computed_types import ComputedTypes
from .difference_steps import LADDER, Step, kinks
from .elsewhere import shifted
from .operator import HessianOperator, Reduce

#: The measured difference of two products with steps h and h / 2 is taken so many times for the error of either: it is 3/4 of
#: what the longer one has where curvature changes, and about what it has where rounding rules; and other vectors have more.
SAFETY = 3.0
#: A vector whose gradients bend so many times more than those of all vectors measured before is measured, too.
BENDS = 1.5
#: Error, relative to the largest product, from which it is worth a sentence.
ROUGH = 0.03


class DifferenceOperator(HessianOperator):
    """The Hessian of an operator's arguments with its products taken by central differences of the gradient.

    The step is chosen at the first product: neighbours on a ladder of steps are compared along a random vector and along its
    image, and the pair that differs least has it. Then the error is measured over all samples along four vectors, by halving
    the step, and by the symmetry of all pairs of them; later vectors are measured, too, where the gradient bends more along
    them than along all before. The weights are moved and put back to the bit.

    Args:
        As :class:`HessianOperator`; nothing is accelerated and no graph is kept.

    Attributes:
        error: norm of the error of a product with a unit vector, as measured so far; 0 before the first product.
        step: what the products use; None before the first one.
        symmetry: largest ``|u^T H v - v^T H u|`` of the unit vectors that the error was measured along.
    """

    products = "differences"
    error = 0.0
    symmetry = 0.0
    step: Step | None = None
    _bend: float
    _size: float
    _shrink: float
    _at: list[float]
    _centre: Tensor

    def over(self, samples: Samples, reduce: Reduce | None = None, *, memory: int | None = None) -> DifferenceOperator:
        """As of every operator; the step is chosen anew."""
        other = super().over(samples, reduce, memory=memory)
        assert isinstance(other, DifferenceOperator)
        return other

    def matmat(self, v: Tensor) -> Tensor:
        """``H V`` for ``V [n, k]``, column by column.

        Raises:
            NotFiniteError: the gradient is not finite at any distance tried.
        """
        step = self._ready()
        columns = v.to(self.device, self.dtype).T
        images = []
        for column in columns:
            norm = self._norm(column)
            if norm == 0:
                images.append(torch.zeros_like(column))
                continue
            unit = column / norm
            image, bend = self._quotient(unit, step.length)
            if bend > BENDS * self._bend:
                self._bend = bend
                self._note(image, unit)
            self._size = max(self._size, self._norm(image))
            images.append(norm * image)
        self.matvecs += len(columns)
        return torch.stack(images, dim=1)

    def halved(self) -> DifferenceOperator:
        """The same with half the step: what it differs by is measured, not estimated."""
        other = self.over(self.samples, self.reduce)
        if self.step is not None:
            other._adopt(self)
        other._shrink = self._shrink / 2
        return other

    def remarks(self) -> list[str]:
        """Sentences about the products: step and error, and kinks."""
        if self.step is None:
            return []
        said = [
            f"products by differences of the gradient over {self.step.relative:.0e} of the weights' norm; their measured error "
            f"is {self.error:.1e}, and is in every interval"
        ]
        if self.step.kinks is not None:
            step = f"{self.step.relative:.0e}"
            beyond = self.step.kinks > self.step.relative
            said.append(
                f"the gradient has kinks (units that switch) within {self.step.kinks:.0e} of the weights' norm: "
                + (f"the step, {step}, stays below" if beyond else f"over the step, {step}, curvature is a mean across them")
            )
        if self.error > ROUGH * self._size > 0:
            said.append(
                f"differences of the gradient settle at no step: their error is {self.error / self._size:.1g} of the largest "
                "product; the gradient is rounded too much for its kinks, so let model and loss work in float64"
            )
        return said

    def _adopt(self, other: DifferenceOperator) -> None:
        self.step, self.error, self.symmetry = other.step, other.error, other.symmetry
        self._size = other._size
        self._bend, self._at, self._centre = other._bend, other._at, other._centre

    def _take(self, samples: Samples, reduce: Reduce | None) -> None:
        super()._take(samples, reduce)
        self.step, self.error, self.symmetry, self._bend, self._size = None, 0.0, 0.0, 0.0, 0.0
        self._at = []
        self._shrink = 1.0

    @property
    def space(self) -> Space:
        """The space of its vectors."""
        return Space(self.size)

    def _place(self) -> list[float]:
        # Versions of tensors do not tell: products move the weights themselves. Only the step hangs on this, no product does.
        sums: list[float] = self.space.total(torch.stack([p.detach().double().sum() for p in self.parameters])).tolist()
        return sums

    def _plan(self) -> None:
        return None

    def _ready(self) -> Step:
        if self.step is not None and self._at == self._place():
            return self._shrunk(self.step)
        shrink = self._shrink
        few = self
        if self.reduce is None and self.num_samples > self.micro_batch:
            few = self.over(self.samples.subset(torch.linspace(0, self.num_samples - 1, self.micro_batch).long().numpy()))
        self._shrink, self.error, self.symmetry, self._bend, self._size = 1.0, 0.0, 0.0, 0.0, 0.0
        self._centre = self.loss_and_gradient()[1]
        few._centre = self._centre if few is self else few.loss_and_gradient()[1]
        self.step = few._choose()
        self._measure_error(self.step)
        self._at, self._shrink = self._place(), shrink
        return self._shrunk(self.step)

    def _shrunk(self, step: Step) -> Step:
        return Step(step.length * self._shrink, step.relative * self._shrink, step.kinks)

    def _choose(self) -> Step:
        """The step of the ladder beside which a neighbour differs least."""
        norm = self._norm(self.weights()) or 1.0
        steps = [10.0**power for power in LADDER[self._coarsest()]]
        probe = random_start(self, 909)
        middle = self._finite(probe, norm * steps[len(steps) // 2])
        probes = [probe] if middle is None or self._norm(middle[0]) == 0 else [probe, middle[0] / self._norm(middle[0])]
        quotients = [[self._finite(u, norm * step) for u in probes] for step in steps]
        apart = [self._apart(one, other) for one, other in itertools.pairwise(quotients)]
        if not any(map(math.isfinite, apart)):
            raise NotFiniteError("the gradient is not finite a little beside these weights: no differences of it exist")
        best = min(range(len(apart)), key=apart.__getitem__)
        # Of the two, the longer one where rounding rules and the shorter one where curvature does: their mean.
        between = math.sqrt(steps[best] * steps[best + 1])
        return Step(norm * between, between, kinks(steps, apart, self._rounding(probes, norm * steps[-1]) / norm))

    def _coarsest(self) -> torch.dtype:
        """The type with the fewest digits that model and loss compute in, on one or two samples."""
        batch = next(self.samples.batches(2, self.device, self.dtype))
        with self.differentiable(), ComputedTypes() as types:
            self._value(batch)
        coarsest: torch.dtype = max({self.dtype, *types.seen} & LADDER.keys(), key=lambda one: torch.finfo(one).eps)
        return coarsest

    def _rounding(self, probes: list[Tensor], length: float) -> float:
        """Rounding of a gradient: what its second difference is over a way too short for anything else."""
        bends = [found[1] for u in probes if (found := self._finite(u, length)) is not None]
        return max(bends, default=0.0) * length

    def _finite(self, u: Tensor, length: float) -> tuple[Tensor, float] | None:
        try:
            return self._quotient(u, length)
        except OperatorError:  # that far the loss is infinite
            return None

    def _apart(self, one: list[tuple[Tensor, float] | None], other: list[tuple[Tensor, float] | None]) -> float:
        """Largest difference of the quotients of two steps; infinite where one is missing."""
        pairs = list(zip(one, other, strict=True))
        if any(a is None or b is None for a, b in pairs):
            return math.inf
        return max(self._norm(a[0] - b[0]) for a, b in pairs if a is not None and b is not None)

    def _norm(self, v: Tensor) -> float:
        return self.space.norm(v.double())

    def _measure_error(self, step: Step) -> None:
        chain = [random_start(self, 910)]
        images: list[Tensor] = []
        if self._norm(self._centre) > 0:
            chain.append(self._centre / self._norm(self._centre))
        count = len(chain) + 2  # the gradient's images: towards where curvature is largest
        while chain and len(images) < count:
            unit = chain[len(images)]
            image, bend = self._quotient(unit, step.length)
            self._bend, self._size = max(self._bend, bend), max(self._size, self._norm(image))
            self._note(image, unit, step)
            images.append(image)
            if len(images) == len(chain) and self._norm(image) > 0:
                chain.append(image / self._norm(image))
            elif len(images) == len(chain):
                break
        forms = torch.tensor([[self.space.dot(u, image) for u in chain[: len(images)]] for image in images])
        self.symmetry = float((forms - forms.T).abs().max())
        self.error = max(self.error, self.symmetry)

    def _note(self, image: Tensor, unit: Tensor, step: Step | None = None) -> None:
        """Measures the error of a product by halving its step."""
        length = (step or self._ready()).length / 2
        self.error = max(self.error, SAFETY * self._norm(image - self._quotient(unit, length)[0]))

    def _quotient(self, unit: Tensor, length: float) -> tuple[Tensor, float]:
        """The difference quotient ``[n]``, and how far the two one-sided ones are from it."""
        with shifted(self, unit, length):
            ahead = self.loss_and_gradient()[1]
        with shifted(self, unit, -length):
            behind = self.loss_and_gradient()[1]
        bend = self._norm(ahead - self._centre + (behind - self._centre)) / (2 * length)
        return (ahead - behind) / (2 * length), bend


def in_float64_if_possible(operator: DifferenceOperator, memory: int | None = None) -> tuple[DifferenceOperator, str | None]:
    """The same operator over a float64 copy of its model, where that can be computed: differences need the digits.

    Args:
        operator: of the parameters' own precision.
        memory: as for the operator.

    Returns:
        The operator, and why it is not in float64, if it is not.
    """
    if operator.dtype == torch.float64:
        return operator, None
    try:
        wide = operator.in_float64(memory)
        wide.loss_and_gradient()
    except OperatorError as error:  # a kernel for float32 only, say
        return operator, str(error)
    assert isinstance(wide, DifferenceOperator)
    return wide, None
