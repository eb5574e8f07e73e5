"""Accuracy: per group and class at the end, and with the training loss over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ...analysis.records.study import Run, Study
from ..drawing.appearance import Look, handle, looks_of
from ..drawing.canvas import FigureError, heading, legend_below, new_figure
from ..drawing.scales import log_axis, plain_ticks
from ..drawing.study_data import Drawing, NothingToDraw, Planned, count, gap_words, seeds_of, study_title
from .along_training import draw_curves, mark_switches, switch_handles, switch_words, switches
from .extremes import Point, seed_points

PAPER_CURVES = "F7 (SSE-SAM, overview figure: head and tail accuracy over the epochs)"
GROUPS = ("all", "head", "tail", "many", "medium", "few")


def figures(study: Study) -> list[Planned]:
    """Accuracy at the end, and the curves of training."""
    return [Planned("accuracy", lambda: draw_final(study)), Planned("learning_curves", lambda: draw_curves_over_epochs(study))]


def _finished(study: Study) -> list[Run]:
    """Runs with a final accuracy.

    Raises:
        NothingToDraw: there are none.
        FigureError: they were trained or tested on different samples.
    """
    runs = [run for run in study.runs if run.side_car is not None and run.side_car["training"].get("accuracy")]
    if not runs:
        raise NothingToDraw("no run is finished; run 'saddlescope train' on the recipe")
    for field, read in (
        ("data.index_sha256", lambda car: car["data"].get("index_sha256")),
        ("accuracy_split", lambda car: car.get("accuracy_split", car["training"].get("accuracy_split"))),
    ):
        if len({str(read(run.side_car)) for run in runs}) > 1:
            raise FigureError(f"accuracies cannot share a figure: the side-cars differ in '{field}'; keep one kind in a study")
    return runs


def _of(runs: Sequence[Run], optimizer: str) -> dict[int, dict[str, Any]]:
    cars = {run.seed: run.side_car for run in runs if run.optimizer == optimizer}
    return {seed: cars[seed]["training"]["accuracy"] for seed in sorted(cars) if cars[seed] is not None}  # type: ignore[index]


def draw_final(study: Study) -> Drawing:
    """Left: groups, every seed a point; right: classes from frequent to rare, means as lines and seeds as points."""
    runs = _finished(study)
    looks, seeds = looks_of(study), seeds_of(study)
    groups = _groups(runs)
    figure = new_figure(max(7.0, min(11.0, 5.2 + 0.28 * len(looks) * len(groups))), 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[max(3, 0.75 * len(groups) + 0.7), 5])
    inside: list[float] = []
    of_classes: list[float] = []
    room = 0.84 / len(looks)
    for order, (optimizer, look) in enumerate(looks.items()):
        found = _of(runs, optimizer)
        for place, group in enumerate(groups):
            at = place + (order - (len(looks) - 1) / 2) * room
            points = {seed: Point.exact(100 * float(acc[group])) for seed, acc in found.items() if acc.get(group) is not None}
            inside += seed_points(left, at, points, look, mean=len(points) == len(seeds) > 1, spread=0.7 * room)
        shift = 0.5 * (order - (len(looks) - 1) / 2) / len(looks)
        of_classes += _classes(right, found, look, len(seeds), shift)
    left.set_xticks(range(len(groups)), groups)
    left.set_xlim(-0.55, len(groups) - 0.45)
    left.grid(visible=False, axis="x")
    left.set_title("class groups", fontweight="normal")
    left.set_ylabel("accuracy (%)")
    _class_axis(right, runs)
    for axes, values in ((left, inside), (right, of_classes)):
        low = min([*values, 100.0])
        axes.set_ylim(max(0.0, low - 0.06 * (100 - low) - 1), 100)
        plain_ticks(axes.yaxis, 6)
    legend_below(figure, [handle(look) for look in looks.values()])
    heading(figure, "Accuracy per group and class", study_title(study))
    return Drawing(figure, "Accuracy per optimizer, group and class", _final_caption(study, runs, groups))


def _groups(runs: Sequence[Run]) -> list[str]:
    known = [name for run in runs for name, value in run.side_car["training"]["accuracy"].items() if value is not None]  # type: ignore[index]
    first = [name for name in GROUPS if name in known]
    return first[:3] if {"head", "tail"} <= set(first) else first


def _classes(axes: Axes, found: dict[int, dict[str, Any]], look: Look, seeds: int, shift: float) -> list[float]:
    rows = {seed: np.array(acc["per_class"], dtype=np.float64) * 100 for seed, acc in found.items() if acc.get("per_class")}
    inside: list[float] = []
    for seed, row in rows.items():
        axes.plot(np.arange(len(row)) + shift, row, linestyle="none", marker=look.marker, color=look.colour, markersize=3.4,
                  alpha=0.6, markeredgewidth=0, clip_on=False, gid=f"seed-{seed}")  # fmt: skip
        inside += [float(value) for value in row[np.isfinite(row)]]
    if len(rows) == seeds:
        axes.plot(np.mean(list(rows.values()), axis=0), color=look.colour, linestyle=look.line, linewidth=1.3, gid="mean")
    return inside


def _class_axis(axes: Axes, runs: Sequence[Run]) -> None:
    counts = runs[0].side_car["data"].get("class_counts") or []  # type: ignore[index]
    axes.set_title("classes", fontweight="normal")
    axes.set_xlabel("class (training samples below)" if counts else "class")
    if not counts:
        plain_ticks(axes.xaxis)
        return
    step = max(1, round(len(counts) / 12))
    shown = list(range(0, len(counts), step))
    axes.set_xticks(shown, [f"{label}\n{counts[label]}" for label in shown])
    axes.set_xlim(-0.5, len(counts) - 0.5)


def _split(runs: Sequence[Run]) -> str:
    car = runs[0].side_car or {}
    return str(car.get("accuracy_split", car.get("training", {}).get("accuracy_split", "")) or "")


def _gaps(study: Study, runs: Sequence[Run]) -> list[str]:
    looks, have = looks_of(study), {(run.optimizer, run.seed) for run in runs}
    return [f"{looks[o].name} seed {s}" for o in study.optimizers for s in seeds_of(study) if (o, s) not in have]


def _final_caption(study: Study, runs: Sequence[Run], groups: Sequence[str]) -> str:
    seeds = seeds_of(study)
    mean = "bars and lines: means where no seed is missing" if len(seeds) > 1 else "one seed, lines join its points"
    eta = (runs[0].side_car or {}).get("groups", {}).get("eta")
    tail = f" A class is tail if it has fewer than {eta} training samples." if eta is not None and "tail" in groups else ""
    split = _split(runs)
    return (
        f"Accuracy of the final checkpoints{f' on {split}' if split else ''}; a group's is the mean over its samples. Every "
        f"point is a seed; {mean}. No error bars: the spread of the points is the spread over seeds.{tail} "
        f"{count(len(seeds), 'training seed')}.{gap_words(_gaps(study, runs))}"
    )


def draw_curves_over_epochs(study: Study) -> Drawing:
    """Training loss, then the accuracy of all, head and tail, over the epochs."""
    looks, seeds, switch = looks_of(study), seeds_of(study), switches(study)
    runs = [run for run in study.runs if run.metrics]
    if not runs:
        raise NothingToDraw("no run has a metrics.jsonl with at least one epoch")
    known = {name for run in runs for name, value in (run.metrics[-1].get("accuracy") or {}).items() if value is not None}
    groups = [name for name in GROUPS if name in known][:3] if {"head", "tail"} <= known else [n for n in GROUPS if n in known]
    figure = new_figure(max(5.2, 2.75 * (1 + len(groups))), 3.6)
    panels = figure.subplots(1, 1 + len(groups), sharex=True, squeeze=False)[0]
    losses: list[float] = []
    reached: list[float] = []
    for optimizer, look in looks.items():
        mine = {run.seed: run.metrics for run in study.of(optimizer) if run.metrics}
        losses += draw_curves(panels[0], _series(mine, None), look, len(seeds), markers=False)
        for axes, group in zip(panels[1:], groups, strict=True):
            reached += draw_curves(axes, _series(mine, group), look, len(seeds), markers=False)
    for axes, title in zip(panels, ["training loss", *(f"accuracy: {group}" for group in groups)], strict=True):
        mark_switches(axes, switch, looks)
        axes.set_title(title, fontweight="normal")
        axes.set_xlabel("epoch")
        plain_ticks(axes.xaxis, 5)
    panels[0].set_ylabel("mean loss over the epoch (log)")
    if any(value > 0 for value in losses):
        log_axis(panels[0], "y", losses)
    if groups:
        panels[1].set_ylabel("accuracy (%)")
    for axes in panels[1:]:
        axes.set_ylim(max(0.0, min([*reached, 100.0]) - 2), 100.5)
        plain_ticks(axes.yaxis, 5)
        axes.tick_params(labelleft=axes is panels[1])
    handles = [handle(look, line=True) for look in looks.values()]
    for entry in handles:
        entry.set_marker("")
    handles += switch_handles(switch, looks)
    legend_below(figure, handles)
    heading(figure, "Training", study_title(study))
    unfinished = [f"{looks[run.optimizer].name} seed {run.seed} (unfinished)" for run in study.missing]
    mean = "thin lines are seeds, thick ones their mean" if len(seeds) > 1 else "one line per run"
    split = _split([run for run in study.runs if run.finished] or runs)
    caption = (
        f"Training loss (of the objective trained, in training mode) and accuracy{f' on {split}' if split else ''} after each "
        f"epoch; {mean}.{switch_words(switch, looks)} {count(len(seeds), 'training seed')}.{gap_words(unfinished)}"
    )
    return Drawing(figure, "Training loss and accuracy over the epochs", caption, PAPER_CURVES)


def _series(runs: dict[int, list[dict[str, Any]]], group: str | None) -> dict[int, dict[int, float]]:
    """Seed -> epoch -> training loss, or accuracy of a group in per cent."""
    found: dict[int, dict[int, float]] = {}
    for seed, rows in runs.items():
        for row in rows:
            value = row.get("train_loss") if group is None else (row.get("accuracy") or {}).get(group)
            if value is not None:
                found.setdefault(seed, {})[int(row["epoch"])] = float(value) * (1 if group is None else 100)
    return found
