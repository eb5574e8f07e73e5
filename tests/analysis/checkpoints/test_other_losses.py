"""Losses that are no classification, from the command line and from Python, against the mean over samples written by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.samples.given import as_samples
from saddlescope.analysis.samples.samples import Samples
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from saddlescope import AnalysisSettings, Monitor, analyze, load_factory

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    return load_factory(f"{EXAMPLES}/{name}")


def pixels(model, weights, data):
    """Loss of each image by its pixels, one after another."""
    for image, mask in zip(data[0].double(), data[1], strict=True):
        scores = log_softmax(functional_call(model, weights, image[None])[0], 0)
        labelled = (mask != 255).nonzero().tolist()
        yield -torch.stack([scores[mask[h, w], h, w] for h, w in labelled]).mean()


def labels(model, weights, data):
    for x, wanted in zip(data["x"].double(), data["labels"].double(), strict=True):
        yield binary_cross_entropy_with_logits(functional_call(model, weights, x[None])[0], wanted)


def tokens(model, weights, data):
    """Loss of each text without its padding."""
    for batch in data:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            text = ids[: int(mask.sum())][None]
            scores = log_softmax(functional_call(model, weights, (text, torch.ones_like(text)))[0], 1)
            yield -torch.stack([scores[at, text[0, at + 1]] for at in range(text.shape[1] - 1)]).mean()


def truth(model, losses, data, rows):
    """Dense float64 Hessian's ends, and the mean loss."""
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double()

    def mean(vector):
        parts = zip(names, vector.split(sizes), model.parameters(), strict=True)
        every = list(losses(model, {name: part.view_as(p) for name, part, p in parts}, data))
        return sum(every[row] for row in rows) / len(rows)

    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(mean, flat))
    return float(values[0]), float(values[-1]), float(mean(flat))


FILMS = example("data.py:films")()["labels"].numpy()
CASES = {
    "segmenter": ("scenes", "per_pixel", pixels, "domain", {"city": np.arange(9), "forest": np.arange(9, 14)}),
    "tagger": ("films", "several_labels", labels, "labels", {f"labels {k}": np.flatnonzero(FILMS[:, k]) for k in range(4)}),
    "writer": (
        "stories",
        "next_token",
        tokens,
        "source",
        {f"source {k}": np.flatnonzero(np.array([0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1]) == k) for k in range(2)},
    ),
}


@pytest.fixture(scope="module")
def models():
    made = {}
    for name in CASES:
        torch.manual_seed(1)
        made[name] = example(f"nets.py:{name}")()
    return made


def agrees(result, model, losses, data, groups):
    count = max(int(rows.max()) for rows in groups.values()) + 1 if groups else 0
    everything = {"all": np.arange(result.scheme.sizes["all"]), **groups}
    assert count <= result.scheme.sizes["all"]
    assert list(result.groups) == list(everything)
    for name, rows in everything.items():
        low, high, loss = truth(model.double(), losses, data, rows)
        group = result.groups[name]
        assert group.size == len(rows)
        assert group.loss == pytest.approx(loss, rel=1e-6)
        assert group.lambda_min.value == pytest.approx(low, abs=1e-6 * high)
        assert group.lambda_max.value == pytest.approx(high, rel=1e-6)
        assert group.accuracy is None
    model.float()


def named(model, data, loss):
    files = {"--model": f"nets.py:{model}", "--data": f"data.py:{data}", "--loss": f"losses.py:{loss}"}
    return [word for flag, name in files.items() for word in (flag, f"{EXAMPLES}/{name}")]


@pytest.mark.parametrize("name", CASES)
def test_from_the_command_line(name, models, tmp_path, run):
    data, loss, losses, column, groups = CASES[name]
    torch.save(models[name].state_dict(), tmp_path / "mine.pt")
    code = named(name, data, loss)
    settings = "--dtype", "float64", "--steps", 300, "--set", "rates=false", "--set", "rtol=1e-6"
    assert run("analyze", tmp_path / "mine.pt", *code, "--groups", f"column:{column}", *settings)[0] == 0
    stored = tmp_path / "curvature" / f"mine.column-{column}.json"
    agrees(load(CurvatureResult, stored), models[name], losses, example(f"data.py:{data}")(), groups)
    assert run("verify", stored, *code)[0] == 0


@pytest.mark.parametrize("name", CASES)
def test_from_python(name, models):
    data, loss, losses, _, _ = CASES[name]
    samples = as_samples(example(f"data.py:{data}")())
    settings = AnalysisSettings(scheme="all", dtype="float64", steps=300, rtol=1e-6, rates=False)
    result = analyze(models[name], samples, loss=example(f"losses.py:{loss}"), settings=settings)
    agrees(result, models[name], losses, example(f"data.py:{data}")(), {})


def test_in_a_monitor(models, tmp_path):
    images, masks, columns = example("data.py:scenes")()
    samples = Samples.from_batches([(images, masks)]).with_column("domain", columns["domain"])
    monitor = Monitor(samples, column="domain", loss=example("losses.py:per_pixel"), at_most=None, folder=tmp_path, rtol=1e-4)
    numbers = monitor(models["segmenter"], 500)
    low, high, _ = truth(models["segmenter"].double(), pixels, (images, masks), np.arange(9, 14))
    models["segmenter"].float()
    assert numbers["curvature/forest/lambda_min"] == pytest.approx(low, abs=1e-3 * high)
    assert numbers["curvature/forest/lambda_max"] == pytest.approx(high, rel=1e-3)


def test_losses_that_couple_samples_are_refused_with_the_reason(models, tmp_path, run):
    one, other, kinds = example("data.py:pairs")()
    samples = Samples((one, other, kinds), kinds)
    contrastive = example("losses.py:contrastive")
    with pytest.raises(OperatorError, match=r"on the others of its batch, as contrastive losses .* no mean over samples"):
        HessianOperator(models["segmenter"], samples, contrastive)
    with pytest.raises(OperatorError, match="couples the samples of a batch, as contrastive losses do"):
        HessianOperator(models["segmenter"], samples, lambda model, batch: contrastive(model, batch).mean())

    def pairs_only(model, batch):  # a mean over positive pairs is 0 / 0 in a batch without
        same = (batch[2][:, None] == batch[2]) & ~torch.eye(len(batch[2]), dtype=bool)
        near = torch.cdist(model(batch[0]).flatten(1), model(batch[1]).flatten(1))
        return (near * same).sum(1) / same.sum(1)

    with pytest.raises(OperatorError, match="contrastive"):
        HessianOperator(models["segmenter"], samples.subset(np.array([0, 2, 1, 3])), pairs_only)
    torch.save(models["segmenter"].state_dict(), tmp_path / "mine.pt")
    code = named("segmenter", "pairs", "contrastive")
    ended, _, said = run("analyze", tmp_path / "mine.pt", *code, "--labels", 2, "--groups", "all")
    assert ended == 2
    assert "as contrastive losses" in said
    assert "Traceback" not in said


def test_a_mean_over_the_tokens_of_a_batch_is_no_mean_over_texts(models):
    """What Hugging Face models return as their loss: long texts weigh more, and how much depends on their batch."""
    by_token = example("losses.py:next_token")

    def mean_over_tokens(model, batch):
        counts = (batch["labels"][:, 1:] != -100).sum(1)
        return (by_token(model, batch) * counts).sum() / counts.sum()

    for order in (slice(None), slice(None, None, -1)):
        samples = as_samples(example("data.py:stories")()[order])
        with pytest.raises(OperatorError, match="a mean over all tokens or pixels of a batch"):
            HessianOperator(models["writer"], samples, mean_over_tokens)
    texts = example("data.py:stories")()
    for batch in texts:  # neighbours of one class never share a batch
        batch["class"] = torch.arange(len(batch["source"]))
    with pytest.raises(OperatorError, match="a mean over all tokens or pixels of a batch"):
        HessianOperator(models["writer"], Samples.from_batches(texts, labels="class"), mean_over_tokens)


def test_groups_of_classes_need_classes(models):
    samples = as_samples(example("data.py:scenes")())
    with pytest.raises(ValueError, match=r"no one-hot rows.*groups that need no classes: all, or column:NAME"):
        analyze(models["segmenter"], samples, loss=example("losses.py:per_pixel"), settings=AnalysisSettings(eta=3))
