"""What an analysis needs of a module: eval mode that leaves no trace, and the parameters to differentiate by."""

from __future__ import annotations

import copy
import fnmatch
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..krylov.linear_operator import OperatorError
from .sharded_models import is_sharded, whole_copy


def copied(model: nn.Module) -> nn.Module:
    """A copy of its own, which the analysis may move and change; whole where the model is spread over processes.

    Raises:
        OperatorError: the model holds something that cannot be copied.
    """
    if is_sharded(model):
        return whole_copy(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance\\(treespec", FutureWarning)  # torch's own, of exported programs
        try:
            with _CopiedActivations():
                return copy.deepcopy(model)
        except (RuntimeError, TypeError, ValueError, AttributeError, copy.Error, pickle.PickleError) as error:
            raise OperatorError(
                f"the model cannot be copied ({type(error).__name__}: {error}): does it hold an open file or a lock?"
            ) from error


class _CopiedActivations(TorchFunctionMode):
    """Inside, ``deepcopy`` copies the values of tensors that were computed, which torch refuses.

    Modules hold such tensors after a forward pass: weights that are made of others, activations that were kept.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return function(*args, **(kwargs or {}))


def without_gradients(compute: Callable[[], Tensor]) -> Tensor:
    """A value computed without recording a graph; with one that is thrown away where the computation differentiates itself."""
    try:
        with torch.no_grad():
            return compute()
    except (RuntimeError, ValueError) as error:  # a ValueError: in the words of the operator
        if "does not require grad" not in str(error):
            raise
    with torch.enable_grad():
        return compute().detach()


@contextmanager
def eager(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, what torch would take a faster kernel for is computed by one that can be differentiated twice.

    Compiled parts run as they are written, and recurrent layers without cuDNN.
    """
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # it is imported, which takes a while, where anything was compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if device.type == "cuda" and any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode and dense gradients of embeddings inside; flags and buffers as before afterwards, also after an exception.

    Flags alone are set: a ``train`` of somebody's own may do more, as that of LoRA layers that add their product to the weight.
    Buffers that are put in another's place come back if they are persistent: others are caches, of which the model knows more.
    """
    flags = [(module, module.training) for module in model.modules()]
    # Sparse gradients have no second derivative; dense ones hold the same numbers.
    sparse = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    places = [(module, name, buffer) for module, _ in flags for name, buffer in module.named_buffers(recurse=False)]
    # Transformer encoders take another path without gradients, which leaves zeros where the padding is.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for module, _ in flags:
            module.training = False
        for embedding in sparse:
            embedding.sparse = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, flag in flags:
            module.training = flag
        for embedding in sparse:
            embedding.sparse = True
        for module, name, buffer in places:
            if name not in module._non_persistent_buffers_set and getattr(module, name, None) is not buffer:
                setattr(module, name, buffer)
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def matching_parameters(model: nn.Module, pattern: str | None = None) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters with ``requires_grad`` of which a name matches one of the comma-separated glob patterns.

    A parameter that is in several modules has several names, and comes with the first.

    Raises:
        OperatorError: nothing matches one of them. It would be left out without a word: a misspelt name among several is
            another block of the Hessian.
    """
    free: dict[nn.Parameter, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if p.requires_grad:
            free.setdefault(p, []).append(name)
    globs = [part.strip() for part in pattern.split(",")] if pattern else ["*"]
    for glob in globs:
        if not any(_matches(names, glob) for names in free.values()):
            known = ", ".join(names[0] for names in list(free.values())[:12]) + (" ..." if len(free) > 12 else "")
            raise OperatorError(f"no parameter with requires_grad matches '{glob}'; there are: {known or 'none'}")
    return [(names[0], p) for p, names in free.items() if any(_matches(names, glob) for glob in globs)]


def _matches(names: list[str], glob: str) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for name in names)


def select_parameters(model: nn.Module, pattern: str | None = None) -> tuple[list[str], list[nn.Parameter]]:
    """Those of ``matching_parameters``, fit for an operator.

    Raises:
        OperatorError: nothing matches a pattern, dtypes or devices are mixed, or a weight is not finite.
    """
    chosen = matching_parameters(model, pattern)
    kinds = {(p.dtype, p.device) for _, p in chosen}
    if len(kinds) > 1:
        raise OperatorError(
            f"parameters of different dtype or device ({sorted(map(str, kinds))}); move the model to one of each"
        )
    for name, p in chosen:
        if not bool(torch.isfinite(p).all()):
            raise OperatorError(f"parameter '{name}' holds NaN or infinity: the checkpoint is of a run that diverged")
    return [name for name, _ in chosen], [p for _, p in chosen]
