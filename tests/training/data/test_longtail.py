"""Class counts and choices of samples against the papers' numbers and closed forms."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saddlescope.training.data.longtail import (
    LongTailError,
    imbalance_factor,
    index_sha256,
    long_tail_counts,
    long_tail_indices,
    tail_ratio,
)


@pytest.mark.parametrize(
    ("n_max", "classes", "factor", "counts"),
    [
        (5000, 10, 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),  # CIFAR-10-LT, IF 100
        (5000, 10, 10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
    ],
)
def test_the_published_class_sizes(n_max, classes, factor, counts):
    assert long_tail_counts(n_max, classes, factor) == counts
    assert long_tail_counts(n_max, classes, 1 / factor) == counts


def test_cifar100_lt_has_10847_images():
    counts = long_tail_counts(500, 100, 100)
    assert (sum(counts), counts[0], counts[-1]) == (10847, 500, 5)


def test_a_step_has_two_sizes():
    assert long_tail_counts(100, 5, 10, "step") == [100, 100, 10, 10, 10]


@given(st.integers(2, 60), st.integers(20, 3000), st.floats(1, 20))
def test_sizes_fall_from_n_max_to_n_max_over_the_factor(classes, n_max, factor):
    counts = long_tail_counts(n_max, classes, factor)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == n_max
    assert counts[-1] == pytest.approx(n_max / factor, abs=1)
    assert imbalance_factor(1 / factor) == pytest.approx(factor)


LABELS = np.repeat(np.arange(4), 50)[np.random.default_rng(0).permutation(200)]


def test_indices_have_the_counts_and_are_members_of_their_class():
    index = long_tail_indices(LABELS, 10, seed=3)
    assert np.bincount(LABELS[index]).tolist() == long_tail_counts(50, 4, 10)
    assert len(set(index.tolist())) == len(index)


def test_first_takes_file_order_and_ldam_one_shuffled_stream():
    counts = long_tail_counts(50, 4, 10)
    first = long_tail_indices(LABELS, 10, protocol="first")
    assert first.tolist() == [i for c in range(4) for i in np.flatnonzero(c == LABELS)[: counts[c]]]
    random = np.random.RandomState(5)  # the published loop, written out
    wanted = []
    for c in range(4):
        members = np.flatnonzero(c == LABELS)
        random.shuffle(members)
        wanted += members[: counts[c]].tolist()
    assert long_tail_indices(LABELS, 10, seed=5).tolist() == wanted


def test_the_identity_of_a_choice_does_not_depend_on_the_integer_type():
    index = np.array([3, 1, 2])
    plain = hashlib.sha256(b"".join(int(i).to_bytes(8, "little") for i in index)).hexdigest()
    assert index_sha256(index) == index_sha256(index.astype(np.int32)) == plain


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: long_tail_counts(50, 10, 100), "leaves class"),
        (lambda: long_tail_counts(50, 1, 10), "2 classes"),
        (lambda: tail_ratio(0), "above 0"),
        (lambda: tail_ratio(float("nan")), "nan"),
        (lambda: long_tail_indices([0, 2, 2], 2), "gap"),
        (lambda: long_tail_indices(LABELS, 10, n_max=51), "lower n_max"),
        (lambda: long_tail_indices(LABELS, 10, protocol="last"), "'ldam' or 'first'"),
        (lambda: long_tail_counts(50, 4, 10, "linear"), "'exp' or 'step'"),
    ],
)
def test_impossible_tails_are_refused(call, said):
    with pytest.raises(LongTailError, match=said):
        call()
