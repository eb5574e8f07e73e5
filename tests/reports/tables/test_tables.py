"""Tables against numbers worked out by hand from the fixture's constants."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.figures.drawing.study_data import final_of
from saddlescope.reports.page.html import render
from saddlescope.reports.page.sheets import curvature_sheet, sheets
from saddlescope.reports.page.summary import summary_sheet
from saddlescope.reports.page.writers import markdown, write
from saddlescope.reports.tables import study_tables as tables
from saddlescope.reports.tables.comparison import compare
from saddlescope.reports.tables.findings import find
from saddlescope.reports.tables.gather import ReportError, cells, final_result
from saddlescope.reports.tables.provenance import warnings

T_975_2 = 4.302652729911275  # Student t, 97.5 %, two degrees of freedom


def one(frame: pd.DataFrame, **where: object) -> pd.Series:
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_accuracy_mean_and_spread(whole_study):
    # SGD tail accuracies: 0.60, 0.61, 0.62
    row = one(tables.accuracy(load_study(whole_study)), optimizer="sgd", part="tail")
    assert row["mean"] == pytest.approx(61.0)
    assert row["std"] == pytest.approx(1.0)
    assert (row["mean_low"], row["mean_high"]) == pytest.approx((61 - T_975_2 / math.sqrt(3), 61 + T_975_2 / math.sqrt(3)))
    assert row["n"] == 3
    assert row["missing_seeds"] == ""


def test_accuracy_of_a_class_and_of_a_run(whole_study):
    study = load_study(whole_study)
    row = one(tables.accuracy_per_class(study), optimizer="imbsam", **{"class": 9})
    assert (row["samples"], row["mean"], row["std"]) == (5, pytest.approx(71.0), pytest.approx(1.0))
    run = one(tables.accuracy_seeds(study), optimizer="ssesam", seed=0)
    assert run["tail"] == pytest.approx(75.0)  # 0.73 + two steps of 0.01
    assert run["all"] == pytest.approx((3 * 96 + 7 * 75) / 10)


def test_curvature_means_and_enclosing_intervals(whole_study):
    # SGD tail lambda_min: -20, -19.6, -19.2, each with the interval [value - 0.05, value]
    row = one(tables.curvature(load_study(whole_study)), optimizer="sgd", group="tail", quantity="lambda_min")
    assert row["mean"] == pytest.approx(-19.6)
    assert row["std"] == pytest.approx(0.4)
    assert (row["seed_interval_low"], row["seed_interval_high"]) == pytest.approx((-20.05, -19.2))
    ratio = one(tables.curvature(load_study(whole_study)), optimizer="sgd", group="tail", quantity="negative_ratio")
    assert ratio["mean"] == pytest.approx((20 / 23 + 19.6 / 24 + 19.2 / 25) / 3)


def test_each_checkpoint_keeps_its_own_interval(whole_study):
    row = one(tables.curvature_seeds(load_study(whole_study)), optimizer="sam", seed=1, group="head")
    assert (row["lambda_min"], row["lambda_min_low"], row["lambda_min_high"]) == pytest.approx((-0.6, -0.65, -0.6))
    assert (row["lambda_max"], row["lambda_max_low"], row["lambda_max_high"]) == pytest.approx((11.0, 11.0, 11.05))
    assert row["saddle_index@0.001_low"] == 4
    assert pd.isna(row["saddle_index@0.001_high"])
    assert row["negative_mass@0.001_high"] == pytest.approx(0.0106)
    assert (row["trace"], row["trace_standard_error"]) == pytest.approx((55.0, 0.5))
    assert row["verdict"] == "saddle"


def test_verdict_counts(whole_study):
    found = tables.verdicts(load_study(whole_study))
    assert one(found, optimizer="sgd", group="tail")["text"] == "saddle 3/3 seeds"
    assert one(found, optimizer="ssesam", group="tail")["text"] == "no negative curvature above tau 3/3 seeds"


def test_paired_differences_use_the_same_seed(whole_study):
    # SAM - SGD, tail lambda_min: (-6 + 20), (-5.2 + 19.6), (-5.6 + 19.2) = 14, 14.4, 13.6
    row = one(tables.differences(load_study(whole_study)), optimizer="sam", group="tail", quantity="lambda_min")
    half = T_975_2 * 0.4 / math.sqrt(3)
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((14.0, 14 - half, 14 + half))
    assert (row["n"], row["higher_in"], row["decision"]) == (3, 3, "higher")
    accuracy = one(tables.differences(load_study(whole_study), None), optimizer="imbsam", group="head")
    assert accuracy["difference"] == pytest.approx(-3.0)  # -2, -4, -3 points
    assert accuracy["decision"] == "lower"


def test_the_ratio_never_stands_alone(whole_study):
    study = load_study(whole_study)
    for sheet in sheets(study, ("head-tail", "per-class")):
        columns = set(sheet.data.columns) | set(sheet.data.get("quantity", ()))
        heads = {head for head, _ in sheet.heads} | {row[0].text for row in sheet.rows}
        if "negative_ratio" in columns:
            assert {"lambda_min", "lambda_max"} <= columns, sheet.name
        if "|λ_min|/λ_max" in heads:
            assert {"λ_min", "λ_max"} <= heads, sheet.name


@pytest.mark.parametrize("how", ["unfinished", "unlisted"])
def test_a_missing_seed_is_a_gap_and_never_averaged_over(build_study, how):
    study = load_study(build_study(**{how: (("imbsam", 1),)}))
    row = one(tables.accuracy(study), optimizer="imbsam", part="tail")
    assert pd.isna(row["mean"])
    assert pd.isna(row["std"])
    assert (row["n"], row["missing_seeds"]) == (2, "1")
    assert one(tables.accuracy(study), optimizer="sgd", part="tail")["mean"] == pytest.approx(61.0)
    curvature = one(tables.curvature(study), optimizer="imbsam", group="tail", quantity="lambda_min")
    assert pd.isna(curvature["mean"])
    assert curvature["missing_seeds"] == "1"
    assert one(tables.verdicts(study), optimizer="imbsam", group="tail")["text"] == "saddle 2/3; gap 1/3 seeds"
    difference = one(tables.differences(study), optimizer="imbsam", group="tail", quantity="lambda_max")
    assert pd.isna(difference["difference"])
    assert (difference["decision"], difference["missing_seeds"]) == ("gap", "1")
    seeds = one(tables.curvature_seeds(study), optimizer="imbsam", seed=1, group="tail")
    assert seeds["status"] == ("no final checkpoint" if how == "unfinished" else "not in the study")
    assert "gap (seed 1: no value)" in markdown(curvature_sheet(study, "head-tail"))


def test_a_run_trained_but_not_analysed_is_a_gap(build_study):
    folder = build_study()
    (folder / "sam-seed2" / "curvature" / "checkpoint.head-tail.json").unlink()
    study = load_study(folder)
    assert one(tables.curvature_seeds(study), optimizer="sam", seed=2, group="all")["status"] == "not analysed"
    assert pd.isna(one(tables.curvature(study), optimizer="sam", group="all", quantity="lambda_min")["mean"])
    assert one(tables.accuracy(study), optimizer="sam", part="all")["n"] == 3


def test_a_number_that_is_not_defined_is_not_a_gap(whole_study):
    row = one(tables.curvature(load_study(whole_study)), optimizer="ssesam", group="tail", quantity="displacement_ratio")
    assert (row["missing_seeds"], row["undefined_seeds"]) == ("", "0 1 2")


@pytest.mark.parametrize(
    ("table", "field", "value"),
    [
        ("provenance", "data_sha256", "0" * 64),
        ("provenance", "loss", "ldam"),
        ("provenance", "engine", "pyhessian"),
        ("provenance", "dtype", "float64"),
        ("provenance", "parameters", 5),
    ],
)
def test_mixed_results_are_refused(build_study, edit, table, field, value):
    folder = build_study()
    for path in (folder / "sam-seed1" / "curvature").glob("*.json"):
        edit(path, lambda raw: raw[table].update({field: value}))
    with pytest.raises(ReportError, match=f"'{field}'.*sgd-seed0.*sam-seed1"):
        tables.curvature(load_study(folder))


def test_mixed_groups_are_refused(build_study, edit):
    folder = build_study()
    edit(folder / "sam-seed1" / "curvature" / "checkpoint.head-tail.json", lambda raw: raw["scheme"]["groups"].update(tail=[9]))
    with pytest.raises(ReportError, match=r"scheme\.groups"):
        tables.verdicts(load_study(folder))


def test_a_stale_result_is_refused(build_study, edit):
    folder = build_study()
    edit(folder / "sgd-seed0" / "checkpoint.json", lambda raw: raw.update(sha256="1" * 64))
    with pytest.raises(ReportError, match=r"another checkpoint than checkpoint\.pt"):
        tables.curvature(load_study(folder))


def test_accuracies_on_different_data_are_refused(build_study, edit):
    folder = build_study()
    edit(folder / "sam-seed0" / "checkpoint.json", lambda raw: raw["data"].update(index_sha256="2" * 64))
    with pytest.raises(ReportError, match="index_sha256"):
        tables.accuracy(load_study(folder))


def test_accuracy_in_percent_is_refused(build_study, edit):
    folder = build_study()
    edit(folder / "sgd-seed0" / "checkpoint.json", lambda raw: raw["training"]["accuracy"].update(tail=61.0))
    with pytest.raises(ReportError, match="fractions of 1"):
        tables.accuracy(load_study(folder))


def test_one_seed_twice_is_refused(build_study, edit):
    folder = build_study()
    edit(folder / "study.json", lambda raw: raw["runs"].append(raw["runs"][0]))
    with pytest.raises(ReportError, match="seed 0 twice"):
        tables.accuracy(load_study(folder))


def test_one_seed_has_no_spread(build_study):
    study = load_study(build_study(seeds=(4,)))
    row = one(tables.accuracy(study), optimizer="sgd", part="tail")
    assert pd.isna(row["std"])
    assert one(tables.differences(study), optimizer="sam", group="tail", quantity="lambda_min")["decision"] == "undecided"


def test_csv_reads_back_unrounded(whole_study, tmp_path):
    sheet = curvature_sheet(load_study(whole_study), "head-tail")
    csv, md = write(sheet, tmp_path)
    pd.testing.assert_frame_equal(
        pd.read_csv(csv)[["mean", "std"]], sheet.data[["mean", "std"]], check_exact=True, check_dtype=False
    )
    assert all(line.count(" | ") == len(sheet.heads) - 1 for line in md.read_text().splitlines() if line.startswith("| S"))


def test_along_training_has_every_checkpoint(whole_study):
    found = tables.curvature_along(load_study(whole_study))
    assert sorted(found["epoch"].unique()) == [4, 8, 12]
    assert len(found) == 4 * 3 * 3 * 3


def test_a_group_that_was_not_asked_for_is_no_gap(build_study, edit):
    folder = build_study()
    for path in folder.glob("*/curvature/*.json"):
        edit(path, lambda raw: raw["groups"].pop("all"))
    study = load_study(folder)
    assert {cell.group for cell in cells(study, "head-tail")} == {"head", "tail"}
    assert all(cell.status == "measured" for cell in cells(study, "head-tail"))
    edit(
        next(folder.glob("sgd-seed0*/curvature/checkpoint.head-tail.json")),
        lambda raw: raw.update(refused={"all": "not finite"}),
    )
    found = [cell.status for cell in cells(load_study(folder), "head-tail") if cell.group == "all"]
    assert set(found) == {"not analysed"}


def test_the_final_result_is_not_that_of_the_last_step(build_study):
    """Both have the same weights; the one along training was asked for less."""
    folder = build_study()
    for path in list(folder.glob("*/curvature/checkpoint.head-tail.json")):
        raw = json.loads(path.read_text())
        raw["provenance"]["training"]["epoch"] -= 1
        raw["provenance"]["checkpoint"] = "step-000196.pt"
        for group in raw["groups"].values():
            group["escape"] = None
        path.with_name("step-000196.head-tail.json").write_text(json.dumps(raw))
    for run in load_study(folder).runs:
        for found in (final_result(run, "head-tail"), final_of(run, "head-tail")):
            assert found.provenance.checkpoint != "step-000196.pt"


def test_a_study_of_which_every_group_was_refused_is_a_report_of_gaps(build_study, edit):
    folder = build_study()
    for path in folder.glob("*/curvature/*.json"):
        edit(path, lambda raw: raw.update(groups={}, refused=dict.fromkeys(raw["groups"], "a NaN")))
    study = load_study(folder)
    assert {entry.reading for entry in compare(study, "head-tail", "ssesam", ["head"])} == {"a seed is missing"}
    assert warnings(study, ["head-tail"]) == ["head-tail: no group was measured; every one that was asked for was refused."]
    found = find(study)
    assert (found.answer, found.sure[0]) == ("Not answered", "No group was measured.")
    assert "Size, head: λ_min of SSE-SAM is not compared with SGD, SAM and ImbSAM." in found.support
    assert summary_sheet(study).rows[0][2].text == "gap"
    assert "no group was measured" in render(study)
