"""First derivatives of a loss, where ``torch.autograd.grad`` cannot give them, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..krylov.linear_operator import NoSecondDerivativeError, OperatorError
from .corrections import is_reentrant, lacks_second_derivative, reason


def slopes_of(
    loss: Tensor, again: Callable[[], Tensor], model: nn.Module, parameters: Sequence[nn.Parameter]
) -> tuple[Tensor | None, ...]:
    """Derivatives of a loss by some of the parameters of a model; ``None`` for those that it does not depend on.

    Reentrant checkpointing accumulates into ``.grad`` only, so the loss is computed again for it; what ``.grad`` held before
    is put back.

    Args:
        loss: with its graph, which is used up.
        again: computes it once more.
        model: of the parameters.
        parameters: the ones to differentiate by.

    Raises:
        OperatorError: the loss cannot be differentiated.
    """
    try:
        found = derivatives(loss, parameters)
        if not _hides_some(loss, found):
            return found
    except NoSecondDerivativeError as error:
        if not is_reentrant(error):
            raise
    held = [(p, p.grad) for p in model.parameters()]
    for p, _ in held:
        p.grad = None
    try:
        again().backward()
        return tuple(p.grad for p in parameters)
    finally:
        for p, before in held:
            p.grad = before


def all_nodes(loss: Tensor) -> Iterator[Any]:
    """What a graph consists of, from the loss on."""
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        todo.extend(child for child, _ in node.next_functions)


def _hides_some(loss: Tensor, found: Sequence[Tensor | None]) -> bool:
    """Whether there is reentrant checkpointing that may have weights among those without a derivative.

    ``torch.autograd.grad`` does not enter it, and so does not say that it cannot, where none of the others lies before it.
    """
    return any(one is None for one in found) and any(
        type(node).__name__ == "CheckpointFunctionBackward" for node in all_nodes(loss)
    )


class _Along(torch.autograd.Function):
    """Nothing, with given derivatives by what it is of.

    ``torch.autograd.grad`` takes such vectors as well, and from torch 2.6 on imports sympy to compare their shapes, which takes
    as long as the spectrum of a small network; a sum of products with them would copy every one.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Sequence[Tensor | None], *outputs: Tensor) -> Tensor:
        ctx.vectors = vectors
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor | None, ...]:
        return (None, *ctx.vectors)


def derivatives(
    outputs: Tensor | Sequence[Tensor],
    parameters: Sequence[Tensor],
    vectors: Sequence[Tensor | None] | None = None,
    **flags: bool,
) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad`` by parameters that need not be used, with errors that say what to do.

    Raises:
        NoSecondDerivativeError: an operation cannot be differentiated again.
        OperatorError: an operation cannot be differentiated.
    """
    try:
        if vectors is not None:
            outputs = _Along.apply(vectors, *outputs)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(outputs, parameters, None, allow_unused=True, **flags)
        return found
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:  # of a backward pass of the user's
        # Vectors are those of a second derivative: there was a first one.
        if vectors is not None or lacks_second_derivative(error):
            raise NoSecondDerivativeError(reason(error, twice=True)) from error
        raise OperatorError(reason(error)) from error


def slopes_with_graph(
    loss: Tensor, again: Callable[[], Tensor], parameters: Sequence[nn.Parameter]
) -> tuple[Tensor | None, ...]:
    """Derivatives of a loss with their graph, to be differentiated again.

    A backward pass may leave torch, for NumPy say, and work as long as nobody records it: whatever it then raises, it is a
    second derivative that is missing.

    Args:
        loss: with its graph, which is kept.
        again: computes it once more.
        parameters: the ones to differentiate by.

    Raises:
        NoSecondDerivativeError: there are derivatives, and none of them.
        OperatorError: there are none.
    """
    try:
        found = derivatives(loss, parameters, create_graph=True)
        if _hides_some(loss, found):
            raise NoSecondDerivativeError("weights within reentrant checkpointing: call checkpoint with use_reentrant=False")
        return found
    except NoSecondDerivativeError:
        raise
    except OperatorError as error:
        derivatives(again(), parameters)  # says it, where there is none
        raise NoSecondDerivativeError(reason(error.__cause__ or error, twice=True)) from error.__cause__
