"""The verdict's two questions, kept apart: truth table, corners, and the steps that decide an open one."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures import measure_group
from saddlescope.analysis.measures.extremes import measure_ends
from saddlescope.analysis.measures.verdict import Search, verdict
from saddlescope.analysis.records.spectra import Extreme

from saddlescope import AnalysisSettings, Samples, analyze


def extreme(value, low=None, high=None, noise=0.0, confidence=0.999):
    return Extreme(
        value=value, residual=0, interval=(low, high), confidence=confidence, residual_interval=(value, value), converged=True,
        noise=noise,
    )  # fmt: skip


# lambda_max is 100, tau 0.1, ||w|| 10: stationary up to s* = 2 ||g|| / |lambda_min| = 1
@pytest.mark.parametrize(
    ("value", "low", "noise", "gradient", "curvature", "stationary", "label"),
    [
        (-5, -6, 0, 2.4, "negative curvature", True, "saddle"),
        (-5, -6, 0, 2.5, "negative curvature", True, "saddle"),  # s* / ||w|| = 0.1 exactly
        (-5, -6, 0, 2.6, "negative curvature", False, "negative curvature, not stationary"),
        (-5, None, 0, 0, "negative curvature", True, "saddle"),  # negative is proved without a two-sided interval
        (-5, -6, 4.8, 0, "negative curvature", True, "saddle"),
        (-5, -6, 5.0, 0, "undetermined", None, "undetermined"),  # beyond -tau, but not beyond the noise
        (-0.1, -0.2, 0, 0, "undetermined", None, "undetermined"),  # -tau itself is not below -tau
        (-0.101, -0.2, 0, 1e9, "negative curvature", False, "negative curvature, not stationary"),
        (-0.05, -0.09, 0, 0, "none above tau", None, "no negative curvature above tau"),
        (0.3, 0.2, 0, 0, "none above tau", None, "no negative curvature above tau"),
        (0.3, -0.1, 0, 0, "undetermined", None, "undetermined"),  # the interval must end above -tau
        (0.3, -4, 0, 0, "undetermined", None, "undetermined"),
        (0.3, None, 0, 0, "undetermined", None, "undetermined"),
    ],
)
def test_truth_table(value, low, noise, gradient, curvature, stationary, label):
    answer = verdict(extreme(value, low, value, noise), extreme(100), gradient, 10, search=Search(1000))
    assert (answer.curvature, answer.stationary, answer.label) == (curvature, stationary, label)
    assert answer.tau == pytest.approx(0.1)
    if curvature == "negative curvature":
        assert answer.displacement == pytest.approx(2 * gradient / abs(value))
        assert answer.displacement_ratio == pytest.approx(answer.displacement / 10)
        assert answer.more_steps is None
    else:
        assert answer.displacement is None
    assert (answer.more_steps is not None) == (curvature == "undetermined" and value + 0.1 > noise)


def test_the_example_of_the_mathematics_page():
    """Tail gradient 15, lambda_min -24: negative curvature, and whether it is a saddle depends on the weights' norm."""
    for norm, label in ((20, "saddle"), (10, "negative curvature, not stationary")):
        answer = verdict(extreme(-24, -25), extreme(300), 15, norm)
        assert answer.displacement == pytest.approx(1.25)
        assert answer.label == label
        assert "-24" in answer.sentence


def test_thresholds_are_settable_and_printed():
    answer = verdict(extreme(-24, -25), extreme(300), 15, 10, relative_tau=0.1, threshold=0.5)
    assert (answer.label, answer.tau) == ("no negative curvature above tau", 30)
    answer = verdict(extreme(-24, -25), extreme(200), 15, 10, relative_tau=0.1, threshold=0.5)
    assert (answer.label, answer.tau, answer.threshold) == ("saddle", 20, 0.5)
    assert "50 %" in answer.sentence


def test_corners_of_the_verdict():
    assert verdict(extreme(-1, -1), extreme(-0.5), 0, 1).tau == 0  # all negative
    assert verdict(extreme(-1, -1), extreme(1), 1, 0).displacement_ratio is None  # weights of norm 0
    assert verdict(extreme(-1, -1), extreme(1), 0, 0).label == "saddle"
    flat = verdict(extreme(0, 0, 0, confidence=1), extreme(0), 0, 1)
    assert flat.label == "no negative curvature above tau"  # nothing lies below 0
    sure = verdict(extreme(1, 1, 1, confidence=1), extreme(2), 0, 1)
    assert "probability" not in sure.sentence
    assert "float64" in verdict(extreme(0, -1, 0, noise=1), extreme(100), 0, 1, search=Search(100)).sentence


@pytest.mark.parametrize("starts", [1, 3])
def test_the_steps_that_would_decide_do_decide(diagonal, starts):
    values = np.abs(np.random.default_rng(0).normal(0, 0.3, 3000)) + 0.1
    values[:3] = [100, 40, 20]

    def answer(steps):
        spectrum = measure_spectrum(diagonal(values), steps=steps, min_steps=steps, starts=starts)
        low, high = spectrum.lambda_min, spectrum.lambda_max
        return verdict(low, high, 0, 1, search=Search(3000, starts, looks=spectrum.looks))

    first = answer(30)
    assert first.curvature == "undetermined"
    assert first.more_steps > 30
    assert answer(first.more_steps + 5).curvature == "none above tau"
    assert answer(int(0.7 * first.more_steps)).curvature == "undetermined"


def test_the_steps_that_would_decide_do_decide_where_every_step_is_a_look(diagonal):
    values = np.abs(np.random.default_rng(0).normal(0, 0.3, 3000)) + 0.1
    values[:3] = [100, 40, 20]

    def answer(steps):
        ends = measure_ends(diagonal(values), steps=steps, tau=1e-3)
        return verdict(ends.lambda_min, ends.lambda_max, 0, 1, search=Search(3000, looks=ends.looks, every=1))

    first = answer(20)
    assert first.curvature == "undetermined"
    assert answer(first.more_steps + 5).curvature == "none above tau"


def test_the_advice_of_goal_ends_knows_its_looks(network, long_tail, monkeypatch):
    asked = []
    monkeypatch.setattr(measure_group, "verdict", lambda *_, search, **more: asked.append(search) or verdict(*_, **more))
    for goal in ("spectrum", "ends"):
        settings = AnalysisSettings(scheme="all", goal=goal, steps=40, rates=False, dtype="float64")
        analyze(network(), long_tail(), settings=settings)
    assert [search.every for search in asked] == [5, 1]


def test_the_gradient_of_the_trained_objective_is_said_beside_the_losss_own():
    """Where weight decay balances the loss, the loss's own gradient does not vanish."""
    torch.manual_seed(0)
    x, y, decay = torch.randn(30, 4), torch.arange(30) % 3, 1e-2
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
    settings = AnalysisSettings(scheme="all", goal="verdict", weight_decay=decay, dtype="float64")
    group = analyze(model, Samples.from_tensors(x, y), settings=settings).groups["all"]
    squares = sum((p**2).sum() for p in model.parameters())
    objective = torch.nn.functional.cross_entropy(model(x.double()), y) + decay / 2 * squares
    slopes = torch.autograd.grad(objective, list(model.parameters()))
    truth = float(torch.cat([slope.flatten() for slope in slopes]).norm())
    assert group.objective_gradient_norm == pytest.approx(truth, rel=1e-9)
    assert f"({truth:.3g} of the objective with weight decay 0.01)" in group.verdict.sentence
    without = analyze(model, Samples.from_tensors(x, y), settings=settings.model_copy(update={"weight_decay": None}))
    assert without.groups["all"].objective_gradient_norm is None
