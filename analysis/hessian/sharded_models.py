"""Models whose weights are spread over processes: FSDP2 (``fully_shard``), tensor parallel, anything else that makes DTensors.

What torch has for them is imported only where there is one.
"""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..krylov.linear_operator import OperatorError


def processes() -> int:
    """How many there are."""
    return torch.distributed.get_world_size() if torch.distributed.is_available() and torch.distributed.is_initialized() else 1


def is_sharded(model: nn.Module) -> bool:
    """Whether a weight of the model is spread over processes, or would be if it were not gathered now."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    return any(_is_fsdp(module) for module in model.modules()) or any(map(is_dtensor, model.parameters()))


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes."""
    return _is_of("torch.distributed.tensor", "DTensor", tensor)


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


def shares_samples(model: nn.Module) -> bool:
    """Whether the processes of a sharded model have samples of their own (``fully_shard``), or all the same (tensor parallel).

    Raises:
        OperatorError: some layers are spread by one and some by the other, or over some of the processes only.
    """
    if not any(map(_is_fsdp, model.modules())):
        return False
    world = torch.distributed.get_world_size()
    for name, p in model.named_parameters():
        if not is_dtensor(p) or p.device_mesh.size() != world or _is_tensor_parallel(p):  # type: ignore[attr-defined]
            raise OperatorError(
                f"parameter '{name}' is not spread by fully_shard over all {world} processes: which of them share samples is "
                "not known then; ShardedDifferenceOperator is told so"
            )
    return True


def cut_like(whole: Tensor, p: Tensor) -> Tensor:
    """A whole tensor that every process has, spread as ``p`` is: nothing is sent."""
    if not is_dtensor(p):
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = p.device_mesh, p.placements  # type: ignore[attr-defined]
    spread: Tensor = distribute_tensor(whole.to(mesh.device_type, p.dtype), mesh, placements, src_data_rank=None)
    return spread


def whole(model: nn.Module) -> nn.Module:
    """The model, or its :func:`whole_copy` where it is sharded."""
    return whole_copy(model) if is_sharded(model) else model


def local(p: Tensor) -> Tensor:
    """This process's part of a tensor, which shares its memory; all of one that is not spread."""
    with torch.no_grad():
        found: Tensor = p.to_local() if is_dtensor(p) else p.detach()  # type: ignore[attr-defined]
    return found


def gradient_part(p: Tensor) -> Tensor:
    """A copy of this process's part of a parameter's gradient, spread as the parameter is; zeros where it has none.

    The gradient of a weight that all processes hold may be a sum of which each has one term: that of a layer norm whose inputs
    are spread, say. Every process must call it.
    """
    gradient = p.grad
    if gradient is None:
        return torch.zeros_like(local(p))
    if is_dtensor(gradient) and gradient.placements != p.placements:  # type: ignore[attr-defined]
        gradient = gradient.redistribute(placements=p.placements)  # type: ignore[attr-defined]
    return local(gradient).clone()


def ranges_of(p: Tensor, name: str) -> tuple[list[tuple[int, int]], int]:
    """Where a parameter's part lies among its numbers in order, and how many processes hold this part.

    Raises:
        OperatorError: it is spread in a way that is not understood here.
    """
    world = torch.distributed.get_world_size()
    if not is_dtensor(p):
        return ([(0, p.numel())] if p.numel() else []), world
    mesh, placements = p.device_mesh, p.placements  # type: ignore[attr-defined]
    cuts = [getattr(placement, "dim", None) for placement in placements]
    known = mesh.get_coordinate() is not None and world % mesh.size() == 0
    known = known and all(placement.is_replicate() or cut is not None for placement, cut in zip(placements, cuts, strict=True))
    indices = [_indices(p, d) for d in range(p.dim())] if known else []
    if not known or [len(index) for index in indices] != list(local(p).shape) or not all(map(_ascending, indices)):
        raise OperatorError(
            f"parameter '{name}' is spread in a way that is not understood here ({placements} over {mesh.size()} of "
            f"{world} processes): Shard and Replicate over all processes, or over equal parts of them, are"
        )
    holders = world // mesh.size() * math.prod(mesh.size(k) for k, cut in enumerate(cuts) if cut is None)
    return list(_runs(list(p.shape), indices)), holders


def _indices(p: Tensor, d: int) -> list[int]:
    """Which rows of dimension d are here; torch cuts a tensor of their numbers as it cuts the parameter."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = p.device_mesh  # type: ignore[attr-defined]
    shape = [1] * p.dim()
    shape[d] = p.shape[d]
    everywhere = [Replicate()] * mesh.ndim
    rows = DTensor.from_local(torch.arange(p.shape[d], device=mesh.device_type).view(shape), mesh, everywhere, run_check=False)
    as_cut = [one if getattr(one, "dim", None) == d else Replicate() for one in p.placements]  # type: ignore[attr-defined]
    found: list[int] = rows.redistribute(placements=as_cut).to_local().reshape(-1).tolist()
    return found


def _ascending(index: list[int]) -> bool:
    return all(one < other for one, other in itertools.pairwise(index))


def _runs(whole: list[int], indices: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Stretches of consecutive numbers of the part of a tensor that has some of its rows in every dimension."""
    if not all(indices):
        return
    if not whole:
        yield 0, 1
        return
    cut = max((d for d, index in enumerate(indices) if len(index) != whole[d]), default=0)
    after = [math.prod(whole[d + 1 :]) for d in range(len(whole))]
    breaks = [k for k in range(1, len(indices[cut])) if indices[cut][k] != indices[cut][k - 1] + 1]
    ends = itertools.pairwise([0, *breaks, len(indices[cut])])
    stretches = [(indices[cut][begin], indices[cut][to - 1] + 1) for begin, to in ends]
    for row in itertools.product(*indices[:cut]):
        place = sum(i * after[d] for d, i in enumerate(row))
        yield from ((place + begin * after[cut], place + to * after[cut]) for begin, to in stretches)


def _is_fsdp(module: nn.Module) -> bool:
    return _is_of("torch.distributed.fsdp", "FSDPModule", module)


def _is_of(home: str, kind: str, thing: object) -> bool:
    # Nothing is of a class that nobody has imported; importing these two takes as long as a small analysis.
    module = sys.modules.get(home)
    return module is not None and isinstance(thing, getattr(module, kind))


def _is_tensor_parallel(p: Tensor) -> bool:
    # FSDP2 spreads over one dimension of a mesh, and repeats over the other if there are two.
    return sum(not placement.is_replicate() for placement in p.placements) != 1  # type: ignore[attr-defined]


def _without_fsdp(hooks: Any) -> Any:
    """The hooks of a module that are not FSDP2's."""
    kept = ((key, hook) for key, hook in hooks.items() if not str(hook.__module__).startswith("torch.distributed.fsdp"))
    return type(hooks)(kept)
