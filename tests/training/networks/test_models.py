"""Architectures by their published sizes and shapes; learning rates in closed form."""

import math

import pytest
import torch
from saddlescope.training.networks.models import MODELS, ModelError, build_model, count_parameters
from saddlescope.training.runs.schedule import learning_rate


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        # conv 3x3 at widths 16, 32, 64 with option A shortcuts (He et al. 2016): 0.27 M and 0.46 M, table 6
        ("resnet20-cifar", 10, 269_722),
        ("resnet32-cifar", 10, 464_154),
        ("resnet34-cifar-stem", 100, 21_328_292),  # torchvision's 21,797,672 at 1,000 classes with the 3x3 stem
        ("resnet50-imagenet", 1000, 25_557_032),  # torchvision's
    ],
)
def test_parameter_counts_are_the_published_ones(name, classes, parameters):
    assert count_parameters(build_model(name, classes, seed=0)) == parameters


@pytest.mark.parametrize("name", [name for name in MODELS if "34" not in name and "50" not in name])
def test_models_map_images_to_logits(name):
    model = build_model(name, 7, seed=0).eval()
    channels, size = (1, 8) if name.startswith("digits") else (3, 16)
    with torch.no_grad():
        assert model(torch.randn(2, channels, size, size)).shape == (2, 7)


def test_the_loss_of_the_smooth_network_has_no_kinks():
    """Halving the distance quarters the error of a central second difference, and does not where ReLU units switch."""
    model = build_model("digits-mlp", 10, seed=0).double()
    x = torch.randn(50, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(50) % 10
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    v = torch.randn(len(weights), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v /= v.norm()

    def loss(s):
        torch.nn.utils.vector_to_parameters(weights + s * v, model.parameters())
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model(x), y))

    far, near, nearest = ((loss(s) - 2 * loss(0) + loss(-s)) / s**2 for s in (0.2, 0.1, 0.05))
    assert (far - near) / (near - nearest) == pytest.approx(4, rel=0.2)


def test_the_seed_decides_the_weights_and_leaves_the_global_state():
    before = torch.get_rng_state()
    one, same, other = (build_model("small-cnn", 3, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_bad_names_and_arguments_are_explained():
    with pytest.raises(ModelError, match="did you mean 'resnet32-cifar'"):
        build_model("resnet32_cifar", 10)
    with pytest.raises(ModelError, match="cannot be built with"):
        build_model("small-cnn", 10, depth=3)


def test_a_file_of_the_users_is_a_model(tmp_path):
    (tmp_path / "mine.py").write_text("from torch import nn\ndef net(num_classes):\n    return nn.Linear(3, num_classes)\n")
    assert build_model(f"{tmp_path}/mine.py:net", 4).out_features == 4


@pytest.mark.parametrize(("epoch", "wanted"), [(0, 0.1), (50, 0.05), (99, 0.05 * (1 + math.cos(math.pi * 0.99)))])
def test_cosine(epoch, wanted):
    assert learning_rate(epoch, epochs=100, lr=0.1) == pytest.approx(wanted)


def test_warm_up_and_steps_of_ldam():
    rate = [
        learning_rate(e, epochs=200, lr=0.1, schedule="step", warmup_epochs=5, steps=((160, 0.01), (180, 0.0001)))
        for e in range(200)
    ]
    assert rate[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert rate[159:161] == pytest.approx([0.1, 0.001])
    assert rate[179:181] == pytest.approx([0.001, 1e-5])
