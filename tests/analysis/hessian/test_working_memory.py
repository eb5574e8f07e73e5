"""The memory budget: what graphs and vectors may hold, how many samples at once, and what is too small."""

import pytest
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.hessian.working_memory import BudgetError, fit_budget
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.settings import AnalysisSettings


def test_vectors_and_graphs_share_the_budget(network, long_tail):
    operator = HessianOperator(network(), long_tail(), memory=10**6, vectors=5)
    assert operator.vector_bytes == operator.basis_bytes == 5 * operator.size * 8
    assert operator.graph_budget == 10**6 - operator.basis_bytes
    assert operator.place("auto") == operator.basis_bytes
    assert operator.place("cpu") == "cpu"
    many = HessianOperator(network(), long_tail(), memory=10**6, vectors=10**6)
    assert many.basis_bytes == many.graph_budget == 500_000


def test_as_many_samples_at_once_as_the_budget_holds(network, long_tail):
    operator = HessianOperator(network().float(), long_tail(), memory=10**9)
    sizes = [operator.graph_bytes(range(count)) for count in range(1, 38)]
    for wanted in (1, 5, 20):
        budget = 2 * sizes[wanted - 1] + 100  # float64 has graphs of twice that size
        tight = HessianOperator(network().float(), long_tail(), memory=budget)
        fit_budget(tight, budget)
        assert tight.micro_batch == wanted
    fit_budget(operator, 10**9)
    assert operator.micro_batch == 37
    settings = AnalysisSettings(scheme="all", memory=4 * sizes[7], steps=10, min_steps=5)
    found = [
        analyze(network().float(), long_tail(), settings=one) for one in (settings, AnalysisSettings(scheme="all", steps=10))
    ]
    tight, free = (one.groups["all"].lambda_max.value for one in found)
    assert tight == pytest.approx(free, rel=1e-4)


def test_the_smallest_budget_that_works_is_said_and_works(network, long_tail):
    model, samples = network().float(), long_tail()
    settings = AnalysisSettings(scheme="all", memory=1000, steps=6, min_steps=5)
    with pytest.raises(BudgetError, match=r"0\.000954 MiB is too small: .* give --memory (\d+)MiB or more") as refused:
        analyze(model, samples, settings=settings)
    least = int(str(refused.value).rpartition("MiB or more")[0].rpartition(" ")[2]) * 2**20
    assert analyze(model, samples, settings=settings.model_copy(update={"memory": least})).groups["all"].steps


def test_a_micro_batch_that_somebody_chose_stays(network, long_tail):
    operator = HessianOperator(network(), long_tail(), memory=10**6)
    fit_budget(operator, 10**6)
    assert operator.micro_batch >= 1
    chosen = AnalysisSettings(scheme="all", memory=1000, micro_batch=5, steps=6, min_steps=5)
    assert analyze(network(), long_tail(), settings=chosen).groups["all"].steps


def test_float64_takes_over_what_was_found_out(network, long_tail, monkeypatch):
    operator = HessianOperator(network().float(), long_tail())
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = HessianOperator(network(), long_tail(), accelerate=False).matvec(v)
    passes = []
    monkeypatch.setattr(HessianOperator, "sum_and_slope", lambda *_, **__: passes.append("sums"))
    monkeypatch.setattr(HessianOperator, "_plan", lambda _: passes.append("plan"))
    wide = operator.with_model(network())
    assert not passes
    assert wide.accelerator is not operator.accelerator
    assert wide.accelerator.precision is not operator.accelerator.precision
    assert float((wide.matvec(v) - plain).norm()) < 1e-12 * float(plain.norm())
