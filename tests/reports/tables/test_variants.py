"""A study of one optimizer in three weightings: names, pairs, and what the registry makes of it."""

import json
import shutil
from pathlib import Path

import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.reports.literature import claims
from saddlescope.reports.literature.states import list_items
from saddlescope.reports.page.html import render
from saddlescope.reports.tables.findings import find
from saddlescope.reports.tables.variants import families, separated, variant_sheets
from saddlescope.reports.tables.words import interval, optimizer_name

BATCH, GROUP, DOUBLE = "ImbSAM (batch)", "ImbSAM (group)", "ImbSAM (batch-x2)"


def gradients_vary(folder, edit):
    """Tail gradient norms of group: 0.25, 0.251, 0.252 against 0.20 of batch in every seed."""
    for seed in range(3):
        path = folder / f"sam-seed{seed}" / "curvature" / "checkpoint.head-tail.json"
        edit(path, lambda raw, seed=seed: raw["groups"]["tail"].update(gradient_norm=0.25 + 0.001 * seed))


def test_names_come_from_the_recipe(build_variants):
    study = load_study(build_variants())
    assert [optimizer_name(study, key) for key in study.optimizers] == ["SGD", GROUP, BATCH, DOUBLE]
    assert families(study) == {"imbsam": ["imbsam-group", "imbsam", "imbsam-x2"]}
    page = render(study)
    assert all(name in page for name in (BATCH, GROUP, DOUBLE))
    assert "imbsam-group</td>" not in page
    assert "SSE-SAM ends" not in page


def test_every_pair_is_compared_by_hand(build_variants):
    (sheet,) = variant_sheets(load_study(build_variants()), "head-tail")
    tail = [row for row in sheet.data.to_dict("records") if row["group"] == "tail"]
    rows = {(row["quantity"], row["optimizer"], row["against"]): row for row in tail}
    pairs = {key[1:] for key in rows}
    assert pairs == {("imbsam", "imbsam-group"), ("imbsam-x2", "imbsam-group"), ("imbsam-x2", "imbsam")}
    # tail accuracies: batch 71, 70, 72; group 63, 65, 64: 8, 5, 8 points, so 7 ± 4.303 * sqrt(3) / sqrt(3)
    found = rows["accuracy", "imbsam", "imbsam-group"]
    assert (found["difference"], found["low"], found["high"]) == pytest.approx((7, 7 - 4.3027, 7 + 4.3027), abs=1e-3)
    assert f"{BATCH} − {GROUP}" in {row[1].text for row in sheet.rows}


def test_the_claim_needs_both_tail_intervals(build_variants, edit):
    folder = build_variants()

    def outcome():
        return {claim.key: found for claim, found in claims.evaluate(load_study(folder))}["imbsam-weightings"]

    # equal differences in every seed have an interval of width 0 that means nothing
    assert (outcome().state, outcome().why) == (
        "undecided",
        "Group − batch, tail: the interval over seeds includes zero for ‖∇L‖; no spread over seeds to go by.",
    )
    gradients_vary(folder, edit)
    assert outcome().state == "reproduced"
    assert "tail accuracy (%), group − batch: −7.00 [−11.4, −2.6]" in outcome().ours
    assert "accuracy (%) is lower and ‖∇L‖ is higher with group than with batch" in outcome().why


def test_the_claim_is_not_tested_without_both_weightings_or_over_a_gap(whole_study, build_variants):
    found = {claim.key: outcome for claim, outcome in claims.evaluate(load_study(whole_study))}["imbsam-weightings"]
    assert (found.state, found.why) == ("not tested", "no ImbSAM with both weightings, batch and group, in this study")
    study = load_study(build_variants(unfinished=(("sam", 1),)))
    found = {claim.key: outcome for claim, outcome in claims.evaluate(study)}["imbsam-weightings"]
    assert (found.state, found.why) == ("not tested", f"gap: seed 1 of {GROUP}")


def test_the_headline_says_which_pairs_differ(build_variants, edit):
    folder = build_variants()
    gradients_vary(folder, edit)
    found = find(load_study(folder))
    differ, sentence = separated(load_study(folder), "head-tail", ["head", "tail"])
    assert (found.answer == "Different") == differ
    assert found.sentence == sentence
    assert "of 18 paired 95 % intervals between the variants of ImbSAM leave out zero" in sentence
    assert "accuracy of tail is higher with batch than with group" in sentence
    assert "the gradient norm of tail is lower with batch than with group" in sentence


def test_a_study_of_stages_is_answered_by_its_variants_although_it_holds_sse_sam():
    """Its question is not whether SSE-SAM escapes: a "No" would stand under "is it the switch?"."""
    study = load_study(Path(__file__).parents[3] / "reports" / "studies" / "digits-lt-stages")
    found = find(study)
    assert found.answer == "Different"
    assert "λ_min of head is higher with SSE-SAM (gamma 1) than with SSE-SAM (gamma 0.7)" in found.sentence
    seeds = {seed: [] for seed in range(7)}
    for run in study.runs:
        if run.optimizer in ("ssesam", "ssesam-no-switch"):
            stored = json.loads((run.folder / "curvature" / "checkpoint.head-tail.json").read_text())
            seeds[run.seed].append((run.optimizer, stored["groups"]["head"]["lambda_min"]["value"]))
    assert all(dict(pair)["ssesam-no-switch"] > dict(pair)["ssesam"] for pair in seeds.values())


def test_many_pairs_are_told_by_the_order_of_the_means():
    study = load_study(Path(__file__).parents[3] / "reports" / "studies" / "cifar10-lt-small-rho")
    ends = {}
    for run in study.runs:
        if run.optimizer != "sgd":
            ends.setdefault(run.optimizer, []).append(run.final("head-tail").groups["tail"].lambda_min.value)
    order = sorted(ends, key=lambda key: sum(ends[key]))
    assert order == ["sam-005", "sam-01", "sam-02", "sam-05", "sam-08"]
    sentence = find(study).sentence
    assert (
        "λ_min of tail differs in 9 of 10 pairs, from the lowest mean to the highest: rho 0.05, rho 0.1, rho 0.2," in sentence
    )
    assert len(sentence) < 1000


def test_a_missing_seed_of_many_variants_is_left_out_and_named(tmp_path, edit):
    folder = tmp_path / "study"
    shutil.copytree(Path(__file__).parents[3] / "reports" / "studies" / "cifar10-lt-small-rho", folder)
    edit(
        folder / "study.json",
        lambda raw: raw.update(runs=[row for row in raw["runs"] if (row["optimizer"], row["seed"]) != ("sam-05", 1)]),
    )
    sentence = find(load_study(folder)).sentence
    assert " of 36 paired 95 % intervals" in sentence  # six pairs of four variants, three quantities, two groups
    assert sentence.endswith("pairs with a missing seed are left out: rho 0.5, seed 1.")
    order = sentence.split("λ_min of tail differs in ")[1]
    assert order.startswith("6 of 6 pairs, from the lowest mean to the highest: rho 0.05, rho 0.1, rho 0.2, rho 0.8;")
    render(load_study(folder))


@pytest.mark.parametrize(
    ("seeds", "unfinished", "why"),
    [
        ((0,), (), "one seed gives no interval"),
        ((0, 1), (("sam", 1), ("ssesam", 1)), "left out for missing seeds: group, seed 1 and batch-x2, seed 1"),
    ],
)
def test_variants_without_any_interval_say_why(build_variants, seeds, unfinished, why):
    found = find(load_study(build_variants(seeds=seeds, unfinished=unfinished)))
    assert found.sentence == f"No paired interval between the variants of ImbSAM: {why}."


def test_registry_takes_an_items_own_study_before_others(build_variants, whole_study, edit):
    folder = build_variants()
    gradients_vary(folder, edit)
    other = load_study(folder)
    own = load_study(whole_study)
    items = {item.id: item for item in list_items([own, other])}
    assert items["T5"].state == "reproduced"
    assert "digits-lt at scale digits:" in items["F1"].evidence  # both studies have SGD; F1 is made by digits-lt
    assert {item.id: item for item in list_items([other])}["F1"].evidence.startswith("study weightings")


@pytest.mark.parametrize("ends", [(-0.1308, -0.00789), (0.00033, 0.1126), (-0.1065, -0.001655), (1e-9, 0.5)])
def test_an_interval_that_leaves_out_zero_is_not_rounded_onto_it(ends):
    low, high = (float(end.replace("−", "-")) for end in interval(*ends, signed=True).strip("[]").split(", "))
    assert low * high > 0
    assert low <= ends[0]
    assert high >= ends[1]
