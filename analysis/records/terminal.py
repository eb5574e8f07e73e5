"""Results on the terminal: a row per group and its verdict as a sentence; several checkpoints side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .results import CurvatureResult, Extreme
from .rounding import end_words, probability_words

#: verdicts as a table has room for
SHORT = {
    "saddle": "saddle",
    "negative curvature, not stationary": "not stationary",
    "no negative curvature above tau": "none",
    "undetermined": "undetermined",
}


def show(result: CurvatureResult, console: Console | None = None, *, quick: bool = False) -> None:
    """Prints a result.

    Args:
        result: what to print.
        console: where to.
        quick: say what ``--quick`` gave up.
    """
    console = console or Console()
    source = result.provenance
    trained = source.training.get("optimizer")
    title = f"{source.checkpoint}: {source.model}, {source.data}, {source.loss}" + (f", {trained}" if trained else "")
    table = Table(title=escape(title), title_justify="left")
    for heading in ("group", "samples", "loss", "||grad||", "lambda_min", "lambda_max", "ratio"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for name, group in result.groups.items():
        table.add_row(
            escape(name),
            str(group.size),
            f"{group.loss:.3g}",
            f"{group.gradient_norm:.3g}",
            _extreme(group.lambda_min),
            _extreme(group.lambda_max),
            f"{group.negative_ratio.value:.3g}",
        )
    console.print(table)
    for name, group in result.groups.items():
        low, high = _interval(group.lambda_min), _interval(group.lambda_max)
        sure = f"lambda_min in {low}, lambda_max in {high} (probability {probability_words(group.lambda_min.confidence)})."
        console.print(f"[bold]{escape(name)}[/bold]: {escape(group.verdict.sentence)} {escape(sure)}")
        for warning in group.warnings:
            console.print(f"  [yellow]warning[/yellow]: {escape(warning)}")
    if quick:
        console.print(
            "--quick gave up: tight intervals (30 Lanczos steps of one start), and all samples of groups above the subsample "
            "size (their sampling error is in the result)."
        )


def compare(results: Sequence[CurvatureResult], console: Console | None = None) -> None:
    """Prints a row per checkpoint and group, in the order given.

    Args:
        results: several checkpoints.
        console: where to.
    """
    console = console or Console()
    table = Table(caption="not stationary: negative curvature, but the slope outweighs it. none: no eigenvalue below -tau.")
    for heading in ("checkpoint", "group", "loss", "lambda_min", "lambda_max", "verdict"):
        words = heading in ("checkpoint", "group", "verdict")
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    for result in results:
        for index, (name, group) in enumerate(result.groups.items()):
            table.add_row(
                escape(_name(result)) if index == 0 else "",
                escape(name),
                f"{group.loss:.3g}",
                _extreme(group.lambda_min),
                _extreme(group.lambda_max),
                SHORT[group.verdict.label],
            )
        table.add_section()
    console.print(table)


def _name(result: CurvatureResult) -> str:
    part = result.provenance.params_pattern
    return result.provenance.checkpoint + (f", {part}" if part else "")


def _extreme(extreme: Extreme) -> str:
    return f"{extreme.value:.4g}{'' if extreme.converged else ' (bound)'}"


def _interval(extreme: Extreme) -> str:
    return f"[{', '.join(end_words(extreme.value, extreme.interval))}]"
