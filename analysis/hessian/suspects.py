"""Who may be to blame where a derivative is not one: what the model holds that is known for it, by name."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from .elsewhere import GroupHessian
from .gradients import all_nodes

#: what torch says of a checkpointed part whose weights get no gradient
CUT_OFF = "None of the inputs have requires_grad=True"


def likely_causes(operator: GroupHessian, *, second: bool) -> str:
    """What to look at first, and what to do about it.

    Args:
        operator: of the model; one forward pass is recorded.
        second: the gradient is right and its derivative is not; else the gradient itself is not the loss's derivative.
    """
    found = []
    custom, cut = custom_functions(operator), _is_cut_off(operator)
    if "CheckpointFunction" in custom or cut:
        what = ", which gives weights no gradient where its inputs need none" if cut else ""
        found.append(f"reentrant checkpointing{what}: call checkpoint with use_reentrant=False")
        custom = [name for name in custom if name != "CheckpointFunction"]
    if custom:
        advice = "differentiates what forward computed, from its saved inputs, not a derivative saved there" if second else "is"
        fix = f"see that its backward {advice}" if second else "its backward is not the derivative of its forward"
        found.append(f"the custom autograd function {listed(custom)} ({fix})")
    computed = computed_weights(operator.model)
    if computed:
        found.append(f"the weights computed by {listed(computed)}")
    compiled = [name or type(module).__name__ for name, module in operator.model.named_modules() if _is_compiled(module)]
    if compiled:
        found.append(f"the compiled or scripted part {listed(compiled)}")
    if not found:
        kind = "a fused kernel or hook with a wrong second derivative, or a factor that is detached from the graph"
        first = "detach() in model or loss, a straight-through estimator, a gradient that is scaled or reversed, or a hook"
        found.append(kind if second else first)
    return "; ".join(found)


def strange_weights(operator: GroupHessian, gradient: torch.Tensor) -> list[str]:
    """Names of parameters that the loss does not depend on, though it does on twins of theirs that are not in the model.

    A copied model computes with the weights of the one that it was copied from where a function that belongs to that one was
    copied along, as a compiled ``forward`` is.

    Args:
        operator: of the model.
        gradient: of its loss ``[n]``.
    """
    parts = gradient.split([p.numel() for p in operator.parameters])
    unused = [p for p, part in zip(operator.parameters, parts, strict=True) if not bool(part.any())]
    if not unused:
        return []
    own = {id(p) for p in operator.model.parameters()}
    leaves = (getattr(node, "variable", None) for node in all_nodes(operator.recorded_loss()))
    others = [leaf.detach() for leaf in leaves if leaf is not None and id(leaf) not in own]
    twins = {id(p) for p in unused for one in others if one.shape == p.shape and torch.equal(one.to(p.dtype), p.detach())}
    return [name for name, p in operator.model.named_parameters() if id(p) in twins]


def custom_functions(operator: GroupHessian) -> list[str]:
    """Names of the ``torch.autograd.Function`` classes in the plain graph of the loss, in which there are none of ours."""
    nodes = all_nodes(operator.recorded_loss())
    return sorted({type(node).__name__.removesuffix("Backward") for node in nodes if isinstance(node, BackwardCFunction)})


def computed_weights(model: nn.Module) -> list[str]:
    """Parametrizations and old-style weight norms, as ``name (class)``."""
    found = []
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            kinds = {type(one).__name__.strip("_") for steps in module.parametrizations.values() for one in steps}
            found.append(f"{name or 'the model'} ({', '.join(sorted(kinds))})")
        elif any(isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values()):
            found.append(f"{name or 'the model'} (weight_norm)")
    return found


def stale_statistics(model: nn.Module) -> list[str]:
    """A warning about trained BatchNorms with the running statistics of the first day: weights were averaged, buffers not."""
    stale = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and _is_stale(module)]
    if not stale:
        return []
    return [
        f"the running statistics of BatchNorm {listed(stale)} are mean 0 and variance 1 and were never updated, though its "
        "weights were: an averaged model needs torch.optim.swa_utils.update_bn before it is analysed"
    ]


def _is_stale(norm: _BatchNorm) -> bool:
    mean, variance, updates = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or variance is None or updates is None or int(updates):
        return False
    untouched = bool((mean == 0).all()) and bool((variance == 1).all())
    fresh = ((norm.weight, 1), (norm.bias, 0))  # one of them may be left out
    return untouched and any(p is not None and not bool((p == value).all()) for p, value in fresh)


def _is_cut_off(operator: GroupHessian) -> bool:
    """Whether reentrant checkpointing says that it gives weights no gradient: those of a model's first part, mostly."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        operator.recorded_loss()
    return any(CUT_OFF in str(warning.message) for warning in said)


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod")


def listed(names: list[str]) -> str:
    """The first three, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
