"""Held-out accuracies of a study as data frames, in percent; a missing seed is a gap and never averaged over."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...analysis.records.study import Run, Study
from .gather import ReportError, check_accuracy_comparable, grid, run_status
from .statistics import SPREAD, spread, spread_row

PARTS = ("all", "head", "tail", "many", "medium", "few")


def _accuracy(run: Run | None) -> dict[str, Any]:
    if run is None or run.side_car is None:
        return {}
    found: dict[str, Any] = run.side_car["training"].get("accuracy", {})
    return found


def part_accuracy(run: Run | None, part: str) -> float | None:
    """Final accuracy of one run on one part (all, head, tail, many, medium, few) in percent."""
    value = _accuracy(run).get(part)
    return None if value is None else _percent(run, value)


def _percent(run: Run | None, value: float) -> float:
    if not 0 <= value <= 1:
        where = run.folder / "checkpoint.json" if run else "checkpoint.json"
        raise ReportError(f"{where}: field 'training.accuracy' holds {value}; accuracies are stored as fractions of 1")
    return 100 * float(value)


def parts(study: Study) -> list[str]:
    """Parts that at least one run has an accuracy for."""
    return [part for part in PARTS if any(part_accuracy(run, part) is not None for run in study.runs)]


def accuracy_seeds(study: Study) -> pd.DataFrame:
    """One row per optimizer and seed: ``status`` and accuracy (%) of every part."""
    check_accuracy_comparable(study)
    names = parts(study)
    rows = [
        {"optimizer": optimizer, "seed": seed, "status": run_status(run), **{part: part_accuracy(run, part) for part in names}}
        for optimizer, seed, run in grid(study)
    ]
    return pd.DataFrame(rows, columns=["optimizer", "seed", "status", *names])


def accuracy(study: Study) -> pd.DataFrame:
    """Mean and spread of the accuracy (%) over seeds, per optimizer and part."""
    check_accuracy_comparable(study)
    rows = []
    for optimizer in study.optimizers:
        for part in parts(study):
            values = {seed: part_accuracy(run, part) for seed, run in runs_of(study, optimizer).items()}
            rows.append({"optimizer": optimizer, "part": part, **spread_row(spread(values))})
    return pd.DataFrame(rows, columns=["optimizer", "part", *SPREAD])


def runs_of(study: Study, optimizer: str) -> dict[int, Run | None]:
    """Seed -> run of one optimizer; None where the study lists no such run."""
    return {seed: run for name, seed, run in grid(study) if name == optimizer}


def class_counts(study: Study) -> list[int]:
    """Training samples of each class, from the side-cars."""
    for run in study.runs:
        if run.side_car is not None:
            return [int(count) for count in run.side_car["data"]["class_counts"]]
    return []


def accuracy_per_class(study: Study) -> pd.DataFrame:
    """Mean and spread of the accuracy (%) of every class over seeds, with the class's training samples."""
    check_accuracy_comparable(study)
    rows = []
    for optimizer in study.optimizers:
        runs = runs_of(study, optimizer)
        for label, count in enumerate(class_counts(study)):
            values = {seed: _class_accuracy(run, label) for seed, run in runs.items()}
            rows.append({"optimizer": optimizer, "class": label, "samples": count, **spread_row(spread(values))})
    return pd.DataFrame(rows, columns=["optimizer", "class", "samples", *SPREAD])


def _class_accuracy(run: Run | None, label: int) -> float | None:
    values = _accuracy(run).get("per_class")
    return None if values is None or values[label] is None else _percent(run, values[label])
