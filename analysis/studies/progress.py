"""What is said while an analysis runs: bars where somebody watches, a line for each group where nobody does."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from saddlescope import Permission

from ..checkpoints.checkpoint_flags import Given
from ..hessian.distributed import World
from ..records.study_plan import CurvatureItem, StudyAnalysis
from .analyses import analyze_study, do_curvature
from .worker_pool import default_jobs

#: groups of the schemes that do not depend on the data
GROUPS = {"all": ("all",), "head-tail": ("all", "head", "tail"), "many-medium-few": ("all", "many", "medium", "few")}


def measure_with_steps(item: CurvatureItem, given: Given, world: World | None = None) -> None:
    """One checkpoint, with all cores, under a bar that counts Lanczos steps; where nobody watches, a line for each group."""
    first = world is None or world.first
    if first and not sys.stderr.isatty():
        lines = _Lines(item)
        do_curvature(item, given, progress=lines, world=world, keep_starts=True, begins=lines.expect)
        lines.end()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=world is not None and not world.first) as bar:
        tasks: dict[str, TaskID] = {}

        def step(group: str, count: int) -> None:
            if group not in tasks:
                tasks[group] = bar.add_task(group, total=item.settings.steps * item.settings.starts)
            bar.update(tasks[group], advance=count)

        do_curvature(item, given, progress=step, world=world, keep_starts=True)


class _Lines:
    """Said on standard error, at once, as each group is done: its steps, its time, and about how much is left."""

    def __init__(self, item: CurvatureItem) -> None:
        self._name, self._began, self._since = item.checkpoint.name, time.monotonic(), time.monotonic()
        self._left: dict[str, int] = {}
        self._group: str | None = None
        self._steps = self._done = 0

    def expect(self, groups: Mapping[str, int]) -> None:
        """These groups, of so many samples, will be measured: a product takes as long as a group is large."""
        self._left, self._since = dict(groups), time.monotonic()
        self._began = self._since

    def __call__(self, group: str, count: int) -> None:
        """Counts steps, as :data:`~saddlescope.analysis.measures.measurement.Progress`."""
        if group != self._group:
            self.end()
            self._group, self._steps = group, 0
        self._steps += count

    def end(self) -> None:
        """The group that was last heard of is done."""
        if self._group is None:
            return
        self._done += self._left.pop(self._group, 0)
        now = time.monotonic()
        left = ""
        if self._left and self._done:
            left = f", about {(now - self._began) / self._done * sum(self._left.values()):.0f} s left"
        said = f"{self._name}, {self._group}: {self._steps} steps, {now - self._since:.0f} s{left}"
        print(said, file=sys.stderr, flush=True)
        self._group, self._since = None, now


def progress_bar(what: str = "results") -> Progress:
    """A bar on standard error that counts ``what``."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(what),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def analyze_with_progress(
    study: Path,
    plan: StudyAnalysis,
    *,
    data_root: str | None = None,
    jobs: int | None = None,
    runs: list[Path] | None = None,
    permission: Permission | None = None,
) -> int:
    """:func:`~saddlescope.analysis.studies.analyses.analyze_study` under a bar with the time left.

    Args:
        study: as there.
        plan: as there.
        data_root: as there.
        jobs: default: one per core.
        runs: as there.
        permission: as there.
    """
    with progress_bar() as bar:
        task = bar.add_task(f"analyze {study.name}", total=None)
        return analyze_study(
            study,
            plan,
            jobs=jobs or default_jobs(),
            data_root=data_root,
            runs=runs,
            permission=permission,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
