"""A model that is trained again every night: nights are counted and tested; one decides little."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.reports.check.baseline_file import load_baseline
from saddlescope.reports.check.compare_numbers import pooled_t
from saddlescope.reports.check.reach import reach
from saddlescope.reports.testing import assert_matches_baseline, store_baseline

SERIES = "m/head-tail"


@pytest.fixture
def night(build_study, tmp_path, edit):
    """``night(2)``: the result of the third night's ``model.pt``, with no seed known; ``changed`` edits its tail."""
    study = build_study(optimizers=("sgd",))

    def make(number, **changed):
        source = study / f"sgd-seed{number % 3}" / "curvature" / "checkpoint.head-tail.json"
        path = tmp_path / f"r{number}" / "model.head-tail.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source.read_text())
        edit(
            path, lambda raw: raw["provenance"].update(training={}, checkpoint="model.pt", checkpoint_sha256=f"night {number}")
        )
        edit(path, lambda raw: raw["groups"]["tail"].update(changed))
        return path

    return make


def rows(text):
    return {row["number"]: row for row in json.loads(text)["rows"]}


def test_nights_of_one_name_are_counted(run, night, tmp_path):
    path = tmp_path / "b.json"
    text = run("baseline", "save", *[f"m={night(i)}" for i in range(3)], "-o", path)
    assert "of 1 series, 3 trainings in all" in text
    assert "'m/head-tail': 3 runs stored and 1 to check" in text
    series = load_baseline(path).series[SERIES]
    assert series.seeds == [None, None, None]
    assert series.trainings == ["night 0", "night 1", "night 2"]
    assert "(3 runs)" in run("baseline", "show", path)


def test_a_new_night_is_tested_against_the_stored_ones(run, night, tmp_path):
    path = tmp_path / "b.json"
    nights = [night(i, loss=0.05 + i / 1000) for i in range(3)]
    run("baseline", "save", *[f"m={one}" for one in nights], "-o", path, "--only", "tail.loss")
    near = rows(run("check", f"m={night(3, loss=0.0535)}", "--baseline", path, "--json"))["tail.loss"]
    assert near["verdict"] == "within sampling error"
    assert near["p"] == pytest.approx(pooled_t([0.05, 0.051, 0.052], [0.0535]), rel=1e-2)
    far = run("check", f"m={night(4, loss=0.2)}", "--baseline", path, code=1)
    assert "moved" in far
    assert "found with probability 0.8 from" in far


def test_a_stored_night_is_known_by_its_weights(run, night, tmp_path):
    path = tmp_path / "b.json"
    run("baseline", "save", *[f"m={night(i)}" for i in range(3)], "-o", path)
    run("check", f"m={night(1)}", "--baseline", path)  # digits against digits: what is equal passes
    assert "tail.loss" in run("check", f"m={night(1, loss=0.0502)}", "--baseline", path, code=1)


def test_one_night_against_one_decides_little_and_says_so(run, night, tmp_path):
    path, xml = tmp_path / "b.json", tmp_path / "check.xml"
    saved = run("baseline", "save", f"m={night(0)}", "-o", path)
    assert "one training" in saved
    assert "saddlescope baseline save m=NIGHT1 m=NIGHT2 m=NIGHT3" in saved
    text = run("check", f"m={night(1, loss=0.2)}", "--baseline", path)
    assert "check passed in what can be decided" in text
    assert "says nothing about the spread over trainings" in text
    found = json.loads(run("check", f"m={night(1, loss=0.2)}", "--baseline", path, "--json", "--junit", xml))
    assert (found["passed"], found["decided"]) == (True, False)
    by_number = {row["number"]: row["verdict"] for row in found["rows"]}
    assert (by_number["tail.loss"], by_number["tail.lambda_min"]) == ("undecided", "undecided")
    (suite,) = ET.parse(xml).getroot()
    assert int(suite.attrib["skipped"]) == found["counts"]["undecided"] == len(suite.findall(".//skipped"))
    # what no training may change is decided by one
    assert "tail.size" in run("check", f"m={night(1, size=3)}", "--baseline", path, code=1)


def test_by_seed_expects_equal_digits_of_one_training_too(run, night, tmp_path):
    path = tmp_path / "b.json"
    assert "expected to give the same digits" in run("baseline", "save", f"m={night(0)}", "-o", path, "--by-seed")
    assert "tail.loss" in run("check", f"m={night(1, loss=0.2)}", "--baseline", path, code=1)


def test_nights_need_one_name_and_other_weights(run, night, tmp_path):
    path = tmp_path / "b.json"
    assert "one name for all" in run("baseline", "save", night(0), night(1), "-o", path, code="error")
    copy = tmp_path / "copy.json"
    copy.write_text(night(0).read_text())
    assert "two results for a model without a seed" in run(
        "baseline", "save", f"m={night(0)}", f"m={copy}", "-o", path, code="error"
    )
    assert "--by-seed expects one" in run(
        "baseline", "save", f"m={night(0)}", f"m={night(1)}", "-o", path, "--by-seed", code="error"
    )


def test_nights_in_memory(night, tmp_path):
    path = tmp_path / "b.json"
    results = [load(CurvatureResult, night(i)) for i in range(4)]
    store_baseline({"m": results[:3]}, path, reason="first", directions={"accuracy": "not-lower"})
    series = load_baseline(path).series[SERIES]
    assert {series.numbers[f"{group}.accuracy"].direction for group in ("all", "head", "tail")} == {"not-lower"}
    assert assert_matches_baseline({"m": results[3]}, path).exit_code == 0


def test_direction_at_save(run, night, tmp_path):
    path = tmp_path / "b.json"
    save = ("baseline", "save", f"m={night(0)}", "-o", path)
    assert "NUMBER=WAY" in run(*save, "--direction", "lambda_min=up", code="error")
    assert "means no number" in run(*save, "--direction", "lamda_min=not-lower", code="error")
    assert "means no number" in run(*save, "--direction", "verdict=not-lower", code="error")
    run(*save, "--direction", "lambda_min=not-lower", "--direction", "head.*=not-higher")
    numbers = load_baseline(path).series[SERIES].numbers
    assert numbers["tail.lambda_min"].direction == "not-lower"
    assert numbers["head.lambda_min"].direction == "not-higher"
    assert numbers["tail.lambda_max"].direction == "both"


@pytest.mark.parametrize(("old", "new", "tests"), [(3, 1, 6), (3, 3, 24), (8, 2, 60)])
def test_the_shift_that_is_found_is_found(old, new, tests):
    """Simulated two-sample tests at the level of Holm's first step, written out: 80 % of them reject."""
    rng, shift = np.random.default_rng(0), reach(old, new, tests, 0.01)
    x, y = rng.standard_normal((20000, old)), rng.standard_normal((20000, new)) + shift
    squares = ((x - x.mean(1, keepdims=True)) ** 2).sum(1) + ((y - y.mean(1, keepdims=True)) ** 2).sum(1)
    t = (y.mean(1) - x.mean(1)) / np.sqrt(squares / (old + new - 2) * (1 / old + 1 / new))
    from scipy.stats import t as student

    assert np.mean(np.abs(t) > student.isf(0.01 / tests / 2, old + new - 2)) == pytest.approx(0.8, abs=0.012)


def test_two_trainings_have_no_reach():
    assert reach(1, 1, 5, 0.01) is None


def test_two_keys_of_one_file_are_two_series(run, night, tmp_path, edit):
    """Raw and averaged weights of a night lie in one file and are two models; each is held against its own."""

    def both(number, **changed):
        raw = night(number)
        ema = raw.with_name("model.ema.head-tail.json")
        ema.write_text(raw.read_text())
        edit(raw, lambda one: one["provenance"].update(subject={"key": "net"}))
        edit(ema, lambda one: one["provenance"].update(checkpoint_sha256=f"average of night {number}", subject={"key": "ema"}))
        edit(ema, lambda one: one["groups"]["tail"].update({"loss": 0.5 + number / 1000, **changed}))
        return f"m={raw.parent}"

    path = tmp_path / "b.json"
    assert "of 2 series, 6 trainings in all" in run("baseline", "save", *[both(i) for i in range(3)], "-o", path)
    stored = load_baseline(path).series
    assert sorted(stored) == [f"{SERIES}/key=ema", f"{SERIES}/key=net"]
    assert [reading.value for reading in stored[f"{SERIES}/key=ema"].numbers["tail.loss"].present] == [0.5, 0.501, 0.502]
    run("check", both(1), "--baseline", path)
    found = json.loads(run("check", both(1, loss=0.6), "--baseline", path, "--json", code=1))
    moved = [(row["series"], row["number"]) for row in found["rows"] if row["verdict"] == "moved"]
    assert moved == [(f"{SERIES}/key=ema", "tail.loss")]
