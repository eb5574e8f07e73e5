"""The headline of an escape experiment is who left, not where training ends."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.reports.tables import escape_experiment, experiment_answer
from saddlescope.reports.tables.escape_experiment import Outcome, control_left
from saddlescope.reports.tables.findings import find

STUDY = Path(__file__).parents[3] / "reports" / "studies" / "digits-lt-escape"


def test_the_stored_experiment_is_answered_by_its_outcomes():
    found = find(load_study(STUDY))
    assert found.answer == "Partly"
    assert found.sentence == (
        "From the same checkpoint, against SGD going on: SAM leaves head and tail; ImbSAM leaves tail, not head; SSE-SAM "
        "leaves tail, undecided in head."
    )
    assert found.decides == (
        "What would decide it: SSE-SAM, head: 818 seeds would decide an effect of this size with probability 0.8."
    )
    assert control_left(load_study(STUDY)) == []


def test_a_control_without_negative_curvature_at_its_end_is_named(monkeypatch):
    def ways(study, key, scheme, group):
        end = SimpleNamespace(verdict=SimpleNamespace(curvature="none above tau" if group == "head" else "negative curvature"))
        return {0: {10: SimpleNamespace(verdict=SimpleNamespace(curvature="negative curvature")), 20: end}}

    monkeypatch.setattr(escape_experiment, "_ways", ways)
    assert control_left(load_study(STUDY)) == ["head"]


@pytest.mark.parametrize(
    ("head", "tail", "freed", "word"),
    [
        (["escaped"] * 3, ["escaped"] * 3, [], "Yes"),
        (["escaped"] * 3, ["escaped"] * 3, ["head", "tail"], "No difference"),
        (["escaped"] * 3, ["escaped"] * 3, ["head"], "Partly"),
        (["not escaped"] * 3, ["not escaped"] * 3, [], "No"),
        (["not escaped"] * 3, ["not escaped", "undecided", "not escaped"], [], "Undecided"),
        (["undecided"] * 3, ["escaped", "undecided", "undecided"], [], "Partly"),
        (["escaped"] * 3, ["escaped", "escaped", None], [], "Partly"),
        (["not escaped"] * 3, ["not escaped", "not escaped", None], [], "Undecided"),
    ],
)
def test_every_word_of_an_experiment(head, tail, freed, word, monkeypatch):
    keys = ("sam", "imbsam", "ssesam")
    found = {
        (key, group): Outcome(state, 10, None, "", "12 seeds" if state == "undecided" else "")
        for group, states in (("head", head), ("tail", tail))
        for key, state in zip(keys, states, strict=True)
        if state
    }
    monkeypatch.setattr(experiment_answer, "outcomes", lambda study: found)
    monkeypatch.setattr(experiment_answer, "control_left", lambda study: freed)
    answer, sentence, decides = experiment_answer.experiment_answer(load_study(STUDY), ["head", "tail"])
    assert answer == word
    assert ("12 seeds" in decides) == ("undecided" in head + tail)
    assert ("not measured in tail" in sentence) == (None in tail)
    assert ("no negative curvature above τ left in head" in sentence) == bool(freed)
