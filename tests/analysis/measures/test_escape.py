"""Certificate and escape test against the dense Hessian and closed forms."""

import copy
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.elsewhere import shifted
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures import saddle as leaving
from saddlescope.analysis.samples.samples import Samples
from torch import nn


@pytest.fixture(scope="module")
def tail(reference, dense):
    """Tail group (classes 2 and 3), head group and whole, with the tail's most negative eigenvector from LAPACK."""
    labels = reference.samples.labels
    groups = {"tail": np.flatnonzero(labels >= 2), "head": np.flatnonzero(labels < 2)}
    samples = {name: reference.samples.subset(where) for name, where in groups.items()}
    truth = {name: dense(reference.model, part) for name, part in samples.items()}
    values, vectors = torch.linalg.eigh(truth["tail"].hessian)
    assert values[0] < -0.01
    return SimpleNamespace(
        model=copy.deepcopy(reference.model).eval(), samples=samples, truth=truth, share=7 / 37, whole=reference.truth.gradient,
        value=float(values[0]), v=vectors[:, 0], hessian=truth["tail"].hessian,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_certificate_is_a_negative_quotient_of_the_dense_hessian(tail, dtype):
    operator = HessianOperator(copy.deepcopy(tail.model).to(dtype), tail.samples["tail"])
    spectrum = measure_spectrum(operator)
    v = spectrum.vectors["min"]
    proof = leaving.certificate(
        operator.in_float64(), v, tau=0.001, noise=1e-9, vectors_file="x.vectors.safetensors", key="tail/min"
    )
    wide = v.double() / v.double().norm()
    quotient = float(wide @ tail.hessian @ wide)
    assert proof.holds
    assert quotient < -0.01
    assert proof.rayleigh_quotient == pytest.approx(quotient, rel=1e-12 if dtype == torch.float64 else 1e-4)
    assert (proof.dtype, proof.vector, proof.vectors_file) == ("float64", "tail/min", "x.vectors.safetensors")
    assert proof.vector_sha256 == hashlib.sha256(v.numpy().tobytes()).hexdigest()


def test_certificate_does_not_hold_without_negative_curvature_beyond_noise(tail):
    operator = HessianOperator(tail.model, tail.samples["tail"])
    up = torch.linalg.eigh(tail.hessian)[1][:, -1]
    for v, tau, noise, holds in (
        (up, 0, 0, False),
        (tail.v, 0, 0, True),
        (3 * tail.v, 0, -tail.value * 0.99, True),  # scaled to a unit vector first
        (3 * tail.v, 0, -tail.value * 1.01, False),
        (tail.v, -tail.value / 2, -tail.value * 0.51, False),
        (tail.v, -tail.value / 2, -tail.value * 0.49, True),
    ):
        assert leaving.certificate(operator, v, tau=tau, noise=noise, vectors_file="", key="").holds is holds


class Quadratic(nn.Module):
    """L(w) = c + b^T w + w^T A w / 2, whatever the inputs."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
        self.register_buffer("a", torch.diag(torch.tensor([-2.0, 1.0, 5.0], dtype=torch.float64)))
        self.register_buffer("b", torch.tensor([0.3, 0.0, -1.0], dtype=torch.float64))

    def forward(self, x):
        return (7 + self.b @ self.w + self.w @ self.a @ self.w / 2).expand(len(x))


def quadratic_operator():
    samples = Samples.from_tensors(torch.zeros(5, 1), torch.zeros(5, dtype=torch.long))
    return HessianOperator(Quadratic(), samples, lambda model, batch: model(batch[0]), micro_batch=2)


def test_escape_test_of_a_quadratic_is_its_model():
    operator = quadratic_operator()
    loss, gradient = operator.loss_and_gradient()
    v = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    slope = float(gradient @ v)
    assert slope == pytest.approx(0.3 - 2 * 0.5)
    test = leaving.escape_test(operator, v, loss=loss, slope=slope, quotient=-2, reach=1.5)
    assert test.steps == pytest.approx(np.linspace(-1.5, 1.5, 11))
    assert test.loss == pytest.approx(test.quadratic, rel=1e-12)
    w = operator.weights()
    by_hand = [float(7 + operator.model.b @ (w + s * v) + (w + s * v) @ operator.model.a @ (w + s * v) / 2) for s in test.steps]
    assert test.loss == pytest.approx(by_hand, rel=1e-12)
    assert test.steps[5] == 0
    assert test.loss[5] == loss


def test_escape_test_of_a_network_touches_its_model_to_third_order(tail):
    operator = HessianOperator(tail.model, tail.samples["tail"])
    loss, gradient = operator.loss_and_gradient()
    before = operator.weights()
    errors = []
    for reach in (0.04, 0.02):
        test = leaving.escape_test(
            operator, tail.v, loss=loss, slope=float(gradient @ tail.v), quotient=tail.value, reach=reach, points=5
        )
        # the odd part of the error is the third derivative
        errors.append(abs((test.loss[-1] - test.quadratic[-1]) - (test.loss[0] - test.quadratic[0])))
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.1)
    assert torch.equal(operator.weights(), before)


def test_the_loss_falls_along_the_direction_found(tail):
    operator = HessianOperator(tail.model, tail.samples["tail"])
    loss, gradient = operator.loss_and_gradient()
    slope = float(gradient @ tail.v)
    reach = leaving.natural_reach(slope, tail.value, loss, float(operator.weights().norm()))
    test = leaving.escape_test(operator, tail.v, loss=loss, slope=slope, quotient=tail.value, reach=reach)
    assert min(test.loss) < loss


def test_escape_test_leaves_out_what_is_not_finite():
    operator = quadratic_operator()
    operator.loss = lambda model, batch: torch.log(2 - model.w[0]).expand(len(batch[0]))
    v = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    test = leaving.escape_test(operator, v, loss=float(np.log(1.5)), slope=0, quotient=-1, reach=2, points=5)
    assert test.steps == [-2, -1, 0, 1]  # log(2 - 2.5) is not a number
    assert test.loss == pytest.approx(np.log([3.5, 2.5, 1.5, 0.5]))


def test_weights_are_restored_to_the_bit_after_an_exception(tail):
    operator = HessianOperator(copy.deepcopy(tail.model).float(), tail.samples["tail"])
    before, direction = operator.weights(), torch.full((175,), 1 / 3)

    def fail():
        with shifted(operator, direction, 1e-3):
            assert torch.allclose(operator.weights(), before + direction / 1e3)
            raise RuntimeError("user")

    with pytest.raises(RuntimeError, match="user"):
        fail()
    assert torch.equal(operator.weights(), before)


@pytest.mark.parametrize(("slope", "quotient", "loss"), [(0.0, -2.0, 1.0), (-0.5, -2.0, 1.0), (0.5, -0.3, 2.0)])
def test_natural_reach_is_where_the_model_has_lost_half_the_loss(slope, quotient, loss):
    s = leaving.natural_reach(slope, quotient, loss, 50)
    assert loss - abs(slope) * s + quotient * s * s / 2 == pytest.approx(loss / 2)
    assert leaving.natural_reach(slope, quotient, loss, 1) == pytest.approx(min(s, 0.2))


def test_natural_reach_is_bounded_by_the_weights():
    assert leaving.natural_reach(0, -1, 1e6, 10) == 2
    assert leaving.natural_reach(0, -1, 1e-12, 10) == pytest.approx(0.01)
    assert leaving.natural_reach(0, -1, -5, 10) == pytest.approx(0.01)  # a loss may be negative
    assert leaving.natural_reach(1, 0.5, 1, 10) == 0.5


def test_correlated_negative_curvature_by_hand():
    v, gradient = torch.tensor([0.6, 0.8]), torch.tensor([3.0, 4.0])
    record = leaving.escape(v=v, gradient=gradient, test=None)
    assert record.gradient_along_v == pytest.approx(5)
    assert record.correlated_negative_curvature == pytest.approx(1)
    record = leaving.escape(v=torch.tensor([0.8, -0.6]), gradient=gradient, test=None)
    assert record.correlated_negative_curvature == pytest.approx(0, abs=1e-12)
    assert leaving.escape(v=v, gradient=0 * gradient, test=None).correlated_negative_curvature is None
