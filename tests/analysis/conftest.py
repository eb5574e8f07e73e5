"""Operators, networks and dense truths shared by the tests of the numerical core."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from saddlescope.analysis.krylov.linear_operator import LinearOperator
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.nn import functional


class DiagonalOperator(LinearOperator):
    """``diag(values)``, optionally turned by a Householder reflection so that no coordinate is special."""

    def __init__(self, values, dtype=torch.float64, reflect=None):
        self.values = torch.as_tensor(np.asarray(values, dtype=np.float64)).to(dtype)
        self.size, self.dtype, self.device = len(self.values), dtype, torch.device("cpu")
        self.num_samples, self.matvecs = 1, 0
        self._u = None
        if reflect is not None:
            u = torch.randn(self.size, dtype=torch.float64, generator=torch.Generator().manual_seed(reflect))
            self._u = (u / u.norm()).to(dtype)

    def _turn(self, v):
        return v if self._u is None else v - 2 * self._u * (self._u @ v)

    def matvec(self, v):
        self.matvecs += 1
        return self._turn(self.values * self._turn(v))


class Residual(nn.Module):
    """Convolutions, BatchNorm with statistics of its own, a residual, a linear head: 4 classes of 1x6x6 images, n = 175."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        x = functional.silu(self.stem_bn(self.stem(x)))
        x = x + functional.silu(self.bn(self.conv(x)))
        return self.fc(functional.adaptive_avg_pool2d(x, 2).flatten(1))


def make_network(dtype=torch.float64, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Residual().to(dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 2)
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, 0, 0.3)
    return model


def make_samples(count=37, seed=1, counts=None, shape=(1, 6, 6)):
    """Images and labels of 4 classes, long-tailed: 20, 10, 5, 2 of 37."""
    generator = torch.Generator().manual_seed(seed)
    counts = counts or (20, 10, 5, 2)
    labels = torch.cat([torch.full((c,), i) for i, c in enumerate(counts)])[:count]
    labels = labels[torch.randperm(len(labels), generator=generator)]
    inputs = torch.randn(len(labels), *shape, generator=generator, dtype=torch.float64)
    return Samples.from_tensors(inputs, labels, num_classes=4)


def truth(model, samples, parameters=None, per_sample=None):
    """Mean loss, gradient and Hessian by plain double backward, entry by entry, in the model's dtype and eval mode."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    parameters = list(model.parameters()) if parameters is None else parameters
    inputs, targets = samples.batch
    outputs = model(inputs.to(parameters[0].dtype))
    per_sample = per_sample or (lambda o, t: functional.cross_entropy(o, t, reduction="none"))
    loss = per_sample(outputs, targets).mean()
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True, allow_unused=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = []
    for entry in flat:
        row = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([r.reshape(-1) for r in row]))
    for module, flag in flags:
        module.training = flag
    return SimpleNamespace(loss=float(loss.detach()), gradient=flat.detach(), hessian=torch.stack(rows).detach())


@pytest.fixture(scope="session")
def diagonal():
    return DiagonalOperator


@pytest.fixture(scope="session")
def network():
    return make_network


@pytest.fixture(scope="session")
def long_tail():
    return make_samples


@pytest.fixture(scope="session")
def dense():
    return truth


@pytest.fixture(scope="session")
def reference():
    """One float64 network, its samples and its dense truth; read-only."""
    model, samples = make_network(), make_samples()
    return SimpleNamespace(model=model, samples=samples, truth=truth(model, samples))
