"""PyHessian through the adapter, against ours, the dense truth, and its own promise to leave nothing behind."""

import pytest
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures.pyhessian_engine import EngineError, pyhessian_spectrum
from saddlescope.analysis.samples.samples import Samples
from torch import nn


@pytest.fixture
def operator():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))
    model(torch.randn(64, 1, 6, 6))
    model.eval()
    inputs, targets = torch.randn(50, 1, 6, 6), torch.arange(50) % 3
    return HessianOperator(model, Samples.from_tensors(inputs, targets), micro_batch=16)


def test_both_engines_agree_on_the_ends_and_the_trace(operator):
    theirs, ours = pyhessian_spectrum(operator, starts=2), measure_spectrum(operator, starts=4)
    exact = torch.linalg.eigvalsh(operator.matmat(torch.eye(operator.size)).double())
    assert theirs.lambda_max.value == pytest.approx(float(exact[-1]), rel=1e-2)
    assert theirs.lambda_min.value == pytest.approx(float(exact[0]), rel=1e-2)
    assert ours.lambda_max.value == pytest.approx(float(exact[-1]), rel=1e-4)
    assert theirs.trace.value == pytest.approx(float(exact.sum()), abs=5 * theirs.trace.standard_error)


def test_what_it_does_not_tell_stays_open(operator):
    found = pyhessian_spectrum(operator)
    assert found.lambda_min.interval[0] is None
    assert found.lambda_max.interval[1] is None
    assert not found.lambda_min.converged
    assert found.negative_mass[0].interval == (0, 1)


def test_global_state_is_put_back(operator):
    before, eig = torch.get_rng_state(), vars(torch)["eig"]
    gradients = [p.grad for p in operator.parameters]
    pyhessian_spectrum(operator, steps=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert vars(torch)["eig"] is eig
    assert [p.grad for p in operator.parameters] == gradients


def test_the_seed_decides(operator):
    one, same, other = (pyhessian_spectrum(operator, steps=8, seed=seed).density for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_what_it_cannot_do_is_refused(operator):
    part = HessianOperator(operator.model, operator.samples, params="4.*")
    with pytest.raises(EngineError, match="--params"):
        pyhessian_spectrum(part)
    own = HessianOperator(operator.model, operator.samples, lambda model, batch: model(batch[0]).square().sum(1))
    with pytest.raises(EngineError, match="--loss"):
        pyhessian_spectrum(own)
