"""Backward passes that torch cannot differentiate, or that give a part of the weights no gradient."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.difference_products import DifferenceOperator
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.linear_operator import NoSecondDerivativeError, OperatorError
from saddlescope.analysis.measures.exact import dense_matrix
from torch import nn
from torch.utils.checkpoint import checkpoint

from saddlescope import AnalysisSettings, Samples, analyze

SAMPLES = Samples.from_tensors(torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3)
ALL = AnalysisSettings(scheme="all", goal="ends", dtype="float64")


class InNumpy(torch.autograd.Function):
    """A sine by another library, whose backward pass works as long as torch does not record it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx, gradient):
        return torch.from_numpy(gradient.numpy() * np.cos(ctx.saved_tensors[0].numpy()))


class Net(nn.Module):
    """Two layers and what is between them."""

    def __init__(self, middle, *, cut_off=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.middle, self.cut_off = nn.Linear(4, 3), nn.Linear(3, 3), middle, cut_off

    def forward(self, x):
        x = checkpoint(self.first, x, use_reentrant=True) if self.cut_off else self.first(x)
        return self.last(self.middle(x))


def test_a_backward_pass_in_another_library_is_measured_by_differences():
    values = torch.linalg.eigvalsh(dense_matrix(HessianOperator(Net(torch.sin).double(), SAMPLES))[0])
    group = analyze(Net(InNumpy.apply), SAMPLES, settings=ALL).groups["all"]
    assert group.products == "differences"
    for end, true in ((group.lambda_min, values[0]), (group.lambda_max, values[-1])):
        assert end.value == pytest.approx(float(true), rel=1e-4)
    with pytest.raises(OperatorError, match=r"cannot be differentiated twice: Can't call numpy\(\)"):
        analyze(Net(InNumpy.apply), SAMPLES, settings=ALL.model_copy(update={"products": "exact"}))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_part_that_checkpointing_gives_no_gradient_is_named():
    with pytest.raises(OperatorError, match="reentrant checkpointing, which gives weights no gradient where its inputs"):
        analyze(Net(torch.sin, cut_off=True), SAMPLES, settings=ALL)


class Entered(Net):
    """A first part in reentrant checkpointing whose inputs require a gradient, and so the only way to its weights is hidden."""

    def forward(self, x):
        hidden = checkpoint(lambda z: self.middle(self.first(z)), x.clone().requires_grad_(), use_reentrant=True)
        return self.last(hidden)


def test_weights_within_a_first_checkpointed_part_have_their_gradient():
    plain = HessianOperator(Net(torch.sin).double(), SAMPLES)
    hidden = HessianOperator(Entered(torch.sin).double(), SAMPLES)
    torch.testing.assert_close(hidden.loss_and_gradient(), plain.loss_and_gradient())
    with pytest.raises(NoSecondDerivativeError, match="use_reentrant=False"):
        hidden.matvec(plain.weights())
    by_differences = DifferenceOperator(Entered(torch.sin).double(), SAMPLES)
    torch.testing.assert_close(by_differences.matvec(plain.weights()), plain.matvec(plain.weights()), rtol=1e-5, atol=1e-7)
