"""Who escaped: decided on numbers chosen by hand, paired over seeds."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.reports.literature import escape_claims
from saddlescope.reports.tables.escape_experiment import Outcome, experiment_sentences, experiment_sheets, judge
from saddlescope.reports.tables.words import number


def at(value, answer="negative curvature", low=None):
    """A group's result as far as the judgement looks."""
    end = SimpleNamespace(value=value, interval=(low, value))
    return SimpleNamespace(lambda_min=end, verdict=SimpleNamespace(curvature=answer))


def way(*steps):
    """Seed -> step -> result, from a row of values for each step."""
    seeds = range(len(next(iter(steps))))
    return {seed: {10 * (n + 1): at(row[seed]) for n, row in enumerate(steps)} for seed in seeds}


CONTROL = way((-1.0, -1.2, -0.8), (-1.0, -1.2, -0.8), (-1.0, -1.2, -0.8))


def test_escaped_from_the_step_on_from_which_it_held():
    mine = way((-1.0, -1.2, -0.8), (-0.5, -0.71, -0.29), (-0.1, -0.32, 0.11))
    found = judge(mine, CONTROL, "SAM", "SGD")
    assert (found.state, found.step) == ("escaped", 20)
    assert found.difference.mean == pytest.approx(0.897, abs=1e-3)
    assert found.sentence.startswith("SAM escaped after at most 20 steps (after 30: λ_min −0.103 against −1.00 of SGD")


def test_leaving_and_coming_back_is_no_escape():
    mine = way((-0.5, -0.71, -0.29), (-0.5, -0.71, -0.29), (-1.0, -1.2, -0.81))
    found = judge(mine, CONTROL, "SAM", "SGD")
    assert (found.state, found.step) == ("not escaped", 30)
    assert "not within 30 steps" in found.sentence


def test_seeds_that_disagree_are_undecided():
    mine = way(*[(-0.1, -1.9, -0.8)] * 3)
    assert judge(mine, CONTROL, "SAM", "SGD").state == "undecided"


def test_no_negative_curvature_left_is_an_escape_whatever_the_control():
    mine = {seed: {10: at(-0.0, "none above tau")} for seed in range(3)}
    control = {seed: {10: at(-0.0, "none above tau")} for seed in range(3)}
    assert judge(mine, control, "SAM", "SGD").state == "escaped"


def test_a_missing_seed_never_escapes():
    mine = way((-0.1, -0.3), (-0.1, -0.3), (-0.1, -0.3))
    assert judge(mine, CONTROL, "SAM", "SGD").state == "undecided"


@pytest.mark.parametrize(("low", "state"), [(-0.5, "escaped"), (-1.5, "undecided"), (None, "undecided")])
def test_one_seed_is_judged_by_its_interval(low, state):
    assert judge({0: {10: at(-0.4, low=low)}}, {0: {10: at(-1.0)}}, "SAM", "SGD").state == state


def test_a_study_that_starts_anew_has_no_experiment(whole_study):
    study = load_study(whole_study)
    assert experiment_sheets(study) == []
    assert experiment_sentences(study) == []


def test_runs_without_a_common_step_are_undecided():
    found = judge({0: {10: at(-0.1)}, 1: {20: at(-0.1)}}, {0: {10: at(-1.0)}, 1: {20: at(-1.0)}}, "SAM", "SGD")
    assert (found.state, found.last, found.difference.decision) == ("undecided", None, "gap")
    assert "no step in common" in found.sentence


def test_the_table_ends_at_the_common_step_and_marks_a_missing_seed(tmp_path, edit):
    folder = tmp_path / "study"
    shutil.copytree(Path(__file__).parents[3] / "reports" / "studies" / "digits-lt-escape", folder)

    def cells(optimizer, group):
        (sheet,) = experiment_sheets(load_study(folder))
        row = next(row for row in sheet.rows if row[0].text == optimizer and row[1].text == group)
        return {head: entry for (head, _), entry in zip(sheet.heads, row, strict=True)}

    whole = cells("SAM", "head")
    by_step = dict(load_study(folder).of("sam")[0].by_step("head-tail"))
    steps = sorted(by_step)
    (last,) = (folder / run.folder.name for run in load_study(folder).of("sgd") if run.seed == 0)
    for path in last.glob("curvature/*.json"):  # SGD, seed 0, loses its last step
        result = json.loads(path.read_text())
        if result["provenance"]["training"].get("step") == steps[-1]:
            path.unlink()
    short = cells("SAM", "head")
    before = by_step[steps[-2]].groups["head"].lambda_min.value
    assert whole["at the end"].text.split("; ")[0] == number(by_step[steps[-1]].groups["head"].lambda_min.value, 2)
    assert short["at the end"].text.split("; ")[0] == number(before, 2)
    ends = [cells(name, "head")["at the end"].sort for name in ("SAM", "SGD")]
    assert short["against the control"].sort == pytest.approx(ends[0] - ends[1])
    edit(
        folder / "study.json",
        lambda raw: raw.update(runs=[row for row in raw["runs"] if (row["optimizer"], row["seed"]) != ("sam", 1)]),
    )
    assert cells("SAM", "head")["at the end"].text.split("; ")[1] == "gap"
    assert cells("SAM", "head")["λ_min at the start"].text.split("; ")[1] == "gap"


@pytest.mark.parametrize(
    ("states", "claimed", "said"),
    [
        (("escaped", "escaped"), "leaves", "reproduced"),
        (("escaped", "undecided"), "leaves", "undecided"),
        (("undecided", "not escaped"), "leaves", "not reproduced"),
        (("not escaped", "not escaped"), "stays", "reproduced"),
        (("not escaped", "escaped"), "stays", "not reproduced"),
    ],
)
def test_a_claim_about_leaving_is_judged_by_the_experiment(states, claimed, said, monkeypatch):
    found = {
        ("sam", group): Outcome(state, 10, None, f"{group} sentence", "12 seeds")
        for group, state in zip(("head", "tail"), states, strict=True)
    }
    monkeypatch.setattr(escape_claims, "outcomes", lambda study: found)
    judged = escape_claims.by_experiment(None, "sam", ["head", "tail"], claimed)
    assert judged.state == said
    assert "tail sentence" in judged.ours
    assert escape_claims.by_experiment(None, "imbsam", ["head"], claimed) is None  # not in the study: nothing is said
