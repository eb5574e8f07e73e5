"""What the commands do: find the checkpoints that a path means, measure, and say what came out."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .results import CurvatureResult, Extreme, Interval, load
from .settings import AnalysisSettings, SettingsError, SliceSettings, parse_settings, parse_slices
from .study_analysis import analyze_study, curvature_is_current, do_curvature, do_slice, study_of
from .study_plan import SliceItem, StudyAnalysis, curvature_item
from .subject import SubjectError, side_car_of
from .work import default_jobs


class TargetError(ValueError):
    """A path on the command line is nothing that can be analysed."""


def analyze_target(target: Path, overrides: Sequence[str], *, data_root: str | None = None, jobs: int | None = None) -> None:
    """``saddlescope analyze``.

    Raises:
        TargetError: neither a study, nor a run, nor a checkpoint.
        SettingsError: an override that does not fit.
    """
    if (target / "study.json").exists():
        analyze_with_progress(target, study_plan(target, overrides), data_root=data_root, jobs=jobs)
        print(f"results under {target}")
        return
    run = target if target.is_dir() else None
    if run is not None and (study := study_of(run)) is not None:
        analyze_with_progress(study, study_plan(study, overrides), data_root=data_root, jobs=jobs, runs=[run])
        show(load(CurvatureResult, run / "curvature" / f"checkpoint.{study_plan(study, overrides).final.scheme}.json"))
        return
    checkpoint = _checkpoint(target)
    if side_car_of(checkpoint) is None:
        raise SubjectError(f"{checkpoint}: no side-car beside it; say what it is with --model and --data")
    item = curvature_item(checkpoint, parse_settings(read_overrides(overrides)))
    if not curvature_is_current(item):
        do_curvature(item, data_root)
    show(load(CurvatureResult, item.output))
    print(item.output)


def slice_target(target: Path, name: str, overrides: Sequence[str], *, data_root: str | None = None) -> None:
    """``saddlescope slice``.

    Raises:
        TargetError: no checkpoint there.
        ResultError: the checkpoint has not been analysed.
    """
    checkpoint = _checkpoint(target)
    table = read_overrides(overrides)
    slices = parse_slices({key: value for key, value in table.items() if key in SliceSettings.model_fields})
    analysis = parse_settings({key: value for key, value in table.items() if key not in SliceSettings.model_fields})
    curvature = curvature_item(checkpoint, analysis)
    if not curvature_is_current(curvature):
        do_curvature(curvature, data_root)
    stem = name if checkpoint.stem == "checkpoint" else f"{checkpoint.stem}.{name}"
    output = curvature.output.parent.parent / "slices" / f"{stem}.json"
    do_slice(SliceItem(checkpoint, name, slices, analysis, output), data_root)
    print(output)


def _checkpoint(target: Path) -> Path:
    checkpoint = target / "checkpoint.pt" if target.is_dir() else target
    if not checkpoint.is_file():
        raise TargetError(
            f"{target}: no study, run or checkpoint there (looked for {target / 'study.json'} and {checkpoint})"
            if target.is_dir()
            else f"{target}: no such file"
        )
    return checkpoint


def study_plan(study: Path, overrides: Sequence[str] = ()) -> StudyAnalysis:
    """The ``[analysis]`` and ``[slices]`` of a study's stored recipe, with overrides of ``[analysis]``."""
    recipe = tomllib.loads((study / "recipe.toml").read_text(encoding="utf-8"))
    given = read_overrides(overrides)
    slices = {key: value for key, value in given.items() if key in SliceSettings.model_fields and key != "seed"}
    analysis = {key: value for key, value in given.items() if key not in slices}
    recipe["analysis"] = recipe.get("analysis", {}) | analysis
    recipe["slices"] = recipe.get("slices", {}) | slices
    return StudyAnalysis.parse(recipe, str(study / "recipe.toml"))


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``field=value`` pairs with values written as in TOML; a bare word is text.

    Raises:
        SettingsError: no equals sign, or a field that neither table has.
    """
    table: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip().removeprefix("analysis.").removeprefix("slices.")
        if not equals:
            raise SettingsError(f"--set {override}: write field=value, such as steps=200")
        if key not in SliceSettings.model_fields and key not in AnalysisSettings.model_fields:
            parse_settings({key: None}, "--set")  # says which field was meant
        try:
            table[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            table[key] = text.strip()
    return table


def analyze_with_progress(
    study: Path,
    plan: StudyAnalysis,
    *,
    data_root: str | None = None,
    jobs: int | None = None,
    runs: list[Path] | None = None,
) -> int:
    """:func:`~saddlescope.analysis.study_analysis.analyze_study` under a bar with the time left.

    Args:
        study: as there.
        plan: as there.
        data_root: as there.
        jobs: default: one per core.
        runs: as there.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("results"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(f"analyze {study.name}", total=None)
        return analyze_study(
            study,
            plan,
            jobs=jobs or default_jobs(),
            data_root=data_root,
            runs=runs,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def show(result: CurvatureResult, console: Console | None = None) -> None:
    """Prints a result: a row per group and its verdict as a sentence."""
    console = console or Console()
    source = result.provenance
    trained = source.training.get("optimizer")
    title = f"{source.checkpoint}: {source.model}, {source.data}, {source.loss}" + (f", {trained}" if trained else "")
    table = Table(title=title, title_justify="left")
    for heading in ("group", "samples", "loss", "||grad||", "lambda_min", "lambda_max", "ratio"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for name, group in result.groups.items():
        table.add_row(
            name,
            str(group.size),
            f"{group.loss:.3g}",
            f"{group.gradient_norm:.3g}",
            _extreme(group.lambda_min),
            _extreme(group.lambda_max),
            f"{group.negative_ratio.value:.3g}",
        )
    console.print(table)
    for name, group in result.groups.items():
        sure = f"lambda_min in {_interval(group.lambda_min.interval)}, lambda_max in {_interval(group.lambda_max.interval)}"
        console.print(f"[bold]{name}[/bold]: {group.verdict.sentence} {sure} (probability {group.lambda_min.confidence:g}).")
        for warning in group.warnings:
            console.print(f"  [yellow]warning[/yellow]: {warning}")


def _extreme(extreme: Extreme) -> str:
    return f"{extreme.value:.4g}{'' if extreme.converged else ' (bound)'}"


def _interval(interval: Interval) -> str:
    low, high = ("?" if bound is None else f"{bound:.3g}" for bound in interval)
    return f"\\[{low}, {high}]"  # the backslash keeps rich from reading a style
