"""The headline follows from the verdicts, whatever they are; claims are judged on both sides."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from saddlescope.analysis.records.base import save
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.slices import Slice
from saddlescope.figures.drawing.study_data import finals
from saddlescope.figures.plots import extremes
from saddlescope.reports.literature import claims, class_claims, papers
from saddlescope.reports.literature.registry import print_registry
from saddlescope.reports.literature.states import list_items
from saddlescope.reports.page.sheets import curvature_sheet
from saddlescope.reports.tables.comparison import Comparison, compare
from saddlescope.reports.tables.curvature import curvature_seeds
from saddlescope.reports.tables.entries import records
from saddlescope.reports.tables.findings import find, how_sure
from saddlescope.reports.tables.provenance import method
from saddlescope.reports.tables.sampling import sampling_words
from saddlescope.reports.tables.statistics import Difference, paired_difference, share_interval, spread
from saddlescope.reports.tables.words import interval, number, threshold, with_spread
from saddlescope.training.runs.recipe import recipe_names


def test_a_study_without_curvature_is_not_answered(build_study):
    folder = build_study(schemes=())
    assert find(load_study(folder)).answer == "Not answered"


def test_the_whole_headline(whole_study):
    found = find(load_study(whole_study))
    assert found.answer == "Yes"
    assert found.support[1] == (
        "Tail: SGD, SAM and ImbSAM: saddle 3/3 seeds. SSE-SAM: no negative curvature above tau 3/3 seeds."
    )
    # tail lambda_min minus ImbSAM's: (1.1, 1.2, 0.4) - 0.003, half width 4.30 * 0.436 / sqrt(3) = 1.08: includes zero
    assert "less negative than with SGD and SAM; not decidedly different from ImbSAM" in found.support[3]
    assert "Of 24 verdicts 18 say negative curvature, 18 of them proven" in found.sure[0]
    assert "only 29 % of further seeds" in found.sure[1]


def test_the_ratio_is_read_with_lambda_max():
    def falls(value):
        return paired_difference({0: value, 1: 1.1 * value, 2: 0.9 * value}, {0: 0.0, 1: 0.0, 2: 0.0})

    undecided = paired_difference({0: 1.0, 1: -1.0, 2: 0.1}, {0: 0.0, 1: 0.0, 2: 0.0})
    moved = Comparison(
        "ssesam", "sgd", "tail", {"lambda_min": undecided, "lambda_max": falls(5.0), "negative_ratio": falls(-0.2)}
    )
    assert moved.reading == (
        "size of λ_min undecided (not even 1000 seeds would decide an effect of this size); the ratio is lower without λ_min "
        "being shown to move (λ_max is higher)"
    )
    confounded = Comparison(
        "ssesam", "sgd", "tail", {"lambda_min": falls(2.0), "lambda_max": falls(-9.0), "negative_ratio": falls(0.3)}
    )
    assert confounded.reading == "less negative curvature, yet the ratio is higher: λ_max moved more"


def test_comparison_is_a_gap_where_a_seed_is_missing(build_study):
    study = load_study(build_study(unfinished=(("imbsam", 0),)))
    readings = {entry.other: entry.reading for entry in compare(study, "head-tail", "ssesam", ("tail",))}
    assert readings["imbsam"] == "a seed is missing"
    assert readings["sgd"] == "less negative curvature"


def outcomes(folder):
    return {claim.key: outcome for claim, outcome in claims.evaluate(load_study(folder))}


def test_claims_on_both_sides(whole_study):
    found = outcomes(whole_study)
    assert found["sam-overall-not-tail"].state == "not reproduced"  # SAM is at a saddle of all in every seed
    assert found["imbsam-tail"].state == "not reproduced"
    assert found["sam-tail-class"].state == "reproduced"
    assert found["imbsam-head"].state == "undecided"  # -3, -6, -3 points: 95 % interval includes zero
    assert found["ssesam-accuracy"].state == "undecided"
    assert found["tail-more-nonconvex"].state == "reproduced"
    assert "λ_max" in found["tail-more-nonconvex"].ours
    # at the switch (epoch 8) accuracies are 8, 8.8 and 9.6 points below the end
    assert found["tail-after-switch"].state == "reproduced"
    assert "+8.80" in found["tail-after-switch"].ours


def test_a_claim_fails_on_the_other_side(build_study, edit):
    folder = build_study()
    for seed in range(3):

        def deepen(raw, seed=seed):
            raw["groups"]["tail"]["lambda_min"].update(value=-50.0 - seed, interval=[-50.1 - seed, -50.0 - seed])

        edit(folder / f"sam-seed{seed}" / "curvature" / "checkpoint.head-tail.json", deepen)
    found = outcomes(folder)["sam-tail-class"]
    assert found.state == "not reproduced"
    assert "λ_min" in found.why


def test_claims_are_not_tested_over_a_gap(build_study):
    found = outcomes(build_study(unfinished=(("sam", 1),)))
    assert (found["sam-tail-class"].state, found["sam-tail-class"].why) == ("not tested", "gap: seed 1 of SAM")
    assert found["tail-after-switch"].state == "reproduced"
    without = outcomes(build_study(optimizers=("sgd",), name="alone"))
    assert without["sam-tail-class"].why == "no λ_min of SAM, tail, in this study"
    assert without["tail-after-switch"].why == "no SSE-SAM run"


def test_registry_lists_every_item_and_claims_nothing_unrun():
    items = list_items()
    assert [item.id for item in items] == [f"F{number}" for number in range(1, 16)] + [f"T{number}" for number in range(1, 8)]
    assert {item.state for item in items if item.recipes or not item.evidence} == {"not run"}  # evidence: what the tests hold
    assert {claim.key for claim in papers.claims()} == set(claims.JUDGES)
    assert all(number.source for item in items for number in item.numbers)
    assert not any("memory" in number.source for item in items for number in item.numbers)


def test_registry_states_follow_from_stored_studies(whole_study):
    items = {item.id: item for item in list_items([load_study(whole_study)])}
    assert (items["F3"].state, items["T2"].state, items["T1"].state) == ("reproduced", "undecided", "not run")
    assert "digits-lt" in items["F3"].evidence


def test_the_convexity_map_is_drawn_where_a_slice_of_todays_weights_has_one(build_study):
    folder = build_study()

    def state():
        return next(item for item in list_items([load_study(folder)]) if item.id == "F9").state

    assert state() == "not run"
    run = load_study(folder).runs[0]
    source = run.curvature[0].provenance.model_copy(update={"checkpoint_sha256": run.side_car["sha256"]})
    scheme, map_ = run.curvature[0].scheme, {"tail": [[-1.0]]}
    piece = Slice(
        directions=[], axes=[[0.0], [0.0]], loss={}, lambda_min=map_, lambda_max=map_, scheme=scheme, provenance=source
    )
    path = run.folder / "slices" / "tail-plane.json"
    save(piece.model_copy(update={"lambda_min": {}, "lambda_max": {}}), path)
    assert state() == "not run"
    save(piece.model_copy(update={"provenance": source.model_copy(update={"checkpoint_sha256": "of other weights"})}), path)
    assert state() == "not run"
    save(piece, path)
    assert state() == "drawn"


def test_share_interval_is_clopper_pearson():
    assert share_interval(3, 3) == pytest.approx((0.025 ** (1 / 3), 1.0))
    assert share_interval(0, 3) == pytest.approx((0.0, 1 - 0.025 ** (1 / 3)))


def test_differences_without_spread_decide_nothing():
    found = paired_difference({0: 3.0, 1: 3.0, 2: 3.0}, {0: 1.0, 1: 1.0, 2: 1.0})
    assert (found.mean, found.low, found.high, found.decision) == (2.0, 2.0, 2.0, "undecided")
    assert spread({0: 0.1 + 0.2, 1: 0.3}).std == 0.0
    assert Difference(None, None, None, 1, 0, (2,)).decision == "gap"
    assert paired_difference({0: 1.0}, {0: 0.0, 1: 0.0}).missing == (1,)


def test_numbers_in_words():
    assert number(-19.6) == "−19.6"
    assert number(0.00012345) == "1.23e−4"
    assert number(-0.0) == "0"
    assert (number(9.97, 2), number(99.6, 2), number(0.0996, 2)) == ("10", "100", "0.10")
    assert with_spread(-19.6, 0.4) == "−19.60 ± 0.40"
    assert with_spread(15.0, 1.0) == "15.0 ± 1.0"
    assert with_spread(3.0, None) == "3.00"
    assert interval(-20.0512, -19.2012) == "[−20.06, −19.20]"  # rounded outwards
    assert interval(-0.004, None) == "[−0.004000, ∞]"
    assert interval(2.0, 2.0) == "[2.000, 2.000]"
    assert threshold(1e-4) == "0.0001"


def test_the_registry_lists_every_item_with_how_it_is_made_and_its_state(tmp_path, capsys):

    print_registry(tmp_path / "nothing")
    nothing = capsys.readouterr().out
    for item in list_items():
        assert f"{item.id:<4} {item.title}: {item.state}" in nothing
        assert item.recipes or item.command or item.state == "not run"
    assert "Finished studies under" in nothing
    known = set(recipe_names())
    made = {recipe for item in list_items() for recipe in item.recipes.values()}
    assert made == set(papers.costs()) <= known
    assert all(f"{recipe}: {papers.costs()[recipe][:20]}" in nothing for recipe in made)


def test_the_registry_tells_every_claim_by_study_and_scale(whole_study, capsys):
    print_registry(whole_study.parent)
    printed = " ".join(capsys.readouterr().out.split())
    study = load_study(whole_study)
    for claim, outcome in claims.evaluate(study):
        said = printed.split(claim.statement)[1].split(" - ")[0]
        state = "not tested" if outcome.state == "not tested" else f"{outcome.state} (study digits-lt at scale digits): "
        assert state in said


@pytest.mark.parametrize(
    ("ratio", "ends", "state"),
    [
        (None, None, "not reproduced"),
        (0.97, [0.93, 0.99], "reproduced"),
        (0.5, [0.3, 0.99], "undecided"),
        (0.5, [0.3, None], "undecided"),
    ],
)
def test_the_ratio_of_a_rare_class_is_judged_by_its_interval(tmp_path, edit, ratio, ends, state):
    folder = tmp_path / "study"
    shutil.copytree(Path(__file__).parents[3] / "reports" / "studies" / "cifar10-lt-resnet20", folder)
    (final,) = folder.glob("sgd-*/curvature/checkpoint.per-class.json")
    if ratio is not None:
        edit(final, lambda raw: raw["groups"]["class 8"]["negative_ratio"].update(value=ratio, interval=ends))
    outcome = class_claims.rare_class_ratio(load_study(folder))
    assert outcome.state == state
    assert outcome.ours.startswith("class 8, last epoch, SGD, seed 0: ")
    final.unlink()  # of an earlier epoch it says nothing
    assert class_claims.rare_class_ratio(load_study(folder)).state == "not tested"


def test_the_ratio_of_a_rare_class_is_not_judged_on_other_data(whole_study):
    assert class_claims.rare_class_ratio(load_study(whole_study)).state == "not tested"


@pytest.mark.parametrize(("name", "item"), [("cifar10-lt-small-rho", "F14"), ("cifar10-lt-small-escapers", "T6")])
def test_what_the_poster_prints_is_held_against_the_stored_runs(name, item):
    study = load_study(Path(__file__).parents[3] / "reports" / "studies" / name)
    tail = {run.optimizer: [] for run in study.runs}
    for run in study.runs:
        tail[run.optimizer].append(run.side_car["training"]["accuracy"]["tail"])
    falls = [("sam-05", "sam-02")] if item == "F14" else [("sam", "sgd")]
    assert all(sum(tail[a]) < sum(tail[b]) for a, b in falls)
    assert {found.id: found.state for found in list_items([study])}[item] == "not reproduced"


def test_what_was_measured_on_a_part_of_a_group_says_so_with_its_error(whole_study, edit):
    assert not [line for line in how_sure(load_study(whole_study), "head-tail", ["head", "tail"]) if "random part" in line]
    study = load_study(Path(__file__).parents[3] / "reports" / "studies" / "cifar10-lt-resnet20")
    (line,) = [line for line in how_sure(study, "head-tail", ["head", "tail"]) if "random part" in line]
    errors = [run.final("head-tail").groups["tail"].sampling.lambda_min.standard_error for run in study.runs]
    assert "tail on 100 of 891 samples" in line
    assert f"λ_min ± {number(max(errors), 2)}" in line  # SGD's and SAM's have no mean in common
    alone = sampling_words([study.runs[0].final("head-tail").groups])
    stored = study.runs[0].final("head-tail").groups["tail"].sampling
    assert f"λ_min {number(stored.lambda_min.value)} ± {number(errors[0], 2)}" in alone
    words = " ".join(method(study))
    assert words.startswith("SGD, SAM, ImbSAM and SSE-SAM train")
    assert "all (10 classes" not in words  # it was not measured
    assert "random part" in words
    assert "tail: 100 of 891" in extremes.draw(finals(study)).caption
    (row,) = (row for row in records(curvature_seeds(study)) if (row["optimizer"], row["group"]) == ("sgd", "tail"))
    shown = row["lambda_min_parts"], row["lambda_min_parts_low"], row["lambda_min_parts_high"]
    assert shown == (stored.lambda_min.value, *stored.lambda_min.interval)
    assert [head for head, _ in curvature_sheet(study, "head-tail").heads].count("λ_min, parts") == 1
    assert "lambda_min_parts" not in curvature_seeds(load_study(whole_study))
