"""How one number is compared, against scipy's tests, closed forms and simulated builds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saddlescope.reports.check.baseline import Baseline, Conditions, Number, Series, acceptance
from saddlescope.reports.check.compare_numbers import Outcome, Route, chance, compare_samples, compare_single, holm, pooled_t
from saddlescope.reports.check.power import DISTRIBUTIONS, measure
from saddlescope.reports.check.readings import Reading
from scipy import stats

N = 78042


def number(rule="tolerance", absolute=0.0, relative=0.0, direction="both", readings=()):
    return Number(rule=rule, abs_tol=absolute, rel_tol=relative, direction=direction, readings=list(readings))


def seeds(*values, unit=0.0):
    return {index: Reading(value=value, unit=unit) for index, value in enumerate(values)}


def extreme(value, *, top=10.0, steps=60, failure=1e-3, settled=False, slack=0.0, spread=None):
    """lambda_min with the interval of mathematics.md section 2, written out again here."""
    spread = top - value if spread is None else spread
    epsilon = (math.log(1.648 * math.sqrt(N) / failure) / (2 * steps - 1)) ** 2
    low = value - spread * epsilon / (1 - 2 * epsilon)
    return Reading(value=value, settled=settled, slack=slack, low=low, high=value, confidence=1 - failure, spread=spread)


@pytest.mark.parametrize(("n_x", "n_y"), [(2, 1), (3, 3), (10, 3), (2, 7)])
def test_the_sample_test_is_students(n_x, n_y):
    rng = np.random.default_rng(n_x)
    x, y = rng.normal(3, 2, n_x), rng.normal(5, 2, n_y)
    if n_y == 1:
        freedom, deviation = n_x - 1, x.std(ddof=1)
        t = abs(y[0] - x.mean()) / (deviation * math.sqrt(1 + 1 / n_x))
        expected = 2 * stats.t.sf(t, freedom)
    else:
        expected = stats.ttest_ind(x, y).pvalue
    assert pooled_t(list(x), list(y)) == pytest.approx(expected, rel=1e-10)


def test_equal_counts_do_not_prove_a_spread_of_zero():
    # 5, 5, 5 against 6, 6, 6: one chance in 32 under a fair coin between 5 and 6, so never significant at 1 %
    assert pooled_t([5, 5, 5], [6, 6, 6]) == 0.0
    evidence = compare_samples(number(), seeds(5, 5, 5, unit=1.0), seeds(6, 6, 6, unit=1.0))
    assert evidence.p is not None
    assert evidence.p > 0.01


def test_holm_by_hand():
    # sorted 0.001, 0.01, 0.02, 0.04 times 4, 3, 2, 1, then made monotone
    assert holm([0.02, 0.001, 0.04, 0.01]) == pytest.approx([0.04, 0.004, 0.04, 0.03])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_two_standard_errors_are_compared_by_welch():
    old = Reading(value=2.0, standard_error=0.3, count=5, confidence=0.95)
    new = Reading(value=3.1, standard_error=0.5, count=8, confidence=0.95)
    expected = stats.ttest_ind_from_stats(2.0, 0.3 * math.sqrt(5), 5, 3.1, 0.5 * math.sqrt(8), 8, equal_var=False).pvalue
    assert chance(old, new, N) == pytest.approx(expected, rel=1e-10)


def test_one_probe_a_side_is_not_taken_for_normal():
    """q^T H q for one large eigenvalue is a chi-square with one degree of freedom: the p-value must hold for it too."""
    rng = np.random.default_rng(3)
    draws = rng.chisquare(1, (20_000, 2))
    p = np.array(
        [
            chance(*(Reading(value=float(v), standard_error=math.sqrt(2), count=1, quadratic=True) for v in pair), N)
            for pair in draws
        ]
    )
    for level in (0.1, 0.01, 0.001):
        assert np.mean(p <= level) <= level + 3 * math.sqrt(level / len(p))


def test_more_probes_bring_the_quadratic_bound_towards_normal():
    def p(count):
        old, new = (Reading(value=v, standard_error=1.0, count=count, quadratic=True) for v in (0.0, 12.0))
        return chance(old, new, N)

    assert p(1) > p(4) > p(100) > 2 * stats.norm.sf(12 / math.sqrt(2))
    assert p(1) < 0.02


@given(failure=st.floats(1e-12, 1e-2), steps=st.integers(30, 200))
def test_the_chance_of_a_gap_is_that_at_which_the_bounds_touch(failure, steps):
    """Two runs stored with delta = 1e-3, a gap as wide as the bound at another delta: the bound's own delta comes back."""
    epsilon = (math.log(1.648 * math.sqrt(N) / failure) / (2 * steps - 1)) ** 2
    old = extreme(-1.0, steps=steps, spread=11.0)
    new = extreme(-1.0 - 11.0 * epsilon / (1 - 2 * epsilon), steps=steps, spread=11.0)
    # the higher value's lower bound must reach down to the lower value, whose own upper side has no width
    assert chance(old, new, N) == pytest.approx(2 * failure, rel=1e-6)


def test_intervals_of_unknown_shape_have_exponential_tails():
    """Twice the width at 95 % stands for 1 - (0.05 / 2)^2 / 2: ln(2 / failure) is doubled."""
    old = Reading(value=0.0, low=-1.0, high=1.0, confidence=0.95)
    new = Reading(value=4.0, low=3.0, high=9.0, confidence=0.95)
    assert chance(old, new, N) == pytest.approx(2 * 2 * (0.05 / 2) ** 2, rel=1e-6)
    assert chance(old, Reading(value=1.9, low=0.9, high=9.0, confidence=0.95), N) > 0.1


def test_certain_intervals_are_decided_for_certain():
    exact = [Reading(value=value, low=value, high=value, confidence=1.0) for value in (0.1, 0.2)]
    assert chance(*exact, N) < 1e-300
    wide = [Reading(value=value, low=value - 0.1, high=value + 0.1, confidence=1.0) for value in (0.1, 0.2)]
    assert chance(*wide, N) == 1.0


@pytest.mark.parametrize("route", [Route.DIGITS, Route.RETRAINED])
def test_a_settled_number_moves_when_it_leaves_tolerance_and_slack(route):
    entry, old = number("extreme", absolute=1e-4, relative=1e-3), extreme(-1.0, settled=True, slack=1e-3)
    outcomes = [
        compare_single(entry, old, extreme(-1.0 - step, settled=True, slack=1e-3), route, N).outcome
        for step in (1e-3, 3e-3, 3.2e-3)
    ]
    assert outcomes == [Outcome.SAME, Outcome.WITHIN, Outcome.MOVED]


def test_an_unsettled_extreme_is_judged_by_its_bound():
    entry, old = number("extreme", relative=1e-3), extreme(-1.0)
    near, far = (compare_single(entry, old, extreme(value), Route.DIGITS, N) for value in (-1.05, -5.0))
    assert (near.outcome, far.outcome) == (Outcome.WITHIN, Outcome.WITHIN)  # the build's test has the last word
    assert near.p is not None
    assert near.p > 0.1
    assert far.p is not None
    assert far.p < 1e-12


@pytest.mark.parametrize(("route", "outcome"), [(Route.DIGITS, Outcome.MOVED), (Route.RESAMPLED, Outcome.REFUSED)])
def test_an_estimate_without_an_error_never_passes_silently(route, outcome):
    entry = number("estimate", relative=0.01)
    assert (
        compare_single(entry, Reading(value=1.0, settled=False), Reading(value=1.1, settled=False), route, N).outcome is outcome
    )


def test_lower_bounds_of_different_runs_do_not_contradict():
    old, new = Reading(value=5, unit=1.0), Reading(value=9, unit=1.0)
    assert compare_single(number("bound"), old, new, Route.DIGITS, N).outcome is Outcome.MOVED
    assert compare_single(number("bound"), old, new, Route.RESAMPLED, N).outcome is Outcome.WITHIN


def test_direction():
    falls, rises = Reading(value=-2.0), Reading(value=-0.5)
    old = Reading(value=-1.0)
    entry = number(direction="not-lower", relative=1e-3)
    assert compare_single(entry, old, falls, Route.DIGITS, N).outcome is Outcome.MOVED
    assert compare_single(entry, old, rises, Route.DIGITS, N).outcome is Outcome.ALLOWED
    entry = number(direction="not-higher", relative=1e-3)
    assert compare_single(entry, old, falls, Route.DIGITS, N).outcome is Outcome.ALLOWED
    assert compare_single(entry, old, rises, Route.DIGITS, N).outcome is Outcome.MOVED


def test_direction_of_samples():
    old, new = seeds(-1.0, -1.1, -0.9), seeds(-3.0, -3.1, -2.9)
    both, lower, higher = (compare_samples(number(direction=way), old, new) for way in ("both", "not-lower", "not-higher"))
    assert lower.p == pytest.approx(both.p / 2)  # one-sided: only this side can fail the build
    assert (higher.p, higher.allowed_p) == (1.0, pytest.approx(both.p / 2))


def test_labels_of_seeds_are_counted():
    def evidence(before, after):
        return compare_samples(number("label"), seeds(*before), seeds(*after))

    few = evidence(["saddle"] * 3, ["none"] * 3)
    many = evidence(["saddle"] * 10, ["none"] * 10)
    assert few.p == pytest.approx(2 / math.comb(6, 3))
    assert many.p == pytest.approx(2 / math.comb(20, 10))
    assert "3 of 3, now 0 of 3" in few.note or "0 of 3, now 3 of 3" in few.note
    assert evidence(["a", "b", "a"], ["a", "a", "b"]).outcome is Outcome.SAME


def test_samples_equal_in_digits_are_the_same_and_equal_in_mean_are_not():
    assert compare_samples(number(), seeds(1.0, 2.0, 3.0), seeds(1.0, 2.0, 3.0)).outcome is Outcome.SAME
    assert compare_samples(number(), seeds(1.0, 2.0, 3.0), seeds(2.0, 3.0, 1.0)).outcome is Outcome.WITHIN


def simulated(count, n_seeds):
    conditions = Conditions(
        data_sha256="d",
        index_sha256=None,
        scheme="all",
        eta=None,
        groups={"all": [0]},
        dtype="float32",
        engine="saddlescope",
        loss="cross-entropy",
        params_pattern=None,
        parameters=N,
        subsample=None,
    )
    numbers = {f"g{index}.loss": number(readings=[Reading(value=0.0)] * n_seeds) for index in range(count)}
    hashes = [str(seed) for seed in range(n_seeds)]
    series = Series(
        conditions=conditions, settings={}, environment={}, seeds=list(range(n_seeds)), checkpoints=hashes, numbers=numbers
    )
    return Baseline(history=[acceptance("simulated")], series={"s": series})


def test_false_alarms_stay_at_the_stated_rate():
    """Whole builds, every distribution: at most 1 % of builds fail though nothing changed (3 standard errors of luck)."""
    measured = measure(simulated(12, 3), builds=600)
    assert measured.tests == 12
    assert set(measured.false_alarms) == set(DISTRIBUTIONS)
    for name, rate in measured.false_alarms.items():
        assert rate <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 600), name


def test_power_is_that_of_the_noncentral_t():
    """With one number the check is Student's test at 1 %; its power has a closed form."""
    measured = measure(simulated(1, 4), builds=4000)
    critical = stats.t.isf(0.005, 6)
    for shift, found in measured.power.items():
        expected = stats.nct.sf(critical, 6, shift * math.sqrt(2))  # the other side is below 1e-4
        assert found == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 400)), shift
    assert measured.needed == pytest.approx(3.3, abs=0.3)


def test_more_seeds_see_smaller_shifts():
    few, many = (measure(simulated(6, count), seeds=3, builds=300).needed for count in (3, 10))
    assert few is not None
    assert many is not None
    assert many < 0.6 * few


@pytest.mark.parametrize("route", [Route.DIGITS, Route.KERNELS, Route.RESAMPLED])
def test_a_count_may_differ_by_one_step_where_rounding_decides(route):
    """94 samples: one with a tie, counted right by one kernel and wrong by another; two are a difference."""
    entry = number("tolerance")
    old, one, two = (Reading(value=right / 94, unit=1 / 94) for right in (90, 91, 92))
    assert compare_single(entry, old, one, route, N).outcome is Outcome.WITHIN
    assert compare_single(entry, old, two, route, N).outcome is Outcome.MOVED


def test_rounding_may_end_an_iteration_elsewhere():
    old, new = Reading(value=5, unit=1.0), Reading(value=9, unit=1.0)
    assert compare_single(number("bound"), old, new, Route.KERNELS, N).outcome is Outcome.WITHIN
    # an eigenvalue is still the eigenvalue
    assert (
        compare_single(number(relative=1e-3), Reading(value=1.0), Reading(value=1.1), Route.KERNELS, N).outcome is Outcome.MOVED
    )
