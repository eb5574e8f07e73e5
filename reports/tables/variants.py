"""Variants of one optimizer against each other: the same rule with other settings, paired over seeds, every pair.

What differs between two variants is one setting or two, so a difference is that setting's doing and not the rule's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pandas as pd
from scipy import stats

from ...analysis.records.study import Study
from . import study_tables as tables
from .entries import Entry, Sheet, difference_entry, label, records
from .statistics import CONFIDENCE
from .words import listed, optimizer_name, rule_name

QUANTITIES = ("accuracy", "gradient_norm", "lambda_min", "lambda_max", "negative_ratio")
#: what the sentence on variants rests on
TOLD = ("accuracy", "gradient_norm", "lambda_min")
#: pairs of one quantity that the sentence names; more are told by the order of the means
PAIRS_TOLD = 3


def families(study: Study) -> dict[str, list[str]]:
    """Rule -> its optimizers in the study's order, for rules with more than one."""
    found: dict[str, list[str]] = {}
    for key, variant in study.variants.items():
        found.setdefault(variant.rule, []).append(key)
    return {rule: keys for rule, keys in found.items() if len(keys) > 1}


def differences(study: Study, scheme: str | None, rule: str) -> pd.DataFrame:
    """``optimizer`` minus ``against`` on the same seed for every pair of the rule's variants; columns as in ``tables``."""
    pairs = list(combinations(families(study)[rule], 2))
    found = [tables.differences_between(study, scheme, optimizer, against, QUANTITIES) for against, optimizer in pairs]
    return pd.concat(found, ignore_index=True)


def variant_sheets(study: Study, scheme: str | None) -> list[Sheet]:
    """A sheet per rule that the study holds several times: quantity and pair down, groups across."""
    return [_sheet(study, scheme, rule) for rule in families(study)]


def _sheet(study: Study, scheme: str | None, rule: str) -> Sheet:
    data = differences(study, scheme, rule)
    shown = tables.by_seed(study, scheme)
    groups = [group for group in dict.fromkeys(data["group"]) if any(g == group and q != "accuracy" for _, g, q in shown)]
    groups = groups or list(dict.fromkeys(data["group"]))
    data = data[data["group"].isin(groups)]
    rows = []
    for (quantity, optimizer, against), part in data.groupby(["quantity", "optimizer", "against"], sort=False):
        found = {row["group"]: row for row in records(part)}
        pair = f"{optimizer_name(study, str(optimizer))} − {optimizer_name(study, str(against))}"
        entries = [difference_entry(found[group]) if group in found else Entry("") for group in groups]
        rows.append([Entry(label(str(quantity))[0], "", QUANTITIES.index(str(quantity))), Entry(pair, "", pair), *entries])
    rows.sort(key=lambda row: int(row[0].sort or 0))
    return Sheet(
        f"variants_{rule}",
        f"{rule_name(rule)} against itself: the variants of this study",
        "One variant minus another on the same seed: mean and 95 % Student t interval over seeds, then in how many seeds it is "
        "higher. Bold where the interval leaves out zero. The intervals are not corrected for their number: of "
        f"{len(data)} about {max(1, round(0.05 * len(data)))} would leave out zero by chance.",
        [("quantity", ""), ("pair", ""), *((group, "") for group in groups)],
        rows,
        data,
        keys=2,
    )


def separated(study: Study, scheme: str | None, groups: Sequence[str]) -> tuple[bool, str]:
    """Whether more intervals leave out zero than chance would give, and the sentence that says which.

    The chance is that of independent intervals; those of one study share their runs, so the count is a guide.
    """
    several = families(study)
    frames = [differences(study, scheme, rule) for rule in several]
    asked = [row for frame in frames for row in records(frame) if row["quantity"] in TOLD and row["group"] in groups]
    told = [row for row in asked if row["decision"] != "gap" and row["n"] > 1]
    decided = _decided(told)
    missing = _missing(study, scheme, asked)
    names = listed([rule_name(rule) for rule in several])
    if not told:
        why = f"left out for missing seeds: {listed(missing)}" if missing else "one seed gives no interval"
        return False, f"No paired interval between the variants of {names}: {why}."
    most = int(stats.binom.ppf(CONFIDENCE, len(told), 1 - CONFIDENCE))
    start = (
        f"{len(decided)} of {len(told)} paired 95 % intervals between the variants of {names} leave out zero (accuracy, "
        f"gradient norm and λ_min of {listed(list(groups))}; chance alone gives up to {most})"
    )
    by_what: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in told:
        by_what.setdefault((row["quantity"], row["group"]), []).append(row)
    words = [said for (what, group), rows in by_what.items() if (said := _which(study, f"{_WORDS[what]} of {group}", rows))]
    if missing:
        words.append(f"pairs with a missing seed are left out: {listed(missing)}")
    return len(decided) > most, f"{start}: {'; '.join(words)}." if words else f"{start}."


def _missing(study: Study, scheme: str | None, asked: Sequence[dict[str, Any]]) -> list[str]:
    """The variants that lack a seed of what is asked, with the seeds."""
    values, found = tables.by_seed(study, scheme), dict[str, set[int]]()
    for row in asked:
        for key in (row["optimizer"], row["against"]):
            gaps = {seed for seed, value in values[key, row["group"], row["quantity"]].items() if value is None}
            found.setdefault(key, set()).update(gaps)
    return [
        f"{_short(study, key)}, seed {listed([str(seed) for seed in sorted(found[key])])}"
        for key in study.optimizers
        if found.get(key)
    ]


def _decided(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["decision"] in ("higher", "lower")]


def _which(study: Study, what: str, rows: Sequence[dict[str, Any]]) -> str:
    """Which variants differ in a quantity: the pairs one by one, or the order of the means where the pairs are many."""
    pairs = [
        f"{row['decision']} with {_short(study, row['optimizer'])} than with {_short(study, row['against'])}"
        for row in _decided(rows)
    ]
    # Variants of two rules have no order among each other.
    if len(pairs) <= PAIRS_TOLD or len({study.variants[row["optimizer"]].rule for row in rows}) > 1:
        return f"{what} is {listed(pairs)}" if pairs else ""
    above: dict[str, float] = {}  # sum of a variant's mean differences: means in the order of the variants' own
    for row in rows:
        above[row["optimizer"]] = above.get(row["optimizer"], 0.0) + row["difference"]
        above[row["against"]] = above.get(row["against"], 0.0) - row["difference"]
    order = [_short(study, key) for key in sorted(above, key=above.__getitem__)]
    return f"{what} differs in {len(pairs)} of {len(rows)} pairs, from the lowest mean to the highest: {', '.join(order)}"


_WORDS = {"accuracy": "accuracy", "gradient_norm": "the gradient norm", "lambda_min": "λ_min"}


def _short(study: Study, key: str) -> str:
    """The words that tell it apart, with the rule where the study has variants of several."""
    variant = study.variants[key]
    return variant.label if len(families(study)) == 1 else optimizer_name(study, key)
