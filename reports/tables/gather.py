"""From a study on disk to flat cells, after refusing what must not be compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...analysis.records.results import CurvatureResult, GroupResult
from ...analysis.records.study import Run, Study


class ReportError(ValueError):
    """A study cannot be reported on as it is; the message names the runs, the field and the fix."""


@dataclass(frozen=True)
class Measured:
    """One number of one checkpoint: ``low`` and ``high`` bound it as stated where it was measured; None: not bounded."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cell:
    """One optimizer, one seed, one group: a result, or the reason why there is none."""

    optimizer: str
    seed: int
    group: str
    result: GroupResult | None
    status: str


def final_result(run: Run, scheme: str) -> CurvatureResult | None:
    """The whole-model curvature of the run's final checkpoint, or None where it was not measured.

    Raises:
        ReportError: the stored result was measured on another checkpoint than the one that lies there now.
    """
    if run.side_car is None:
        return None
    whole = [result for result in run.curvature if result.scheme.name == scheme and result.provenance.params_pattern is None]
    for result in reversed(whole):  # a checkpoint of the last step has the same weights, and was measured less
        if result.provenance.checkpoint_sha256 == run.side_car["sha256"]:
            return result
    stem = Path(run.side_car["checkpoint"]).stem
    if any(Path(result.provenance.checkpoint).stem == stem for result in whole):
        raise ReportError(
            f"{run.folder}: curvature/{stem}.{scheme}.json was measured on another checkpoint than {stem}.pt of today "
            "(SHA-256 differs); remove it and run 'saddlescope analyze' on this folder again"
        )
    return None


def schemes(study: Study) -> list[str]:
    """Schemes with a result of a final checkpoint: ``head-tail`` first, then by name."""
    names = {result.scheme.name for run in study.runs for result in run.curvature if final_result(run, result.scheme.name)}
    return sorted(names, key=lambda name: (name != "head-tail", name))


def finals(study: Study, scheme: str) -> list[tuple[Run, CurvatureResult | None]]:
    """Every run in the study's order with its final curvature.

    Raises:
        ReportError: the results do not rest on the same data, groups, loss, model size, precision, engine or schema.
    """
    pairs = [(run, final_result(run, scheme)) for run in study.runs]
    found = [(run, result) for run, result in pairs if result is not None]
    for run, result in found[1:]:
        _refuse_mixed(found[0], (run, result), scheme)
    return pairs


def _refuse_mixed(first: tuple[Run, CurvatureResult], other: tuple[Run, CurvatureResult], scheme: str) -> None:
    a, b = first[1], other[1]
    compared = {
        "data_sha256": (a.provenance.data_sha256, b.provenance.data_sha256),
        "schema_version": (a.schema_version, b.schema_version),
        "scheme.groups": (a.scheme.groups, b.scheme.groups),
        "loss": (a.provenance.loss, b.provenance.loss),
        "parameters": (a.provenance.parameters, b.provenance.parameters),
        "engine": (a.provenance.engine, b.provenance.engine),
        "dtype": (a.provenance.dtype, b.provenance.dtype),
    }
    for name, (left, right) in compared.items():
        if left != right:
            raise ReportError(
                f"results of scheme '{scheme}' are not comparable: field '{name}' is {_short(left)} in {first[0].folder.name} "
                f"and {_short(right)} in {other[0].folder.name}; keep runs of one kind in a study, or analyze the odd one again"
            )


def check_accuracy_comparable(study: Study) -> None:
    """Accuracies are compared only where every run was trained and tested on the same samples.

    Raises:
        ReportError: the side-cars name different index arrays, data sets or held-out parts.
    """
    finished = [run for run in study.runs if run.side_car is not None]
    for run in finished[1:]:
        for name, (left, right) in {
            "data.index_sha256": (_of(finished[0], "data", "index_sha256"), _of(run, "data", "index_sha256")),
            "data.name": (_of(finished[0], "data", "name"), _of(run, "data", "name")),
            "accuracy_split": (_split(finished[0]), _split(run)),
        }.items():
            if left != right:
                raise ReportError(
                    f"accuracies are not comparable: field '{name}' is {_short(left)} in {finished[0].folder.name} and "
                    f"{_short(right)} in {run.folder.name}; train both on the same data, or report on them separately"
                )


def _of(run: Run, table: str, key: str) -> object:
    return (run.side_car or {}).get(table, {}).get(key)


def _split(run: Run) -> object:
    side_car = run.side_car or {}
    return side_car.get("accuracy_split", side_car.get("training", {}).get("accuracy_split"))


def _short(value: object) -> str:
    text = str(value)
    return f"'{text[:12]}…'" if len(text) > 40 else f"'{text}'"


def grid(study: Study) -> list[tuple[str, int, Run | None]]:
    """Every optimizer with every seed that any optimizer has; None where the study lists no such run.

    Raises:
        ReportError: one optimizer has two runs of one seed.
    """
    by_key: dict[tuple[str, int], Run] = {}
    for run in study.runs:
        if (run.optimizer, run.seed) in by_key:
            raise ReportError(f"{study.folder}/study.json: lists {run.optimizer} with seed {run.seed} twice; keep one of them")
        by_key[run.optimizer, run.seed] = run
    return [(name, seed, by_key.get((name, seed))) for name in study.optimizers for seed in seeds(study)]


def seeds(study: Study) -> list[int]:
    """Seeds that any optimizer of the study has, ascending."""
    return sorted({run.seed for run in study.runs})


def run_status(run: Run | None) -> str:
    """Why a run has no number, or ``finished``."""
    if run is None:
        return "not in the study"
    return "finished" if run.finished else "no final checkpoint"


def cells(study: Study, scheme: str) -> Iterator[Cell]:
    """One cell per optimizer, seed and group that was asked for, gaps included, in the study's order."""
    pairs = finals(study, scheme)
    results = {(run.optimizer, run.seed): result for run, result in pairs}
    known = [result for result in results.values() if result is not None]
    # A group that no result was asked for (``only``) is no gap.
    asked = {name for result in known for name in (*result.groups, *result.refused)}
    names = [name for name in known[0].scheme.groups if name in asked] if known else []
    for optimizer, seed, run in grid(study):
        result = results.get((optimizer, seed))
        for group in names:
            found = result.groups.get(group) if result is not None else None
            status = run_status(run)
            if status == "finished":
                status = "measured" if found is not None else "not analysed"
            yield Cell(optimizer, seed, group, found, status)


def measured(group: GroupResult) -> dict[str, Measured]:
    """Every number of a group by name, in the order of the tables; names follow ``analysis/README.md``."""
    values = {
        "lambda_min": Measured(group.lambda_min.value, *group.lambda_min.interval),
        "lambda_max": Measured(group.lambda_max.value, *group.lambda_max.interval),
        "negative_ratio": Measured(group.negative_ratio.value, *group.negative_ratio.interval),
    }
    if group.sampling is not None:
        for name, mean in (("lambda_min_parts", group.sampling.lambda_min), ("lambda_max_parts", group.sampling.lambda_max)):
            values[name] = Measured(mean.value, *mean.interval)
    for mass in group.negative_mass:
        values[f"negative_mass@{mass.relative:g}"] = Measured(mass.value, *mass.interval)
    for bound in group.saddle_index:
        values[f"saddle_index@{bound.relative:g}"] = Measured(float(bound.at_least), float(bound.at_least), None)
    if group.negative_energy:
        values["negative_energy"] = Measured(group.negative_energy.value, *group.negative_energy.interval)
    if group.trace:
        values["trace"] = Measured(group.trace.value, *group.trace.interval)
    if group.gauss_newton:
        top = group.gauss_newton.lambda_max
        values["gauss_newton_lambda_max"] = Measured(top.value, *top.interval)
    values["gradient_norm"] = Measured(group.gradient_norm)
    if group.verdict.displacement_ratio is not None:
        values["displacement_ratio"] = Measured(group.verdict.displacement_ratio)
    values["loss"] = Measured(group.loss)
    if group.accuracy is not None:
        values["train_accuracy"] = Measured(group.accuracy)
    return values


def compared(group: GroupResult) -> dict[str, Measured]:
    """The same, with the ends that are compared: of a group on random parts the means over them, not the ends of one part."""
    values = measured(group)
    return values | {end: values[f"{end}_parts"] for end in ("lambda_min", "lambda_max") if f"{end}_parts" in values}
