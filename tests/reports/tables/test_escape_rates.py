"""Rates in tables and sentences: as stored, gaps told from dashes, and old multipliers read but never shown."""

from __future__ import annotations

import pytest
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.reports.page.html import render
from saddlescope.reports.page.sheets import sheets
from saddlescope.reports.tables.escape_rates import along, net_rates, rate_sentences, rate_sheets, rates
from saddlescope.reports.tables.findings import find

MULTIPLIERS = [{"optimizer": "sam", "rho": 0.05, "value": -16168.0, "measured": 925.0}]


def rate(optimizer, radii, value, far):
    near = {"rate": value, "halved": value, "distance": 2e-7, "settled": True}
    return {"optimizer": optimizer, "radii": radii, **near, "far_rate": far, "far_distance": 0.02}


@pytest.fixture
def rated(build_study, edit):
    """A study of SGD and SAM, two seeds; along the tail's v the objective curves upwards for SGD's checkpoints only."""

    def make(**choices):
        folder = build_study(optimizers=("sgd", "sam"), seeds=(0, 1), **choices)

        def add(raw):
            training = raw["provenance"]["training"]
            up = 0.5 if training["optimizer"] == "sgd" else -0.25
            for entry in raw["groups"].values():
                entry["escape"] = {
                    "gradient_along_v": 0.1,
                    "correlated_negative_curvature": 1e-5,
                    "multipliers": MULTIPLIERS,
                    "rates": [rate("sgd", {}, -up, -up), rate("ssesam-1", {"head": 0.05, "tail": 0.1}, 2.0, -3.0)],
                    "objective_curvature": up,
                    "weight_decay": 5e-4,
                }
            low = {"interval": [0.25, None], "confidence": 0.999, "residual": 0.0, "converged": True}
            raw["net_rates"] = [{"optimizer": "sgd", "rate": 0.25 + training["seed"], **low}]

        for path in folder.glob("*/curvature/checkpoint.head-tail.json"):
            edit(path, add)
        return folder

    return make


def test_tables_hold_every_seed_and_colour_what_leaves_in_each(rated):
    study = load_study(rated())
    sheet, net = rate_sheets(study, "head-tail")
    rows = {(row[0].text, row[1].text): row for row in sheet.rows}
    texts = [entry.text for entry in rows["SGD", "tail"][2:]]
    assert texts[1:] == ["0.50; 0.50", "−0.50; −0.50", "−0.50; −0.50", "2.0; 2.0", "−3.0; −3.0"]
    assert [entry.tone for entry in rows["SGD", "tail"][2:]] == ["", "", "", "", "decided", ""]
    assert [entry.tone for entry in rows["SAM", "tail"][2:]] == ["", "", "decided", "decided", "decided", ""]
    assert [head for head, _ in sheet.heads[4:]] == [
        "SGD: at w",
        "SGD: across a step",
        "SSE-SAM, stage 1 (head=0.05 tail=0.1): at w",
        "SSE-SAM, stage 1 (head=0.05 tail=0.1): across a step",
    ]
    assert [[entry.text for entry in row] for row in net.rows] == [["SGD", "0.25; 1.2"], ["SAM", "0.25; 1.2"]]
    assert len(rates(study, "head-tail")) == 2 * 2 * 3 * 2
    assert net_rates(study, "head-tail")["high"].isna().all()


def test_a_missing_seed_is_a_gap_and_a_group_without_rates_a_dash(rated, edit):
    folder = rated(unfinished=(("sam", 1),))
    path = folder / "sgd-seed1" / "curvature" / "checkpoint.head-tail.json"
    edit(path, lambda raw: raw["groups"]["tail"].update(escape=None))
    sheet, _ = rate_sheets(load_study(folder), "head-tail")
    rows = {(row[0].text, row[1].text): row for row in sheet.rows}
    assert rows["SAM", "tail"][4].text == "0.25; gap"
    assert rows["SGD", "tail"][4].text == "−0.50; –"


def test_sentences_say_whether_the_groups_saddle_is_one_of_the_objective(rated):
    study = load_study(rated())
    objective, fields, net = rate_sentences(study, "head-tail", ["tail"])
    assert "the training objective curves upwards in 2 of 4 checkpoints (−0.25 to 0.50" in objective
    assert "there plain descent comes back" in objective
    assert "SGD leaves in 2 of 4 at the checkpoint and in 2 across a step" in fields
    assert "SSE-SAM, stage 1 leaves in 4 of 4 at the checkpoint and in 0 across a step" in fields
    assert "SGD in 4 of 4 (net rate 0.25 to 1.2)" in net
    assert objective in find(study).support
    text = render(study)
    assert 'id="table-rates_head-tail"' in text
    assert 'id="table-net_rates_head-tail"' in text
    assert "16168" not in text
    assert "multiplier" not in text


def test_results_of_before_there_were_rates_load_and_say_nothing(build_study, edit):
    folder = build_study(optimizers=("sgd",), seeds=(0,))
    path = folder / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json"
    old = {"gradient_along_v": 0.1, "correlated_negative_curvature": 0.2, "multipliers": MULTIPLIERS, "test": None}
    edit(path, lambda raw: raw["groups"]["tail"].update(escape=old))
    assert load(CurvatureResult, path).groups["tail"].escape.multipliers[0].value == -16168
    study = load_study(folder)
    assert rate_sheets(study, "head-tail") == []
    assert rate_sentences(study, "head-tail", ["tail"]) == []
    assert along(study, "head-tail")["objective_curvature"].isna().all()
    assert not [sheet for sheet in sheets(study, ["head-tail"]) if "rates" in sheet.name]
