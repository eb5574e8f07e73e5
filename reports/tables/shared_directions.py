"""Is one group's way out also the other's? Curvature of every group along the eigenvectors of each, from the line slices."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...analysis.records.study import Study
from .entries import Entry, Sheet, mean_entry, name_entry, records
from .gather import seeds
from .statistics import spread, spread_row
from .words import number

COLUMNS = ["optimizer", "seed", "eigenvector", "of", "group", "curvature", "slope"]


def shared(study: Study) -> pd.DataFrame:
    """One row per optimizer, seed, eigenvector that a line follows, and group that feels it.

    Slopes are those of the eigenvector turned to point downhill for the group that it belongs to. Lines through other weights
    than today's final checkpoint are left out.
    """
    rows = []
    for run in study.runs:
        for piece in run.slices.values():
            direction = piece.directions[0]
            current = run.side_car is not None and piece.provenance.checkpoint_sha256 == run.side_car["sha256"]
            if not current or len(piece.axes) > 1 or not direction.kind.endswith("-eigenvector") or not direction.group:
                continue
            side = -1.0 if direction.slope.get(direction.group, 0.0) > 0 else 1.0
            for group, curvature in direction.curvature.items():
                slope = direction.slope.get(group)
                rows.append(
                    {
                        "optimizer": run.optimizer,
                        "seed": run.seed,
                        "eigenvector": direction.kind.removesuffix("-eigenvector"),
                        "of": direction.group,
                        "group": group,
                        "curvature": curvature,
                        "slope": side * slope if slope is not None else None,
                    }
                )
    return pd.DataFrame(rows, columns=COLUMNS)


def shared_sheets(study: Study) -> list[Sheet]:
    """The curvature of every group along each eigenvector; none where no line follows one."""
    data = shared(study)
    if data.empty:
        return []
    groups = list(dict.fromkeys(str(name) for name in data["group"]))
    rows = []
    for (end, own), part in data.groupby(["eigenvector", "of"], sort=True):
        for optimizer in study.optimizers:
            cells = []
            for group in groups:
                mine = records(part[(part["optimizer"] == optimizer) & (part["group"] == group)])
                found = {int(row["seed"]): float(row["curvature"]) for row in mine}
                values = {seed: found.get(seed) for seed in seeds(study)}
                each = "; ".join("gap" if value is None else number(value, 2) for value in values.values())
                cells.append(mean_entry(spread_row(spread(values)), each if len(values) > 1 else ""))
            what = f"{'most negative' if end == 'min' else 'largest'}, {own}"
            rows.append([Entry(what, "", what), name_entry(study, optimizer), *cells])
    return [
        Sheet(
            "shared_eigenvectors",
            "Curvature of every group along each group's eigenvectors",
            "dᵀH_g d at the final checkpoints, d a unit eigenvector of the group named first. Negative for one group, positive "
            "for another: to second order the way out of one group's saddle is uphill for the other. Mean ± standard "
            "deviation over seeds, below it every seed.",
            [("eigenvector", ""), ("optimizer", ""), *((f"felt by {group}", "") for group in groups)],
            rows,
            data,
            keys=2,
        )
    ]


def shared_sentences(study: Study, groups: Sequence[str]) -> list[str]:
    """Per group: what its most negative eigenvector is to the other groups of the question."""
    found = [row for row in records(shared(study)) if row["eigenvector"] == "min"]
    sentences = []
    for own in groups:
        clauses = []
        for other in (name for name in groups if name != own):
            felt = [row["curvature"] for row in found if row["of"] == own and row["group"] == other]
            if felt:
                up = sum(value > 0 for value in felt)
                clauses.append(f"curves the loss of {other} upwards in {up} of {len(felt)} checkpoints")
        if clauses:
            sentences.append(f"Shared: the most negative eigenvector of {own} {' and '.join(clauses)}.")
    return sentences
