"""No asymmetric operator is measured as if it were symmetric."""

import pytest
import torch
from saddlescope.analysis.krylov.guards import SEEDS, RandomOperatorError, guard
from saddlescope.analysis.krylov.lanczos import random_start
from saddlescope.analysis.krylov.linear_operator import MatrixOperator
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures.extremes import measure_ends


def test_asymmetric_operators_are_refused():
    matrix = torch.diag(torch.arange(1.0, 61, dtype=torch.float64))
    matrix[0, 1:] += 5
    with pytest.raises(RandomOperatorError, match="not symmetric"):
        guard(MatrixOperator(matrix))


def skewed(n, blind):
    """A symmetric matrix and an asymmetric part that no pair of these vectors shows."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.diag(torch.linspace(-0.05, 1, n, dtype=torch.float64))
    part = torch.randn(n, n, generator=generator, dtype=torch.float64)
    part = part - part.T
    basis, _ = torch.linalg.qr(torch.stack(blind, dim=1))
    unseen = torch.eye(n, dtype=torch.float64) - basis @ basis.T
    return matrix + 0.02 * unseen @ (part / part.norm() * matrix.norm()) @ unseen


@pytest.mark.parametrize("seed", [0, 7])
def test_no_asymmetric_operator_is_accepted_by_luck(seed):
    """What one pair of random vectors shows is a normal variable: it can be nothing."""
    one_pair = [random_start(MatrixOperator(torch.eye(60, dtype=torch.float64)), seed + one) for one in SEEDS[:2]]
    with pytest.raises(RandomOperatorError, match="not symmetric"):
        guard(MatrixOperator(skewed(60, one_pair)), seed)


@pytest.mark.parametrize("measure", [measure_spectrum, measure_ends])
def test_every_run_looks_for_asymmetry_on_its_whole_space(measure):
    """The guard is blind to this one on purpose; the vectors of the result are not."""
    all_of_them = [random_start(MatrixOperator(torch.eye(60, dtype=torch.float64)), one) for one in SEEDS]
    operator = MatrixOperator(skewed(60, all_of_them))
    assert guard(operator).noise.symmetry < 1e-12
    with pytest.raises(RandomOperatorError, match="not symmetric"):
        measure(operator)
