"""A check as people and machines read it: terminal table, Markdown, JUnit XML, JSON."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET  # written, never parsed
from typing import TYPE_CHECKING, Any

from ...analysis.records.rounding import interval_words
from .compare_numbers import Outcome
from .rows import FAILING, Check, Row, Side

if TYPE_CHECKING:
    from rich.console import RenderableType

CHECK_VERSION = 1
_COLOUR = {
    Outcome.SAME: "green",
    Outcome.WITHIN: "green",
    Outcome.ALLOWED: "cyan",
    Outcome.MOVED: "bold red",
    Outcome.MISSING: "bold red",
    Outcome.NEW: "yellow",
    Outcome.UNDECIDED: "bold yellow",
    Outcome.REFUSED: "bold magenta",
}
#: what a reader must see first
ORDER = (
    Outcome.MOVED,
    Outcome.MISSING,
    Outcome.REFUSED,
    Outcome.UNDECIDED,
    Outcome.NEW,
    Outcome.ALLOWED,
    Outcome.WITHIN,
    Outcome.SAME,
)
HEADINGS = ("series", "number", "verdict", "baseline", "now", "tolerance", "p (adjusted)", "note")


def sort_rows(rows: list[Row]) -> list[Row]:
    """Failures first, otherwise in the baseline's order."""
    return sorted(rows, key=lambda row: ORDER.index(row.outcome))


def cells(row: Row) -> tuple[str, ...]:
    """A row as words, under ``HEADINGS``."""
    tolerance = f"{row.tolerance:.2g}" if row.tolerance else ""
    if row.direction != "both":
        tolerance = f"{tolerance} {row.direction}".strip()
    return (
        row.series,
        row.number,
        row.outcome.value,
        side_words(row.old),
        side_words(row.new),
        tolerance,
        f"{row.adjusted_p:.2g}" if row.adjusted_p is not None else "",
        row.note,
    )


def side_words(side: Side | None) -> str:
    """``-3.214 [-3.3, -3.2]`` for one reading, ``-3.2 ± 0.1 (3 seeds)`` for several, ``saddle, saddle`` for labels."""
    if side is None:
        return "–"
    present = [value for value in side.values if value is not None]
    if side.mean is None or len({str(value) for value in present}) == 1 < len(present):
        texts = [str(value) for value in present]
        counted = [f"{text} x{texts.count(text)}" if len(set(texts)) > 1 else text for text in dict.fromkeys(texts)]
        return ", ".join(counted) + (f" ({len(texts)} {side.counted})" if len(texts) > 1 else "")
    if len(present) == 1:
        value = present[0]
        words = str(value) if isinstance(value, int) else f"{value:.6g}"
        if side.low is None and side.high is None:
            return words
        return f"{words} {interval_words(side.low, side.high, beside=[words])}"
    deviation = side.mean - side.low if side.low is not None else 0.0
    return f"{side.mean:.5g} ± {deviation:.2g} ({len(present)} {side.counted})"


def table(check: Check, *, everything: bool = False) -> RenderableType:
    """The terminal table: what needs a look, or every number."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in sort_rows(check.rows) if everything or row.outcome is not Outcome.SAME]
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    shown = [index for index in range(1, len(HEADINGS)) if any(cells(row)[index] for row in rows)]
    for index in shown:
        grid.add_column(HEADINGS[index], justify="right" if index in (3, 4, 5, 6) else "left", overflow="fold")
    series = None
    for row in rows:
        if row.series != series:
            series = row.series
            grid.add_row(Text(series, style="bold underline"), *[""] * (len(shown) - 1))
        words = cells(row)
        grid.add_row(*[Text(words[index], style=_COLOUR[row.outcome] if index == 2 else "") for index in shown])
    parts: list[RenderableType] = [grid] if rows else []
    parts += [Text(line) for line in footer(check)]
    return Group(*parts, Text(check.sentence, style="bold red" if check.exit_code else "bold green"))


def footer(check: Check) -> list[str]:
    """What a reader needs to judge the answer: the test, the changed environment, what was not looked at."""
    lines = []
    if any(row.p is not None and row.p < 1 for row in check.rows):
        lines.append(
            f"{check.tests} numbers tested together (Holm): a build in which nothing changed fails with probability "
            f"{check.false_alarm_rate:.2g} at most"
        )
    lines += check.trainings
    if check.environment:
        lines.append("changed beside the numbers: " + "; ".join(check.environment))
    if check.unchecked:
        lines.append(f"not checked (no result given): {', '.join(check.unchecked)}")
    return lines


def failures(check: Check) -> list[str]:
    """One line for each number that fails the build or could not be compared."""
    return [
        f"{row.identifier}: {row.outcome.value}: {side_words(row.old)} -> {side_words(row.new)}"
        + (f" ({row.note})" if row.note else "")
        for row in sort_rows(check.having(*FAILING, Outcome.REFUSED))
    ]


def markdown(check: Check, title: str = "saddlescope check") -> str:
    """A GitHub-flavoured summary: the answer, what needs a look, the rest folded away."""
    rows = sort_rows(check.rows)
    loud = [row for row in rows if row.outcome not in (Outcome.SAME, Outcome.WITHIN)]
    quiet = [row for row in rows if row.outcome in (Outcome.SAME, Outcome.WITHIN)]
    parts = [f"### {title}", "", f"**{check.sentence}**", ""]
    if loud:
        parts += [*_markdown_table(loud), ""]
    if quiet:
        parts += [
            f"<details><summary>{len(quiet)} numbers that did not move</summary>",
            "",
            *_markdown_table(quiet),
            "",
            "</details>",
            "",
        ]
    parts += [f"- {_escaped(line)}" for line in footer(check)]
    return "\n".join(parts).rstrip() + "\n"


def _markdown_table(rows: list[Row]) -> list[str]:
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    return lines + ["| " + " | ".join(_escaped(word) for word in cells(row)) + " |" for row in rows]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def junit(check: Check) -> str:
    """JUnit XML: a suite for each series, a case for each number."""
    root = ET.Element("testsuites", name="saddlescope check")
    for name in dict.fromkeys(row.series for row in check.rows):
        rows = [row for row in check.rows if row.series == name]
        failed = sum(row.outcome in FAILING for row in rows)
        refused = sum(row.outcome is Outcome.REFUSED for row in rows)
        suite = ET.SubElement(
            root, "testsuite", name=name, tests=str(len(rows)), failures=str(failed), errors=str(refused), skipped="0"
        )
        suite.set("skipped", str(sum(row.outcome is Outcome.UNDECIDED for row in rows)))
        for row in rows:
            case = ET.SubElement(suite, "testcase", classname=name, name=row.number)
            text = f"baseline {side_words(row.old)}, now {side_words(row.new)}" + (f": {row.note}" if row.note else "")
            if row.outcome in FAILING or row.outcome is Outcome.REFUSED:
                tag = "failure" if row.outcome in FAILING else "error"
                ET.SubElement(case, tag, message=f"{row.outcome.value}: {text}", type=row.outcome.value)
            elif row.outcome is Outcome.UNDECIDED:
                ET.SubElement(case, "skipped", message=text)
            else:
                ET.SubElement(case, "system-out").text = f"{row.outcome.value}: {text}"
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def as_json(check: Check) -> str:
    """The check for pipes: ``rows`` holds every number with both sides' values."""
    document: dict[str, Any] = {
        "kind": "check",
        "schema_version": CHECK_VERSION,
        "passed": check.exit_code == 0,
        "exit_code": check.exit_code,
        "sentence": check.sentence,
        "false_alarm_rate": check.false_alarm_rate,
        "tests": check.tests,
        "environment": check.environment,
        "trainings": check.trainings,
        "unchecked": check.unchecked,
        "decided": not check.having(Outcome.UNDECIDED, Outcome.REFUSED),
        "counts": {outcome.value: len(check.having(outcome)) for outcome in Outcome},
        "rows": [_json_row(row) for row in sort_rows(check.rows)],
    }
    return json.dumps(document, indent=1, allow_nan=False)


def _json_row(row: Row) -> dict[str, Any]:
    def side(one: Side | None) -> dict[str, Any] | None:
        return None if one is None else {"values": one.values, "mean": one.mean, "low": one.low, "high": one.high}

    return {
        "series": row.series,
        "number": row.number,
        "verdict": row.outcome.value,
        "baseline": side(row.old),
        "now": side(row.new),
        "tolerance": row.tolerance,
        "direction": row.direction,
        "p": row.p,
        "adjusted_p": row.adjusted_p,
        "note": row.note,
    }
