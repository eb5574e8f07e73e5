"""The dense spectrum against LAPACK on a Hessian made elsewhere, and the estimators against it."""

import copy

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.linear_operator import MatrixOperator
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures import exact
from saddlescope.analysis.measures.exact import TooLargeError, dense_matrix, exact_spectrum, rechecked


@pytest.fixture(scope="module")
def eigenvalues(reference):
    return np.linalg.eigvalsh(reference.truth.hessian.numpy())


def test_dense_matrix_is_the_hessian(reference):
    operator = HessianOperator(reference.model, reference.samples, micro_batch=10)
    calls = []
    matrix, asymmetry = dense_matrix(operator, calls.append)
    assert torch.equal(matrix, matrix.T)
    assert float((matrix - reference.truth.hessian).abs().max()) < 1e-12
    assert 0 < asymmetry < 1e-12
    assert calls == [1] * 175
    assert operator.matvecs == 175


def test_every_number_is_that_of_the_eigenvalues(reference, eigenvalues):
    operator = HessianOperator(reference.model, reference.samples, micro_batch=10)
    spectrum = exact_spectrum(operator, k=3)
    low, high = eigenvalues[0], eigenvalues[-1]
    assert low < 0 < high
    assert [pair.value for pair in spectrum.lowest] == pytest.approx(eigenvalues[:3], abs=1e-12)
    assert [pair.value for pair in spectrum.highest] == pytest.approx(eigenvalues[::-1][:3], abs=1e-12)
    assert spectrum.negative_ratio.value == pytest.approx(-low / high, rel=1e-10)
    assert spectrum.negative_ratio.interval == pytest.approx((-low / high, -low / high), rel=1e-8)
    assert spectrum.trace.value == pytest.approx(eigenvalues.sum(), rel=1e-10)
    energy = -eigenvalues[eigenvalues < 0].sum() / abs(eigenvalues).sum()
    assert spectrum.negative_energy.value == pytest.approx(energy, rel=1e-10)
    for mass, index in zip(spectrum.negative_mass, spectrum.saddle_index, strict=True):
        below = eigenvalues < -mass.relative * high
        assert mass.value == pytest.approx(below.mean()) == pytest.approx(mass.interval[0]) == pytest.approx(mass.interval[1])
        assert index.at_least == below.sum()
        assert mass.confidence == 1
    (probe,) = spectrum.density.probes
    assert spectrum.density.distribution == "exact"
    assert probe.nodes == pytest.approx(eigenvalues.tolist(), abs=1e-12)
    assert sum(probe.weights) == pytest.approx(1)
    for end, truth in ((spectrum.lambda_min, low), (spectrum.lambda_max, high)):
        assert end.interval[0] <= truth <= end.interval[1]
        assert end.interval[1] - end.interval[0] < 1e-10
        assert end.confidence == 1
    for key, value in {"min": low, "max": high, "min-2": eigenvalues[1], "max-3": eigenvalues[-3]}.items():
        v = spectrum.vectors[key]
        assert float((reference.truth.hessian @ v - value * v).norm()) < 1e-11


def test_the_estimators_at_their_defaults_agree_with_the_exact_mode(reference):
    truth = exact_spectrum(HessianOperator(reference.model, reference.samples))
    found = measure_spectrum(HessianOperator(reference.model, reference.samples, micro_batch=16))
    for one, other in ((found.lambda_min, truth.lambda_min), (found.lambda_max, truth.lambda_max)):
        assert one.value == pytest.approx(other.value, rel=1e-3)
        assert one.interval[0] <= other.value <= one.interval[1]
    for one, other in zip(found.negative_mass, truth.negative_mass, strict=True):
        assert one.interval[0] <= other.value <= one.interval[1]
    for one, other in zip(found.saddle_index, truth.saddle_index, strict=True):
        assert one.at_least <= other.at_least
    assert abs(found.trace.value - truth.trace.value) < 5 * found.trace.standard_error


def test_in_float64_is_the_same_hessian_of_a_copy(reference):
    model = copy.deepcopy(reference.model).float()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    narrow = HessianOperator(model, reference.samples, params="fc.*,conv.weight", micro_batch=10)
    wide = narrow.in_float64()
    assert wide.dtype == torch.float64
    assert wide.parameter_names == narrow.parameter_names
    # The truth for weights rounded to float32
    rounded = HessianOperator(copy.deepcopy(model).double(), reference.samples, params="fc.*,conv.weight", accelerate=False)
    v = torch.randn(wide.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(wide.matvec(v), rounded.matvec(v), rtol=0, atol=1e-13)
    assert 0 < float((narrow.matvec(v).double() - wide.matvec(v)).norm() / wide.matvec(v).norm()) < 1e-5
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_float32_operators_get_intervals_of_float32(reference, eigenvalues):
    operator = HessianOperator(copy.deepcopy(reference.model).float(), reference.samples)
    spectrum = exact_spectrum(operator)
    assert spectrum.lambda_min.interval[0] <= eigenvalues[0] <= spectrum.lambda_min.interval[1]
    assert spectrum.lambda_max.interval[0] <= eigenvalues[-1] <= spectrum.lambda_max.interval[1]
    assert spectrum.noise.absolute < 1e-3 * eigenvalues[-1]


@pytest.mark.parametrize("diagonal_values", [[0.0, 0.0, 0.0], [-2.0], [-1.0, -3.0], [1.0, 2.0, 3.0]])
def test_corner_cases(diagonal_values):
    spectrum = exact_spectrum(MatrixOperator(torch.diag(torch.tensor(diagonal_values, dtype=torch.float64))), k=5)
    values = np.sort(diagonal_values)
    assert [pair.value for pair in spectrum.lowest] == values.tolist()
    assert [mass.value for mass in spectrum.negative_mass] == [float((values < 0).mean())] * 4
    assert [bound.at_least for bound in spectrum.saddle_index] == [int((values < 0).sum())] * 4
    assert spectrum.negative_ratio.value == 0  # no negative, or no positive eigenvalue
    assert spectrum.trace.value == sum(diagonal_values)
    assert any("does not exist" in warning for warning in spectrum.warnings) == (values[-1] <= 0)


def test_too_large_is_refused_before_any_product(diagonal, monkeypatch):
    operator = diagonal(np.zeros(20_001))
    with pytest.raises(TooLargeError, match=r"20001 parameters .* 20001 products .*--params"):
        exact_spectrum(operator)
    monkeypatch.setattr(exact, "free_bytes", lambda device: 1000)
    with pytest.raises(TooLargeError, match="GiB"):
        exact_spectrum(diagonal(np.zeros(10)))
    assert operator.matvecs == 0


def test_an_interval_that_was_widened_to_a_quotient_holds_the_eigenvalue_beyond_it():
    """float32 and float64 differ by more than rounding, as where a unit is on in one and off in the other."""
    missed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        matrix, other = rng.normal(size=(2, 40, 40))
        matrix, other = (matrix + matrix.T) / 2, 1e-4 * (other + other.T) / 2
        values = np.linalg.eigvalsh(matrix)
        found = measure_spectrum(MatrixOperator(torch.from_numpy(matrix + other).float()), seed=seed, min_steps=40, k=3)
        assert found.lambda_min.confidence == 1
        found = rechecked(found, MatrixOperator(torch.from_numpy(matrix)))
        for pairs, truths in ((found.lowest, values), (found.highest, values[::-1])):
            for pair, truth in zip(pairs, truths, strict=False):
                low, high = pair.interval
                missed += not (-np.inf if low is None else low) <= truth <= (np.inf if high is None else high)
    assert missed == 0
