"""What one group's eigenvector is to another: signs counted over checkpoints, from the slices of today's weights only."""

from __future__ import annotations

import json

import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.slices import Slice
from saddlescope.reports.page.html import render
from saddlescope.reports.tables.findings import find
from saddlescope.reports.tables.shared_directions import shared, shared_sentences, shared_sheets


@pytest.fixture
def sliced(build_study):
    """Two optimizers, two seeds; along the tail's eigenvector the head curves upwards but for SAM's second seed."""

    def make():
        folder = build_study(optimizers=("sgd", "sam"), seeds=(0, 1))
        for optimizer in ("sgd", "sam"):
            for seed in (0, 1):
                run = folder / f"{optimizer}-seed{seed}"
                result = json.loads((run / "curvature" / "checkpoint.head-tail.json").read_text())
                head = -0.5 if (optimizer, seed) == ("sam", 1) else 2.0
                raw = {
                    "directions": [
                        {
                            "kind": "min-eigenvector",
                            "group": "tail",
                            "slope": {"all": 0.1, "head": -0.2, "tail": 0.3},
                            "curvature": {"all": -1.0, "head": head, "tail": -4.0},
                            "norm": 1.0,
                        }
                    ],
                    "axes": [[-1.0, 0.0, 1.0]],
                    "loss": {name: [1.0, 1.0, 1.0] for name in ("all", "head", "tail")},
                    "scheme": result["scheme"],
                    "provenance": result["provenance"],
                }
                Slice.model_validate(raw)
                (run / "slices").mkdir()
                (run / "slices" / "tail-min.json").write_text(json.dumps(raw), encoding="utf-8")
        return folder

    return make


def test_curvatures_and_downhill_slopes_are_the_stored_ones(sliced):
    data = shared(load_study(sliced()))
    row = data[(data["optimizer"] == "sgd") & (data["seed"] == 0) & (data["group"] == "head")].iloc[0]
    assert (row["eigenvector"], row["of"], row["curvature"], row["slope"]) == ("min", "tail", 2.0, 0.2)
    assert len(data) == 4 * 3


def test_the_sentence_counts_signs_and_stands_in_the_report(sliced):
    study = load_study(sliced())
    words = "Shared: the most negative eigenvector of tail curves the loss of head upwards in 3 of 4 checkpoints."
    assert shared_sentences(study, ["head", "tail"]) == [words]
    assert words in find(study).support
    assert 'id="table-shared_eigenvectors"' in render(study)


def test_the_table_shows_every_seed_and_a_missing_slice_as_a_gap(sliced):
    folder = sliced()
    (sheet,) = shared_sheets(load_study(folder))
    rows = {row[1].text: row for row in sheet.rows}
    assert [head for head, _ in sheet.heads] == ["eigenvector", "optimizer", "felt by all", "felt by head", "felt by tail"]
    assert rows["SGD"][0].text == "most negative, tail"
    assert rows["SGD"][3].detail == "2.0; 2.0"
    assert rows["SAM"][3].detail == "2.0; −0.50"
    (folder / "sam-seed1" / "slices" / "tail-min.json").unlink()
    (sheet,) = shared_sheets(load_study(folder))
    assert next(row for row in sheet.rows if row[1].text == "SAM")[3].text == "gap"


def test_slices_of_other_weights_do_not_count(sliced, edit):
    folder = sliced()
    for run in folder.glob("*-seed*"):
        edit(run / "slices" / "tail-min.json", lambda raw: raw["provenance"].update(checkpoint_sha256="0" * 64))
    assert shared(load_study(folder)).empty
    assert shared_sheets(load_study(folder)) == []
    assert shared_sentences(load_study(folder), ["head", "tail"]) == []
