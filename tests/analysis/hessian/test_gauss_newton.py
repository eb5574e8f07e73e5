"""The Gauss-Newton part against its definition, sample by sample in float64."""

import pytest
import torch
from saddlescope.analysis.hessian.gauss_newton import GaussNewtonOperator, measure_gauss_newton
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.func import functional_call


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    model(torch.randn(50, 4).double())  # running statistics that are not the identity
    return model.eval(), torch.randn(11, 4).double(), torch.arange(11) % 3


def dense(model, inputs):
    named = dict(model.named_parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])

    def outputs(w, x):
        parts, start = {}, 0
        for name, p in named.items():
            parts[name] = w[start : start + p.numel()].view_as(p)
            start += p.numel()
        return functional_call(model, parts, (x[None],))[0]

    total = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for x in inputs:
        jacobian = torch.autograd.functional.jacobian(lambda w, x=x: outputs(w, x), flat)
        p = outputs(flat, x).softmax(0)
        total += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian / len(inputs)
    return total


def test_products_are_those_of_the_definition(problem):
    model, inputs, targets = problem
    operator = GaussNewtonOperator(HessianOperator(model, Samples.from_tensors(inputs, targets), micro_batch=4))
    truth = dense(model, inputs)
    assert torch.allclose(operator.matmat(torch.eye(operator.size, dtype=torch.float64)), truth, atol=1e-12)


def test_the_rest_of_the_hessian_carries_the_negative_curvature(problem):
    model, inputs, targets = problem
    hessian = HessianOperator(model, Samples.from_tensors(inputs, targets))
    values, vectors = torch.linalg.eigh(hessian.matmat(torch.eye(hessian.size, dtype=torch.float64)))
    assert values[0] < -1e-3
    found = measure_gauss_newton(hessian, vectors[:, 0], steps=100, min_steps=30, rtol=1e-6, delta=1e-3, seed=0)
    truth = dense(model, inputs)
    assert found.lambda_max.value == pytest.approx(float(torch.linalg.eigvalsh(truth)[-1]), rel=1e-9)
    assert found.quotient_along_v == pytest.approx(float(vectors[:, 0] @ truth @ vectors[:, 0]), abs=1e-12)
    assert found.quotient_along_v >= 0


def test_frozen_parameters_and_patterns(problem):
    model, inputs, targets = problem
    operator = GaussNewtonOperator(HessianOperator(model, Samples.from_tensors(inputs, targets), params="3.*"))
    truth = dense(model, inputs)[-operator.size :, -operator.size :]
    assert torch.allclose(operator.matmat(torch.eye(operator.size, dtype=torch.float64)), truth, atol=1e-12)


def test_a_loss_that_calls_the_model_twice_is_refused(problem):
    model, inputs, targets = problem

    def twice(m, batch):
        return (m(batch[0]) + m(-batch[0])).square().sum(1)

    operator = GaussNewtonOperator(HessianOperator(model, Samples.from_tensors(inputs, targets), twice))
    with pytest.raises(OperatorError, match="called 2 times"):
        operator.matvec(torch.ones(operator.size, dtype=torch.float64))
