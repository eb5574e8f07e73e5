"""Losses against closed forms."""

import json
import math

import numpy as np
import pytest
import torch
from saddlescope.training.losses import LOSSES, LossError, build_loss, effective_number_weights, inverse_frequency_weights

COUNTS = [500, 120, 30, 4]
N = sum(COUNTS)
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
ALL = {
    "cross-entropy": {},
    "class-balanced": {"beta": 0.99},
    "re-weighted": {},
    "focal": {"gamma": 2.0},
    "ldam": {"max_m": 0.5, "s": 30.0},
    "logit-adjustment": {"tau": 0.75},
    "vs": {"gamma": 0.05, "tau": 0.75},
}


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.rand(7, 4, generator=generator, dtype=torch.float64) - 1
    return z, torch.tensor([0, 3, 1, 2, 3, 0, 2])


def ce(z, y):
    """-log softmax, digit by digit in numpy."""
    z = np.asarray(z)
    return np.array([math.log(sum(math.exp(v) for v in row)) - row[c] for row, c in zip(z, y.tolist(), strict=True)])


def close(loss, expected):
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12)


def test_cross_entropy(sample):
    z, y = sample
    close(build_loss("cross-entropy", COUNTS)(z, y), ce(z, y))
    close(build_loss("ce", COUNTS)(z, y), torch.nn.functional.cross_entropy(z, y, reduction="none"))


def test_focal(sample):
    z, y = sample
    nll = ce(z, y)
    close(build_loss("focal", COUNTS, gamma=2.0)(z, y), (1 - np.exp(-nll)) ** 2 * nll)
    close(build_loss("focal", COUNTS, gamma=0)(z, y), nll)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0])
def test_focal_of_a_sure_answer_has_derivatives(gamma):
    """p is 1 to the last digit: (1 - p)^gamma has no derivative there for gamma < 1, no second one for < 2."""
    z = torch.tensor([[60.0, -60.0]], requires_grad=True)
    loss = build_loss("focal", [2, 2], gamma=gamma)(z, torch.tensor([0])).sum()
    (first,) = torch.autograd.grad(loss, z, create_graph=True)
    (second,) = torch.autograd.grad(first[0, 0], z)
    assert loss.item() == 0
    assert first.abs().max() < 1e-12
    assert torch.isfinite(second).all()


def test_focal_keeps_its_digits_near_a_sure_answer():
    """Forming 1 - p from p = exp(-nll) would leave two digits at nll = 1e-14."""
    z = torch.tensor([[math.log(1e14), 0.0]], dtype=torch.float64)
    nll = float(build_loss("ce", [2, 2])(z, torch.tensor([0])))
    assert float(build_loss("focal", [2, 2], gamma=1.0)(z, torch.tensor([0]))) == pytest.approx(nll**2, rel=1e-10)


def test_ldam(sample):
    z, y = sample
    margins = [0.5 * (n**-0.25) / (4**-0.25) for n in COUNTS]
    shifted = z.clone().numpy()
    for i, c in enumerate(y.tolist()):
        shifted[i, c] -= margins[c]
    close(build_loss("ldam", COUNTS)(z, y), ce(30 * shifted, y))
    close(build_loss("ldam", COUNTS, max_m=0.3, s=10.0)(z, y), ce(10 * (z.numpy() + (shifted - z.numpy()) * 0.6), y))


def test_logit_adjustment_and_vs(sample):
    z, y = sample[0].numpy(), sample[1]
    log_prior = np.log(np.array(COUNTS) / N)
    scale = (np.array(COUNTS) / 500) ** 0.3
    z_t = sample[0]
    close(build_loss("la", COUNTS)(z_t, y), ce(z + log_prior, y))
    close(build_loss("la", COUNTS, tau=0.75)(z_t, y), ce(z + 0.75 * log_prior, y))
    close(build_loss("vs", COUNTS)(z_t, y), ce(z * scale + log_prior, y))
    close(build_loss("vs", COUNTS, gamma=0.05, tau=0.5)(z_t, y), ce(z * scale ** (0.05 / 0.3) + 0.5 * log_prior, y))


def test_limits(sample):
    z, y = sample
    plain = build_loss("ce", COUNTS)(z, y)
    assert torch.equal(build_loss("la", COUNTS, tau=0)(z, y), plain)
    assert torch.equal(build_loss("vs", COUNTS, gamma=0, tau=0)(z, y), plain)
    assert torch.equal(build_loss("vs", COUNTS, gamma=0, tau=0.6)(z, y), build_loss("la", COUNTS, tau=0.6)(z, y))
    assert torch.equal(build_loss("ldam", COUNTS, max_m=0, s=1)(z, y), plain)
    assert torch.equal(build_loss("class-balanced", COUNTS, beta=0)(z, y), plain)


def test_weights():
    beta = 0.99
    raw = np.array([(1 - beta) / (1 - beta**n) for n in COUNTS])
    np.testing.assert_allclose(effective_number_weights(COUNTS, beta), raw * 4 / raw.sum(), rtol=1e-12)
    samples = np.array(effective_number_weights(COUNTS, beta, "samples"))
    assert float(samples @ np.array(COUNTS)) == pytest.approx(N)
    np.testing.assert_allclose(samples / samples[0], raw / raw[0], rtol=1e-12)
    inverse = np.array(inverse_frequency_weights(COUNTS))
    np.testing.assert_allclose(inverse * np.array(COUNTS), inverse[0] * COUNTS[0], rtol=1e-12)
    assert inverse.sum() == pytest.approx(4)


def test_gradient_scale_of_weights_summing_to_c_is_as_documented():
    """On CIFAR-10-LT IF 100 with beta 0.9999: 5.8 times below CrossEntropyLoss(weight=...), which divides by them."""
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    mean = np.array(effective_number_weights(counts, 0.9999)) @ np.array(counts) / sum(counts)
    assert 1 / mean == pytest.approx(5.8, abs=0.05)


@pytest.mark.parametrize("name", ["cross-entropy", "focal", "ldam", "la", "vs"])
def test_deferred_reweighting_starts_at_its_epoch(name, sample):
    z, y = sample
    plain = build_loss(name, COUNTS)(z, y)
    deferred = build_loss(name, COUNTS, drw_epoch=3, beta=0.999)
    weights = torch.tensor(effective_number_weights(COUNTS, 0.999), dtype=torch.float64)
    assert torch.equal(deferred(z, y), plain)
    for epoch in range(6):
        deferred.set_epoch(epoch)
        torch.testing.assert_close(deferred(z, y), plain * weights[y] if epoch >= 3 else plain, rtol=1e-12, atol=0)
    deferred.set_epoch(0)  # a resumed run may go back
    assert torch.equal(deferred(z, y), plain)
    at_once = build_loss(name, COUNTS, drw_epoch=0, beta=0.999)
    torch.testing.assert_close(at_once(z, y), plain * weights[y], rtol=1e-12, atol=0)


def test_class_balanced_and_reweighted(sample):
    z, y = sample
    plain = build_loss("ce", COUNTS)(z, y)
    for name, weights in (
        ("class-balanced", effective_number_weights(COUNTS, 0.99, "samples")),
        ("re-weighted", inverse_frequency_weights(COUNTS, "samples")),
    ):
        loss = build_loss(name, COUNTS, beta=0.99, weight_scale="samples")
        torch.testing.assert_close(loss(z, y), plain * torch.tensor(weights, dtype=torch.float64)[y], rtol=1e-12, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_dtype_and_device_follow_the_logits(name, dtype, device, sample):
    z, y = sample
    loss = build_loss(name, COUNTS, **json.loads(json.dumps(ALL[name])))
    truth = loss(z, y)
    there = loss(z.to(device, dtype), y.to(device))
    assert there.dtype == dtype
    assert there.device.type == device
    assert there.shape == (7,)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(there.cpu().double(), truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_gradients_and_second_derivatives_exist(name, sample):
    z, y = sample
    loss = build_loss(name, COUNTS, **ALL[name])
    z = (0.3 * z).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: loss(t, y), z)
    assert torch.autograd.gradgradcheck(lambda t: loss(t, y), z)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, from torch.func.jvp
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # the same from torch 2.14 on
@pytest.mark.parametrize("name", ALL)
def test_works_under_function_transforms(name, sample):
    """Forward over reverse with batched directions, as curvature engines do; also as the first call of a fresh loss."""
    z, y = sample
    loss = build_loss(name, COUNTS, **ALL[name])
    w = torch.eye(4, dtype=torch.float64) * 0.5

    def objective(w):
        return loss(z @ w, y).mean()

    directions = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    products = torch.vmap(lambda v: torch.func.jvp(torch.func.grad(objective), (w,), (v,))[1])(directions)
    hessian = torch.autograd.functional.hessian(objective, w).reshape(16, 16)
    torch.testing.assert_close(products.reshape(3, 16), directions.reshape(3, 16) @ hessian, rtol=1e-9, atol=1e-11)
    rows = torch.vmap(lambda w: loss(z @ w, y))(directions * 0.1)
    torch.testing.assert_close(rows[1], loss(z @ directions[1] * 0.1, y))


def test_vmap_over_weights_as_the_very_first_call_of_ldam(sample):
    z, y = sample
    weights = 0.1 * torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = torch.vmap(lambda w: build_loss("ldam", COUNTS)(z @ w, y))(weights)
    torch.testing.assert_close(rows[2], build_loss("ldam", COUNTS)(z @ weights[2], y))


@pytest.mark.parametrize("label", [4, -1, -100])
@pytest.mark.parametrize("name", ALL)
def test_labels_out_of_range_are_named(name, label, sample):
    z, y = sample
    y[2] = label
    with pytest.raises(LossError, match=rf"0 \.\. 3.*{label}"):
        build_loss(name, COUNTS)(z, y)


def test_shapes_are_checked(sample):
    z, y = sample
    loss = build_loss("ce", COUNTS)
    for outputs, targets in ((z[:, :3], y), (z, y[:5]), (z[0], y[:1]), (z, y.unsqueeze(1))):
        with pytest.raises(LossError, match=r"logits \[n, 4\]"):
            loss(outputs, targets)
    with pytest.raises(LossError, match="whole numbers"):
        loss(z, y.double())


def test_ldam_refuses_logits_that_are_no_cosines(sample):
    z, y = sample
    loss = build_loss("ldam", COUNTS)
    assert loss.expects_cosines
    with pytest.raises(LossError, match="cosine classifier"):
        loss(5 * z, y)


BAD = [
    (("hinge", COUNTS), {}, "unknown loss 'hinge'.*ldam"),
    (("ldam", COUNTS), {"gamma": 1.0}, "no setting 'gamma'.*max_m, s"),
    (("ce", COUNTS), {"class_counts_": 1.0}, "class_counts_"),
    (("focal", COUNTS), {"gamma": -1.0}, "gamma"),
    (("ldam", COUNTS), {"max_m": -1.0}, "max_m"),
    (("ldam", COUNTS), {"s": -3.0}, "s .scale"),
    (("ldam", COUNTS), {"s": 0}, "s .scale"),
    (("la", COUNTS), {"tau": "1"}, "tau"),
    (("ce", COUNTS), {"drw_epoch": -1}, "drw_epoch"),
    (("ce", COUNTS), {"drw_epoch": 1, "beta": 1.0}, "beta"),
    (("ce", COUNTS), {"drw_epoch": 1, "beta": 1.5}, "beta"),
    (("ce", COUNTS), {"drw_epoch": 1, "weight_scale": "sum"}, "weight_scale"),
    (("class-balanced", COUNTS), {"drw_epoch": 1}, "weighted from the start"),
    (("re-weighted", [3, 0]), {}, "class 1 has 0"),
    (("ldam", [3, 0]), {}, "class 1 has 0"),
    (("vs", [3, 0]), {}, "class 1 has 0"),
    (("ce", [3, 0]), {"drw_epoch": 2}, "class 1 has 0"),
    (("ce", [3, -1]), {}, "not negative"),
    (("ce", []), {}, "not negative"),
]


@pytest.mark.parametrize(("args", "settings", "message"), BAD)
def test_bad_settings_are_named(args, settings, message):
    with pytest.raises(LossError, match=message):
        build_loss(*args, **settings)


def test_a_class_without_samples_is_no_matter_to_plain_cross_entropy(sample):
    z, y = sample
    close(build_loss("ce", [3, 0, 1, 1])(z, y), ce(z, y))


def test_every_loss_is_in_the_tests():
    assert set(ALL) == set(LOSSES)
