"""The fields that optimizers follow, written from gradients of parts of the training set.

A field is what an optimizer would step along if its batch were the whole training set: ``G(w) = sum_t a_t grad L_t(w + rho_t
g_t / ||g_t||) + weight_decay w`` with ``g_t = grad L_t(w)``. ``L_t`` is the head's, the tail's or the whole loss, as a sum over
its samples divided by the number of all samples, so that ``L_head + L_tail`` is the training objective. The rules differ in
terms and radii (Foret et al. 2021; Zhou et al., ICCV 2023; Lyu et al., AAAI 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..hessian.elsewhere import shifted
from ..hessian.operator import HessianOperator

#: the part that is the whole training set
ALL = "all"


@dataclass(frozen=True)
class Term:
    """``weight grad L_part(w + rho g / ||g||)``, ``g = grad L_part(w)``; part: ``head``, ``tail`` or ``all``."""

    part: str
    rho: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Rule:
    """An optimizer as far as its field goes: ``sgd``, ``sam``, ``imbsam``, ``ssesam-1`` or ``ssesam-2`` (the stage)."""

    name: str
    terms: tuple[Term, ...]

    @property
    def radii(self) -> dict[str, float]:
        """Part -> radius, of the parts that are perturbed."""
        return {term.part: term.rho for term in self.terms if term.rho}


def rules(rho: Mapping[str, float], parts: Sequence[str]) -> list[Rule]:
    """The rules that can be written with these parts, plain gradient descent first.

    Args:
        rho: radius by ``sam``, ``imbsam``, ``ssesam`` (the tail's) and ``ssesam-head`` (the head's, in stage 1); a rule whose
            radius is not there is left out.
        parts: ``head`` and ``tail``, or ``all`` alone.
    """
    found = [Rule("sgd", (Term(ALL),))]
    if "sam" in rho:
        found.append(Rule("sam", (Term(ALL, rho["sam"]),)))
    if "head" in parts and "tail" in parts:
        if "imbsam" in rho:
            found.append(Rule("imbsam", (Term("head"), Term("tail", rho["imbsam"]))))
        if "ssesam" in rho and "ssesam-head" in rho:
            found.append(Rule("ssesam-1", (Term("head", rho["ssesam-head"]), Term("tail", rho["ssesam"]))))
        if "ssesam" in rho:
            found.append(Rule("ssesam-2", (Term("head"), Term("tail", rho["ssesam"]))))
    return found


def trained_rule(training: Mapping[str, Any], shares: Mapping[str, float]) -> Rule | None:
    """The rule that a checkpoint was trained with, as its side-car tells; None where it is not one of :func:`rules`.

    Args:
        training: the side-car's training record: ``optimizer`` or ``rule``, ``optimizer_settings``, ``stage``.
        shares: part -> its share of the training samples.
    """
    name, own = training.get("rule", training.get("optimizer")), training.get("optimizer_settings", {})
    if name == "sgd":
        return Rule("sgd", (Term(ALL),))
    if name == "sam" and "rho" in own:
        return Rule("sam", (Term(ALL, float(own["rho"])),))
    radii = {"imbsam": (0.0, own.get("rho")), "ssesam": (own.get("rho_head"), own.get("rho_tail"))}.get(str(name))
    if radii is None or None in radii or not {"head", "tail"} <= shares.keys():
        return None
    head, tail = map(float, radii)
    stage = training.get("stage") or 1
    if name == "ssesam" and stage == 2:
        head = 0.0
    weights = {"group": (1 / shares["head"], 1 / shares["tail"]), "batch-x2": (1.0, 2.0)}
    of_head, of_tail = weights.get(own.get("normalisation", "batch"), (1.0, 1.0))
    terms = (Term("head", head, of_head), Term("tail", tail, of_tail))
    return Rule("imbsam" if name == "imbsam" else f"ssesam-{stage}", terms)


def with_trained(known: Sequence[Rule], trained: Rule | None) -> list[Rule]:
    """The rules with the one that was trained in the place of its namesake: its own radii, not those of the settings."""
    if trained is None:
        return list(known)
    return [trained if rule.name == trained.name else rule for rule in known] + (
        [trained] if all(rule.name != trained.name for rule in known) else []
    )


class Parts:
    """The parts of a training set, each with its Hessian operator; all of one model.

    Args:
        operators: ``head`` and ``tail``, or ``all`` alone: of the parts' mean losses.
        shares: of the training samples, by part; they sum to 1.
        memory: budget in bytes for the graphs that further operators over them keep; default: a quarter of what is free.
    """

    def __init__(
        self, operators: Mapping[str, HessianOperator], shares: Mapping[str, float], memory: int | None = None
    ) -> None:
        self.operators, self.shares, self.memory = dict(operators), dict(shares), memory
        self.first = next(iter(self.operators.values()))

    def members(self, part: str) -> list[str]:
        """The parts that ``part`` is made of."""
        return list(self.operators) if part == ALL else [part]

    def gradient(self, part: str) -> Tensor:
        """``grad L_part`` at the present weights ``[n]``, the part's share of the objective's."""
        return sum_of([self.shares[name] * self.operators[name].loss_and_gradient()[1] for name in self.members(part)])

    def product(self, part: str, v: Tensor) -> Tensor:
        """``H_part V`` at the present weights, for ``V [n, k]``."""
        return sum_of([self.shares[name] * self.operators[name].matmat(v) for name in self.members(part)])

    def release(self) -> None:
        """Frees kept graphs."""
        for operator in self.operators.values():
            operator.release()


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Their sum."""
    return torch.stack(list(tensors)).sum(0)


def fields(parts: Parts, wanted: Sequence[Rule], weight_decay: float = 0.0) -> dict[str, Tensor]:
    """``G(w)`` of every rule at the present weights ``[n]``, each gradient taken once; the weights are restored to the bit.

    Raises:
        OperatorError: a loss or gradient is not finite, here or at perturbed weights.
    """
    at_w = {name: parts.gradient(name) for name in parts.operators}
    taken: dict[tuple[str, float], Tensor] = {}

    def gradient(part: str, rho: float) -> Tensor:
        plain = sum_of([at_w[name] for name in parts.members(part)])
        norm = float(plain.double().norm())
        if rho == 0 or norm == 0:
            return plain
        if (part, rho) not in taken:
            with shifted(parts.first, plain, rho / norm):
                taken[part, rho] = parts.gradient(part)
        return taken[part, rho]

    decay = weight_decay * parts.first.weights()
    return {rule.name: sum_of([term.weight * gradient(term.part, term.rho) for term in rule.terms]) + decay for rule in wanted}
