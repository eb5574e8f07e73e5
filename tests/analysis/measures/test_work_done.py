"""What ``analyze`` takes, counted where it is taken: passes at the loss, products at the operator, bytes on the disk.

A product, a pass in float64 or a stored vector more than there has to be is a failure here.
"""

import subprocess
import sys
from collections import Counter

import pytest
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.guards import PRODUCTS
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.nn import functional

N = 24


@pytest.fixture
def counted(monkeypatch):
    """Passes by (dtype, samples, gradient recorded), and products by (dtype, samples)."""
    passes, products = Counter(), Counter()

    def loss(model, batch):
        x, y = batch
        passes[x.dtype, len(y), torch.is_grad_enabled()] += 1
        return functional.cross_entropy(model(x), y, reduction="none")

    plain = HessianOperator.matmat

    def matmat(operator, v):
        products[operator.dtype, operator.num_samples] += v.shape[1]
        return plain(operator, v)

    monkeypatch.setattr(HessianOperator, "matmat", matmat)
    return loss, passes, products


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 36, 3)), torch.randn(N, 1, 8, 8)


def measured(network, counted, goal, folder, **settings):
    model, x = network
    loss = counted[0]
    chosen = AnalysisSettings(scheme="all", goal=goal, **settings)
    samples = Samples.from_tensors(x, torch.arange(N) % 3)
    result = analyze(
        model, samples, loss=loss, settings=chosen, vectors=folder / "vectors.safetensors", cache=folder / "starts"
    )
    return result.groups["all"]


@pytest.mark.parametrize("goal", ["ends", "verdict"])
def test_passes_and_products_are_those_that_are_needed(network, counted, tmp_path, goal):
    _, passes, products = counted
    group = measured(network, counted, goal, tmp_path)
    (steps,) = group.steps
    wide = torch.float64
    # A product a step and the guard's; in float64 both ends, and on a few samples two products before and two with the ends.
    assert products == {(torch.float32, N): steps + PRODUCTS, (wide, N): 2, (wide, 3): 4}
    # Recorded once for both ends; on a few samples the slope, twice a graph, and twice both sides of a difference.
    assert passes[wide, N, True] == 1
    assert passes[wide, 3, True] == 1 + 2 * (1 + 2)
    assert passes[wide, N, False] == 0
    assert passes[wide, 3, False] == 3  # the loss itself and two sides along the gradient
    # Of the whole group in float32: the gradient, and a graph twice: the guard drops the first, to see whether it comes again.
    assert passes[torch.float32, N, True] == 3


class Kinked(nn.Module):
    """A network beside a weight whose slope is the largest, and changes a few 1e-9 of the weights' length from here."""

    def __init__(self, network):
        super().__init__()
        self.network, self.slope = network, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        kink = 3e-9 * float(torch.cat([p.detach().reshape(-1) for p in self.network.parameters()]).norm())
        logits = self.network(x)
        return logits + (self.slope + torch.relu(self.slope - kink)) * 30 * torch.arange(3, dtype=logits.dtype)


def test_a_kink_beside_the_weights_costs_one_step_more_and_no_look_at_every_direction(network, counted, tmp_path):
    _, passes, _ = counted
    model, x = network
    measured((model, x), counted, "ends", tmp_path)
    before = passes[torch.float64, 3, True], passes[torch.float64, 3, False]
    passes.clear()
    kinked = measured((Kinked(model), x), counted, "ends", tmp_path)
    assert not kinked.warnings
    # Both sides of one more difference of the loss along the gradient, and no more.
    assert passes[torch.float64, 3, True] == before[0]
    assert passes[torch.float64, 3, False] == before[1] + 2


def test_a_graph_beyond_the_budget_is_recorded_once_a_product(network, counted):
    """The first is recorded to be seen, and is not dropped before its product."""
    loss, passes, _ = counted
    samples = Samples.from_tensors(network[1], torch.arange(N) % 3)
    operator = HessianOperator(network[0], samples, loss, micro_batch=8, memory=1)
    passes.clear()
    plain = HessianOperator(network[0], samples, loss).matvec(torch.ones(operator.size))
    passes.clear()
    for _ in range(2):
        assert torch.allclose(operator.matvec(torch.ones(operator.size)), plain, atol=1e-6)
    assert passes == {(torch.float32, 8, True): 2 * 3}


@pytest.mark.parametrize(("goal", "kept"), [("ends", 2), ("verdict", 1)])
def test_bytes_written_are_those_of_the_vectors(network, counted, tmp_path, goal, kept):
    """In float32: both ends', and the certificate's alone of a verdict."""
    measured(network, counted, goal, tmp_path)
    size = sum(p.numel() for p in network[0].parameters())
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file.stat().st_size <= kept * 4 * size + 200


PRODUCT = """
import sys, torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.samples.samples import Samples
model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))
operator = HessianOperator(model, Samples.from_tensors(torch.randn(6, 1, 4, 4), torch.arange(6) % 2))
operator.matvec(torch.ones(operator.size))
print(*sorted({"joblib", "sympy"} & set(sys.modules)))
"""


def test_a_product_imports_no_packages_of_its_own():
    """``torch.autograd.grad`` with vectors imports sympy: longer than the spectrum of a small network takes."""
    done = subprocess.run([sys.executable, "-c", PRODUCT], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
