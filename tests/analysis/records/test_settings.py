"""Settings: the defaults that results rest on, and messages that name the field and the fix."""

import pytest
from saddlescope.analysis.krylov.spectrum import THRESHOLDS
from saddlescope.analysis.records.settings import SettingsError, parse_settings, parse_slices


def test_defaults_are_those_of_the_estimators():
    settings = parse_settings({})
    assert settings.thresholds == THRESHOLDS
    assert (settings.steps, settings.min_steps, settings.rtol, settings.starts, settings.delta) == (100, 30, 1e-3, 1, 1e-3)
    assert (settings.tau, settings.stationarity) == (1e-3, 0.1)


def test_a_table_is_taken_over():
    table = {"scheme": "custom", "groups": {"rare": [7, 8]}, "thresholds": [0.01, 0.1], "rho": {"sam": 0.2}, "k": 3}
    settings = parse_settings(table)
    assert settings.model_dump(include=set(table)) == {**table, "thresholds": (0.01, 0.1)}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"step": 50}, r"\[analysis\]: unknown field 'step'; did you mean 'steps'"),
        ({"xyzzy": 1}, "unknown field 'xyzzy'; known: scheme, eta"),
        ({"steps": 1}, r"field 'steps': .*greater than or equal to 2 \(given: 1\)"),
        ({"delta": 1.0}, "field 'delta'"),
        ({"delta": 0}, "field 'delta'"),
        ({"rtol": float("nan")}, "field 'rtol'"),
        ({"rtol": float("inf")}, "field 'rtol'"),
        ({"tau": -1e-3}, "field 'tau'"),
        ({"thresholds": [1e-3, -1e-2]}, r"field 'thresholds\.1'"),
        ({"thresholds": [0.0]}, r"field 'thresholds\.0'"),
        ({"rho": {"sam": -0.05}}, r"field 'rho\.sam'"),
        ({"engine": "curvlinops"}, "field 'engine'"),
        ({"scheme": "heads"}, "field 'scheme'"),
        ({"scheme": "custom"}, "go together"),
        ({"groups": {"a": [1]}}, "go together"),
        ({"micro_batch": 0}, "field 'micro_batch'"),
    ],
)
def test_refused(table, message):
    with pytest.raises(SettingsError, match=message):
        parse_settings(table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"points": 2}, "'points'"),
        ({"spam": 0}, "known: points, span"),
        ({"convexity": ["tail-min"]}, r"field 'convexity'.*tail-min, which planes = \['tail-plane', .* does not hold"),
        ({"convexity_groups": []}, "'convexity_groups'"),
        ({"convexity_rtol": 0}, "'convexity_rtol'"),
    ],
)
def test_slices_refused(table, message):
    with pytest.raises(SettingsError, match=message):
        parse_slices(table)
