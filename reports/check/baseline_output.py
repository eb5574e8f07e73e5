"""A baseline as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .baseline import Acceptance, Baseline
from .output import side_words
from .rows import side_of

if TYPE_CHECKING:
    from rich.console import RenderableType


def baseline_table(baseline: Baseline) -> RenderableType:
    """Numbers with their rules and tolerances, then the history."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for heading in ("number", "value", "rule", "abs_tol", "rel_tol", "direction"):
        grid.add_column(heading, justify="right" if heading in ("value", "abs_tol", "rel_tol") else "left", overflow="fold")
    for name, series in baseline.series.items():
        grid.add_row(Text(name, style="bold underline"))
        for number, entry in series.numbers.items():
            words = side_words(side_of(entry.readings, series.counted))
            grid.add_row(Text(number), Text(words), entry.rule, f"{entry.abs_tol:.3g}", f"{entry.rel_tol:.3g}", entry.direction)
    history = [
        Text(f"{one.when}  {one.who}  saddlescope {one.saddlescope}  {len(one.changes)} changed  {one.reason}{_dropped(one)}")
        for one in baseline.history
    ]
    rate = Text(f"a build in which nothing changed fails with probability {baseline.false_alarm_rate:.2g} at most")
    return Group(grid, Text(""), rate, Text("history", style="bold"), *history)


def _dropped(entry: Acceptance) -> str:
    words = [f"{name} without {', '.join(str(one)[:12] for one in gone)}" for name, gone in entry.dropped.items()]
    return f"  ({'; '.join(words)})" if words else ""
