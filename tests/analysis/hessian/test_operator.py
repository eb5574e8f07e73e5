"""The Hessian operator against the dense Hessian by entry-wise double backward, and what it must leave untouched."""

import copy

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.losses import classification_loss
from saddlescope.analysis.hessian.modules import select_parameters
from saddlescope.analysis.hessian.operator import HessianOperator, finite
from saddlescope.analysis.samples.groups import group_indices, make_scheme
from saddlescope.analysis.samples.samples import Samples
from saddlescope.training.networks.models import build_model
from torch import nn
from torch.nn import functional


def vectors(n, count=3, dtype=torch.float64):
    return torch.randn(n, count, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).to(dtype)


def relative(value, truth):
    return float((value.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("micro_batch", [None, 1, 5, 16, 37, 1000])  # 37 samples: 5 and 16 leave a ragged batch
@pytest.mark.parametrize("memory", [None, 0, 400_000])  # every graph kept, none, some
def test_products_are_those_of_the_dense_hessian(reference, micro_batch, memory):
    operator = HessianOperator(reference.model, reference.samples, micro_batch=micro_batch, memory=memory)
    v = vectors(operator.size)
    product = operator.matmat(v)
    assert relative(product, reference.truth.hessian @ v) < 1e-12
    assert torch.allclose(operator.matvec(v[:, 1]), product[:, 1], rtol=1e-12)  # from the kept graphs, a second time
    assert operator.matvecs == 4
    loss, gradient = operator.loss_and_gradient()
    assert loss == pytest.approx(reference.truth.loss, rel=1e-12)
    assert operator.mean_loss() == pytest.approx(reference.truth.loss, rel=1e-12)
    assert relative(gradient, reference.truth.gradient) < 1e-12


def test_memory_budget_keeps_some_graphs(reference):
    def kept(memory):
        operator = HessianOperator(reference.model, reference.samples, micro_batch=5, memory=memory)
        operator.matvec(torch.ones(operator.size, dtype=torch.float64))
        return len(operator._kept)

    assert kept(0) == 0
    assert 0 < kept(400_000) < kept(None) == 8


@pytest.mark.parametrize("micro_batch", [None, 16])
def test_float32(reference, network, micro_batch):
    model = copy.deepcopy(reference.model).float()
    operator = HessianOperator(model, reference.samples, micro_batch=micro_batch)
    v = vectors(operator.size, dtype=torch.float32)
    product = operator.matmat(v)
    assert product.dtype == torch.float32
    assert relative(product, reference.truth.hessian @ v.double()) < 1e-4
    loss, gradient = operator.loss_and_gradient()
    assert loss == pytest.approx(reference.truth.loss, rel=1e-5)
    assert relative(gradient, reference.truth.gradient) < 1e-4


def test_the_resnet_of_the_studies(dense, long_tail):
    """Stride, zero-padded shortcuts and ReLU, accelerated by default; one row of the whole Hessian and a product by jvp."""
    model = build_model("digits-resnet", num_classes=4, seed=2, widths=(2, 4)).double()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    samples = long_tail(shape=(1, 8, 8))
    operator = HessianOperator(model, samples, micro_batch=10)
    assert operator.accelerator is not None
    truth = dense(model, samples)
    assert relative(operator.matmat(vectors(operator.size)), truth.hessian @ vectors(operator.size)) < 1e-10
    assert relative(operator.loss_and_gradient()[1], truth.gradient) < 1e-10


def test_the_dense_truth_itself(reference):
    """The reference itself, by torch.func through the network written out."""
    model, (inputs, targets) = copy.deepcopy(reference.model).eval(), reference.samples.batch

    def normalise(x, bn):
        mean, variance, scale, shift = (t[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
        return (x - mean) / (variance + bn.eps).sqrt() * scale + shift

    def loss(weight, bias):
        x = functional.conv2d(inputs, model.stem.weight, padding=1)
        x = functional.silu(normalise(x, model.stem_bn))
        x = x + functional.silu(normalise(functional.conv2d(x, model.conv.weight, model.conv.bias, padding=1), model.bn))
        pooled = x.reshape(-1, 3, 2, 3, 2, 3).mean((3, 5)).flatten(1)
        logits = pooled @ weight.T + bias
        return (logits.logsumexp(1) - logits.gather(1, targets[:, None])[:, 0]).mean()

    weights = (model.fc.weight.detach(), model.fc.bias.detach())
    blocks = torch.func.jacrev(torch.func.jacrev(loss, argnums=(0, 1)), argnums=(0, 1))(*weights)
    rows = [torch.cat([blocks[i][j].reshape(size, -1) for j in range(2)], dim=1) for i, size in ((0, 48), (1, 4))]
    assert torch.allclose(torch.cat(rows), reference.truth.hessian[-52:, -52:], atol=1e-12)


def test_groups_add_up_by_their_sizes(reference):
    """N H = sum_g n_g H_g, for ragged micro-batches too; the mean of the groups' means is far from it."""
    scheme = make_scheme("per-class", reference.samples.class_counts)
    parts = {
        group: HessianOperator(reference.model, reference.samples.subset(where), micro_batch=4)
        for group, where in group_indices(scheme, reference.samples).items()
    }
    whole = parts.pop("all")
    v = vectors(whole.size)[:, 0]
    total = sum(part.num_samples * part.matvec(v) for part in parts.values())
    assert relative(total, whole.num_samples * whole.matvec(v)) < 1e-13
    assert relative(sum(part.matvec(v) for part in parts.values()) / 4, whole.matvec(v)) > 0.05
    for name, part in parts.items():
        only = reference.samples.subset(np.flatnonzero(reference.samples.labels == int(name.split()[1])))
        assert only.num_samples == part.num_samples


@pytest.mark.parametrize("pattern", ["fc.*", "stem*,fc.bias", "*bn.weight, conv.weight"])
def test_parameter_subsets(reference, dense, pattern):
    names, parameters = select_parameters(reference.model, pattern)
    operator = HessianOperator(reference.model, reference.samples, params=pattern, micro_batch=8)
    assert operator.parameter_names == names
    truth = dense(reference.model, reference.samples, parameters)
    v = vectors(operator.size)
    assert operator.size == sum(p.numel() for p in parameters) < 175
    assert relative(operator.matmat(v), truth.hessian @ v) < 1e-12
    assert relative(operator.loss_and_gradient()[1], truth.gradient) < 1e-12
    assert torch.equal(operator.weights(), torch.cat([p.detach().reshape(-1) for p in parameters]))


def test_frozen_and_unused_parameters(network, long_tail, dense):
    model, samples = network(), long_tail()
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    model.conv.weight.requires_grad_(False)
    model.stem_bn.weight.requires_grad_(False)
    operator = HessianOperator(model, samples, micro_batch=8)
    free = [p for p in model.parameters() if p.requires_grad]
    assert "conv.weight" not in operator.parameter_names
    assert operator.size == sum(p.numel() for p in free)
    truth = dense(model, samples, free)
    v = vectors(operator.size)
    assert relative(operator.matmat(v), truth.hessian @ v) < 1e-12
    first = operator.parameter_names.index("unused")
    assert bool((operator.matvec(v[:, 0])[first : first + 3] == 0).all())
    assert not model.conv.weight.requires_grad


def test_tied_weights(dense):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4, dtype=torch.float64)
            self.two = nn.Linear(4, 4, dtype=torch.float64)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(torch.tanh(self.one(x)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tied()
    x = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    samples = Samples.from_tensors(x, torch.arange(9) % 4)
    operator = HessianOperator(model, samples, micro_batch=4)
    assert operator.size == 24
    v = vectors(24)
    assert relative(operator.matmat(v), dense(model, samples).hessian @ v) < 1e-12


def test_other_losses_and_a_scalar_mean(reference, dense):
    """A user's loss per sample, and the same one as a mean over the batch (weighted by the batch's size again)."""

    def smooth(outputs, targets):
        return functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1)

    truth = dense(reference.model, reference.samples, per_sample=smooth)
    for loss in (classification_loss(smooth), lambda model, batch: smooth(model(batch[0]), batch[1]).mean()):
        operator = HessianOperator(reference.model, reference.samples, loss, micro_batch=16)
        v = vectors(operator.size)
        assert relative(operator.matmat(v), truth.hessian @ v) < 1e-12
        assert operator.loss_and_gradient()[0] == pytest.approx(truth.loss, rel=1e-12)


def test_linear_loss_has_no_curvature():
    samples = Samples.from_tensors(torch.ones(3, 2), torch.zeros(3, dtype=torch.long))
    operator = HessianOperator(nn.Linear(2, 2), samples, lambda model, batch: model(batch[0]).sum(1))
    assert torch.equal(operator.matvec(torch.ones(6)), torch.zeros(6))


def test_attention_is_differentiated_twice(dense):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.head = nn.Linear(3, 12), nn.Linear(4, 4)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            return self.head(functional.scaled_dot_product_attention(q, k, v).mean(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Attention().double()
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    samples = Samples.from_tensors(x, torch.arange(7) % 4)
    operator = HessianOperator(model, samples, micro_batch=3)
    v = vectors(operator.size)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        truth = dense(model, samples)
    assert relative(operator.matmat(v), truth.hessian @ v) < 1e-12


def test_the_same_over_other_samples(network, long_tail):
    model, samples = network(), long_tail()
    whole = HessianOperator(model, samples, micro_batch=5)
    v = torch.randn(whole.size, dtype=whole.dtype, generator=torch.Generator().manual_seed(0))
    before = whole.matvec(v)
    chosen = np.arange(samples.num_samples)[::3]
    part, anew = whole.over(samples.subset(chosen)), HessianOperator(model, samples.subset(chosen), micro_batch=5)
    assert torch.equal(part.matvec(v), anew.matvec(v))
    assert (part.num_samples, part.matvecs, part.kept_bytes) == (anew.num_samples, anew.matvecs, anew.kept_bytes)
    assert part.work == pytest.approx(whole.work * len(chosen) / samples.num_samples)
    assert torch.equal(whole.matvec(v), before)
    assert whole.matvecs == 2
    assert whole.over(samples, reduce=lambda total: total).work == float("inf")  # processes that share a group must agree


def test_numbers_whose_squares_are_too_large_are_finite():
    large = torch.full((5,), 1e30)
    assert finite(large)
    assert finite(torch.empty(0))
    for strange in (float("nan"), float("inf"), -float("inf")):
        assert not finite(torch.cat([large, torch.tensor([strange])]))
        assert not finite(torch.tensor([strange, 1.0]))
