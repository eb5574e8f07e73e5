"""Samples: order, batches, hashes, and every kind of data that must be refused."""

import hashlib
from collections import UserDict

import numpy as np
import pytest
import torch
from saddlescope.analysis.samples.given import as_samples
from saddlescope.analysis.samples.samples import Samples, SamplesError, batch_size, find_labels
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)


def pairs(n=11):
    return torch.arange(n * 6, dtype=torch.float32).reshape(n, 2, 3), torch.arange(n) % 4


class Items(Dataset):
    def __init__(self, item, n=10):
        self.item, self.n = item, n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return self.item(index)


def test_counts_labels_and_classes_without_samples():
    samples = Samples.from_tensors(*pairs(), num_classes=6)
    assert samples.num_samples == 11
    assert samples.labels.dtype == np.int64
    assert samples.class_counts.tolist() == [3, 3, 3, 2, 0, 0]
    assert Samples.from_tensors(*pairs()).class_counts.tolist() == [3, 3, 3, 2]


@pytest.mark.parametrize("size", [1, 3, 4, 11, 100])
def test_batches_hold_every_sample_once_in_order(size):
    inputs, targets = pairs()
    parts = list(Samples.from_tensors(inputs, targets).batches(size))
    assert torch.equal(torch.cat([x for x, _ in parts]), inputs)
    assert torch.equal(torch.cat([y for _, y in parts]), targets)
    assert [batch_size(part) for part in parts] == [min(size, 11 - start) for start in range(0, 11, size)]


def test_dtype_changes_floats_only():
    ((x, y),) = Samples.from_tensors(*pairs()).batches(100, dtype=torch.float64)
    assert (x.dtype, y.dtype) == (torch.float64, torch.int64)


def test_subset_keeps_the_given_order_and_the_number_of_classes():
    inputs, targets = pairs()
    part = Samples.from_tensors(inputs, targets, num_classes=5).subset(np.array([7, 0, 7]))
    ((x, y),) = part.batches(9)
    assert torch.equal(x, inputs[[7, 0, 7]])
    assert y.tolist() == [3, 0, 3] == part.labels.tolist()
    assert part.class_counts.tolist() == [1, 0, 0, 2, 0]
    with pytest.raises(SamplesError, match="empty"):
        part.subset(np.array([], dtype=int))
    assert part.subset(part.labels == 3).labels.tolist() == [3, 3]
    assert part.subset([True, False, True]).labels.tolist() == [3, 3]
    for mask, said in (([True, False], "a mask of 2 for 3 samples"), ([False] * 3, "empty")):
        with pytest.raises(SamplesError, match=said):
            part.subset(np.array(mask))


def test_hash_depends_on_content_order_and_dtype_and_is_plain_sha256():
    inputs, targets = pairs(3)
    samples = Samples.from_tensors(inputs, targets)
    digest = hashlib.sha256()
    for array, name in ((inputs, "(3, 2, 3) torch.float32"), (targets, "(3,) torch.int64"), (targets, "(3,) torch.int64")):
        digest.update(name.encode())
        digest.update(array.numpy().tobytes())
    assert samples.sha256() == digest.hexdigest() == Samples.from_tensors(inputs.clone(), targets.clone()).sha256()
    others = [
        Samples.from_tensors(inputs + 1e-6, targets),
        Samples.from_tensors(inputs.double(), targets),
        Samples.from_tensors(inputs, targets.flip(0)),
        samples.subset(np.array([2, 1, 0])),
    ]
    assert len({samples.sha256(), *(other.sha256() for other in others)}) == 5


def test_hash_of_a_view_is_that_of_its_copy():
    inputs = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    targets = torch.tensor([0, 1, 0, 1])
    assert Samples.from_tensors(inputs, targets).sha256() == Samples.from_tensors(inputs.contiguous(), targets).sha256()


def test_dictionaries_and_nested_batches():
    inputs, targets = pairs()
    samples = Samples({"pixels": inputs, "extra": [inputs[:, 0]], "labels": targets}, targets)
    part = list(samples.batches(4))[2]
    assert torch.equal(part["extra"][0], inputs[8:, 0])
    assert find_labels(part).tolist() == targets[8:].tolist()


def test_from_dataset_and_from_batches_agree_with_the_tensors():
    inputs, targets = pairs()
    whole = Samples.from_tensors(inputs, targets)
    assert Samples.from_dataset(TensorDataset(inputs, targets)).sha256() == whole.sha256()
    ragged = [(inputs[:4], targets[:4]), (inputs[4:5], targets[4:5]), (inputs[5:], targets[5:])]
    assert Samples.from_batches(ragged).sha256() == whole.sha256()
    named = Samples.from_dataset(Items(lambda i: {"image": inputs[i], "label": int(targets[i])}, 11))
    assert named.labels.tolist() == targets.tolist()
    unnamed = Samples.from_dataset(Items(lambda i: {"image": inputs[i]}, 11), labels=targets)
    assert unnamed.labels.tolist() == targets.tolist()


def test_random_augmentation_is_refused():
    generator = torch.Generator().manual_seed(0)
    inputs, targets = pairs()

    def flipped(index):
        return (inputs[index].flip(0) if torch.rand((), generator=generator) < 0.5 else inputs[index]), int(targets[index])

    with pytest.raises(SamplesError, match="random augmentation"):
        Samples.from_dataset(Items(flipped, 11))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, y: Samples.from_tensors(x[:0], y[:0]), "empty"),
        (lambda x, y: Samples.from_dataset(TensorDataset(x[:0], y[:0])), "empty"),
        (lambda x, y: Samples.from_batches([]), "empty"),
        (lambda x, y: Samples.from_tensors(x, y[:-1]), "different length"),
        (lambda x, y: Samples.from_tensors(x, y, num_classes=3), "label 3 of sample 3 is outside 0..2"),
        (lambda x, y: Samples.from_tensors(x, y - 1), "label -1 of sample 0"),
        (lambda x, y: Samples.from_tensors(x.index_fill(0, torch.tensor(5), float("nan")), y), "sample 5 holds NaN"),
        (lambda x, y: Samples.from_tensors(x, torch.nn.functional.one_hot(y)), "one class per sample"),
        (lambda x, y: Samples.from_tensors(x, y + 0.5), "whole numbers"),
        (lambda x, y: Samples((x, y), y.numpy() + 0.25), "whole numbers"),
        (lambda x, y: Samples.from_dataset(Items(lambda i: (x[i].reshape([6] if i % 2 else [2, 3]), 0))), "stacked"),
        (lambda x, y: Samples.from_dataset(Items(lambda i: (x[i], 0.5)), labels=1), "one whole number per sample"),
        (lambda x, y: Samples.from_dataset(Items(lambda i: {"image": x[i]}), labels="class"), "no such entry"),
        (lambda x, y: Samples.from_dataset(Items(lambda i: {"image": x[i], "file": f"{i}.png", "label": 0})), "str"),
    ],
)
def test_refused(make, message):
    with pytest.raises(SamplesError, match=message):
        make(*pairs())


def loader(x, y, **settings):
    return DataLoader(TensorDataset(x, y), batch_size=4, **settings)


def test_a_loader_stands_for_all_its_samples_in_the_order_of_its_set():
    x, y = torch.randn(10, 3), torch.arange(10) % 3
    whole = Samples.from_tensors(x, y)
    assert as_samples(loader(x, y, shuffle=True, drop_last=True)).sha256() == whole.sha256()

    def scaled(items):
        inputs, targets = default_collate(items)
        return 2 * inputs, targets

    collated = as_samples(loader(x, y, shuffle=True, collate_fn=scaled))
    assert collated.sha256() == Samples.from_tensors(2 * x, y).sha256()
    for sampler in (SubsetRandomSampler([1, 2]), RandomSampler(y, replacement=True)):
        with pytest.raises(SamplesError, match=type(sampler).__name__):
            as_samples(loader(x, y, sampler=sampler))


def test_a_loader_by_a_batch_sampler_of_its_own():
    x, y = torch.randn(10, 3), torch.arange(10) % 3
    data = TensorDataset(x, y)
    whole = Samples.from_tensors(x, y).sha256()
    for collate in (default_collate, lambda items: default_collate([*items])):
        shuffled = BatchSampler(RandomSampler(data), 4, drop_last=True)
        assert as_samples(DataLoader(data, batch_sampler=shuffled, collate_fn=collate)).sha256() == whole
        for sampler in (SubsetRandomSampler([1, 2]), SequentialSampler(range(5))):
            with pytest.raises(SamplesError, match=f"a loader whose {type(sampler).__name__} chooses the samples"):
                as_samples(DataLoader(data, batch_sampler=BatchSampler(sampler, 4, False), collate_fn=collate))
            with pytest.raises(SamplesError, match=f"a loader whose {type(sampler).__name__} chooses the samples"):
                as_samples(DataLoader(data, sampler=sampler, collate_fn=collate))


def test_a_loader_of_a_set_of_batches_is_its_batches():
    x, y = torch.randn(10, 3), torch.arange(10) % 3
    batches = Items(lambda i: (x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4]), 3)
    samples = as_samples(DataLoader(batches, batch_size=None, shuffle=True))
    assert samples.sha256() == Samples.from_tensors(x, y).sha256()
    named = Items(lambda i: {"x": x[4 * i : 4 * i + 4], "label": y[4 * i : 4 * i + 4], "kind": y[4 * i : 4 * i + 4] // 2}, 3)
    assert as_samples(DataLoader(named, batch_size=None), column="kind").columns["kind"].codes.tolist() == (y // 2).tolist()


def test_what_tokenisers_make_are_batches_and_items_too():
    x, y = torch.arange(12).reshape(6, 2), torch.arange(6) % 3
    wanted = Samples({"input_ids": x, "labels": y}, y).sha256()
    for kind in (UserDict, dict):
        for made in (torch.Tensor.clone, lambda part: part.clone().numpy()):
            items = Items(lambda i, kind=kind, made=made: kind(input_ids=made(x[i]), labels=made(y[i])), 6)
            for data in (items, kind(input_ids=made(x), labels=made(y))):
                assert as_samples(data).sha256() == wanted
        parts = [kind(input_ids=x[rows], labels=y[rows]) for rows in (slice(4), slice(4, 6))]
        assert as_samples(parts).sha256() == wanted
    nested = as_samples(Items(lambda i: (UserDict(input_ids=x[i]), int(y[i])), 6))
    assert torch.equal(nested.batch[0]["input_ids"], x)
    masked = as_samples([(torch.full((3, 4, 4), float(i)), torch.zeros(4, 4)) for i in range(5)])  # of no one length
    assert (masked.num_samples, tuple(masked.batch[0].shape)) == (5, (5, 3, 4, 4))


def test_entries_of_dictionaries_are_joined_by_their_keys():
    x, m, y = torch.randn(4, 3), torch.ones(4, 3), torch.arange(4)
    batches = [{"x": x[:2], "mask": m[:2], "labels": y[:2]}, {"mask": m[2:], "labels": y[2:], "x": x[2:]}]
    assert torch.equal(Samples.from_batches(batches).batch["x"], x)
    with pytest.raises(SamplesError, match="entries of the first one: x, mask, labels"):
        Samples.from_batches([batches[0], {"x": x[2:], "labels": y[2:]}])
    with pytest.raises(SamplesError, match="not all batches have a tensor of 2 dimensions"):
        Samples.from_batches([(x[:2], y[:2]), (x[2:, 0], y[2:])])


def test_an_iterable_set_is_read_once():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.ones(2), 0), (torch.zeros(2), 1)])

    assert as_samples(Stream()).class_counts.tolist() == [1, 1]
