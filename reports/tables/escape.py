"""What leaving a point of negative curvature would gain, from the stored escape tests.

A verdict speaks about the point; this speaks about the way out: how far the loss really falls along the most negative
eigenvector v. Whether an optimizer takes that way is a matter of its field, see
:mod:`~saddlescope.reports.tables.escape_rates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ...analysis.records.results import GroupResult
from ...analysis.records.study import Study
from .entries import Entry, Sheet, mean_entry, name_entry, records
from .gather import cells
from .statistics import spread, spread_row
from .words import number

_ANALYSED = ("measured", "no escape test")


@dataclass(frozen=True)
class Way:
    """One checkpoint and group: what the loss does on the line ``w + s v``, downhill side positive.

    ``fall`` and ``predicted`` are relative to the loss at the checkpoint, at ``at`` (in units of ``||w||``), the lowest point
    tried. ``carried`` is ``(L(s) + L(-s) - 2 L(0)) / s^2`` at the nearest points tried (``nearest``, in units of ``||w||``)
    divided by ``lambda_min``: 1 where the curvature of the point reaches that far, negative where the loss curves upwards.
    """

    fall: float
    at: float
    predicted: float
    carried: float | None
    nearest: float | None


def way(result: GroupResult) -> Way | None:
    """Reads a stored escape test; None where there is none, or where loss or weights are zero."""
    found = result.escape
    if found is None or found.test is None or result.loss <= 0 or result.weight_norm <= 0:
        return None
    steps, loss, model = (np.asarray(values) for values in (found.test.steps, found.test.loss, found.test.quadratic))
    # an eigenvector has no sign of its own: downhill is positive
    side = -1.0 if found.gradient_along_v > 0 else 1.0
    lowest = int(np.argmin(loss))
    fall = float(1 - loss[lowest] / result.loss)
    if fall <= 0:
        fall, at, predicted = 0.0, 0.0, 0.0
    else:
        at, predicted = side * float(steps[lowest]) / result.weight_norm, float(1 - model[lowest] / result.loss)
    nearest = min((float(s) for s in steps if s > 0 and -s in steps), default=None)
    carried = None
    if nearest is not None and result.lambda_min.value != 0:
        pair = float(loss[steps == nearest][0] + loss[steps == -nearest][0])
        carried = (pair - 2 * result.loss) / nearest**2 / result.lambda_min.value
    return Way(fall, at, predicted, carried, nearest / result.weight_norm if nearest is not None else None)


def ways(study: Study, scheme: str) -> pd.DataFrame:
    """One row per optimizer, seed and group; ``status`` says why a row has no numbers."""
    rows = []
    for cell in cells(study, scheme):
        found = way(cell.result) if cell.result is not None else None
        escape = cell.result.escape if cell.result is not None else None
        status = cell.status if cell.result is None or found is not None else "no escape test"
        rows.append(
            {
                "optimizer": cell.optimizer,
                "seed": cell.seed,
                "group": cell.group,
                "status": status,
                "largest_fall": found.fall if found else None,
                "at": found.at if found else None,
                "predicted_fall": found.predicted if found else None,
                "curvature_carried": found.carried if found else None,
                "nearest_step": found.nearest if found else None,
                "gradient_along_v": escape.gradient_along_v if escape else None,
                "correlated_negative_curvature": escape.correlated_negative_curvature if escape else None,
            }
        )
    return pd.DataFrame(rows)


def escape_sheets(study: Study, scheme: str) -> list[Sheet]:
    """The table of escape tests; none where nothing was tested."""
    tested = ways(study, scheme)
    return [_way_sheet(study, scheme, tested)] if len(tested) and tested["largest_fall"].notna().any() else []


#: column of ``ways`` -> (head, what it means, factor for the reader)
_COLUMNS = {
    "largest_fall": ("largest fall (%)", "of the group's loss, on the points tried along ±v, relative to the checkpoint", 100),
    "at": ("where (% of ‖w‖)", "distance along v at which it falls most; positive: downhill, negative: against the slope", 100),
    "predicted_fall": ("model there (%)", "fall that L + s⟨v, ∇L⟩ + s²λ_min/2 predicts at that place", 100),
    "curvature_carried": (
        "curvature kept",
        "(L(s) + L(−s) − 2L(0))/s² at the nearest points tried, divided by λ_min: 1 if the curvature of the point reaches so "
        "far, negative if the loss curves upwards there",
        1,
    ),
    "correlated_negative_curvature": ("⟨v, g⟩²/‖g‖²", "share of the squared gradient along v", 1),
}


def _way_sheet(study: Study, scheme: str, data: pd.DataFrame) -> Sheet:
    rows = []
    for (optimizer, group), part in data.groupby(["optimizer", "group"], sort=False):
        entries = [_seeds_entry(part, name, factor) for name, (_, _, factor) in _COLUMNS.items()]
        rows.append([name_entry(study, str(optimizer)), Entry(str(group), "", str(group)), *entries])
    nearest = [float(value) for value in data["nearest_step"].dropna()]
    reach = span(nearest, 100)
    return Sheet(
        f"escape_{scheme}",
        f"What leaving would gain ({scheme})",
        "The group's loss along ±v, v the unit eigenvector of λ_min: the largest fall on the points tried, where, and what the "
        "quadratic model of the checkpoint predicts there. Mean ± standard deviation over seeds, below it every seed. "
        f"Curvature kept is measured over ±{reach} % of ‖w‖.",
        [("optimizer", ""), ("group", "class group"), *((head, meaning) for head, meaning, _ in _COLUMNS.values())],
        rows,
        data,
        keys=2,
    )


def _seeds_entry(part: pd.DataFrame, name: str, factor: float) -> Entry:
    """Mean ± std over seeds with every seed below; a gap where a seed is missing, a dash where one has no such number."""
    values = {int(row["seed"]): None if pd.isna(row[name]) else factor * float(row[name]) for row in records(part)}
    absent = tuple(int(row["seed"]) for row in records(part) if row["status"] not in _ANALYSED)
    each = "; ".join("–" if value is None else number(value, 2) for value in values.values()) if len(values) > 1 else ""
    if None in values.values() and not absent:
        return Entry("–", each, None)
    # a distance to one side and one to the other are no distance 0 on average
    sizes = {seed: abs(value) if name == "at" and value is not None else value for seed, value in values.items()}
    return mean_entry(spread_row(replace(spread(sizes), missing=absent)), each)


def escape_sentences(study: Study, scheme: str, groups: Sequence[str]) -> list[str]:
    """Per group: how much the loss falls along ±v and what was predicted."""
    tested = ways(study, scheme)
    sentences = [_fall_sentence(tested[tested["group"] == group], group) for group in groups]
    return [sentence for sentence in sentences if sentence]


def _fall_sentence(data: pd.DataFrame, group: str) -> str:
    found = data[data["largest_fall"].notna()]
    if found.empty:
        return ""
    falls = [float(value) for value in found["largest_fall"]]
    falling = found[found["largest_fall"] > 0]
    text = (
        f"Leaving, {group}: along ±v, the most negative eigenvector, the largest fall of the loss is {span(falls, 100)} % "
        f"(median {number(100 * float(np.median(falls)), 2)} %, {len(found)} checkpoint{'s' * (len(found) != 1)}"
    )
    still = len(found) - len(falling)
    text += f", {still} without any)" if still else ")"
    if len(falling):
        reach = 100 * max(abs(float(value)) for value in falling["at"])
        predicted = [float(value) for value in falling["predicted_fall"]]
        text += f", at most {number(reach, 2)} % of ‖w‖ away; the quadratic model predicts {span(predicted, 100)} % there"
    kept = [float(value) for value in found["curvature_carried"].dropna()]
    if kept:
        text += f". Over the nearest points tried (±{span(list(found['nearest_step']), 100)} % of ‖w‖) {_kept_words(kept)}"
    return f"{text}."


def _kept_words(kept: Sequence[float]) -> str:
    middle, upward = float(np.median(kept)), sum(value < 0 for value in kept)
    words = (
        "the loss curves upwards in the median" if middle < 0 else f"the loss keeps {_share(middle)} of that curvature (median)"
    )
    if upward:
        words += f" and {'does so' if middle < 0 else 'curves upwards'} in {upward} of {len(kept)}"
    return words + (": λ_min describes the point, not its surroundings" if middle < 0.5 else "")


def _share(value: float) -> str:
    return f"{number(100 * value, 2)} %"


def span(values: Sequence[float], factor: float) -> str:
    """``a to b`` of the smallest and largest, or the one value."""
    known = sorted(factor * float(value) for value in values)
    ends = dict.fromkeys(number(value, 2) for value in (known[0], known[-1])) if known else {}
    return " to ".join(ends)
