"""What a Lanczos run proves: formulas against independent computations, statements against Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saddlescope.analysis.krylov.bounds import (
    end_intervals,
    hidden_mass,
    luck_needed,
    mass_bracket,
    ratio_interval,
    share_interval,
    start_error,
    steps_needed,
)
from saddlescope.analysis.krylov.lanczos import Lanczos
from scipy.stats import beta


def failure(n, m, eps):
    """Kuczynski and Wozniakowski (1992), theorem 4.2 for one end and one start."""
    return min(1.0, 1.648 * math.sqrt(n) * math.exp(-math.sqrt(eps) * (2 * m - 1)))


@pytest.mark.parametrize(("n", "m", "delta"), [(500_000, 100, 1e-3), (2000, 60, 1e-2), (10, 20, 0.1)])
def test_start_error_of_one_start_spends_delta(n, m, delta):
    eps = start_error(n, [m], delta)
    assert failure(n, m, eps) == pytest.approx(delta, rel=1e-9)
    assert eps == pytest.approx((math.log(1.648 * math.sqrt(n) / delta) / (2 * m - 1)) ** 2, rel=1e-9)


def test_the_example_of_the_mathematics_page():
    assert start_error(500_000, [100], 1e-3) == pytest.approx(0.005, abs=1e-4)


@pytest.mark.parametrize("steps", [[50, 50, 50], [30, 50, 80], [5, 90]])
def test_failures_of_independent_starts_multiply(steps):
    eps = start_error(2000, steps, 1e-3)
    assert math.prod(failure(2000, m, eps) for m in steps) == pytest.approx(1e-3, rel=1e-8)


def test_looks_share_the_failure_probability():
    """A run that may stop at any of 15 moments: each gets delta / 15; two such runs: each pair gets delta / 225."""
    assert start_error(2000, [60], 1e-3, looks=15) == pytest.approx(start_error(2000, [60], 1e-3 / 15))
    assert start_error(2000, [60, 60], 1e-3, looks=15) == pytest.approx(start_error(2000, [60, 60], 1e-3 / 225))


def test_a_start_that_is_half_random_counts_like_one_of_four_times_the_size():
    assert start_error(1000, [40], 1e-3, dilution=2.0) == pytest.approx(start_error(4000, [40], 1e-3))


def test_start_error_says_nothing_rather_than_something_false():
    assert start_error(2000, [5], 1e-3) is None  # eps would be 1.5
    assert start_error(2000, [11], 1e-3) is not None
    assert start_error(2000, [11], 1e-3) < 0.5


@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize("eps", [1e-3, 0.02, 0.2])
def test_steps_needed_is_the_smallest_number_that_suffices(starts, eps):
    m = steps_needed(5000, eps, starts, 1e-3, 20)
    assert start_error(5000, [m] * starts, 1e-3, 20) <= eps
    fewer = start_error(5000, [m - 1] * starts, 1e-3, 20)
    assert fewer is None or fewer > eps


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("starts", [1, 2])
def test_random_starts_fail_less_often_than_stated(diagonal, sign, starts):
    """A spectrum without a gap, which is the hard case, at a weak confidence, so that failures would be seen."""
    n, m, delta, trials = 300, 16, 0.2, 250
    values = sign * np.cos(np.linspace(0, np.pi, n)) ** 3
    eps = start_error(n, [m] * starts, delta)
    failed = 0
    for trial in range(trials):
        best = min(Lanczos(diagonal(values), starts * trial + i).run(m).ritz.values[0] for i in range(starts))
        assert best >= values.min() - 1e-12
        failed += best > values.min() + eps * np.ptp(values)
    assert failed <= delta * trials


def test_end_intervals_hold_the_ends_when_both_errors_are_below_eps():
    rng = np.random.default_rng(0)
    for _ in range(500):
        low, high = np.sort(rng.normal(size=2))
        eps, spread = rng.uniform(0, 0.49), high - low
        noise = rng.uniform(0, 0.01, 2)
        theta_low = low + rng.uniform(0, 1) * eps * spread + rng.uniform(-1, 1) * noise[0]
        theta_high = high - rng.uniform(0, 1) * eps * spread + rng.uniform(-1, 1) * noise[1]
        if theta_high < theta_low:
            continue
        for_low, for_high = end_intervals(theta_low, theta_high, eps, *(noise + noise.sum() * eps / (1 - 2 * eps)))
        assert for_low[0] - 1e-12 <= low <= for_low[1] + 1e-12
        assert for_high[0] - 1e-12 <= high <= for_high[1] + 1e-12


def test_end_intervals_by_hand_and_without_a_statement():
    # theta in [-1, 3], eps 0.1: the spread is at most 4 / 0.8 = 5, so each end moves by at most 0.5
    assert end_intervals(-1, 3, 0.1, 0, 0) == (pytest.approx((-1.5, -1)), pytest.approx((3, 3.5)))
    assert end_intervals(-1, 3, 0.1, 0.25, 0.125) == (pytest.approx((-1.75, -0.75)), pytest.approx((2.875, 3.625)))
    assert end_intervals(-1, 3, None, 0.25, 0.125) == ((None, -0.75), (2.875, None))


@given(st.floats(-10, 10), st.floats(0, 5), st.floats(-10, 10), st.floats(0, 5), st.floats(0, 1), st.floats(0, 1))
def test_ratio_interval_holds_every_ratio_of_its_parts(low, low_width, high, high_width, t, u):
    bottom, top = ratio_interval((low, low + low_width), (high, high + high_width))
    lambda_min, lambda_max = low + t * low_width, high + u * high_width
    if lambda_max <= 0 or high <= 0:
        assert (bottom, top) == (None, None)
        return
    ratio = max(-lambda_min, 0) / lambda_max
    assert bottom * (1 - 1e-12) <= ratio <= top * (1 + 1e-12)


def test_ratio_interval_where_something_is_unknown():
    assert ratio_interval((None, -1), (2, 4)) == (0.25, None)
    assert ratio_interval((-3, -1), (2, None)) == (0, 1.5)
    assert ratio_interval((None, -1), (-1, None)) == (None, None)
    assert ratio_interval((0.5, 1), (2, 4)) == (0, 0)


def gauss(points, masses, m):
    """Gauss quadrature of a discrete measure by modified Gram-Schmidt on sampled polynomials: no Lanczos code shared."""
    q = [np.sqrt(masses)]
    for _ in range(m - 1):
        w = points * q[-1]
        for _ in range(3):
            for column in q:
                w = w - column * (column @ w)
        q.append(w / np.linalg.norm(w))
    basis = np.array(q)
    nodes, s = np.linalg.eigh(basis @ (points[:, None] * basis.T))
    return nodes, s[0] ** 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_mass_bracket_holds_the_mass_at_every_threshold(seed, m):
    rng = np.random.default_rng(seed)
    points = np.sort(rng.normal(size=40) * rng.choice([0.01, 1], 40))
    masses = rng.dirichlet(np.full(40, 0.5))
    nodes, weights = gauss(points, masses, m)
    for threshold in [*rng.normal(size=10), *rng.choice(points, 5), points[0] - 1, points[-1] + 1]:
        low, high = mass_bracket(nodes, weights, threshold, exact=False)
        mass = masses[points < threshold].sum()
        assert low - 1e-9 <= mass <= high + 1e-9
        assert high - low <= 2 * weights.max() + 1e-12  # two weights wide at most


def test_mass_bracket_by_hand():
    nodes, weights = np.array([-2.0, -1, 0, 3]), np.array([0.1, 0.2, 0.3, 0.4])
    assert mass_bracket(nodes, weights, -0.5, exact=False) == pytest.approx((0.1, 0.6))
    assert mass_bracket(nodes, weights, -0.5, exact=True) == pytest.approx((0.3, 0.3))
    assert mass_bracket(nodes, weights, -5, exact=False) == pytest.approx((0, 0.1))
    assert mass_bracket(nodes, weights, -5, exact=True) == (0, 0)
    assert mass_bracket(nodes, weights, 5, exact=False) == pytest.approx((0.6, 1))
    assert mass_bracket(nodes, weights, 0, exact=True) == pytest.approx((0.3, 0.3))  # strictly below
    # a threshold known only to lie in [-1.5, 0.5]
    assert mass_bracket(nodes, weights, -0.5, exact=True, fuzz=1) == pytest.approx((0.1, 0.6))


@pytest.mark.parametrize(("n", "k", "probes"), [(200, 3, 1), (200, 3, 4), (50, 20, 2), (1000, 0, 1), (400, 1, 3), (30, 30, 1)])
def test_share_interval_covers_as_often_as_stated(n, k, probes):
    rng = np.random.default_rng(n + k + probes)
    delta, trials, covered = 0.1, 400, 0
    for _ in range(trials):
        squares = rng.normal(size=(probes, n)) ** 2
        mass = (squares[:, :k].sum(1) / squares.sum(1)).mean()
        low, high = share_interval(mass, mass, n, probes, delta)
        covered += low - 1e-9 <= k / n <= high + 1e-9
    assert covered >= (1 - delta - 0.03) * trials


def test_share_interval_inverts_the_beta_distribution():
    low, high = share_interval(0.02, 0.03, 500, 2, 0.05)
    assert beta.sf(0.02, low * 500, (1 - low) * 500) == pytest.approx(0.025, rel=1e-6)
    assert beta.cdf(0.03, high * 500, (1 - high) * 500) == pytest.approx(0.025, rel=1e-6)
    assert low < 0.02 < 0.03 < high


def test_share_interval_at_certainty():
    """A mass of exactly nothing (or everything) comes from no (or every) eigenvalue: the start has a part in each."""
    assert share_interval(0, 0, 100, 1, 1e-3) == (0, 0)
    assert share_interval(1, 1, 100, 1, 1e-3) == (1, 1)
    assert share_interval(0, 1, 100, 1, 1e-3) == (0, 1)
    low, high = share_interval(0, 1e-5, 100, 1, 1e-3)
    assert low == 0
    assert 0 < high < 0.1


def test_the_error_of_several_starts_solves_its_equation():
    """``sum_m min(0, log(1.648 sqrt(n)) - sqrt(eps) (2 m - 1))`` is the logarithm of the failure probability."""
    for n, steps, delta in (
        (1000, [80], 1e-3),
        (10**6, [100, 40], 1e-3),
        (500, [30, 31, 90, 7], 1e-6),
        (10**7, [200] * 5, 0.1),
    ):
        root = math.sqrt(start_error(n, steps, delta))
        assert sum(min(0.0, math.log(1.648 * math.sqrt(n)) - root * (2 * m - 1)) for m in steps) == pytest.approx(
            math.log(delta)
        )


def test_what_one_step_may_hide_is_cantellis_inequality():
    """A measure with mean a and variance b^2 has at most b^2 / (b^2 + (x - a)^2) beyond x."""
    for a, b, x in ((0.5, 2.0, -3.0), (-1.0, 0.1, 4.0)):
        assert hidden_mass([a], [b], x) == pytest.approx(b**2 / (b**2 + (x - a) ** 2), rel=1e-14)
    assert hidden_mass([1.0], [0.0], 2.0) == 0  # the start is an eigenvector


@given(seed=st.integers(0, 10**6), m=st.integers(1, 25))
@settings(deadline=None, max_examples=60)
def test_no_start_has_more_beyond_than_may_be_hidden(diagonal, seed, m):
    """And the Gauss rule with x for a node has just that."""
    rng = np.random.default_rng(seed)
    values = np.sort(rng.standard_t(2, 60))
    start = torch.from_numpy(rng.normal(size=60) * np.exp(rng.normal(size=60)))
    run = Lanczos(diagonal(values), start=start).run(m)
    parts = (start / start.norm()).numpy() ** 2
    for count in range(1, 10):
        x = values[count - 1]
        if x < run.ritz.values[0] - 1e-9:
            assert parts[:count].sum() <= hidden_mass(*run.chain, x) * (1 + 1e-6) + 1e-13
    x = run.ritz.values[0] - 0.1
    alphas, betas = run.alphas, run.betas
    # Gauss-Radau: the node x forced into the rule of one step more
    last = x + betas[-1] ** 2 * np.linalg.inv(np.diag(np.array(alphas) - x) + tri(betas[:-1]))[-1, -1]
    nodes, vectors = np.linalg.eigh(np.diag([*alphas, last]) + tri(betas))
    assert nodes[0] == pytest.approx(x, abs=1e-8)
    assert hidden_mass(alphas, betas, x) == pytest.approx(vectors[0, 0] ** 2, rel=1e-5, abs=1e-25)


def tri(off):
    return np.diag(off, 1) + np.diag(off, -1)


def test_luck_of_three_dimensions_is_uniform():
    """Archimedes: a coordinate of a point on the sphere in three dimensions is uniform."""
    for part in (0.01, 0.3, 1.0):
        assert luck_needed(3, part**2) == pytest.approx(part)
        assert luck_needed(3, part**2 / 4, dilution=2) == pytest.approx(part)
    assert luck_needed(3, 0.5, dilution=2) == 1
    assert (luck_needed(1, 0.5), luck_needed(1, 1.0)) == (0, 1)


def test_few_starts_hide_as_much(diagonal):
    """Stop where the luck needed to hide an eigenvalue 1.9 % beyond is at most a fifth: one was hidden in no more than that."""
    values = np.concatenate([[-1.02, -1.0], np.linspace(-0.9, 1, 298)])
    hidden = 0
    for seed in range(200):
        operator = diagonal(values)

        def stop(run):
            return luck_needed(300, hidden_mass(*run.chain, 1.019 * run.ritz.values[0])) <= 0.2

        run = Lanczos(operator, seed).run(100, stop)
        assert stop(run)
        hidden += 1.019 * run.ritz.values[0] >= -1.02
    assert 0 < hidden <= 0.2 * 200
