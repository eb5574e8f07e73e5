"""Figures of single stored results, without a study: what ``analyze ... --figures`` and ``slice ... --figures`` draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes

from ..analysis.records.base import load
from ..analysis.records.result_names import checkpoint_names, checkpoint_stem
from ..analysis.records.results import CurvatureResult
from ..analysis.records.slices import Slice
from ..analysis.records.study import Run, Study
from .drawing.appearance import OPTIMIZERS, Look
from .drawing.canvas import FigureError, heading, new_figure
from .drawing.scales import value_axis
from .drawing.study_data import Drawing, Finals, Planned, count, measured_groups, refuse_mixed, setting, spread_names
from .plots import density, escape, extremes

#: colour of checkpoints whose optimizer is not recorded
NEUTRAL = "#4F6272"
#: longer names lose their beginning
LONGEST = 24


@dataclass(frozen=True)
class Checkpoints(Finals):
    """Results in the order given; each takes the place of an optimizer of a study, under its checkpoint's name."""

    unit: ClassVar[str] = "checkpoint"

    @property
    def looks(self) -> dict[str, Look]:
        """The optimizer's colour where the result records which one trained the checkpoint, else a neutral one."""
        return {name: self._look(name) for name in self.optimizers}

    def _look(self, name: str) -> Look:
        training = self.results[name, 0].provenance.training
        known = OPTIMIZERS.get(str(training.get("rule", training.get("optimizer"))))
        shown = name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
        return Look(shown, known.colour if known else NEUTRAL, known.marker if known else "o")

    def words(self, *, mean: bool = True) -> str:
        """How many checkpoints; there is no mean over them."""
        one = len(self.optimizers) == 1
        return "One checkpoint." if one else f"{count(len(self.optimizers), 'checkpoint')} in the order given, no mean."


def gather(paths: Sequence[Path]) -> Checkpoints:
    """Reads stored results that may share a figure.

    Raises:
        ResultError: a file is missing or no curvature result.
        FigureError: results of different data, groups, loss or parameters.
    """
    results = {path: load(CurvatureResult, path) for path in dict.fromkeys(paths)}
    if not results:
        raise FigureError("no stored result was given; give at least one curvature/*.json")
    names = _unique(checkpoint_names(results))
    refuse_mixed({names[path]: result for path, result in results.items()})
    first = next(iter(results.values()))
    groups, refused = measured_groups({names[path]: result for path, result in results.items()})
    shown = spread_names(groups)
    return Checkpoints(
        scheme=first.scheme.name,
        results={(names[path], 0): result for path, result in results.items()},
        optimizers=list(names.values()),
        seeds=[0],
        groups=shown,
        left_out=[group for group in groups if group not in shown],
        gaps=refused,
    )


def around(path: Path) -> Study:
    """A study of nothing but one stored slice; where no optimizer is recorded, the checkpoint's name stands for it.

    Raises:
        ResultError: the file is missing, damaged or no slice.
    """
    piece = load(Slice, path)
    source = piece.provenance
    optimizer = str(source.training.get("optimizer") or checkpoint_stem(source.checkpoint))
    side_car = {"sha256": source.checkpoint_sha256}
    run = Run(optimizer, int(source.training.get("seed", 0)), path.parent.parent, side_car, [], slices={path.stem: piece})
    return Study(path.stem, path.parent.parent, {}, [run])


def _unique(names: dict[Path, str]) -> dict[Path, str]:
    often = Counter(names.values())
    return {path: name if often[name] == 1 else str(path) for path, name in names.items()}


def figures(found: Checkpoints) -> list[Planned]:
    """The figures of stored results, as those of a study."""
    few = spread_names(found.optimizers)
    beside = replace(found, optimizers=few)
    ends = (lambda: draw_ends(found)) if len(found.optimizers) == 1 else (lambda: extremes.draw(found))
    return [
        Planned(extremes.NAME, ends),
        Planned(density.NAME, lambda: _note_left_out(density.draw(beside), found, few)),
        Planned(escape.NAME, lambda: _note_left_out(escape.draw(beside), found, few)),
    ]


def _note_left_out(drawing: Drawing, found: Checkpoints, shown: Sequence[str]) -> Drawing:
    missing = [name for name in found.optimizers if name not in shown]
    words = f" Not drawn for lack of room: {', '.join(missing)}." if missing else ""
    return replace(drawing, caption=drawing.caption + words)


def draw_ends(found: Checkpoints) -> Drawing:
    """One result: a panel per quantity, a position per group."""
    (name,) = found.optimizers
    look = found.looks[name]
    figure = new_figure(max(6.6, 1.2 + 1.65 * len(found.groups)), 3.3)
    panels = figure.subplots(1, len(extremes.ROWS), sharex=True)
    tau = float(np.median([found.first.groups[group].verdict.tau for group in found.groups])) or 1e-12
    top = float(np.median([abs(found.first.groups[group].lambda_max.value) for group in found.groups])) or 1.0
    for row, (axes, (label, number)) in enumerate(zip(panels, extremes.ROWS, strict=True)):
        inside: list[float] = []
        for at, group in enumerate(found.groups):
            point = {0: number(found.first.groups[group])}
            inside += extremes.seed_points(axes, at, point, look, mean=False)
        value_axis(axes, inside, tau / top if row == len(extremes.ROWS) - 1 else tau)
        axes.set_title(label, fontweight="normal")
        axes.grid(visible=False, axis="x")
    _positions(panels[0], found)
    extremes.zero_lines(panels[:1], tau)
    heading(figure, f"{name}: ends of the Hessian's spectrum per group", setting(found.first.provenance))
    return Drawing(figure, f"λ_min, λ_max and their ratio per group of {name}", _caption(found, tau), extremes.PAPER)


def _caption(found: Checkpoints, tau: float) -> str:
    return f"{extremes.caption(found, tau)} n: samples of the group."


def _positions(axes: Axes, found: Checkpoints) -> None:
    axes.set_xlim(-0.6, len(found.groups) - 0.4)
    sizes = found.first.scheme.sizes
    axes.set_xticks(range(len(found.groups)), [f"{group}\nn = {sizes[group]:,}" for group in found.groups])
