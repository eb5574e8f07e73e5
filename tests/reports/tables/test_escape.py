"""What leaving would gain: numbers worked out by hand, gaps and dashes told apart, sentences that follow from the numbers."""

from __future__ import annotations

import pandas as pd
import pytest
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.reports.page.html import render
from saddlescope.reports.page.sheets import sheets
from saddlescope.reports.tables.escape import escape_sentences, escape_sheets, way, ways
from saddlescope.reports.tables.findings import find

STEPS = [-4.0, -2.0, 0.0, 2.0, 4.0]


def escape(loss, parts, *, slope=-0.001, curvature=-20.0):
    """A test whose losses are ``parts`` of the checkpoint's, against an exact quadratic model."""
    return {
        "gradient_along_v": slope,
        "correlated_negative_curvature": 1e-5,
        "test": {
            "steps": STEPS,
            "loss": [loss * part for part in parts],
            "quadratic": [loss + s * slope + s * s * curvature / 2 for s in STEPS],
        },
    }


PARTS = (0.8, 0.9, 1.0, 1.2, 1.4)


@pytest.fixture
def tested(build_study, edit):
    """A study of SGD and SAM, two seeds, with escape tests; in SAM's tail nothing falls."""

    def make(**choices):
        folder = build_study(optimizers=("sgd", "sam"), seeds=(0, 1), **choices)

        def add(raw):
            optimizer = raw["provenance"]["training"]["optimizer"]
            for name, entry in raw["groups"].items():
                parts = (1.4, 1.2, 1.0, 1.1, 1.3) if (optimizer, name) == ("sam", "tail") else PARTS
                low = entry["lambda_min"]["value"]
                entry["escape"] = escape(entry["loss"], parts, curvature=low)

        for path in folder.glob("*/curvature/checkpoint.head-tail.json"):
            edit(path, add)
        return folder

    return make


def tail(folder, optimizer="sgd"):
    return load(CurvatureResult, folder / f"{optimizer}-seed0" / "curvature" / "checkpoint.head-tail.json").groups["tail"]


def test_one_way_by_hand(tested):
    found = way(tail(tested()))
    # loss 0.05, lambda_min -20, ||w|| = 20, lowest at s = -4: 0.8 of the loss; the slope is downhill to the right
    assert found.fall == pytest.approx(0.2)
    assert found.at == pytest.approx(-4 / 20)
    assert found.predicted == pytest.approx(1 - (0.05 + 0.004 - 160) / 0.05)
    # (0.9 + 1.2 - 2) * 0.05 / 2^2 / -20
    assert found.carried == pytest.approx(0.1 * 0.05 / 4 / -20)
    assert found.nearest == pytest.approx(2 / 20)


def test_the_sign_of_v_does_not_matter(tested):
    entry = tail(tested())
    turned = escape(entry.loss, PARTS[::-1], slope=0.001, curvature=-20.0)
    mirrored = way(entry.model_validate(entry.model_dump() | {"escape": turned}))
    assert mirrored == way(entry)


def test_where_the_model_is_the_loss_all_curvature_is_kept(tested):
    entry = tail(tested())
    raw = escape(entry.loss, PARTS, curvature=entry.lambda_min.value)
    raw["test"]["loss"] = raw["test"]["quadratic"]
    found = way(entry.model_validate(entry.model_dump() | {"escape": raw}))
    assert found.carried == pytest.approx(1.0)
    assert found.predicted == pytest.approx(found.fall)


def test_nothing_falls_is_zero_and_not_a_gap(tested):
    study = load_study(tested())
    data = ways(study, "head-tail")
    rows = data[(data["optimizer"] == "sam") & (data["group"] == "tail")]
    assert rows["largest_fall"].tolist() == [0.0, 0.0]
    assert rows["at"].tolist() == [0.0, 0.0]
    assert set(rows["status"]) == {"measured"}


def test_tables_show_means_and_every_seed(tested):
    (fall,) = escape_sheets(load_study(tested()), "head-tail")
    rows = {(row[0].text, row[1].text): row for row in fall.rows}
    entry = rows["SGD", "tail"][2]
    assert entry.text.startswith("20")
    assert entry.detail == "20; 20"
    assert (rows["SGD", "tail"][3].text.split(" ")[0], rows["SGD", "tail"][3].detail) == ("20.0", "−20; −20")


def test_a_missing_seed_is_a_gap_and_a_missing_test_a_dash(tested, edit):
    folder = tested(unfinished=(("sam", 1),))
    edit(
        folder / "sgd-seed1" / "curvature" / "checkpoint.head-tail.json",
        lambda raw: raw["groups"]["tail"].update(escape=None),
    )
    (fall,) = escape_sheets(load_study(folder), "head-tail")
    rows = {(row[0].text, row[1].text): row for row in fall.rows}
    assert (rows["SAM", "tail"][2].text, rows["SAM", "tail"][2].tone) == ("gap", "gap")
    assert rows["SAM", "tail"][2].detail == "seed 1: no value"
    assert (rows["SGD", "tail"][2].text, rows["SGD", "tail"][2].detail) == ("–", "20; –")
    status = ways(load_study(folder), "head-tail")
    assert set(status[status["largest_fall"].isna()]["status"]) == {"no final checkpoint", "no escape test"}


def test_sentences_say_what_the_numbers_say(tested):
    study = load_study(tested())
    head, tail_ = escape_sentences(study, "head-tail", ["head", "tail"])
    assert "Leaving, head" in head
    assert "the largest fall of the loss is 20 % (median 20 %, 4 checkpoints)" in head
    assert "at most 20 % of ‖w‖ away" in head
    assert "the largest fall of the loss is 0 to 20 % (median 10 %, 4 checkpoints, 2 without any)" in tail_
    assert "the loss curves upwards in the median and does so in 4 of 4: λ_min describes the point" in tail_
    assert head in find(study).support
    text = render(study)
    assert 'id="table-escape_head-tail"' in text


def test_a_study_without_escape_tests_says_nothing_of_leaving(whole_study):
    study = load_study(whole_study)
    assert escape_sheets(study, "head-tail") == []
    assert escape_sentences(study, "head-tail", ["head", "tail"]) == []
    assert not [sheet for sheet in sheets(study, ["head-tail"]) if sheet.name.startswith(("escape", "rates"))]
    assert pd.isna(ways(study, "head-tail")["largest_fall"]).all()
