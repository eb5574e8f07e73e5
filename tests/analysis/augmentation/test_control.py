"""The control: nothing negative where nothing can be, a negative Ritz value once the data move, and a guard that says so."""

import json

import numpy as np
import pytest
import torch
from saddlescope.analysis.augmentation.control import (
    WEIGHT_DECAY,
    ControlError,
    CropMirror,
    RedrawnSamples,
    class_samples,
    measure_control,
    softmax_regression,
)
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.guards import RandomOperatorError, guard
from saddlescope.analysis.records.augmentation import AugmentationControl
from saddlescope.analysis.records.base import load
from saddlescope.analysis.samples.provenance import file_sha256
from saddlescope.training.data.datasets import load_data
from saddlescope.training.networks.models import build_model
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", imbalance_factor=20, n_max=120, held_out=50)


@pytest.fixture(scope="module")
def control(digits):
    """Softmax regression on the digits' long tail at the defaults: model, augmentation and all entries."""
    inputs, targets = digits.train.clean(), digits.train.targets
    model, gradient = softmax_regression(inputs, targets, 10)
    augment = CropMirror.of(inputs)
    entries = measure_control(model, inputs, targets, range(10), augment, num_classes=10)
    return model, gradient, augment, {(entry.label, entry.data): entry for entry in entries}


def dense_softmax_hessian(model, inputs):
    """``mean_i (diag(p) - p p^T) x (x~ x~^T)`` in float64, in the order of weight then bias: no autograd in it."""
    layer = model[1]
    x = inputs.flatten(1).double().numpy()
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    outer = p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None, :]
    pixels = np.einsum("nab,ni,nj->aibj", outer, x, x, optimize=True) / len(x)
    mixed = np.einsum("nab,ni->aib", outer, x, optimize=True) / len(x)
    classes, d = p.shape[1], x.shape[1]
    top = np.concatenate([pixels.reshape(classes * d, classes * d), mixed.reshape(classes * d, classes)], axis=1)
    return np.block([[top], [mixed.reshape(classes * d, classes).T, outer.mean(0)]])


@pytest.mark.parametrize("label", range(10))
@pytest.mark.parametrize("data", ["fixed", "frozen"])
def test_data_that_stand_still_give_the_dense_spectrum_and_no_negative_value(digits, control, label, data):
    model, _, augment, entries = control
    chosen = digits.train.targets == label
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([0, label]).generate_state(1)[0]))
    samples = class_samples(digits.train.clean()[chosen], digits.train.targets[chosen], 10, data, augment, generator)
    values = np.linalg.eigvalsh(dense_softmax_hessian(model, samples.batch[0]))
    entry = entries[label, data]
    assert entry.lambda_max == pytest.approx(values[-1], rel=1e-5)
    assert values[0] >= -1e-12 * values[-1]


def test_no_class_has_a_negative_value_on_data_that_stand_still(control):
    _, _, _, entries = control
    still = [entry for entry in entries.values() if entry.data != "redrawn"]
    assert len(still) == 20
    for entry in still:
        assert entry.lambda_min >= -1e-6 * entry.lambda_max
        assert entry.noise == 0
        assert entry.refusal is None


def test_redrawn_data_draw_a_saddle_in_every_class_and_the_guard_refuses_each(control):
    _, _, _, entries = control
    for label in range(10):
        entry = entries[label, "redrawn"]
        assert entry.lambda_min < -0.05 * entry.lambda_max
        assert entry.rayleigh_min > 0.01  # of that very vector, by one more product: every draw is positive semidefinite
        assert entry.noise > 0.1
        assert "augmentation" in entry.refusal.lower()


def test_redrawn_data_draw_deeper_saddles_in_rare_classes(control):
    _, _, _, entries = control
    ratio = {label: entries[label, "redrawn"].ratio for label in range(10)}
    assert np.mean([ratio[label] for label in (7, 8, 9)]) > 1.5 * np.mean([ratio[label] for label in (0, 1, 2)]) > 0.1


@pytest.mark.parametrize("memory", [1, None])
def test_the_guard_refuses_redrawn_data_even_where_kept_graphs_would_repeat_a_draw(digits, control, memory):
    model, _, augment, _ = control
    chosen = digits.train.targets == 3
    inputs, targets = digits.train.clean()[chosen], digits.train.targets[chosen]
    samples = RedrawnSamples(inputs, targets, 10, augment, torch.Generator().manual_seed(0))
    with pytest.raises(RandomOperatorError, match="redrawn at every product"):
        guard(HessianOperator(model, samples, memory=memory))


def test_the_same_seed_gives_the_same_draws(digits, control):
    model, _, augment, entries = control
    inputs, targets = digits.train.clean(), digits.train.targets
    again = measure_control(model, inputs, targets, [6], augment, num_classes=10)
    assert again == [entries[6, data] for data in ("fixed", "frozen", "redrawn")]
    other = measure_control(model, inputs, targets, [6], augment, num_classes=10, seed=1)
    assert other[2].lambda_min != again[2].lambda_min


@pytest.mark.parametrize(("augment", "mirror"), [("crop", False), ("crop-flip", True)])
def test_the_augmentation_is_that_of_training(digits, augment, mirror):
    everything = torch.arange(len(digits.train))
    trained = digits.train.augmented(everything, augment, torch.Generator().manual_seed(5))
    ours = CropMirror.of(digits.train.clean(), mirror)(digits.train.clean(), torch.Generator().manual_seed(5))
    assert torch.equal(ours, trained)


def test_grey_images_are_not_mirrored_and_colour_images_are():
    assert not CropMirror.of(torch.zeros(2, 1, 8, 8)).mirror
    colour = CropMirror.of(torch.zeros(2, 3, 32, 32))
    assert (colour.pad, colour.mirror, colour.words()) == (4, True, "random crop (padding 4) and mirror image")
    with pytest.raises(ControlError, match="images"):
        CropMirror.of(torch.zeros(2, 5))


def test_softmax_regression_is_at_the_minimum_that_another_library_finds(digits, control):
    model, gradient, _, _ = control
    inputs, targets = digits.train.clean(), digits.train.targets
    assert gradient < 1e-5
    x, y = inputs.flatten(1).double().numpy(), targets.numpy()
    other = LogisticRegression(C=1 / (len(x) * WEIGHT_DECAY), tol=1e-8, max_iter=5000).fit(x, y)
    ours = torch.softmax(model(inputs), 1).detach().numpy()
    np.testing.assert_allclose(ours, other.predict_proba(x), atol=2e-4)


def test_two_classes_are_enough():
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 20 + [1] * 5)
    inputs = torch.randn(25, 1, 4, 4, generator=generator) + targets[:, None, None, None]
    model, gradient = softmax_regression(inputs, targets, 2)
    loss = functional.cross_entropy(model(inputs), targets) + 0.5 * WEIGHT_DECAY * model[1].weight.square().sum()
    assert gradient < 1e-5
    for part in torch.autograd.grad(loss, list(model.parameters())):
        assert float(part.abs().max()) < 1e-5


def test_a_network_keeps_its_weights_and_its_batchnorm_statistics():
    torch_state = torch.Generator().manual_seed(1)
    inputs = torch.randn(12, 1, 8, 8, generator=torch_state)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    targets = torch.arange(12) % 3
    entries = measure_control(model, inputs, targets, [0, 2], CropMirror.of(inputs), num_classes=3, steps=12)
    assert [(entry.label, entry.data, entry.samples, entry.steps) for entry in entries[:2]] == [
        (0, "fixed", 4, 12),
        (0, "frozen", 4, 12),
    ]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_command_stores_numbers_figure_and_page(tmp_path, run):
    small = json.dumps({"imbalance_factor": 4, "n_max": 16})
    code, out, err = run("augmentation-control", tmp_path, "--data-args", small, "--steps", 20)
    assert code == 0, err
    control = load(AugmentationControl, tmp_path / "augmentation_control.json")
    (panel,) = control.panels
    assert panel.convex
    assert panel.augmentation == "random crop (padding 1)"
    assert panel.provenance.class_counts[0] == 16
    assert len(panel.provenance.data_sha256) == 64
    assert len(panel.entries) == 30
    for suffix in ("svg", "png", "pdf", "md"):
        assert (tmp_path / f"augmentation_control.{suffix}").stat().st_size > 500
        assert str(tmp_path / f"augmentation_control.{suffix}") in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "no-such-set"), "not known"),
        (("--data-args", "[1]"), "JSON object"),
        (("--data-args", "{"), "not JSON"),
        (("--checkpoint", "missing.pt"), "no such checkpoint"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, run, arguments, words):
    code, _, err = run("augmentation-control", tmp_path / "out", *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert words in err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_measured_on_the_data_of_its_side_car(tmp_path, run):
    data = {"name": "synthetic", "imbalance_factor": 4, "n_max": 12}
    counts = load_data(**data).class_counts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(name="digits-resnet", num_classes=5)
    torch.save(model.state_dict(), tmp_path / "checkpoint.pt")
    side_car = {
        "format": "saddlescope-checkpoint",
        "version": 1,
        "sha256": file_sha256(tmp_path / "checkpoint.pt"),
        "model": {
            "factory": "saddlescope:build_model",
            "args": {"name": "digits-resnet", "num_classes": 5},
        },
        "data": {
            "factory": "saddlescope:analysis_set",
            "args": data,
            "name": "patterns IF 4",
            "index_sha256": "0" * 64,
            "class_counts": counts,
        },
        "loss": {
            "name": "cross-entropy",
            "factory": "saddlescope:build_loss",
            "args": {"name": "cross-entropy", "class_counts": counts},
        },
        "training": {"optimizer": "sgd", "seed": 3},
        "recipe": {"training": {"augment": "crop"}},
    }
    (tmp_path / "checkpoint.json").write_text(json.dumps(side_car))
    out = tmp_path / "out"
    small = json.dumps({"imbalance_factor": 4, "n_max": 12})
    call = ("augmentation-control", out, "--data", "synthetic", "--data-args", small, "--steps", 3, "--checkpoint")
    code, _, err = run(*call, tmp_path / "checkpoint.pt", "--class", 9)
    assert (code, out.exists()) == (2, False)
    assert err.startswith("error: --class 9: the data of ")
    code, _, err = run(*call, tmp_path / "checkpoint.pt", "--class", 4, "--class", 1)
    assert code == 0, err
    regression, network = load(AugmentationControl, out / "augmentation_control.json").panels
    assert (regression.convex, network.convex) == (True, False)
    assert network.title == "digits-resnet"
    assert network.provenance.checkpoint_sha256 == side_car["sha256"]
    assert network.provenance.data == "patterns IF 4"
    assert network.provenance.training == {"optimizer": "sgd", "seed": 3, "augment": "crop"}
    assert [(entry.label, entry.samples) for entry in network.of("redrawn")] == [(1, counts[1]), (4, counts[4])]
    assert [entry.label for entry in regression.of("redrawn")] == list(range(5))
    assert all(entry.refusal for entry in network.of("redrawn"))
    assert "trained with crop; here: random crop (padding 1)" in (out / "augmentation_control.md").read_text()
