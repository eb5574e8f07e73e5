"""From which learning rate on a step hurts a class group: critical steps of the final checkpoints, and along training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...analysis.records.base import ResultError
from ...analysis.records.results import Scheme
from ...analysis.records.steps import CriticalStep, StepResult
from ...analysis.records.study import Run, Study
from ..drawing.appearance import Look, handle, looks_of
from ..drawing.canvas import heading, legend_below, new_figure
from ..drawing.scales import fix_ticks, log_marks, number_label, plain_ticks
from ..drawing.study_data import Drawing, NothingToDraw, Planned, count, gap_words, seeds_of, setting, spread_names
from .along_training import mark_switches, switch_handles, switch_words, switches
from .escape_rates import rule_look

NAME, ALONG_NAME = "critical_steps", "critical_steps_along"
PAPER = "critical sharpness, arXiv 2601.16979 (of the whole loss there; here of each class group)"
#: updates that no optimizer takes
_PARTS = {"head": Look("the head's part of a plain step", "#7A5195", "X"), "own": Look("the group's own part", "#8A8A8A", "*")}
#: how far outside of the steps found the places of "at once" and "nowhere" lie
_OUTSIDE = 4.0


def figures(study: Study) -> list[Planned]:
    """The figures of critical steps; none where none were asked for."""
    if not any(run.steps for run in study.runs):
        return []
    return [Planned(NAME, lambda: draw(study)), Planned(ALONG_NAME, lambda: draw_along(study))]


def final_steps(run: Run) -> StepResult | None:
    """The critical steps of the checkpoint that lies there now."""
    sha = (run.side_car or {}).get("sha256")
    return next((result for result in run.steps if sha is not None and result.provenance.checkpoint_sha256 == sha), None)


def update_look(key: str) -> Look:
    """The look of an update: an optimizer's, or a part's own."""
    return _PARTS.get(key) or rule_look(key)


def step_of(result: StepResult, group: str, update: str) -> CriticalStep | None:
    """One critical step; the head's own part is its part of a plain step."""
    found = result.groups.get(group)
    update = "own" if update == group else update
    return next((step for step in found.steps if step.update == update), None) if found is not None else None


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis of steps, with a place below for those that hurt at once and one above for those that never do."""

    low: float
    high: float

    @classmethod
    def of(cls, steps: Iterable[CriticalStep], also: Iterable[float]) -> Scale:
        """Around the steps found and other rates that are drawn."""
        sizes = [*(step.step for step in steps if step.step), *(rate for rate in also if rate > 0)] or [1.0]
        return cls(min(sizes) / _OUTSIDE, max(sizes) * _OUTSIDE)

    def place(self, step: CriticalStep) -> float:
        """Where a step is drawn."""
        return self.high if step.step is None else step.step or self.low

    def apply(self, axes: Axes) -> None:
        """Sets limits and ticks."""
        axes.set_yscale("log")
        axes.set_ylim(self.low / 1.8, self.high * 1.8)
        marks = [mark for mark in log_marks(self.low, self.high, 5) if 1.5 * self.low < mark < self.high / 1.5]
        fix_ticks(axes.yaxis, [self.low, *marks, self.high])
        names = {self.low: "at once", self.high: "nowhere"}
        axes.yaxis.set_major_formatter(lambda value, _: names.get(value) or number_label(value))
        axes.axhspan(self.low / 1.8, self.low * 1.5, color="#F6ECEE", zorder=0, linewidth=0)


def _known(study: Study) -> tuple[dict[tuple[str, int], StepResult], Scheme, list[str]]:
    """Final results by optimizer and seed, of one scheme; and who lacks one."""
    looks, found, gaps = looks_of(study), dict[tuple[str, int], StepResult](), list[str]()
    for run in study.runs:
        result = final_steps(run)
        if result is not None:
            found[run.optimizer, run.seed] = result
        else:
            gaps.append(f"{looks[run.optimizer].name} seed {run.seed}")
    if not found:
        raise NothingToDraw("no final checkpoint has critical steps; run 'saddlescope analyze' on this study")
    scheme = next(iter(found.values())).scheme
    if any(result.scheme.groups != scheme.groups for result in found.values()):
        raise ResultError(f"{study.folder}: critical steps of different groups in one study; remove the stale files in steps/")
    return found, scheme, gaps


def rate_of_training(study: Study) -> float | None:
    """The learning rate that the study trains with, at its largest."""
    rate = study.recipe.get("training", {}).get("lr")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def draw(study: Study) -> Drawing:
    """A column per group, a position per checkpoint's optimizer, an update per colour; every seed a point.

    Raises:
        NothingToDraw: no final checkpoint has critical steps.
        ResultError: the study's results are of different groups.
    """
    found, scheme, gaps = _known(study)
    groups = spread_names(list(next(iter(found.values())).groups))
    updates = list(dict.fromkeys(s.update for result in found.values() for g in groups for s in result.groups[g].steps))
    looks, rate = looks_of(study), rate_of_training(study)
    every = [step for result in found.values() for group in groups for step in result.groups[group].steps]
    scale = Scale.of(every, [rate] if rate else [])
    figure = new_figure(max(5.8, min(10.4, 1.3 + len(groups) * max(2.2, 0.8 * len(looks)))), 4.4)
    panels = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    room = 0.86 / len(updates)
    for axes, group in zip(panels, groups, strict=True):
        scale.apply(axes)
        if rate:
            axes.axhline(rate, color="#777777", linewidth=0.9, linestyle=":", zorder=1)
        for at, optimizer in enumerate(looks):
            for order, update in enumerate(updates):
                look, place = update_look(update), at + (order - (len(updates) - 1) / 2) * room
                of_optimizer = {seed: result for (key, seed), result in found.items() if key == optimizer and update != group}
                mine = {seed: step_of(result, group, update) for seed, result in of_optimizer.items()}
                steps = [step for _, step in sorted(mine.items()) if step is not None]
                across = [place + (i - (len(steps) - 1) / 2) * 0.6 * room / max(len(steps), 1) for i in range(len(steps))]
                axes.plot(across, [scale.place(step) for step in steps], color=look.colour, marker=look.marker,
                          linestyle="none", markersize=4, gid=f"{optimizer}-{update}")  # fmt: skip
        axes.set_title(_title(scheme, group), fontweight="normal")
        axes.set_xlabel("trained with")
        axes.set_xlim(-0.6, len(looks) - 0.4)
        names = [look.name for look in looks.values()]
        axes.set_xticks(range(len(looks)), names, rotation=35, ha="right", rotation_mode="anchor")
        axes.grid(visible=False, axis="x")
    panels[0].set_ylabel("critical step (learning rate, log)")
    handles = [_dot(update_look(key), key) for key in updates]
    legend_below(figure, [*handles, *([_rate_line(rate)] if rate else [])])
    heading(figure, "From which learning rate on does a step hurt a group?", setting(next(iter(found.values())).provenance))
    caption = f"{MEANING} Every seed a point. {count(len(seeds_of(study)), 'training seed')}.{gap_words(gaps)}"
    return Drawing(figure, "Critical steps of the class groups at the final checkpoints", caption, PAPER)


MEANING = (
    "The smallest learning rate at which a step raises the group's loss, by forward passes on the whole training set: for the "
    "step of every optimizer (weight decay included), for the head's part of a plain gradient step, and for the group's own. "
    "At once: the loss rises to first order already; nowhere: not up to a step of 8 times the weights' norm. Dotted: the "
    "largest learning rate of the training; an update whose critical step lies below it hurts the group in such a step."
)


def draw_along(study: Study) -> Drawing:
    """Over training: the head's part of a step (above) and the whole plain step (below), on every group.

    Raises:
        NothingToDraw: no run has critical steps of two checkpoints.
        ResultError: the study's results are of different groups.
    """
    found, scheme, _ = _known(study)
    groups = spread_names(list(next(iter(found.values())).groups))
    ways = {(run.optimizer, run.seed): _way(run) for run in study.runs}
    ways = {key: way for key, way in ways.items() if len(way) > 1}
    rows = [update for update in ("head", "sgd") if any(step_of(r, g, update) for r in found.values() for g in groups)]
    if not ways or not rows:
        raise NothingToDraw("no run has critical steps of two checkpoints; train with checkpoint_every set")
    looks, rate, switch = looks_of(study), rate_of_training(study), switches(study)
    steps = [s for way in ways.values() for r in way.values() for g in groups for u in rows if (s := step_of(r, g, u))]
    scale = Scale.of(steps, [rate] if rate else [])
    figure = new_figure(max(5.2, 1.2 + 2.6 * len(groups)), 1.6 + 2.2 * len(rows))
    panels = figure.subplots(len(rows), len(groups), sharex=True, sharey=True, squeeze=False)
    for row, update in enumerate(rows):
        for axes, group in zip(panels[row], groups, strict=True):
            scale.apply(axes)
            if rate:
                axes.axhline(rate, color="#777777", linewidth=0.9, linestyle=":", zorder=1)
            for (optimizer, seed), way in ways.items():
                known = {epoch: scale.place(s) for epoch, result in way.items() if (s := step_of(result, group, update))}
                look = looks[optimizer]
                axes.plot(list(known), list(known.values()), color=look.colour, marker=look.marker, markersize=3.5,
                          linewidth=0.9, linestyle=look.line, alpha=0.8, gid=f"{optimizer}-{seed}")  # fmt: skip
            mark_switches(axes, switch, looks)
        what = {"head": "head's part", "sgd": "plain step"}[update]
        panels[row, 0].set_ylabel(f"{what}:\ncritical step (log)")
    for column, group in enumerate(groups):
        panels[0, column].set_title(_title(scheme, group), fontweight="normal")
        panels[-1, column].set_xlabel(study.axis)
        plain_ticks(panels[-1, column].xaxis, 6)
    trained = [look for key, look in looks.items() if any(optimizer == key for optimizer, _ in ways)]
    handles = [*(handle(look, line=True) for look in trained), *switch_handles(switch, looks)]
    legend_below(figure, [*handles, *([_rate_line(rate)] if rate else [])])
    heading(figure, "When does a step hurt a group?", setting(next(iter(found.values())).provenance))
    gaps = [f"{looks[run.optimizer].name} seed {run.seed}" for run in study.runs if (run.optimizer, run.seed) not in ways]
    caption = (
        "Critical steps at the stored checkpoints. Above: of the head's part of a plain gradient step, which on the tail "
        "says when the head's step starts to hurt it. Below: of the whole plain step. At once: the group's loss rises to first "
        "order already; nowhere: not up to a step of 8 times the weights' norm. Dotted: the largest learning rate of the "
        f"training. A line per seed.{switch_words(switch, looks)}{gap_words(gaps)}"
    )
    return Drawing(figure, "Critical steps of the head's part and of the plain step along training", caption, PAPER)


def _way(run: Run) -> Mapping[int, StepResult]:
    """Epoch -> critical steps."""
    own = [r for r in run.steps if "epoch" in r.provenance.training and "step" not in r.provenance.training]
    found = {r.provenance.training["epoch"]: r for r in own}
    return {int(epoch): result for epoch, result in sorted(found.items())}


def _title(scheme: Scheme, group: str) -> str:
    return f"{group}\n({count(scheme.sizes[group], 'sample')})"


def _dot(look: Look, key: str) -> Line2D:
    label = look.name if key in _PARTS else f"step of {look.name}"
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle="none", label=label)


def _rate_line(rate: float) -> Line2D:
    return Line2D([], [], color="#777777", linewidth=0.9, linestyle=":", label=f"learning rate of the training ({rate:g})")
