"""From which learning rate on a step hurts a class group: stored critical steps as a table and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...analysis.records.study import Run, Study
from .entries import Entry, Sheet, name_entry, records
from .words import GAP, field_name, number

COLUMNS = ["optimizer", "seed", "group", "update", "step", "low", "high", "slope", "norm", "longest"]
#: shows in place of a learning rate
AT_ONCE, NOWHERE = "at once", "nowhere"
#: updates that no optimizer takes
PARTS = {"head": "the head's part of a plain step", "own": "the group's own part"}


def critical_steps(study: Study) -> pd.DataFrame:
    """One row per final checkpoint (optimizer that trained, seed), group and update; ``step``: NaN where it never hurts."""
    rows = [
        {"optimizer": run.optimizer, "seed": run.seed, "group": group, "update": step.update, "step": step.step,
         "low": step.bracket[0], "high": step.bracket[1], "slope": step.slope, "norm": step.norm, "longest": step.longest}
        for run in study.runs
        for result in _final(run)
        for group, found in result.groups.items()
        for step in found.steps
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _final(run: Run) -> list[Any]:
    sha = (run.side_car or {}).get("sha256")
    return [result for result in run.steps if sha is not None and result.provenance.checkpoint_sha256 == sha][:1]


def step_sheets(study: Study) -> list[Sheet]:
    """The table; none where no critical steps were measured."""
    data = critical_steps(study)
    if data.empty:
        return []
    updates = list(dict.fromkeys(str(name) for name in data["update"]))
    rows = []
    for optimizer in study.optimizers:
        seeds = [run.seed for run in study.of(optimizer)]
        for group in dict.fromkeys(str(name) for name in data["group"]):
            mine = data[(data["optimizer"] == optimizer) & (data["group"] == group)]
            entries = []
            for update in updates:
                found = {int(row["seed"]): row for row in records(mine[mine["update"] == update])}
                asked = any(update == str(name) for name in data[data["group"] == group]["update"])
                texts = [step_words(found[seed]) if seed in found else GAP for seed in seeds]
                known = [row["step"] for row in found.values() if not pd.isna(row["step"])]
                entries.append(Entry("; ".join(texts), "", min(known, default=None)) if asked else Entry("–"))
            rows.append([name_entry(study, optimizer), Entry(group, "", group), *entries])
    heads = [("trained with", ""), ("group", "class group")]
    heads += [(PARTS.get(key) or f"step of {field_name(key)}", "smallest learning rate that hurts") for key in updates]
    return [
        Sheet(
            "critical_steps",
            "Critical steps: from which learning rate on a step hurts a group",
            "The smallest learning rate at which the step raises the group's loss on the whole training set (bracketed to "
            "1/16), at the final checkpoint; every seed. At once: the loss rises to first order already. Nowhere: not up to a "
            "step of 8 times the weights' norm. Twice its inverse is the critical sharpness (arXiv 2601.16979).",
            heads,
            rows,
            data,
            keys=2,
        )
    ]


def step_words(row: dict[str, Any]) -> str:
    """A critical step as a person reads it."""
    if pd.isna(row["step"]):
        return NOWHERE
    return AT_ONCE if row["slope"] < 0 or row["step"] == 0 else number(float(row["step"]), 2)


def step_sentences(study: Study, groups: Sequence[str]) -> list[str]:
    """Per group: from which rate on the head's part hurts it (another group), then the optimizers' own steps."""
    data = critical_steps(study)
    rate = study.recipe.get("training", {}).get("lr")
    sentences = []
    for group in groups:
        mine = data[data["group"] == group]
        clauses = [
            f"{PARTS.get(str(update)) or f'the step of {field_name(str(update))}'} {_hurts(part, rate)}"
            for update, part in mine.groupby("update", sort=False)
            if update != "own" and not (update == "head" and group == "head")
        ]
        if clauses:
            order = sorted(clauses, key=lambda clause: not clause.startswith(PARTS["head"]))
            sentences.append(f"Critical step, {group}: {'; '.join(order)}.")
    return sentences


def _hurts(part: pd.DataFrame, rate: Any) -> str:
    """``hurts at once in 10 of 12 checkpoints, else from learning rate 0.04 on (median 0.1)``."""
    total, at_once = len(part), int(((part["slope"] < 0) | (part["step"] == 0)).sum())
    later = part[(part["slope"] >= 0) & (part["step"] > 0)]["step"]
    words = [f"at once in {at_once} of {total}"] if at_once else []
    if len(later):
        below = int((later < rate).sum()) if isinstance(rate, int | float) else 0
        own = f", below the training's largest rate {rate:g} in {below}" if below else ""
        ends = dict.fromkeys(number(float(end), 2) for end in (later.min(), later.max()))
        words.append(f"from {' to '.join(ends)} on in {len(later)}{own}")
    never = total - at_once - len(later)
    if never:
        words.append(f"nowhere in {never}")
    return f"hurts it {', '.join(words)}"
