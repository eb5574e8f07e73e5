"""What an analysis will take, measured on one Hessian-vector product, before it is begun."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..checkpoints.analysis_inputs import Given, open_checkpoint
from ..hessian.difference_products import DifferenceOperator
from ..hessian.modules import copied
from ..hessian.operator import HessianOperator
from ..krylov.linear_operator import NoSecondDerivativeError
from ..records.study_plan import CurvatureItem
from ..samples.groups import group_indices, scheme_of
from ..samples.memory import free_bytes

#: products beside the Lanczos steps: noise (3), additivity, Rayleigh quotients, certificate
EXTRA = 8
#: products are timed on at most so many samples and scaled
SAMPLE = 512


@dataclass(frozen=True)
class GroupCost:
    """What one group takes, at most."""

    group: str
    samples: int
    seconds_a_product: float
    products: int
    minutes: float
    graph_bytes: int


@dataclass(frozen=True)
class Cost:
    """What the analysis of one checkpoint takes, at most, and how many checkpoints there are.

    Attributes:
        basis_bytes: of the Krylov basis of one start.
        graph_budget_bytes: graphs are kept up to here and recomputed beyond.
    """

    checkpoint: str
    checkpoints: int
    starts: int
    steps: int
    parameters: int
    basis_bytes: int
    graph_budget_bytes: int
    groups: list[GroupCost]

    @property
    def minutes(self) -> float:
        """Of one checkpoint."""
        return sum(group.minutes for group in self.groups)

    def record(self) -> dict[str, object]:
        """For ``--dry-run --json``."""
        return asdict(self) | {"minutes": self.minutes, "minutes_in_all": self.minutes * self.checkpoints}


def measure_cost(item: CurvatureItem, given: Given, count: int = 1) -> Cost:
    """Measures one product a group; stores nothing.

    Args:
        item: the first checkpoint.
        given: what the command line says about it.
        count: how many checkpoints there are.
    """
    subject = open_checkpoint(item.checkpoint, given)
    settings = item.settings.with_groups_of(subject.groups)
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    scheme = scheme_of(settings, subject.samples.class_counts)
    model = copied(subject.model).to(device, dtype)
    groups, parameters = [], 0
    for name, indices in group_indices(scheme, subject.samples.labels).items():
        size = len(indices) if settings.subsample is None else min(len(indices), settings.subsample)
        part = indices[np.linspace(0, len(indices) - 1, min(size, SAMPLE)).astype(int)]
        kind = DifferenceOperator if settings.products == "differences" else HessianOperator
        operator: HessianOperator = kind(model, subject.samples.subset(part), subject.loss, params=settings.params)
        parameters = operator.size
        exact = settings.engine == "exact"
        products = parameters if exact else settings.starts * min(settings.steps, parameters) + EXTRA
        v = torch.ones(operator.size, dtype=dtype, device=device)
        try:
            operator.matvec(v)
        except NoSecondDerivativeError:
            if settings.products != "auto":
                raise
            operator = DifferenceOperator(model, subject.samples.subset(part), subject.loss, params=settings.params)
            operator.matvec(v)
        began = time.perf_counter()
        operator.matvec(v)
        seconds = (time.perf_counter() - began) * size / len(part)
        memory = operator.kept_bytes * size // len(part)
        groups.append(GroupCost(name, size, seconds, products, seconds * products / 60, memory))
        operator.release()
    return Cost(
        checkpoint=str(item.checkpoint),
        checkpoints=count,
        starts=settings.starts,
        steps=settings.steps,
        parameters=parameters,
        basis_bytes=settings.steps * parameters * torch.finfo(dtype).bits // 8,
        graph_budget_bytes=settings.memory or free_bytes(device) // 2,
        groups=groups,
    )


def print_cost(cost: Cost) -> None:
    """Prints time and memory of one checkpoint's analysis and of all of them."""
    title = f"{Path(cost.checkpoint).name}: at most {cost.starts} x {cost.steps} Lanczos steps a group"
    table = Table(title=escape(title))
    for heading in ("group", "samples", "seconds a product", "products, at most", "minutes, at most", "graph memory"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for group in cost.groups:
        table.add_row(
            escape(group.group),
            str(group.samples),
            f"{group.seconds_a_product:.3g}",
            str(group.products),
            f"{group.minutes:.3g}",
            f"{group.graph_bytes / 2**20:,.0f} MiB",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{cost.parameters:,} parameters; Krylov basis {cost.basis_bytes / 2**20:,.0f} MiB; graphs are kept up to "
        f"{cost.graph_budget_bytes / 2**20:,.0f} MiB, recomputed beyond. At most {cost.minutes:.2g} minutes a checkpoint, "
        f"{cost.minutes * cost.checkpoints:.2g} for all {cost.checkpoints}."
    )
