"""Torch's second derivatives that are wrong or missing, computed by operations whose second derivatives are right.

Found by ``gradgradcheck`` over the layers people use (``tests/analysis/hessian/test_corrections.py``, torch 2.13).
The functions and their first derivatives are torch's own; only a gradient graph that will be differentiated again is recorded
through these.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..krylov.linear_operator import NoSecondDerivativeError


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``v g / |v|``; torch's double backward treats part of the norm as a constant."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    result = functional.hardtanh(input + 3, 0.0, 6.0) / 6
    return input.copy_(result) if inplace else result


def _cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
) -> Tensor:  # torch's own can be differentiated twice where it multiplies matrices: Euclidean, over 25 rows
    through_products = compute_mode == "use_mm_for_euclid_dist" or (
        compute_mode == "use_mm_for_euclid_dist_if_necessary" and max(x1.shape[-2], x2.shape[-2]) > 25
    )
    if p == 2 and through_products:
        return torch.cdist(x1, x2, p, compute_mode)
    distances: Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)
    return distances


def _embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None, norm_type: float = 2,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """Bags of one length, as a batch of samples holds them; torch's own for all others."""
    if input.dim() != 2 or offsets is not None or max_norm is not None or scale_grad_by_freq or mode == "max":
        return functional.embedding_bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    rows = functional.embedding(input, weight, padding_idx)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    if padding_idx is None:
        return rows.sum(1) if mode == "sum" else rows.mean(1)
    real = (input != padding_idx % len(weight)).unsqueeze(-1).to(rows.dtype)
    total = (rows * real).sum(1)
    return total if mode == "sum" else total / real.sum(1).clamp(min=1)


_CORRECTED: dict[Any, Callable[..., Tensor]] = {
    torch._weight_norm: _weight_norm,
    functional.hardsigmoid: _hardsigmoid,
    torch.cdist: _cdist,
    functional.embedding_bag: _embedding_bag,
}


class Corrections(TorchFunctionMode):
    """Context in which a model's forward pass is recorded so that it can be differentiated twice.

    What is checkpointed is computed again in the backward pass, by torch's own functions, and what these save is taken for what
    was saved here by number and shape alone: so nothing there is corrected.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _CORRECTED and _in_checkpoint():
            raise NoSecondDerivativeError(
                f"torch has no right second derivative of {function.__name__}, and in a checkpointed part it cannot be "
                "corrected: leave out checkpointing for the analysis"
            )
        return _CORRECTED.get(function, function)(*args, **(kwargs or {}))


def _in_checkpoint() -> bool:
    """Whether ``torch.utils.checkpoint`` has called what runs now."""
    module, frame = sys.modules.get("torch.utils.checkpoint"), inspect.currentframe()
    while module is not None and frame is not None:
        if frame.f_code.co_filename == module.__file__:
            return True
        frame = frame.f_back
    return False


#: what torch says, and what to do about it
_ADVICE = (
    ("attention", "let the model not choose its attention kernel: the math kernel is taken here, which can be"),
    ("once_differentiable", "write the backward pass in operations that can be differentiated, without once_differentiable"),
    ("double backward", "leave out torch.compile for the analysis"),
    ("Checkpointing is not compatible", "call checkpoint with use_reentrant=False"),
    ("use_reentrant=True, torch.utils.checkpoint", "call checkpoint with use_reentrant=False"),
    ("cudnn RNN", "switch cuDNN off: torch.backends.cudnn.enabled = False"),
)


def lacks_second_derivative(error: Exception) -> bool:
    """Whether what autograd raised says that an operation can be differentiated once only."""
    words = ("derivative for", "once_differentiable", "double backward", "cudnn RNN")
    return is_reentrant(error) or any(word in str(error) for word in words)


def is_reentrant(error: Exception) -> bool:
    """Whether it is reentrant checkpointing that ``torch.autograd.grad`` does not go through."""
    return any(word in str(error) for word in ("Checkpointing is not compatible", "use_reentrant=True, torch.utils.checkpoint"))


def reason(error: BaseException, *, twice: bool = False) -> str:
    """One sentence for what autograd raised; ``twice``: of an operation that can be differentiated once."""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    advice = "".join(f"; {what}" for word, what in _ADVICE if word in str(error))
    what = "an operation of the model cannot be differentiated twice" if twice else "the loss cannot be differentiated"
    return f"{what}: {said}{advice}"
