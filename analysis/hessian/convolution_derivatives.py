"""Convolutions whose second derivatives cost less than PyTorch's own; ``acceleration`` puts them into a recorded graph.

A pair of ``torch.autograd.Function``: the operation, and its backward pass as a function that is differentiable once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]  # stride, padding, dilation, groups


class Precision:
    """What the nodes of an operator's graphs compute in: one for all of them, so that one graph serves both.

    Rough: what a node is handed is rounded to bfloat16 for its convolutions, sums are float32 inside them. First derivatives
    are recorded in full precision, so what is multiplied roughly is still the Hessian at these weights.

    Attributes:
        is_rough: the products at this moment.
        both: whether there will be rough ones.
    """

    def __init__(self) -> None:
        self.is_rough = self.both = False

    @contextmanager
    def rough(self) -> Iterator[None]:
        """Products inside are rough."""
        self.is_rough = True
        try:
            yield
        finally:
            self.is_rough = False


class _Kernel:
    """One convolution of a graph: its geometry, and what it keeps in bfloat16 between rough products."""

    def __init__(self, geometry: Geometry, precision: Precision) -> None:
        self.geometry, self.precision = geometry, precision
        self._kept: dict[str, Tensor] = {}

    def kept(self, name: str, tensor: Tensor) -> Tensor:
        """A saved tensor, as the next kernel wants it."""
        if not self.precision.is_rough:
            return tensor
        if name not in self._kept:
            self._kept[name] = tensor.to(torch.bfloat16)
        return self._kept[name]

    def taken(self, tensor: Tensor) -> Tensor:
        """A tangent, likewise."""
        return tensor.to(torch.bfloat16) if self.precision.is_rough else tensor

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution."""
        stride, padding, dilation, groups = self.geometry
        return torch.convolution(x, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)

    def backward(self, gradient: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool) -> list[Any]:
        """Gradients of input and weight."""
        if want_weight and gradient.dtype == torch.bfloat16 and max(self.geometry[0]) > 1:
            # oneDNN's bfloat16 weight gradient of a strided convolution is slower than its float32 one (torch 2.13).
            to_x = self._backward(gradient, x, weight, True, False)[0] if want_x else None
            return [to_x, self._backward(gradient.float(), x.float(), weight.float(), False, True)[1]]
        return self._backward(gradient, x, weight, want_x, want_weight)

    def _backward(self, gradient: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool) -> list[Any]:
        stride, padding, dilation, groups = self.geometry
        arguments = (gradient, x, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)
        return list(torch.ops.aten.convolution_backward(*arguments, [want_x, want_weight, False])[:2])


def _wide(like: Tensor, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.to(like.dtype) for tensor in tensors)


class _ConvolutionBackward(torch.autograd.Function):
    """``(gradient, x, weight) -> (x gradient, weight gradient)``, differentiable once."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, kernel: _Kernel) -> tuple[Tensor | None, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, x, weight)
        ctx.kernel = kernel
        x_gradient, weight_gradient = kernel.backward(gradient, x, weight, ctx.needs_input_grad[1], True)
        return x_gradient, weight_gradient

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None) -> tuple[Any, ...]:
        kernel: _Kernel = ctx.kernel
        saved = ctx.saved_tensors
        gradient, x, weight = (kernel.kept(name, one) for name, one in zip(("gradient", "x", "weight"), saved, strict=True))
        need_gradient, need_x, need_weight, _ = ctx.needs_input_grad
        to_gradient = to_x = to_weight = None
        if x_tangent is not None:
            x_tangent = kernel.taken(x_tangent)
            if need_gradient:
                to_gradient = kernel.forward(x_tangent, weight)
            if need_weight:
                to_weight = kernel.backward(gradient, x_tangent, weight, False, True)[1]
        if weight_tangent is not None:
            weight_tangent = kernel.taken(weight_tangent)
            if need_gradient:
                part = kernel.forward(x, weight_tangent)
                to_gradient = part if to_gradient is None else to_gradient.add_(part)
            if need_x:
                to_x = kernel.backward(gradient, x, weight_tangent, True, False)[0]
        return *_wide(saved[0], to_gradient, to_x, to_weight), None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kernel: _Kernel) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kernel = kernel
        return kernel.forward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        kernel: _Kernel = ctx.kernel
        if torch.is_grad_enabled():
            return *_ConvolutionBackward.apply(gradient, x, weight, kernel), None
        parts = kernel.backward(
            kernel.taken(gradient), kernel.kept("x", x), kernel.kept("weight", weight), *ctx.needs_input_grad[:2]
        )
        return *_wide(x, *parts), None


def convolution(x: Tensor, weight: Tensor, geometry: Geometry, precision: Precision) -> Tensor:
    """A convolution without bias, twice differentiable.

    PyTorch's double backward of a convolution writes the weight part as a convolution whose kernel has the size of the image;
    here it is the ordinary weight-gradient kernel.

    Args:
        x: ``[n, channels, ...]``.
        weight: ``[out, channels / groups, ...]``.
        geometry: stride, padding, dilation, groups.
        precision: of the product through the recorded graph.
    """
    result: Tensor = _Convolution.apply(x, weight, _Kernel(geometry, precision))
    return result
