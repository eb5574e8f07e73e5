"""What the papers claim, tested on a study: reproduced, not reproduced, or undecided at this scale.

A claim about a size holds, or fails, where the paired 95 % interval over seeds lies on the claimed, or other, side of zero;
one about saddles where every seed says so; in an escape experiment, by what became of the optimizer. Else it is undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...analysis.records.study import Run, Study
from ..tables import study_tables as tables
from ..tables.entries import label
from ..tables.findings import main_scheme
from ..tables.gather import cells
from ..tables.sampling import mean_words
from ..tables.statistics import Difference, paired_difference
from ..tables.words import listed, number
from . import papers
from .class_claims import rare_class_ratio
from .escape_claims import by_experiment
from .evidence import Evidence, Side, directions, signed, undecided
from .outcome import Outcome


def _seeds_agree(truths: dict[int, bool | None], ours: str) -> Outcome:
    """Judges a claim that is true, false or open in each seed."""
    found = list(truths.values())
    total, true, false = len(found), found.count(True), found.count(False)
    if true == total:
        return Outcome("reproduced", ours, f"True in {total} of {total} seeds.")
    if false == total:
        return Outcome("not reproduced", ours, f"False in {total} of {total} seeds.")
    counts = f"True in {true}, false in {false}, open in {total - true - false} of {total} seeds"
    more = (
        "seeds that disagree are not reconciled by more of them"
        if true and false
        else ("an open seed is decided by a checkpoint whose gradient is small enough (longer training), not by more seeds")
    )
    return Outcome("undecided", ours, f"{counts}: {more}.")


_AT_SADDLE = {"saddle": True, "no negative curvature above tau": False}


def _all_of(*truths: bool | None) -> bool | None:
    return False if False in truths else None if None in truths else True


def _not(truth: bool | None) -> bool | None:
    return None if truth is None else not truth


def _label_words(evidence: Evidence, optimizer: str, group: str) -> str:
    found = list(evidence.labels[optimizer, group].values())
    counts = [f"{name} {found.count(name)}/{len(found)}" for name in tables.VERDICTS if name in found]
    return f"{evidence.name(optimizer)} {group}: {', '.join(counts)}"


def _sam_escapes_overall_not_tail(evidence: Evidence) -> Outcome:
    if (found := by_experiment(evidence.study, "sam", ["tail"], "stays")) is not None:
        return found
    lacking = evidence.lacks(("sam", "all", "lambda_min"), ("sam", "tail", "lambda_min"))
    if lacking:
        return Outcome("not tested", "", lacking)
    overall, tail = evidence.labels["sam", "all"], evidence.labels["sam", "tail"]
    truths = {seed: _all_of(_not(_AT_SADDLE.get(overall[seed] or "")), _AT_SADDLE.get(tail[seed] or "")) for seed in overall}
    return _seeds_agree(truths, "; ".join(_label_words(evidence, "sam", group) for group in ("all", "tail")))


def _escapes(optimizer: str, groups: Sequence[str]) -> Callable[[Evidence], Outcome]:
    """The optimizer leaves the saddles of all these groups: by the experiment, or else by where its training ends."""

    def judge(evidence: Evidence) -> Outcome:
        if (found := by_experiment(evidence.study, optimizer, groups, "leaves")) is not None:
            return found
        if lacking := evidence.lacks(*((optimizer, group, "lambda_min") for group in groups)):
            return Outcome("not tested", "", lacking)
        ends = {group: evidence.labels[optimizer, group] for group in groups}
        truths = {
            seed: _all_of(*(_not(_AT_SADDLE.get(ends[group][seed] or "")) for group in groups)) for seed in ends[groups[0]]
        }
        return _seeds_agree(truths, "; ".join(_label_words(evidence, optimizer, group) for group in groups))

    return judge


def _accuracies(pairs: Sequence[tuple[str, str, str, Side]]) -> Callable[[Evidence], Outcome]:
    """(a, b, part, side): accuracy of a on the part against that of b."""

    def judge(evidence: Evidence) -> Outcome:
        lacking = evidence.lacks(*((name, part, "accuracy") for a, b, part, _ in pairs for name in (a, b)))
        if lacking:
            return Outcome("not tested", "", lacking)
        return directions(
            [
                (
                    f"{part}, {evidence.name(a)} − {evidence.name(b)}",
                    evidence.difference((a, part, "accuracy"), (b, part, "accuracy")),
                    side,
                )
                for a, b, part, side in pairs
            ]
        )

    return judge


def _sam_flattens_tail(evidence: Evidence) -> Outcome:
    sides: dict[str, Side] = {"lambda_min": "higher", "lambda_max": "lower", "negative_ratio": "lower"}
    if unknown := evidence.one_part(["tail"]):
        del sides["negative_ratio"]
    lacking = evidence.lacks(*((optimizer, "tail", name) for optimizer in ("sgd", "sam") for name in sides))
    if lacking:
        return Outcome("not tested", "", lacking)
    return directions(
        [
            (f"{label(name)[0]}, SAM − SGD", evidence.difference(("sam", "tail", name), ("sgd", "tail", name)), side)
            for name, side in sides.items()
        ],
        evidence.of_parts("tail"),
        unknown,
    )


def _tail_ratio_above_head(evidence: Evidence) -> Outcome:
    unknown = evidence.one_part(["head", "tail"])
    names = ("lambda_min",) if unknown else ("negative_ratio", "lambda_min")
    lacking = evidence.lacks(*(("sgd", group, name) for group in ("all", "head", "tail") for name in names))
    if lacking:
        return Outcome("not tested", "", lacking)
    low = evidence.difference(("sgd", "tail", "lambda_min"), ("sgd", "head", "lambda_min"))
    top = evidence.difference(("sgd", "tail", "lambda_max"), ("sgd", "head", "lambda_max"))
    parts: list[tuple[str, Difference, Side]] = [("λ_min, tail − head", low, "lower")]
    if not unknown:
        ratio = evidence.difference(("sgd", "tail", "negative_ratio"), ("sgd", "head", "negative_ratio"))
        parts.append(("|λ_min|/λ_max, tail − head", ratio, "higher"))
    found = directions(parts, evidence.of_parts("head", "tail"), unknown)
    return Outcome(found.state, f"{found.ours}; λ_max, tail − head: {signed(top)}", found.why)


def _overall_like_head(evidence: Evidence) -> Outcome:
    lacking = evidence.lacks(*(("sgd", group, "negative_ratio") for group in ("all", "head", "tail")))
    if lacking:
        return Outcome("not tested", "", lacking)
    ratio = {group: evidence.values["sgd", group, "negative_ratio"] for group in ("all", "head", "tail")}

    def distance(group: str) -> dict[int, float | None]:
        pairs = {seed: (ratio["all"][seed], ratio[group][seed]) for seed in ratio["all"]}
        return {seed: None if a is None or b is None else abs(a - b) for seed, (a, b) in pairs.items()}

    found = directions(
        [
            (
                "distance of the overall ratio from the head's, minus from the tail's",
                paired_difference(distance("head"), distance("tail")),
                "lower",
            )
        ]
    )
    means = [
        f"{group} λ_min {_mean(evidence, group, 'lambda_min')}, λ_max {_mean(evidence, group, 'lambda_max')}" for group in ratio
    ]
    return Outcome(found.state, f"{found.ours}; SGD {'; '.join(means)}", found.why)


def _mean(evidence: Evidence, group: str, name: str) -> str:
    found = [value for value in evidence.values["sgd", group, name].values() if value is not None]
    return number(sum(found) / len(found))


def _weightings_differ(evidence: Evidence) -> Outcome:
    """Judged on the tail, which is what the weightings weigh; never refuted, as no interval shows that two are equal."""
    of_rule = [variant for variant in evidence.study.variants.values() if variant.rule == "imbsam"]
    found = {str(variant.settings.get("normalisation")): variant.key for variant in of_rule}
    if not {"batch", "group"} <= found.keys():
        return Outcome("not tested", "", "no ImbSAM with both weightings, batch and group, in this study")
    names = ("accuracy", "gradient_norm")
    if lacking := evidence.lacks(*((key, part, name) for key in found.values() for part in ("head", "tail") for name in names)):
        return Outcome("not tested", "", lacking)
    parts = {
        (name, part, weighting): evidence.difference((found[weighting], part, name), (found["batch"], part, name))
        for name in names
        for part in ("tail", "head")
        for weighting in ("group", "batch-x2")
        if weighting in found
    }
    ours = "; ".join(
        f"{part} {label(name)[0]}, {weighting} − batch: {signed(difference)}"
        for (name, part, weighting), difference in parts.items()
    )
    judged = {label(name)[0]: parts[name, "tail", "group"].decision for name in names}
    open_ = [words for words, decision in judged.items() if decision not in ("higher", "lower")]
    if open_:
        why = undecided(open_, [parts[name, "tail", "group"] for name in names])
        return Outcome("undecided", ours, f"Group − batch, tail: {why[0].lower()}{why[1:]}")
    said = listed([f"{words} is {decision}" for words, decision in judged.items()])
    return Outcome("reproduced", ours, f"In the tail {said} with group than with batch; both intervals leave out zero.")


def _tail_rises_after_switch(evidence: Evidence) -> Outcome:
    runs = evidence.study.of("ssesam")
    if not runs or any(run.side_car is None for run in runs):
        return Outcome("not tested", "", "no SSE-SAM run" if not runs else "gap: an SSE-SAM run is not finished")
    parts: dict[str, Difference] = {}
    for part in ("tail", "head"):
        before = {run.seed: _at_switch(run, part) for run in runs}
        if None in before.values():
            return Outcome("not tested", "", "the accuracy at the stage switch is not in metrics.jsonl")
        parts[part] = paired_difference({run.seed: tables.part_accuracy(run, part) for run in runs}, before)
    found = directions([("tail, last epoch − switch", parts["tail"], "higher")])
    return Outcome(found.state, f"{found.ours}; head: {signed(parts['head'])}", found.why)


def _at_switch(run: Run, part: str) -> float | None:
    for row in run.metrics:
        if row["epoch"] == run.stage_switch and row.get("accuracy", {}).get(part) is not None:
            return 100 * float(row["accuracy"][part])
    return None


_OTHERS = ("sgd", "sam", "imbsam")
#: key of a claim in papers.toml -> how it is judged
JUDGES: dict[str, Callable[[Evidence], Outcome]] = {
    "sam-overall-not-tail": _sam_escapes_overall_not_tail,
    "imbsam-tail": _escapes("imbsam", ["tail"]),
    "ssesam-both": _escapes("ssesam", ["head", "tail"]),
    "imbsam-head": _accuracies([("imbsam", "sam", "head", "lower")]),
    "ssesam-accuracy": _accuracies([("ssesam", other, part, "higher") for part in ("all", "tail") for other in _OTHERS]),
    "radius-tail": _accuracies(
        [(f"sam-{larger}", f"sam-{rho}", "tail", "higher") for rho, larger in (("005", "01"), ("01", "02"), ("02", "05"))]
    ),
    "escapers-tail": _accuracies(
        [*((other, "sgd", "tail", "higher") for other in ("pgd", "lpfsgd", "sam")), ("sam", "lpfsgd", "tail", "higher")]
    ),
    "tail-after-switch": _tail_rises_after_switch,
    "sam-tail-class": _sam_flattens_tail,
    "tail-more-nonconvex": _tail_ratio_above_head,
    "overall-like-head": _overall_like_head,
    "rare-class-ratio": lambda evidence: rare_class_ratio(evidence.study),
    "imbsam-weightings": _weightings_differ,
}


def evaluate(study: Study) -> list[tuple[papers.Claim, Outcome]]:
    """Every claim with what this study says about it."""
    scheme = main_scheme(study)
    labels: dict[tuple[str, str], dict[int, str | None]] = {}
    for cell in cells(study, scheme) if scheme else ():
        labels.setdefault((cell.optimizer, cell.group), {})[cell.seed] = cell.result.verdict.label if cell.result else None
    evidence = Evidence(study, tables.by_seed(study, scheme), labels, mean_words(study, scheme))
    return [(claim, JUDGES[claim.key](evidence)) for claim in papers.claims()]
