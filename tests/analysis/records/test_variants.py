"""What tells one variant of an optimizer from another, in words, from the recipe alone."""

import pytest
from saddlescope.analysis.records.variants import variants


@pytest.mark.parametrize(
    ("tables", "labels"),
    [
        ({"sgd": {}, "sam": {"rho": 0.05}}, {"sgd": "", "sam": ""}),
        ({"mine": {}}, {"mine": ""}),  # a study of a user's own, or one without a recipe
        (
            {"imbsam": {"rho": 0.05, "normalisation": "batch"}, "x": {"rule": "imbsam", "rho": 0.05, "normalisation": "group"}},
            {"imbsam": "batch", "x": "group"},
        ),
        (
            {"a": {"rule": "sam", "rho": 0.1}, "b": {"rule": "sam", "rho": 0.2}, "sgd": {}},
            {"a": "rho 0.1", "b": "rho 0.2", "sgd": ""},
        ),
        (
            {"imbsam": {"split_batches": False, "rho": 0.1}, "s": {"rule": "imbsam", "split_batches": True, "rho": 0.2}},
            {"imbsam": "no split_batches, rho 0.1", "s": "split_batches, rho 0.2"},
        ),
        ({"ccsam": {}, "c": {"rule": "ccsam", "mixup_alpha": 1.0}}, {"ccsam": "no mixup_alpha", "c": "mixup_alpha 1"}),
        ({"imbsam-group": {"rule": "imbsam", "rho": 0.1}}, {"imbsam-group": "group"}),  # nothing to tell it from: its own name
        ({"sam": {}, "again": {"rule": "sam"}}, {"sam": "sam", "again": "again"}),  # nothing recorded differs
    ],
)
def test_labels(tables, labels):
    assert {key: entry.label for key, entry in variants(tables, list(tables)).items()} == labels


def test_a_variant_is_told_from_all_the_others():
    tables = {
        "a": {"rule": "sam", "rho": 0.1},
        "b": {"rule": "sam", "rho": 0.1, "adaptive": True},
        "c": {"rule": "sam", "rho": 0.2},
    }
    found = [entry.label for entry in variants(tables, ["a", "b", "c"]).values()]
    assert found == ["rho 0.1, no adaptive", "rho 0.1, adaptive", "rho 0.2, no adaptive"]


def test_the_plain_name_is_the_first_of_its_rule():
    tables = {"imbsam-a": {"rule": "imbsam", "rho": 1}, "imbsam": {"rho": 2}, "b": {"rule": "sam"}, "sgd": {}}
    found = variants(tables, list(tables))
    assert {key: (entry.rule, entry.order) for key, entry in found.items()} == {
        "imbsam-a": ("imbsam", 1),
        "imbsam": ("imbsam", 0),
        "b": ("sam", 1),
        "sgd": ("sgd", 0),
    }
