"""Ticks of axes that hold several orders of magnitude, or hardly any."""

import pytest
from saddlescope.figures.drawing.scales import log_marks


@pytest.mark.parametrize("low", [1e-9, 3e-4, 0.07, 0.9, 1.0, 40.0, 7e5])
@pytest.mark.parametrize("ratio", [1.05, 1.3, 2.0, 4.0, 9.9, 10.1, 30.0, 1e3, 1e8])
def test_a_logarithmic_scale_of_any_length_has_a_few_ticks(low, ratio):
    marks = log_marks(low, low * ratio, 6)
    assert 2 <= len(marks) <= 8
    assert all(low <= mark <= low * ratio * (1 + 1e-9) for mark in marks)
    assert sorted(marks) == sorted(set(marks))


def test_decades_where_there_are_enough():
    assert sorted(log_marks(0.005, 500, 6)) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert sorted(log_marks(0.3, 4, 6)) == pytest.approx([0.5, 1, 2])
