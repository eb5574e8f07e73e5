"""Everything measured of an operator, at the defaults, against spectra that are known.

Above 300 lines: one function, and every statement it makes is checked in the same way.
"""

import copy

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.guards import RandomOperatorError
from saddlescope.analysis.krylov.lanczos import random_start
from saddlescope.analysis.krylov.linear_operator import MatrixOperator
from saddlescope.analysis.krylov.spectrum import measure_spectrum


def with_bulk(n, outliers, width):
    values = np.random.default_rng(n).normal(0, width, n)
    values[: len(outliers)] = outliers
    return values


SPECTRA = {
    "network": lambda n: with_bulk(n, [100, 60, 50, 20, 11, -3, -2, -1], 0.01),
    "mostly negative": lambda n: -with_bulk(n, [100, 60, 20, -3], 0.05),
    "ten small negatives": lambda n: with_bulk(n, [100, 70, 30, *-np.linspace(0.1, 0.4, 10)], 1e-4),
    "positive": lambda n: abs(with_bulk(n, [50, 20, 10], 0.1)) + 1e-3,
    "negative": lambda n: -abs(with_bulk(n, [50, 20, 10], 0.1)) - 1e-3,
    "repeated": lambda n: np.repeat([7.0, 1.0, 0.0, -2.0], n // 4),
    "no gap": lambda n: np.cos(np.linspace(0, np.pi, n)) ** 3,
    "rank one": lambda n: np.r_[3.0, np.zeros(n - 1)],
    "rank one, negative": lambda n: np.r_[-3.0, np.zeros(n - 1)],
    "zero": np.zeros,
}


def check(values, spectrum, sure=5):
    """Every statement of a measurement against the truth. ``sure``: standard errors allowed to the trace."""
    values = np.sort(np.asarray(values, dtype=np.float64))
    n, scale = len(values), abs(values).max()
    low, high = spectrum.lambda_min, spectrum.lambda_max
    for end, truth in ((low, values[0]), (high, values[-1])):
        below, above = end.interval
        assert below is None or below <= truth
        assert above is None or truth <= above
        assert end.residual_interval[0] <= end.residual_interval[1]
        assert any(end.residual_interval[0] <= value <= end.residual_interval[1] for value in values)
        assert abs(end.rayleigh_quotient - end.value) <= end.noise + 1e-12 * scale
        if end.converged:
            assert abs(end.value - truth) <= 0.01 * max(abs(truth), 0.01 * scale) + end.noise
    assert low.value >= values[0] - low.noise
    assert high.value <= values[-1] + high.noise
    for rank, pair in enumerate(spectrum.lowest):
        assert pair.value >= values[rank] - pair.noise
    for rank, pair in enumerate(spectrum.highest):
        assert pair.value <= values[n - 1 - rank] + pair.noise
    for mass, index in zip(spectrum.negative_mass, spectrum.saddle_index, strict=True):
        assert mass.tau == index.tau == pytest.approx(mass.relative * max(high.value, 0), rel=1e-12)
        truth = float((values < -mass.tau).mean())
        fuzzy = [float((values < -mass.tau + s * spectrum.noise.absolute).mean()) for s in (-1, 1)]
        assert mass.interval[0] - 1e-12 <= fuzzy[1]
        assert fuzzy[0] <= mass.interval[1] + 1e-12
        assert mass.interval[0] <= mass.value <= mass.interval[1]
        assert mass.bracket[0] <= mass.value <= mass.bracket[1]
        assert index.at_least <= round(truth * n)
    if values[-1] > 0:
        ratio = max(-values[0], 0) / values[-1]
        bottom, top = spectrum.negative_ratio.interval
        assert bottom <= ratio
        assert top is None or ratio <= top
    assert abs(spectrum.trace.value - values.sum()) <= sure * spectrum.trace.standard_error + 1e-9 * n * scale * (scale > 0)
    for probe in spectrum.density.probes:
        weights = np.array(probe.weights)
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        assert weights.min() >= 0
        assert len(weights) == len(probe.nodes)
        assert np.all(np.diff(probe.nodes) >= 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [200, 4000])
@pytest.mark.parametrize("name", SPECTRA)
def test_prescribed_spectra_at_the_defaults(diagonal, name, n, dtype):
    operator = diagonal(SPECTRA[name](n), dtype, reflect=3)
    spectrum = measure_spectrum(operator)
    check(operator.values.double().numpy(), spectrum)
    assert spectrum.matvecs == operator.matvecs == 5 + sum(spectrum.steps) + 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["network", "ten small negatives", "positive"])
def test_a_hundred_thousand_parameters(diagonal, name, dtype):
    operator = diagonal(SPECTRA[name](100_000), dtype, reflect=3)
    spectrum = measure_spectrum(operator)
    check(operator.values.double().numpy(), spectrum)
    assert spectrum.lambda_max.value == pytest.approx(float(operator.values.max()), rel=1e-5)
    if name == "network":
        assert spectrum.lambda_min.value == pytest.approx(-3, rel=1e-4)
        assert spectrum.lambda_min.converged
        assert spectrum.lambda_min.interval[1] < -2.9


def test_positive_operators_never_show_negative_curvature(diagonal):
    for seed in range(20):
        spectrum = measure_spectrum(diagonal(SPECTRA["positive"](1000), torch.float32, reflect=seed), seed=seed)
        assert spectrum.lambda_min.value > 0
        assert all(
            mass.value == 0 == index.at_least for mass, index in zip(spectrum.negative_mass, spectrum.saddle_index, strict=True)
        )
        assert spectrum.negative_energy.value == 0
        assert spectrum.negative_ratio.value == 0


def test_ten_negative_eigenvalues_a_thousandth_of_the_largest(diagonal):
    """0.1 % to 0.4 % of lambda_max in a bulk a thousand times smaller: found, counted, and never counted twice."""
    spectrum = measure_spectrum(diagonal(SPECTRA["ten small negatives"](3000), reflect=1), steps=120, min_steps=120)
    index = {bound.relative: bound.at_least for bound in spectrum.saddle_index}
    assert index[1e-4] == 10
    assert index[1e-3] == 9  # -0.1 itself is not below -tau = -0.1
    assert index[1e-2] == 0
    assert spectrum.lambda_min.value == pytest.approx(-0.4, rel=1e-8)
    assert spectrum.negative_ratio.value == pytest.approx(0.004, rel=1e-8)
    (mass,) = [m for m in spectrum.negative_mass if m.relative == 1e-4]
    assert mass.interval[0] > 0
    assert mass.bracket[0] <= mass.value <= mass.bracket[1]


@pytest.mark.parametrize(("value", "n"), [(2.5, 1), (-2.5, 1), (0.0, 1), (1.0, 6), (-1.0, 6)])
def test_multiples_of_the_identity_are_exact(diagonal, value, n):
    spectrum = measure_spectrum(diagonal(np.full(n, value)), k=3)
    assert (spectrum.lambda_min.value, spectrum.lambda_max.value) == (pytest.approx(value), pytest.approx(value))
    assert spectrum.trace.value == pytest.approx(n * value)
    assert spectrum.lambda_min.confidence == 1
    assert len(spectrum.lowest) == min(n, 3)
    for mass in spectrum.negative_mass:
        assert mass.value == mass.interval[0] == mass.interval[1] == float(value < 0)
    for index in spectrum.saddle_index:
        assert index.at_least == n * (value < 0)


def test_two_parameters(diagonal):
    operator = diagonal([-1.0, 4.0], reflect=1)
    spectrum = measure_spectrum(operator)
    check([-1, 4], spectrum)
    assert (spectrum.lambda_min.value, spectrum.lambda_max.value) == (pytest.approx(-1), pytest.approx(4))
    assert spectrum.negative_ratio.value == pytest.approx(0.25)
    assert spectrum.lambda_min.interval == (pytest.approx(-1), pytest.approx(-1))
    assert spectrum.saddle_index[0].at_least == 1


def test_rank_one_and_zero_have_no_negative_mass(diagonal):
    for name in ("rank one", "zero"):
        for dtype in (torch.float32, torch.float64):
            spectrum = measure_spectrum(diagonal(SPECTRA[name](500), dtype, reflect=1))
            for mass in spectrum.negative_mass:
                assert mass.value == 0 == mass.interval[0]
                assert mass.interval[1] < 2.5 / 500


@pytest.mark.parametrize("part", [1e-3, 1e-4, 1e-6])
def test_negative_mass_hidden_by_a_breakdown_is_not_ruled_out(part):
    """An eigenvalue of -3e-4 lambda_max in whose direction the start has a tiny part: float32 drops it at the breakdown."""
    n = 500
    matrix = torch.zeros(n, n, dtype=torch.float64)
    q = random_start(MatrixOperator(matrix), 0)
    axis = torch.eye(n, dtype=torch.float64)[0]
    toward, aside = q - q[0] * axis, random_start(MatrixOperator(matrix), 1)
    toward /= toward.norm()
    aside = aside - aside[0] * axis - (aside @ toward) * toward
    v = part * toward + (1 - part**2) ** 0.5 * aside / aside.norm()
    matrix = 3 * torch.outer(axis, axis) - 1e-3 * torch.outer(v, v)
    spectrum = measure_spectrum(MatrixOperator(matrix.float()), steps=4)
    mass = next(m for m in spectrum.negative_mass if m.relative == 1e-4)
    truth = float(q @ v) ** 2
    if part > 1e-4:
        assert mass.value == pytest.approx(truth, rel=0.01)
    else:
        assert mass.value == 0
        assert truth <= mass.bracket[1] < 1e-3


def test_intervals_cover_at_least_as_often_as_stated(diagonal):
    """200 starts, at a weak confidence and few steps, so that failures would be seen. Both ends together, mass, ratio."""
    n, delta, trials = 400, 0.1, 200
    values = np.random.default_rng(1).normal(0, 1, n) ** 3 / 5
    ratio = -values.min() / values.max()
    ends = ratios = 0
    masses = np.zeros(4)
    for seed in range(trials):
        spectrum = measure_spectrum(diagonal(values), steps=25, min_steps=10, delta=delta, seed=31 * seed)
        low, high = spectrum.lambda_min.interval, spectrum.lambda_max.interval
        assert None not in (*low, *high)
        ends += low[0] <= values.min() <= low[1] and high[0] <= values.max() <= high[1]
        bottom, top = spectrum.negative_ratio.interval
        ratios += bottom <= ratio <= top
        for i, mass in enumerate(spectrum.negative_mass):
            masses[i] += mass.interval[0] <= (values < -mass.tau).mean() <= mass.interval[1]
    assert ends >= (1 - delta) * trials
    assert ratios >= (1 - 2 * delta) * trials
    assert masses.min() >= (1 - delta) * trials


def test_trace_is_unbiased_and_its_error_is_right(diagonal):
    values = with_bulk(300, [20, -5, 3], 0.3)
    single = [measure_spectrum(diagonal(values), steps=12, min_steps=12, seed=7 * seed).trace for seed in range(400)]
    found = np.array([trace.value for trace in single])
    assert abs(found.mean() - values.sum()) < 4 * found.std() / 20
    # the two probes of the guard, without what the run knows: Var(n q^T M q) <= 2 ||M||_F^2, M the rest
    assert np.sqrt(np.mean([trace.standard_error**2 for trace in single])) == pytest.approx(found.std(), rel=0.3)
    plain = np.sqrt(2 * 300 / 302 * ((values**2).sum() - values.sum() ** 2 / 300) / 2)
    assert found.std() < plain / 4
    assert np.mean([trace.interval[0] <= values.sum() <= trace.interval[1] for trace in single]) >= 0.95


def test_a_run_that_spans_the_space_knows_the_trace(diagonal):
    values = with_bulk(60, [20, -5, 3], 0.3)
    for seed in range(6):
        trace = measure_spectrum(diagonal(values), steps=60, min_steps=60, seed=seed).trace
        assert trace.value == pytest.approx(values.sum(), rel=1e-10)
        # what is left of a probe's square is a difference of squares: rounded at eps * 20^2, times 2 n, below the root
        assert trace.standard_error < 5 * np.sqrt(2 * 60 * np.finfo(float).eps * 20**2)


def test_several_starts_give_intervals_of_the_trace_and_tighten_the_others(diagonal):
    values, covered = with_bulk(300, [20, -5, 3], 0.3), 0
    for seed in range(60):
        spectrum = measure_spectrum(diagonal(values), steps=8, min_steps=8, starts=4, seed=11 * seed)
        low, high = spectrum.trace.interval
        covered += low <= values.sum() <= high
        assert spectrum.steps == [8] * 4
        assert [probe.seed for probe in spectrum.density.probes] == [11 * seed + i for i in range(4)]
        check(values, spectrum, sure=12)
    assert covered >= 0.95 * 60 - 3
    one = measure_spectrum(diagonal(values), steps=8, min_steps=8)
    assert one.lambda_min.interval[0] is None  # 8 steps of one start prove nothing at 1e-3
    assert spectrum.lambda_min.interval[0] is not None


def test_density_of_many_starts_is_the_spectral_density(diagonal):
    values = np.concatenate([np.linspace(-1, 0, 100), np.linspace(0, 2, 300)])
    spectrum = measure_spectrum(diagonal(values), starts=30, steps=40, min_steps=40)
    nodes = np.concatenate([probe.nodes for probe in spectrum.density.probes])
    weights = np.concatenate([probe.weights for probe in spectrum.density.probes]) / 30
    for edge in (-0.8, -0.4, 0, 0.5, 1.5):
        assert weights[nodes < edge].sum() == pytest.approx((values < edge).mean(), abs=0.03)
    assert weights @ nodes**2 == pytest.approx((values**2).mean(), rel=0.05)
    energy = -values[values < 0].sum() / abs(values).sum()
    assert spectrum.negative_energy.value == pytest.approx(energy, abs=4 * spectrum.negative_energy.standard_error)


def test_k_pairs_at_each_end_with_their_vectors(diagonal):
    operator = diagonal(with_bulk(1000, [9, 7, 5, -4, -3, -2], 0.05), reflect=2)
    spectrum = measure_spectrum(operator, k=3)
    assert [pair.value for pair in spectrum.highest] == pytest.approx([9, 7, 5], rel=1e-6)
    assert [pair.value for pair in spectrum.lowest] == pytest.approx([-4, -3, -2], rel=1e-6)
    assert set(spectrum.vectors) == {"min", "min-2", "min-3", "max", "max-2", "max-3"}
    for key, value in {"min": -4, "min-2": -3, "max-3": 5}.items():
        v = spectrum.vectors[key]
        assert float(v.norm()) == pytest.approx(1)
        assert float((operator.matvec(v) - value * v).norm()) < 0.01
    assert spectrum.lowest[2].interval[0] is None  # nothing is known about a third eigenvalue from below


def test_unconverged_ends_say_so(diagonal):
    spectrum = measure_spectrum(diagonal(SPECTRA["no gap"](4000)), steps=12)
    assert not spectrum.lambda_min.converged
    assert any("lambda_min not converged after 12 steps" in warning for warning in spectrum.warnings)
    check(SPECTRA["no gap"](4000), spectrum)


def test_a_ratio_without_a_positive_end_is_marked(diagonal):
    spectrum = measure_spectrum(diagonal(SPECTRA["negative"](100)))
    assert spectrum.negative_ratio.interval == (None, None)
    assert any("does not exist" in warning for warning in spectrum.warnings)


def test_steps_before_convergence_and_progress(diagonal):
    calls = []
    values = np.r_[10, -5, np.zeros(498)] + 1e-3 * np.random.default_rng(0).normal(size=500)
    spectrum = measure_spectrum(diagonal(values), progress=calls.append)
    assert spectrum.steps == [30]  # converged long before, the density gets its 30 steps
    assert calls == [1] * 30
    assert spectrum.looks == 15  # 30, 35 ... 95, and 100
    assert measure_spectrum(diagonal(values), min_steps=1).steps == [5]
    assert measure_spectrum(diagonal(values), steps=7, min_steps=1).looks == 2  # 5, and 7
    assert measure_spectrum(diagonal(values), steps=30).looks == 1


def test_seed_decides_every_digit(diagonal):
    values = with_bulk(300, [4, -1], 0.1)
    one, same, other = (measure_spectrum(diagonal(values), seed=seed) for seed in (5, 5, 6))
    assert one.density == same.density
    assert one.lambda_min == same.lambda_min
    assert one.trace.value != other.trace.value


def test_asymmetric_operators_are_refused():
    matrix = torch.randn(50, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RandomOperatorError, match="not symmetric"):
        measure_spectrum(MatrixOperator(matrix))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_a_network_against_its_dense_hessian(reference, dtype, rtol):
    values = np.linalg.eigvalsh(reference.truth.hessian.numpy())
    operator = HessianOperator(copy.deepcopy(reference.model).to(dtype), reference.samples, micro_batch=10)
    spectrum = measure_spectrum(operator, steps=175)
    check(values, spectrum)
    assert spectrum.lambda_max.value == pytest.approx(values[-1], rel=rtol)
    assert spectrum.lambda_min.value == pytest.approx(values[0], rel=10 * rtol, abs=spectrum.lambda_min.noise)
    v = spectrum.vectors["min"].double()
    assert float(v @ reference.truth.hessian @ v) == pytest.approx(values[0], rel=10 * rtol)


def test_a_run_goes_on_until_the_question_is_decided(diagonal):
    """Both ends converge in 30 steps; that nothing lies below -tau takes the bound longer to say."""
    values = np.r_[5.0, 3.0, np.linspace(1e-3, 0.1, 998)]
    stopped = measure_spectrum(diagonal(values), steps=400)
    decided = measure_spectrum(diagonal(values), steps=400, tau=1e-3)
    assert stopped.lambda_min.interval[0] < -1e-3 * 5 < decided.lambda_min.interval[0]
    assert stopped.steps[0] < decided.steps[0] < 400
    below = np.r_[values, -1.0]
    assert measure_spectrum(diagonal(below), steps=400, tau=1e-3).steps == measure_spectrum(diagonal(below), steps=400).steps
