"""One-dimensional slices: group losses on a line through the final checkpoint, against the quadratic model of its centre."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ...analysis.records.slices import Slice
from ...analysis.records.study import Run, Study
from ..drawing.appearance import Look, looks_of
from ..drawing.canvas import column_width, heading, new_figure
from ..drawing.scales import log_axis, plain_ticks
from ..drawing.study_data import (
    Drawing,
    NothingToDraw,
    Planned,
    count,
    gap_words,
    hessian_words,
    seeds_of,
    setting,
    slices_by_name,
)

PREFIX = "slice"
Array = NDArray[np.float64]


def figures(study: Study) -> list[Planned]:
    """One figure per line that any run was sliced along; the name of a line is its slice's file stem."""
    lines = slices_by_name(study, axes=1)
    if not lines:
        return [Planned(PREFIX, _nothing)]
    return [Planned(f"{PREFIX}-{name}", partial(draw, study, name, runs)) for name, runs in lines.items()]


def _nothing() -> Drawing:
    raise NothingToDraw("no run has a line slice through its final checkpoint; run 'saddlescope slice' on the runs")


def quadratic(piece: Slice, group: str) -> Array:
    """``L(0) + x <d, g> + x^2 d^T H d / 2`` on the slice's axis ``[points]``, from the stored slope and curvature.

    NaN where the axis has no centre, or slope and curvature were not stored.
    """
    at = np.asarray(piece.axes[0])
    direction = piece.directions[0]
    centre = np.flatnonzero(at == 0)
    middle = losses(piece, group)[centre[0]] if len(centre) else np.nan
    if not np.isfinite(middle) or group not in direction.slope or group not in direction.curvature:
        return np.full(len(at), np.nan)
    return np.asarray(middle + at * direction.slope[group] + 0.5 * at**2 * direction.curvature[group])


def losses(piece: Slice, group: str) -> Array:
    """The group's loss along the axis ``[points]``; NaN where it was not finite."""
    return np.array([np.nan if value is None else value for value in piece.loss[group]], dtype=np.float64)


def draw(study: Study, name: str, runs: list[Run]) -> Drawing:
    """A row per group, a column per optimizer; every seed a curve, its quadratic model dashed."""
    looks = looks_of(study)
    pieces = [(run, run.slices[name]) for run in runs]
    first = pieces[0][1]
    groups = [group for group in first.loss if all(group in piece.loss for _, piece in pieces)][:6]
    figure = new_figure(max(5.2, 0.9 + column_width(len(looks)) * len(looks)), 1.4 + 1.75 * len(groups))
    panels = figure.subplots(len(groups), len(looks), sharex=False, sharey=True, squeeze=False)
    inside: list[float] = []
    for row, group in enumerate(groups):
        for column, (optimizer, look) in enumerate(looks.items()):
            axes = panels[row, column]
            mine = {run.seed: piece for run, piece in pieces if run.optimizer == optimizer}
            inside += _panel(axes, mine, group, look)
            if row == 0:
                axes.set_title(look.short, color=look.ink)
            if row == len(groups) - 1:
                axes.set_xlabel("distance" if first.directions[0].kind != "random" else "multiple of $d$")
            else:
                axes.tick_params(labelbottom=False)
        panels[row, 0].set_ylabel(f"{group}\nloss (log)")
    for column, optimizer in enumerate(looks):
        spans = [piece.axes[0] for run, piece in pieces if run.optimizer == optimizer]
        for axes in panels[:, column]:
            if spans:
                axes.set_xlim(min(min(span) for span in spans), max(max(span) for span in spans))
            plain_ticks(axes.xaxis, 4 if len(looks) < 5 else 2)
    log_axis(panels[0, 0], "y", [value for value in inside if value > 0] or [1.0], ticks=5, pad=1.6)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
    what = _direction_words(first)
    heading(figure, f"Group losses along {what}", setting(first.provenance))
    return Drawing(figure, f"Loss of each group along {what}", _caption(study, first, runs), PAPER)


PAPER = "F8 (Li et al. 2018: lines), F12 (Alain et al. 2019: loss against its quadratic model)"


def _panel(axes: Axes, seeds: dict[int, Slice], group: str, look: Look) -> list[float]:
    if not seeds:
        axes.text(0.5, 0.5, "no slice", transform=axes.transAxes, ha="center", va="center", color="#777777")
    inside: list[float] = []
    axes.axvline(0, color="#BBBBBB", linewidth=0.6, zorder=1)
    for seed, piece in seeds.items():
        at, loss, model = np.asarray(piece.axes[0]), losses(piece, group), quadratic(piece, group)
        axes.plot(at, loss, color=look.colour, linewidth=1.2, gid=f"loss-seed-{seed}")
        # a negative prediction has no place on a log axis: the curve ends where the model falls below zero
        axes.plot(at, np.where(model > 0, model, np.nan), color=look.colour, linewidth=1.0, linestyle=(0, (2.5, 1.8)),
                  alpha=0.75, gid=f"quadratic-seed-{seed}")  # fmt: skip
        centre = loss[at == 0]
        axes.plot([0.0] * len(centre), centre, marker=look.marker, color=look.colour, markersize=4, zorder=4, linestyle="none")
        inside += [float(value) for value in loss[np.isfinite(loss)]]
    return inside


def _legend() -> list[Line2D]:
    grey = "#444444"
    return [
        Line2D([], [], color=grey, linewidth=1.2, label="loss"),
        Line2D([], [], color=grey, linewidth=1.0, linestyle=(0, (2.5, 1.8)), label="quadratic model at the centre"),
        Line2D([], [], color=grey, marker="o", linestyle="none", markersize=4, label="checkpoint"),
    ]


def _direction_words(piece: Slice) -> str:
    direction = piece.directions[0]
    whose = f" of {hessian_words(direction.group)}" if direction.group else ""
    if direction.kind == "min-eigenvector":
        return f"the most negative eigenvector{whose}"
    if direction.kind == "max-eigenvector":
        return f"the largest eigenvector{whose}"
    if direction.kind == "random":
        scaled = "filter-normalised " if direction.normalisation == "filter" else ""
        return f"a {scaled}random direction"
    return f"{direction.kind}{whose}"


def _caption(study: Study, first: Slice, runs: list[Run]) -> str:
    looks, have = looks_of(study), {(run.optimizer, run.seed) for run in runs}
    gaps = [f"{looks[o].name} seed {s}" for o in study.optimizers for s in seeds_of(study) if (o, s) not in have]
    unit = (
        "a multiple of the direction, each filter of which has the norm of the model's filter"
        if first.directions[0].normalisation == "filter"
        else "the Euclidean distance from the checkpoint"
        if abs(first.directions[0].norm - 1) < 1e-3
        else f"a multiple of the direction (norm {first.directions[0].norm:.3g})"
    )
    own = " Each run has its own direction, so horizontal axes differ between optimizers." if first.directions[0].group else ""
    return (
        f"The mean training loss of each group when all weights move along {_direction_words(first)}; the horizontal axis is "
        f"{unit}. Dashed: L(0) + x⟨d, ∇L⟩ + x² dᵀHd / 2 from the slope and curvature measured at the centre, drawn while "
        "positive; where a curve leaves its dashed line, the eigenvalue no longer describes the loss."
        f"{own} BatchNorm statistics stay those of the checkpoint. {count(len(seeds_of(study)), 'training seed')}, every run a "
        f"curve, no average.{gap_words(gaps)}"
    )
