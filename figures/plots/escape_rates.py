"""Does an optimizer leave? Curvature of group and objective along v, and the escape rates of every optimizer's field there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...analysis.records.results import GroupResult
from ...analysis.records.rounding import probability_words
from ...analysis.records.saddles import EscapeRate, NetRate
from ...analysis.records.study import Study
from ..drawing.appearance import OPTIMIZERS, Look, optimizer_looks
from ..drawing.canvas import heading, legend_below, new_figure
from ..drawing.scales import SCALE_WORDS, log_axis, value_axis
from ..drawing.study_data import Drawing, Finals, NothingToDraw, Planned, finals, gap_words, group_title, setting
from .extremes import Point, seed_points

NAME, NET_NAME = "along_v", "net_rates"
PAPER = (
    "F10 (correlated negative curvature, the quantity of Daneshmand et al. 2018 that the saddle papers build on; no published "
    "numbers)"
)
#: of the two rows of rates: axis label, which number
RATES: tuple[tuple[str, Callable[[EscapeRate], float]], ...] = (
    ("escape rate\nat the checkpoint", lambda found: found.rate),
    ("escape rate\nacross a step", lambda found: found.far_rate),
)
#: of what is nobody's step: in this figure an optimizer's colour means its field
_GROUP, _OBJECTIVE = Look("the group's loss", "#444444", "o"), Look("the training objective", "#7A5195", "X")
_ROWS = 4
#: what a label on lines of its own says of the scale
SCALE_LINES = {scale: words.replace(" ", "\n", 1) for scale, words in SCALE_WORDS.items()}


def figures(study: Study) -> list[Planned]:
    """The figures of rates along v and along any direction."""
    return [Planned(NAME, lambda: draw(finals(study))), Planned(NET_NAME, lambda: draw_net(finals(study)))]


def rule_look(key: str) -> Look:
    """The look of a rule; the stages of SSE-SAM are its marker, open in the first and filled in the second."""
    name, _, stage = key.rpartition("-")
    if name == "ssesam" and stage in ("1", "2"):
        own = OPTIMIZERS[name]
        return Look(
            f"{own.name}, stage {stage}", own.colour if stage == "2" else "#E9A27C", own.marker if stage == "2" else "d"
        )
    return optimizer_looks([key])[key]


def fields(found: Finals) -> dict[str, str]:
    """Key -> legend label of every optimizer's field that was measured, in the records' order; its radii with it."""
    radii: dict[str, set[str]] = {}
    for result in found.results.values():
        measured = [rate for entry in result.groups.values() if entry.escape for rate in entry.escape.rates]
        both: list[EscapeRate | NetRate] = [*measured, *result.net_rates]
        for one in both:
            radii.setdefault(one.optimizer, set()).add(_radius_words(one))
    return {key: f"{rule_look(key).name}{next(iter(words)) if len(words) == 1 else ''}" for key, words in radii.items()}


def _radius_words(rate: EscapeRate | NetRate) -> str:
    sizes = [f"{value:g}" for value in rate.radii.values()]
    return f" (ρ = {' and '.join(sizes)})" if sizes else ""


def share(entry: GroupResult) -> float | None:
    """``<v, g>^2 / ||g||^2``."""
    return entry.escape.correlated_negative_curvature if entry.escape is not None else None


def rate_of(entry: GroupResult, key: str, number: Callable[[EscapeRate], float]) -> float | None:
    """One rate of one optimizer's field; None where it was not measured."""
    rates = entry.escape.rates if entry.escape is not None else []
    return next((number(rate) for rate in rates if rate.optimizer == key), None)


def draw(found: Finals) -> Drawing:
    """A column per group, a position per checkpoint's optimizer.

    Raises:
        NothingToDraw: no final checkpoint has rates.
    """
    entries = [entry for result in found.results.values() for entry in result.groups.values() if entry.escape]
    known = [rate for entry in entries if entry.escape for rate in entry.escape.rates]
    if not known:
        raise NothingToDraw("no result holds escape rates; analyze again with [analysis] escape = true and rates = true")
    tried = {key: label for key, label in fields(found).items() if key in {rate.optimizer for rate in known}}
    looks, columns = found.looks, len(found.groups)
    figure = new_figure(max(5.8, min(10.4, 1.3 + columns * max(2.2, 0.8 * len(looks)))), 8.6)
    panels = figure.subplots(_ROWS, columns, sharex=True, sharey="row", squeeze=False)
    inside: list[list[float]] = [[] for _ in range(_ROWS)]
    for column, group in enumerate(found.groups):
        for at, optimizer in enumerate(found.optimizers):
            here = found.of(optimizer, group)
            inside[0] += _points(panels[0, column], at, here, share, _GROUP)
            inside[1] += _points(panels[1, column], at - 0.2, here, _own_curvature, _GROUP)
            inside[1] += _points(panels[1, column], at + 0.2, here, _objective_curvature, _OBJECTIVE)
            for row, (_, number) in enumerate(RATES, start=2):
                inside[row] += _fields_at(panels[row, column], at, here, list(tried), number)
        panels[0, column].set_title(group_title(found.results.values(), group), fontweight="normal")
    random = 1 / found.first.provenance.parameters
    for axes in panels[0]:
        axes.axhline(random, color="#777777", linewidth=0.8, linestyle=":", zorder=1)
    if inside[0]:
        log_axis(panels[0, 0], "y", [*inside[0], random], pad=2)
    labels = [r"$\langle v, g\rangle^2 \,/\, \|g\|^2$ (log)", "curvature\nalong v", *(label for label, _ in RATES)]
    panels[0, 0].set_ylabel(labels[0])
    for row in range(1, _ROWS):
        scale = _signed(panels[row], inside[row], shade=row > 1)
        panels[row, 0].set_ylabel(f"{labels[row]}{SCALE_LINES[scale]}")
    _positions(panels, found)
    figure.align_ylabels(list(panels[:, 0]))
    handles = [_handle(_GROUP, "curvature of the group's loss"), _handle(_OBJECTIVE, "of the training objective")]
    legend_below(figure, [*handles, *(_handle(rule_look(key), f"field of {label}") for key, label in tried.items())])
    heading(figure, "Does an optimizer leave along negative curvature?", setting(found.first.provenance))
    title = "The gradient's share along v, both curvatures along v, and the escape rates of each optimizer's field"
    return Drawing(figure, title, _caption(found, random, known, entries), PAPER)


def _own_curvature(entry: GroupResult) -> float | None:
    return entry.lambda_min.value if entry.escape is not None and entry.escape.objective_curvature is not None else None


def _objective_curvature(entry: GroupResult) -> float | None:
    return entry.escape.objective_curvature if entry.escape is not None else None


def _points(
    axes: Axes, at: float, entries: dict[int, GroupResult], number: Callable[[GroupResult], float | None], look: Look
) -> list[float]:
    values = {seed: Point.exact(value) for seed, entry in entries.items() if (value := number(entry)) is not None}
    return seed_points(axes, at, values, look, mean=False, spread=0.3)


def _fields_at(
    axes: Axes, at: int, entries: dict[int, GroupResult], tried: list[str], number: Callable[[EscapeRate], float]
) -> list[float]:
    """The fields beside each other around ``at``, every seed a point; returns the values drawn."""
    room, inside = 0.86 / len(tried), list[float]()
    for order, key in enumerate(tried):
        values = {
            seed: Point.exact(value) for seed, entry in entries.items() if (value := rate_of(entry, key, number)) is not None
        }
        place = at + (order - (len(tried) - 1) / 2) * room
        inside += seed_points(axes, place, values, rule_look(key), mean=False, spread=0.6 * room)
    return inside


def _signed(panels: np.ndarray, values: list[float], *, shade: bool) -> str:
    """Scales a row around zero; below zero, where an optimizer comes back, it is shaded."""
    sizes = sorted(abs(value) for value in values if value)
    scale = value_axis(panels[0], values or [0.0], sizes[len(sizes) // 4] if sizes else 1.0)
    bottom = panels[0].get_ylim()[0]
    for axes in panels:
        axes.axhline(0, color="#777777", linewidth=0.8, zorder=1)
        if shade and bottom < 0:
            axes.axhspan(bottom, 0, color="#F6ECEE", zorder=0, linewidth=0)
            axes.set_ylim(bottom=bottom)
    return scale


def _positions(panels: np.ndarray, found: Finals) -> None:
    looks = found.looks
    for axes in panels[-1]:
        axes.set_xlabel("trained with" if found.unit == "optimizer" else found.unit)
        axes.set_xlim(-0.6, len(looks) - 0.4)
        names = [look.name for look in looks.values()]
        axes.set_xticks(range(len(looks)), names, rotation=35, ha="right", rotation_mode="anchor")
    for axes in panels.flat:
        axes.grid(visible=False, axis="x")


def _handle(look: Look, label: str) -> Line2D:
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle="none", label=label)


def _caption(found: Finals, random: float, known: list[EscapeRate], entries: list[GroupResult]) -> str:
    near, far = (sorted(getattr(rate, name) for rate in known) for name in ("distance", "far_distance"))
    norms = sorted(entry.weight_norm for entry in entries)
    loose = sum(not rate.settled for rate in known)
    open_ = f" {loose} of {len(known)} rates changed by more than 5 % when the distance was halved." if loose else ""
    decay = {entry.escape.weight_decay for entry in entries if entry.escape and entry.escape.weight_decay is not None}
    return (
        "v: unit eigenvector of the group's λ_min of that checkpoint; g: the group's gradient. Top: the share of the squared "
        f"gradient along v (dotted: 1/n = {random:.1e}, a random direction). Second: vᵀHv of the group's own loss (λ_min) and "
        f"of the training objective, weight decay {' and '.join(f'{value:g}' for value in sorted(decay))} included: a saddle "
        "of the group need not be one of the objective. Below: −vᵀ DG v of the field G that each optimizer follows on the "
        "whole training set: above 0 a displacement along v grows by the learning rate times this a step, below 0 (shaded) "
        f"it comes back. By central differences over {_span(near)} (at the checkpoint) and over {_span(far)} (about a step; "
        f"‖w‖ is {_span(norms)}): where the two differ, the loss has kinks between.{open_} "
        f"{found.words(mean=False)}{gap_words(found.gaps, found.left_out)}"
    )


def _span(values: list[float]) -> str:
    ends = dict.fromkeys(f"{value:.1e}" if value < 1e-2 else f"{value:.2g}" for value in (values[0], values[-1]))
    return " to ".join(ends)


def draw_net(found: Finals) -> Drawing:
    """One panel: a position per checkpoint's optimizer, the net rate of each field measured there with its interval.

    Raises:
        NothingToDraw: no final checkpoint has net rates.
    """
    rates = {key: result.net_rates for key, result in found.results.items() if result.net_rates}
    if not rates:
        raise NothingToDraw('no result holds net rates; analyze again with [analysis] net_rates = "own"')
    tried = {key: label for key, label in fields(found).items() if any(key in _names(some) for some in rates.values())}
    figure = new_figure(max(5.2, 1.4 + 1.1 * len(found.looks)), 3.6)
    axes = figure.subplots()
    inside: list[float] = []
    for at, optimizer in enumerate(found.optimizers):
        here = {seed: some for (name, seed), some in rates.items() if name == optimizer}
        fields_here = [key for key in tried if any(key in _names(some) for some in here.values())]
        room = 0.8 / max(len(fields_here), 1)
        for order, key in enumerate(fields_here):
            chosen = {seed: rate for seed, some in here.items() for rate in some if rate.optimizer == key}
            points = {seed: Point(rate.rate, rate.interval, rate.converged) for seed, rate in sorted(chosen.items())}
            place = at + (order - (len(fields_here) - 1) / 2) * room
            inside += seed_points(axes, place, points, rule_look(key), mean=False, spread=0.6 * room)
    scale = _signed(np.array([axes]), inside, shade=True)
    axes.set_ylabel(f"net rate{SCALE_WORDS[scale]}")
    _positions(np.array([[axes]]), found)
    legend_below(figure, [_handle(rule_look(key), f"field of {label}") for key, label in tried.items()])
    heading(figure, "Is there any direction in which an optimizer leaves?", setting(found.first.provenance))
    sure = probability_words(min(rate.confidence for some in rates.values() for rate in some))
    caption = (
        "Minus the smallest eigenvalue of the symmetric part of DG(w), G the field that an optimizer follows on the whole "
        "training set: the largest escape rate along any direction, proven from below by a unit vector. Above 0 there is a "
        "direction in which the optimizer leaves the checkpoint. Bars: what the largest rate can be at most "
        f"(probability {sure}); an arrow: not known. Hollow: not converged. "
        f"{found.words(mean=False)}{gap_words(found.gaps)}"
    )
    return Drawing(figure, "Net rates: does an optimizer leave along any direction?", caption)


def _names(rates: list[NetRate]) -> set[str]:
    return {rate.optimizer for rate in rates}
