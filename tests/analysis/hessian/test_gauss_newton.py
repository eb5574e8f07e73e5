"""The Gauss-Newton part against its definition, sample by sample in float64."""

import pytest
import torch
from saddlescope.analysis.hessian.gauss_newton import GaussNewtonOperator, measure_gauss_newton
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from saddlescope import AnalysisSettings, analyze


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


class Pair(nn.Module):
    """Logits and features."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        features = torch.tanh(self.first(x))
        return self.last(features), features


def entropy(model, batch):
    return functional.cross_entropy(model(batch[0])[0], batch[1], reduction="none")


@pytest.mark.parametrize(
    "rest",
    [
        lambda model, batch: model.first(batch[0]).tanh().square().sum(1),  # no second call of the model, and another way to it
        lambda model, batch: 1e-2 * model.last.weight.square().sum(),
    ],
)
def test_a_loss_with_another_way_to_the_weights_is_refused(problem, rest):
    _, inputs, targets = problem
    torch.manual_seed(0)
    model, samples = Pair().double(), Samples.from_tensors(inputs, targets)
    v = torch.ones(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    assert float(GaussNewtonOperator(HessianOperator(model, samples, entropy)).matvec(v).norm()) > 0
    both = HessianOperator(model, samples, lambda m, batch: entropy(m, batch) + rest(m, batch))
    with pytest.raises(OperatorError, match="another way as well"):
        GaussNewtonOperator(both).matvec(v)
    found = analyze(model, samples, loss=both.loss, settings=AnalysisSettings(scheme="all", gauss_newton=True, steps=20))
    assert found.groups["all"].gauss_newton is None
    assert any("no Gauss-Newton part: " in warning for warning in found.groups["all"].warnings)


class Checkpointed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 5), norm, nn.Linear(5, 3)

    def forward(self, x):
        return self.last(checkpoint(lambda z: self.norm(self.first(z)).tanh(), x, use_reentrant=False))


@pytest.mark.parametrize("norm", [lambda: nn.Dropout(0.5), lambda: nn.BatchNorm1d(5)])
def test_checkpointed_parts_in_train_mode_are_computed_again_in_eval_mode(problem, norm):
    _, inputs, targets = problem
    torch.manual_seed(0)
    model = Checkpointed(norm()).double().train()
    operator = GaussNewtonOperator(HessianOperator(model, Samples.from_tensors(inputs, targets)))
    product = operator.matmat(torch.eye(operator.size, dtype=torch.float64))
    torch.testing.assert_close(product, dense(model.eval(), inputs), rtol=1e-10, atol=1e-12)


class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.centres = nn.Linear(4, 5), nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        return -torch.cdist(self.first(x).tanh(), self.centres)


def test_what_torch_cannot_differentiate_twice_and_inference_mode(problem):
    _, inputs, targets = problem
    torch.manual_seed(0)
    model = Distances().double()
    operator = GaussNewtonOperator(HessianOperator(model, Samples.from_tensors(inputs, targets)))
    with torch.inference_mode():
        product = operator.matmat(torch.eye(operator.size, dtype=torch.float64))
    torch.testing.assert_close(product, dense(model, inputs), rtol=1e-10, atol=1e-12)
