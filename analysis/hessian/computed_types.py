"""In which precision a model computes, which its parameters do not tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class ComputedTypes(TorchDispatchMode):
    """Collects the floating-point types of all tensors that are computed inside, but for single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dim():
                self.seen.add(tensor.dtype)
        return found
