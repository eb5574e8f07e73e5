"""One optimizer against each other one, group by group: λ_min, λ_max and their ratio side by side, paired over seeds.

The ratio alone misleads: it falls when λ_max rises although the negative curvature is the same. So every reading names which of
the three moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ...analysis.records.study import Study
from . import study_tables as tables
from .entries import Entry, Sheet, difference_entry, label
from .sampling import mean_words
from .statistics import Difference, needed_words, paired_difference
from .words import listed, optimizer_name

QUANTITIES = ("lambda_min", "lambda_max", "negative_ratio")


@dataclass(frozen=True)
class Comparison:
    """``target`` minus ``other`` in one group, for each of QUANTITIES; no ratio of a group on random parts."""

    target: str
    other: str
    group: str
    differences: dict[str, Difference]

    @property
    def reading(self) -> str:
        """What the three differences say together."""
        low, high = (self.differences[name].decision for name in QUANTITIES[:2])
        ratio = self.differences["negative_ratio"].decision if "negative_ratio" in self.differences else ""
        if low == "gap":
            return "a seed is missing"
        size = {"higher": "less negative curvature", "lower": "more negative curvature"}.get(low, "size of λ_min undecided")
        if needed := needed_words(self.differences["lambda_min"]):
            size += f" ({needed})"
        if ratio in ("higher", "lower") and low == "undecided":
            moved = f" (λ_max is {high})" if high in ("higher", "lower") else ""
            return f"{size}; the ratio is {ratio} without λ_min being shown to move{moved}"
        if {"lower": "higher", "higher": "lower"}.get(ratio) not in (low, None):
            return f"{size}, yet the ratio is {ratio}: λ_max moved more"
        return size


def compare(study: Study, scheme: str, target: str, groups: Sequence[str]) -> list[Comparison]:
    """``target`` against every other optimizer of the study in each group."""
    values = tables.by_seed(study, scheme)
    return [
        Comparison(
            target,
            other,
            group,
            {
                name: paired_difference(values[target, group, name], values[other, group, name])
                for name in QUANTITIES
                if (target, group, name) in values
            },
        )
        for group in groups
        for other in study.optimizers
        if other != target
    ]


def size_sentences(study: Study, scheme: str, found: Sequence[Comparison]) -> list[str]:
    """One sentence per group: against whom the negative curvature is decidedly smaller, larger, or neither."""
    sentences, parted = [], mean_words(study, scheme)
    words = {
        "higher": "less negative than with",
        "lower": "more negative than with",
        "undecided": "not decidedly different from",
        "gap": "not compared with",
    }
    for group in dict.fromkeys(entry.group for entry in found):
        by_decision: dict[str, list[str]] = {}
        explained = False
        for entry in (entry for entry in found if entry.group == group):
            difference = entry.differences["lambda_min"]
            needed = needed_words(difference, short=explained) if difference.count > 1 else ""
            explained = explained or difference.needed is not None
            name = optimizer_name(study, entry.other) + (f" ({needed})" if needed else "")
            by_decision.setdefault(difference.decision, []).append(name)
        clauses = [f"{words[decision]} {listed(names)}" for decision, names in by_decision.items()]
        name = optimizer_name(study, found[0].target)
        ends = [entry.differences["lambda_min"] for entry in found if entry.group == group]
        counts = [one.count for one in ends if one.mean is not None]
        how = f" ({'one seed gives no interval' if max(counts) < 2 else 'paired over seeds, 95 %'})" if counts else ""
        of = f", {parted[group]}," if group in parted else ""
        sentences.append(f"Size, {group}: λ_min of {name}{of} is {'; '.join(clauses)}{how}.")
    return sentences


def comparison_sheet(study: Study, scheme: str, target: str, groups: Sequence[str]) -> Sheet:
    """The comparison as a table with its reading."""
    rows, data, parted = [], [], mean_words(study, scheme)
    for order, entry in enumerate(compare(study, scheme, target, groups)):
        cells = []
        for name in QUANTITIES:
            found = entry.differences.get(name)
            if found is None:
                cells.append(Entry("–", "of one part only: not compared"))
                continue
            record = {
                "target": target,
                "other": entry.other,
                "group": entry.group,
                "quantity": name,
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "n": found.count,
                "higher_in": found.higher,
                "missing_seeds": " ".join(str(seed) for seed in found.missing),
                "decision": found.decision,
                "seeds_needed": found.needed,
            }
            data.append(record)
            cells.append(difference_entry(record))
        rows.append(
            [
                Entry(entry.group, parted.get(entry.group, ""), entry.group),
                Entry(optimizer_name(study, entry.other), "", order),
                *cells,
                Entry(entry.reading, "", entry.reading),
            ]
        )
    name = optimizer_name(study, target)
    return Sheet(
        f"comparison_{scheme}",
        f"{name} against each of the others",
        f"{name} minus the other optimizer on the same seed: mean and 95 % Student t interval over seeds. Bold where the "
        "interval leaves out zero. A positive difference of λ_min means less negative curvature.",
        [("group", ""), ("against", ""), *(label(quantity) for quantity in QUANTITIES), ("what it says", "")],
        rows,
        pd.DataFrame(data),
        keys=2,
    )
