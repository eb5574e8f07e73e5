"""Products by differences of the gradient against dense Hessians in float64, and analyses that need them."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from saddlescope.analysis.hessian.difference_products import DifferenceOperator
from saddlescope.analysis.hessian.differences import AnotherHessianError
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.guards import RandomOperatorError, guard
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.measures.exact import dense_matrix
from saddlescope.analysis.records.settings import SettingsError, parse_settings
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from saddlescope import AnalysisSettings, Samples, analyze

_spec = importlib.util.spec_from_file_location(
    "difference_benchmark", Path(__file__).parents[2] / "benchmarks" / "difference_products.py"
)
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)
X, Y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
SAMPLES = Samples.from_tensors(X, Y)
ALL = AnalysisSettings(scheme="all")


class SavedDerivative(torch.autograd.Function):
    """Softplus whose second derivative autograd does not see."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(torch.sigmoid(x))
        return functional.softplus(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


class OnceOnly(SavedDerivative):
    """The same, and it says so."""

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


class SingleOnly(OnceOnly):
    """A kernel for float32 only."""

    @staticmethod
    def forward(ctx, x):
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float")
        return OnceOnly.forward(ctx, x)


class Net(nn.Module):
    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.activation = nn.Linear(5, 8), nn.Linear(8, 3), activation

    def forward(self, x):
        return self.last(self.activation(self.first(x)))


def trained(activation, steps=100):
    """A net, trained with plain softplus in its place."""
    net = Net(functional.softplus)
    step = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        step.zero_grad()
        functional.cross_entropy(net(X), Y).backward()
        step.step()
    net.activation = activation
    return net


def truth(activation=functional.softplus, samples=SAMPLES):
    net = copy.deepcopy(trained(activation)).double()
    return dense_matrix(HessianOperator(net, samples))[0]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-8), (torch.float32, 2e-3)])
@pytest.mark.parametrize("activation", [functional.softplus, torch.tanh, functional.gelu])
def test_products_are_those_of_the_dense_hessian_to_the_measured_error(activation, dtype, close):
    matrix = truth(activation)
    operator = DifferenceOperator(trained(activation).to(dtype), SAMPLES)
    vectors = [*torch.linalg.eigh(matrix)[1].T[[0, 1, -2, -1]], torch.ones(operator.size).double() / operator.size**0.5]
    errors = [float((operator.matvec(v).double() - matrix @ v).norm()) for v in vectors]
    size = float(torch.linalg.matrix_norm(matrix, 2))
    assert max(errors) <= operator.error <= close * size
    assert operator.symmetry <= operator.error
    assert operator.step.kinks is None


def test_samples_of_several_shapes():
    net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    samples = Samples.from_batches([(torch.randn(n, 1, 5 + n), torch.arange(n)) for n in (1, 3, 2)])
    matrix, _ = dense_matrix(HessianOperator(net, samples))
    operator = DifferenceOperator(net, samples)
    v = torch.randn(operator.size).double()
    assert float((operator.matvec(v) - matrix @ v).norm()) <= operator.error * float(v.norm())


def test_products_are_linear_in_the_length_and_nothing_at_zero():
    operator = DifferenceOperator(trained(torch.tanh).double(), SAMPLES)
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(operator.matvec(0 * v), 0 * v)
    assert len(operator.remarks()) == 1
    zero, one, long = operator.matmat(torch.stack([0 * v, v, 1e6 * v], dim=1)).T
    assert torch.equal(zero, 0 * v)
    assert torch.allclose(1e6 * one, long, rtol=1e-6)
    assert operator.matvecs == 4


def test_the_weights_come_back_to_the_bit_also_after_an_exception():
    net = trained(torch.tanh)
    calls = []

    def loss(model, batch):
        calls.append(None)
        if len(calls) > failing:
            raise RuntimeError("the disk is full")
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    failing = 10**6
    operator = DifferenceOperator(net, SAMPLES, loss)
    before = operator.weights()
    operator.matvec(torch.ones(operator.size))
    assert torch.equal(operator.weights(), before)
    failing = len(calls) + 1  # the second of two gradients
    with pytest.raises(OperatorError, match="the disk is full"):
        operator.matvec(torch.ones(operator.size))
    assert torch.equal(operator.weights(), before)


def test_other_weights_have_a_step_of_their_own():
    net = trained(torch.tanh).double()
    operator = DifferenceOperator(net, SAMPLES)
    operator.matvec(torch.ones(operator.size))
    before = operator.step
    with torch.no_grad():
        net.first.weight.mul_(10)
    fresh = DifferenceOperator(net, SAMPLES)
    v = torch.ones(operator.size)
    assert torch.equal(operator.matvec(v), fresh.matvec(v))
    assert operator.step == fresh.step != before


def test_kinks_are_noticed_and_stepped_below():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 60), nn.ReLU(), nn.Linear(60, 3)).double()
    operator = DifferenceOperator(net, SAMPLES)
    exact = HessianOperator(net, SAMPLES)
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(1)).double()
    image = operator.matvec(v)
    assert torch.allclose(image, exact.matvec(v), rtol=0, atol=operator.error * float(v.norm()))
    assert operator.error < 1e-6 * float(image.norm())
    assert operator.step.kinks > operator.step.relative
    assert any("stays below" in remark for remark in operator.remarks())


@pytest.mark.parametrize("coarse", [torch.bfloat16, torch.float16, torch.float32])
def test_a_model_that_rounds_on_its_way_has_the_error_of_that(coarse):
    def rounded(x):
        return functional.softplus(x.to(coarse)).to(x.dtype)

    matrix = truth()
    operator = DifferenceOperator(trained(rounded).double(), SAMPLES)
    errors = [float((operator.matvec(v) - matrix @ v).norm()) for v in torch.linalg.eigh(matrix)[1].T[[0, -2, -1]]]
    size = float(torch.linalg.matrix_norm(matrix, 2))
    assert torch.finfo(coarse).eps * size < max(errors) <= operator.error
    assert any("settle at no step" in remark for remark in operator.remarks()) == (operator.error > 0.03 * size)


def test_a_random_gradient_is_refused():
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    operator = DifferenceOperator(
        net, SAMPLES, lambda m, b: functional.cross_entropy(functional.dropout(m(b[0]), 0.1), b[1], reduction="none")
    )
    with pytest.raises(RandomOperatorError, match="random"):
        guard(operator)


@pytest.mark.parametrize("function", [SavedDerivative, OnceOnly])
@pytest.mark.parametrize("goal", ["spectrum", "ends", "verdict"])
def test_a_missing_second_derivative_is_measured_by_differences_and_said(function, goal):
    values = torch.linalg.eigvalsh(truth())
    settings = ALL.model_copy(update={"goal": goal})
    group = analyze(trained(function.apply), SAMPLES, settings=settings).groups["all"]
    assert group.products == "differences"
    assert group.dtype == "float64"
    assert any("measured by differences" in warning for warning in group.warnings)
    for end, true in ((group.lambda_min, values[0]), (group.lambda_max, values[-1])):
        low, high = end.interval
        assert low is None or low <= true
        assert high is None or true <= high
    if goal != "verdict":
        assert group.lambda_min.value == pytest.approx(float(values[0]), rel=1e-4)
    if goal == "spectrum":
        low, high = group.trace.interval
        assert low <= float(values.sum()) <= high
    assert group.certificate.holds
    assert group.certificate.noise >= group.lambda_min.noise > 0
    plain = analyze(trained(functional.softplus), SAMPLES, settings=settings).groups["all"]
    assert plain.products == "exact"
    assert group.verdict.label == plain.verdict.label


def test_exact_products_are_insisted_on_where_they_are_asked_for():
    # once_differentiable raises nothing where derivatives by chosen tensors are asked for: it only detaches
    for function, said in ((OnceOnly, "OnceOnly"), (SavedDerivative, "SavedDerivative")):
        with pytest.raises(AnotherHessianError, match=f"those of another function.*{said}"):
            analyze(trained(function.apply), SAMPLES, settings=ALL.model_copy(update={"products": "exact"}))


def test_a_kernel_for_float32_only_is_measured_in_float32_with_the_error_that_this_has():
    values = torch.linalg.eigvalsh(truth())
    group = analyze(trained(SingleOnly.apply), SAMPLES, settings=ALL).groups["all"]
    assert (group.products, group.dtype) == ("differences", None)
    assert any("not in float64" in warning for warning in group.warnings)
    assert 1e-6 < group.noise.absolute < 0.05 * float(values[-1])
    for end, true in ((group.lambda_min, values[0]), (group.lambda_max, values[-1])):
        assert end.interval[0] <= float(true) <= end.interval[1]


def test_the_dense_hessian_by_differences():
    values = torch.linalg.eigvalsh(truth())
    group = analyze(trained(OnceOnly.apply), SAMPLES, settings=ALL.model_copy(update={"engine": "exact"})).groups["all"]
    assert group.products == "differences"
    assert 0 < abs(group.lambda_min.value - float(values[0])) <= group.lambda_min.noise < 1e-5


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_and_attention_without_a_second_derivative():
    class Reentrant(Net):
        def forward(self, x):
            return self.last(checkpoint(torch.tanh, self.first(x), use_reentrant=True))

    class Attention(nn.Module):
        def __init__(self, backend):
            super().__init__()
            torch.manual_seed(0)
            self.project, self.last, self.backend = nn.Linear(5, 12), nn.Linear(4, 3), backend

        def forward(self, x):
            x = torch.stack([x, 2 * x, x - 1], dim=1)
            q, k, v = self.project(x).unsqueeze(1).chunk(3, dim=-1)
            with nn.attention.sdpa_kernel(self.backend):
                return self.last(functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))

    backends = nn.attention.SDPBackend
    pairs = [(Reentrant(None), Net(torch.tanh)), (Attention(backends.FLASH_ATTENTION), Attention(backends.MATH))]
    for model, plain in pairs:
        one, other = (analyze(m, SAMPLES, settings=ALL).groups["all"] for m in (model, plain))
        assert (one.products, other.products) == ("differences", "exact")
        for end in ("lambda_min", "lambda_max"):
            mine, theirs = getattr(one, end), getattr(other, end)
            assert mine.value == pytest.approx(theirs.value, abs=2 * theirs.noise + theirs.residual + mine.noise)
    assert all(p.grad is None for model, _ in pairs for p in model.parameters())


def test_convolutions_before_a_function_without_a_second_derivative():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), Net(OnceOnly.apply), nn.Flatten())
    net[2].first, net[2].last = nn.Linear(4, 4), nn.Linear(4, 1)
    samples = Samples.from_tensors(torch.randn(20, 1, 6, 6), torch.arange(20) % 3, num_classes=48)
    assert analyze(net, samples, settings=ALL).groups["all"].products == "differences"


def test_what_does_not_go_with_differences_is_said():
    with pytest.raises(SettingsError, match="'pyhessian' estimates without error bounds"):
        parse_settings({"products": "differences", "engine": "pyhessian"})
    with pytest.raises(SettingsError, match="Gauss-Newton part needs exact products"):
        parse_settings({"products": "differences", "gauss_newton": True})


def test_groups_add_up_by_differences_and_kinds_are_not_mixed():
    settings = AnalysisSettings(scheme="per-class", products="differences", escape=False, steps=10, min_steps=5)
    scheme = {"all": [0, 1, 2], "a": [0], "b": [1, 2]}
    settings = settings.model_copy(update={"scheme": "custom", "groups": scheme})
    result = analyze(trained(torch.tanh), SAMPLES, settings=settings)
    assert {group.products for group in result.groups.values()} == {"differences"}
    assert result.additivity < 1e-7


@pytest.mark.parametrize("number", [0, 2, 5, 7, 12, 14, 20, 29, 32, 41])
def test_intervals_by_differences_hold_the_truth(number):
    found = benchmark.trial(number)
    assert all(found.held.values()), found
