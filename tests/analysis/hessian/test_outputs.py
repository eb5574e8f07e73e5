"""Models that return more than logits, batches that hold more than a pair: decided by shape or told, never by place."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.evaluation import group_means
from saddlescope.analysis.hessian.losses import ClassificationLoss, LossError, classification_loss
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.hessian.outputs import OutputError, find_logits
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.samples.given import as_samples
from saddlescope.analysis.samples.groups import scheme_of
from saddlescope.analysis.samples.samples import Samples, SamplesError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

N, WIDTH, CLASSES = 24, 7, 3
Named = namedtuple("Named", ["features", "scores"])


@dataclass
class Output:  # as of Hugging Face: optional parts that are None
    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()


class Net(nn.Module):
    """Features and logits, in whatever order ``arrange`` gives them."""

    def __init__(self, arrange, width=WIDTH, classes=CLASSES):
        super().__init__()
        self.body, self.head, self.arrange = nn.Linear(5, width), nn.Linear(width, classes), arrange

    def forward(self, x):
        features = torch.tanh(self.body(x))
        return self.arrange(features, self.head(features))


ARRANGED = {
    "tuple": (lambda f, z: (f, z), "1"),
    "list": (lambda f, z: [z, f], "0"),
    "dictionary": (lambda f, z: {"embedding": f, "out": z}, "out"),
    "named tuple": (Named, "scores"),
    "dataclass": (lambda f, z: Output(None, z, (f, f + 1)), "logits"),
    "nested": (lambda f, z: (f, {"heads": [z]}), "1/heads/0"),
}


def data(seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.full((c,), i) for i, c in enumerate((14, 7, 3))])
    return torch.randn(N, 5, generator=g, dtype=torch.float64), y


def net(arrange, **sizes):
    torch.manual_seed(0)
    return Net(arrange, **sizes).double()


def by_hand(model, x, y):
    with torch.no_grad():
        return float(cross_entropy(model.head(torch.tanh(model.body(x))), y))


@pytest.mark.parametrize("kind", ARRANGED)
def test_the_part_whose_shape_fits_is_measured_and_named(kind):
    arrange, part = ARRANGED[kind]
    model, (x, y) = net(arrange), data()
    settings = AnalysisSettings(scheme="all", steps=5, dtype="float64", escape=False)
    result = analyze(model, Samples.from_tensors(x, y), settings=settings)
    assert result.groups["all"].loss == pytest.approx(by_hand(model, x, y), rel=1e-12)
    with torch.no_grad():
        hits = model.head(torch.tanh(model.body(x))).argmax(1) == y
    assert result.groups["all"].accuracy == pytest.approx(float(hits.double().mean()))
    (choice,) = result.provenance.choices
    assert choice.guessed
    assert f"part '{part}'" in choice.value
    assert choice.flag == "--logits"


def test_where_two_parts_fit_it_must_be_told():
    model, (x, y) = net(lambda f, z: (f, z), width=CLASSES), data()
    samples = Samples.from_tensors(x, y)
    with pytest.raises(OutputError, match=r"2 parts \(0, 1\).*--logits.*0 \[16, 3\], 1 \[16, 3\]"):
        HessianOperator(model, samples)
    told = HessianOperator(model, samples, ClassificationLoss(logits=1))
    assert told.loss_and_gradient()[0] == pytest.approx(by_hand(model, x, y), rel=1e-12)
    settings = AnalysisSettings(scheme="all", steps=5, dtype="float64", escape=False)
    result = analyze(model, samples, logits="1", settings=settings)
    assert result.groups["all"].loss == pytest.approx(by_hand(model, x, y), rel=1e-12)
    assert [choice.guessed for choice in result.provenance.choices] == [False]
    with pytest.raises(LossError, match="by itself"):
        analyze(model, samples, logits=1, loss=lambda m, b: cross_entropy(m(b[0])[1], b[1]), settings=settings)


@pytest.mark.parametrize(
    ("outputs", "which", "said"),
    [
        ((torch.zeros(4, 2), torch.zeros(4, 5)), None, "no part of the model's output can be the logits"),
        ((torch.zeros(4, 3), torch.zeros(4, 5)), "2", "no part '2'"),
        ({"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)}, None, r"2 parts \(a, b\)"),
        ("words", None, "the str holds no tensors"),
        (torch.zeros(4, 3), 0, "without parts"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_parts(outputs, which, said):
    with pytest.raises(OutputError, match=said):
        find_logits(outputs, 3, which)


def test_labels_need_not_show_every_class_where_only_one_matrix_is_there():
    outputs = {"logits": torch.zeros(4, 9), "hidden": torch.zeros(4, 6, 9), "ids": torch.zeros(4, 3, dtype=torch.long)}
    assert find_logits(outputs, 3).part == "logits"
    twice = torch.zeros(4, 3)
    assert find_logits({"logits": twice, "scores": twice}, 3).part == "logits"  # one tensor


def test_the_gauss_newton_part_is_split_at_the_logits():
    model, (x, y) = net(lambda f, z: (f, z)), data()
    plain = net(lambda f, z: z)
    settings = AnalysisSettings(scheme="all", steps=30, dtype="float64", gauss_newton=True)
    found, wanted = (
        analyze(m, Samples.from_tensors(x, y), settings=settings).groups["all"].gauss_newton for m in (model, plain)
    )
    assert found.lambda_max.value == pytest.approx(wanted.lambda_max.value, rel=1e-9)


class Triples(torch.utils.data.Dataset):
    """Items (input, number of the image, label): the number is a whole number, too."""

    def __init__(self):
        self.x, self.y = data()

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.x[index], index % 2, int(self.y[index])


def test_of_three_parts_the_second_is_not_the_label_unless_told():
    x, y = data()
    for whole in (Triples(), (x, torch.arange(N) % 2, y), [(x, torch.arange(N) % 2, y)]):
        with pytest.raises(SamplesError, match="3 parts: say with --labels"):
            HessianOperator(net(lambda f, z: z), as_samples(whole))
        assert as_samples(whole, labels="2").labels.tolist() == y.tolist()
        with pytest.raises(SamplesError, match="have 3 parts, 0 to 2"):
            as_samples(whole, labels="3")
    assert Samples.from_batches([{"x": x, "kind": y}], labels="kind").labels.tolist() == y.tolist()
    with pytest.raises(SamplesError, match="both labels and target"):
        HessianOperator(net(lambda f, z: z), Samples.from_batches([{"x": x, "labels": y, "target": y}]))


def test_dictionary_labels_that_are_told_are_not_handed_to_the_model():
    x, y = data()
    model = net(lambda f, z: z)
    samples = Samples.from_batches([{"x": x, "kind": y}], labels="kind")
    operator = HessianOperator(model, samples, ClassificationLoss(labels="kind"))
    assert operator.loss_and_gradient()[0] == pytest.approx(by_hand(model, x, y), rel=1e-12)


@pytest.mark.parametrize("targets", [torch.zeros(N, 2), torch.zeros(N), torch.ones(N, 3, dtype=torch.long)])
def test_targets_that_are_no_classes_are_called_so(targets):
    x, _ = data()
    for whole in ((x, targets), [(x, targets)], torch.utils.data.TensorDataset(x, targets)):
        with pytest.raises(SamplesError, match=r"targets of shape .* where one whole number per sample"):
            HessianOperator(net(lambda f, z: z), as_samples(whole))
        with pytest.raises(SamplesError, match=r"targets of shape .* where one whole number per sample"):
            scheme_of(AnalysisSettings(eta=3), as_samples(whole))
    with pytest.raises(SamplesError, match="different length"):
        as_samples((x, torch.zeros(N - 1, dtype=torch.long)))


def test_losses_without_accuracy_get_none():
    x, y = data()
    model = net(lambda f, z: z)
    settings = AnalysisSettings(scheme="per-class", steps=5, dtype="float64", escape=False)

    def regression(model, batch):  # as many outputs as classes, by chance
        return mse_loss(model(batch["x"]), batch["wanted"], reduction="none").mean(1)

    wanted = torch.randn(N, CLASSES, dtype=torch.float64)
    grouped = Samples.from_batches([{"x": x, "wanted": wanted, "labels": y}])
    result = analyze(model, grouped, loss=regression, settings=settings)
    assert {group.accuracy for group in result.groups.values()} == {None}

    def count(model, batch):
        return (model(batch[0])[:, 0] - batch[1]) ** 2

    one = net(lambda f, z: z, classes=1)
    assert analyze(one, Samples.from_tensors(x, y), loss=count, settings=settings).groups["all"].accuracy is None

    def smooth(model, batch):
        return cross_entropy(model(batch[0]), batch[1], reduction="none", label_smoothing=0.1)

    result = analyze(model, Samples.from_tensors(x, y), loss=smooth, settings=settings)
    with torch.no_grad():
        assert result.groups["all"].accuracy == float((model(x).argmax(1) == y).double().mean())


def test_arrays_of_a_file_that_can_both_be_meant_are_refused(tmp_path):
    from saddlescope.analysis.checkpoints.user_code import SubjectError, load_samples

    x, y = data()
    np.savez(tmp_path / "two.npz", x=x.numpy(), labels=y.numpy(), y=1 - (y.numpy() > 0))
    with pytest.raises(SubjectError, match="labels and y can both be meant"):
        load_samples(str(tmp_path / "two.npz"), {})
    assert load_samples(str(tmp_path / "two.npz"), {}, labels="labels").labels.tolist() == y.tolist()


def test_a_loss_that_knows_no_number_of_classes_takes_one_matrix_only():
    model, (x, y) = net(lambda f, z: (f, z)), data()
    with pytest.raises(OutputError, match="2 parts"):
        classification_loss()(model, (x, y))


def test_group_means_of_a_loss_that_returns_means_find_the_logits_as_well():
    model, (x, y) = net(lambda f, z: (f, z)), data()
    samples, loss = Samples.from_tensors(x, y), classification_loss(nn.CrossEntropyLoss())
    losses, _ = group_means(model, samples, {"all": np.arange(N)}, loss, device=torch.device("cpu"), dtype=x.dtype, size=10)
    assert losses["all"] == pytest.approx(by_hand(model, x, y), rel=1e-12)
