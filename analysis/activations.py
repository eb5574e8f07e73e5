"""Functions of one number whose second derivatives are kept: ``acceleration`` puts them into a recorded graph.

PyTorch evaluates f'(x) and f''(x) of a smooth activation anew in every product through a kept graph, in up to a dozen passes
over the activations. They depend on x alone, so here they are evaluated while the graph is recorded; a product takes a
multiplication with each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

#: Smooth functions of one tensor, elementwise, as models call them. (Of a ReLU, PyTorch's own second derivative costs nothing.)
ACTIVATIONS: frozenset[Any] = frozenset(
    {
        *(functional.gelu, functional.silu, functional.mish, functional.softplus, functional.elu, functional.celu),
        *(functional.selu, functional.logsigmoid, functional.tanh, functional.sigmoid),
        *(torch.tanh, torch.sigmoid, torch.special.expit, Tensor.tanh, Tensor.sigmoid),
    }
)


class _Slope(torch.autograd.Function):
    """``(gradient, x) -> gradient f'(x)``, differentiable once; f' and f'' are constants that were computed from x."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, gradient * second)
        return gradient * first

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, tangent: Tensor) -> tuple[Any, ...]:
        first, bend = ctx.saved_tensors
        need_gradient, need_x, _, _ = ctx.needs_input_grad
        return tangent * first if need_gradient else None, tangent * bend if need_x else None, None, None


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        # What is saved for the two derivatives is gone afterwards, so hooks that count what a graph holds must not see it.
        with torch.enable_grad(), saved_tensors_hooks(Tensor.detach, lambda tensor: tensor):
            inner = x.detach().requires_grad_()
            value = function(inner)
            (first,) = torch.autograd.grad(value.sum(), inner, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), inner, materialize_grads=True)
        ctx.save_for_backward(x, first.detach(), second)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, None]:
        x, first, second = ctx.saved_tensors
        return (_Slope.apply(gradient, x, first, second) if torch.is_grad_enabled() else gradient * first), None


def activation(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function(x)``, twice differentiable.

    Args:
        x: any shape, floating point.
        function: elementwise: each number of its result depends on the same number of x alone.
    """
    result: Tensor = _Activation.apply(x, function)
    return result
