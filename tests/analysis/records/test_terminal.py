"""What a terminal of 80 characters shows of a stored result: every heading and every number whole."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.terminal import compare, show

STORED = sorted((Path(__file__).parents[3] / "reports" / "studies").glob("*/*/curvature/checkpoint.*.json"))


@pytest.fixture
def results():
    """Two stored results, one of their ends with a bound for a value, the widest that there is."""
    return {path: wide(load(CurvatureResult, path)) for path in STORED[:2]}


def wide(result):
    name, group = next(iter(result.groups.items()))
    low = group.lambda_min.model_copy(update={"value": -123456.7, "converged": False})
    return result.model_copy(update={"groups": {**result.groups, name: group.model_copy(update={"lambda_min": low})}})


def numbers(group):
    ends = (f"{end.value:.4g}{'' if end.converged else ' (bound)'}" for end in (group.lambda_min, group.lambda_max))
    return [f"{group.loss:.3g}", *ends]


@pytest.mark.parametrize("show_all", [compare, lambda results, console: [show(result, console) for result in results.values()]])
def test_no_number_and_no_heading_is_cut(results, show_all):
    console = Console(width=80, file=io.StringIO())
    show_all(results, console)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any("lambda_min" in line and "lambda_max" in line and "accuracy" in line for line in lines)
    for result in results.values():
        for group in result.groups.values():
            assert any(all(number in line for number in numbers(group)) for line in lines), numbers(group)
