"""The optimizers are torch optimizers: groups, state, hooks, schedulers, pickles, and the two halves of a step.

Above 300 lines: what torch promises of an optimizer is one list, tried on the same small network.
"""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from saddlescope.training.optimizers.registry import OPTIMIZERS, SAM, SSESAM, OptimizerError, build_optimizer
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

COUNTS = [60, 40, 9, 5]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)).double()


def build(name, model, lr=0.1, **common):
    base = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    optimizer = build_optimizer(name, base, class_counts=COUNTS, epochs=4, eta=10, **common)
    optimizer.set_epoch(0)
    return optimizer


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def batch(seed=0, n=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator, dtype=torch.float64), torch.arange(n) % 4


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_halves_of_a_step_are_the_step(name):
    whole, halves = net(), net()
    one, two = build(name, whole, max_norm=0.4), build(name, halves, max_norm=0.4)
    for seed in range(3):
        done = one.step(whole, cross_entropy, batch(seed))
        two.zero_grad()
        first = two.backward(halves, cross_entropy, batch(seed))
        assert two.step() is None
        assert torch.equal(first.loss, done.loss)
        assert torch.equal(first.logits, done.logits)
    assert same(whole, halves)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_accumulate(name):
    """Two micro-batches with a share of 1/2: the mean of the gradients that each alone would give at the same weights."""
    model = net()
    optimizer = build(name, model)
    grads = []
    for seed in range(2):
        twin = net()
        build(name, twin, generator=np.random.default_rng(seed)).backward(twin, cross_entropy, batch(seed))
        grads.append([p.grad for p in twin.parameters()])
    optimizer.generator = np.random.default_rng(0)
    optimizer.backward(model, cross_entropy, batch(0), share=0.5)
    optimizer.generator, optimizer.vector = np.random.default_rng(1), None  # the latter: Eigen-SAM's, found anew
    optimizer.backward(model, cross_entropy, batch(1), share=0.5)
    for p, a, b in zip(model.parameters(), *grads, strict=True):
        torch.testing.assert_close(p.grad, (a + b) / 2, rtol=1e-12, atol=1e-14)


def test_a_gradient_that_is_not_the_methods_is_refused():
    """What another loop does by default, loss.backward() and step(), would train the plain loss under SAM's name."""
    model = net()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
    x, y = batch()

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y).mean()
        loss.backward()
        return loss

    for attempt in (optimizer.step, lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure)):
        with pytest.raises(OptimizerError, match=r"no gradient of its own.*backward\(model, loss_fn, batch\).*README"):
            attempt()
    optimizer.backward(model, cross_entropy, (x, y))
    optimizer.zero_grad()
    with pytest.raises(OptimizerError, match="no gradient of its own"):
        optimizer.step()


def test_a_closure_that_calls_backward_is_called_once():
    model, twin = net(), net()
    optimizer, other, calls = build("sam", model), build("sam", twin), []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        return optimizer.backward(model, cross_entropy, batch()).loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert torch.equal(loss, other.step(twin, cross_entropy, batch()).loss)
    assert same(model, twin)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("on", ["wrapper", "base"])
def test_schedulers_take_them(name, on):
    model = net()
    optimizer = build(name, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as: scheduler.step() before optimizer.step()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer if on == "wrapper" else optimizer.base, 4)
        optimizer.step(model, cross_entropy, batch())
        scheduler.step()
    expected = 0.1 * (1 + np.cos(np.pi / 4)) / 2
    assert optimizer.param_groups[0]["lr"] == optimizer.base.param_groups[0]["lr"] == pytest.approx(expected)
    before = model[3].weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step(model, cross_entropy, batch())
    assert torch.equal(model[3].weight, before)


def test_one_cycle_and_plateau_schedulers():
    model = net()
    optimizer = build("sam", model)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)  # sets momentum too
    assert optimizer.base.param_groups[0]["momentum"] == pytest.approx(0.95)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    lr = optimizer.param_groups[0]["lr"]
    plateau.step(1.0)
    plateau.step(2.0)
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(lr / 10)


def test_groups_and_state_are_the_bases_own_also_after_loading():
    model = net()
    optimizer = build("sam", model)
    assert isinstance(optimizer, torch.optim.Optimizer)
    optimizer.step(model, cross_entropy, batch())
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state
    assert optimizer.defaults is optimizer.base.defaults


def test_a_parameter_group_added_later_is_trained():
    model = net()
    optimizer = SAM(torch.optim.SGD(model[0].parameters(), lr=0.1))
    optimizer.add_param_group({"params": list(model[3].parameters()), "lr": 0.01})
    assert len(optimizer.base.param_groups) == 2
    before = model[3].weight.detach().clone()
    optimizer.step(model, cross_entropy, batch())
    torch.testing.assert_close(model[3].weight.detach(), before - 0.01 * model[3].weight.grad)


def test_hooks_are_called():
    model = net()
    optimizer, seen = build("sam", model), []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "mark": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, state: {k: v for k, v in state.items() if k != "mark"})
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    optimizer.step(model, cross_entropy, batch())
    state = optimizer.state_dict()
    assert state["mark"] == 1
    optimizer.load_state_dict(state)
    assert seen == ["before", "after", "loaded"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("through", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_goes_on_like_the_original(name, through):
    model = net()
    optimizer = build(name, model)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # leaves something on the instance that cannot be pickled
    optimizer.step(model, cross_entropy, batch())
    twin, other = through((model, optimizer))
    for seed in (1, 2):
        optimizer.step(model, cross_entropy, batch(seed))
        other.step(twin, cross_entropy, batch(seed))
    assert same(model, twin)
    assert other.epoch == 0


def test_state_dict_is_the_bases_with_an_entry_of_ours():
    """So that tools that read a torch optimizer's state find what they know, and the base can be loaded alone."""
    model = net()
    optimizer = build("ssesam", model)
    optimizer.step(model, cross_entropy, batch())
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups", "saddlescope"}
    assert state["saddlescope"]["epoch"] == 0
    alone = torch.optim.SGD(net().parameters(), lr=0.1)
    alone.load_state_dict({k: v for k, v in state.items() if k != "saddlescope"})
    assert alone.param_groups[0]["momentum"] == 0.9
    with pytest.raises(OptimizerError, match=r"no entry 'saddlescope'.*optimizer\.base"):
        optimizer.load_state_dict(alone.state_dict())


def test_a_state_of_before_is_read():
    """As 0.1.0 stored it in the middle of a run."""
    model, twin = net(), net()
    optimizer, other = build("sam", model), build("sam", twin)
    optimizer.step(model, cross_entropy, batch())
    state = optimizer.state_dict()
    old = {
        "method": "sam",
        "settings": dict(optimizer.settings),
        "epoch": 3,
        "base": copy.deepcopy({k: v for k, v in state.items() if k != "saddlescope"}),
        "scaler": None,
    }
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(old)
    assert other.epoch == 3
    optimizer.step(model, cross_entropy, batch(1))
    other.step(twin, cross_entropy, batch(1))
    assert same(model, twin)


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_other_bases(base):
    """The base optimizer itself, fed with the gradient that SAM leaves in .grad."""
    model, twin = net(), net()
    optimizer, plain = SAM(base(model.parameters(), lr=0.01)), base(twin.parameters(), lr=0.01)
    for seed in range(3):
        optimizer.step(model, cross_entropy, batch(seed))
        for p, q in zip(twin.parameters(), model.parameters(), strict=True):
            p.grad = q.grad.clone()
        plain.step()
    for p, q in zip(twin.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_for_matrices():
    """Muon takes matrices only; the other parameters are frozen here, as they would be another optimizer's."""
    model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False))
    twin = copy.deepcopy(model)
    optimizer, plain = SAM(torch.optim.Muon(model.parameters(), lr=0.01)), torch.optim.Muon(twin.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for seed in range(2):
        x, y = batch(seed)
        optimizer.step(model, cross_entropy, (x.float(), y))
        for p, q in zip(twin.parameters(), model.parameters(), strict=True):
            p.grad = q.grad.clone()
        plain.param_groups[0]["lr"] = plain.param_groups[0]["lr"] if seed == 0 else optimizer.param_groups[0]["lr"]
        plain.step()
        scheduler.step()
    assert same(model, twin)
    stored = optimizer.state_dict()
    optimizer.load_state_dict(stored)


def test_a_scaler_of_another_loop():
    """Its loop: scale, unscale, clip, step, update. The same digits as without, and an overflow skips the step."""
    plain, scaled = net(), net()
    one, two = build("ssesam", plain), build("ssesam", scaled)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for seed in range(2):
        one.zero_grad()
        one.backward(plain, cross_entropy, batch(seed))
        nn.utils.clip_grad_norm_(plain.parameters(), 0.3)
        one.step()
        two.zero_grad()
        two.backward(scaled, cross_entropy, batch(seed), scaler=scaler)
        scaler.unscale_(two)
        nn.utils.clip_grad_norm_(scaled.parameters(), 0.3)
        scaler.step(two)
        scaler.update()
    assert same(plain, scaled)
    weights = [p.detach().clone() for p in scaled.parameters()]
    two.zero_grad()
    two.backward(scaled, lambda o, t: cross_entropy(o, t) * float("inf"), batch(), scaler=scaler)
    scaler.step(two)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(p, w) for p, w in zip(scaled.parameters(), weights, strict=True))


class Named(nn.Module):
    """Called by name, as models for text are; returns an object with logits."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, features, scale=None, flag=False):
        assert flag
        return {"logits": self.net(features * scale), "hidden": features}


@pytest.mark.parametrize("split", [False, True])
def test_batches_that_are_dictionaries_or_several_inputs(split):
    x, y = batch()
    results = []
    forms = [
        (net(), (x * 2.0, y)),
        (Named(), {"features": x, "scale": torch.full_like(x, 2.0), "flag": True, "labels": y}),
        (Named(), [(x, torch.full_like(x, 2.0), True), y]),
    ]
    for model, given in forms:
        settings = {"split_batches": split}
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = build_optimizer("ssesam", base, class_counts=COUNTS, epochs=4, eta=10, settings=settings)
        optimizer.set_epoch(0)
        optimizer.step(model, cross_entropy, given)
        results.append(list(model.parameters()))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"x": torch.zeros(2, 3), "y": torch.zeros(2)}, "labels under one of labels, label.*keys x, y"),
        ((torch.zeros(2, 3), torch.zeros(2), torch.zeros(2)), "got one of 3 parts"),
        ("text", "got one of 4 parts"),
        (7, "got one of type int"),
        ({"x": torch.zeros(3, 3), "labels": torch.zeros(2)}, "inputs of 3 samples"),
        ((torch.zeros(2, 3), [0, 1]), "labels"),
    ],
)
def test_batches_of_other_forms_are_named(given, said):
    model = net()
    with pytest.raises(OptimizerError, match=said):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1)).step(model, cross_entropy, given)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return x, self.net(x)


def test_wrong_calls_are_named():
    model = net()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(OptimizerError, match="takes all three"):
        optimizer.step(model)
    with pytest.raises(OptimizerError, match=r"must be a torch\.nn\.Module, got function"):
        optimizer.step(lambda x: x, cross_entropy, batch())
    with pytest.raises(OptimizerError, match="wraps a plain torch optimizer"):
        SAM(optimizer)
    with pytest.raises(OptimizerError, match=r"wraps a plain torch optimizer.*got generator"):
        SAM(model.parameters())
    pair = Pair()
    with pytest.raises(OptimizerError, match=r"returned tuple.*logits"):
        SAM(torch.optim.SGD(pair.parameters(), lr=0.1)).step(pair, cross_entropy, batch())


@pytest.mark.parametrize("name", ["sam", "ssesam", "focalsam"])
def test_a_compiled_model(name):
    """Several gradients of one forward pass need the setting that torch's own message names, before the first call."""
    plain, model = net(), net()
    one, two = build(name, plain), build(name, model)
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=name == "sam"):
        compiled = torch.compile(model, backend="aot_eager")
        for seed in range(2):
            one.step(plain, cross_entropy, batch(seed))
            two.step(compiled, cross_entropy, batch(seed))
    for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_sharded_parameters_are_refused():
    model = net()
    model[0].weight.device_mesh = "as a DTensor has"
    with pytest.raises(OptimizerError, match=r"sharded \(FSDP"):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1)).step(model, cross_entropy, batch())


def test_it_says_what_it_is():
    text = repr(SSESAM(torch.optim.SGD(net().parameters(), lr=0.1), COUNTS, eta=10, epochs=4))
    assert text.startswith("SSESAM(eta=10, ")
    assert "around SGD (" in text


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # it says so of every checkpoint of one process
def test_distributed_checkpoints_take_the_base(tmp_path):
    """torch's helpers call ``step()`` without arguments to make state, which only the base understands."""
    model, twin = net(), net()
    one, other = (SAM(torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)) for m in (model, twin))
    one.step(model, cross_entropy, batch())
    stored = dict(zip(("model", "optimizer"), get_state_dict(model, one.base), strict=True))
    checkpoint.save(stored, checkpoint_id=tmp_path, no_dist=True)
    read = dict(zip(("model", "optimizer"), get_state_dict(twin, other.base), strict=True))
    checkpoint.load(read, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(twin, other.base, model_state_dict=read["model"], optim_state_dict=read["optimizer"])
    for m, optimizer in ((model, one), (twin, other)):
        optimizer.step(m, cross_entropy, batch(1))
    assert same(model, twin)
