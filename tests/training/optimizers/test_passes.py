"""What a step costs, and what it leaves behind: passes counted from outside, batch normalisation, restored weights."""

import weakref

import pytest
import torch
from saddlescope.training.optimizers.registry import OPTIMIZERS, SSESAM, build_optimizer
from saddlescope.training.optimizers.running_statistics import BatchNormError, pooled_statistics
from torch import nn

COUNTS = [60, 40, 9, 5]
MIXED, NO_TAIL, NO_HEAD = [0, 2, 1, 3, 0, 0, 2, 1], [0, 1, 1, 0, 1, 0, 0, 0], [3, 2, 3, 3, 2, 2, 2, 2]


class Counter(torch.autograd.Function):
    """The identity; its backward is reached by every backward pass through the network, and by nothing else."""

    @staticmethod
    def forward(ctx, x, log):
        ctx.log = log
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        ctx.log.append(len(g))
        return g, None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.last = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)
        self.forwards, self.backwards = [], []

    def forward(self, x):
        self.forwards.append(len(x))
        x = Counter.apply(self.norm(self.conv(x)).relu(), self.backwards)
        return self.last(x.mean((2, 3)))


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def batch(labels):
    return torch.randn(len(labels), 2, 5, 5, generator=torch.Generator().manual_seed(1)), torch.tensor(labels)


def build(name, model, **settings):
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    return build_optimizer(name, base, class_counts=COUNTS, epochs=10, eta=10, settings=settings)


TABLE = [  # (optimizer, settings, epoch, labels) -> forward and backward passes over the whole batch
    ("sgd", {}, 0, MIXED, 1, 1),
    ("sam", {}, 0, MIXED, 2, 2),
    ("sam", {"rho": 0.0}, 0, MIXED, 1, 1),
    ("imbsam", {}, 0, MIXED, 2, 3),
    ("imbsam", {}, 0, NO_TAIL, 1, 1),
    ("imbsam", {}, 0, NO_HEAD, 2, 2),
    ("ssesam", {}, 0, MIXED, 3, 4),
    ("ssesam", {}, 7, MIXED, 2, 3),
    ("ssesam", {}, 0, NO_TAIL, 2, 2),
    ("ssesam", {}, 0, NO_HEAD, 2, 2),
    ("ssesam", {}, 7, NO_TAIL, 1, 1),
    ("ssesam", {}, 7, NO_HEAD, 2, 2),
    ("ssesam", {"rho_head": 0.0}, 0, MIXED, 2, 3),
    ("ccsam", {}, 0, MIXED, 1, 1),
    ("focalsam", {}, 0, MIXED, 2, 3),
    ("focalsam", {}, 0, NO_TAIL, 2, 3),
    ("focalsam", {"strength": 1.0, "focus": 0.0}, 0, MIXED, 2, 2),
    ("bsam", {}, 0, MIXED, 2, 2),
    ("lesam", {}, 0, MIXED, 3, 4),
    ("lesam", {}, 10, MIXED, 1, 1),
    ("gsa", {}, 0, MIXED, 3, 4),
    ("gsa", {}, 0, NO_TAIL, 1, 1),
    ("imbsam-late", {}, 0, MIXED, 1, 1),
    ("imbsam-late", {"before": "sam"}, 0, MIXED, 2, 2),
    ("imbsam-late", {}, 7, MIXED, 2, 3),
    ("pgd", {}, 0, MIXED, 1, 1),
    ("pgd", {"threshold": 100.0}, 0, MIXED, 2, 2),
    ("eigensam", {"alpha": 0.0}, 0, MIXED, 2, 2),
]


@pytest.mark.parametrize(("name", "settings", "epoch", "labels", "forwards", "backwards"), TABLE)
def test_passes_are_those_the_rule_needs(name, settings, epoch, labels, forwards, backwards):
    model = Net()
    optimizer = build(name, model, **settings)
    optimizer.set_epoch(epoch)
    record = optimizer.step(model, cross_entropy, batch(labels))
    assert model.forwards == [8] * forwards
    assert model.backwards == [8] * backwards
    assert (record.forwards, record.backwards) == (forwards, backwards)


@pytest.mark.parametrize(("name", "epoch", "samples"), [("imbsam", 0, 8 + 3), ("ssesam", 0, 16), ("ssesam", 7, 8 + 3)])
def test_sub_batches_cost_no_more_than_sam(name, epoch, samples):
    model = Net()
    optimizer = build(name, model, split_batches=True)
    optimizer.set_epoch(epoch)
    record = optimizer.step(model, cross_entropy, batch(MIXED))
    assert sum(model.forwards) == sum(model.backwards) == samples <= 16
    assert record.forwards == record.backwards == samples / 8


def test_every_classifier_pass_of_ccsam_is_for_a_class_in_the_batch():
    model = Net()
    seen = []
    model.last.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    build("ccsam", model).step(model, cross_entropy, batch([0, 0, 0, 3, 3, 0, 0, 0]))
    assert sorted(seen) == [2, 6, 8]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_running_statistics_move_once_from_the_pass_at_the_weights(name, momentum):
    """To the last bit what one ordinary forward pass does, whatever the optimizer does at perturbed weights."""
    model, plain = Net(), Net()
    model.norm.momentum = plain.norm.momentum = momentum
    plain.norm.momentum = momentum
    optimizer = build(name, model)
    optimizer.set_epoch(0)
    for _ in range(2):
        plain.load_state_dict(model.state_dict())
        optimizer.step(model, cross_entropy, batch(MIXED))
        plain(batch(MIXED)[0])
        for (key, moved), expected in zip(model.norm.named_buffers(), plain.norm.buffers(), strict=True):
            assert torch.equal(moved, expected), key
    assert model.norm.track_running_stats
    assert model.norm.momentum == momentum
    assert model.training


@pytest.mark.parametrize("name", ["sam", "imbsam", "ssesam", "focalsam"])
def test_layers_in_eval_mode_stay_as_they_are(name):
    """Batch norm that the user has put to eval keeps its buffers and keeps being used with them."""
    model = Net()
    model.norm.eval()
    before = model.norm.running_mean.clone()
    optimizer = build(name, model)
    optimizer.set_epoch(0)
    optimizer.step(model, cross_entropy, batch(MIXED))
    assert torch.equal(model.norm.running_mean, before)
    assert not model.norm.training


class Fails(Exception):
    pass


@pytest.mark.parametrize(("settings", "call"), [({}, 2), ({}, 3), ({"split_batches": True}, 2), ({"split_batches": True}, 3)])
def test_an_exception_in_any_pass_leaves_the_weights_and_flags(settings, call):
    model = Net()
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer = build("ssesam", model, **settings)
    optimizer.set_epoch(0)
    calls = []

    def failing(outputs, targets):
        calls.append(1)
        if len(calls) == call:
            raise Fails
        return cross_entropy(outputs, targets)

    with pytest.raises(Fails):
        optimizer.step(model, failing, batch(MIXED))
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert model.norm.track_running_stats
    assert model.norm.momentum == 0.1
    assert not model.norm._forward_hooks
    assert not model.norm._forward_pre_hooks


class NoNorm(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Flatten(), nn.Linear(50, 6), nn.Tanh(), nn.Linear(6, 4))
        self.double()


@pytest.mark.parametrize("labels", [MIXED, NO_TAIL, NO_HEAD])
@pytest.mark.parametrize(("name", "epoch"), [("imbsam", 0), ("ssesam", 0), ("ssesam", 7)])
def test_sub_batches_without_batch_norm_give_the_same_step(name, epoch, labels):
    inputs, targets = batch(labels)
    results = []
    for split in (False, True):
        model = NoNorm()
        optimizer = build(name, model, split_batches=split)
        optimizer.set_epoch(epoch)
        record = optimizer.step(model, cross_entropy, (inputs.double(), targets))
        results.append((*model.parameters(), record.logits, record.loss))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_pooled_statistics_of_sub_batches_are_those_of_the_batch(momentum):
    """For a layer that sees raw inputs, ragged sub-batches give the update of the whole batch, over two steps."""
    whole, parts = nn.BatchNorm2d(2, momentum=momentum).double(), nn.BatchNorm2d(2, momentum=momentum).double()
    for step in range(2):
        x = torch.randn(9, 2, 3, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        whole(x)
        with pooled_statistics(parts):
            parts(x[:2])
            parts(x[2:])
    for expected, buffer in zip(whole.buffers(), parts.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-14)
    assert parts.momentum == momentum


def test_sub_batch_of_one_value_per_channel_is_refused_and_nothing_changes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = build("imbsam", model, split_batches=True)
    with pytest.raises(BatchNormError, match="one sample"):
        optimizer.step(model, cross_entropy, batch([0, 1, 0, 3]))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_sub_batches_refuse_instance_norm_with_running_statistics():
    model = nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True), nn.Flatten(), nn.Linear(50, 4))
    with pytest.raises(BatchNormError, match="InstanceNorm"):
        build("imbsam", model, split_batches=True).step(model, cross_entropy, batch(MIXED))


def test_model_whose_batch_norm_runs_unseen_is_refused():
    """As compiled models do, which skip hooks: running statistics would silently stand still."""
    layer = nn.BatchNorm2d(2)

    def unseen():
        with pooled_statistics(layer):
            layer._forward_hooks.clear()
            layer(torch.randn(3, 2, 4, 4))

    with pytest.raises(BatchNormError, match="unseen"):
        unseen()


def test_weights_come_back_bit_for_bit():
    """With learning rate 0 a step must leave the weights exactly where they were, even with enormous radii."""
    for name in OPTIMIZERS:
        model = Net()
        before = [p.detach().clone() for p in model.parameters()]
        base = torch.optim.SGD(model.parameters(), lr=0.0)
        optimizer = build_optimizer(name, base, class_counts=COUNTS, epochs=10, eta=10)
        optimizer.set_epoch(0)
        for field in ("rho", "rho_head", "rho_tail", "noise_ratio"):
            if hasattr(optimizer, field):
                setattr(optimizer, field, 1e3)
        optimizer.step(model, cross_entropy, batch(MIXED))
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)), name


class Box:
    """A tensor saved for a backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


@pytest.mark.parametrize("settings", [{}, {"split_batches": True}])
def test_activations_of_one_pass_are_gone_before_the_next(settings):
    """Memory is that of one pass: when a perturbed pass begins, nothing saved by the earlier ones is alive."""
    model = Net()
    optimizer = build("ssesam", model, **settings)
    optimizer.set_epoch(0)
    alive, at_start = weakref.WeakSet(), []

    def pack(tensor):
        box = Box(tensor)
        alive.add(box)
        return box

    model.register_forward_pre_hook(lambda *_: at_start.append(len(alive)))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        optimizer.step(model, cross_entropy, batch(MIXED))
    assert at_start == [0] * len(model.forwards)


def test_memory_of_the_graph_is_released():
    """No step keeps a graph alive: what a step returns needs no gradient."""
    model = Net()
    optimizer = SSESAM(torch.optim.SGD(model.parameters(), lr=0.1), COUNTS, eta=10, epochs=2)
    optimizer.set_epoch(0)
    record = optimizer.step(model, cross_entropy, batch(MIXED))
    assert record.loss.grad_fn is None
    assert record.logits.grad_fn is None
    assert all(p.grad.grad_fn is None for p in model.parameters())
