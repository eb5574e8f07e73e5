"""The escape experiment: where every optimizer goes from the same checkpoint, step by step."""

from __future__ import annotations

from ...analysis.records.results import GroupResult
from ...analysis.records.steps import CoursePoint
from ...analysis.records.study import Run, Study
from ..drawing.appearance import handle, looks_of
from ..drawing.canvas import heading, legend_below, new_figure
from ..drawing.scales import SCALE_WORDS, plain_ticks, value_axis
from ..drawing.study_data import Drawing, NothingToDraw, Planned, count, gap_words, seeds_of, setting
from .along_training import draw_curves

NAME = "escape_experiment"
#: what each row shows
ROWS = ("distance along v", "loss of the group", "$\\lambda_\\mathrm{min}$", "net rate")


def figures(study: Study) -> list[Planned]:
    """The figure of the experiment; none where the study does not go on from another."""
    return [Planned(NAME, lambda: draw(study))] if any(run.courses for run in study.runs) else []


def curves(run: Run, scheme: str, group: str) -> tuple[dict[int, float], ...]:
    """Step -> number of each row, from the start (step 0) on."""
    course = run.courses[scheme]
    start, results = course.start[group], dict(run.by_step(scheme))
    found: tuple[dict[int, float], ...] = ({0: 0.0}, {0: start.loss}, {0: start.lambda_min.value}, {})
    for point in course.points:
        result = results.get(point.step)
        if result is not None and group in result.groups:
            net = run.own_net_rate(result)
            for row, value in zip(found, _numbers(point, result.groups[group], group, net), strict=True):
                if value is not None:
                    row[point.step] = value
    return found


def _numbers(point: CoursePoint, found: GroupResult, group: str, net: float | None) -> tuple[float | None, ...]:
    return abs(point.along[group]), found.loss, found.lambda_min.value, net


def draw(study: Study) -> Drawing:
    """A row per quantity, a column per group, an optimizer per colour; thin lines are seeds, thick ones their mean.

    Raises:
        NothingToDraw: no checkpoint on the way was analysed.
    """
    scheme = next(name for run in study.runs for name in run.courses)
    gone = [run for run in study.runs if scheme in run.courses and run.by_step(scheme)]
    if not gone:
        raise NothingToDraw("no checkpoint on the way has a curvature result; run 'saddlescope analyze' on this study")
    followed = {group for run in gone for _, result in run.by_step(scheme) for group in result.groups}
    groups = [group for group in dict.fromkeys(g for run in gone for g in run.courses[scheme].vectors) if group in followed]
    looks, seeds = looks_of(study), seeds_of(study)
    rows = ROWS if any(len(curves(run, scheme, group)[3]) > 1 for run in gone for group in groups) else ROWS[:3]
    figure = new_figure(max(5.4, 1.0 + 3.2 * len(groups)), 1.4 + 1.6 * len(rows))
    panels = figure.subplots(len(rows), len(groups), sharex=True, squeeze=False)
    for column, group in enumerate(groups):
        for row, label in enumerate(rows):
            axes, inside = panels[row, column], list[float]()
            for key, look in looks.items():
                mine = {run.seed: curves(run, scheme, group)[row] for run in gone if run.optimizer == key}
                inside += draw_curves(axes, {seed: curve for seed, curve in mine.items() if curve}, look, len(seeds))
            sizes = sorted(abs(value) for value in inside if value)
            scale = value_axis(axes, inside or [0.0], sizes[len(sizes) // 4] if sizes else 1.0)
            axes.set_ylabel(f"{label}{SCALE_WORDS[scale].replace(' ', chr(10), 1)}")
        panels[0, column].set_title(group)
        panels[-1, column].set_xlabel("steps")
        plain_ticks(panels[-1, column].xaxis)
    legend_below(figure, [handle(look, line=True) for key, look in looks.items() if any(run.optimizer == key for run in gone)])
    first = gone[0].by_step(scheme)[0][1]
    heading(figure, "Who leaves, from the same checkpoint?", setting(first.provenance))
    gaps = [f"{looks[run.optimizer].name} seed {run.seed}" for run in study.runs if run not in gone]
    origin = gone[0].courses[scheme].started_from
    net = (
        "The net rate is of the optimizer's own field on the whole training set, where it leaves fastest. "
        if len(rows) == len(ROWS)
        else ""
    )
    mean = "thin lines are seeds, thick ones their mean" if len(seeds) > 1 else "one line per run"
    caption = (
        f"Training goes on from the checkpoint of study {origin['study']} of the same seed, with the same batches and one "
        "constant rate. v: the unit eigenvector of the group's λ_min at the start; distance along v is |⟨v, w − w₀⟩|. "
        f"{net}{count(len(seeds), 'training seed')}; {mean}.{gap_words(gaps)}"
    )
    return Drawing(figure, "Escape experiment: the way from one checkpoint with each optimizer", caption)
