"""Buffers of any kind move once a step, by the pass at the weights; every pass of a step sees the same function."""

import copy

import pytest
import torch
from saddlescope.training.optimizers.registry import OPTIMIZERS, SAM, build_optimizer
from saddlescope.training.optimizers.running_statistics import BatchNormError
from torch import nn

COUNTS = [60, 40, 9, 5]


class HandNorm(nn.Module):
    """A batch norm as people write it: buffers in place, or replaced by new tensors."""

    def __init__(self, width, *, replaced):
        super().__init__()
        self.replaced = replaced
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        mean = x.mean(0)
        if self.replaced:
            self.mean = 0.9 * self.mean + 0.1 * mean.detach()
            self.steps = self.steps + 1
        else:
            self.mean.mul_(0.9).add_(0.1 * mean.detach())
            self.steps += 1
        return x - mean


class Queue(nn.Module):
    """Distances to earlier features, kept in a ring; the batch's own are put in after they were compared."""

    def __init__(self, width, size=12):
        super().__init__()
        self.register_buffer("kept", torch.randn(size, width, generator=torch.Generator().manual_seed(1)))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        near = torch.tanh(x @ self.kept.clone().T).mean(1, keepdim=True)
        where = (self.place + torch.arange(len(x))) % len(self.kept)
        self.kept[where] = x.detach()
        self.place.add_(len(x))
        return x + near


LAYERS = {
    "in place": lambda: HandNorm(6, replaced=False),
    "replaced": lambda: HandNorm(6, replaced=True),
    "queue": lambda: Queue(6),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
    ),
}


def net(kind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), LAYERS[kind](), nn.Tanh(), nn.Linear(6, 4)).double()


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def batch():
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x, torch.tensor([0, 2, 1, 3, 0, 0, 2, 1])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_buffers_end_where_one_plain_pass_at_the_weights_leaves_them(name, kind):
    model = net(kind)
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = build_optimizer(name, base, class_counts=COUNTS, epochs=10, eta=10)
    optimizer.set_epoch(0)
    for _ in range(2):
        twin = copy.deepcopy(model)
        twin(batch()[0])
        optimizer.step(model, cross_entropy, batch())
        for (key, found), expected in zip(model.named_buffers(), twin.buffers(), strict=True):
            assert torch.equal(found, expected), key


@pytest.mark.parametrize("kind", LAYERS)
def test_the_function_at_perturbed_weights_is_that_of_the_first_pass(kind):
    """SAM by hand, each pass on a fresh copy of the model: a queue that holds this batch already would be another function."""
    model = net(kind)
    (x, y), start = batch(), copy.deepcopy(model)

    def gradient(weights):
        fresh = copy.deepcopy(start)
        with torch.no_grad():
            for p, w in zip(fresh.parameters(), weights, strict=True):
                p.copy_(w)
        return torch.autograd.grad(cross_entropy(fresh(x), y).mean(), list(fresh.parameters()))

    w = [p.detach().clone() for p in start.parameters()]
    first = gradient(w)
    norm = torch.cat([g.flatten() for g in first]).norm()
    second = gradient([a + 0.5 * g / norm for a, g in zip(w, first, strict=True)])
    SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5).step(model, cross_entropy, (x, y))
    for p, a, g in zip(model.parameters(), w, second, strict=True):
        torch.testing.assert_close(p.detach(), a - 0.1 * g, rtol=1e-10, atol=1e-12)


def test_an_exception_at_perturbed_weights_leaves_the_buffers_of_the_first_pass():
    model, calls = net("queue"), []
    twin = copy.deepcopy(model)
    twin(batch()[0])

    def failing(outputs, targets):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return cross_entropy(outputs, targets)

    with pytest.raises(KeyboardInterrupt):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1)).step(model, failing, batch())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))


@pytest.mark.parametrize("kind", ["in place", "replaced", "queue", "spectral norm"])
def test_sub_batches_refuse_buffers_that_they_cannot_pool_and_leave_them(kind):
    model = net(kind)
    before = copy.deepcopy(model.state_dict())
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = build_optimizer("imbsam", base, class_counts=COUNTS, epochs=10, eta=10, settings={"split_batches": True})
    with pytest.raises(BatchNormError, match=r"moves with every pass.*split_batches=False"):
        optimizer.step(model, cross_entropy, batch())
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
