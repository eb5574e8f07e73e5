"""``saddlescope baseline`` and ``saddlescope check``: curvature under test."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .readings import Direction
    from .rows import Check

Results = Annotated[list[str], typer.Argument(help="Result files, run folders or study folders; NAME=PATH names a series.")]
Only = Annotated[list[str] | None, typer.Option(help="Pattern of numbers or series, e.g. 'tail.lambda_*'; repeatable.")]
Every = Annotated[
    bool, typer.Option("--every-checkpoint", help="Of folders take all analysed checkpoints, not only the final.")
]
File = Annotated[Path, typer.Argument(help="The baseline.")]


def register_baseline(app: typer.Typer) -> None:
    """Adds ``baseline save|show|power|spread`` and ``check``."""
    baseline = typer.Typer(help="Keep curvature numbers that later builds are checked against.", no_args_is_help=True)
    baseline.command("save")(save)
    baseline.command("show")(show)
    baseline.command("power")(power)
    baseline.command("spread")(spread)
    app.add_typer(baseline, name="baseline")
    app.command("check")(check)


def save(
    results: Results,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", "--out", help="Where the baseline goes.")] = Path("baseline.json"),
    only: Only = None,
    every_checkpoint: Every = False,
    by_seed: Annotated[bool, typer.Option("--by-seed", help="Every seed its own series: equal digits, not a sample.")] = False,
    direction: Annotated[
        list[str] | None,
        typer.Option(help="What may not happen: lambda_min=not-lower, 'tail.loss=not-higher'; the opposite passes."),
    ] = None,
    reason: Annotated[str, typer.Option(help="First entry of the history.")] = "first baseline",
) -> None:
    """Store the numbers of results, with a tolerance beside each; one name for several nights: m=NIGHT1 m=NIGHT2 m=NIGHT3."""
    from .accept import create
    from .reach import stored_words
    from .series import collect

    ways = _directions(direction or [])
    found = collect(results, every_checkpoint=every_checkpoint, by_seed=by_seed)
    stored = create(found, output, reason, only=only or [], by_seed=by_seed, directions=ways)
    trainings = sum(len(series.checkpoints) for series in stored.series.values())
    typer.echo(f"{output}: {len(stored.identifiers())} numbers of {len(stored.series)} series, {trainings} trainings in all")
    for line in stored_words(stored):
        typer.echo(line)


def _directions(given: list[str]) -> dict[str, Direction]:
    from .baseline import BaselineError
    from .readings import Direction

    found: dict[str, Direction] = {}
    for one in given:
        pattern, _, way = one.rpartition("=")
        if not pattern or way not in get_args(Direction):
            raise BaselineError(f"--direction {one}: write NUMBER=WAY, WAY one of {', '.join(get_args(Direction))}")
        found[pattern] = cast("Direction", way)
    return found


def show(baseline: File) -> None:
    """Print a baseline's numbers, tolerances and history; also proves a file edited by hand valid."""
    from .baseline_file import load_baseline
    from .baseline_output import baseline_table

    _show(baseline_table(load_baseline(baseline)))


def power(
    baseline: File,
    *,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of a future build; default: the baseline's.")] = None,
    builds: Annotated[int, typer.Option(min=100, help="Simulated builds of each kind.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
) -> None:
    """Measure by simulation how often a check of retrained seeds cries wolf, and which shifts it sees."""
    from .baseline_file import load_baseline
    from .power import measure, power_table

    _show(power_table(measure(load_baseline(baseline), seeds=seeds, builds=builds, seed=seed)))


def spread(
    results: Results,
    *,
    into: Annotated[Path | None, typer.Option(help="Write the tolerances into this baseline.")] = None,
    factor: Annotated[float, typer.Option(min=1, help="Tolerance = factor * largest difference seen.")] = 10.0,
    reason: Annotated[str, typer.Option(help="For the baseline's history, with --into.")] = "tolerances from a measured spread",
) -> None:
    """Compare repeated measurements of one checkpoint (threads, machines, versions) and propose tolerances."""
    from .baseline_file import load_baseline, save_baseline
    from .spread import measure_spread, spread_table, widen

    found = measure_spread(results)
    _show(spread_table(found, factor))
    if into is not None:
        widened, count = widen(load_baseline(into), found, factor, reason)
        save_baseline(widened, into)
        typer.echo(f"{into}: {count} tolerances set")


def check(
    results: Results,
    *,
    baseline: Annotated[Path, typer.Option(help="What 'saddlescope baseline save' wrote.")],
    only: Only = None,
    every_checkpoint: Every = False,
    quick: Annotated[bool, typer.Option("--quick", help="The given series only, failures only (pre-commit).")] = False,
    alpha: Annotated[float | None, typer.Option(min=1e-9, max=0.5, help="False-alarm rate; default: the baseline's.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Take the results for right and rewrite the baseline.")] = False,
    reason: Annotated[str, typer.Option(help="Why they are right; kept in the history.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Show every number, also those that are the same.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown here.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw what moved (svg, pdf or png).")] = None,
) -> None:
    """Fail when a number moved: exit 0 nothing did, 1 one moved or is missing, 2 not comparable or bad input."""
    from .accept import accept as accepted
    from .baseline import BaselineError
    from .baseline_file import load_baseline, save_baseline
    from .run import check as compare
    from .series import collect

    if accept and not reason.strip():
        raise BaselineError("--accept needs --reason 'why these numbers are right'; it is kept in the baseline")
    if reason and not accept:
        raise BaselineError("--reason goes with --accept")
    stored = load_baseline(baseline)
    series = collect(results, every_checkpoint=every_checkpoint, by_seed=stored.by_seed)
    outcome = compare(stored, series, only=only or [], quick=quick, alpha=alpha)
    _write(outcome, junit, markdown, figure)
    _print(outcome, as_json=as_json, quick=quick, everything=everything)
    if accept:
        save_baseline(accepted(stored, series, reason, only=only or [], quick=quick), baseline)
        typer.echo(f"{baseline}: accepted ({reason.strip()})", err=True)
        return
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _print(outcome: Check, *, as_json: bool, quick: bool, everything: bool) -> None:
    from . import output as check_output

    if as_json:
        typer.echo(check_output.as_json(outcome))
    elif quick:
        for line in [*check_output.failures(outcome), outcome.sentence]:
            typer.echo(line)
    else:
        _show(check_output.table(outcome, everything=everything))


def _show(what: RenderableType) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160  # a log file has no width; 80 columns would fold every number
    Console(width=width).print(what)


def _write(outcome: Check, junit: Path | None, markdown: Path | None, figure: Path | None) -> None:
    from ...analysis.records.base import write_text_atomically
    from . import output as check_output

    if junit is not None:
        write_text_atomically(junit, check_output.junit(outcome))
    text = check_output.markdown(outcome)
    if markdown is not None:
        write_text_atomically(markdown, text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as stream:
            stream.write(text)
    if figure is not None:
        import_module("saddlescope.figures.plots.what_moved").save_what_moved(outcome.rows, figure)
