"""Every interval stored in this repository, as each page and table prints it: none is narrower than what was found.

Where ends are rounded to the nearest, more than half of these lie outside what is printed (132 of 212 once did).
"""

import json
import re
from fractions import Fraction
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.terminal import show
from saddlescope.reports.check.output import side_words
from saddlescope.reports.check.rows import Side
from saddlescope.reports.page.sheets import along_sheet, seed_sheet
from saddlescope.reports.tables.entries import label, measured_entry, records

REPORTS = Path(__file__).parents[3] / "reports"
STUDIES = sorted(path.parent for path in (REPORTS / "studies").glob("*/study.json"))
RESULTS = [path for study in STUDIES for path in sorted(study.glob("*/curvature/*.json"))]
INTERVAL = re.compile(r"\[([^\[\],]*), ([^\[\],]*)\]")


def ends(text):
    """The ends of the only interval in a text, None where it is open."""
    ((left, right),) = INTERVAL.findall(text)
    return [None if "inf" in end or "∞" in end else Fraction(end.strip().replace("−", "-")) for end in (left, right)]


def outside(printed, stored, beside=None):
    """How many stored ends, and numbers beside the interval, lie outside what is printed."""
    (left, right), (low, high) = printed, stored
    count = left is not None and (low is None or Fraction(repr(float(low))) < left)
    count += right is not None and (high is None or Fraction(repr(float(high))) > right)
    if beside is not None:
        count += not (left is None or left <= beside) or not (right is None or beside <= right)
    return count


def intervals_of(tree):
    """Every value with an interval in a stored file: results keep them as ``interval``, baselines as ``low`` and ``high``."""
    if isinstance(tree, dict):
        if isinstance(tree.get("interval"), list) and isinstance(tree.get("value"), float | int):
            yield tree["value"], tree["interval"]
        if {"value", "low", "high"} <= set(tree) and isinstance(tree["value"], float):
            yield tree["value"], (tree["low"], tree["high"])
        for value in tree.values():
            yield from intervals_of(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from intervals_of(value)


def test_there_is_something_to_look_at():
    assert len(RESULTS) >= 36


def test_on_the_terminal_and_in_a_notebook():
    found = 0
    for path in RESULTS:
        raw, result, stream = json.loads(path.read_text()), load(CurvatureResult, path), StringIO()
        show(result, Console(file=stream, width=4000, color_system=None))
        lines = {line.split(":")[0]: line for line in stream.getvalue().splitlines() if "lambda_min in [" in line}
        rows = dict(zip(raw["groups"], re.findall(r"<tr>(.*?)</tr>", result._repr_html_())[1:], strict=True))
        for group, stored in raw["groups"].items():
            cells = re.findall(r"<td>(.*?)</td>", rows[group])
            for end, cell in (("lambda_min", cells[2]), ("lambda_max", cells[3])):
                said = re.search(rf"{end} in (\[.*?\])", lines[group])[1]
                for printed, beside in ((said, f"{stored[end]['value']:.4g}"), (cell, cell.split(" in ")[0])):
                    assert outside(ends(printed), stored[end]["interval"], Fraction(beside)) == 0, (path, group, end)
                    found += 1
    assert found >= 4 * len(RESULTS)


@pytest.mark.parametrize("sheet_of", [seed_sheet, along_sheet])
def test_in_the_tables(sheet_of):
    found = 0
    for folder in STUDIES:
        sheet = sheet_of(load_study(folder), "head-tail")
        titles = [head[0] for head in sheet.heads]
        for row, entries in zip(records(sheet.data), sheet.rows, strict=True):
            for quantity in {name.rpartition("_low")[0] for name in row if name.endswith("_low")}:
                if quantity.startswith("saddle_index") or label(quantity)[0] not in titles:
                    continue
                entry = entries[titles.index(label(quantity)[0])]
                assert entry == measured_entry(row, quantity)
                if not INTERVAL.search(entry.detail):
                    continue
                stored = [None if end != end else end for end in (row[f"{quantity}_low"], row[f"{quantity}_high"])]
                beside = Fraction(entry.text.replace("−", "-").removesuffix(" †"))
                assert outside(ends(entry.detail), stored, beside) == 0, (folder, row["optimizer"], row["seed"], quantity)
                found += 1
    assert found > 150


def test_in_the_words_of_a_check():
    """Of all files, baselines as well."""
    found = 0
    for path in [*RESULTS, *sorted((REPORTS / "baselines").glob("*.json"))]:
        for value, (low, high) in intervals_of(json.loads(path.read_text())):
            if low is None and high is None:
                continue
            text = side_words(Side([value], value, low, high))
            assert outside(ends(text), (low, high), Fraction(text.split(" ")[0])) == 0, (path, text)
            found += 1
    assert found > 800
