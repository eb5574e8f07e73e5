"""The escape experiment: every optimizer from the same checkpoint, against SGD going on; who left, after how many steps.

Escaped: from some step on, the paired 95 % interval over seeds of ``lambda_min`` minus the control's lies above zero (with
one seed: the interval of ``lambda_min`` lies above the control's), or no seed has negative curvature above tau left. Not
escaped: at the last step negative curvature is proven in every seed, and the interval excludes a gain of a tenth of the
control's. Anything else is undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ...analysis.records.results import GroupResult
from ...analysis.records.study import Run, Study
from .entries import Entry, Sheet, name_entry
from .gather import seeds
from .statistics import Difference, count_words, paired_difference, seeds_needed
from .words import GAP, interval, number, optimizer_name

#: share of the control's ``|lambda_min|`` below which a gain does not count as leaving
MARGIN = 0.1
#: shows in the table: who goes on as before
CONTROL = "control"
State = Literal["escaped", "not escaped", "undecided"]
#: seed -> step -> result of a group
Way = Mapping[int, Mapping[int, GroupResult]]


@dataclass(frozen=True)
class Outcome:
    """What became of one optimizer and group.

    ``step``: after which it had escaped, or the last one; ``last``: the last that every run of it and of the control has, None
    where they have none in common.
    """

    state: State
    step: int
    difference: Difference
    sentence: str
    decides: str = ""
    last: int | None = None


def control_of(study: Study) -> str | None:
    """The optimizer that goes on as plain descent; None where the study has none, or does not go on from another."""
    if not any(run.courses for run in study.runs):
        return None
    rules = {key: variant.rule for key, variant in study.variants.items()}
    return next((key for key in study.optimizers if rules.get(key, key) == "sgd"), None)


def scheme_of(study: Study) -> str | None:
    """The scheme of the study's experiment."""
    return next((scheme for run in study.runs for scheme in run.courses), None)


def steps(study: Study, scheme: str) -> pd.DataFrame:
    """One row per optimizer, seed, group and step (0: the start): where the run is, and what its group looks like there."""
    rows = []
    for run in study.runs:
        course = run.courses.get(scheme)
        if course is None:
            continue
        results = dict(run.by_step(scheme))
        for group, start in course.start.items():
            if group not in course.vectors or not any(group in result.groups for result in results.values()):
                continue
            low = start.lambda_min
            rows.append(_row(run, group, 0, 0.0, 0.0, start.loss, low.value, low.interval[0], start.verdict.curvature, None))
            for point in course.points:
                result = results.get(point.step)
                if result is None or group not in result.groups:
                    continue
                found, net = result.groups[group], run.own_net_rate(result)
                low = found.lambda_min
                where = abs(point.along[group]), point.moved
                rows.append(
                    _row(run, group, point.step, *where, found.loss, low.value, low.interval[0], found.verdict.curvature, net)
                )
    columns = ["optimizer", "seed", "group", "step", "along", "moved", "loss", "lambda_min", "low", "curvature", "net_rate"]
    return pd.DataFrame(rows, columns=columns)


def _row(run: Run, group: str, *values: object) -> dict[str, object]:
    names = ("step", "along", "moved", "loss", "lambda_min", "low", "curvature", "net_rate")
    return {"optimizer": run.optimizer, "seed": run.seed, "group": group, **dict(zip(names, values, strict=True))}


def judge(mine: Way, control: Way, name: str, against: str) -> Outcome:
    """What became of one optimizer and group.

    Args:
        mine: its results, by seed and step.
        control: the same of the control.
        name: of the optimizer, for the sentence.
        against: of the control.
    """
    seeds = sorted({*mine, *control})
    common = common_steps(*mine.values(), *control.values())
    if not common:
        decides = f"a step would have to be analysed in every run of {name} and of {against}"
        nothing = Difference(None, None, None, 0, 0, tuple(seeds))
        return Outcome("undecided", 0, nothing, f"{name} undecided: no step in common ({decides})", decides)
    left = {step: _left(mine, control, seeds, step) for step in common}
    held = [step for step in common if all(left[later] for later in common if later >= step)]
    last = common[-1]
    difference = _difference(mine, control, seeds, last)
    numbers = f"λ_min {_mean(mine, last)} against {_mean(control, last)} of {against}, difference {_signed(difference)}"
    if held:
        return Outcome(
            "escaped", held[0], difference, f"{name} escaped after at most {held[0]} steps (after {last}: {numbers})", last=last
        )
    scale = abs(sum(control[seed][last].lambda_min.value for seed in seeds if seed in control) / max(len(control), 1))
    proven = all(seed in mine and mine[seed][last].verdict.curvature == "negative curvature" for seed in seeds)
    if proven and difference.high is not None and difference.high < MARGIN * scale:
        return Outcome("not escaped", last, difference, f"{name} not within {last} steps ({numbers})", last=last)
    decides = _decides(difference, MARGIN * scale, proven)
    return Outcome("undecided", last, difference, f"{name} undecided after {last} steps ({numbers}; {decides})", decides, last)


def common_steps(*ways: Mapping[int, GroupResult]) -> list[int]:
    """The steps at which every one of these runs was analysed, ascending."""
    return sorted(set[int].intersection(*(set(way) for way in ways))) if ways else []


def _decides(found: Difference, margin: float, proven: bool) -> str:
    """How many seeds would decide an undecided outcome: towards escaped, or (curvature proven) towards not escaped."""
    if found.mean is None:
        return "the missing seed would have to be trained"
    away, towards = found.mean, margin - found.mean
    effects = [effect for effect, counts in ((away, away > 0), (towards, proven and towards > 0)) if counts]
    if not effects:
        return "more steps are needed: curvature is neither proven nor excluded in every seed"
    counts = [count for effect in effects if found.std and (count := seeds_needed(effect, found.std)) is not None]
    return count_words(min(counts, default=None), found)


def _left(mine: Way, control: Way, seeds: list[int], step: int) -> bool:
    if any(seed not in mine or seed not in control for seed in seeds):
        return False
    if all(mine[seed][step].verdict.curvature == "none above tau" for seed in seeds):
        return True
    if len(seeds) == 1:
        low = mine[seeds[0]][step].lambda_min.interval[0]
        return low is not None and low > control[seeds[0]][step].lambda_min.value
    difference = _difference(mine, control, seeds, step)
    return difference.low is not None and difference.low > 0


def _difference(mine: Way, control: Way, seeds: list[int], step: int) -> Difference:
    a, b = ({seed: way[seed][step].lambda_min.value if seed in way else None for seed in seeds} for way in (mine, control))
    return paired_difference(a, b)


def _mean(way: Way, step: int) -> str:
    values = [results[step].lambda_min.value for results in way.values()]
    return number(sum(values) / len(values))


def _signed(found: Difference) -> str:
    if found.mean is None:
        return "not known (a seed is missing)"
    text = f"{'+' if found.mean > 0 else ''}{number(found.mean)}"
    return f"{text} {interval(found.low, found.high, signed=True)}" if found.low is not None else f"{text} (one seed)"


def outcomes(study: Study) -> dict[tuple[str, str], Outcome]:
    """(optimizer, group) -> what became of it; empty where there is no experiment, or no control in it."""
    scheme, control = scheme_of(study), control_of(study)
    if scheme is None or control is None:
        return {}
    groups = list(dict.fromkeys(group for run in study.runs if scheme in run.courses for group in run.courses[scheme].vectors))
    found = {}
    for group in groups:
        ways = {key: _ways(study, key, scheme, group) for key in study.optimizers}
        for key in study.optimizers:
            if key != control and ways[key] and ways[control]:
                name, against = optimizer_name(study, key), f"{optimizer_name(study, control)} going on"
                found[key, group] = judge(ways[key], ways[control], name, against)
    return found


def control_left(study: Study) -> list[str]:
    """Groups in which the control itself ends, in every seed, without negative curvature above tau."""
    scheme, control = scheme_of(study), control_of(study)
    if scheme is None or control is None:
        return []
    groups = dict.fromkeys(group for run in study.runs if scheme in run.courses for group in run.courses[scheme].vectors)
    ways = {group: _ways(study, control, scheme, group).values() for group in groups}
    return [
        group
        for group, found in ways.items()
        if found and all(way[max(way)].verdict.curvature == "none above tau" for way in found)
    ]


def _ways(study: Study, optimizer: str, scheme: str, group: str) -> dict[int, dict[int, GroupResult]]:
    ways = {
        run.seed: {step: result.groups[group] for step, result in run.by_step(scheme) if group in result.groups}
        for run in study.of(optimizer)
    }
    return {seed: way for seed, way in ways.items() if way}


def experiment_sentences(study: Study) -> list[str]:
    """One sentence per group: who left, who did not, and who is undecided."""
    found = outcomes(study)
    return [
        f"Escape, {group}: {'; '.join(one.sentence for (_, other), one in found.items() if other == group)}."
        for group in dict.fromkeys(group for _, group in found)
    ]


def experiment_sheets(study: Study) -> list[Sheet]:
    """The table of the experiment; none where the study does not go on from another."""
    scheme, control = scheme_of(study), control_of(study)
    if scheme is None:
        return []
    data, found, asked = steps(study, scheme), outcomes(study), seeds(study)
    rows = []
    for optimizer in study.optimizers:
        for group in dict.fromkeys(str(name) for name in data["group"]):
            mine = data[(data["optimizer"] == optimizer) & (data["group"] == group)]
            if mine.empty:
                continue
            outcome = found.get((optimizer, group))
            if outcome is None:
                what = Entry(CONTROL if optimizer == control else "–")
            else:
                after = {"escaped": f"after at most {outcome.step} steps"}.get(outcome.state, f"within {outcome.step} steps")
                after += f"; {outcome.decides}" if outcome.decides else ""
                what = Entry(outcome.state, after, outcome.state, "decided" if outcome.state == "escaped" else "")
            common = common_steps(*_ways(study, optimizer, scheme, group).values())
            last = outcome.last if outcome else next(reversed(common), None)
            start, end = mine[mine["step"] == 0], mine[mine["step"] == last]
            rows.append(
                [
                    name_entry(study, optimizer),
                    Entry(group, "", group),
                    what,
                    _seeds(start, "lambda_min", asked),
                    _seeds(end, "lambda_min", asked),
                    Entry(_signed(outcome.difference) if outcome else "", "", outcome.difference.mean if outcome else None),
                    _seeds(end, "along", asked),
                    _seeds(end, "moved", asked),
                    _seeds(start, "loss", asked),
                    _seeds(end, "loss", asked),
                    _seeds(end, "net_rate", asked),
                ]
            )
    return [
        Sheet(
            f"experiment_{scheme}",
            "Escape experiment: every optimizer from the same checkpoint",
            "Training goes on from one checkpoint for each seed, with the same batches and one constant rate; the control goes "
            "on as plain descent. Escaped: from that step on the paired 95 % interval over seeds of λ_min minus the control's "
            "lies above zero, or no negative curvature above τ is left. Not escaped: it is proven at the last step in every "
            f"seed, and a gain of {100 * MARGIN:g} % of the control's is excluded. An undecided outcome says how many seeds "
            "would decide an effect of this size and spread. The end is the last step that every run of an optimizer and of "
            "the control has. Every seed.",
            [
                ("optimizer", ""), ("group", "class group"), ("outcome", ""), ("λ_min at the start", ""), ("at the end", ""),
                ("against the control", "at the end, paired over seeds"), ("distance along v", "of the start's eigenvector"),
                ("distance in all", "‖w − w₀‖"), ("loss at the start", "of the group"), ("at the end ", ""),
                ("net rate at the end", "of the optimizer's own field"),
            ],
            rows,
            data,
            keys=2,
        )
    ]  # fmt: skip


def _seeds(data: pd.DataFrame, name: str, asked: Sequence[int]) -> Entry:
    """Every seed asked for in its place; a missing one is a gap."""
    found = dict(zip(data["seed"], data[name], strict=True))
    known = [float(value) for value in found.values() if not pd.isna(value)]
    texts = [GAP if seed not in found else "–" if pd.isna(found[seed]) else number(float(found[seed]), 2) for seed in asked]
    return Entry("; ".join(texts), "", sum(known) / len(known) if known else None)
