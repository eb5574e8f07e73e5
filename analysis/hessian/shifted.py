"""A model at other weights for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .operator import HessianOperator


@contextmanager
def shifted(operator: HessianOperator, direction: Tensor, s: float) -> Iterator[None]:
    """The model at ``w + s direction`` inside; its weights restored to the bit afterwards, also after an exception."""
    saved = [p.detach().clone() for p in operator.parameters]
    parts = direction.to(operator.device, operator.dtype).split([p.numel() for p in operator.parameters])
    try:
        with torch.no_grad():
            for p, part in zip(operator.parameters, parts, strict=True):
                p.add_(part.view_as(p), alpha=s)
        yield
    finally:
        with torch.no_grad():
            for p, before in zip(operator.parameters, saved, strict=True):
                p.copy_(before)
