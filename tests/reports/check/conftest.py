"""What the tests of the check compare: a study of two optimizers, and one result of it."""

import pytest
import typer
from saddlescope.reports.check.accept import create
from saddlescope.reports.check.baseline import BaselineError
from saddlescope.reports.check.baseline_file import load_baseline
from saddlescope.reports.check.commands import register_baseline
from saddlescope.reports.check.compare_numbers import Outcome
from saddlescope.reports.check.run import check
from saddlescope.reports.check.series import collect
from typer.testing import CliRunner


@pytest.fixture
def study(build_study):
    return build_study(optimizers=("sgd", "ssesam"))


@pytest.fixture
def single(study):
    """One result file, as a user with one checkpoint has it."""
    return study / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json"


@pytest.fixture
def stored():
    """Stores results as a baseline; returns its path."""

    def store(tmp_path, *paths, **choices):
        path = tmp_path / "baseline.json"
        create(collect(paths, by_seed=choices.get("by_seed", False)), path, "first", **choices)
        return path

    return store


@pytest.fixture
def compare():
    """Checks results against a stored baseline."""

    def compare_with(path, *results, **choices):
        baseline = load_baseline(path)
        return check(baseline, collect(results, by_seed=baseline.by_seed), **choices)

    return compare_with


@pytest.fixture
def outcomes():
    """Number -> what a check found of it, of all that are not the same."""
    return lambda outcome: {row.identifier: row.outcome for row in outcome.rows if row.outcome is not Outcome.SAME}


@pytest.fixture
def run(monkeypatch):
    """``saddlescope baseline`` and ``check`` in this process: the output, or with ``code="error"`` the message."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    app = typer.Typer()
    register_baseline(app)

    def invoke(*arguments, code=0):
        found = CliRunner().invoke(app, [str(one) for one in arguments])
        if code == "error":
            assert isinstance(found.exception, BaselineError), found.output
            return str(found.exception)
        assert found.exit_code == code, (found.output, found.exception)
        return found.output

    return invoke
