"""Results on the terminal: a row per group and its verdict as a sentence; several checkpoints side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .result_names import checkpoint_names
from .results import CurvatureResult, GroupResult
from .rounding import end_words, probability_words
from .spectra import Extreme
from .steps import CriticalStep, StepResult

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
    table = _table("\n".join([title, *map(str, source.choices), *_products(result)]))
    _columns(table, ("group", "samples", "loss", "accuracy", "||grad||", "lambda_min", "lambda_max", "ratio"))
    for name, group in result.groups.items():
        table.add_row(
            escape(name),
            str(group.size),
            f"{group.loss:.3g}",
            _accuracy(group),
            f"{group.gradient_norm:.3g}",
            _extreme(group.lambda_min),
            _extreme(group.lambda_max),
            f"{group.negative_ratio.value:.3g}",
        )
    console.print(table)
    for warning in result.warnings:
        console.print(f"[yellow]warning[/yellow]: {escape(warning)}")
    for name, group in result.groups.items():
        low, high = _interval(group.lambda_min), _interval(group.lambda_max)
        sure = f"lambda_min in {low}, lambda_max in {high} (probability {probability_words(group.lambda_min.confidence)})."
        console.print(f"[bold]{escape(name)}[/bold]: {escape(group.verdict.sentence)} {escape(sure)}")
        for warning in group.warnings:
            console.print(f"  [yellow]warning[/yellow]: {escape(warning)}")
    for name, why in result.refused.items():
        console.print(f"[bold]{escape(name)}[/bold]: [red]not measured[/red]: {escape(why)}")
    if quick:
        console.print(
            "--quick gave up: the ends beyond what the verdict needs (they may be bounds), density, masses and rates, and all "
            "samples of groups above the subsample size (their sampling error is in the result)."
        )


def show_steps(result: StepResult, console: Console | None = None) -> None:
    """Prints critical steps: a row per update, a column per group.

    Args:
        result: what to print.
        console: where to.
    """
    console = console or Console()
    source = result.provenance
    table = _table(
        f"{source.checkpoint}: learning rate from which a step hurts a group ({source.model}, {source.data})",
        "0: its loss rises to first order already. none: nowhere up to a step of 8 times the weights' norm. head: "
        "the head's part of a plain step; own: the group's. Weight decay "
        f"{result.weight_decay:g} is in the steps of optimizers.",
    )
    table.add_column("step of")
    for name in result.groups:
        table.add_column(escape(name), justify="right")
    names = dict.fromkeys(step.update for group in result.groups.values() for step in group.steps)
    for name in names:
        found = [next((s for s in group.steps if s.update == name), None) for group in result.groups.values()]
        table.add_row(name, *map(_step_text, found))
    console.print(table)


def _step_text(step: CriticalStep | None) -> str:
    if step is None:
        return ""
    if step.step is None:
        return f"none (to {step.longest:.3g})"
    return "0" if step.slope < 0 else f"{step.step:.3g}"


def compare(results: Mapping[Path, CurvatureResult], console: Console | None = None) -> None:
    """Prints a row per checkpoint and group, in the order given.

    Args:
        results: several checkpoints, by the files that they are stored in.
        console: where to.
    """
    names = checkpoint_names(results)
    console = console or Console()
    said = dict.fromkeys(str(choice) for result in results.values() for choice in result.provenance.choices)
    for path, result in results.items():
        said |= dict.fromkeys(f"{_name(names[path], result)}: {line}" for line in _products(result))
    table = _table(
        "\n".join(said),
        "not stationary: negative curvature, but the slope outweighs it. none: no eigenvalue below -tau.",
    )
    _columns(table, ("checkpoint", "group", "loss", "accuracy", "lambda_min", "lambda_max", "verdict"))
    for path, result in results.items():
        for index, (name, group) in enumerate(result.groups.items()):
            table.add_row(
                escape(_name(names[path], result)) if index == 0 else "",
                escape(name),
                f"{group.loss:.3g}",
                _accuracy(group),
                _extreme(group.lambda_min),
                _extreme(group.lambda_max),
                SHORT[group.verdict.label],
            )
        table.add_section()
    console.print(table)
    for path, result in results.items():
        for warning in result.warnings:
            console.print(f"{escape(_name(names[path], result))}: [yellow]warning[/yellow]: {escape(warning)}")


def _products(result: CurvatureResult) -> list[str]:
    """What the heading says of groups that do not rest on exact products."""
    found = [name for name, group in result.groups.items() if group.products == "differences"]
    if not found:
        return []
    which = "" if len(found) == len(result.groups) else f" of {', '.join(found)}"
    return [
        f"Hessian-vector products{which} by central differences of the gradient, not exact; their error is in the intervals"
    ]


#: characters of the longest number of four digits
_NUMBER = len(f"{-1.234e-100:.4g}")


def _table(title: str, caption: str | None = None) -> Table:
    """A table whose eight columns of numbers fit into 80 characters."""
    return Table(
        title=escape(title) or None, title_justify="left", caption=caption, caption_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False,
    )  # fmt: skip


def _columns(table: Table, headings: Sequence[str]) -> None:
    """Adds columns: words may go on in the next line; a number is never cut, nor the heading that tells it from the next."""
    for heading in headings:
        words, end = heading in ("checkpoint", "group", "verdict"), heading in ("lambda_min", "lambda_max")
        table.add_column(
            heading,
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=not words and not end,
            min_width=_NUMBER if end else None,  # what is said beside the number goes on in the next line
        )


def _name(name: str, result: CurvatureResult) -> str:
    source = result.provenance
    key = source.subject.get("key")
    return name + "".join(f", {part}" for part in (key, source.params_pattern) if part)


def _accuracy(group: GroupResult) -> str:
    return "-" if group.accuracy is None else f"{100 * group.accuracy:.3g} %"


def _extreme(extreme: Extreme) -> str:
    return f"{extreme.value:.4g}{'' if extreme.converged else f' ({extreme.state})'}"


def _interval(extreme: Extreme) -> str:
    return f"[{', '.join(end_words(extreme.value, extreme.interval))}]"
