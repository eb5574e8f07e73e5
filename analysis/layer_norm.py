"""LayerNorm whose second derivative costs less than PyTorch's own; ``acceleration`` puts it into a recorded graph.

With d numbers in a row, m the mean over a row, ``xhat = r (x - m(x))``, ``r = (var + eps)^(-1/2)``, and the symmetric
``P a = a - m(a) - xhat m(a xhat)``, the Jacobian of xhat is ``r P`` and the gradient of r is ``-r^2 xhat / d``. With
``h = g weight`` the backward pass is ``r P h`` (Ba, Kiros and Hinton 2016), and by the product rule ``(r P a) h`` has the
gradient ``-r P (m(h xhat) r a + m(a xhat) r h) - r^2 xhat (m(a h) - m(a) m(h) - m(a xhat) m(h xhat))`` with respect to x. What
does not depend on the tangent a is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def _mean(a: Tensor, b: Tensor) -> Tensor:
    """Mean of ``a b`` over each row, ``[rows, 1]``."""
    return (a * b).mean(1, keepdim=True)


class _LayerNormBackward(torch.autograd.Function):
    """``(gradient, x, weight) -> (x gradient, weight gradient, bias gradient)`` of rows, differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor | None, normal: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        ctx.set_materialize_grads(False)
        h = gradient if weight is None else gradient * weight
        along = _mean(h, normal)
        middle = h.mean(1, keepdim=True)
        ctx.save_for_backward(gradient, weight, normal, scale, h, along, middle)
        to_x = scale * (h - middle - normal * along)
        return to_x, None if weight is None else (gradient * normal).sum(0), gradient.sum(0)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None
    ) -> tuple[Any, ...]:
        gradient, weight, normal, scale, h, along, middle = ctx.saved_tensors
        need_gradient, need_x, need_weight = ctx.needs_input_grad[:3]
        to_gradient = to_weight = None
        # The tangent of the output, and what pulls on xhat.
        pull = None
        bent = None
        if x_tangent is not None:
            own, own_along = x_tangent.mean(1, keepdim=True), _mean(x_tangent, normal)
            moved = torch.addcmul(x_tangent - own, normal, own_along, value=-1).mul_(scale)
            if need_weight:
                to_weight = (moved * gradient).sum(0)
            to_gradient = moved if weight is None else moved.mul_(weight)
            if need_x:
                pull = torch.addcmul(h * own_along, x_tangent, along).mul_(-scale)
                bent = (_mean(x_tangent, h) - own * middle - own_along * along).mul_(scale)
        if weight_tangent is not None:
            part = normal * weight_tangent
            to_gradient = part if to_gradient is None else to_gradient.add_(part)
            if need_x:
                part = gradient * weight_tangent
                pull = part if pull is None else pull.add_(part)
        if bias_tangent is not None:
            to_gradient = bias_tangent.expand_as(gradient) if to_gradient is None else to_gradient.add_(bias_tangent)
        to_x = None
        if pull is not None:
            pulled = _mean(pull, normal)
            to_x = pull.sub_(pull.mean(1, keepdim=True))
            to_x = to_x.addcmul_(normal, pulled if bent is None else pulled + bent, value=-1).mul_(scale)
        return to_gradient if need_gradient else None, to_x, to_weight, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        result, mean, scale = torch.native_layer_norm(x, x.shape[1:], weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            normal = ((x - mean) * scale).detach()
            parts = _LayerNormBackward.apply(gradient, x, weight, normal, scale)
        else:
            parts = torch.ops.aten.native_layer_norm_backward(gradient, x, x.shape[1:], mean, scale, weight, bias, needs)
        return *(part if need else None for part, need in zip(parts, needs, strict=True)), None


def layer_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """As ``torch.nn.functional.layer_norm``, twice differentiable.

    Args:
        x: ``[..., *normalized_shape]``.
        normalized_shape: shape of what is normalised together.
        weight: ``[*normalized_shape]``.
        bias: likewise.
        eps: added to the variance.
    """
    rows = x.reshape(-1, x[(0,) * (x.dim() - len(normalized_shape))].numel())
    flat = [None if one is None else one.reshape(-1) for one in (weight, bias)]
    result: Tensor = _LayerNorm.apply(rows, *flat, eps)
    return result.view(x.shape)
