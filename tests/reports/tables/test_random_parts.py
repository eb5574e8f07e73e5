"""Groups measured on random parts are compared by the means over the parts, and every cell and sentence says so."""

from pathlib import Path

import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.reports.literature import claims
from saddlescope.reports.page.html import render
from saddlescope.reports.page.sheets import difference_sheet
from saddlescope.reports.page.summary import summary_sheet, summary_table, verdict_sheet
from saddlescope.reports.tables.comparison import comparison_sheet
from saddlescope.reports.tables.findings import find
from saddlescope.reports.tables.sampling import mean_words
from saddlescope.reports.tables.study_tables import by_seed

STUDY = Path(__file__).parents[3] / "reports" / "studies" / "cifar10-lt-resnet20"
PARTS = "mean over 4 random parts"


def sampled(raw, means, scale=1.0):
    """Gives groups of a result four parts with these means of lambda_min, and lambda_max 10."""
    for group, low in means.items():
        ends = {
            name: {"value": value, "interval": [value - 1, value + 1], "confidence": 0.95, "standard_error": 0.3, "count": 4}
            for name, value in (("lambda_min", low), ("lambda_max", 10.0 * scale))
        }
        raw["groups"][group]["sampling"] = {"population": 900, "subset_size": 100, "subsets": 4, **ends}


@pytest.fixture
def parted(build_study, edit):
    """SAM's tail is shallower than SGD's by one part, and steeper by the mean over parts."""
    folder = build_study()
    for seed in range(3):
        for optimizer, low in (("sgd", -1.0), ("sam", -3.0), ("imbsam", -2.0), ("ssesam", -2.5)):
            path = folder / f"{optimizer}-seed{seed}" / "curvature" / "checkpoint.head-tail.json"
            edit(path, lambda raw, low=low, seed=seed: sampled(raw, {"tail": low - 0.1 * seed**2 * (low < -2)}))
    return folder


def test_the_stored_study_is_ordered_by_the_means():
    study = load_study(STUDY)
    ends = {run.optimizer: run.final("head-tail").groups["tail"] for run in study.runs}
    assert ends["sgd"].lambda_min.value > ends["sam"].lambda_min.value > ends["ssesam"].lambda_min.value
    values = by_seed(study)
    lows = {key: values[key, "tail", "lambda_min"][0] for key in ends}
    assert lows["sgd"] < lows["sam"] < lows["ssesam"]
    assert lows == {key: group.sampling.lambda_min.value for key, group in ends.items()}
    assert ("sgd", "tail", "negative_ratio") not in values
    sheet = summary_sheet(study)
    column = [head for head, _ in sheet.heads].index("tail λ_min")
    assert [row[column].text for row in sheet.rows] == ["−1.95", "−1.73", "−0.906", "−1.13"]
    assert all(row[column].detail.startswith(f"{PARTS}; [") for row in sheet.rows)
    assert all(row[column + 2].detail.startswith("of one part; ") for row in sheet.rows)
    assert PARTS in summary_table(study).caption
    assert verdict_sheet(study, "head-tail").rows[0][2].detail == f"λ_min −1.95, λ_max 44.2, {PARTS}"
    assert [line for line in find(study).support if line.startswith(f"Size, tail: λ_min of SSE-SAM, {PARTS}, is")]


def test_comparisons_and_claims_go_by_the_means_and_leave_the_ratio_out(parted, whole_study):
    study = load_study(parted)
    tail, head = (
        next(row for row in comparison_sheet(study, "head-tail", "sam", [group]).rows if row[1].text == "SGD")
        for group in ("tail", "head")
    )
    assert tail[0].detail == PARTS
    assert tail[2].text.startswith("−2.17")  # -2, -2.1, -2.4
    assert tail[4].detail == "of one part only: not compared"
    assert tail[5].text == "more negative curvature"
    assert (head[0].detail, head[4].text != "–") == ("", True)
    found = {claim.key: outcome for claim, outcome in claims.evaluate(study)}
    flat = found["sam-tail-class"]
    assert flat.state == "not reproduced"  # by one part it was reproduced
    assert flat.why == "The other way round for λ_min, SAM − SGD."
    assert flat.ours.endswith(f"λ_min and λ_max of tail: {PARTS}")
    assert "|λ_min|/λ_max" not in flat.ours
    assert found["overall-like-head"].why == "|λ_min|/λ_max of tail is known of one random part only"
    assert "means over random parts" in difference_sheet(study, "head-tail").caption
    assert "random part" not in difference_sheet(load_study(whole_study), "head-tail").caption
    render(study)


def test_runs_that_measured_the_group_whole_are_told(parted, edit):
    (path,) = parted.glob("sam-seed1/curvature/checkpoint.head-tail.json")
    edit(path, lambda raw: raw["groups"]["tail"].pop("sampling"))
    study = load_study(parted)
    assert mean_words(study, "head-tail") == {"tail": f"{PARTS}, in some runs of all samples"}
    assert f"{PARTS}, in some runs of all samples" in summary_table(study).caption


def test_a_claim_about_the_ratio_is_never_reproduced_without_it(build_study, edit):
    folder = build_study(optimizers=("sgd", "sam"))
    for seed, low in enumerate((-8.0, -8.5, -9.0)):
        sgd, sam = (folder / f"{key}-seed{seed}" / "curvature" / "checkpoint.head-tail.json" for key in ("sgd", "sam"))
        edit(sgd, lambda raw, low=low, seed=seed: sampled(raw, {"tail": low}, 2 + 0.1 * seed))
        edit(sam, lambda raw: sampled(raw, {"tail": -1.0}))
    found = {claim.key: outcome for claim, outcome in claims.evaluate(load_study(folder))}
    why = "The other differences have the claimed sign, but |λ_min|/λ_max of tail is known of one random part only."
    assert (found["sam-tail-class"].state, found["sam-tail-class"].why) == ("undecided", why)
    assert (found["tail-more-nonconvex"].state, found["tail-more-nonconvex"].why) == ("undecided", why)
