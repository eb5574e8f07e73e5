"""Batches whose samples differ in shape: kept as they are, and every number is that of the samples one by one."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.evaluation import per_sample
from saddlescope.analysis.hessian.losses import ClassificationLoss
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.samples.given import as_samples
from saddlescope.analysis.samples.samples import Samples, SamplesError, batch_size
from saddlescope.analysis.samples.stores import BatchStore, TensorStore
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

TEXTS = [list(range(1, 2 + (7 * place) % 6)) for place in range(14)]
LABELS = [place % 3 for place in range(14)]


def padded(items):
    """As a tokenizer's collator does: padded to the longest of the batch."""
    width = max(len(text) for text, _ in items)
    ids = torch.tensor([text + [0] * (width - len(text)) for text, _ in items])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([label for _, label in items])}


class Bag(nn.Module):
    """Mean of the embeddings of what is not padding, through a layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(8, 3), nn.Linear(3, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(2).to(self.embed.weight.dtype)
        return self.out(torch.tanh((self.embed(input_ids) * mask).sum(1) / mask.sum(1)))


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3, 3)

    def forward(self, images):
        return self.out(torch.tanh(self.conv(images)).mean((2, 3)))


def texts(batch_size=4):
    return as_samples(DataLoader(list(zip(TEXTS, LABELS, strict=True)), batch_size=batch_size, collate_fn=padded))


class Images:
    """Of four sizes, not sorted by size."""

    def __len__(self):
        return 14

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(1, 5 + index % 2, 4 + index % 3 // 2, generator=generator), LABELS[index]


def images(**_):
    return Samples.from_dataset(Images())


def network(kind, seed=0):
    torch.manual_seed(seed)
    return kind().double()


def dense(model, samples, rows):
    """Hessian of the mean over samples that are passed one at a time, by double differentiation of a plain function."""
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    ones = [next(samples.subset(np.array([row])).batches(1, dtype=torch.float64)) for row in rows]

    def mean(vector):
        parts = zip(names, vector.split(sizes), model.parameters(), strict=True)
        weights = {name: part.view_as(p) for name, part, p in parts}
        total = 0.0
        for one in ones:
            if isinstance(one, dict):
                inputs = {name: value for name, value in one.items() if name != "labels"}
                logits, label = torch.func.functional_call(model, weights, (), inputs), one["labels"]
            else:
                logits, label = torch.func.functional_call(model, weights, one[0]), one[1]
            total = total + functional.cross_entropy(logits, label)
        return total / len(ones)

    return torch.autograd.functional.hessian(mean, flat), mean(flat)


CASES = [(texts, Bag), (images, ConvNet)]


@pytest.mark.parametrize(("make", "kind"), CASES)
@pytest.mark.parametrize("memory", [0, 4_000, None])
@pytest.mark.parametrize("micro_batch", [1, 3, 50])
def test_products_are_those_of_the_samples_one_by_one(make, kind, memory, micro_batch):
    samples, model = make(), network(kind)
    assert isinstance(samples.store, BatchStore)
    for rows in (np.arange(14), np.array([13, 2, 5, 8, 11, 2])):
        truth, loss = dense(model, samples, rows)
        operator = HessianOperator(model, samples.subset(rows), memory=memory, micro_batch=micro_batch)
        eye = torch.eye(operator.size, dtype=torch.float64)
        for _ in range(2):  # the second time with the graphs that were kept
            torch.testing.assert_close(operator.matmat(eye), truth, rtol=1e-9, atol=1e-12)
        assert operator.loss_and_gradient()[0] == pytest.approx(float(loss), rel=1e-12)
        assert operator.mean_loss() == pytest.approx(float(loss), rel=1e-12)


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_an_analysis_of_groups_adds_up(make, kind):
    samples, model = make(), network(kind)
    result = analyze(model, samples, settings=AnalysisSettings(scheme="per-class", steps=40, dtype="float64"))
    for name, rows in {f"class {label}": np.flatnonzero(np.array(LABELS) == label) for label in range(3)}.items():
        values = torch.linalg.eigvalsh(dense(model, samples, rows)[0])
        group = result.groups[name]
        assert group.lambda_min.value == pytest.approx(float(values[0]), abs=1e-8)
        assert group.lambda_max.value == pytest.approx(float(values[-1]), abs=1e-8)
    assert result.provenance.class_counts == [5, 5, 4]


@pytest.mark.parametrize("make", [texts, images])
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_order_and_shapes_are_kept(make, size):
    samples = make()
    rows = np.array([3, 3, 0, 13, 7, 6, 5, 4])
    one_by_one = [next(samples.subset(np.array([row])).batches(1)) for row in rows]
    part = samples.subset(rows)
    found = list(part.batches(size))
    assert max(batch_size(batch) for batch in found) <= size
    values = [[*batch.values()] if isinstance(batch, dict) else list(batch) for batch in found]
    split = [[leaf[place] for leaf in batch] for batch in values for place in range(len(batch[0]))]
    for one, again in zip(one_by_one, split, strict=True):
        leaves = [*one.values()] if isinstance(one, dict) else list(one)
        assert all(torch.equal(leaf[0], other) for leaf, other in zip(leaves, again, strict=True))
    assert part.labels.tolist() == [LABELS[row] for row in rows]
    assert part.subset(np.array([4, 0])).sha256() == samples.subset(rows[[4, 0]]).sha256()
    assert len({samples.sha256(), part.sha256(), samples.subset(np.sort(rows)).sha256()}) == 3


def test_losses_and_hits_come_in_the_order_of_the_samples():
    samples, model = texts(), network(Bag)
    found = per_sample(model, samples, ClassificationLoss(), device=torch.device("cpu"), dtype=torch.float64)
    alone = [float(dense(model, samples, np.array([row]))[1]) for row in range(14)]
    assert found.losses == pytest.approx(alone, rel=1e-12)
    assert found.right.shape == (14,)


def test_batches_of_one_shape_are_whole_tensors_as_ever():
    samples = texts(batch_size=14)
    assert isinstance(samples.store, TensorStore)
    assert samples.batch["input_ids"].shape == (14, 6)


def test_neighbours_of_one_shape_are_handed_out_together():
    samples = Samples.from_batches([(torch.ones(1, width), torch.tensor([0])) for width in (2, 2, 2, 3, 3, 2)])
    assert [x.shape for x, _ in samples.batches(10)] == [(3, 2), (2, 3), (1, 2)]
    assert samples.subset(np.array([0, 5])).batch[0].shape == (2, 2)


def test_what_cannot_be_is_said():
    with pytest.raises(SamplesError, match="of several shapes, and what is asked for needs them as one tensor"):
        texts().batch  # noqa: B018
    x, y = torch.randn(4, 3), torch.arange(4)
    with pytest.raises(SamplesError, match=r"different length \(\[2, 3\]\) in batch 1"):
        Samples.from_batches([(x[:2], y[:2]), (x[:3, :2], y[2:])])
    bad = x[2:, :2].clone()
    bad[1, 0] = float("nan")
    with pytest.raises(SamplesError, match="sample 3 holds NaN"):
        Samples.from_batches([(x[:2], y[:2]), (bad, y[2:])])
    with pytest.raises(SamplesError, match="3 labels for 4 samples"):
        Samples.from_batches([(x[:2], y[:2]), (x[2:, :2], y[2:])], labels=[0, 1, 2])
    with pytest.raises(SamplesError, match="empty"):
        texts().subset(np.array([], dtype=int))
    with pytest.raises(SamplesError, match="a batch may hold tensors only"):
        Samples.from_batches([(x[:2], y[:2], "a"), (x[2:, :2], y[2:], "b")], labels=1)


class Tokenised(Dataset):
    """What a tokeniser leaves: lists of numbers, here all of one length or not."""

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, row):
        return {"input_ids": self.texts[row], "weights": [[0.5, 1.0]], "label": row % 3}


@pytest.mark.parametrize("texts", [TEXTS, [text[:1] * 3 for text in TEXTS]], ids=["of any length", "of one length"])
def test_lists_of_numbers_in_items_are_tensors(texts):
    samples = as_samples(Tokenised(texts))
    rows = [batch["input_ids"] for batch in samples.batches(1)]
    assert [row.tolist() for row in rows] == [[text] for text in texts]
    assert next(samples.batches(2))["weights"].shape[1:] == (1, 2)
    assert samples.labels.tolist() == [row % 3 for row in range(len(texts))]


def test_a_collator_that_draws_is_refused_and_one_that_fails_is_named():
    def masked(items):
        ids = torch.stack([torch.tensor(item["input_ids"][:1] * 4) for item in items])
        return {"input_ids": ids * (torch.rand(ids.shape) > 0.3), "labels": torch.tensor([item["label"] for item in items])}

    def fails(items):
        raise KeyError("no such token")

    with pytest.raises(SamplesError, match="element 0 of DataLoader changed between two readings"):
        as_samples(DataLoader(Tokenised(TEXTS), batch_size=8, collate_fn=masked))
    with pytest.raises(SamplesError, match="data: reading the samples raised KeyError: 'no such token'"):
        as_samples(DataLoader(Tokenised(TEXTS), batch_size=8, collate_fn=fails))
