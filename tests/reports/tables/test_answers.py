"""The answer follows from the verdicts, whatever they are."""

from dataclasses import replace

import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.reports.tables.answers import GroupState, decide, ends, where
from saddlescope.reports.tables.findings import find

OTHERS = ("sgd", "sam", "imbsam")


def states(ssesam, **others):
    """``states(("free", "free"), sgd=("saddle", "free"))``: (head, tail) of each optimizer; others default to saddles."""
    table = {name: others.get(name, ("saddle", "saddle")) for name in OTHERS} | {"ssesam": ssesam}
    return [
        GroupState(name, group, state, state)
        for name, pair in table.items()
        for group, state in zip(("head", "tail"), pair, strict=True)
    ]


@pytest.mark.parametrize(
    ("found", "answer", "words"),
    [
        (states(("free", "free")), "Yes", "SGD, SAM and ImbSAM end at a saddle"),
        (states(("free", "free"), imbsam=("saddle", "free")), "Yes", "at least one of them"),
        (states(("free", "free"), sam=("free", "free")), "Partly", "but so does SAM"),
        (states(("free", "free"), sam=("free", "open")), "Undecided", "differs from seed to seed"),
        (states(("free", "free"), **dict.fromkeys(OTHERS, ("free", "free"))), "No difference", "no saddle to escape"),
        (states(("saddle", "free")), "No", "saddle of head in every seed; so do SGD, SAM and ImbSAM"),
        (states(("saddle", "saddle"), sgd=("free", "free"), sam=("open", "open")), "No", "so does ImbSAM"),
        (states(("open", "open"), **dict.fromkeys(OTHERS, ("open", "open"))), "Undecided", "nothing separates them"),
        (states(("open", "free")), "Undecided", "not stationary in head and is free of negative curvature above τ in tail"),
        (states(("mixed", "mixed")), "Undecided", "differently from seed to seed in head"),
        (states(("unsettled", "free")), "Undecided", "does not settle in head"),
        (states(("free", "free"), sam=("gap", "saddle")), "Not answered", "SAM are missing"),
        (states(("gap", "free")), "Not answered", "SSE-SAM are missing"),
    ],
)
def test_every_answer(found, answer, words):
    word, sentence = decide(found, ("head", "tail"))
    assert word == answer
    assert words in sentence


@pytest.mark.parametrize(
    ("found", "answer", "sentence"),
    [
        ({"sgd": ("saddle", "saddle"), "sam": ("saddle", "saddle")}, "At a saddle", "SGD and SAM of head and tail"),
        ({"sgd": ("saddle", "saddle"), "sam": ("open", "mixed")}, "Different", "SGD of head and tail; SAM of none"),
        ({"sgd": ("saddle", "free"), "sam": ("free", "free")}, "Different", "SGD of head; SAM of none"),
        ({"sgd": ("saddle", "free"), "sam": ("saddle", "mixed")}, "Partly", "SGD and SAM of head"),
        ({"sgd": ("open", "open"), "sam": ("free", "free")}, "No saddle", "SGD and SAM of none"),
    ],
)
def test_every_answer_without_ssesam(found, answer, sentence):
    given = [state for state in states(("free", "free"), **found) if state.optimizer in found]
    assert where(given, ("head", "tail")) == (answer, f"At a saddle in every seed: {sentence}.")
    gap = [replace(given[0], state="gap"), *given[1:]]
    assert where(gap, ("head", "tail"))[0] == "Not answered"


def test_a_study_without_ssesam_says_where_the_others_end(build_study):
    found = find(load_study(build_study(optimizers=("sgd", "sam"))))
    assert found.answer == "At a saddle"
    assert found.sentence == "At a saddle in every seed: SGD and SAM of head and tail."


def test_where_own_checkpoints_end_is_the_mean_over_parts_of_a_group(build_study, edit):
    folder = build_study(optimizers=("sgd",), seeds=(0,))
    (run,) = folder.glob("sgd-seed0*")

    def part(raw):
        mean = {"value": -7.25, "interval": [-8.0, -6.5], "confidence": 0.95, "standard_error": 0.2}
        raw["groups"]["head"]["sampling"] = {
            "population": 900, "subset_size": 100, "subsets": 4, "lambda_min": mean, "lambda_max": mean | {"value": 9.0},
        }  # fmt: skip

    edit(run / "curvature" / "checkpoint.head-tail.json", part)
    study = load_study(folder)
    found = [GroupState("sgd", group, "saddle", "saddle") for group in ("head", "tail")]
    answer, sentence = ends(study, "head-tail", found)
    assert answer == "At a saddle"
    head, tail = sentence.split("; ")
    assert "λ_min −7.25 (mean over 4 random parts)" in head
    assert "parts" not in tail
