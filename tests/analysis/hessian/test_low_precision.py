"""Products in bfloat16: close to the exact ones, used to find vectors, never trusted with a value."""

import copy

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian import low_precision as rough_module
from saddlescope.analysis.hessian.low_precision import RoughOperator, rough_if_faster
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.lanczos import Lanczos
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.krylov.start_store import StartStore
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.measures.extremes import measure_ends
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.nn import functional


class Shapes(nn.Module):
    """Strided, grouped, dilated, biased and unfolded convolutions over 3x16x16 images."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.down, self.down_bn = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.wide = nn.Conv2d(16, 16, 3, padding=2, dilation=2, bias=False)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = functional.relu(self.stem_bn(self.stem(x)))
        x = functional.silu(self.down_bn(self.down(x)))
        x = x + functional.silu(self.grouped(x))
        return self.fc(functional.relu(self.wide(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def trained():
    """A network that has learnt something, so that its Hessian has outliers, and 150 samples in ragged micro-batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x, y = torch.randn(150, 3, 16, 16), torch.arange(150) % 4
        x[:, 0] += y[:, None, None] * 0.4
        model = Shapes()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(15):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval(), Samples.from_tensors(x, y)


@pytest.fixture(scope="module")
def ends(trained):
    """Both ends from a float64 run that has converged to round-off."""
    wide = HessianOperator(copy.deepcopy(trained[0]).double(), trained[1], micro_batch=64)
    ritz = Lanczos(wide, 5).run(120).ritz
    assert max(ritz.residuals[[0, -1]]) < 1e-6 * abs(ritz.values[0])
    return float(ritz.values[0]), float(ritz.values[-1])


def operator(trained, **options):
    return HessianOperator(*trained, micro_batch=64, **options)


@pytest.mark.parametrize("memory", [None, 0])
def test_rough_products_are_close_and_exact_ones_stay_as_they_are(trained, memory):
    exact = operator(trained, memory=memory)
    v = torch.randn(exact.size, generator=torch.Generator().manual_seed(1))
    before = exact.matvec(v)
    rough = RoughOperator(exact)
    found = rough.matvec(v)
    assert 0 < float((found - before).norm()) < 1e-2 * float(before.norm())
    assert torch.equal(rough.matvec(v), found)
    assert torch.equal(exact.matvec(v), before)
    assert (rough.matvecs, exact.matvecs) == (2, 4)
    assert torch.equal(rough.matmat(torch.stack([v, 2 * v], dim=1))[:, 0], found)


def test_copies_in_bfloat16_count_in_the_memory_budget(trained):
    exact = operator(trained)
    exact.matvec(torch.ones(exact.size))
    alone = exact.kept_bytes
    RoughOperator(exact).matvec(torch.ones(exact.size))
    assert exact.kept_bytes == pytest.approx(1.5 * alone, rel=0.01)


@pytest.mark.parametrize("rtol", [1e-2, 1e-3])
def test_ends_found_roughly_are_exact_ones(trained, ends, rtol):
    for seed in range(4):
        exact = operator(trained)
        found = measure_ends(exact, rough=RoughOperator, rtol=rtol, seed=seed)
        for end, true in zip((found.lambda_min, found.lambda_max), ends, strict=True):
            assert end.converged
            assert end.value == pytest.approx(true, rel=rtol)
            assert end.residual_interval[0] <= true <= end.residual_interval[1]
            assert all(bound is None or (bound - true) * side >= 0 for bound, side in zip(end.interval, (-1, 1), strict=True))
        v = found.vectors["min"]
        assert float(v @ exact.matvec(v)) == pytest.approx(found.lambda_min.value, rel=1e-4)


def test_a_rough_operator_that_is_wrong_costs_steps_and_nothing_else(diagonal):
    values = np.random.default_rng(0).normal(0, 0.05, 3000)
    values[:8] = [170, 110, 45, 25, -17, -15, -13, -12]
    wrong = np.random.default_rng(1).permutation(values)
    for seed in range(5):
        exact = diagonal(values, torch.float32, reflect=3)
        found = measure_ends(exact, rough=lambda _: diagonal(wrong, torch.float32, reflect=4), rtol=1e-2, seed=seed)
        assert found.lambda_min.value == pytest.approx(-17, rel=1e-2)
        assert found.lambda_max.value == pytest.approx(170, rel=1e-2)
        assert found.lambda_min.converged
        assert exact.matvecs > 10


def test_the_exact_run_after_a_search_starts_from_another_random_vector(diagonal):
    """What the search found depends on its random start, and the interval holds for a random part that it does not know."""
    values = np.random.default_rng(0).normal(0, 0.05, 3000)
    values[:4] = [170, 110, -17, -15]
    firsts = {}

    def watched(operator, name):
        matvec = operator.matvec

        def recorded(v):
            firsts.setdefault(name, []).append(v.clone())
            return matvec(v)

        operator.matvec = recorded
        return operator

    wrong = diagonal(np.random.default_rng(1).permutation(values), torch.float32, reflect=4)
    measure_ends(
        watched(diagonal(values, torch.float32, reflect=3), "exact"), rough=lambda _: watched(wrong, "rough"), rtol=1e-2
    )
    searched_from, begun_from = firsts["rough"][0], firsts["exact"][5]  # after the guard's three and one for each end
    assert abs(float(searched_from @ begun_from)) < 0.3  # the same random part: 0.7


def test_negative_curvature_is_proven_by_the_exact_operator(diagonal):
    """The rough one has it, the exact one has not: no verdict may come of that."""
    values = np.abs(np.random.default_rng(0).normal(0, 0.05, 3000)) + 0.01
    values[:3] = [50, 20, 10]
    shifted = values.copy()
    shifted[5] = -3.0
    exact = diagonal(values, torch.float32, reflect=3)
    found = measure_ends(exact, rough=lambda _: diagonal(shifted, torch.float32, reflect=3), tau=1e-3, enough=-0.1)
    assert found.lambda_min.value > 0
    assert all(bound.at_least == 0 for bound in found.saddle_index)


def test_a_rough_search_that_was_interrupted_counts_all_its_products(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("saddlescope.analysis.krylov.start_store.STORE_EVERY", 0.0)
    monkeypatch.setattr("saddlescope.analysis.krylov.start_store.STORE_RARELY", 0.0)
    given = {"rough": RoughOperator, "steps": 12, "store": StartStore(tmp_path)}
    stops = iter([None] * 8 + [KeyboardInterrupt()])

    def progress(_):
        if end := next(stops):
            raise end

    with pytest.raises(KeyboardInterrupt):
        measure_ends(operator(trained), **given, progress=progress)
    resumed = measure_ends(operator(trained), **given)
    assert resumed.matvecs == measure_ends(operator(trained), rough=RoughOperator, steps=12).matvecs


def test_a_verdict_found_roughly(trained, ends):
    low, high = ends
    assert low < -0.01 * high  # else nothing is asked here
    exact = operator(trained)
    found = measure_ends(exact, rough=RoughOperator, tau=1e-3, enough=0.5 * low)
    assert low - 1e-4 <= found.lambda_min.value < 0.5 * low
    v = found.vectors["min"]
    assert float(v @ exact.matvec(v)) == pytest.approx(found.lambda_min.value, rel=1e-3)


def test_it_is_taken_where_it_saves_time(trained, monkeypatch, network, long_tail):
    monkeypatch.setattr(rough_module, "multiplies_bfloat16_faster", lambda: True)
    exact = operator(trained)
    assert rough_if_faster(exact) is None  # small convolutions
    monkeypatch.setattr(rough_module, "WORTH_ROUNDING", 1e4)
    assert isinstance(rough_if_faster(exact), RoughOperator)
    late = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 256, 2), nn.Conv2d(256, 256, 1), nn.Flatten(), nn.Linear(256, 4))
    assert rough_if_faster(HessianOperator(late, trained[1])) is None  # each weight is used once an image
    patches = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Flatten(), nn.Linear(256, 400), nn.SiLU(), nn.Linear(400, 4))
    assert rough_if_faster(HessianOperator(patches, trained[1])) is None  # of linear maps, behind one convolution
    assert rough_if_faster(HessianOperator(network(), long_tail())) is None  # float64
    assert rough_if_faster(operator(trained, accelerate=False)) is None
    assert rough_if_faster(operator(trained, reduce=lambda total: total)) is None
    monkeypatch.setattr(rough_module, "multiplies_bfloat16_faster", lambda: False)
    assert rough_if_faster(exact) is None
    with pytest.raises(OperatorError, match="float32"):
        RoughOperator(HessianOperator(network(), long_tail()))


@pytest.mark.parametrize(
    ("name", "vectors", "tiles", "faster"),
    [
        ("AMD EPYC 9B14", True, False, True),
        ("AMD EPYC 7763", False, False, False),
        ("Intel(R) Xeon(R) Processor", True, True, True),
        ("Intel(R) Xeon(R) Processor", True, False, False),
    ],
)
def test_processors_that_multiply_bfloat16_faster(monkeypatch, name, vectors, tiles, faster):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(rough_module, "processor", lambda: name)
    assert rough_module.multiplies_bfloat16_faster() is faster


def test_the_setting_turns_it_off(trained, monkeypatch):
    monkeypatch.setattr(rough_module, "multiplies_bfloat16_faster", lambda: True)
    monkeypatch.setattr(rough_module, "WORTH_ROUNDING", 0)
    values = {}
    for rough in (True, False):
        settings = AnalysisSettings(scheme="all", goal="ends", rough=rough, rtol=1e-2)
        values[rough] = analyze(*trained, settings=settings).groups["all"]
    assert values[True].lambda_min.value == pytest.approx(values[False].lambda_min.value, rel=1e-2)
    assert values[True].lambda_min.value != values[False].lambda_min.value
    assert values[False].lambda_min.interval[0] is not None
    assert values[True].lambda_min.interval[0] is None
