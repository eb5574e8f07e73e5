"""Which group feels which eigenvector: slope and curvature of every group along the eigenvectors of each."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes

from ...analysis.records.slices import Direction
from ...analysis.records.study import Study
from ..drawing.appearance import handle, looks_of
from ..drawing.canvas import heading, legend_below, new_figure
from ..drawing.scales import SCALE_WORDS, value_axis
from ..drawing.study_data import (
    Drawing,
    NothingToDraw,
    Planned,
    count,
    gap_words,
    seeds_of,
    setting,
    slices_by_name,
    spread_names,
)
from .extremes import Point, seed_points

NAME = "shared_eigenvectors"
PAPER = "F13 (Hessian Surgery 2026: class by eigenvector sensitivity; here the groups of the slices)"
#: (end of the spectrum, group whose Hessian it is of) -> (optimizer, seed) -> the direction as a slice recorded it
Found = dict[tuple[str, str], dict[tuple[str, int], Direction]]


def figures(study: Study) -> list[Planned]:
    """The figure of shared eigenvectors; left out of the plan where no line follows an eigenvector."""
    if not directions(study):
        return []
    return [Planned(NAME, lambda: draw(study))]


def directions(study: Study) -> Found:
    """The eigenvectors that lines were drawn along, with every run that has them; ends of the spectrum in order."""
    found: Found = {}
    for name, runs in slices_by_name(study, axes=1).items():
        for run in runs:
            direction = run.slices[name].directions[0]
            if direction.kind in ("min-eigenvector", "max-eigenvector") and direction.group and direction.curvature:
                found.setdefault((direction.kind[:3], direction.group), {})[run.optimizer, run.seed] = direction
    return dict(sorted(found.items(), key=lambda item: (item[0][0] != "min", item[0][1])))


def curvature(direction: Direction, group: str) -> float | None:
    """``d^T H_g d``."""
    return direction.curvature.get(group)


def slope(direction: Direction, group: str) -> float | None:
    """The slope of a group where the eigenvector points downhill for the group that it belongs to: it has no sign itself."""
    own = direction.slope.get(direction.group or "")
    if own is None or group not in direction.slope:
        return None
    return -direction.slope[group] if own > 0 else direction.slope[group]


#: axis label, what is read
ROWS: tuple[tuple[str, Callable[[Direction, str], float | None]], ...] = (
    (r"curvature $d^\top H_g d$", curvature),
    (r"slope $\langle d, \nabla L_g\rangle$", slope),
)


def draw(study: Study) -> Drawing:
    """A column per eigenvector, a row for curvature and one for slope, groups side by side, every seed a point.

    Raises:
        NothingToDraw: no line follows an eigenvector.
    """
    found = directions(study)
    if not found:
        raise NothingToDraw("no run has a line along an eigenvector; ask for one in [slices], such as lines = ['tail-min']")
    looks, seeds = looks_of(study), seeds_of(study)
    groups = spread_names(list(next(iter(next(iter(found.values())).values())).curvature))
    figure = new_figure(max(5.6, 1.2 + len(found) * max(2.4, 0.2 * len(groups) * len(looks))), 5.6)
    panels = figure.subplots(len(ROWS), len(found), sharex=True, sharey="row", squeeze=False)
    for row, (label, number) in enumerate(ROWS):
        inside: list[float] = []
        for column, (whose, runs) in enumerate(found.items()):
            axes = panels[row, column]
            inside += _panel(axes, runs, groups, study, number)
            if row == 0:
                axes.set_title(_name(whose), fontweight="normal")
        small = min((abs(value) for value in inside if value), default=1.0)
        kind = value_axis(panels[row, 0], inside, max(small, 1e-3 * max(map(abs, inside), default=1.0)))
        panels[row, 0].set_ylabel(label + SCALE_WORDS[kind].replace(" (sym", "\n(sym"))
    for axes in panels[-1]:
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_xticks(range(len(groups)), groups)
        axes.set_xlabel("felt by the loss of")
    for axes in panels.flat:
        axes.axhline(0, color="#777777", linewidth=0.8, zorder=1)
        axes.grid(visible=False, axis="x")
        for edge in range(len(groups) - 1):
            axes.axvline(edge + 0.5, color="#DDDDDD", linewidth=0.6)
    figure.align_ylabels(list(panels[:, 0]))
    legend_below(figure, [handle(look) for look in looks.values()])
    heading(figure, "Which group feels which eigenvector", _setting(study))
    title = "Curvature and slope of every group along each group's eigenvectors"
    return Drawing(figure, title, _caption(study, found, seeds), PAPER)


def _panel(
    axes: Axes,
    runs: dict[tuple[str, int], Direction],
    groups: list[str],
    study: Study,
    number: Callable[[Direction, str], float | None],
) -> list[float]:
    looks, seeds = looks_of(study), seeds_of(study)
    room, inside = 0.86 / len(looks), list[float]()
    for place, group in enumerate(groups):
        for order, (optimizer, look) in enumerate(looks.items()):
            values = {seed: number(runs[optimizer, seed], group) for seed in seeds if (optimizer, seed) in runs}
            points = {seed: Point.exact(value) for seed, value in values.items() if value is not None}
            at = place + (order - (len(looks) - 1) / 2) * room
            mean = len(points) == len(seeds) > 1
            inside += seed_points(axes, at, points, look, mean=mean, spread=0.7 * room)
    return inside


def _setting(study: Study) -> str:
    """Data, model and loss, as the slices record them."""
    run, name = next((runs[0], name) for name, runs in slices_by_name(study, axes=1).items())
    return setting(run.slices[name].provenance)


def _name(whose: tuple[str, str]) -> str:
    end, group = whose
    what = "most negative" if end == "min" else "largest"
    return f"{what} eigenvector\nof {'all classes' if group == 'all' else group}"


def _caption(study: Study, found: Found, seeds: list[int]) -> str:
    looks = looks_of(study)
    gaps = [
        f"{looks[o].name} seed {s} ({_name(whose).replace(chr(10), ' ')})"
        for whose, runs in found.items()
        for o in study.optimizers
        for s in seeds
        if (o, s) not in runs
    ]
    return (
        "What one group's eigenvector d means to the other groups, at the final checkpoints. Top: each group's curvature along "
        "d; the eigenvalue is that of the group named above the panel. Where it is negative for one group and positive for the "
        "other, the direction out of one group's saddle is uphill to second order for the other. Bottom: slopes, d "
        "pointing downhill for the group that it belongs to; where another group's slope is positive, the first step out "
        f"costs it. Short bars: means. {count(len(seeds), 'training seed')}, each drawn.{gap_words(gaps)}"
    )
