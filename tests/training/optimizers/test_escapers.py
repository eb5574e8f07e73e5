"""The rules that have randomness or an eigenvector, and the stages, against their formulas written out in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from saddlescope.training.optimizers.eigensam import ritz
from saddlescope.training.optimizers.registry import (
    LPFSGD,
    PGD,
    SAM,
    SSESAM,
    EigenSAM,
    ImbSAM,
    LateImbSAM,
    OptimizerError,
    Plain,
    build_optimizer,
)
from torch import nn

COUNTS = [60, 40, 9, 5]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).double()


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def batch(labels=(0, 2, 1, 3, 0, 0, 2, 1), seed=1):
    x = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, torch.tensor(labels)


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def loss_at(model, w, x, y, weights):
    """As a function of all weights ``[d]``, on a copy whose buffers nobody else sees."""
    named = dict(model.named_parameters())
    parts = w.split([p.numel() for p in named.values()])
    values = {k: v.view_as(p) for (k, p), v in zip(named.items(), parts, strict=True)}
    buffers = {k: b.clone() for k, b in model.named_buffers()}
    return (cross_entropy(torch.func.functional_call(model, (values, buffers), (x,)), y) * weights).sum()


def gradient_at(model, w, x, y, weights):
    return torch.func.grad(lambda v: loss_at(model, v, x, y, weights))(w)


def mean(y):
    return torch.full((len(y),), 1 / len(y), dtype=torch.float64)


@pytest.mark.parametrize(("along", "at", "group"), [("tail-smallest", 0, "tail"), ("largest", -1, "all")])
def test_eigen_sam_is_its_formula_along_the_dense_hessians_eigenvector(along, at, group):
    model = net()
    x, y = batch()
    w = flat(model.parameters())
    chosen = (y >= 2).double() / (y >= 2).sum() if group == "tail" else mean(y)
    hessian = torch.autograd.functional.hessian(lambda v: loss_at(model, v, x, y, chosen), w)
    values, vectors = torch.linalg.eigh(hessian)
    if group == "tail":
        assert values[0] < -1e-3, "there is negative curvature to go along"
    v, g = vectors[:, at], gradient_at(model, w, x, y, mean(y))
    h = g / g.norm()
    eps = 0.3 * (h + 0.4 * torch.sign(g @ v) * (v - (h @ v) * h))
    expected = w - 0.1 * gradient_at(model, w + eps, x, y, mean(y))
    optimizer = EigenSAM(sgd(model), COUNTS, eta=10, rho=0.3, alpha=0.4, along=along, iterations=60)
    step = optimizer.step(model, cross_entropy, (x, y))
    assert optimizer.value == pytest.approx(float(values[at]), rel=1e-9)
    torch.testing.assert_close(flat(model.parameters()), expected, rtol=1e-8, atol=1e-10)
    assert (step.forwards, step.backwards) == (3, 2 + 1 + 120)


def test_eigen_sam_looks_again_when_it_is_time_and_waits_for_a_tail_sample():
    model = net()
    optimizer = EigenSAM(sgd(model, lr=0.0), COUNTS, eta=10, every=3)
    seen = []
    for labels in ([0, 1, 1, 0], [0, 2, 1, 3], [0, 2, 1, 3], [0, 2, 1, 3], [0, 1, 1, 0], [0, 2, 1, 3]):
        seen.append(optimizer.step(model, cross_entropy, batch(labels)).forwards)
    assert seen == [2, 3, 2, 2, 2, 3]  # in the fifth it is time, but the batch has no tail
    plain, twin = net(), net()
    EigenSAM(sgd(plain), COUNTS, eta=10, rho=0.3).step(plain, cross_entropy, batch([0, 1, 1, 0]))
    SAM(sgd(twin), rho=0.3).step(twin, cross_entropy, batch([0, 1, 1, 0]))
    torch.testing.assert_close(flat(plain.parameters()), flat(twin.parameters()), rtol=1e-12, atol=1e-14)


def test_ritz_pairs_of_a_known_matrix():
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    a = a + a.T
    start = torch.randn(12, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(a)
    for largest, at in ((False, 0), (True, -1)):
        value, vector = ritz(lambda x: a @ x, start, 12, largest=largest)
        assert value == pytest.approx(float(values[at]), rel=1e-10)
        assert abs(float(vector @ vectors[:, at])) == pytest.approx(1, rel=1e-10)
        few, rough = ritz(lambda x: a @ x, start, 4, largest=largest)
        assert values[0] - 1e-12 <= few <= values[-1] + 1e-12
        assert float(rough @ a @ rough) == pytest.approx(few, rel=1e-10)
    value, vector = ritz(lambda x: 2 * x, start, 5, largest=False)  # every space is invariant
    assert value == pytest.approx(2)
    assert float(vector.norm()) == pytest.approx(1)


def test_pgd_jumps_where_the_gradient_is_small_and_not_again_too_soon():
    """With a learning rate of 0 only jumps move the weights."""
    model = net()
    optimizer = PGD(sgd(model, lr=0.0), threshold=100.0, radius=0.2, wait=2, generator=np.random.default_rng(4))
    moved = []
    for _ in range(7):
        before = flat(model.parameters())
        step = optimizer.step(model, cross_entropy, batch())
        moved.append(float((flat(model.parameters()) - before).norm()))
        assert step.forwards == step.backwards == (2 if moved[-1] else 1)
    assert [m > 0 for m in moved] == [True, False, False, True, False, False, True]
    assert max(moved) <= 0.2
    norm = float(gradient_at(model, flat(model.parameters()), *batch(), mean(batch()[1])).norm())
    for threshold, jumps in ((norm * (1 - 1e-9), False), (norm * (1 + 1e-9), True)):
        before = flat(model.parameters())
        PGD(sgd(model, lr=0.0), threshold=threshold, radius=0.2).step(model, cross_entropy, batch())
        assert bool((flat(model.parameters()) - before).norm() > 0) == jumps
        norm = float(gradient_at(model, flat(model.parameters()), *batch(), mean(batch()[1])).norm())


def test_pgd_steps_with_the_gradient_at_the_new_weights():
    model, landed = net(), net()
    x, y = batch()
    PGD(sgd(landed, lr=0.0), threshold=100.0, radius=0.2).step(landed, cross_entropy, (x, y))
    w = flat(landed.parameters())
    PGD(sgd(model), threshold=100.0, radius=0.2).step(model, cross_entropy, (x, y))
    expected = w - 0.1 * gradient_at(model, w, x, y, mean(y))
    torch.testing.assert_close(flat(model.parameters()), expected, rtol=1e-10, atol=1e-12)


def test_pgd_draws_uniformly_from_the_ball():
    """In one dimension a uniform ball is an interval: mean 0, second moment r^2 / 3."""
    jumps = []
    generator = np.random.default_rng(0)
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = PGD(torch.optim.SGD([weight], lr=0.1), radius=2.0, generator=generator)
    for _ in range(2000):
        before = weight.detach().clone()
        optimizer._jump([weight])
        jumps.append(float(weight.detach() - before))
    assert max(map(abs, jumps)) <= 2
    assert np.mean(jumps) == pytest.approx(0, abs=4 * 2 / math.sqrt(3 * 2000))
    assert np.mean(np.square(jumps)) == pytest.approx(4 / 3, rel=0.08)


def test_pgd_comes_back_if_the_pass_after_the_jump_fails():
    model, calls = net(), []
    before = copy.deepcopy(model.state_dict())

    def failing(outputs, targets):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return cross_entropy(outputs, targets)

    with pytest.raises(KeyboardInterrupt):
        PGD(sgd(model), threshold=100.0).step(model, failing, batch())
    for key, value in model.named_parameters():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("epoch", [0, 2])
def test_lpf_sgd_is_the_mean_over_parts_at_their_own_noise(epoch):
    """Noise by hand, in the order of the rule: for each part, for each tensor."""
    model = net()
    x, y = batch()
    w = flat(model.parameters())
    width = 0.01 * (1 + 14 * (1 - math.cos(math.pi * epoch / 4)) / 2)
    source = torch.Generator().manual_seed(int(np.random.default_rng(7).integers(2**62)))
    expected = torch.zeros_like(w)
    for index in (slice(0, 3), slice(3, 6), slice(6, 8)):
        noise = []
        for p in model.parameters():
            z = torch.randn(p.shape, generator=source, dtype=torch.float64)
            for i in range(len(p)):
                size = p[i].detach().norm() if p.ndim == 2 else p.detach().norm()
                z[i] = z[i] * width * size
            noise.append(z)
        expected += gradient_at(model, w + flat(noise), x[index], y[index], torch.full((len(y[index]),), 1 / 8).double())
    optimizer = LPFSGD(sgd(model), epochs=4, sigma=0.01, parts=3, generator=np.random.default_rng(7))
    optimizer.set_epoch(epoch)
    assert optimizer.width() == pytest.approx(width)
    step = optimizer.step(model, cross_entropy, (x, y))
    torch.testing.assert_close(flat(model.parameters()), w - 0.1 * expected, rtol=1e-10, atol=1e-12)
    assert (step.forwards, step.backwards) == (2, 1)


def test_lpf_sgd_ends_with_grown_noise_and_small_batches_have_fewer_parts():
    model = net()
    optimizer = LPFSGD(sgd(model), epochs=4)
    optimizer.set_epoch(4)
    assert optimizer.width() == pytest.approx(15 * 5e-4)
    sizes = []
    model[0].register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    optimizer.step(model, cross_entropy, batch([0, 1, 2, 3, 0]))
    assert sizes == [5, 3, 2]


def steps(build, epochs, labels=None):
    model = net()
    optimizer = build(sgd(model))
    for epoch in range(epochs):
        optimizer.set_epoch(epoch)
        optimizer.step(model, cross_entropy, batch(seed=epoch))
    return flat(model.state_dict().values())


@pytest.mark.parametrize(("before", "first"), [("sgd", Plain), ("sam", lambda b: SAM(b, rho=0.2))])
def test_imbsam_from_the_switch_on(before, first):
    """To the last bit the one method until the switch, and ImbSAM after it, around one base optimizer."""

    def by_hand(base):
        early, late = first(base), ImbSAM(base, COUNTS, eta=10, rho=0.3)

        class Both:
            def set_epoch(self, epoch):
                self.now = early if epoch < 2 else late

            def step(self, *given):
                self.now.step(*given)

        return Both()

    def ours(base):
        return LateImbSAM(base, COUNTS, eta=10, epochs=4, gamma=0.5, before=before, rho=0.3, rho_before=0.2)

    assert torch.equal(steps(ours, 4), steps(by_hand, 4))
    assert not torch.equal(steps(ours, 4), steps(lambda b: ImbSAM(b, COUNTS, eta=10, rho=0.3), 4))


def test_a_stage_can_be_ended_by_a_criterion_of_ones_own():
    """What early stopping in stage 1 should do instead of stopping; it is kept in the saved state."""

    def build(epochs=10, **given):
        return SSESAM(sgd(net()), COUNTS, eta=10, epochs=epochs, **given)

    optimizer = build()
    optimizer.set_epoch(3)
    assert (optimizer.stage, optimizer.stage_switch_epoch) == (1, 7)
    optimizer.next_stage()
    assert (optimizer.stage, optimizer.stage_switch_epoch) == (2, 3)
    assert optimizer.radii() == (0.0, 0.1)
    again = build()
    again.load_state_dict(optimizer.state_dict())
    assert (again.stage, again.stage_switch_epoch) == (2, 3)
    with pytest.raises(OptimizerError, match="stage 2 began with epoch 3"):
        optimizer.next_stage()
    short = build(epochs=3)  # so short that 0.7 of it rounds up to all of it
    assert short.stage_switch_epoch == short.epochs == 3


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("bsam", {"rho": -1}, "rho"),
        ("lesam", {"sigma": -1}, "sigma"),
        ("lesam", {"rho_max": "x"}, "rho_max"),
        ("gsa", {"rho": -1}, "rho"),
        ("pgd", {"threshold": -1}, "threshold"),
        ("pgd", {"wait": -1}, "wait"),
        ("lpfsgd", {"growth": 0.5}, "growth"),
        ("lpfsgd", {"parts": 0}, "parts"),
        ("eigensam", {"along": "head"}, "tail-smallest, largest"),
        ("eigensam", {"iterations": 0}, "iterations"),
        ("imbsam-late", {"before": "adam"}, "sgd, sam"),
        ("imbsam-late", {"gamma": 2}, "gamma"),
    ],
)
def test_bad_settings_are_named(name, settings, said):
    with pytest.raises(OptimizerError, match=said):
        build_optimizer(name, sgd(net()), class_counts=COUNTS, epochs=4, eta=10, settings=settings)


@pytest.mark.parametrize("name", ["lesam", "lpfsgd", "imbsam-late", "ssesam"])
def test_rules_that_follow_the_epoch_say_what_to_call(name):
    model = net()
    optimizer = build_optimizer(name, sgd(model), class_counts=COUNTS, epochs=4, eta=10)
    with pytest.raises(OptimizerError, match="set_epoch"):
        optimizer.step(model, cross_entropy, batch())
