"""Products are counted: what was not asked for is not measured."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian import differences, operator
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.samples import memory
from safetensors.torch import load_file
from torch import nn

from saddlescope import Samples

ETA = 6  # head: classes 0 and 1 with 20 and 10 samples, tail: classes 2 and 3 with 5 and 2


@pytest.fixture
def passes(monkeypatch):
    """Samples and columns of every product, samples of every gradient, in order."""
    seen = {"products": [], "gradients": []}
    matmat, gradient = HessianOperator.matmat, HessianOperator.loss_and_gradient

    def counted(self, v):
        seen["products"] += [self.num_samples] * v.shape[1]
        return matmat(self, v)

    def counted_gradient(self):
        seen["gradients"].append(self.num_samples)
        return gradient(self)

    monkeypatch.setattr(HessianOperator, "matmat", counted)
    monkeypatch.setattr(HessianOperator, "loss_and_gradient", counted_gradient)
    return seen


@pytest.mark.parametrize(
    "asked",
    [
        {"eta": ETA, "only": ["tail"]},
        {"scheme": "custom", "groups": {"tail": [2, 3]}},
        {"eta": ETA, "only": ["tail"], "goal": "ends"},
        {"eta": ETA, "only": ["tail"], "goal": "verdict"},
    ],
)
def test_nothing_but_the_tail(network, long_tail, passes, asked):
    found = analyze(network(), long_tail(), settings=AnalysisSettings(**asked))
    assert list(found.groups) == ["tail"]
    assert found.additivity is None
    assert found.net_rates == []
    assert max(passes["products"]) <= 7  # the tail's own samples
    assert max(passes["gradients"]) <= 7


@pytest.mark.parametrize(
    "asked", [{"eta": ETA, "only": ["head", "tail"]}, {"scheme": "custom", "groups": {"a": [0, 1], "b": [2, 3]}}]
)
def test_groups_that_make_up_the_whole_cost_one_product_of_it(network, long_tail, passes, asked):
    found = analyze(network(), long_tail(), settings=AnalysisSettings(**asked))
    assert passes["products"].count(37) == 1
    assert 37 not in passes["gradients"]
    assert found.additivity < 1e-5


def test_rates_of_the_whole_objective_are_taken_where_they_are_asked_for(network, long_tail, passes):
    asked = AnalysisSettings(eta=ETA, only=["tail"], net_rates="own", dtype="float64")
    found = analyze(network(), long_tail(), settings=asked)
    assert [rate.optimizer for rate in found.net_rates] == ["sgd"]


def test_a_part_of_all_samples_says_nothing_of_the_net_rate_of_the_whole_objective(network, long_tail):
    samples, asked = long_tail(), AnalysisSettings(eta=ETA, only=["all"], net_rates="own", dtype="float64")
    (whole,) = analyze(network(), samples, settings=asked).net_rates
    part = analyze(network(), samples, settings=asked, parts={"all": [np.arange(0, samples.num_samples, 2)]})
    assert part.net_rates[0].rate == pytest.approx(whole.rate, rel=1e-6)
    assert -part.groups["all"].lambda_min.value != pytest.approx(whole.rate, rel=1e-3)


@pytest.mark.parametrize(
    ("goal", "asked", "kept"),
    [
        ("spectrum", {}, ["tail/max", "tail/min"]),
        ("ends", {}, ["tail/max", "tail/min"]),
        ("verdict", {}, ["tail/min"]),
        ("verdict", {"keep_vectors": "both"}, ["tail/max", "tail/min"]),
        ("ends", {"keep_vectors": "min", "escape_test": True}, ["tail/min"]),
    ],
)
def test_a_loss_is_followed_and_vectors_are_stored_where_they_are_asked_for(
    network, long_tail, tmp_path, monkeypatch, goal, asked, kept
):
    followed = []
    mean_loss = HessianOperator.mean_loss

    def counted(self):
        followed.append(self.num_samples)
        return mean_loss(self)

    monkeypatch.setattr(HessianOperator, "mean_loss", counted)
    file = tmp_path / "v.safetensors"
    settings = AnalysisSettings(eta=ETA, only=["tail"], goal=goal, **asked)
    tail = analyze(network(), long_tail(), settings=settings, vectors=file).groups["tail"]
    stored = load_file(file)
    assert sorted(stored) == kept
    assert {v.dtype for v in stored.values()} == {torch.float32}
    assert tail.certificate.holds
    assert tail.certificate.dtype == "float64"
    test = goal == "spectrum" or "escape_test" in asked
    assert (tail.escape.test is not None) == test
    assert len([size for size in followed if size == 7]) == (10 if test else 0)


def test_graphs_take_a_quarter_of_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "_available", lambda: 8 * 2**30)
    monkeypatch.setattr(memory, "_control_group", lambda: None)
    assert memory.graph_budget(torch.device("cpu")) == 2 * 2**30
    with memory.memory_shared_by(2):
        assert memory.graph_budget(torch.device("cpu")) == 2**30


def test_what_is_known_of_a_group_is_not_measured_again_in_float64(passes, monkeypatch):
    """Weights on kinks, so that steps must be held against the rounding of the gradient, before and with the vectors found."""
    seen = {"planned": 0, "added up": 0, "passes for the rounding": 0}
    plan, sums, rounding = HessianOperator._plan, operator.require_sums, differences._noise

    def counted_plan(one):
        seen["planned"] += 1
        return plan(one)

    def counted_sums(one):
        seen["added up"] += 1
        sums(one)

    def counted_rounding(*given):
        before = len(passes["gradients"])
        found = rounding(*given)
        seen["passes for the rounding"] += len(passes["gradients"]) - before
        return found

    monkeypatch.setattr(HessianOperator, "_plan", counted_plan)
    monkeypatch.setattr(operator, "require_sums", counted_sums)
    monkeypatch.setattr(differences, "_noise", counted_rounding)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 3))
    nn.init.zeros_(model[0].bias)
    x = torch.randn(40, 5)
    x[::2] = 0
    analyze(model, Samples.from_tensors(x, torch.arange(40) % 3), settings=AnalysisSettings(scheme="all", goal="ends"))
    # Measured in either look, from the start, the rounding took 4; all in all there were 78 gradients in float64, and are 75.
    assert seen == {"planned": 1, "added up": 1, "passes for the rounding": 1}
