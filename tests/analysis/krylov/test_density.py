"""The density from one start, against spectra that are known."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.density import counted_weights, energy
from saddlescope.analysis.krylov.lanczos import Lanczos
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures.exact import exact_spectrum
from scipy.stats import wasserstein_distance


def spectrum_of(outliers, n=2000, width=0.05, seed=0):
    values = np.random.default_rng(seed).normal(0, width, n)
    values[: len(outliers)] = outliers
    return values


#: as of a tail: a few large, a few negative, the rest around zero
TAIL = [170, 110, 45, 25, 12, -17, -15, -11]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_start_is_as_accurate_as_several_without_counting(diagonal, dtype):
    values = spectrum_of(TAIL)
    counted, sampled = [], []
    for seed in range(12):
        density = measure_spectrum(diagonal(values, dtype, reflect=3), seed=seed).density
        (probe,) = density.probes
        assert min(probe.counted) >= 0
        assert sum(probe.counted) == pytest.approx(1, abs=1e-12)
        counted.append(wasserstein_distance(probe.nodes, values, probe.density_weights))
        sampled.append(wasserstein_distance(probe.nodes, values, probe.weights))
    assert np.mean(counted) < np.mean(sampled) / 5  # sampling noise of 25 starts


def test_it_is_unbiased_where_part_of_the_spectrum_is_counted(diagonal):
    """The mean of x^2 over eigenvalues below 5, none of which settles: over many starts the scaled rest must hit it."""
    rng = np.random.default_rng(1)
    values = np.concatenate([[60, 40, 30, -25], rng.uniform(-1, 4, 496)])
    n, found = len(values), []
    for seed in range(300):
        ritz = Lanczos(diagonal(values, reflect=3), seed).run(12).ritz
        weights = counted_weights(ritz.values, ritz.weights, ritz.residuals, n)
        inside = np.abs(ritz.values) < 10
        found.append((weights * ritz.values**2)[inside].sum())
    truth = (values[4:] ** 2).sum() / n
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 4 * error
    assert error < 0.01 * truth


def test_an_eigenvalue_of_many_stays_sampled():
    """A settled Ritz value for a thousand equal eigenvalues (dead units: zeros) has their weight, and keeps it."""
    nodes, residuals = np.array([-1.0, 2.0, 9.0]), np.zeros(3)
    weights = counted_weights(nodes, np.array([0.0004, 0.9990, 0.0006]), residuals, 1000)
    assert weights == pytest.approx([0.001, 0.998, 0.001])


def test_what_has_not_settled_stays_sampled():
    weights = np.array([0.2, 0.3, 0.5])
    nodes, residuals = np.array([-1.0, 2.0, 9.0]), np.array([0.5, 0.5, 0.5])
    assert counted_weights(nodes, weights, residuals, 1000) == pytest.approx(weights)


def test_a_spanned_space_is_counted_whole(diagonal):
    values = np.linspace(-1, 3, 20)
    (probe,) = measure_spectrum(diagonal(values, reflect=3)).density.probes
    assert probe.counted == pytest.approx([1 / 20] * 20)
    assert probe.nodes == pytest.approx(values)


def test_energy_of_a_network_from_one_start(network, long_tail):
    """Against all eigenvalues, beside what the sampled weights would say."""
    operator = HessianOperator(network(), long_tail())
    values = np.array(exact_spectrum(operator).density.probes[0].nodes)
    truth = energy(values, np.full(len(values), 1 / len(values)))
    counted, sampled = [], []
    for seed in range(8):
        found = measure_spectrum(operator, seed=seed, steps=40, min_steps=40)
        (probe,) = found.density.probes
        counted.append(found.negative_energy.value - truth)
        sampled.append(energy(np.array(probe.nodes), np.array(probe.weights)) - truth)
    assert np.sqrt(np.mean(np.square(counted))) < 0.6 * np.sqrt(np.mean(np.square(sampled)))
    assert np.sqrt(np.mean(np.square(counted))) < 0.15 * truth
