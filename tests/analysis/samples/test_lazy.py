"""Samples read as they are needed: equal to those in memory, bounded, and every data set that must be refused.

Above 300 lines: every path of lazy samples is held against the same data sets in memory.
"""

import json
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from saddlescope.analysis.checkpoints.analysis_inputs import SubjectError, open_checkpoint
from saddlescope.analysis.checkpoints.checkpoint_flags import Given
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.samples import lazy as lazy_samples
from saddlescope.analysis.samples.given import as_samples
from saddlescope.analysis.samples.lazy import ItemStore, known_labels
from saddlescope.analysis.samples.samples import Samples, SamplesError
from saddlescope.training.runs.recipe import parse_recipe
from saddlescope.training.runs.study import train_study
from torch.utils.data import Dataset, Subset


class OnDisk(Dataset):
    """Items of tensors; counts what is read, and how many at once."""

    lazy = True

    def __init__(self, inputs, targets, wait=0.0):
        self.inputs, self.targets, self.wait = inputs, targets, wait
        self.read, self.now, self.most = [], 0, 0
        self.guard = threading.Lock()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        with self.guard:
            self.read.append(index)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.wait)
        with self.guard:
            self.now -= 1
        return self.inputs[index], int(self.targets[index])


class TooLarge(OnDisk):
    """Does not ask for anything."""

    lazy = False


def pairs(n=37):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 6, 6, generator=generator), torch.arange(n) % 4


@pytest.fixture
def no_memory(monkeypatch):
    """Room for half a set."""
    monkeypatch.setattr(lazy_samples, "free_bytes", lambda _device: 2600)


def same_batches(one, other, size, **more):
    pairs = list(zip(one.batches(size, **more), other.batches(size, **more), strict=True))
    return all(torch.equal(a, b) and a.dtype == b.dtype for x, y in pairs for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("size", [1, 5, 37, 100])
def test_batches_and_groups_are_those_in_memory(size):
    inputs, targets = pairs()
    lazy, held = Samples.from_dataset(OnDisk(inputs, targets), 5), Samples.from_tensors(inputs, targets, 5)
    assert isinstance(lazy.store, ItemStore)
    assert same_batches(lazy, held, size)
    assert same_batches(lazy, held, size, dtype=torch.float64)
    chosen = np.array([30, 2, 2, 17, 5, 36])
    assert same_batches(lazy.subset(chosen), held.subset(chosen), size)
    assert same_batches(lazy.subset(chosen).subset(np.array([3, 0])), held.subset(chosen[[3, 0]]), size)
    assert lazy.num_samples == 37
    assert lazy.class_counts.tolist() == held.class_counts.tolist() == [10, 9, 9, 9, 0]
    assert lazy.subset(chosen).labels.tolist() == held.subset(chosen).labels.tolist()
    assert torch.equal(lazy.batch[0], inputs)
    with pytest.raises(SamplesError, match="empty"):
        lazy.subset(np.array([], dtype=int))


def test_nothing_is_read_before_its_time_and_one_batch_ahead():
    data = OnDisk(*pairs())
    samples = Samples.from_dataset(data)
    part = samples.subset(np.arange(20))
    data.read.clear()
    whole = part.subset(np.arange(5, 20))
    assert data.read == []
    batches = whole.batches(4)
    next(batches)
    time.sleep(0.1)
    assert sorted(data.read) == list(range(5, 13))
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("samples")]


def test_a_set_that_fits_is_read_once():
    data = OnDisk(*pairs())
    samples = Samples.from_dataset(data)
    data.read.clear()
    for _ in range(3):
        assert torch.equal(torch.cat([x for x, _ in samples.batches(5)]), data.inputs)
        list(samples.subset(np.arange(10, 20)).batches(3))
    assert sorted(data.read) == list(range(37))


def test_a_group_keeps_what_fits(monkeypatch):
    monkeypatch.setattr(lazy_samples, "free_bytes", lambda _device: 8 * 6 * (36 * 4 + 8))
    monkeypatch.setattr(lazy_samples, "_readers", lambda: 1)
    data = OnDisk(*pairs())
    samples = Samples.from_dataset(data)
    data.read.clear()
    for _ in range(2):
        list(samples.batches(10))
    assert data.read == [*range(37), *range(37)]  # what is kept of a large set would be no group's
    group = samples.subset(np.arange(10, 20))
    reads = []
    for _ in range(3):
        data.read.clear()
        assert torch.equal(torch.cat([x for x, _ in group.batches(3)]), data.inputs[10:20])
        reads.append(list(data.read))
    assert reads == [list(range(10, 20)), [16, 17, 18, 19], [16, 17, 18, 19]]
    data.read.clear()
    list(group.subset(np.arange(4, 10)).batches(3))
    assert data.read == [16, 17, 18, 19]  # a part of a group shares what it keeps; another group does not
    data.read.clear()
    list(samples.subset(np.arange(10, 14)).batches(3))
    assert data.read == [10, 11, 12, 13]


def test_only_a_set_that_asks_is_read_by_several_threads(no_memory, monkeypatch):
    monkeypatch.setattr(lazy_samples, "_readers", lambda: 4)
    for kind, most in ((OnDisk, 4), (TooLarge, 1)):
        data = kind(*pairs(), wait=0.002)
        samples = Samples.from_dataset(data)
        assert isinstance(samples.store, ItemStore)
        first, second = samples.batches(8), samples.batches(8)
        for _ in range(3):
            next(first), next(second)
        assert (data.most > 1) == (most > 1)


def test_a_set_that_memory_does_not_hold_is_the_same_set(no_memory, monkeypatch):
    inputs, targets = pairs()
    lazy, held = Samples.from_dataset(TooLarge(inputs, targets)), Samples.from_tensors(inputs, targets)
    assert isinstance(lazy.store, ItemStore)
    assert lazy.sha256() == held.sha256()
    chosen = np.array([5, 1, 30])
    assert lazy.subset(chosen).sha256() == held.subset(chosen).sha256()
    with pytest.raises(SamplesError, match=r"37 samples of 0\.000152 MB do not fit into 2\.6e-06 GB"):
        lazy.in_memory()
    part = Samples.from_dataset(Subset(TooLarge(inputs, targets), list(range(30))))
    assert part.labels.tolist() == targets[:30].tolist()
    told = Samples.from_dataset(Subset(Unlabelled(inputs, targets), list(range(30))), labels=targets[:30])
    assert told.labels.tolist() == targets[:30].tolist()
    monkeypatch.setattr(lazy_samples, "free_bytes", lambda _device: 10**9)
    assert not isinstance(Samples.from_dataset(TooLarge(inputs, targets)).store, ItemStore)


def no_classes(targets):
    """Targets that are no classes, as detection sets have them."""
    return [{"boxes": int(t)} for t in targets]


class Unlabelled(TooLarge):
    def __init__(self, inputs, targets):
        super().__init__(inputs, targets)
        self.hidden, self.targets = self.targets, None

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], int(self.hidden[index])


class Asking(Unlabelled):
    lazy = True


def test_labels_must_be_known_without_reading(no_memory):
    with pytest.raises(SamplesError, match=r"needs 5\.62e-06 GB, and 2\.6e-06 GB are free: give it an attribute 'targets'"):
        Samples.from_dataset(Unlabelled(*pairs()))
    with pytest.raises(SamplesError, match="asks to be read piece by piece: give it an attribute 'targets'"):
        Samples.from_dataset(Asking(*pairs()))
    with pytest.raises(SamplesError, match="36 labels for 37 items"):
        Samples.from_dataset(Unlabelled(*pairs()), labels=pairs()[1][:36])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.inputs[33].fill_(float("nan")), "sample 33 holds NaN"),
        (lambda data: data.inputs[33, 0, 0, 0].fill_(float("-inf")), "sample 33 holds NaN or infinity"),
        (lambda data: setattr(data, "targets", Shifted(data.targets)), "item 33 of the data set has label 2, but .* says 1"),
        (lambda data: setattr(data, "inputs", [*data.inputs[:33], *torch.zeros(4, 1, 5, 5)]), "stacked|another shape"),
        (lambda data: setattr(data, "inputs", [*data.inputs[:33], *torch.zeros(4, 1, 6, 6).double()]), "another shape or type"),
    ],
)
@pytest.mark.parametrize("size", [3, 4])
def test_a_bad_item_is_found_when_it_is_read(spoil, message, size):
    data = OnDisk(*pairs())
    samples = Samples.from_dataset(data)
    group = samples.subset(np.arange(3, 37))
    spoil(data)
    list(samples.subset(np.arange(30)).batches(size))
    with pytest.raises(SamplesError, match=message):
        list(group.batches(size))


class Shifted:
    """Labels that change after they were asked for."""

    def __init__(self, targets):
        self.values = targets

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index] + (index == 33)


def test_refused_at_once():
    inputs, targets = pairs()
    with pytest.raises(SamplesError, match=r"outside 0\.\.2"):
        Samples.from_dataset(OnDisk(inputs, targets), num_classes=3)
    with pytest.raises(SamplesError, match="empty"):
        Samples.from_dataset(OnDisk(inputs[:0], targets[:0]))

    class Redrawn(OnDisk):
        def __getitem__(self, index):
            return self.inputs[index] + torch.rand(()), int(self.targets[index])

    with pytest.raises(SamplesError, match="random augmentation"):
        Samples.from_dataset(Redrawn(inputs, targets))


def test_known_labels():
    inputs, targets = pairs(6)
    assert known_labels(OnDisk(inputs, targets.tolist())).tolist() == targets.tolist()
    assert known_labels(Subset(Subset(OnDisk(inputs, targets), [5, 4, 3]), [2, 0])).tolist() == [3, 1]
    assert known_labels(OnDisk(inputs, no_classes(targets))) is None
    assert known_labels(OnDisk(inputs, targets + 0.5)) is None
    assert known_labels(Items()) is None


class Items:
    def __len__(self):
        return 3


def test_analyses_agree_to_the_last_digit(network):
    inputs, targets = pairs()
    settings = AnalysisSettings(eta=10, steps=12, min_steps=5, micro_batch=5, memory=20_000, gauss_newton=True)
    found = []
    for samples in (Samples.from_tensors(inputs, targets, 4), as_samples(OnDisk(inputs, targets), num_classes=4)):
        result = json.loads(analyze(network(torch.float32), samples, settings=settings).model_dump_json())
        result.pop("provenance")
        found.append(without_seconds(result))
    assert found[0] == found[1]
    assert len(found[0]["groups"]) == 3


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if "seconds" not in key}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A run trained on listed photos, and the folder of these."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for part, counts in (("train", (9, 6, 3)), ("test", (2, 2, 2))):
        lines = []
        for label, count in enumerate(counts):
            for number in range(count):
                lines.append(f"{part}-{label}-{number}.png {label}\n")
                pixels = random.integers(60 * label, 255, (12, 15, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / lines[-1].split()[0])
        (root / f"{part}.txt").write_text("".join(lines))
    recipe = {
        "name": "photos",
        "question": "?",
        "seeds": [0],
        "data": {"name": "image-list", "train_list": "train.txt", "test_list": "test.txt", "image_size": 8},
        "groups": {"eta": 5},
        "model": {"name": "small-cnn", "args": {"width": 4}},
        "training": {"epochs": 1, "batch_size": 6, "lr": 0.05, "augment": "crop"},
        "optimizers": {"sgd": {}},
    }
    (run,) = train_study(parse_recipe(recipe), root / "runs", data_root=str(root))
    return run / "checkpoint.pt", root


def test_a_checkpoint_on_listed_photos(listed):
    checkpoint, _root = listed
    subject = open_checkpoint(checkpoint)
    assert isinstance(subject.samples.store, ItemStore)
    assert subject.samples.class_counts.tolist() == [9, 6, 3]
    side_car = json.loads(checkpoint.with_suffix(".json").read_text())
    assert subject.samples.index_sha256 == side_car["data"]["index_sha256"] == subject.source.index_sha256
    assert subject.samples.subset(np.arange(4)).index_sha256 is None
    digests = {subject.samples.sha256(), subject.samples.subset(np.arange(4)).sha256()}
    digests.add(subject.samples.subset(np.array([1, 0, 2, 3])).sha256())
    larger = open_checkpoint(checkpoint, Given(data_args={"image_size": 9})).samples
    digests |= {larger.sha256(), larger.subset(np.arange(4)).sha256()}
    assert len(digests) == 5
    held = subject.samples.in_memory()
    settings = AnalysisSettings(eta=5, steps=10, min_steps=5)
    one, other = (analyze(subject.model, samples, settings=settings) for samples in (subject.samples, held))
    for name in ("all", "head", "tail"):
        assert one.groups[name].lambda_min.value == other.groups[name].lambda_min.value
        assert one.groups[name].lambda_max.value == other.groups[name].lambda_max.value


def test_a_list_that_changed_since_training_is_refused(listed):
    checkpoint, root = listed
    text = (root / "train.txt").read_text()
    lines = text.splitlines(keepends=True)
    (root / "train.txt").write_text("".join([lines[1], lines[0], *lines[2:]]))
    try:
        with pytest.raises(SubjectError, match="not the samples that it was trained on"):
            open_checkpoint(checkpoint, Given(data_root=f"{root}/."))  # another spelling, so that it is read again
    finally:
        (root / "train.txt").write_text(text)
