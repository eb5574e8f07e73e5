"""What ``--dry-run`` says of time, counted in products."""

import pytest
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.studies.cost import _of_group
from saddlescope.analysis.studies.pass_times import Passes

PRODUCTS_ALONE = Passes(setup=0, product=1, graph=0, gradient=0, forward=0, look=0, gradient64=0, pair64=0)


@pytest.mark.parametrize(("goal", "guarded", "steps", "products"), [("verdict", 10, 4, 450), ("spectrum", 100, 30, 3800)])
def test_the_guard_of_ends_takes_one_micro_batch(goal, guarded, steps, products):
    settings = AnalysisSettings(scheme="all", goal=goal, escape=False)
    assert _of_group(settings, None, PRODUCTS_ALONE, 100, guarded, 1, steps, 0, 0.0) == products
