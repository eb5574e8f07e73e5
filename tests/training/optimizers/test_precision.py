"""Mixed precision: bfloat16 autocast, and float16 with a gradient scaler."""

import pytest
import torch
from saddlescope.training.optimizers.registry import OPTIMIZERS, SAM, build_optimizer
from torch import nn

COUNTS = [60, 40, 9, 5]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 4))


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def batch(n=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, 6, generator=generator, dtype=dtype), torch.arange(n) % 4


def build(name, model, lr=0.1, **common):
    base = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    optimizer = build_optimizer(name, base, class_counts=COUNTS, epochs=4, eta=10, **common)
    optimizer.set_epoch(0)
    return optimizer


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bfloat16_step_inside_and_outside_the_users_own_autocast(name):
    """Autocast keeps low-precision copies of the weights while its region lasts: those of w must not serve at w + eps."""
    own, outer = net(), net()
    build(name, own, autocast=torch.bfloat16).step(own, cross_entropy, batch())
    optimizer = build(name, outer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        optimizer.step(outer, cross_entropy, batch())
    assert torch.equal(flat(own), flat(outer))


@pytest.mark.parametrize("outer", [False, True])
def test_bfloat16_sam_is_the_rule_in_bfloat16(outer):
    """The two passes done by hand, each in an autocast region of its own, the perturbation in float32."""
    model, twin = net(), net()
    inputs, targets = batch()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=2.0, autocast=None if outer else torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outer):
        optimizer.step(model, cross_entropy, (inputs, targets))

    def gradient():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (cross_entropy(twin(inputs), targets) / len(targets)).sum()
        return torch.autograd.grad(loss, list(twin.parameters()))

    start = [p.detach().clone() for p in twin.parameters()]
    first = gradient()
    norm = torch.cat([g.flatten() for g in first]).norm()
    with torch.no_grad():
        for p, g in zip(twin.parameters(), first, strict=True):
            p.add_(2.0 * g / norm)
    second = gradient()
    for p, w, g, h in zip(model.parameters(), start, second, first, strict=True):
        torch.testing.assert_close(p.detach(), w - 0.1 * g, rtol=1e-5, atol=1e-7)
        if w.ndim == 2:
            assert not torch.allclose(g, h, rtol=1e-2), "the perturbation must be visible for the test to mean anything"


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_scaler_changes_no_bit(name, clip):
    """Unscaled before the perturbation and before clipping: with a power of two as scale the step is the same exactly."""
    plain, scaled = net().double(), net().double()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    a, b = build(name, plain, max_norm=clip), build(name, scaled, max_norm=clip, scaler=scaler)
    for _ in range(3):
        a.step(plain, cross_entropy, batch(dtype=torch.float64))
        b.step(scaled, cross_entropy, batch(dtype=torch.float64))
    assert torch.equal(flat(plain), flat(scaled))
    assert scaler.get_scale() == 2.0**11


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float16_recipe_follows_float32(name):
    half, full = net(), net()
    recipe = build(name, half, lr=1.0, autocast=torch.float16, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**8))
    reference = build(name, full, lr=1.0)
    start = flat(full)
    recipe.step(half, cross_entropy, batch())
    reference.step(full, cross_entropy, batch())
    moved = (flat(full) - start).norm()
    assert (flat(half) - flat(full)).norm() < 0.005 * moved


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_overflow_skips_the_step_lowers_the_scale_and_recovers(name):
    model = net()
    start = flat(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # overflows float16 in the first backward pass
    optimizer = build(name, model, autocast=torch.float16, scaler=scaler)
    optimizer.step(model, cross_entropy, batch())
    assert torch.equal(flat(model), start)
    assert scaler.get_scale() == 2.0**39
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    scaler.update(2.0**8)
    optimizer.step(model, cross_entropy, batch())
    assert torch.isfinite(flat(model)).all()
    assert not torch.equal(flat(model), start)


def test_half_precision_parameters_have_their_norm_in_float32():
    """The squares of a bfloat16 gradient would be summed in bfloat16, and those of a small float16 one would vanish."""
    from saddlescope.training.optimizers.passes import joint_norm

    tiny = torch.full((100_000,), 2.0**-14, dtype=torch.float16)
    assert float(joint_norm([tiny, None])) == pytest.approx(2.0**-14 * 100_000**0.5, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_a_gpu_it_does_what_it_does_on_the_cpu(name):
    there, here = net().double().cuda(), net().double()
    x, y = batch(dtype=torch.float64)
    build(name, there).step(there, cross_entropy, (x.cuda(), y.cuda()))
    build(name, here).step(here, cross_entropy, (x, y))
    torch.testing.assert_close(flat(there).cpu(), flat(here), rtol=1e-9, atol=1e-11)
