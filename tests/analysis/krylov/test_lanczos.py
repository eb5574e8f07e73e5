"""Lanczos on prescribed spectra: no ghosts, honest residuals, exact quadrature, breakdowns, and resuming to the digit."""

import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.lanczos import Lanczos, LanczosError, random_start
from saddlescope.analysis.krylov.linear_operator import MatrixOperator


def bulk(n, outliers, width=0.01, seed=0):
    values = np.random.default_rng(seed).normal(0, width, n)
    values[: len(outliers)] = outliers
    return values


def basis_of(run):
    return run._basis.rows(run.steps).double()


def test_basis_is_orthonormal_and_no_eigenvalue_is_found_twice(diagonal):
    """After 150 steps the plain recurrence holds several copies of each outlier ("ghosts")."""
    outliers = [40, 25, 12, 8, 6, -3]
    run = Lanczos(diagonal(bulk(3000, outliers), reflect=1)).run(150)
    q = basis_of(run)
    assert float((q @ q.T - torch.eye(150, dtype=torch.float64)).abs().max()) < 1e-13
    assert np.allclose(run.ritz.values[[-1, -2, -3, -4, -5, 0]], outliers, atol=1e-10)
    for value in outliers:
        assert int((abs(run.ritz.values - value) < 0.5).sum()) == 1


@pytest.mark.parametrize(("n", "steps"), [(3000, 150), (100_000, 40)])
def test_basis_stays_orthonormal_in_float32(diagonal, n, steps):
    """Float32 sums over 1e5 numbers would leave overlaps of 2e-5, and move the eigenvalue -3 by 2e-4."""
    outliers = [100, 60, 50, 20, 11, -3, -2]
    run = Lanczos(diagonal(bulk(n, outliers), torch.float32)).run(steps)
    q = basis_of(run)
    assert float((q @ q.T - torch.eye(steps, dtype=torch.float64)).abs().max()) < 1e-6
    assert int((abs(run.ritz.values) > 1).sum()) == 7
    assert np.allclose(run.ritz.values[[-1, -2, -3, -4, -5, 0, 1]], outliers, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 60])
def test_whole_space_gives_the_whole_spectrum(n):
    generator = torch.Generator().manual_seed(n)
    matrix = torch.randn(n, n, dtype=torch.float64, generator=generator)
    matrix = matrix + matrix.T
    run = Lanczos(MatrixOperator(matrix)).run(10_000)
    assert run.exhausted
    assert run.steps == n
    assert np.allclose(run.ritz.values, np.linalg.eigvalsh(matrix.numpy()), atol=1e-10)
    assert run.ritz.residuals.max() < 1e-10


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 60), st.sampled_from([0, 1, 2]))
def test_every_ritz_pair_is_what_it_claims(diagonal, seed, n, steps, kind):
    """Residual norm of the Ritz vector; an eigenvalue within it; interlacing with the true spectrum."""
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=n), np.round(rng.normal(size=n)), np.exp(rng.normal(0, 3, n)) * rng.choice([-1, 1], n)][kind]
    operator = diagonal(values, reflect=seed)
    run = Lanczos(operator, seed).run(steps)
    truth, scale = np.sort(operator.values.numpy()), abs(values).max() + 1e-300
    m = run.steps
    for i, (theta, residual) in enumerate(zip(run.ritz.values, run.ritz.residuals, strict=True)):
        v = run.ritz_vector(i)
        assert float((operator.matvec(v) - theta * v).norm()) <= residual + 1e-12 * scale
        assert abs(truth - theta).min() <= residual + 1e-12 * scale
        assert truth[i] <= theta + 1e-12 * scale  # i-th smallest from below
        assert truth[n - m + i] >= theta - 1e-12 * scale  # and from above
    assert run.ritz.weights.sum() == pytest.approx(1, abs=1e-12)


def test_residual_is_the_residual_and_not_only_a_bound(diagonal):
    operator = diagonal(bulk(500, [5, -2]), reflect=2)
    run = Lanczos(operator).run(6)
    for i in range(6):
        v = run.ritz_vector(i)
        assert float((operator.matvec(v) - run.ritz.values[i] * v).norm()) == pytest.approx(run.ritz.residuals[i], rel=1e-8)


def test_quadrature_integrates_polynomials_up_to_degree_2m_minus_1(diagonal):
    operator = diagonal(np.random.default_rng(0).uniform(-1, 1, 400), reflect=4)
    run = Lanczos(operator, seed=3).run(6)
    start = random_start(operator, 3)
    w = start.clone()
    for degree in range(1, 12):
        w = operator.matvec(w)
        assert run.ritz.weights @ run.ritz.values**degree == pytest.approx(float(start @ w), abs=1e-13)
    w = operator.matvec(w)
    assert abs(run.ritz.weights @ run.ritz.values**12 - float(start @ w)) > 1e-7  # and no further


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [20, 5000])
def test_repeated_eigenvalues_are_found_after_a_breakdown(diagonal, n, dtype):
    values = np.zeros(n)
    values[:5] = [5, 5, 5, 1, -1]
    run = Lanczos(diagonal(values, dtype, reflect=1)).run(16)
    eps = torch.finfo(dtype).eps
    assert np.allclose(run.ritz.values[-4:], [1, 5, 5, 5], atol=1e3 * eps)
    assert np.allclose(run.ritz.values[:12], [-1] + [0] * 11, atol=1e3 * eps)
    assert run.ritz.residuals.max() < 1e3 * eps


@pytest.mark.parametrize("value", [0.0, -2.0, 1e-12])
def test_multiples_of_the_identity(diagonal, value):
    run = Lanczos(diagonal(np.full(30, value))).run(7)
    assert run.restarts == [1, 2, 3, 4, 5, 6, 7]
    assert np.allclose(run.ritz.values, value, rtol=1e-13, atol=0)
    q = basis_of(run)
    assert float((q @ q.T - torch.eye(7, dtype=torch.float64)).abs().max()) < 1e-13


@pytest.mark.parametrize("n", [100, 20_000])
def test_a_narrow_bulk_beside_large_outliers_is_not_a_breakdown(diagonal, n):
    """In float32 and at many parameters, too: the bulk here is 2e-4 of the outliers, as in trained networks."""
    values = np.random.default_rng(0).uniform(-0.02, 0.02, n)
    values[:3] = [100, 60, -40]
    operator = diagonal(values, torch.float32, reflect=5)
    run = Lanczos(operator).run(30)
    assert not run.restarts
    middle = run.ritz.values[1:-2]
    assert middle.min() < -0.015 < 0.015 < middle.max()
    assert abs(middle).max() < 0.021


def test_residuals_count_what_a_breakdown_dropped(diagonal):
    run = Lanczos(diagonal([3.0, 3, 3, 1, -1, -1, 0, 0], torch.float32, reflect=0)).run(6)
    assert len(run.dropped) == len(run.restarts) > 0
    plain = abs(run.betas[-1]) * abs(run.ritz.vectors[-1])
    assert (run.ritz.residuals - plain).max() == pytest.approx(max(run.dropped), rel=0.5)


def test_a_product_that_is_the_operators_own_is_left_alone():
    """Products with the identity may be the vector itself, which is a row of the basis."""

    class Identity(MatrixOperator):
        def matvec(self, v):
            return v

    run = Lanczos(Identity(torch.eye(5, dtype=torch.float64))).run(5)
    assert np.allclose(run.ritz.values, 1, atol=1e-12)
    assert float((basis_of(run) @ basis_of(run).T - torch.eye(5, dtype=torch.float64)).abs().max()) < 1e-12


def test_a_given_start_is_normalised(diagonal):
    operator = diagonal([1.0, 2, 3])
    run = Lanczos(operator, start=torch.tensor([0.0, 0, 5], dtype=torch.float64)).run(1)
    assert run.ritz.values.tolist() == [3]
    assert run.ritz.residuals.tolist() == [0]


def test_random_starts_are_unit_uniform_and_repeatable(diagonal):
    operator = diagonal(np.zeros(4))
    starts = torch.stack([random_start(operator, seed) for seed in range(4000)])
    assert torch.allclose(starts.norm(dim=1), torch.ones(4000, dtype=torch.float64))
    assert torch.equal(starts[7], random_start(operator, 7))
    second = starts.T @ starts / 4000  # E[q q^T] = I / n, with a standard error of 0.0032 on the diagonal at n = 4
    assert float((second - torch.eye(4, dtype=torch.float64) / 4).abs().max()) < 0.016
    fourth = (starts**4).mean(0)  # E[q_i^4] = 3 / (n (n + 2))
    assert float((fourth - 3 / 24).abs().max()) < 0.015


def test_stop_is_asked_after_every_step(diagonal):
    seen = []
    run = Lanczos(diagonal(bulk(100, [3]))).run(50, lambda run: seen.append(run.steps) or run.steps == 9)
    assert seen == list(range(1, 10))
    assert run.steps == 9
    assert run.run(9).steps == 9
    assert run.run(12).steps == 12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("interrupted_at", [1, 7, 8, 24, 33])
def test_resuming_gives_the_same_digits(diagonal, tmp_path, dtype, interrupted_at):
    def operator():
        return diagonal(bulk(700, [9, 4, -2], width=0.3), dtype, reflect=2)

    whole = Lanczos(operator(), 5).run(40)
    first = Lanczos(operator(), 5).run(interrupted_at)
    first.save(tmp_path / "run.safetensors")
    second = Lanczos.load(operator(), tmp_path / "run.safetensors").run(40)
    assert second.alphas == whole.alphas
    assert second.betas == whole.betas
    assert np.array_equal(second.ritz.values, whole.ritz.values)
    assert torch.equal(second.ritz_vector(0), whole.ritz_vector(0))
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_resuming_a_network_and_after_breakdowns_and_at_the_end(diagonal, network, long_tail, tmp_path):
    def hessian():
        return HessianOperator(network(torch.float32), long_tail(), micro_batch=10)

    path = tmp_path / "run"
    Lanczos(hessian(), 1).run(11).save(path)
    assert Lanczos.load(hessian(), path).run(25).alphas == Lanczos(hessian(), 1).run(25).alphas
    repeated = diagonal([2.0] * 5 + [1.0] * 4 + [0.0] * 5)
    whole = Lanczos(repeated).run(12)
    Lanczos(repeated).run(4).save(path)
    resumed = Lanczos.load(repeated, path).run(12)
    assert (resumed.alphas, resumed.restarts, resumed.dropped) == (whole.alphas, whole.restarts, whole.dropped)
    assert np.array_equal(resumed.ritz.residuals, whole.ritz.residuals)
    ended = Lanczos(diagonal([1.0, 2.0])).run(10)
    ended.save(path)
    again = Lanczos.load(diagonal([1.0, 2.0]), path)
    assert again.exhausted
    assert again.run(10).steps == 2


def test_a_run_of_another_operator_or_a_damaged_file_is_refused(diagonal, tmp_path):
    path = tmp_path / "run.safetensors"
    Lanczos(diagonal([1.0, 2, 3])).run(2).save(path)
    with pytest.raises(LanczosError, match=r"3 parameters in torch\.float64, asked for 4"):
        Lanczos.load(diagonal([1.0, 2, 3, 4]), path)
    with pytest.raises(LanczosError, match="float32"):
        Lanczos.load(diagonal([1.0, 2, 3], torch.float32), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LanczosError, match="not a stored Lanczos run"):
        Lanczos.load(diagonal([1.0, 2, 3]), path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_place_of_the_basis_does_not_change_a_digit(diagonal, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spectrum = torch.cat([torch.linspace(-1, 5, 20), torch.zeros(20_011)]).double()
    operator = diagonal(spectrum.to(dtype))
    runs = [Lanczos(operator, 3, place=place).run(45) for place in ("device", "cpu", "disk")]
    assert list(tmp_path.iterdir())  # the file, which has grown more than once
    for run in runs[1:]:
        assert (run.alphas, run.betas) == (runs[0].alphas, runs[0].betas)
        assert torch.equal(run.ritz_vector(0), runs[0].ritz_vector(0))
    del run, runs
    assert not list(tmp_path.iterdir())
