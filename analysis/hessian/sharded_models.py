"""Models whose weights are spread over processes: FSDP2 (``fully_shard``), tensor parallel, anything else that makes DTensors.

``torch.distributed`` is imported only where a process group exists: no model is sharded without one.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..krylov.linear_operator import OperatorError


def is_sharded(model: nn.Module) -> bool:
    """Whether a weight of the model is spread over processes, or would be if it were not gathered now."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    return any(_is_fsdp(module) for module in model.modules()) or any(map(is_dtensor, model.parameters()))


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def reshard(model: nn.Module) -> None:
    """Lets go of the gathered weights of all FSDP2 modules: those that are spread are the model's."""
    for module in model.modules():
        if _is_fsdp(module):
            module.reshard()  # type: ignore[operator]


def whole_copy(model: nn.Module) -> nn.Module:
    """A plain module with the gathered weights of an FSDP2 model, in every process; the model itself is left as it is.

    Every process must call it. Exact products are those of this copy: a backward pass that gathers and frees weights on its way
    cannot be differentiated again.

    Raises:
        OperatorError: weights are spread by something else than FSDP2, whose hooks a copy would need.
    """
    reshard(model)
    memo: dict[int, Any] = {}
    inside = {id(p) for module in model.modules() if _is_fsdp(module) for p in module.parameters()}
    for name, p in model.named_parameters():
        if is_dtensor(p):
            if id(p) not in inside or _is_tensor_parallel(p):
                raise OperatorError(
                    f"parameter '{name}' is spread over processes by something else than fully_shard, such as tensor "
                    "parallelism: exact products need whole weights; take differences of the gradient "
                    "(ShardedDifferenceOperator)"
                )
            full = p.full_tensor()  # type: ignore[attr-defined]
            memo[id(p)] = nn.Parameter(full.detach().clone(), requires_grad=p.requires_grad)
    for module in reversed(list(model.modules())):  # children before their parents, which then find them in the memo
        kind = type(module).__mro__[2] if _is_fsdp(module) else type(module)
        plain: nn.Module = object.__new__(kind)
        state = {
            key: _without_fsdp(value) if key.endswith("_hooks") else value
            for key, value in module.__dict__.items()
            if not key.startswith("__composable_api")
        }
        plain.__dict__.update(copy.deepcopy(state, memo))
        memo[id(module)] = plain
    found: nn.Module = memo[id(model)]
    return found


def whole(model: nn.Module) -> nn.Module:
    """The model, or its :func:`whole_copy` where it is sharded."""
    return whole_copy(model) if is_sharded(model) else model


def local(p: Tensor) -> Tensor:
    """This process's part of a parameter, which shares its memory; all of a plain one."""
    if not is_dtensor(p):
        return p.detach()
    with torch.no_grad():
        found: Tensor = p.to_local()  # type: ignore[attr-defined]
    return found


def local_gradient(p: Tensor) -> Tensor:
    """This process's part of a parameter's gradient, spread as the parameter is; zeros where it has none.

    Tensor parallel layers may leave it as sums that are still to be added up.
    """
    if p.grad is None:
        return torch.zeros_like(local(p))
    gradient = p.grad
    if is_dtensor(p) and gradient.placements != p.placements:  # type: ignore[attr-defined]
        gradient = gradient.redistribute(placements=p.placements)  # type: ignore[attr-defined]
    return local(gradient).clone()


def ranges_of(p: Tensor, name: str) -> tuple[list[tuple[int, int]], int]:
    """Where a parameter's part lies among its numbers in order, and how many processes hold this part.

    A plain parameter is whole in all of them.

    Raises:
        OperatorError: it is spread in a way that is not understood here.
    """
    from torch.distributed.tensor import Replicate, Shard

    if not is_dtensor(p):
        return [(0, p.numel())], torch.distributed.get_world_size()
    mesh, shape = p.device_mesh, list(p.shape)  # type: ignore[attr-defined]
    begins, holders = [0] * len(shape), 1
    known = mesh.size() == torch.distributed.get_world_size() and mesh.get_coordinate() is not None
    for dimension, placement in enumerate(p.placements):  # type: ignore[attr-defined]
        parts = mesh.size(dimension)
        if type(placement) is Replicate:
            holders *= parts
        elif type(placement) is Shard and known:
            at, of = mesh.get_coordinate()[dimension], shape[placement.dim]
            each = -(-of // parts)
            begins[placement.dim] += min(at * each, of)
            shape[placement.dim] = max(min((at + 1) * each, of) - at * each, 0)
        else:
            known = False
    if not known or tuple(shape) != tuple(local(p).shape):
        how = p.placements  # type: ignore[attr-defined]
        raise OperatorError(
            f"parameter '{name}' is spread in a way that is not understood here ({how} over {mesh.size()} of "
            f"{torch.distributed.get_world_size()} processes): plain Shard and Replicate over all processes are"
        )
    return list(_runs(list(p.shape), begins, shape)), holders


def _runs(whole: list[int], begins: list[int], shape: list[int]) -> Iterator[tuple[int, int]]:
    """Stretches of consecutive numbers of a block of a tensor."""
    if math.prod(shape) == 0:
        return
    cut = max((d for d in range(len(whole)) if shape[d] != whole[d]), default=0)
    after = [math.prod(whole[d + 1 :]) for d in range(len(whole))]
    length = math.prod(shape[cut:])
    leading = [range(begins[d], begins[d] + shape[d]) for d in range(cut)]
    for index in itertools.product(*leading):
        begin = sum(i * after[d] for d, i in enumerate(index))
        begin += begins[cut] * after[cut] if whole else 0
        yield begin, begin + length


def _is_fsdp(module: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def _is_tensor_parallel(p: Tensor) -> bool:
    # FSDP2 spreads over one dimension of a mesh, and repeats over the other if there are two.
    from torch.distributed.tensor import Shard

    return sum(isinstance(placement, Shard) for placement in p.placements) != 1  # type: ignore[attr-defined]


def _without_fsdp(hooks: Any) -> Any:
    """The hooks of a module that are not FSDP2's."""
    kept = ((key, hook) for key, hook in hooks.items() if not str(hook.__module__).startswith("torch.distributed.fsdp"))
    return type(hooks)(kept)
