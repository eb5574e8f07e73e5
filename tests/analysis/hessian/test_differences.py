"""Operators of another function are refused with a cause; right ones, on kinks too, are let through."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from saddlescope.analysis.hessian.differences import AnotherFunctionError, look
from saddlescope.analysis.hessian.modules import copied
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.hessian.suspects import stale_statistics
from saddlescope.analysis.krylov.guards import RandomOperatorError
from saddlescope.analysis.krylov.linear_operator import MatrixOperator, OperatorError
from saddlescope.analysis.measures.exact import dense_matrix
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from saddlescope import AnalysisSettings, Samples, analyze

_spec = importlib.util.spec_from_file_location("planted", Path(__file__).parents[2] / "benchmarks" / "planted.py")
planted = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(planted)
X, Y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
ALL = AnalysisSettings(scheme="all")
SAMPLES = Samples.from_tensors(X, Y)


def plain(activation=None, width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), activation or nn.Tanh(), nn.Linear(width, 3))


@pytest.mark.parametrize("number", range(len(planted.DEFECTS)))
def test_planted_defects_are_refused_and_the_same_models_without_them_are_not(number):
    assert planted.trial(97 * number, None) is None
    assert planted.trial(97 * number, planted.DEFECTS[number]) is not None


def test_the_cause_is_named():
    assert "'SavedDerivative'" in planted.trial(0, "derivative saved in forward")
    assert "gradients are recorded" in planted.trial(0, "another path without gradients")
    assert "data or the model is random" in planted.trial(0, "dropout always on")


def test_kinks_at_the_weights_themselves_are_no_wrong_derivative():
    model = plain(nn.ReLU(), 30)
    nn.init.zeros_(model[0].bias)
    x = X.clone()
    x[::2] = 0  # every unit is exactly at its kink
    assert look(HessianOperator(model.double(), Samples.from_tensors(x, Y))) == []


def test_the_weights_come_back_to_the_bit():
    operator = HessianOperator(plain().double(), Samples.from_tensors(X, Y))
    before = operator.weights()
    look(operator)
    assert torch.equal(operator.weights(), before)


def test_well_fitted_groups_are_measured_in_float64_where_float32_rounds_too_much():
    model = plain(nn.ReLU(), 64)
    step = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(1500):
        step.zero_grad()
        functional.cross_entropy(model(X), Y).backward()
        step.step()
    with torch.no_grad():
        model[2].weight *= 3
        model[2].bias *= 3
    group = analyze(model, Samples.from_tensors(X, Y), settings=ALL).groups["all"]
    exact = analyze(model, Samples.from_tensors(X, Y), settings=ALL.model_copy(update={"engine": "exact"})).groups["all"]
    assert group.lambda_max.value == pytest.approx(exact.lambda_max.value, rel=1e-2)
    assert (group.dtype == "float64") == any("measured in float64" in warning for warning in group.warnings)


def test_a_refused_group_leaves_the_others():
    def loss(model, batch):
        logits = model(batch[0])
        values = functional.cross_entropy(logits, batch[1], reduction="none")
        return torch.where(batch[1] == 2, values.detach() * values, values)

    settings = AnalysisSettings(scheme="custom", groups={"right": [0, 1], "wrong": [2]})
    result = analyze(plain(), Samples.from_tensors(X, Y), loss=loss, settings=settings)
    assert "right" in result.groups
    assert "not the derivative of the loss" in result.refused["wrong"]
    with pytest.raises(AnotherFunctionError):
        analyze(plain(), Samples.from_tensors(X[Y == 2], Y[Y == 2]), loss=loss, settings=ALL)


def test_asymmetric_dense_matrices_are_not_made_symmetric():
    matrix = torch.diag(torch.arange(5.0, dtype=torch.float64))
    matrix[0, 1] = 1e-3
    with pytest.raises(RandomOperatorError, match="not symmetric"):
        dense_matrix(MatrixOperator(matrix))


def test_inference_mode_is_left():
    with torch.inference_mode():
        inside = analyze(plain(), Samples.from_tensors(X.clone(), Y.clone()), settings=ALL).groups["all"]
    assert inside == analyze(plain(), Samples.from_tensors(X, Y), settings=ALL).groups["all"]


class Keyword(nn.Module):
    """Convolution and BatchNorm called by keyword, the weight computed on the way."""

    def __init__(self, keyword):
        super().__init__()
        self.conv, self.norm, self.last, self.keyword = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3), keyword
        self.norm.running_mean.fill_(0.1)

    def forward(self, x):
        weight, norm = self.conv.weight - self.conv.weight.mean(), self.norm
        if self.keyword:
            x = functional.conv2d(input=x, weight=weight, bias=self.conv.bias)
            x = functional.batch_norm(
                input=x, running_mean=norm.running_mean, running_var=norm.running_var, weight=norm.weight, bias=norm.bias
            )
        else:
            x = norm(functional.conv2d(x, weight, self.conv.bias))
        return self.last(x.tanh().mean((2, 3)))


def test_calls_by_keyword_are_calls():
    samples = Samples.from_tensors(torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)
    torch.manual_seed(0)
    model = Keyword(True).double()
    other = Keyword(False).double()
    other.load_state_dict(model.state_dict())
    one, two = HessianOperator(model, samples), HessianOperator(other, samples)
    assert one.accelerator._foldable == two.accelerator._foldable == {0}
    v = torch.ones(one.size, dtype=torch.float64)
    assert torch.equal(one.matvec(v), two.matvec(v))


def test_models_that_hold_activations_are_copied():
    model = plain()
    model.kept = [model(X)]
    assert torch.equal(copied(model).kept[0], model.kept[0])
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(model)


def test_a_loss_that_differentiates_the_model_itself():
    def loss(model, batch):
        x = batch[0].clone().requires_grad_()
        values = functional.cross_entropy(model(x), batch[1], reduction="none")
        (slope,) = torch.autograd.grad(values.sum(), x, create_graph=True)
        return values + 0.1 * slope.pow(2).sum(1)

    assert analyze(plain(), Samples.from_tensors(X, Y), loss=loss, settings=ALL).groups["all"].warnings == []


class Padded(nn.Module):
    """A Transformer encoder under a padding mask, and a mean over padding, too."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.words, self.encoder, self.last = (
            nn.Embedding(7, 8, padding_idx=0),
            nn.TransformerEncoder(layer, 1),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        return self.last(self.encoder(self.words(x), src_key_padding_mask=x == 0).mean(1))


def test_the_fast_path_of_transformers_is_not_taken():
    torch.manual_seed(0)
    words = torch.randint(1, 7, (40, 5), generator=torch.Generator().manual_seed(0))
    words[::2, 3:] = 0
    operator = HessianOperator(Padded(), Samples.from_tensors(words, Y))
    assert operator.mean_loss() == pytest.approx(operator.loss_and_gradient()[0], rel=1e-6)
    assert torch.backends.mha.get_fastpath_enabled()
    assert look(HessianOperator(Padded().double(), Samples.from_tensors(words, Y))) == []


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions_of_lines_images_and_volumes_are_looked_at(dimensions):
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    torch.manual_seed(0)
    model = nn.Sequential(kind(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 2**dimensions, 3))
    operator = HessianOperator(model, Samples.from_tensors(torch.randn(12, 2, *[4] * dimensions), Y[:12]))
    assert operator.look() == []
    v = torch.randn(operator.size)
    assert torch.allclose(operator.in_float64().matvec(v).float(), operator.matvec(v), rtol=1e-3, atol=1e-5)


def test_statistics_that_were_never_updated_are_said():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    assert stale_statistics(model) == []
    model[1].bias = None
    assert stale_statistics(model) == []
    nn.init.constant_(model[1].weight, 0.7)
    assert "'1'" in stale_statistics(model)[0]
    model(X)
    assert stale_statistics(model) == []


def test_what_autograd_cannot_do_is_one_sentence():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise TypeError("no backward here")

    model = plain()
    model.insert(1, type("Layer", (nn.Module,), {"forward": lambda self, x: Broken.apply(x)})())
    with pytest.raises(OperatorError, match="cannot be differentiated: no backward here"):
        analyze(model, Samples.from_tensors(X, Y), settings=ALL)


@pytest.mark.parametrize("scale", [12, 14, 16])
def test_a_loss_below_its_own_rounding_hides_no_wrong_derivative(scale):
    """Where nothing can be told at the weights, the same function is looked at where something can."""
    x = functional.one_hot(Y, 5).double()
    for wrong in (False, True):
        torch.manual_seed(0)
        model = planted.Net(nn.Linear(5, 8), 8, torch.tanh, planted.SavedDerivative.apply if wrong else None).double()
        step = torch.optim.Adam(model.parameters(), 2e-2)
        for _ in range(100):
            step.zero_grad()
            functional.cross_entropy(model(x), Y).backward()
            step.step()
        with torch.no_grad():
            gap = (model(x).gather(1, Y[:, None]) - model(x).scatter(1, Y[:, None], -1e9).amax(1, keepdim=True)).min()
            model.head.weight *= 2 * scale / gap
            model.head.bias *= 2 * scale / gap
        operator = HessianOperator(model, Samples.from_tensors(x, Y))
        if not wrong:
            operator.look()
            continue
        with pytest.raises(AnotherFunctionError):
            operator.look()


def test_a_copy_that_computes_with_the_weights_of_another_is_refused():
    model = plain()
    first = model[0]
    first.forward = lambda x: functional.linear(x, first.weight, first.bias)
    with pytest.raises(AnotherFunctionError, match=r"a twin of '0\.weight', '0\.bias'"):
        analyze(model, SAMPLES, settings=ALL)


class Checkpointed(nn.Module):
    """Its first part is computed again in the backward pass, or by an operation that is differentiated once."""

    def __init__(self, how):
        super().__init__()
        self.first, self.last, self.how = nn.Linear(5, 8), nn.Linear(8, 3), how

    def forward(self, x):
        return self.last(self.how(self.first(x)))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient * (1 - ctx.saved_tensors[0].tanh() ** 2)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch's, of reentrant checkpointing in evaluation
def test_exact_products_of_what_can_be_differentiated_once_only_are_refused_in_a_sentence():
    exact = ALL.model_copy(update={"products": "exact"})

    def through(how):
        torch.manual_seed(0)
        return analyze(Checkpointed(how), SAMPLES, settings=exact).groups["all"].lambda_min.value

    assert through(lambda x: checkpoint(torch.tanh, x, use_reentrant=False)) == pytest.approx(through(torch.tanh))
    with pytest.raises(OperatorError, match="use_reentrant=False"):
        through(lambda x: checkpoint(torch.tanh, x, use_reentrant=True))
    with pytest.raises(OperatorError, match="'Once'"):
        through(Once.apply)
