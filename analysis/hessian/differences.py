"""Are the products those of the loss that is printed? One look at every operator that takes no second derivative.

Two guards (``guards``) see an operator that changes or is not symmetric. They do not see a fixed symmetric matrix that belongs
to another function: a backward pass that uses a derivative saved in forward loses a symmetric part of the Hessian, a detached
factor leaves its own out. So products are held against central differences of the gradient, and the gradient against those of
the loss, on a few samples, in float64, along the gradient, a random direction, and later the vectors found. Differences of the
gradient are ``J d`` where double backward gives ``J^T d``: an asymmetric operator shows, whatever d is.

In a ReLU network a step may switch units, and then the difference measures the kink. So steps are tiny, and a difference
counts against an operator only where two of them, a factor of ten apart, agree with each other: across a kink they differ by
that factor, and below the rounding of the gradient they differ by more.

Above 300 lines: one look, whose steps, comparisons and refusals must agree, so they are read together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..krylov.guards import RandomOperatorError, redrawn
from ..krylov.lanczos import random_start
from ..krylov.linear_operator import NotFiniteError, OperatorError
from .comparison import SAME, Comparison
from .elsewhere import GroupHessian, shifted
from .suspects import likely_causes, listed, strange_weights

#: Samples looked at, and of a small group at most one in so many.
SAMPLES, SHARE = 4, 8
#: Bytes for their graphs, which the products of several directions share.
GRAPHS = 2**30
#: Steps, relative to the weights' norm: tiny ones for the kinks, larger ones where the gradient is rounded more than its type.
STEPS = {torch.float64: (1e-8, 1e-9, 1e-10, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3), torch.float32: (1e-3, 1e-2, 1e-4)}

#: A well-fitted sample's gradient is about its loss times that of its logits, and the loss is rounded as logits of this size.
LOGITS = 10.0
#: Steps over which all directions are looked at together.
TOGETHER = 3
#: What weights are multiplied by where the loss is below rounding, to look at the same function where it is not.
SMALLER = (0.5, 0.1)


class AnotherFunctionError(OperatorError):
    """Products or gradients are not derivatives of the loss; the message names what is likely to blame."""


class AnotherHessianError(AnotherFunctionError):
    """The gradients are the loss's, and the products are not the gradient's."""


class Look:
    """Looks at an operator, before its products are used and with the vectors found; rounding is measured once for both.

    Args:
        operator: in float64, if the model can be computed in it; weights are moved and restored to the bit, and are the same
            whenever this is called.
        seed: of the random vector.
    """

    def __init__(self, operator: GroupHessian, *, seed: int = 0) -> None:
        self._few, self._seed, self._noise = _few(operator), seed, dict[str, float]()  # place -> rounding of the gradient

    def __call__(self, vectors: Mapping[str, Tensor] | None = None) -> list[str]:
        """Holds the operator against differences, on a few of its samples.

        Args:
            vectors: name -> ``[n]``: products with these alone; default: with the gradient and a random vector, and the
                gradient beside the loss as well.

        Returns:
            Sentences about what could not be compared.

        Raises:
            AnotherFunctionError: products or gradients are not derivatives (AnotherHessianError: the products alone).
            RandomOperatorError: two passes differ.
        """
        few, seed = self._few, self._seed
        gradient = _same_loss_without_graph(few) if vectors is None else None
        vectors = vectors if gradient is None else {"gradient": gradient, "random": random_start(few, seed + 606)}
        wanted = {name: _trained_part(few, v) for name, v in (vectors or {}).items()}
        names = [name for name, v in wanted.items() if float(v.norm()) > 0]
        if not names or (gradient is None and few.products == "differences"):
            return []
        directions = torch.stack([wanted[name].div_(wanted[name].norm()) for name in names]).T
        del wanted, vectors  # as large as the model, each of them
        unsettled = self._compare("here", names, directions, gradient)
        if unsettled:  # the weights may lie on a kink themselves, as biases of zero do: a little beside it they do not
            with shifted(few, random_start(few, seed + 707), 1e-4 * _length(few)):
                slope = None if gradient is None else few.loss_and_gradient()[1]
                left = [name for name in names if name in unsettled]
                unsettled = self._compare("beside", left, directions[:, [names.index(name) for name in left]], slope)
        elsewhere = False
        for smaller in SMALLER:  # a loss below its own rounding; a wrong derivative is wrong elsewhere, too
            if elsewhere or not unsettled or any(unsettled.values()):
                break
            with shifted(few, few.weights(), smaller - 1):
                slope = None if gradient is None else few.loss_and_gradient()[1]
                left = [name for name in names if name in unsettled]
                found = self._compare(str(smaller), left, directions[:, [names.index(name) for name in left]], slope)
            elsewhere = not found
            unsettled = found if any(found.values()) else unsettled
        if unsettled:
            _require_repetition(few)
        few.release()
        refusals = [refusal for refusal in unsettled.values() if refusal is not None]
        for refusal in sorted(refusals, key=lambda one: isinstance(one, AnotherHessianError)):
            raise refusal
        if not unsettled:
            return []
        which = ", ".join(unsettled)
        if few.products == "differences":
            return [f"the gradient could not be held against differences of the loss ({which}): too much rounding"]
        if elsewhere:
            return [f"products were held against differences at smaller weights only ({which}): here rounding is too large"]
        why = "too many kinks, or too much rounding"
        return [f"products could not be held against differences of the gradient ({which}): {why}"]

    def _compare(
        self, place: str, names: list[str], directions: Tensor, gradient: Tensor | None
    ) -> dict[str, AnotherFunctionError | None]:
        """The directions along which a derivative does not agree -> what to raise for it; None: open."""
        few = self._few
        themselves = few.products == "differences"  # these measure their own error
        products = torch.zeros_like(directions) if themselves else few.matmat(directions)
        few.release()  # its graphs are of no use beside these weights
        if not themselves and _all_agree(few, directions, products, gradient):
            return {}
        if place not in self._noise:
            self._noise[place] = _noise(few, gradient)
        noise = self._noise[place]
        unsettled: dict[str, AnotherFunctionError | None] = {}
        for name, d, product in zip(names, directions.T, products.T, strict=True):
            comparisons: dict[str, Comparison] = {} if themselves else {"second": Comparison(product)}
            if gradient is not None:
                comparisons["first"] = Comparison(torch.dot(gradient, d).reshape(1), _small(few, gradient))
            for slope, rough, difference, rounding in _differences(few, d, noise):
                for order, value, small in (("first", slope, rough), ("second", difference, rounding)):
                    if order in comparisons and comparisons[order].agrees is None:
                        comparisons[order].see(value, small)
                if all(one.agrees is not None for one in comparisons.values()):
                    break
            # Slopes that no step resolves say nothing: the loss of a well-fitted group is below its own rounding.
            answers = {order: one.settled() for order, one in comparisons.items() if order == "second" or one.seen}
            second = comparisons.get("second")
            if not all(answers.values()) or (second is not None and second.agrees is None and second.within_rounding):
                # A sentence only for what disagrees; the slope first: where the gradient is none, nothing after it is.
                wrong = next((order for order in ("first", "second") if answers.get(order) is False), None)
                unsettled[name] = None if wrong is None else _refusal(few, wrong, comparisons[wrong].error)
        return unsettled


def look(operator: GroupHessian, vectors: Mapping[str, Tensor] | None = None, *, seed: int = 0) -> list[str]:
    """A single :class:`Look`."""
    return Look(operator, seed=seed)(vectors)


def look_at(operator: GroupHessian, vectors: Mapping[str, Tensor] | None = None, *, seed: int = 0) -> list[str]:
    """:func:`look` for an operator of any precision: at a copy in float64, where the loss can be computed in it."""
    try:
        return look(operator if operator.dtype == torch.float64 else operator.in_float64(), vectors, seed=seed)
    except AnotherFunctionError:
        raise
    except OperatorError as error:
        return [f"products were not held against differences of the gradient in float64: {error}"]


def _few(operator: GroupHessian) -> GroupHessian:
    """The operator over a few of its samples, which lie in this process; its graphs are kept."""
    count = operator.samples.num_samples
    chosen = np.linspace(0, count - 1, max(1, min(SAMPLES, count // SHARE))).astype(int)
    return operator.over(operator.samples.subset(chosen), memory=GRAPHS)


def _length(few: GroupHessian) -> float:
    """What steps are relative to."""
    norm = float(few.weights().double().norm())
    return norm if norm > 0 else 1.0


def _trained_part(few: GroupHessian, v: Tensor) -> Tensor:
    """A direction without the rows of padding tokens, which torch gives no gradient on purpose."""
    part = v.to(few.device, few.dtype).clone()
    places = dict(zip(map(id, few.parameters), part.split([p.numel() for p in few.parameters]), strict=True))
    for module in few.model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
            place = places.get(id(module.weight))
            if place is not None:
                place.view_as(module.weight)[module.padding_idx] = 0
    return part


def _same_loss_without_graph(few: GroupHessian) -> Tensor:
    """The gradient ``[n]``; raises where the loss is another one in a pass without gradients."""
    loss, gradient = few.loss_and_gradient()
    alone = few.mean_loss()
    if not _close(alone, loss, few):
        _require_repetition(few)
        raise AnotherFunctionError(
            f"the loss is {loss:.6g} where gradients are recorded and {alone:.6g} where they are not: the model takes another "
            "path then (a fast path of inference, or a branch on torch.is_grad_enabled())"
        )
    if strange := strange_weights(few, gradient):
        raise AnotherFunctionError(
            f"the model computes with weights that are not its own: the loss depends on a twin of {listed(strange)}. Was a "
            "function that belongs to another model put in as forward? Give the model as its class makes it"
        )
    return gradient


def _close(one: float, other: float, few: GroupHessian) -> bool:
    # 1e-6: models that compute a norm or a softmax in float32 on their way are not random.
    return abs(one - other) <= max(1e-6, 1e3 * torch.finfo(few.dtype).eps) * max(abs(one), abs(other)) + 1e-12


def _require_repetition(few: GroupHessian) -> None:
    (loss, gradient), (again, other) = few.loss_and_gradient(), few.loss_and_gradient()
    size = max(float(gradient.norm()), float(other.norm()))
    apart = float((gradient - other).norm())
    if not _close(loss, again, few) or apart > 1e-3 * size:
        raise RandomOperatorError(redrawn("gradients at the same weights", apart / size if size > 0 else 1.0))


def _all_agree(few: GroupHessian, directions: Tensor, products: Tensor, gradient: Tensor | None) -> bool:
    """Whether differences settle it for all directions together, as they do for most models: two passes, not two for each.

    Their sum is looked at, in which every image counts the same, so that a small one is not lost beside a large one. A kink may
    lie within the first step, along the sum or along the gradient: the next two are tried, as of single directions.
    """
    sizes = products.norm(dim=0)
    if not bool((sizes > 0).all()):
        return False
    d, image = directions @ (1 / sizes), products @ (1 / sizes)
    length = d.norm()
    d, image = d.div_(length), image.div_(length)
    allowed = SAME * len(sizes) ** -0.5 * float(image.norm())
    known = None if gradient is None else Comparison(torch.dot(gradient, d).reshape(1), _small(few, gradient))
    for slope, rough, difference, floor in itertools.islice(_differences(few, d, 0.0), TOGETHER):
        if known is not None and known.agrees is None:
            known.see(slope, rough)
        if math.isinf(floor) or float(difference.sub_(image).norm()) > allowed:
            continue
        return gradient is None or known is None or (known.agrees is True and _falls_as_it_says(few, gradient))
    return False


def _falls_as_it_says(few: GroupHessian, gradient: Tensor) -> bool:
    """Whether the loss along the gradient is seen to fall by that; two passes without a graph for each step."""
    size, length = gradient.norm().reshape(1), _length(few)
    steepest, known = gradient / size, Comparison(size, _small(few, gradient))
    for relative in STEPS[few.dtype][:TOGETHER]:
        step, sides = relative * length, []
        for side in (step, -step):
            with shifted(few, steepest, side):
                sides.append(few.mean_loss())
        seen = torch.tensor([(sides[0] - sides[1]) / (2 * step)], dtype=few.dtype, device=few.device)
        known.see(seen, 1e3 * torch.finfo(few.dtype).eps * max(1.0, abs(sides[0])) / step)
        if known.agrees is not None:
            break
    return known.agrees is True


def _small(few: GroupHessian, gradient: Tensor) -> float:
    """A slope that is small beside the gradient's length is not resolved by the rounding of the loss."""
    return 10 * SAME * float(gradient.norm()) / math.sqrt(few.size)


def _noise(few: GroupHessian, here: Tensor | None) -> float:
    """Rounding of the gradient (``here``, if known), measured: how far it moves when weights move by units in the last place.

    A well-fitted sample's gradient is the small difference of a probability and one, and rounded as those.
    """
    here = few.loss_and_gradient()[1] if here is None else here
    with shifted(few, random_start(few, 808), 50 * torch.finfo(few.dtype).eps * _length(few)):
        return float((few.loss_and_gradient()[1] - here).norm())


def _refusal(few: GroupHessian, order: str, error: float) -> AnotherFunctionError:
    causes = likely_causes(few, second=order == "second")
    if order == "first":
        return AnotherFunctionError(
            f"the gradient is not the derivative of the loss (on {few.num_samples} samples they differ along a direction by "
            f"{error:.1e} of their size), so no Hessian belongs to this loss; likely: {causes}"
        )
    return AnotherHessianError(
        f"the Hessian-vector products are those of another function: on {few.num_samples} samples they differ by {error:.1e} "
        f"of their size from differences of the gradient, which agree with each other; likely: {causes}"
    )


def _differences(few: GroupHessian, d: Tensor, noise: float) -> Iterator[tuple[Tensor, float, Tensor, float]]:
    """Central differences of loss ``[1]`` and gradient ``[n]`` along d, step by step, each with its rounding."""
    length, eps = _length(few), torch.finfo(few.dtype).eps
    for relative in STEPS[few.dtype]:
        step = relative * length
        sides = []
        for side in (step, -step):
            try:
                with shifted(few, d, side):
                    sides.append(few.loss_and_gradient())
            except (NotFiniteError, OperatorError):
                break
        if len(sides) < 2:
            continue
        (up, ahead), (down, behind) = sides
        slope = torch.tensor([(up - down) / (2 * step)], dtype=few.dtype, device=few.device)
        # Where a loss is below the rounding of its logits, its derivatives are not derivatives any more.
        size = float(ahead.norm())
        floor = 4 * (noise + LOGITS * eps * size / abs(up)) / step if abs(up) > 1e3 * eps else math.inf if size > 0 else 0.0
        # A loss is a difference of logits, which are of the order of one to a thousand, however small it is itself.
        rough = 1e3 * eps * max(1.0, abs(up)) / step
        yield slope, rough, ahead.sub_(behind).div_(2 * step), floor
