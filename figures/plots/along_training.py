"""Curvature along training: every analysed checkpoint, every seed, and the switch of stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...analysis.records.base import Interval
from ...analysis.records.results import CurvatureResult
from ...analysis.records.study import Study
from ..drawing.appearance import Look, handle, looks_of
from ..drawing.canvas import FigureError, heading, legend_below, new_figure
from ..drawing.published import SOURCE, published_ratios
from ..drawing.scales import SCALE_WORDS, plain_ticks, value_axis
from ..drawing.study_data import (
    MOST_GROUPS,
    Drawing,
    NothingToDraw,
    Planned,
    count,
    gap_words,
    group_title,
    groups_in,
    main_scheme,
    seeds_of,
    setting,
    spread_names,
)
from .extremes import ROWS

NAME = "along_training"
PAPER = "F4 (Rangwani et al. 2022, slide 19: |λ_min/λ_max| along training)"
Path = dict[int, CurvatureResult]


def figures(study: Study) -> list[Planned]:
    """The figure of curvature along training, and one more for each further scheme that was measured along it."""
    main = _main(study)
    further = sorted({result.scheme.name for run in study.runs for result in run.curvature} - {main})
    plans = [Planned(f"{NAME}-{scheme}", partial(draw, study, scheme)) for scheme in further if paths(study, scheme)]
    return [Planned(NAME, lambda: draw(study)), *plans]


def _main(study: Study) -> str | None:
    """The scheme of the other figures; None before there is a final checkpoint."""
    try:
        return main_scheme(study)
    except NothingToDraw:
        return None


def paths(study: Study, scheme: str) -> dict[str, dict[int, Path]]:
    """Optimizer -> seed -> epoch -> result, for runs with at least two analysed checkpoints.

    Raises:
        FigureError: results of different data.
    """
    found: dict[str, dict[int, Path]] = {}
    for run in study.runs:
        path = {epoch: result for epoch, result in run.along(scheme) if result.provenance.params_pattern is None}
        if len(path) > 1:
            found.setdefault(run.optimizer, {})[run.seed] = path
    hashes = {result.provenance.data_sha256 for seeds in found.values() for path in seeds.values() for result in path.values()}
    if len(hashes) > 1:
        raise FigureError(
            f"{NAME}: results of scheme '{scheme}' rest on {len(hashes)} different data sets; keep one in a study"
        )
    return found


def switches(study: Study) -> dict[str, list[int]]:
    """Optimizer -> epochs at which its runs change stage, from the side-cars."""
    found: dict[str, set[int]] = {}
    for run in study.runs:
        if run.stage_switch is not None:
            found.setdefault(run.optimizer, set()).add(run.stage_switch)
    return {optimizer: sorted(epochs) for optimizer, epochs in found.items()}


def draw(study: Study, scheme: str | None = None) -> Drawing:
    """A row per quantity, a column per group; thin lines are seeds, thick ones means over all of them.

    Args:
        study: whose checkpoints along training were analysed.
        scheme: of groups; default: that of most figures.

    Raises:
        NothingToDraw: no run has two analysed checkpoints.
    """
    scheme = scheme or main_scheme(study)
    found = paths(study, scheme)
    if not found:
        raise NothingToDraw(
            "no run has two analysed checkpoints; train with checkpoint_every set, or analyze several of its own"
        )
    looks, seeds, switch = looks_of(study), seeds_of(study), switches(study)
    shown = [result for runs in found.values() for path in runs.values() for result in path.values()]
    first, every = shown[0], groups_in(shown)
    printed = {(name, group): published_ratios(first, group, name) for name in found for group in every}
    groups = _shown(every, [group for group in every if any(printed[name, group] for name in found)])
    figure = new_figure(max(5.2, 1.2 + 2.6 * len(groups)), 7.0)
    panels = figure.subplots(len(ROWS), len(groups), sharex=True, sharey="row", squeeze=False)
    tau, relative = _thresholds(found, groups)
    ratio = ROWS[-1][1]
    for row, (label, number) in enumerate(ROWS):
        inside: list[float] = []
        for column, group in enumerate(groups):
            axes = panels[row, column]
            for optimizer, runs in found.items():
                curves = {
                    seed: {
                        epoch: number(result.groups[group]).value for epoch, result in path.items() if group in result.groups
                    }
                    for seed, path in runs.items()
                }
                inside += draw_curves(axes, curves, looks[optimizer], len(seeds))
                if len(seeds) == 1:
                    ends = [(epoch, number(result.groups[group]).interval) for path in runs.values()
                            for epoch, result in path.items() if group in result.groups]  # fmt: skip
                    inside += _draw_intervals(axes, ends, looks[optimizer])
                if number is ratio:
                    inside += _draw_published(axes, printed[optimizer, group], looks[optimizer])
            mark_switches(axes, switch, looks)
        kind = value_axis(panels[row, 0], inside, relative if row == 2 else tau)
        panels[row, 0].set_ylabel(label + SCALE_WORDS[kind])
    for column, group in enumerate(groups):
        panels[0, column].axhspan(-tau, tau, color="#EFEFEF", zorder=0, linewidth=0)
        panels[0, column].axhline(0, color="#999999", linewidth=0.6, zorder=1)
        panels[0, column].set_title(group_title(shown, group), fontweight="normal")
        panels[-1, column].set_xlabel(study.axis)
        plain_ticks(panels[-1, column].xaxis, 6)
    figure.align_ylabels(list(panels[:, 0]))
    handles = [handle(look, line=True) for key, look in looks.items() if key in found]
    handles += switch_handles(switch, looks)
    beside = [name for name in found if any(printed[name, group] for group in groups)]
    handles += [_published_handle(looks[name]) for name in beside]
    legend_below(figure, handles)
    heading(figure, "Curvature along training", setting(first.provenance))
    words = _caption(study, found, switch, tau) + gap_words([], [group for group in every if group not in groups])
    if beside:
        words += f" Hollow, dotted: the ratio as published ({SOURCE})."
    title = "λ_min, λ_max and their ratio along training"
    return Drawing(figure, title + (f", scheme {scheme}" if scheme != _main(study) else ""), words, PAPER)


def _shown(groups: list[str], printed: Sequence[str]) -> list[str]:
    """The groups that have room: those with a published curve and the last ones before others."""
    if len(groups) <= MOST_GROUPS or not printed:
        return spread_names(groups)
    others = [group for group in groups if group not in printed]
    kept = {*printed[-MOST_GROUPS:], *others[len(others) - max(0, MOST_GROUPS - len(printed)) :]}
    return [group for group in groups if group in kept]


def _draw_intervals(axes: Axes, ends: Sequence[tuple[int, Interval]], look: Look) -> list[float]:
    """Thin verticals from end to end of intervals that have two; returns the ends."""
    closed = [(epoch, low, high) for epoch, (low, high) in ends if low is not None and high is not None]
    if closed:
        epochs, low, high = zip(*closed, strict=True)
        axes.vlines(epochs, low, high, color=look.colour, linewidth=0.9, alpha=0.6, gid="interval")
    return [end for _, *both in closed for end in both]


def _draw_published(axes: Axes, curve: dict[int, float], look: Look) -> list[float]:
    """A dotted line with hollow markers; returns what was drawn."""
    if curve:
        axes.plot(list(curve), list(curve.values()), color=look.colour, linestyle=":", linewidth=1.1, marker=look.marker,
                  markerfacecolor="white", zorder=2, gid="published")  # fmt: skip
    return list(curve.values())


def _published_handle(look: Look) -> Line2D:
    return Line2D([], [], color=look.colour, linestyle=":", linewidth=1.1, marker=look.marker, markerfacecolor="white",
                  label=f"{look.name}, published")  # fmt: skip


def _thresholds(found: dict[str, dict[int, Path]], groups: Sequence[str]) -> tuple[float, float]:
    """Median tau, and median tau / lambda_max."""
    results = [result for seeds in found.values() for path in seeds.values() for result in path.values()]
    entries = [result.groups[group] for result in results for group in groups if group in result.groups]
    tau = float(np.median([entry.verdict.tau for entry in entries])) or 1e-12
    top = float(np.median([abs(entry.lambda_max.value) for entry in entries]))
    return tau, tau / top if top else 1e-12


def draw_curves(
    axes: Axes, curves: dict[int, dict[int, float]], look: Look, seeds: int, *, markers: bool = True
) -> list[float]:
    """Every seed a thin line over the epochs; a thick mean at the epochs that all ``seeds`` seeds have.

    Returns:
        Every value drawn.
    """
    alone = seeds == 1
    inside: list[float] = []
    for seed, curve in curves.items():
        epochs = sorted(curve)
        axes.plot(epochs, [curve[e] for e in epochs], color=look.colour, linewidth=1.6 if alone else 0.8,
                  linestyle=look.line if alone else "-",
                  alpha=1.0 if alone else 0.45, marker=look.marker if alone and markers else "",
                  gid=f"seed-{seed}")  # fmt: skip
        inside += curve.values()
    common = sorted(set.intersection(*(set(curve) for curve in curves.values()))) if len(curves) == seeds > 1 else []
    if common:
        means = [float(np.mean([curve[epoch] for curve in curves.values()])) for epoch in common]
        marker = look.marker if markers else ""
        axes.plot(common, means, color=look.colour, linestyle=look.line, linewidth=2.0, marker=marker, zorder=3, gid="mean")
    return inside


def mark_switches(axes: Axes, switch: dict[str, list[int]], looks: dict[str, Look]) -> None:
    """A dashed line where an optimizer changes stage."""
    for optimizer, epochs in switch.items():
        for epoch in epochs:
            axes.axvline(epoch, color=looks[optimizer].colour, linestyle=(0, (4, 2)), linewidth=1.0, zorder=1.5, gid="switch")


def switch_handles(switch: dict[str, list[int]], looks: dict[str, Look]) -> list[Line2D]:
    """Legend entries of :func:`mark_switches`."""
    return [
        Line2D(
            [], [], color=looks[key].colour, linestyle=(0, (4, 2)), linewidth=1.0, label=f"{looks[key].name}: stage 2 begins"
        )
        for key in switch
    ]


def switch_words(switch: dict[str, list[int]], looks: dict[str, Look]) -> str:
    """Where the stages change, in words."""
    parts = [f"{looks[key].name} after epoch {' and '.join(map(str, epochs))}" for key, epochs in switch.items()]
    return f" Dashed verticals: the second stage begins ({'; '.join(parts)})." if parts else ""


def _caption(study: Study, found: dict[str, dict[int, Path]], switch: dict[str, list[int]], tau: float) -> str:
    looks, seeds = looks_of(study), seeds_of(study)
    gaps = [f"{looks[o].name} seed {s}" for o in study.optimizers for s in seeds if s not in found.get(o, {})]
    epochs = sorted({epoch for runs in found.values() for path in runs.values() for epoch in path})
    mean = "thin lines are seeds, thick ones their mean at epochs that every seed has" if len(seeds) > 1 else "one line per run"
    bars = "Error bars are left out: the final checkpoint's are in the figure of extremes."
    if len(seeds) == 1:
        bars = "Verticals: intervals of the single numbers."
    return (
        "The ends of each group's Hessian spectrum and their ratio at the stored checkpoints "
        f"({study.axis}s {_some(epochs)}); {mean}. {bars} "
        f"Shaded: |λ| ≤ τ = {tau:.2g} (median).{_rarer(found, epochs, study.axis)}{switch_words(switch, looks)} "
        f"{count(len(seeds), 'training seed')}."
        f"{gap_words(gaps)}"
    )


def _rarer(found: dict[str, dict[int, Path]], epochs: Sequence[int], axis: str) -> str:
    """The groups that were not measured at every epoch drawn, with those at which they were."""
    measured: dict[str, set[int]] = {}
    for runs in found.values():
        for path in runs.values():
            for epoch, result in path.items():
                for group in result.groups:
                    measured.setdefault(group, set()).add(epoch)
    by_epochs: dict[tuple[int, ...], list[str]] = {}
    for group, at in measured.items():
        if len(at) < len(epochs):
            by_epochs.setdefault(tuple(sorted(at)), []).append(group)
    return "".join(f" Measured at {axis} {_some(at)} only: {', '.join(groups)}." for at, groups in by_epochs.items())


def _some(epochs: Sequence[int]) -> str:
    if len(epochs) <= 12:
        return ", ".join(map(str, epochs))
    return f"{epochs[0]}, {epochs[1]}, … , {epochs[-1]}: {len(epochs)} in all"
