"""The training objective of one analysis: its parts as optimizers part them, and the rates and steps that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..hessian.operator import HessianOperator, Reduce
from ..records.saddles import EscapeRate, NetRate
from ..records.settings import AnalysisSettings
from ..records.spectra import Extreme
from ..samples.memory import graph_budget
from ..samples.provenance import Source
from ..samples.samples import Samples
from .escape_rates import as_rate, escape_rates, net_rate, objective_curvature
from .optimizer_fields import Parts, Rule, rules, trained_rule, with_trained
from .subsampling import looked_at

#: with more groups than these a field over all samples, for every group, would cost more than all the rest
MOST_GROUPS = 6
#: Steps of a net rate's Lanczos run, at most.
NET_STEPS = 60


def training_parts(class_counts: Sequence[int] | np.ndarray, eta: float | None) -> dict[str, list[int]]:
    """Classes of the head and of the tail, as ImbSAM and SSE-SAM part them; ``all`` alone where they cannot be parted.

    Args:
        class_counts: training samples ``[C]``.
        eta: a class with fewer is tail; None: not known.
    """
    present = [c for c, n in enumerate(class_counts) if n > 0]
    tail = [c for c in present if eta is not None and class_counts[c] < eta]
    head = [c for c in present if c not in tail]
    return {"head": head, "tail": tail} if head and tail else {"all": present}


class Objective:
    """What was trained on, seen as one function of the weights.

    Args:
        samples: all of them.
        settings: of the analysis.
        source: what the side-car tells of the training.
        shared: this process' share of some samples, and how it adds up with the others'.
        groups: names of the groups that are measured. Rates are of the whole objective: without being asked for they are taken
            only where the group of all samples is.
    """

    def __init__(
        self,
        samples: Samples,
        settings: AnalysisSettings,
        source: Source,
        shared: Callable[[np.ndarray], tuple[Samples, Reduce | None]],
        groups: Sequence[str],
    ) -> None:
        self.settings, self._shared = settings, shared
        eta = settings.eta if settings.eta is not None else source.objective.get("eta")
        classes = training_parts(samples.class_counts, eta)
        indices = {name: np.flatnonzero(np.isin(samples.labels, members)) for name, members in classes.items()}
        self.shares = {name: len(rows) / samples.num_samples for name, rows in indices.items()}
        self._indices = {name: looked_at(rows, settings.subsample, settings.seed) for name, rows in indices.items()}
        told = settings.weight_decay
        self.weight_decay = float(told if told is not None else source.objective.get("weight_decay", 0.0))
        self.trained: Rule | None = trained_rule(source.training or {}, self.shares)
        self.rules: list[Rule] = with_trained(rules(settings.rho, list(classes)), self.trained)
        few = len(groups) <= MOST_GROUPS and "all" in groups and settings.goal == "spectrum"
        self.wants_rates = settings.escape and (settings.rates if settings.rates is not None else few)
        self.wants_net = settings.net_rates or ("own" if self.wants_rates else "none")

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of each part that are looked at."""
        return {name: len(rows) for name, rows in self._indices.items()}

    @property
    def chosen(self) -> list[Rule]:
        """The rules whose net rates are wanted."""
        own = self.trained.name if self.trained is not None else None
        return [rule for rule in self.rules if self.wants_net == "all" or rule.name in ("sgd", own)]

    def parts(self, base: HessianOperator, memory: int | None = None) -> Parts:
        """The parts over the model of ``base``, any operator of it."""
        return Parts({name: base.over(*self._shared(rows)) for name, rows in self._indices.items()}, self.shares, memory)

    def escape_rates(self, base: HessianOperator, v: Tensor) -> tuple[list[EscapeRate], float]:
        """The rates of every rule along v, and the objective's curvature there; ``base``: preferably in float64.

        Raises:
            OperatorError: a loss or gradient nearby is not finite.
        """
        parts = self.parts(base)
        rates = escape_rates(parts, v, self.rules, weight_decay=self.weight_decay)
        return rates, objective_curvature(parts, v, self.weight_decay)

    def net_rates(
        self, operator_of: Callable[[np.ndarray, int | None], HessianOperator], whole: Extreme | None
    ) -> list[NetRate]:
        """Net rates of SGD's field and of the trained optimizer's, or of every rule's.

        Args:
            operator_of: makes the operator over some samples, within a budget for its graphs.
            whole: smallest eigenvalue of the whole loss, where it is known: that of plain gradient descent.

        Raises:
            OperatorError: a product is not finite.
        """
        if self.wants_net == "none":
            return []
        found = []
        for rule in self.chosen:
            if rule.name == "sgd" and whole is not None:
                found.append(as_rate(rule, whole, self.weight_decay))
                continue
            budget = self.settings.memory
            if budget is None:
                budget = graph_budget(torch.device(self.settings.device))
            each = budget // (2 * len(self._indices))  # at w, and once more at the perturbed weights
            parts = self.parts(operator_of(next(iter(self._indices.values())), each), each)
            found.append(
                net_rate(
                    parts,
                    rule,
                    weight_decay=self.weight_decay,
                    steps=min(self.settings.steps, NET_STEPS),
                    delta=self.settings.delta,
                    seed=self.settings.seed,
                )
            )
        return found
