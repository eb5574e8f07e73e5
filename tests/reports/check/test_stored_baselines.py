"""What a baseline file holds: accepted with a reason, remembered, and refused where it is damaged or says nothing."""

import json

import pytest
from saddlescope.analysis.records.base import ResultError
from saddlescope.reports.check.accept import accept, create
from saddlescope.reports.check.baseline import BaselineError
from saddlescope.reports.check.baseline_file import load_baseline, save_baseline
from saddlescope.reports.check.series import collect

SGD = "digits-lt/sgd/final/head-tail"


def in_group(group, **values):
    return lambda raw: raw["groups"][group].update(values)


def test_accept_keeps_tolerances_and_history(stored, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)
    edit(path, lambda raw: raw["series"][SGD]["numbers"]["tail.loss"].update(rel_tol=0.07))
    edit(single, in_group("tail", loss=0.2, trace=None))
    baseline = load_baseline(path)
    save_baseline(accept(baseline, collect([single]), " new loss "), path)
    again = load_baseline(path)
    entry = again.series[SGD].numbers["tail.loss"]
    assert (entry.readings[0].value, entry.rel_tol) == (0.2, 0.07)
    assert [one.reason for one in again.history] == ["first", "new loss"]
    changes = again.history[1].changes
    assert {name: (one.old, one.new) for name, one in changes.items()} == {
        f"{SGD}::tail.loss": ([0.05], [0.2]),
        f"{SGD}::tail.trace": ([115.0], None),
    }
    assert compare(path, single).exit_code == 0


def test_accept_leaves_alone_what_was_not_looked_at(stored, study, tmp_path, edit):
    path = stored(tmp_path, study)
    before = load_baseline(path)
    edit(study / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json", in_group("tail", loss=0.2))
    runs = [study / f"sgd-seed{seed}" for seed in range(3)]
    quick = accept(before, collect(runs), "why", quick=True)
    assert quick.series["digits-lt/ssesam/final/head-tail"] == before.series["digits-lt/ssesam/final/head-tail"]
    part = accept(before, collect([study]), "why", only=["head.*"])
    assert part.series[SGD].numbers["tail.loss"] == before.series[SGD].numbers["tail.loss"]


def test_accept_of_new_data_is_possible(stored, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)
    edit(single, lambda raw: raw["provenance"].update(data_sha256="new"))
    save_baseline(accept(load_baseline(path), collect([single]), "new data set"), path)
    assert compare(path, single).exit_code == 0


def test_accept_needs_a_reason(stored, single, tmp_path):
    path = stored(tmp_path, single)
    with pytest.raises(BaselineError, match="reason"):
        accept(load_baseline(path), collect([single]), "  ")


def test_only_is_remembered(stored, outcomes, compare, single, tmp_path):
    path = stored(tmp_path, single, only=["*.lambda_*"])
    assert len(load_baseline(path).identifiers()) == 6
    assert outcomes(compare(path, single)) == {}  # nothing else counts as new
    with pytest.raises(BaselineError, match="no number of the baseline is meant"):
        compare(path, single, only=["tail.loss"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw.update(schema_version=2), "schema_version 2 is newer than 1"),
        (lambda raw: raw.update(schema_version=None), "schema_version"),
        (lambda raw: raw.update(kind="curvature"), "not a baseline"),
        (lambda raw: raw.update(series={}), "holds no number"),
        (lambda raw: raw["series"][SGD].update(numbers={}), "holds no number"),
        (lambda raw: raw["series"][SGD]["numbers"]["tail.loss"].update(readings=[]), "0 readings"),
        (lambda raw: raw["series"][SGD]["numbers"]["tail.loss"].update(readings=[None]), "not null"),
        (lambda raw: raw["series"][SGD]["numbers"]["tail.loss"]["readings"][0].update(value=float("nan")), "tail.loss"),
        (lambda raw: raw["series"][SGD]["numbers"]["tail.loss"]["readings"][0].update(value="0.1"), "needs numbers"),
        (lambda raw: raw["series"][SGD]["numbers"]["tail.loss"].update(abs_tol=-1.0), "abs_tol"),
        (lambda raw: raw["series"][SGD]["numbers"]["tail.loss"].update(abs_tol=float("nan")), "abs_tol"),
        (lambda raw: raw["series"][SGD]["numbers"]["tail.loss"].update(direction="up"), "direction"),
        (lambda raw: raw["series"][SGD]["numbers"]["tail.loss"].update(tolerance=1.0), "tolerance"),
        (lambda raw: raw.update(false_alarm_rate=0.0), "false_alarm_rate"),
    ],
)
def test_a_bad_baseline_never_passes(stored, single, tmp_path, edit, damage, message):
    path = stored(tmp_path, single)
    edit(path, damage)
    with pytest.raises(BaselineError, match=message) as caught:
        load_baseline(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\x00\xff"])
def test_a_corrupt_baseline_never_passes(tmp_path, text):
    path = tmp_path / "baseline.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BaselineError, match=r"baseline\.json"):
        load_baseline(path)
    with pytest.raises(BaselineError, match="baseline save"):
        load_baseline(tmp_path / "none.json")


def test_nan_in_a_result_never_passes(stored, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)
    edit(single, in_group("tail", loss=float("nan")))
    with pytest.raises(ResultError, match=r"groups\.tail\.loss"):
        compare(path, single)


def test_results_that_cannot_be_told_apart(study, single, tmp_path, edit):
    copy = tmp_path / "copy.json"
    copy.write_text(single.read_text())
    assert len(collect([single, single])) == 1
    with pytest.raises(BaselineError, match=r"two results for seed 0 .*copy\.json.*NAME=PATH"):
        collect([single, copy])
    assert len(collect([single, f"other={copy}"])) == 2
    edit(copy, lambda raw: raw["provenance"]["training"].update(seed=7, epoch=12))
    edit(copy, lambda raw: raw["provenance"].update(dtype="float64", checkpoint_sha256="other"))
    with pytest.raises(BaselineError, match="not measured alike"):
        collect([single, copy])


def test_nothing_to_read(study, tmp_path, build_study):
    for bad in (tmp_path / "none", tmp_path):
        with pytest.raises(BaselineError):
            collect([bad])
    with pytest.raises(BaselineError, match="no result given"):
        collect([])
    unfinished = build_study(name="half", optimizers=("sgd",), unfinished=(("sgd", 1),))
    with pytest.raises(BaselineError, match="unfinished, no final checkpoint of sgd seed 1"):
        collect([unfinished])


def test_no_overlap_is_an_error(stored, compare, study, tmp_path):
    path = stored(tmp_path, study / "sgd-seed0")
    with pytest.raises(BaselineError, match="no number in common"):
        compare(path, study / "ssesam-seed0")
    with pytest.raises(BaselineError, match="no number in common"):
        compare(path, study / "ssesam-seed0", quick=True)


def test_a_baseline_is_not_overwritten_and_not_empty(stored, single, tmp_path):
    path = stored(tmp_path, single)
    text = path.read_text()
    with pytest.raises(BaselineError, match="--accept"):
        stored(tmp_path, single)
    assert path.read_text() == text
    with pytest.raises(BaselineError, match="no number to store"):
        create(collect([single]), tmp_path / "empty.json", "x", only=["nothing.*"])
    assert not (tmp_path / "empty.json").exists()


def test_the_file_is_made_for_diffs(stored, study, tmp_path):
    path = stored(tmp_path, study)
    raw = json.loads(path.read_text())
    assert raw["schema_version"] == 1
    lines = path.read_text().splitlines()
    assert sum('"readings"' in line for line in lines) == len(load_baseline(path).identifiers())
