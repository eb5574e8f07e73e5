"""Faster Hessian-vector products of convolution networks in eval mode: same function, cheaper second derivatives.

A Hessian-vector product through a stored gradient graph takes six convolutions' work per layer (Pearlmutter 1994, counted for a
convolution with data, weights and both their tangents). Two things make it cost about twice that in practice, and both are
changed here while the graph is recorded, without touching the model:

* PyTorch's double backward of a convolution writes the weight part as a convolution whose kernel has the size of the image.
  ``second_derivatives`` uses the ordinary weight-gradient kernel instead.
* BatchNorm in eval mode is an affine map per channel, but its double backward makes a dozen passes over the activations.
  Directly after a convolution it is folded into that convolution's weight and bias, as a function of all four parameters, so
  the derivatives with respect to each of them are unchanged. Where the output holds fewer numbers than the weight (late layers
  and few samples), the same map is one product and one sum on the output instead.

On the CPU, images are laid out channels-last, which saves re-ordering at every call; those that hold fewer numbers than the
weight are not, in float32: re-ordering the weight and its tangents costs more. What may be folded is found by recording
one forward pass; a convolution whose output goes anywhere else but into one BatchNorm stays as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .convolution_derivatives import Geometry, Precision, convolution

_CONVOLUTIONS: dict[Any, int] = {functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3}


class _Pending:
    """A convolution that waits for the BatchNorm it will be folded into."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, heavy: bool) -> None:
        self.x, self.weight, self.bias, self.geometry, self.heavy = x, weight, bias, geometry, heavy

    def stand_in(self) -> Tensor:
        """A tensor of the output's shape that owns one number; nothing may read it, and what does anyhow is not a number."""
        stride, padding, dilation, _ = self.geometry
        sizes = zip(self.x.shape[2:], self.weight.shape[2:], stride, padding, dilation, strict=True)
        space = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
        return self.x.new_full((), math.nan).expand(self.x.shape[0], self.weight.shape[0], *space)


def _geometry(dimensions: int, stride: Any, padding: Any, dilation: Any, groups: int) -> Geometry:
    def full(value: Any) -> tuple[int, ...]:
        return (value,) * dimensions if isinstance(value, int) else tuple(value)

    return full(stride), full(padding), full(dilation), groups


def _call(
    input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """The arguments of a convolution, by whatever names and places they were given."""
    return input, weight, bias, stride, padding, dilation, groups


def _normalised(
    input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    """The arguments of a BatchNorm, likewise."""
    return input, running_mean, running_var, weight, bias, training, eps


def _linear_weight(input: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    return weight


def _laid_out(x: Tensor, heavy: bool) -> Tensor:
    """Images or weight ``[n, c, h, w]`` of a convolution on the CPU, as its kernels want them: channels last, but heavy ones.

    In float64 they want channels last in any case. A single channel is laid out in both ways at once, and torch then takes the
    other one: for the output, whose sums with channels-last images take three times as long, and all that is computed of it.
    """
    if heavy and x.dtype == torch.float32:
        return x.contiguous()
    if x.shape[1] == 1:
        return x.squeeze(1).contiguous().unsqueeze(3).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


class AccelerationError(RuntimeError):
    """The model used a convolution's output in a way that recording had not seen; use the plain path."""


class _Mode(TorchFunctionMode):
    """Sees every torch function that the model calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, Any] = {}

    def _reads(self, arguments: Iterable[Any]) -> list[int]:
        return [id(leaf) for leaf in arguments if isinstance(leaf, Tensor) and id(leaf) in self.seen]


_METADATA = {
    Tensor.dim,
    Tensor.size,
    Tensor.ndimension,
    Tensor.stride,
    Tensor.is_contiguous,
    Tensor.numel,
    Tensor.is_floating_point,
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_cuda")),
}


def _normalised_in_eval_mode(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The input of an eval-mode BatchNorm; None of any other function."""
    if function is not functional.batch_norm:
        return None
    x, *_, training, _ = _normalised(*args, **kwargs)
    return None if training else x


class _Record(_Mode):
    """Finds the convolutions whose output is read by one eval-mode BatchNorm and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, list[bool]] = {}  # output id, in order -> per reader: is it a BatchNorm's input?
        self.convolutions: list[int] = []  # multiplications of each
        self.sizes: list[tuple[int, int]] = []  # numbers of its output, and of its weight
        self.linear = 0  # and of all linear maps

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in _METADATA:
            for key in self._reads(tree_leaves((args, kwargs))):
                self.readers[key].append(id(_normalised_in_eval_mode(function, args, kwargs)) == key)
        result = function(*args, **kwargs)
        if function in _CONVOLUTIONS:
            weight = _call(*args, **kwargs)[1]
            self.convolutions.append(result.numel() * weight[0].numel())
            self.sizes.append((result.numel(), weight.numel()))
            self.seen[id(result)] = result  # kept alive: an id must stay unique while recording
            self.readers[id(result)] = []
        elif function is functional.linear:
            self.linear += result.numel() * _linear_weight(*args, **kwargs).shape[-1]
        return result

    def foldable(self) -> frozenset[int]:
        """Which convolutions of a pass may be folded, the first one 0: weights made on the way have no identity that lasts."""
        return frozenset(number for number, read in enumerate(self.readers.values()) if read == [True])

    def heavy(self, times: float) -> frozenset[int]:
        """Convolutions whose weight holds more numbers than so many times the output seen."""
        return frozenset(number for number, (output, weight) in enumerate(self.sizes) if weight > times * output)


class _Replace(_Mode):
    """Routes convolutions, and BatchNorms behind them, through the faster forms."""

    def __init__(self, foldable: frozenset[int], heavy: frozenset[int], channels_last: bool, precision: Precision) -> None:
        super().__init__()
        self.foldable, self.heavy, self.channels_last, self.precision = foldable, heavy, channels_last, precision
        self.called = 0  # convolutions so far

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _CONVOLUTIONS:
            self.called += 1
            if not isinstance(_call(*args, **kwargs)[4], str):
                return self._convolution(_CONVOLUTIONS[function], *_call(*args, **kwargs))
        x = _normalised_in_eval_mode(function, args, kwargs)
        if x is not None and id(x) in self.seen:
            return self._batch_norm(*_normalised(*args, **kwargs))
        if self._reads(tree_leaves((args, kwargs))) and function not in _METADATA:
            raise AccelerationError(f"{function} reads the output of a folded convolution")
        return function(*args, **kwargs)

    def _convolution(self, dimensions: int, x: Tensor, weight: Tensor, bias: Any, *geometry: Any) -> Tensor:
        heavy = self.called - 1 in self.heavy
        if self.channels_last and dimensions == 2 and x.dim() == 4:
            x = _laid_out(x, heavy)
        if x.dim() != dimensions + 2:  # an unbatched image: rare, and not worth a second layout
            return {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[dimensions](x, weight, bias, *geometry)
        pending = _Pending(x, weight, bias, _geometry(dimensions, *geometry), heavy)
        if self.called - 1 in self.foldable:
            stand_in = pending.stand_in()
            self.seen[id(stand_in)] = (stand_in, pending)
            return stand_in
        return self._apply(pending, weight, bias)

    def _apply(self, pending: _Pending, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.channels_last and weight.dim() == 4:
            weight = _laid_out(weight, pending.heavy)
        result = convolution(pending.x, weight, pending.geometry, self.precision)
        return result if bias is None else result + bias.view(-1, *[1] * (weight.dim() - 2))

    def _batch_norm(self, x: Tensor, mean: Any, variance: Any, weight: Any, bias: Any, training: bool, eps: float) -> Tensor:
        stand_in, pending = self.seen[id(x)]
        if pending is None:
            raise AccelerationError("two BatchNorms read the output of a folded convolution")
        self.seen[id(x)] = (stand_in, None)  # other samples may take a way on which something else reads it, too
        scale = torch.rsqrt(variance + eps) if weight is None else weight * torch.rsqrt(variance + eps)
        shift = -mean * scale if bias is None else bias - mean * scale
        if pending.bias is not None:
            shift = shift + pending.bias * scale
        if pending.heavy:
            per_channel = (-1, *[1] * (pending.weight.dim() - 2))
            plain = self._apply(pending, pending.weight, None)
            scaled: Tensor = plain * scale.view(per_channel) + shift.view(per_channel)
            return scaled
        kernel = pending.weight * scale.view(-1, *[1] * (pending.weight.dim() - 1))
        return self._apply(pending, kernel, shift)


class Accelerator:
    """Runs a model's forward pass so that its gradient graph is cheap to differentiate again.

    Use ``plan`` once on a sample batch, then call the model inside ``recording()``.

    Attributes:
        precision: of the products through its graphs.
        work: multiplications of the forward pass for one sample, in convolutions and linear maps.
        convolution_work: of a convolution, on average over the model's; 0 where linear maps do most of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._foldable: frozenset[int] = frozenset()
        self._heavy: frozenset[int] = frozenset()
        self._channels_last = device.type == "cpu"
        self.precision = Precision()
        self.work = self.convolution_work = 0.0

    def again(self) -> Accelerator:
        """The same plan for a copy of the model, with a precision of its own."""
        other = copy.copy(self)
        other.precision = Precision()
        return other

    def plan(self, forward: Callable[[], Any], samples: int = 1, together: int = 1) -> bool:
        """Runs ``forward()`` once and notes what can be folded, and the work.

        Args:
            forward: the model's, on a few samples.
            samples: how many.
            together: as many as will be passed at once. What is done to each convolution depends on it, and is the same for
                other numbers: so it is what was checked on a few.

        Returns:
            Whether it holds any convolution.
        """
        recorder = _Record()
        with recorder:  # gradients on: a loss may differentiate the model itself
            forward()
        self._foldable, self._heavy = recorder.foldable(), recorder.heavy(together / samples)
        convolutions = sum(recorder.convolutions)
        self.work = (convolutions + recorder.linear) / samples
        mostly = convolutions > recorder.linear
        self.convolution_work = convolutions / samples / len(recorder.convolutions) if mostly else 0.0
        return bool(recorder.convolutions)

    def recording(self) -> TorchFunctionMode:
        """Context in which the model's convolutions take the faster form. Raises AccelerationError inside on a misfit."""
        return _Replace(self._foldable, self._heavy, self._channels_last, self.precision)
