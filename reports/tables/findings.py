"""The answer to the study's question, computed from the verdicts, and how sure it is.

Two kinds of certainty are kept apart. A verdict of one checkpoint is a measurement: negative curvature is proven by a stored
vector. What it says about an optimizer is a matter of seeds, and three seeds say little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ...analysis.records.results import GroupResult
from ...analysis.records.rounding import percent_words
from ...analysis.records.study import Study
from . import study_tables as tables
from .answers import TARGET, Answer, GroupState, State, decide, ends, where
from .comparison import compare, size_sentences
from .critical_steps import step_sentences
from .entries import records
from .escape import escape_sentences
from .escape_experiment import experiment_sentences
from .escape_rates import rate_sentences
from .experiment_answer import experiment_answer
from .gather import cells, schemes, seeds
from .sampling import sampling_words
from .shared_directions import shared_sentences
from .statistics import needed_words, share_interval
from .variants import families, separated
from .words import listed, number, optimizer_name

QUESTION = "Does SSE-SAM escape the saddles of head and tail classes where SGD, SAM and ImbSAM do not?"


@dataclass(frozen=True)
class Finding:
    """The headline: one word, the sentence that carries it, how sure it is in short, and the sentences behind both."""

    question: str
    answer: Answer
    sentence: str
    short: str
    groups: list[str]
    support: list[str]
    sure: list[str]
    states: list[GroupState]
    decides: str = ""


def main_scheme(study: Study) -> str | None:
    """The scheme that the headline rests on: head-tail where it was measured."""
    return next(iter(schemes(study)), None)


def states(study: Study, scheme: str) -> list[GroupState]:
    """One state per optimizer and group."""
    found = []
    for row in records(tables.verdicts(study, scheme)):
        total = row["seeds"]
        state: State = "mixed"
        if row["gap"]:
            state = "gap"
        elif row["saddle"] == total:
            state = "saddle"
        elif row["no negative curvature above tau"] == total:
            state = "free"
        elif row["negative curvature, not stationary"] == total:
            state = "open"
        elif row["undetermined"]:
            state = "unsettled"
        found.append(GroupState(row["optimizer"], row["group"], state, row["text"]))
    return found


def headline_groups(found: Sequence[GroupState]) -> list[str]:
    """The groups that the question is about: head and tail, or every proper group of another scheme."""
    names = list(dict.fromkeys(entry.group for entry in found))
    return [name for name in ("head", "tail") if name in names] or [name for name in names if name != "all"] or names


def find(study: Study) -> Finding:
    """Answers the study's question from its stored results."""
    question = str(study.recipe.get("question") or QUESTION)
    scheme = main_scheme(study)
    if scheme is None:
        return Finding(question, "Not answered", "No final checkpoint has a curvature result yet.", "", [], [], [], [])
    found = states(study, scheme)
    groups = headline_groups(found)
    name_of = partial(optimizer_name, study)
    rules = {key: variant.rule for key, variant in study.variants.items()}
    # A named variant of SSE-SAM is none of the others that the question compares it with.
    answer: Answer
    asked = [entry for entry in found if rules[entry.optimizer] != TARGET or entry.optimizer == TARGET]
    if (experiment := experiment_answer(study, groups)) is not None:
        answer, sentence = experiment[:2]
    elif study.own and TARGET not in rules:
        answer, sentence = ends(study, scheme, [entry for entry in found if entry.group in groups])
    elif families(study):
        differ, sentence = separated(study, scheme, groups)
        answer = "Different" if differ else "Undecided"
    elif TARGET not in rules and TARGET in rules.values():
        named = listed([name_of(key) for key, rule in rules.items() if rule == TARGET])
        answer, sentence = "Not answered", f"This study holds SSE-SAM as {named} only; below is where the optimizers end."
    elif TARGET not in rules:
        answer, sentence = where(found, groups, name_of)
    else:
        answer, sentence = decide(asked, groups, name_of)
    support = [_describe(found, group, name_of) for group in groups]
    if TARGET in study.optimizers:
        support += size_sentences(study, scheme, compare(study, scheme, TARGET, groups))
    support += [*experiment_sentences(study), *escape_sentences(study, scheme, groups), *rate_sentences(study, scheme, groups)]
    support += [*step_sentences(study, groups), *shared_sentences(study, groups)]
    decides = what_decides(study, scheme, groups, answer) if experiment is None else experiment[2]
    short, sure = in_short(study, scheme, groups), how_sure(study, scheme, groups)
    return Finding(question, answer, sentence, short, groups, support, sure, found, decides)


def what_decides(study: Study, scheme: str, groups: Sequence[str], answer: Answer) -> str:
    """What would decide an undecided answer, in one sentence: of the verdicts, then of the sizes; empty where it is decided."""
    if answer != "Undecided":
        return ""
    parts = []
    results = [cell.result for cell in cells(study, scheme) if cell.group in groups and cell.result is not None]
    ratios = [
        result.verdict.displacement_ratio
        for result in results
        if result.verdict.curvature == "negative curvature"
        and result.verdict.stationary is False
        and result.verdict.displacement_ratio is not None
    ]
    if ratios:
        bars = " or ".join(f"{bar:g}" for bar in sorted({result.verdict.threshold for result in results}))
        parts.append(
            f"by verdicts, checkpoints nearer to a stationary point (s*/‖w‖ at most {bars}; it is {number(min(ratios), 2)} to "
            f"{number(max(ratios), 2)} in the {len(ratios)} that are not), by longer training and not by more seeds"
        )
    if TARGET in study.optimizers:
        found = [
            (entry.group, entry.other, entry.differences["lambda_min"]) for entry in compare(study, scheme, TARGET, groups)
        ]
        open_ = [(group, other, one) for group, other, one in found if one.decision == "undecided"]
        near = min((entry for entry in open_ if entry[2].needed), key=lambda entry: entry[2].needed or 0, default=None)
        if near is not None:
            group, other, one = near
            parts.append(
                f"by the size of λ_min, {needed_words(one)} for {group} against {optimizer_name(study, other)}, the nearest of "
                f"{len(open_)} undecided comparisons (seeds are added with --set 'seeds=[...]'; finished runs are kept)"
            )
    return f"What would decide it: {'; '.join(parts)}." if parts else ""


def _describe(found: Sequence[GroupState], group: str, name_of: Callable[[str], str]) -> str:
    """``tail: SGD and SAM saddle 3/3 seeds; SSE-SAM ...``: optimizers with the same counts together."""
    by_text: dict[str, list[str]] = {}
    for entry in found:
        if entry.group == group:
            by_text.setdefault(entry.text, []).append(name_of(entry.optimizer))
    return f"{group.capitalize()}: " + ". ".join(f"{listed(names)}: {text}" for text, names in by_text.items()) + "."


def in_short(study: Study, scheme: str, groups: Sequence[str]) -> str:
    """How sure, in one sentence: the measurement, then the seeds."""
    results = [cell.result for cell in cells(study, scheme) if cell.group in groups and cell.result is not None]
    settled = sum(result.verdict.curvature != "undetermined" for result in results)
    total = len(seeds(study))
    measured = f"How sure: the sign of the curvature is settled in {settled} of {len(results)} measurements"
    if total < 2:
        return f"{measured}; one seed says nothing about others."
    low, _ = share_interval(total, total)
    share = f"at least {math.floor(100 * low)} % of further seeds would end the same (95 %)"
    return f"{measured}; {total} seeds, even where all agree, only show that {share}."


def how_sure(study: Study, scheme: str, groups: Sequence[str]) -> list[str]:
    """What the measurements prove, and what the number of seeds allows."""
    measured = [cell for cell in cells(study, scheme) if cell.group in groups]
    results = [cell.result for cell in measured if cell.result is not None]
    total = len(seeds(study))
    low, _ = share_interval(total, total)
    sentences = [_measurement(results) if results else "No group was measured."]
    of_a_part = sampling_words(
        {cell.group: cell.result} for cell in cells(study, scheme) if cell.group in groups and cell.result
    )
    sentences += [of_a_part] if of_a_part else []
    sentences.append(
        f"{total} seed{'s' if total != 1 else ''} per optimizer: the same verdict in {total} of {total} still allows that only "
        f"{math.floor(100 * low)} % of further seeds share it (95 %, Clopper-Pearson). Intervals of differences are paired "
        "Student t intervals over seeds and are not corrected for their number."
        if total > 1
        else "One seed per optimizer: nothing can be said about other seeds."
    )
    return sentences


def _measurement(results: Sequence[GroupResult]) -> str:
    negative = [result for result in results if result.verdict.curvature == "negative curvature"]
    proven = [result for result in negative if result.certificate is not None and result.certificate.holds]
    none = [result for result in results if result.verdict.curvature == "none above tau"]
    states = [{result.lambda_min.state, result.lambda_max.state} for result in results]
    loose, unconfirmed = (sum(state in both for both in states) for state in ("bound", "not confirmed"))
    text = f"Of {len(results)} verdicts {len(negative)} say negative curvature"
    if negative:
        text += (
            f", {len(proven)} of them proven by a stored vector whose Rayleigh quotient is negative beyond the measured noise"
        )
    if none:
        confidence = min(result.lambda_min.confidence for result in none)
        text += f"; {len(none)} say none above τ, each with probability at least {percent_words(confidence)} %"
    unsettled = len(results) - len(negative) - len(none)
    if unsettled:
        text += f"; {unsettled} are undetermined"
    if loose:
        text += f"; in {loose} an extreme eigenvalue did not converge"
    if unconfirmed:
        text += f"; in {unconfirmed} one settled and is not confirmed to be the outermost"
    return f"{text}." if loose or unconfirmed else f"{text}; every extreme eigenvalue converged."
