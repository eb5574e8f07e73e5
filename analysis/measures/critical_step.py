"""How long a step may be before it hurts a class group: forward passes only.

The critical step of a group along an update d is the smallest ``eta > 0`` with ``L_g(w - eta d) > L_g(w)``; ``2 / eta`` is the
critical sharpness ("A Scalable Measure of Loss Landscape Curvature", arXiv 2601.16979, 2026), here per class group: with d the
head's part of a step and g the tail, the learning rate at which the head starts to hurt the tail. Updates are in the units of
a training step, so that eta is compared with the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..hessian.elsewhere import shifted
from ..hessian.operator import HessianOperator
from ..records.steps import CriticalStep, GroupSteps
from .measurement import Measurement
from .optimizer_fields import Parts, Rule, fields
from .subsampling import looked_at

#: What is looked at, as the length ``eta ||d||`` of the step relative to the norm of the weights: first, at most, at least.
FIRST, LONGEST, SHORTEST = 2.0**-10, 8.0, 2.0**-30
#: Bisection ends when the bracket's ends differ by this, relative to the lower one.
WIDTH = 2.0**-4
#: A loss is higher where it is by more than so many roundings of the operator's precision.
ROUNDINGS = 16


def critical_step(higher: Callable[[float], bool], first: float, longest: float, shortest: float) -> tuple[float, float | None]:
    """The bracket ``(low, high)`` of the smallest eta at which ``higher(eta)``, by doubling and bisection.

    A loss that rises and falls again between two doublings is not noticed.

    Args:
        higher: whether the loss is higher there; costs a forward pass.
        first: tried first.
        longest: where nothing is higher up to here, ``high`` is None and ``low`` the largest eta tried.
        shortest: where all is higher down to here, ``low`` is 0.
    """
    low, high = 0.0, first
    if higher(first):
        while high > shortest:
            low = high / 2
            if not higher(low):
                break
            low, high = 0.0, low
        if low == 0.0:
            return 0.0, high
    else:
        low = first
        while True:
            high = min(2 * low, longest)
            if higher(high):
                break
            if high >= longest:
                return high, None
            low = high
    while high - low > WIDTH * low:
        middle = (low + high) / 2
        low, high = (low, middle) if higher(middle) else (middle, high)
    return low, high


def updates(parts: Parts, rules: list[Rule], weight_decay: float) -> dict[str, Tensor]:
    """The updates that are tried: the step of every rule, weight decay included, and the head's part of the plain step."""
    found = fields(parts, rules, weight_decay)
    if "head" in parts.operators:
        found["head"] = parts.gradient("head")
    return found


def group_steps(operator: HessianOperator, gradient: Tensor, loss: float, tried: Mapping[str, Tensor]) -> list[CriticalStep]:
    """Critical steps of one group along each update; the weights are restored to the bit.

    Args:
        operator: of the group.
        gradient: of its mean loss ``[n]``.
        loss: its mean loss.
        tried: update by name, ``[n]``.
    """
    size = float(operator.weights().double().norm())
    bar = loss + ROUNDINGS * torch.finfo(operator.dtype).eps * abs(loss)
    found = []
    for name, update in tried.items():
        norm = float(update.double().norm())
        slope = float(torch.dot(update.double(), gradient.double()))
        if norm == 0 or size == 0:
            continue
        if slope < 0:  # the loss rises to first order
            found.append(CriticalStep(update=name, step=0.0, bracket=(0.0, 0.0), slope=slope, norm=norm, longest=0.0))
            continue

        def higher(eta: float, update: Tensor = update) -> bool:
            with shifted(operator, update, -eta):
                there = operator.mean_loss()
            return not math.isfinite(there) or there > bar

        unit = size / norm
        low, high = critical_step(higher, FIRST * unit, LONGEST * unit, SHORTEST * unit)
        found.append(CriticalStep(update=name, step=high, bracket=(low, high), slope=slope, norm=norm, longest=LONGEST * unit))
    return found


def measure_steps(work: Measurement) -> dict[str, GroupSteps]:
    """From which learning rate on a step hurts each group, for the steps of every rule, the head's and the group's own.

    Args:
        work: what the groups share.
    """
    settings, objective = work.settings, work.objective
    rows = {name: looked_at(work.indices[name], settings.subsample, settings.seed) for name in work.names}
    first = work.operator(rows[work.names[0]])
    work.parameters = first.size
    tried = updates(objective.parts(first), objective.rules, objective.weight_decay)
    found: dict[str, GroupSteps] = {}
    for name in work.names:
        operator = first.over(*work.shared(rows[name]))
        mean, gradient = operator.loss_and_gradient()
        mine = {update: d for update, d in tried.items() if update != name}  # the head's own is its part of a step
        if name != "all":
            mine["own"] = len(work.indices[name]) / work.subject.samples.num_samples * gradient
        found[name] = GroupSteps(
            size=operator.num_samples,
            loss=mean,
            gradient_norm=float(gradient.double().norm()),
            steps=group_steps(operator, gradient, mean, mine),
        )
    return found
