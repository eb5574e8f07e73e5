"""The answer of an escape experiment to its question, computed from what became of every optimizer and group.

Where training ends does not answer it: an end may be a saddle still although the optimizer has left the control behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ...analysis.records.study import Study
from .escape_experiment import Outcome, control_left, control_of, outcomes
from .words import listed, optimizer_name

Word = Literal["Yes", "No", "No difference", "Partly", "Undecided"]


def experiment_answer(study: Study, groups: Sequence[str]) -> tuple[Word, str, str] | None:
    """The word, its sentence and what would decide the open parts; None where the study is no experiment.

    Args:
        study: its question is who leaves, against the control going on.
        groups: of the question; every group of the experiment where it holds none of them.
    """
    found, control = outcomes(study), control_of(study)
    if not found or control is None:
        return None
    held = list(dict.fromkeys(group for _, group in found))
    groups = [group for group in groups if group in held] or held
    others = [key for key in study.optimizers if key != control]
    freed = [group for group in groups if group in control_left(study)]
    of = {key: {group: found[key, group] for group in groups if (key, group) in found} for key in others}
    clauses = [_clause(optimizer_name(study, key), of[key], groups) for key in others]
    base = f"{optimizer_name(study, control)} going on"
    also = [f"{base} has no negative curvature above τ left in {listed(freed)} either"] if freed else []
    sentence = f"From the same checkpoint, against {base}: {'; '.join([*clauses, *also])}."
    states = [of[key][group].state if group in of[key] else "undecided" for key in others for group in groups]
    open_ = [
        f"{optimizer_name(study, key)}, {group}: {one.decides}"
        for key in others
        for group, one in of[key].items()
        if one.state == "undecided"
    ]
    return word(states, len(freed), len(groups)), sentence, f"What would decide it: {'; '.join(open_)}." if open_ else ""


def word(states: Sequence[str], freed: int, total: int) -> Word:
    """Yes: every optimizer leaves every group, and the control none. No: none leaves any.

    Args:
        states: of every optimizer and group; one that was not measured is undecided.
        freed: groups in which the control too has no negative curvature left.
        total: groups.
    """
    if set(states) == {"escaped"}:
        return "Yes" if not freed else "No difference" if freed == total else "Partly"
    if "escaped" in states:
        return "Partly"
    return "No" if set(states) == {"not escaped"} else "Undecided"


def _clause(name: str, found: Mapping[str, Outcome], groups: Sequence[str]) -> str:
    """``ImbSAM leaves tail, not head``."""
    by = {state: [group for group, one in found.items() if one.state == state] for state in ("escaped", "not escaped")}
    open_ = [group for group, one in found.items() if one.state == "undecided"]
    missing = [group for group in groups if group not in found]
    left, stays = by["escaped"], by["not escaped"]
    parts = [f"leaves {listed(left)}"] if left else []
    if stays:
        parts.append(f"not {listed(stays, 'or')}" if left else f"does not leave {listed(stays, 'or')}")
    parts += [f"undecided in {listed(open_)}" if parts else f"is undecided in {listed(open_)}"] if open_ else []
    parts += [f"not measured in {listed(missing)}" if parts else f"is not measured in {listed(missing)}"] if missing else []
    return f"{name} {', '.join(parts)}"
