"""Which optimizer leaves along a group's most negative eigenvector v, and which along any direction: from stored rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...analysis.records.study import Study
from .entries import Entry, Sheet, name_entry, records
from .escape import span
from .gather import cells, finals
from .words import GAP, field_name, listed, number

RATE_COLUMNS = [
    "optimizer", "seed", "group", "field", "radii", "rate", "halved", "distance", "settled", "far_rate", "far_distance",
]  # fmt: skip
MEANING = (
    "A rate is −vᵀ DG v of the field G that an optimizer follows on the whole training set, weight decay included: above 0 a "
    "displacement along v grows by the learning rate times the rate in every step, below 0 it comes back."
)


def along(study: Study, scheme: str) -> pd.DataFrame:
    """One row per optimizer, seed and group: the group's curvature along v and the training objective's."""
    rows = []
    for cell in cells(study, scheme):
        found = cell.result.escape if cell.result is not None else None
        rows.append(
            {
                "optimizer": cell.optimizer,
                "seed": cell.seed,
                "group": cell.group,
                "status": cell.status if cell.result is None else "measured",
                "group_curvature": cell.result.lambda_min.value if cell.result is not None and found is not None else None,
                "objective_curvature": found.objective_curvature if found is not None else None,
            }
        )
    return pd.DataFrame(rows)


def rates(study: Study, scheme: str) -> pd.DataFrame:
    """One row per optimizer that trained, seed, group and optimizer whose field was differentiated."""
    rows = [
        {"optimizer": cell.optimizer, "seed": cell.seed, "group": cell.group, "field": rate.optimizer,
         "radii": " ".join(f"{part}={rho:g}" for part, rho in rate.radii.items()),
         **rate.model_dump(include={"rate", "halved", "distance", "settled", "far_rate", "far_distance"})}
        for cell in cells(study, scheme)
        for rate in (cell.result.escape.rates if cell.result is not None and cell.result.escape is not None else ())
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=RATE_COLUMNS)


def net_rates(study: Study, scheme: str) -> pd.DataFrame:
    """One row per optimizer that trained, seed and optimizer whose field was looked at."""
    rows = [
        {"optimizer": run.optimizer, "seed": run.seed, "field": rate.optimizer,
         "rate": rate.rate, "low": rate.interval[0], "high": rate.interval[1], "converged": rate.converged}
        for run, result in finals(study, scheme)
        for rate in (result.net_rates if result is not None else ())
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["optimizer", "seed", "field", "rate", "low", "high", "converged"])


def rate_sheets(study: Study, scheme: str) -> list[Sheet]:
    """The tables of rates along v and of net rates; those of which nothing was measured are left out."""
    found, net = rates(study, scheme), net_rates(study, scheme)
    sheets = [_rate_sheet(study, scheme, found)] if len(found) else []
    return sheets + ([_net_sheet(study, scheme, net)] if len(net) else [])


def _rate_sheet(study: Study, scheme: str, data: pd.DataFrame) -> Sheet:
    both = along(study, scheme)
    fields = list(dict.fromkeys(str(name) for name in data["field"]))
    rows = []
    for optimizer in study.optimizers:
        for group in dict.fromkeys(str(name) for name in data["group"]):
            here = records(both[(both["optimizer"] == optimizer) & (both["group"] == group)])
            dashes = ["–" if row["status"] == "measured" else GAP for row in here]
            entries = [_entry([row[name] for row in here], dashes, higher=False) for name in _CURVATURES]
            mine = data[(data["optimizer"] == optimizer) & (data["group"] == group)]
            for field in fields:
                by_seed = {int(row["seed"]): row for row in records(mine[mine["field"] == field])}
                for name in ("rate", "far_rate"):
                    values = [by_seed[int(row["seed"])][name] if int(row["seed"]) in by_seed else None for row in here]
                    entries.append(_entry(values, dashes, higher=True))
            rows.append([name_entry(study, optimizer), Entry(group, "", group), *entries])
    heads = [("trained with", ""), ("group", "class group"), *_CURVATURES.values()]
    for field in fields:
        some = data[data["field"] == field]
        radii = listed(list(dict.fromkeys(str(text) for text in some["radii"] if text)))
        label = f"{field_name(field)}{f' ({radii})' if radii else ''}"
        heads += [
            (f"{label}: at w", f"rate of its field, by differences over {_distance(some['distance'])}"),
            (f"{label}: across a step", f"the same over {_distance(some['far_distance'])}"),
        ]
    return Sheet(
        f"rates_{scheme}",
        f"Escape rates along v ({scheme})",
        f"{MEANING} v is the unit eigenvector of the group's λ_min at that checkpoint. Every seed, coloured where the "
        "optimizer leaves in every one. At w and across a step differ where the loss has kinks: each holds for its distance.",
        heads,
        rows,
        data,
        keys=2,
    )


_CURVATURES = {
    "group_curvature": ("curvature of the group", "vᵀ H_g v = λ_min"),
    "objective_curvature": ("of the objective", "vᵀ H v of the training objective, weight decay included"),
}


def _entry(values: Sequence[Any], dashes: Sequence[str], *, higher: bool) -> Entry:
    """Every seed's number; coloured where it is above 0 in each."""
    known = [float(value) for value in values if value is not None and not pd.isna(value)]
    texts = [
        number(float(value), 2) if value is not None and not pd.isna(value) else dash
        for value, dash in zip(values, dashes, strict=True)
    ]
    leaves = higher and len(known) == len(texts) and min(known, default=0.0) > 0
    return Entry("; ".join(texts), "", float(np.mean(known)) if known else None, "decided" if leaves else "")


def _distance(column: pd.Series) -> str:
    return span(list(column), 1)


def _net_sheet(study: Study, scheme: str, data: pd.DataFrame) -> Sheet:
    fields = list(dict.fromkeys(str(name) for name in data["field"]))
    rows = []
    for optimizer in study.optimizers:
        seeds = [run.seed for run in study.of(optimizer)]
        entries = []
        for field in fields:
            mine = records(data[(data["optimizer"] == optimizer) & (data["field"] == field)])
            by_seed = {int(row["seed"]): row for row in mine}
            values = [by_seed[seed]["rate"] if seed in by_seed else None for seed in seeds]
            entries.append(_entry(values, ["–"] * len(seeds), higher=True))
        rows.append([name_entry(study, optimizer), *entries])
    return Sheet(
        f"net_rates_{scheme}",
        "Net rates: does an optimizer leave along any direction?",
        "Minus the smallest eigenvalue of the symmetric part of DG(w) at the final checkpoint: the largest escape rate along "
        "any direction, proven from below by a unit vector. Every seed, coloured where it is above 0 in each.",
        [("trained with", ""), *((f"field of {field_name(field)}", "") for field in fields)],
        rows,
        data,
        keys=1,
    )


def rate_sentences(study: Study, scheme: str, groups: Sequence[str]) -> list[str]:
    """Per group: what v is to the training objective, and which fields leave along it; then along any direction."""
    both, found, net = along(study, scheme), rates(study, scheme), net_rates(study, scheme)
    sentences = []
    for group in groups:
        curved = both[(both["group"] == group) & both["objective_curvature"].notna()]
        if len(curved):
            up = int((curved["objective_curvature"] > 0).sum())
            sentences.append(
                f"Objective, {group}: along v, the most negative eigenvector of {group}, the training objective curves upwards "
                f"in {up} of {len(curved)} checkpoints ({span(list(curved['objective_curvature']), 1)}, where the group has "
                f"{span(list(curved['group_curvature']), 1)}){': there plain descent comes back' if up else ''}."
            )
        clauses = [
            f"{field_name(str(field))} leaves in {int((part['rate'] > 0).sum())} of {len(part)} at the checkpoint and in "
            f"{int((part['far_rate'] > 0).sum())} across a step"
            for field, part in found[found["group"] == group].groupby("field", sort=False)
        ]
        if clauses:
            sentences.append(f"Fields along v, {group}: {'; '.join(clauses)}.")
    clauses = [
        f"{field_name(str(field))} in {int((part['rate'] > 0).sum())} of {len(part)} (net rate {span(list(part['rate']), 1)})"
        for field, part in net.groupby("field", sort=False)
    ]
    if clauses:
        sentences.append(f"Any direction: at the checkpoint the field leaves along some direction for {'; '.join(clauses)}.")
    return sentences
