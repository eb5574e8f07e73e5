"""What a terminal of 80 characters shows of a stored result: every heading and every number whole."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.terminal import compare, show

STORED = sorted((Path(__file__).parents[3] / "reports" / "studies").glob("*/*/curvature/checkpoint.*.json"))


STUDIES = sorted({path.parents[2] for path in STORED})


@pytest.fixture(params=["lambda_min", "lambda_max", "both"])
def results(request):
    """A stored result of every study, with bounds of the longest numbers for ends."""
    ends = ("lambda_min", "lambda_max") if request.param == "both" else (request.param,)
    firsts = [next(path for path in STORED if study in path.parents) for study in STUDIES]
    return {path: wide(load(CurvatureResult, path), ends) for path in firsts}


def wide(result, ends):
    groups = {}
    for name, group in result.groups.items():
        bounds = {end: getattr(group, end).model_copy(update={"value": -123456.7, "converged": False}) for end in ends}
        groups[name] = group.model_copy(update=bounds)
    return result.model_copy(update={"groups": groups})


def numbers(group):
    return [f"{group.loss:.3g}", *(f"{end.value:.4g}" for end in (group.lambda_min, group.lambda_max))]


@pytest.mark.parametrize("show_all", [compare, lambda results, console: [show(result, console) for result in results.values()]])
def test_no_number_and_no_heading_is_cut(results, show_all):
    console = Console(width=80, file=io.StringIO())
    show_all(results, console)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any("lambda_min" in line and "lambda_max" in line and "accuracy" in line for line in lines)
    words = " ".join(console.file.getvalue().split())
    for result in results.values():
        for name, group in result.groups.items():
            assert any(all(number in line.split() for number in numbers(group)) for line in lines), numbers(group)
            assert name in words
            for end in (group.lambda_min, group.lambda_max):  # in the next lines, if need be
                assert end.converged or all(word in words for word in f"({end.state})".split())
