"""Losses that weight the samples of a batch by their class: told from sums where their values agree, and only there."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.adding_up import of_every_class
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.nn.functional import cross_entropy

WEIGHTS = torch.tensor([1.0, 3.0, 9.0])


def weighted_mean(model, batch):
    return cross_entropy(model(batch[0]), batch[1], weight=WEIGHTS.to(batch[0].dtype))


def alike(dtype, scale=0.0):
    """A network whose losses are all ln 3 (or, scaled up, all nearly 0), on samples of three classes."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(30) % 3
    x = torch.randn(30, 4, generator=g, dtype=dtype) + 0
    x[:, :3] = nn.functional.one_hot(y, 3).to(dtype)
    model = nn.Linear(4, 3).to(dtype)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
        model.weight[:, :3] = scale * torch.eye(3, dtype=dtype)
    return model, Samples.from_tensors(x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_a_weighted_mean_of_equal_losses_is_no_sum(dtype, scale):
    model, samples = alike(dtype, scale)
    batch = samples.batch
    with torch.no_grad():  # what the values say: the same as the plain mean
        assert float(weighted_mean(model, batch)) == pytest.approx(float(cross_entropy(model(batch[0]), batch[1])), rel=1e-5)
    with pytest.raises(OperatorError, match=r"gradient differs by .* weighted mean instead of one number per sample"):
        HessianOperator(model, samples, weighted_mean)
    with pytest.raises(OperatorError, match="weighted mean"):
        HessianOperator(model, samples.subset(np.argsort(samples.labels, kind="stable")), weighted_mean)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_judged_in_double(dtype):
    model, samples = alike(dtype, 1.0)
    model.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    assert HessianOperator(model, samples, micro_batch=7).matvec(torch.ones(15)).dtype == dtype
    with pytest.raises(OperatorError, match="weighted mean"):
        HessianOperator(model, samples, weighted_mean)


def test_within_one_class_the_weighted_mean_is_the_mean():
    model, samples = alike(torch.float64)
    few = samples.subset(np.flatnonzero(samples.labels == 2))
    found = HessianOperator(model, few, weighted_mean).loss_and_gradient()[1]
    plain = HessianOperator(model, few).loss_and_gradient()[1]
    assert torch.allclose(found, plain, rtol=1e-12)


@pytest.mark.parametrize("scale", [12.0, 16.0, 18.0])
def test_rounding_of_tiny_losses_is_no_weighting(scale):
    """In float32 the softmax of such logits has one digit left or none; gradients then differ by their rounding."""
    model, samples = alike(torch.float32, scale)
    HessianOperator(model, samples)
    HessianOperator(model, samples, lambda m, b: cross_entropy(m(b[0]), b[1]))


def test_every_class_is_among_the_samples_compared():
    labels = np.array([0] * 500 + [1] * 3 + [2])
    chosen = of_every_class(labels)
    assert len(chosen) == len(set(chosen)) == 16
    assert set(labels[chosen]) == {0, 1, 2}
    assert list(labels[chosen]) == sorted(labels[chosen])
    assert len(of_every_class(np.arange(1000))) == 64
    assert sorted(of_every_class(np.arange(40) % 20)) == list(range(20))
