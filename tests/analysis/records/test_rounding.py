"""Printed intervals hold what they are intervals of, and every number printed beside them."""

import re
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st
from saddlescope.analysis.records.rounding import at_least, end_words, interval_words, percent_words, probability_words
from saddlescope.reports.tables.words import interval, number

SIZES = st.one_of(
    st.floats(-1e8, 1e8), st.floats(-1, 1), st.floats(-1e-6, 1e-6), st.integers(-1000, 1000).map(float), st.just(0.0)
)
NUMBER = r"[-−]?\d[\d.]*(?:e[-−]?\d+)?"


def ends_of(text):
    left, right = re.fullmatch(r"\[(.*), (.*)\]", text).groups()
    return tuple(None if "inf" in end or "∞" in end else Fraction(end.replace("−", "-")) for end in (left, right))


@given(SIZES, SIZES, st.floats(0, 1), st.booleans())
def test_a_printed_interval_holds_both_ends_and_what_stands_beside_it(a, b, where, signed):
    low, high = sorted((a, b))
    value = min(max(low + where * (high - low), low), high)
    for text, beside in (
        (interval_words(low, high, beside=[f"{value:.3g}", f"{value:.4g}"], signed=signed), [f"{value:.3g}", f"{value:.4g}"]),
        (interval(low, high, beside=number(value), signed=signed), [number(value)]),
    ):
        left, right = ends_of(text)
        # a float stands for the decimal it is written as
        assert left <= Fraction(repr(low))
        assert Fraction(repr(high)) <= right
        for printed in beside:
            assert left <= Fraction(printed.replace("−", "-")) <= right
        wider = (Fraction(repr(low)) - left) + (right - Fraction(repr(high)))
        assert wider <= Fraction(1, 4) * Fraction(high - low) + Fraction(2, 100) * max(abs(Fraction(low)), abs(Fraction(high)))


@given(st.floats(1e-9, 1e7), st.floats(0, 10), st.booleans())
def test_an_end_that_must_not_be_zero_is_not(low, factor, negative):
    ends = (-low - factor * low, -low) if negative else (low, low + factor * low)
    left, right = ends_of(interval_words(*ends, signed=True))
    assert right < 0 if negative else left > 0


@given(SIZES, st.integers(1, 8))
@example(-5e-324, 2)
def test_bounds_are_rounded_down(value, digits):
    assert Fraction(at_least(value, digits)) <= Fraction(repr(value))


@given(st.floats(0, 1, exclude_max=True))
def test_probabilities_are_never_rounded_up(share):
    assert Fraction(probability_words(share)) <= Fraction(repr(share))
    assert Fraction(percent_words(share)) <= 100 * Fraction(repr(share))


def test_words():
    assert interval_words(-0.12341, 2.0) == "[-0.2, 2.0]"
    assert interval_words(0.1, 0.3) == "[0.10, 0.30]"
    assert interval_words(None, -1.23456) == "[-inf, -1.234]"
    assert interval(None, None) == "[−∞, ∞]"
    assert interval_words(1.23456e-7, 2e-7) == "[1.234e-7, 2.000e-7]"
    assert interval_words(9.99996, 9.99997) == "[9.999, 10.000]"
    assert end_words(-0.23441, (-0.234412, -0.234409)) == ("-0.23442", "-0.23400")
    assert (probability_words(1.0), probability_words(0.999), probability_words(1 - 1e-9)) == ("1", "0.999", "0.999999")
    assert (percent_words(0.999), percent_words(1 - 1e-9)) == ("99.9", "99.99")
