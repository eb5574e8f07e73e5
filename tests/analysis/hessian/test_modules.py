"""Eval mode that leaves no trace whatever a model does with its flags and buffers, and names of parameters."""

import threading

import pytest
import torch
from saddlescope.analysis.hessian.modules import evaluation_mode
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.linear_operator import OperatorError
from torch import nn
from torch.nn import functional

from saddlescope import AnalysisSettings, Samples, analyze


@pytest.fixture
def samples():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Samples.from_tensors(x, torch.arange(9) % 3)


class Merging(nn.Linear):
    """A LoRA layer that adds its product to the weight for as long as it is in eval mode, as loralib's does."""

    def __init__(self):
        super().__init__(4, 3, dtype=torch.float64)
        self.a, self.b = (nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((2, 4), (3, 2)))
        self.merged = False

    def train(self, mode=True):
        if self.merged == mode:
            self.weight.data += (self.b @ self.a).detach() * (-1 if mode else 1)
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        plain = functional.linear(x, self.weight, self.bias)
        return plain if self.merged else plain + x @ self.a.T @ self.b.T


def test_layers_that_merge_in_eval_mode_keep_their_parameters(samples, dense):
    torch.manual_seed(0)
    model = Merging()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    operator = HessianOperator(model, samples)
    product = operator.matmat(torch.eye(operator.size, dtype=torch.float64))
    assert not model.merged
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval = lambda: model  # the truth as the layer trains
    torch.testing.assert_close(product, dense(model, samples).hessian, rtol=1e-10, atol=1e-12)


class Counting(nn.Module):
    """A statistic that every pass replaces, and a cache that it makes."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 3, dtype=torch.float64)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("cache", torch.zeros(1, dtype=torch.float64), persistent=False)

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        if len(self.cache) < x.shape[1]:
            self.cache = torch.ones(x.shape[1], dtype=torch.float64)
        return self.last(x * self.cache)


def test_replaced_statistics_come_back_and_caches_stay(samples):
    model = Counting()
    mean, operator = model.mean, HessianOperator(model, samples)
    operator.matvec(torch.ones(operator.size, dtype=torch.float64))
    assert model.mean is mean
    assert float(mean) == 0
    assert len(model.cache) == 4


def test_exported_programs_have_no_eval_and_need_none():
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).eval()
    program = torch.export.export(net, (torch.randn(2, 4),)).module()
    with evaluation_mode(program):
        assert not program.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_tied_parameters_are_found_by_each_of_their_names(samples):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    assert HessianOperator(model, samples, params="2.*").parameter_names == ["0.weight", "2.bias"]
    assert HessianOperator(model, samples, params="2.weight, 0.*").parameter_names == ["0.weight"]


def test_a_model_that_cannot_be_copied_is_said(samples):
    model = nn.Linear(4, 3).double()
    model.lock = threading.Lock()
    with pytest.raises(OperatorError, match=r"cannot be copied.*lock"):
        analyze(model, samples, settings=AnalysisSettings(scheme="all"))
