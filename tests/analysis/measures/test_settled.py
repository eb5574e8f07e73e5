"""An end that is called converged is the end: not the next eigenvalue, and not short of it."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.krylov.lanczos import random_start
from saddlescope.analysis.measures.extremes import measure_ends
from saddlescope.analysis.records.spectra import Extreme


def with_bulk(n, outliers, width, seed=0):
    values = np.random.default_rng(seed).normal(0, width, n)
    values[: len(outliers)] = outliers
    return values


@pytest.mark.parametrize("side", [1, -1])
def test_the_second_eigenvalue_is_not_called_converged(diagonal, side):
    """The start has so little along the outermost eigenvector as one of thirty has, and settles on the next one, 3 % short."""
    called = 0
    for seed in range(10):
        values = with_bulk(3000, [], 0.05, seed)
        order = torch.argsort(random_start(diagonal(values), seed).abs()).numpy()
        values[order[100]], values[order[-300]], values[order[-400]] = -1.03 * side, -side, 10.0 * side
        found = measure_ends(diagonal(values, torch.float32), seed=seed)
        for end, truth in ((found.lambda_min, values.min()), (found.lambda_max, values.max())):
            assert not end.converged or end.value == pytest.approx(truth, rel=1e-2)
            called += end.converged
    assert called > 15


def close_ends(rng, n=200):
    """Heavy tails, the two outermost eigenvalues 1 to 4 % apart at both ends, the lower ones small beside the upper ones."""
    values = np.sort(rng.standard_t(rng.uniform(1.5, 3), n))
    values /= np.where(values < 0, -values[0], values[-1] / rng.uniform(1, 100))
    for first, second in ((0, 1), (-1, -2)):
        values[first] = values[second] * (1 + rng.uniform(0.01, 0.04))
    return values


#: Of 300 such spectra those, by number, in which settled residuals lead to a value that is more than 0.5 % short of the end.
MISLED = (11, 67, 71, 87, 96, 98, 101, 107, 112, 154, 156, 157, 158, 165, 182, 205, 207, 209, 214, 237, 251, 262, 299)


def test_ends_close_together_are_told_apart_or_not_called_converged(diagonal):
    called, wrong, steps, settled = 0, 0, [], []
    for number in (*range(10), *MISLED):
        values = close_ends(np.random.default_rng(number))
        found = measure_ends(diagonal(values), seed=number)
        for end, truth in ((found.lambda_min, values[0]), (found.lambda_max, values[-1])):
            called += end.converged
            wrong += end.converged and abs(end.value / truth - 1) > 2e-3
            low, high = end.interval
            assert low is None or low <= truth
            assert high is None or truth <= high
        if number < 10:
            steps += found.steps
            settled += measure_ends(diagonal(values), seed=number, confirm=False).steps
    assert wrong <= 1  # a start of this kind is drawn once in a hundred times, by DOUBT
    assert called >= 60  # of 66: the mark stays of use,
    assert np.mean(steps) < 1.25 * np.mean(settled)  # and its price


def test_ends_that_settled_and_are_not_confirmed_say_so(diagonal):
    values = with_bulk(3000, [10.0, -1.0, -0.98], 0.05)
    found = measure_ends(diagonal(values, torch.float32, reflect=3), confirm=False, steps=12)
    assert (found.lambda_min.state, found.lambda_max.state) == ("not confirmed", "converged")
    assert found.lambda_min.settled
    assert 0.01 < found.lambda_min.doubt <= 1
    assert found.lambda_max.doubt < 0.01
    (said,) = found.warnings
    assert "lambda_min settled, not confirmed" in said
    assert "bound" not in said
    sure = measure_ends(diagonal(values, torch.float32, reflect=3))
    assert sure.lambda_min.state == "converged"
    assert sure.lambda_min.value == pytest.approx(-1, rel=1e-3)
    stored = found.lambda_min.model_dump(exclude={"settled", "doubt"})
    assert Extreme.model_validate(stored).state == "bound"  # of an older version
