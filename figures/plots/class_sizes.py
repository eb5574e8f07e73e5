"""Per-class extremes against class size: how the curvature of rare classes differs, class by class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...analysis.records.results import GroupResult
from ...analysis.records.study import Study
from ..drawing.appearance import handle
from ..drawing.canvas import heading, legend_below, new_figure
from ..drawing.scales import SCALE_WORDS, fix_ticks, value_axis
from ..drawing.study_data import Drawing, Finals, NothingToDraw, Planned, finals, gap_words, setting
from .extremes import ROWS, Point

NAME = "class_sizes"
SCHEME = "per-class"
PAPER = "F1, F3 and F4 (Rangwani et al. 2022: spectra of single classes)"


def figures(study: Study) -> list[Planned]:
    """The figure of single classes; left out of the plan where no run was analysed class by class."""
    if not any(result.scheme.name == SCHEME for run in study.runs for result in run.curvature):
        return []
    return [Planned(NAME, lambda: draw(finals(study, SCHEME)))]


def curve(
    found: Finals, optimizer: str, number: Callable[[GroupResult], Point]
) -> tuple[dict[int, list[tuple[int, float]]], list[tuple[int, float]]]:
    """Seed -> (class size, value) by size, and their mean where every seed has the class.

    Classes are the groups of the scheme that hold a single class.
    """
    single = [name for name, classes in found.first.scheme.groups.items() if len(classes) == 1]
    sizes = found.first.scheme.sizes
    order = sorted(single, key=lambda name: (sizes[name], found.first.scheme.groups[name]))
    seeds: dict[int, list[tuple[int, float]]] = {}
    means = []
    for name in order:
        entries = found.of(optimizer, name)
        for seed, entry in entries.items():
            seeds.setdefault(seed, []).append((sizes[name], number(entry).value))
        if found.complete(len(entries)):
            means.append((sizes[name], float(np.mean([number(entry).value for entry in entries.values()]))))
    return seeds, means


def draw(found: Finals) -> Drawing:
    """A panel per quantity; class size on a logarithmic axis, every seed's class a point.

    Raises:
        NothingToDraw: the scheme has no group of a single class.
    """
    if not any(len(classes) == 1 for classes in found.first.scheme.groups.values()):
        raise NothingToDraw(f"scheme '{found.scheme}' has no group of a single class")
    looks = found.looks
    figure = new_figure(9.6, 3.8)
    panels = figure.subplots(1, len(ROWS), sharex=True)
    sizes = sorted({found.first.scheme.sizes[g] for g, classes in found.first.scheme.groups.items() if len(classes) == 1})
    entries = [entry for result in found.results.values() for entry in result.groups.values()]
    tau = float(np.median([entry.verdict.tau for entry in entries])) or 1e-12
    top = float(np.median([abs(entry.lambda_max.value) for entry in entries])) or 1.0
    for row, (axes, (label, number)) in enumerate(zip(panels, ROWS, strict=True)):
        inside: list[float] = []
        for optimizer, look in looks.items():
            seeds, means = curve(found, optimizer, number)
            for seed, points in seeds.items():
                x, y = zip(*points, strict=True)
                axes.plot(x, y, linestyle="none", marker=look.marker, color=look.colour, markersize=3.4, alpha=0.55,
                          markeredgewidth=0, gid=f"seed-{seed}")  # fmt: skip
                inside += y
            if means:
                axes.plot(*zip(*means, strict=True), color=look.colour, linestyle=look.line, linewidth=1.3, gid="mean")
        axes.set_xscale("log")
        axes.set_xlabel("training samples of the class (log)")
        kind = value_axis(axes, inside, tau / top if row == len(ROWS) - 1 else tau)
        axes.set_title(label + SCALE_WORDS[kind], fontweight="normal")
    step = max(1, round(len(sizes) / 6))
    fix_ticks(panels[0].xaxis, sizes[::-1][::step])
    legend_below(figure, [handle(look) for look in looks.values()])
    heading(figure, "Curvature of single classes against their size", setting(found.first.provenance))
    caption = (
        "The ends of the Hessian spectrum of one class's mean loss, and their ratio, against the number of training samples of "
        "the class. Points: seeds; lines: means over all seeds. Error bars are left out: the intervals are in the tables. "
        f"{found.words()}{gap_words(found.gaps)}"
    )
    return Drawing(figure, "λ_min, λ_max and their ratio per class, against class size", caption, PAPER)
