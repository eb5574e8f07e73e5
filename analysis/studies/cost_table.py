"""What an analysis will take, as it is said: a record of it, and a table."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .memory_cost import free_on_disk


@dataclass(frozen=True)
class GroupCost:
    """What one group takes.

    Attributes:
        samples: that a product is over.
        subsets: disjoint subsets that are measured instead of the whole group; 1: the group itself.
        seconds_a_product: in the settings' precision, graphs kept where they fit.
        seconds_in_float64: of two products that share a graph, for the recheck; 0 where there is none.
        products: at most, of all subsets.
        minutes: as many Lanczos steps as are usual, between the least and the most.
        minutes_at_most: all Lanczos steps done, and curvature found negative.
        graph_bytes: kept graphs.
        memory_bytes: resident at the largest, after as many steps as are usual.
        memory_bytes_at_most: after all steps.
        disk_bytes: of the Krylov basis, at most, what goes to a file.
        memory_bytes_unchecked: after all steps, of a process whose turn of the float64 checks it is not.
        minutes_at_least: the fewest Lanczos steps done, as where a verdict is plain at once.
    """

    group: str
    samples: int
    subsets: int
    seconds_a_product: float
    seconds_in_float64: float
    products: int
    minutes: float
    minutes_at_most: float
    graph_bytes: int
    memory_bytes: int
    memory_bytes_at_most: int
    disk_bytes: int
    memory_bytes_unchecked: int
    minutes_at_least: float


@dataclass(frozen=True)
class Cost:
    """What the analysis of one checkpoint takes, and how many checkpoints there are.

    Attributes:
        basis_bytes: of the Krylov basis of one start.
        graph_budget_bytes: graphs are kept up to here and recomputed beyond.
        processes: that share the samples; time and memory are of one.
        slices: processes that each vector is spread over.
        message_bytes: that each sends for a product, which no time here counts.
        start_minutes: of the process until it opens the first checkpoint: imports.
        shared_minutes: of what is done once for all groups: reading, a pass over the data, net rates.
    """

    checkpoint: str
    checkpoints: int
    starts: int
    steps: int
    parameters: int
    basis_bytes: int
    graph_budget_bytes: int
    groups: list[GroupCost]
    shared_minutes: float = 0.0
    start_minutes: float = 0.0
    processes: int = 1
    slices: int = 1
    message_bytes: int = 0

    @property
    def minutes(self) -> float:
        """Of one checkpoint, as it usually goes."""
        return self.shared_minutes + sum(group.minutes for group in self.groups)

    @property
    def minutes_at_least(self) -> float:
        """Of one checkpoint whose every run stops as early as it may."""
        return self.shared_minutes + sum(group.minutes_at_least for group in self.groups)

    @property
    def minutes_at_most(self) -> float:
        """Of one checkpoint whose every run takes all its steps."""
        return self.shared_minutes + sum(group.minutes_at_most for group in self.groups)

    @property
    def minutes_in_all(self) -> float:
        """Of all checkpoints, one after another, with the start of the process."""
        return self.start_minutes + self.minutes * self.checkpoints

    @property
    def memory_bytes(self) -> int:
        """Resident at the largest, in one process."""
        return max(group.memory_bytes for group in self.groups)

    @property
    def memory_bytes_at_most(self) -> int:
        """The same after all steps."""
        return max(group.memory_bytes_at_most for group in self.groups)

    @property
    def memory_bytes_together(self) -> int:
        """Of all processes on one machine at most, one of which takes its float64 check (``hessian.turns``)."""
        return max(group.memory_bytes_at_most + (self.processes - 1) * group.memory_bytes_unchecked for group in self.groups)

    @property
    def disk_bytes(self) -> int:
        """Of the Krylov basis, at most, what goes to a file for temporary files."""
        return max(group.disk_bytes for group in self.groups)

    def record(self) -> dict[str, object]:
        """For ``--dry-run --json``."""
        total: dict[str, object] = {"minutes": self.minutes}
        names = ["minutes_at_least", "minutes_at_most", "memory_bytes", "memory_bytes_at_most", "memory_bytes_together"]
        total |= {name: getattr(self, name) for name in [*names, "disk_bytes"]}
        return asdict(self) | total | {"minutes_in_all": self.minutes_in_all}


def print_cost(cost: Cost) -> None:
    """Prints time and memory of one checkpoint's analysis and of all of them."""
    name = Path(cost.checkpoint).name
    title = f"{name}: at most {cost.starts} x {cost.steps} Lanczos steps a group" if cost.steps else f"{name}: forward passes"
    table = Table(title=escape(title))
    for heading in ("group", "samples", "seconds a product", "products, at most", "minutes", "at most", "graph memory"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for group in cost.groups:
        table.add_row(
            escape(group.group),
            str(group.samples) if group.subsets == 1 else f"{group.subsets} x {group.samples}",
            f"{group.seconds_a_product:.3g}",
            str(group.products),
            f"{group.minutes:.2g}",
            f"{group.minutes_at_most:.2g}",
            f"{group.graph_bytes / 2**20:,.0f} MiB",
        )
    console = Console()
    console.print(table)
    console.print(_memory(cost))
    if cost.processes > 1:
        spread = f", each vector spread over {cost.slices}" if cost.slices > 1 else ""
        console.print(
            f"Of each of {cost.processes} processes{spread}; for a product each sends {cost.message_bytes / 2**20:,.0f} MiB, "
            "which is not in the minutes. On one machine they hold at most "
            f"{cost.memory_bytes_together / 2**20:,.0f} MiB together, where that is short of room: float64 checks in turn then."
        )
    console.print(
        f"{cost.parameters:,} parameters. About {cost.minutes:.2g} minutes a checkpoint "
        f"({cost.shared_minutes:.2g} of them for all groups together), at least {cost.minutes_at_least:.2g} and "
        f"at most {cost.minutes_at_most:.2g}; about {cost.minutes_in_all:.2g} for all {cost.checkpoints} and the start. "
        "Float64 rechecks and escape rates are counted."
    )


def _memory(cost: Cost) -> str:
    """What is held where, in sentences."""
    budget, basis = f"{cost.graph_budget_bytes / 2**20:,.0f} MiB", f"{cost.basis_bytes / 2**20:,.0f} MiB"
    said = (
        f"About {cost.memory_bytes / 2**20:,.0f} MiB of memory, at most {cost.memory_bytes_at_most / 2**20:,.0f}: graphs and "
        f"Krylov vectors (at most {basis}) have a budget of {budget} (--memory), beyond it graphs are recomputed"
    )
    if not cost.disk_bytes:
        return said + "."
    return (
        f"{said} and vectors go to disk: at most {cost.disk_bytes / 2**20:,.0f} MiB in {tempfile.gettempdir()} (TMPDIR), where "
        f"{free_on_disk() / 2**20:,.0f} MiB are free."
    )
