"""Class groups against the definitions of the papers' conventions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.samples.groups import GroupError, asked_for, group_indices, is_partition, make_scheme, scheme_of
from saddlescope.analysis.samples.samples import Samples


def of_counts(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    return Samples((torch.zeros(len(labels), 1),), labels, len(counts))


def exponential(n_max, factor, classes):
    return [int(n_max * factor ** (-c / (classes - 1))) for c in range(classes)]


def test_eta_itself_is_head():
    scheme = make_scheme("head-tail", [50, 20, 19, 3], eta=20)
    assert scheme.groups == {"all": [0, 1, 2, 3], "head": [0, 1], "tail": [2, 3]}
    assert scheme.sizes == {"all": 92, "head": 70, "tail": 22}
    assert (scheme.name, scheme.eta) == ("head-tail", 20)


def test_cifar10_lt_thresholds():
    scheme = make_scheme("many-medium-few", [5000, 1001, 1000, 200, 199, 50])
    assert scheme.groups == {"all": [0, 1, 2, 3, 4, 5], "many": [0, 1], "medium": [2, 3], "few": [4, 5]}


@pytest.mark.parametrize("n_max", [500, 100 + 1])
def test_cifar100_lt_thresholds(n_max):
    scheme = make_scheme("many-medium-few", [n_max, 100, 20, 19, 5])
    assert scheme.groups == {"all": [0, 1, 2, 3, 4], "many": [0], "medium": [1, 2], "few": [3, 4]}


@pytest.mark.parametrize(
    ("counts", "large"),
    [
        (exponential(5000, 100, 10), True),  # CIFAR-10-LT
        (exponential(5000, 50, 10), True),
        (exponential(500, 100, 100), False),  # CIFAR-100-LT
        (exponential(1280, 256, 1000), False),  # ImageNet-LT: its largest class has 1280 images, its smallest 5
        ([max(5, int(4980 / (c + 1) ** 1.1)) for c in range(365)], False),  # as long-tailed as Places-LT
    ],
)
def test_published_data_sets_get_their_own_thresholds(counts, large):
    scheme = make_scheme("many-medium-few", counts)
    many, few = (1000, 200) if large else (100, 20)
    assert scheme.groups["many"] == [c for c, n in enumerate(counts) if n > many]
    assert scheme.groups["few"] == [c for c, n in enumerate(counts) if n < few]


def test_per_class_and_all():
    assert make_scheme("all", [3, 2]).groups == {"all": [0, 1]}
    scheme = make_scheme("per-class", [3, 2])
    assert scheme.groups == {"all": [0, 1], "class 0": [0], "class 1": [1]}
    assert scheme.eta is None


def test_custom_groups_may_overlap_and_leave_classes_out():
    scheme = make_scheme("custom", [5, 4, 3], mapping={"rare": [2, 1, 2], "last": [2]})
    assert scheme.groups == {"rare": [1, 2], "last": [2]}
    assert scheme.sizes == {"rare": 7, "last": 3}
    assert not is_partition(scheme, of_counts([5, 4, 3]))


def test_custom_groups_hold_all_only_where_that_is_asked_for():
    wanted = {"rare": [2, 1], "all": [0, 1, 2]}
    assert list(make_scheme("custom", [5, 4, 3], mapping=wanted).groups) == ["all", "rare"]
    settings = AnalysisSettings(scheme="custom", groups={"rare": [2]}, only=["all", "rare"])
    assert scheme_of(settings, of_counts([5, 4, 3])).groups == {"all": [0, 1, 2], "rare": [2]}
    assert asked_for(make_scheme("head-tail", [5, 4, 3], eta=4), ["tail"]) == ["tail"]
    with pytest.raises(GroupError, match="no group few in scheme head-tail; there are: all, head, tail"):
        asked_for(make_scheme("head-tail", [5, 4, 3], eta=4), ["few"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "head-tail"}, "needs eta"),
        ({"name": "head-tail", "eta": 100}, "head .*is empty"),
        ({"name": "head-tail", "eta": 2}, "tail .*eta = 2 is empty"),
        ({"name": "many-medium-few"}, "many, medium of scheme many-medium-few is empty"),
        ({"name": "custom"}, "needs groups"),
        ({"name": "custom", "mapping": {"a": [0, 7]}}, r"classes \[7\] do not exist"),
        ({"name": "custom", "mapping": {"a": []}}, "group a .*is empty"),
        ({"name": "custom", "mapping": {"all": [0]}}, "'all' .*every class"),
        ({"name": "heads"}, "unknown scheme 'heads'"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(GroupError, match=message):
        make_scheme(class_counts=[9, 5, 3], **arguments)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(1, 20))
def test_groups_partition_the_samples(labels, eta):
    labels = np.array(labels)
    counts = np.bincount(labels, minlength=4)
    try:
        scheme = make_scheme("head-tail", counts, eta=eta)
    except GroupError:
        assert (counts < eta).all() or counts[counts < eta].sum() == 0
        return
    samples = Samples((torch.zeros(len(labels), 1),), labels, 4)
    indices = group_indices(scheme, samples)
    assert is_partition(scheme, samples)
    assert sorted([*indices["head"], *indices["tail"]]) == list(range(len(labels))) == list(indices["all"])
    assert {name: len(where) for name, where in indices.items()} == scheme.sizes
    assert all(counts[labels[i]] < eta for i in indices["tail"])


def test_thresholds_of_many_and_few_may_be_given():
    scheme = make_scheme("many-medium-few", [70, 60, 15, 14], shots=(60, 15))
    assert scheme.groups == {"all": [0, 1, 2, 3], "many": [0], "medium": [1, 2], "few": [3]}
    with pytest.raises(GroupError, match=r"many: over 100 samples, few: under 20; others with --set many=N --set few=N"):
        make_scheme("many-medium-few", [70, 60, 15, 14])
