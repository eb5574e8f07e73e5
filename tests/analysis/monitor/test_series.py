"""What a monitor stores is what ``baseline``, ``check`` and the figures of stored results read."""

import copy
import json

import pytest
import torch
from saddlescope.analysis.records.checkpoint_series import load_series
from saddlescope.figures.draw import draw_results
from saddlescope.figures.plots import along_training
from typer.testing import CliRunner

import saddlescope
from saddlescope import Monitor


@pytest.fixture(scope="module")
def runs(network, long_tail, tmp_path_factory):
    """Two runs of the same two models, and one of which the second differs."""
    folder = tmp_path_factory.mktemp("runs")
    models = [network(torch.float32), network(torch.float32, seed=1)]
    moved = copy.deepcopy(models[1])
    with torch.no_grad():
        moved.fc.weight *= 1.5
    for name, path in {"one": models, "again": models, "moved": [models[0], moved]}.items():
        monitor = Monitor(long_tail(), eta=6, every=500, at_most=None, folder=folder / name)
        for step, model in enumerate(path):
            monitor(model, 500 * step)
    return folder


def command(*arguments):
    return CliRunner().invoke(saddlescope.application(), [str(one) for one in arguments])


@pytest.mark.parametrize("inner", ["", "curvature"])
def test_a_run_is_kept_as_a_baseline_and_checked(runs, tmp_path, inner):
    baseline = tmp_path / "baseline.json"
    saved = command("baseline", "save", runs / "one" / inner, "-o", baseline, "--by-seed")
    assert saved.exit_code == 0, saved.output
    assert "of 2 series" in saved.output  # step-0 and step-500
    assert command("check", runs / "again" / inner, "--baseline", baseline).exit_code == 0
    different = command("check", runs / "moved" / inner, "--baseline", baseline, "--json")
    assert different.exit_code == 1
    assert "step-500/head-tail::tail.loss" in different.output or '"series": "step-500/head-tail"' in different.output


def test_a_run_is_drawn(runs, tmp_path):
    stored = sorted((runs / "one" / "curvature").glob("step-*.json"))
    drawn = draw_results(stored, tmp_path)
    assert any(path.stem == "extremes" for path in drawn)


def test_a_run_is_a_curve_along_training(runs):
    study = load_series(runs / "one")
    (run,) = study.runs
    assert [step for step, _ in run.along("head-tail")] == [0, 500]
    assert study.axis == "step"
    assert along_training.draw(study) is not None


def test_a_named_run_is_checked_step_by_step(runs, tmp_path):
    baseline = tmp_path / "baseline.json"
    saved = command("baseline", "save", f"mine={runs / 'one'}", "-o", baseline, "--by-seed")
    assert saved.exit_code == 0, saved.output
    assert list(json.loads(baseline.read_text())["series"]) == ["mine/step-0/head-tail", "mine/step-500/head-tail"]
    assert command("check", f"mine={runs / 'again'}", "--baseline", baseline).exit_code == 0
    assert command("check", f"mine={runs / 'moved'}", "--baseline", baseline).exit_code == 1
