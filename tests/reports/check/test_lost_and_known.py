"""Weights that the baseline holds are compared as such beside others; readings and seeds that are gone are missing."""

import json
import shutil

import pytest
from saddlescope.reports.check.accept import accept
from saddlescope.reports.check.baseline_file import load_baseline, save_baseline
from saddlescope.reports.check.compare_numbers import Outcome
from saddlescope.reports.check.series import collect

SGD = "digits-lt/sgd/final/head-tail"
RATE = {
    "optimizer": "sam",
    "rate": 0.5,
    "halved": 0.5,
    "distance": 1e-7,
    "settled": True,
    "far_rate": 0.1,
    "far_distance": 0.02,
}


def escaping(**rate):
    escape = {"gradient_along_v": 0.1, "correlated_negative_curvature": 0.2, "rates": [RATE | rate]}
    return lambda raw: raw["groups"]["tail"].update(escape=escape)


@pytest.fixture
def seeds(build_study):
    """The result files of three seeds of SGD."""
    study = build_study(optimizers=("sgd",))
    return [study / f"sgd-seed{seed}" / "curvature" / "checkpoint.head-tail.json" for seed in range(3)]


@pytest.fixture
def another(seeds, edit, tmp_path):
    """A seed that the baseline does not hold."""
    path = tmp_path / "seed7.json"
    shutil.copy(seeds[1], path)
    edit(path, lambda raw: raw["provenance"].update(checkpoint_sha256="seed 7"))
    edit(path, lambda raw: raw["provenance"]["training"].update(seed=7))
    return path


def test_known_weights_are_compared_by_tolerance_beside_a_new_seed(stored, outcomes, compare, seeds, another, tmp_path, edit):
    path = stored(tmp_path, *seeds)
    assert compare(path, *seeds, another).exit_code == 0
    for seed in seeds:
        edit(seed, lambda raw: raw["groups"]["tail"].update(gradient_norm=1.002 * raw["groups"]["tail"]["gradient_norm"]))
    for given in (seeds, [*seeds, another]):
        found = compare(path, *given)
        assert found.exit_code == 1
        assert outcomes(found)[f"{SGD}::tail.gradient_norm"] is Outcome.MOVED


def test_a_new_seed_beside_known_weights_is_tested_as_a_sample(stored, outcomes, compare, seeds, another, tmp_path, edit):
    path = stored(tmp_path, *seeds)
    edit(another, lambda raw: raw["groups"]["tail"]["lambda_min"].update(value=-2000.0))
    found = compare(path, *seeds, another)
    assert outcomes(found)[f"{SGD}::tail.lambda_min"] is Outcome.MOVED
    assert any("3 seeds stored and 1 to check" in line for line in found.trainings)


def test_seeds_that_are_gone_are_missing(stored, compare, seeds, another, tmp_path):
    path = stored(tmp_path, *seeds)
    for given in (seeds[:1], [seeds[0], another]):
        rows = compare(path, *given).rows
        assert {row.outcome for row in rows} == {Outcome.MISSING}
        assert {row.note for row in rows} == {"not in the results of seeds 1, 2"}


def test_seeds_trained_anew_may_be_others_and_fewer(stored, outcomes, compare, seeds, another, tmp_path, edit):
    path = stored(tmp_path, *seeds)
    assert Outcome.MISSING not in outcomes(compare(path, another)).values()
    edit(seeds[2], lambda raw: raw["provenance"].update(checkpoint_sha256="trained again"))
    assert Outcome.MISSING not in outcomes(compare(path, *seeds)).values()


@pytest.mark.parametrize("quick", [False, True])
def test_a_group_that_is_gone_in_one_seed_is_missing(stored, compare, seeds, tmp_path, edit, quick):
    path = stored(tmp_path, *seeds)
    edit(seeds[2], lambda raw: raw["groups"].pop("tail"))
    found = compare(path, *seeds, quick=quick)
    missing = {row.number: row.note for row in found.having(Outcome.MISSING)}
    tail = [row.number for row in found.rows if row.number.startswith("tail.")]
    assert missing == dict.fromkeys(tail, "not in the results of seed 2")


def test_escape_may_be_gone_in_the_seed_whose_verdict_says_why(stored, outcomes, compare, seeds, tmp_path, edit):
    for seed in seeds:
        edit(seed, escaping())
    path = stored(tmp_path, *seeds)
    edit(seeds[2], lambda raw: raw["groups"]["tail"].update(escape=None))
    assert outcomes(compare(path, *seeds))[f"{SGD}::tail.escape.rate[sam]"] is Outcome.MISSING
    edit(seeds[2], lambda raw: raw["groups"]["tail"]["verdict"].update(curvature="none above tau"))
    assert outcomes(compare(path, *seeds)) == {f"{SGD}::tail.curvature": Outcome.MOVED}


def test_accept_names_the_seeds_that_it_drops(stored, run, seeds, tmp_path):
    path = stored(tmp_path, *seeds)
    save_baseline(accept(load_baseline(path), collect(seeds[:1]), "one will do"), path)
    last = load_baseline(path).history[-1]
    assert last.dropped == {SGD: [1, 2]}
    assert last.changes[f"{SGD}::tail.loss"].verdict == "missing"
    assert f"{SGD} without 1, 2" in " ".join(run("baseline", "show", path).split())


def test_what_moved_in_one_seed_stays_so_whatever_another_is_allowed(stored, outcomes, compare, seeds, tmp_path, edit):
    edit(seeds[0], lambda raw: raw["groups"]["tail"]["trace"].update(standard_error=1e-6))
    path = stored(tmp_path, *seeds)
    edit(path, lambda raw: raw["series"][SGD]["numbers"]["tail.trace"].update(direction="not-lower"))
    edit(seeds[0], lambda raw: raw["groups"]["tail"]["trace"].update(value=1e6))
    edit(seeds[1], lambda raw: raw["groups"]["tail"].pop("trace"))
    assert outcomes(compare(path, *seeds)) == {f"{SGD}::tail.trace": Outcome.MISSING}


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True), (False, False)])
def test_a_rate_that_is_not_settled_is_undecided(stored, outcomes, compare, seeds, tmp_path, edit, before, after):
    edit(seeds[0], escaping(settled=before))
    path = stored(tmp_path, seeds[0])
    assert outcomes(compare(path, seeds[0])) == {}
    edit(seeds[0], escaping(settled=after, rate=3.0))
    found = compare(path, seeds[0])
    assert (found.exit_code, outcomes(found)) == (0, {f"{SGD}::tail.escape.rate[sam]": Outcome.UNDECIDED})
    assert "passed in what can be decided" in found.sentence


def test_rates_that_are_not_settled_are_no_part_of_a_sample(stored, outcomes, compare, seeds, tmp_path, edit):
    for index, seed in enumerate(seeds):
        edit(seed, escaping(rate=0.5 + index / 100))
    path = stored(tmp_path, *seeds)
    for index, seed in enumerate(seeds):
        edit(seed, lambda raw, index=index: raw["provenance"].update(checkpoint_sha256=f"again {index}"))
        edit(seed, escaping(rate=0.5 + index / 100) if index else escaping(rate=900.0, settled=False))
    found = compare(path, *seeds)
    (row,) = [row for row in found.rows if row.number == "tail.escape.rate[sam]"]
    assert (row.outcome, row.note) == (Outcome.WITHIN, "those not settled left out")
    for seed in seeds:
        edit(seed, escaping(rate=900.0, settled=False))
    assert outcomes(compare(path, *seeds)) == {f"{SGD}::tail.escape.rate[sam]": Outcome.UNDECIDED}


def test_a_spread_leaves_out_rates_that_are_not_settled(run, seeds, tmp_path, edit):
    edit(seeds[0], escaping())
    again = tmp_path / "again.json"
    shutil.copy(seeds[0], again)
    assert "escape.rate" in run("baseline", "spread", seeds[0], again)
    edit(again, escaping(rate=900.0, settled=False))
    assert "escape.rate" not in run("baseline", "spread", seeds[0], again)


@pytest.mark.parametrize("lacking", [0, 2])
def test_seeds_need_not_hold_the_same_groups(stored, compare, seeds, tmp_path, edit, lacking):
    edit(seeds[lacking], lambda raw: raw["groups"].pop("tail"))
    path = stored(tmp_path, *seeds)
    entry = load_baseline(path).series[SGD].numbers["tail.lambda_min"]
    assert [one is None for one in entry.readings] == [index == lacking for index in range(3)]
    top = json.loads(seeds[1 if lacking == 0 else 0].read_text())["groups"]["tail"]["lambda_max"]["value"]
    assert entry.abs_tol == pytest.approx(1e-5 * top, rel=1e-2)
    assert compare(path, *seeds).exit_code == 0


@pytest.mark.parametrize(
    ("number", "change"),
    [
        ("trace", lambda tail: tail["trace"].update(value=1.005 * tail["trace"]["value"])),
        ("lambda_min", lambda tail: tail["lambda_min"].update(value=-20.03, interval=[-30.0, -20.03], converged=False)),
        ("saddle_index@0.001", lambda tail: tail["saddle_index"][0].update(at_least=9)),
    ],
)
def test_by_seed_an_error_bar_excuses_nothing(stored, outcomes, compare, seeds, tmp_path, edit, number, change):
    path = stored(tmp_path, seeds[0], by_seed=True)
    edit(seeds[0], lambda raw: raw["provenance"].update(checkpoint_sha256="again"))
    assert outcomes(compare(path, seeds[0])) == {}
    edit(seeds[0], lambda raw: change(raw["groups"]["tail"]))
    assert outcomes(compare(path, seeds[0])) == {f"{SGD}/seed-0::tail.{number}": Outcome.MOVED}
    edit(seeds[0], lambda raw: raw["provenance"]["settings"].update(seed=1))  # other probes agree within their errors
    assert compare(path, seeds[0]).exit_code == 0
