"""Curvature of a study as data frames: one observation per row, numbers unrounded, gaps as rows.

Names are those of the stored schema; ``negative_mass@0.001`` is the mass below ``-0.001 lambda_max``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ...analysis.records.results import GroupResult
from ...analysis.records.study import Study
from .gather import Cell, Measured, cells, finals, measured
from .statistics import SPREAD, spread, spread_row

ENDS = ("seed_interval_low", "seed_interval_high")
VERDICTS = ("saddle", "negative curvature, not stationary", "no negative curvature above tau", "undetermined")


def quantities(found: Iterable[Cell]) -> list[str]:
    """Names of the numbers that at least one cell has, in the order of the schema; of no cell, what every group would have."""
    names: dict[str, None] = dict.fromkeys(("lambda_min", "lambda_max", "negative_ratio"))
    for cell in found:
        if cell.result is not None:
            names.update(dict.fromkeys(measured(cell.result)))
    order = [*dict.fromkeys(name.split("@")[0] for name in names)]
    return sorted(names, key=lambda name: order.index(name.split("@")[0]))


def curvature_seeds(study: Study, scheme: str = "head-tail") -> pd.DataFrame:
    """One row per optimizer, seed and group (T3): every number with its own interval, and what supports it."""
    found = list(cells(study, scheme))
    names = quantities(found)
    rows = [{**_key(cell), "status": cell.status, **_row(cell.result, names)} for cell in found]
    return pd.DataFrame(rows)


def curvature_along(study: Study, scheme: str = "head-tail") -> pd.DataFrame:
    """The same for every analysed checkpoint along training, with its epoch."""
    finals(study, scheme)  # refuses mixed results
    found = [
        (epoch, Cell(run.optimizer, run.seed, group, result.groups[group], "measured"))
        for run in study.runs
        for epoch, result in run.along(scheme)
        if result.provenance.params_pattern is None
        for group in result.groups
    ]
    names = quantities(cell for _, cell in found)
    return pd.DataFrame([{**_key(cell), "epoch": epoch, **_row(cell.result, names)} for epoch, cell in found])


def _key(cell: Cell) -> dict[str, Any]:
    return {"optimizer": cell.optimizer, "seed": cell.seed, "group": cell.group}


def _row(result: GroupResult | None, names: list[str]) -> dict[str, Any]:
    values = measured(result) if result is not None else {}
    row: dict[str, Any] = {"size": result.size if result else None}
    for name in names:
        entry: Measured | None = values.get(name)
        row[name] = entry.value if entry else None
        if name.startswith(("lambda", "negative", "trace", "saddle", "gauss")):
            row[f"{name}_low"], row[f"{name}_high"] = (entry.low, entry.high) if entry else (None, None)
    if result is None:
        return row | dict.fromkeys(_SUPPORT)
    support = (
        result.trace.standard_error if result.trace else None,
        result.lambda_min.residual,
        result.lambda_max.residual,
        result.lambda_min.converged and result.lambda_max.converged,
        result.lambda_min.confidence,
        result.noise.repeat,
        result.noise.symmetry,
        result.noise.absolute,
        result.verdict.tau,
        result.verdict.label,
        result.certificate.holds if result.certificate else None,
        result.matvecs,
    )
    return row | dict(zip(_SUPPORT, support, strict=True))


_SUPPORT = (
    "trace_standard_error",
    "lambda_min_residual",
    "lambda_max_residual",
    "converged",
    "confidence",
    "noise_repeat",
    "noise_symmetry",
    "noise_absolute",
    "tau",
    "verdict",
    "certificate_holds",
    "matvecs",
)


def curvature(
    study: Study, scheme: str = "head-tail", read: Callable[[GroupResult], dict[str, Measured]] = measured
) -> pd.DataFrame:
    """Mean and spread over seeds of every number, per optimizer and group.

    A mean is None where a seed is missing, or where the number is not defined in a seed (``undefined_seeds``).
    ``seed_interval_low`` and ``seed_interval_high`` enclose the intervals of the single checkpoints: what is known about the
    measurements, beside ``std``, which is how much the seeds differ. ``read``: a group's numbers by name.
    """
    found = list(cells(study, scheme))
    names, groups = quantities(found), list(dict.fromkeys(cell.group for cell in found))
    rows = []
    for optimizer in study.optimizers:
        for group in groups:
            mine = {cell.seed: cell for cell in found if (cell.optimizer, cell.group) == (optimizer, group)}
            entries = {seed: read(cell.result) if cell.result else {} for seed, cell in mine.items()}
            for name in names:
                single = {seed: entry.get(name) for seed, entry in entries.items()}
                # a run that was measured but has no such number (no displacement without negative curvature) is not a gap
                undefined = [seed for seed, value in single.items() if value is None and mine[seed].result is not None]
                found_spread = spread({seed: value.value if value else None for seed, value in single.items()})
                missing = tuple(seed for seed in found_spread.missing if seed not in undefined)
                lows = [value.low for value in single.values() if value]
                highs = [value.high for value in single.values() if value]
                rows.append(
                    {
                        "optimizer": optimizer,
                        "group": group,
                        "quantity": name,
                        **spread_row(replace(found_spread, missing=missing)),
                        "undefined_seeds": " ".join(str(seed) for seed in undefined),
                        "seed_interval_low": _enclosing(min, lows),
                        "seed_interval_high": _enclosing(max, highs),
                    }
                )
    return pd.DataFrame(rows, columns=["optimizer", "group", "quantity", *SPREAD, "undefined_seeds", *ENDS])


def _enclosing(pick: Callable[[list[float]], float], ends: Sequence[float | None]) -> float | None:
    """The outermost end; None where one of them is not bounded."""
    known = [end for end in ends if end is not None]
    return pick(known) if known and len(known) == len(ends) else None


def verdicts(study: Study, scheme: str = "head-tail") -> pd.DataFrame:
    """How many seeds got each verdict, per optimizer and group; ``seeds`` counts the gaps too."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in cells(study, scheme):
        empty = {"optimizer": cell.optimizer, "group": cell.group, **dict.fromkeys(VERDICTS, 0), "gap": 0, "seeds": 0}
        row = rows.setdefault((cell.optimizer, cell.group), empty)
        row[cell.result.verdict.label if cell.result else "gap"] += 1
        row["seeds"] += 1
    for row in rows.values():
        counts = [f"{name} {row[name]}/{row['seeds']}" for name in (*VERDICTS, "gap") if row[name]]
        row["text"] = "; ".join(counts) + (" seeds" if row["seeds"] != 1 else " seed")
    return pd.DataFrame(list(rows.values()), columns=["optimizer", "group", *VERDICTS, "gap", "seeds", "text"])
