"""A whole baseline against a whole study: what is compared, refused, missing."""

import json
from collections import Counter

import pytest
from saddlescope.reports.check.baseline import BaselineError
from saddlescope.reports.check.baseline_file import load_baseline
from saddlescope.reports.check.compare_numbers import Outcome
from saddlescope.reports.check.readings import FAMILIES, statistic
from saddlescope.reports.check.series import collect

SGD = "digits-lt/sgd/final/head-tail"


def in_group(group, **values):
    return lambda raw: raw["groups"][group].update(values)


def test_seeds_of_one_optimizer_are_one_series(stored, study, tmp_path):
    baseline = load_baseline(stored(tmp_path, study))
    assert list(baseline.series) == [SGD, "digits-lt/ssesam/final/head-tail"]
    series = baseline.series[SGD]
    assert series.seeds == [0, 1, 2]
    files = [study / f"sgd-seed{seed}" / "curvature" / "checkpoint.head-tail.json" for seed in range(3)]
    values = [json.loads(file.read_text())["groups"]["tail"]["lambda_min"]["value"] for file in files]
    assert [one.value for one in series.numbers["tail.lambda_min"].readings] == values
    assert {statistic(number) for number in series.numbers} <= set(FAMILIES)


def test_the_same_results_pass(stored, outcomes, compare, study, tmp_path):
    outcome = compare(stored(tmp_path, study), study)
    assert (outcome.exit_code, outcomes(outcome)) == (0, {})


def test_folders_files_and_names_mean_the_same_results(study, single, tmp_path):
    by_folder, by_file = collect([study / "sgd-seed0"]), collect([single])
    assert by_folder == by_file
    assert list(collect([f"mine={single}"])) == ["mine/final/head-tail"]
    assert list(collect([study / "sgd-seed0"], every_checkpoint=True)) == [
        f"digits-lt/sgd/{point}/head-tail" for point in ("epoch-004", "epoch-008", "final")
    ]


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (in_group("tail", loss=0.0502), {"tail.loss"}),
        (in_group("tail", gradient_norm=0.31), {"tail.gradient_norm"}),
        (in_group("tail", size=115), {"tail.size"}),
        (in_group("tail", classes=[3, 4, 5, 6, 7, 8]), {"tail.classes"}),
        (lambda raw: raw["groups"]["tail"]["verdict"].update(label="negative curvature, not stationary"), {"tail.verdict"}),
        (lambda raw: raw["groups"]["tail"]["lambda_min"].update(value=-20.1), {"tail.lambda_min"}),
        (lambda raw: raw["groups"]["tail"]["saddle_index"][0].update(at_least=5), {"tail.saddle_index@0.001"}),
        (lambda raw: raw["groups"]["tail"]["trace"].update(value=150.0), {"tail.trace"}),
        (lambda raw: raw.update(additivity=0.02), {"additivity"}),
    ],
)
def test_a_moved_number_is_found_and_no_other(stored, outcomes, compare, single, tmp_path, edit, change, moved):
    path = stored(tmp_path, single)
    edit(single, change)
    outcome = compare(path, single)
    assert outcomes(outcome) == {f"{SGD}::{number}": Outcome.MOVED for number in moved}
    assert outcome.exit_code == 1


@pytest.mark.parametrize(
    "change",
    [
        in_group("tail", loss=0.050001),
        lambda raw: raw["groups"]["tail"]["lambda_min"].update(value=-20.005),
        lambda raw: raw.update(additivity=1e-9),
        lambda raw: raw["provenance"].update(threads=2, torch="2.14.0", saddlescope="0.2.0"),
    ],
)
def test_what_no_one_should_be_woken_for(stored, compare, single, tmp_path, edit, change):
    path = stored(tmp_path, single)
    edit(single, change)
    assert compare(path, single).exit_code == 0


def test_an_estimate_may_differ_within_its_error(stored, outcomes, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)
    edit(single, lambda raw: raw["groups"]["tail"]["trace"].update(value=115.9))  # 0.9 off, standard errors 0.5 and 0.5
    outcome = compare(path, single)
    assert outcomes(outcome) == {f"{SGD}::tail.trace": Outcome.WITHIN}
    assert outcome.exit_code == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_sha256", "other"),
        ("index_sha256", "other"),
        ("dtype", "float64"),
        ("engine", "pyhessian"),
        ("loss", "focal"),
        ("params_pattern", None),
        ("parameters", 5),
    ],
)
def test_other_conditions_are_refused(stored, compare, single, tmp_path, edit, field, value):
    if field == "params_pattern":
        edit(single, lambda raw: raw["provenance"].update(params_pattern="layer1.*"))
    path = stored(tmp_path, f"mine={single}")
    edit(single, lambda raw: raw["provenance"].update({field: "layer2.*" if field == "params_pattern" else value}))
    if field == "params_pattern":  # the pattern is part of the series' name: nothing in common at all
        with pytest.raises(BaselineError, match="no number in common"):
            compare(path, f"mine={single}")
        return
    outcome = compare(path, f"mine={single}")
    assert {row.outcome for row in outcome.rows} == {Outcome.REFUSED}
    assert all(field in row.note for row in outcome.rows)
    assert outcome.exit_code == 2


def test_other_groups_are_refused(stored, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)
    edit(single, lambda raw: raw["scheme"]["groups"]["tail"].pop())
    outcome = compare(path, single)
    assert {row.outcome for row in outcome.rows} == {Outcome.REFUSED}


def test_an_unknown_index_hash_is_no_reason_to_refuse(stored, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)
    edit(single, lambda raw: raw["provenance"].pop("index_sha256"))
    assert compare(path, single).exit_code == 0


def test_a_verdict_under_another_threshold_is_refused(stored, outcomes, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)
    edit(single, lambda raw: raw["provenance"]["settings"].update(tau=0.1))
    outcome = compare(path, single)
    assert set(outcomes(outcome)) == {
        f"{SGD}::{group}.{name}" for group in ("all", "head", "tail") for name in ("verdict", "curvature")
    }
    assert outcome.exit_code == 2


def test_other_probes_compare_by_intervals(stored, outcomes, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)

    def resample(raw):
        raw["provenance"]["settings"].update(seed=1)
        raw["groups"]["tail"]["saddle_index"][0].update(at_least=9)
        raw["groups"]["tail"]["lambda_min"].update(value=-20.03, interval=[-20.08, -20.03])

    edit(single, resample)
    outcome = compare(path, single)
    assert outcomes(outcome) == {f"{SGD}::{name}": Outcome.WITHIN for name in ("tail.saddle_index@0.001", "tail.lambda_min")}


def test_missing_and_new(stored, outcomes, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)

    def drop(raw):
        raw["groups"]["tail"].pop("trace")
        raw["groups"]["tail"]["negative_energy"] = {"value": 0.1}

    edit(single, drop)
    outcome = compare(path, single)
    assert outcomes(outcome) == {f"{SGD}::tail.trace": Outcome.MISSING, f"{SGD}::tail.negative_energy": Outcome.NEW}
    assert outcome.exit_code == 1


def test_a_series_that_is_not_given_is_missing_unless_quick(stored, compare, study, tmp_path):
    path = stored(tmp_path, study)
    runs = [study / f"sgd-seed{seed}" for seed in range(3)]
    whole, quick = compare(path, *runs), compare(path, *runs, quick=True)
    assert whole.exit_code == 1
    assert Counter(row.outcome for row in whole.rows)[Outcome.MISSING] > 40
    assert quick.exit_code == 0
    assert quick.unchecked == ["digits-lt/ssesam/final/head-tail"]


def test_fewer_seeds_of_the_same_weights_compare_digits_with_quick(stored, outcomes, compare, study, tmp_path):
    path = stored(tmp_path, study)
    outcome = compare(path, study / "sgd-seed1", only=["digits-lt/sgd/*"], quick=True)
    assert (outcome.exit_code, outcomes(outcome)) == (0, {})
    assert outcome.unchecked == [f"{SGD}, seeds 0, 2"]


def retrain(study, edit, shift):
    """New weights for every seed of SGD; tail lambda_min and what follows from it shifted."""
    for seed in range(3):

        def change(raw, seed=seed):
            raw["provenance"]["checkpoint_sha256"] = f"retrained-{seed}"
            raw["groups"]["tail"]["lambda_min"]["value"] += shift

        edit(study / f"sgd-seed{seed}" / "curvature" / "checkpoint.head-tail.json", change)


@pytest.mark.parametrize(("shift", "outcome"), [(0.15, Outcome.WITHIN), (19.0, Outcome.MOVED), (-19.0, Outcome.MOVED)])
def test_retrained_seeds_are_a_sample(stored, outcomes, compare, study, tmp_path, edit, shift, outcome):
    path = stored(tmp_path, study)
    retrain(study, edit, shift)
    found = compare(path, study)
    assert outcomes(found) == {f"{SGD}::tail.lambda_min": outcome}
    assert any(line.endswith("unchanged: the training itself changed") for line in found.environment)


def test_another_processor_explains_other_weights(stored, compare, study, tmp_path, edit):
    path = stored(tmp_path, study)
    retrain(study, edit, 0.15)
    for file in study.glob("*/curvature/*.json"):
        edit(file, lambda raw: raw["provenance"].update(processor="Intel Xeon, AVX512"))
    assert compare(path, study).environment == ["processor AMD EPYC, AVX2 -> Intel Xeon, AVX512"]


def test_a_baseline_that_names_no_processor(stored, outcomes, compare, study, tmp_path, edit):
    path = stored(tmp_path, study)

    def forget(raw):
        for series in raw["series"].values():
            del series["environment"]["processor"]

    edit(path, forget)
    edit(study / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json", in_group("tail", gradient_norm=0.31))
    assert set(outcomes(compare(path, study)).values()) == {Outcome.MOVED}
    retrain(study, edit, 0.15)
    assert any("or the processor, which the baseline does not name" in line for line in compare(path, study).environment)


def test_by_seed_the_same_change_is_digits(stored, outcomes, compare, study, tmp_path, edit):
    path = stored(tmp_path, study, by_seed=True)
    retrain(study, edit, 0.15)
    assert outcomes(compare(path, study)) == {f"{SGD}/seed-{seed}::tail.lambda_min": Outcome.MOVED for seed in range(3)}


def test_direction_edited_by_hand(stored, outcomes, compare, single, tmp_path, edit):
    path = stored(tmp_path, single)
    edit(path, lambda raw: raw["series"][SGD]["numbers"]["tail.lambda_min"].update(direction="not-lower"))
    edit(single, lambda raw: raw["groups"]["tail"]["lambda_min"].update(value=-15.0))
    rose = compare(path, single)
    assert (rose.exit_code, outcomes(rose)) == (0, {f"{SGD}::tail.lambda_min": Outcome.ALLOWED})
    edit(single, lambda raw: raw["groups"]["tail"]["lambda_min"].update(value=-25.0))
    assert compare(path, single).exit_code == 1


def test_escape_is_gone_where_the_verdict_says_why(stored, outcomes, compare, single, tmp_path, edit):
    escape = {"gradient_along_v": 0.1, "correlated_negative_curvature": 0.2, "multipliers": [], "test": None}
    edit(single, in_group("tail", escape=escape))
    path = stored(tmp_path, single)
    edit(single, in_group("tail", escape=None))
    assert outcomes(compare(path, single)) == {f"{SGD}::tail.escape.correlated_negative_curvature": Outcome.MISSING}
    edit(single, lambda raw: raw["groups"]["tail"]["verdict"].update(curvature="none above tau"))
    assert outcomes(compare(path, single)) == {f"{SGD}::tail.curvature": Outcome.MOVED}


def test_multipliers_of_old_baselines_are_gone_for_good_and_rates_are_compared(
    stored, outcomes, compare, single, tmp_path, edit
):
    rate = {"optimizer": "sam", "rate": 0.5, "halved": 0.5, "distance": 1e-7, "settled": True}
    rate |= {"far_rate": 0.1, "far_distance": 0.02}
    escape = {"gradient_along_v": 0.1, "correlated_negative_curvature": 0.2, "rates": [rate], "objective_curvature": -3.0}
    edit(single, in_group("tail", escape=escape))
    path = stored(tmp_path, single)
    old = {"rule": "tolerance", "abs_tol": 0.01, "rel_tol": 0.05, "direction": "both", "readings": [{"value": -16168.0}]}
    edit(path, lambda raw: raw["series"][SGD]["numbers"].update({"tail.escape.multiplier[sam]": old}))
    assert outcomes(compare(path, single)) == {}
    edit(single, in_group("tail", escape={**escape, "rates": [{**rate, "rate": 5.0}], "objective_curvature": 3.0}))
    moved = {f"{SGD}::tail.escape.rate[sam]", f"{SGD}::tail.escape.objective_curvature"}
    assert outcomes(compare(path, single)) == dict.fromkeys(moved, Outcome.MOVED)


def test_seeds_measured_with_different_settings_are_no_series(stored, compare, study, tmp_path, edit):
    path = stored(tmp_path, study)
    edit(
        study / "sgd-seed1" / "curvature" / "checkpoint.head-tail.json",
        lambda raw: raw["provenance"]["settings"].update(seed=77),
    )
    with pytest.raises(BaselineError, match=r"setting 'seed': 0 and 77|setting 'seed': None and 77"):
        compare(path, study)


@pytest.mark.parametrize(
    ("field", "value"),
    [("device", "NVIDIA A100"), ("platform", "Darwin arm64"), ("processor", "Intel Xeon, AVX512"), ("threads", 7)],
)
def test_across_devices_and_platforms_numbers_are_compared_and_lower_bounds_are_not(
    stored, outcomes, compare, single, tmp_path, edit, field, value
):
    path = stored(tmp_path, single)
    edit(single, lambda raw: raw["provenance"].update({field: value}))
    edit(single, lambda raw: raw["groups"]["tail"]["saddle_index"][0].update(at_least=9))
    edit(single, in_group("tail", accuracy=0.99 - 1 / 116))
    found = compare(path, single)
    assert set(outcomes(found).values()) == {Outcome.WITHIN}
    assert any(field in line for line in found.environment)
    edit(single, in_group("tail", gradient_norm=0.31))
    assert compare(path, single).exit_code == 1
