"""The word that answers a study's question, and its sentence, from what every seed of each optimizer says of each group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ...analysis.records.study import Study
from .gather import compared
from .words import listed, number, optimizer_name, rule_name

TARGET = "ssesam"

#: what every seed of one optimizer says about one group. open: negative curvature, not stationary; unsettled: the sign is
#: undetermined in some seed; mixed: the seeds disagree
State = Literal["saddle", "free", "open", "unsettled", "mixed", "gap"]
Answer = Literal["Yes", "No", "No difference", "Partly", "Undecided", "Not answered", "Different", "At a saddle", "No saddle"]


@dataclass(frozen=True)
class GroupState:
    """All seeds of one optimizer in one group."""

    optimizer: str
    group: str
    state: State
    text: str


def _not_answered(missing: list[str]) -> tuple[Answer, str]:
    return "Not answered", f"Runs or analyses of {listed(missing)} are missing, and nothing is averaged over a gap."


def where(found: Sequence[GroupState], groups: Sequence[str], name_of: Callable[[str], str] = rule_name) -> tuple[Answer, str]:
    """Of a study without SSE-SAM: which optimizers end at saddles of which groups."""
    of: dict[str, dict[str, State]] = {}
    for entry in found:
        if entry.group in groups:
            of.setdefault(entry.optimizer, {})[entry.group] = entry.state
    if gaps := [name_of(name) for name, states in of.items() if "gap" in states.values()]:
        return _not_answered(gaps)
    ending: dict[str, list[str]] = {}
    for name, states in of.items():
        at = [group for group, state in states.items() if state == "saddle"]
        ending.setdefault(listed(at) or "none", []).append(name_of(name))
    every = {state for states in of.values() for state in states.values()}
    answer: Answer = "At a saddle" if every == {"saddle"} else "No saddle" if every <= {"free", "open"} else "Partly"
    answer = "Different" if len(ending) > 1 else answer
    parts = "; ".join(f"{listed(names)} of {at}" for at, names in ending.items())
    return answer, f"At a saddle in every seed: {parts}."


def ends(study: Study, scheme: str, found: Sequence[GroupState]) -> tuple[Answer, str]:
    """Of somebody's own checkpoints: whether the last one is at a saddle, and λ_min from the first one to it."""
    words: dict[State, Answer] = {"saddle": "At a saddle", "free": "No saddle", "open": "No saddle"}
    answers = {words.get(entry.state, "Undecided") for entry in found}
    parts = []
    for run in study.runs:
        placed = run.along(scheme)
        if not placed:
            continue
        (first, start), (last, end) = placed[0], placed[-1]
        of = f"{optimizer_name(study, run.optimizer)}, seed {run.seed}: " if len(study.runs) > 1 else ""
        for group in dict.fromkeys(entry.group for entry in found if entry.group in start.groups and entry.group in end.groups):
            then, now = (number(compared(one.groups[group])["lambda_min"].value, 3) for one in (start, end))
            course = "" if first == last else f", after {then} at {study.axis} {first}"
            sampling = end.groups[group].sampling
            over = f" (mean over {sampling.subsets} random parts)" if sampling is not None else ""
            parts.append(f"{of}{group} at {study.axis} {last}: {end.groups[group].verdict.label}, λ_min {now}{over}{course}")
    return answers.pop() if len(answers) == 1 else "Partly", "; ".join(parts) + "."


def decide(found: Sequence[GroupState], groups: Sequence[str], name_of: Callable[[str], str] = rule_name) -> tuple[Answer, str]:
    """The word and its sentence.

    Yes: SSE-SAM free of negative curvature in every group and seed, and every other optimizer at a saddle of at least one group
    in every seed. No: SSE-SAM at a saddle of some group in every seed.
    """
    by = {(entry.optimizer, entry.group): entry.state for entry in found if entry.group in groups}
    others = [name for name in dict.fromkeys(entry.optimizer for entry in found) if name != TARGET]
    places = listed(list(groups))
    if "gap" in by.values():
        return _not_answered([name_of(name) for name in (*others, TARGET) if "gap" in {by[name, group] for group in groups}])
    mine = {group: by[TARGET, group] for group in groups}
    stuck = [group for group in groups if mine[group] == "saddle"]
    if stuck:
        same = [name_of(name) for name in others if all(by[name, group] == "saddle" for group in stuck)]
        also = f"; so does {listed(same)}" if len(same) == 1 else f"; so do {listed(same)}" if same else ""
        return "No", f"SSE-SAM ends at a saddle of {listed(stuck)} in every seed{also}."
    if set(mine.values()) == {"free"}:
        free = [name for name in others if all(by[name, group] == "free" for group in groups)]
        fail = [name for name in others if any(by[name, group] == "saddle" for group in groups)]
        start = f"SSE-SAM ends without negative curvature above τ in {places} in every seed"
        if others and len(fail) == len(others):
            failing = listed([name_of(name) for name in fail])
            return "Yes", f"{start}; {failing} end at a saddle of at least one of them in every seed."
        if others and len(free) == len(others):
            return "No difference", f"{start}, and so does every other optimizer: there is no saddle to escape."
        if free:
            return "Partly", f"{start}, but so does {listed([name_of(name) for name in free])}."
        return "Undecided", f"{start}, but where the others end differs from seed to seed or is not a stationary point."
    open_ = [group for group in groups if mine[group] == "open"]
    if open_ and all(state == "open" for state in by.values()):
        return "Undecided", (
            f"Every optimizer, SSE-SAM included, has negative curvature left in {places}, and none ends where the gradient is "
            "small enough to call it a saddle. By verdicts nothing separates them; the sizes are compared below."
        )
    why = {
        "free": "is free of negative curvature above τ",
        "open": "has negative curvature but is not stationary",
        "unsettled": "has a sign that the measurement does not settle",
        "mixed": "ends differently from seed to seed",
    }
    return "Undecided", f"SSE-SAM {listed([f'{why[state]} in {group}' for group, state in mine.items()])}."
