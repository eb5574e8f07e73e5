"""The generalised Gauss-Newton part of the Hessian: ``H = G + E`` with ``G = (1/N) sum_i J_i^T (grad^2_f l_i) J_i``.

J is the Jacobian of the model's outputs f in the parameters. For a convex loss (cross-entropy, squared error) G is positive
semidefinite, so negative curvature comes from E alone, the part that the second derivatives of the network bring in
(Schraudolph 2002; Sagun et al. 2018; Papyan 2019).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..krylov.linear_operator import LinearOperator, OperatorError
from ..krylov.spectrum import measure_spectrum
from ..records.spectra import Extreme, GaussNewton
from ..samples.samples import Samples
from .corrections import Corrections, reason
from .gradients import derivatives
from .losses import BatchLoss, ClassificationLoss
from .operator import HessianOperator
from .outputs import OutputError, find_logits

#: Relative difference of the loss's gradient and that through the outputs, which are of the same operations.
OTHERWISE = 1e-4


class GaussNewtonOperator(LinearOperator):
    """G as a linear operator over the same parameters, samples and loss as a Hessian operator.

    Products need three backward passes and recompute the forward pass of every micro-batch: ``J v`` as the derivative of
    ``J^T u`` in u (which is linear), then the loss's own Hessian in the outputs, then ``J^T``.

    Args:
        hessian: the operator it belongs to; kept graphs of that one are not touched.

    Attributes:
        size, dtype, device, num_samples, matvecs: as of every operator.

    Raises:
        OperatorError: at a product: the loss is not a function of one output tensor of the model, or cannot be differentiated.
    """

    def __init__(self, hessian: HessianOperator) -> None:
        self.model: nn.Module = hessian.model
        self.samples: Samples = hessian.samples
        self.loss: BatchLoss = hessian.loss
        self.parameters = hessian.parameters
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device
        self.num_samples = hessian.num_samples
        self.matvecs = 0
        self._hessian = hessian

    def matvec(self, v: Tensor) -> Tensor:
        """``G v`` for ``v [n]``."""
        with self._hessian.differentiable():  # the passes backward as well: they run what is checkpointed again
            parts = self._hessian.split(v.to(self.device, self.dtype))
            total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
            for batch in self.samples.batches(self._hessian.micro_batch, self.device, self.dtype):
                total += self._product(batch, parts)
        self.matvecs += 1
        reduce = self._hessian.reduce
        return (total if reduce is None else reduce(total)) / self.num_samples

    def _product(self, batch: Any, parts: list[Tensor]) -> Tensor:
        seen: list[Any] = []
        hook = self.model.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            with Corrections():
                loss = self._hessian.batch_loss(batch)
        finally:
            hook.remove()
        outputs = self._single_output(seen)
        (slope,) = derivatives(loss, [outputs], create_graph=True)
        if self.matvecs == 0:
            self._require_single_way(loss, outputs, slope)
        if slope is None or not slope.requires_grad:  # a loss that is linear in the outputs
            return torch.zeros(self.size, dtype=self.dtype, device=self.device)
        u = torch.zeros_like(outputs, requires_grad=True)
        try:
            pulled = torch.autograd.grad(outputs, self.parameters, u, create_graph=True, allow_unused=True)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise OperatorError(reason(error, twice=True)) from error
        used = [(p, v) for p, v in zip(pulled, parts, strict=True) if p is not None]
        pushed = derivatives([p for p, _ in used], [u], [v for _, v in used], retain_graph=True)
        curved = derivatives([slope], [outputs], pushed, retain_graph=True)
        return self._hessian.flat(derivatives([outputs], self.parameters, curved))

    def _require_single_way(self, loss: Tensor, outputs: Tensor, slope: Tensor | None) -> None:
        """Returns if the loss depends on the weights through the outputs alone: its gradient is that of them, then."""
        whole = self._hessian.flat(derivatives(loss, self.parameters, retain_graph=True))
        size, apart = whole.norm(), whole
        if slope is not None:
            apart = whole - self._hessian.flat(derivatives([outputs], self.parameters, [slope.detach()], retain_graph=True))
        if float(apart.norm()) > OTHERWISE * float(size):
            raise OperatorError(
                "the Gauss-Newton part needs a loss of one output tensor of the model; this one depends on the weights in "
                "another way as well: through a second output, something that the model keeps, or the weights themselves"
            )

    def _single_output(self, seen: list[Any]) -> Tensor:
        if len(seen) != 1:
            raise OperatorError(
                f"the Gauss-Newton part needs a loss that calls the model once per batch; it was called {len(seen)} times"
            )
        if isinstance(self.loss, ClassificationLoss):
            return self.loss.find_logits(seen[0]).tensor
        try:
            return find_logits(seen[0], self.samples.num_classes).tensor
        except OutputError as error:
            raise OperatorError(f"the Gauss-Newton part needs a loss of one output tensor of the model: {error}") from error


def measure_gauss_newton(
    hessian: HessianOperator, v: Tensor | None, *, steps: int, min_steps: int, rtol: float, delta: float, seed: int
) -> GaussNewton:
    """Largest eigenvalue and trace of G, and how much of ``v^T H v`` is G's.

    Args:
        hessian: of the group.
        v: unit vector, the most negative direction of H, where there is one.
        steps: Lanczos step limit.
        min_steps: done in any case.
        rtol: convergence of the extreme.
        delta: failure probability of the interval.
        seed: of the start.
    """
    operator = GaussNewtonOperator(hessian)
    spectrum = measure_spectrum(operator, steps=steps, min_steps=min_steps, rtol=rtol, delta=delta, seed=seed)
    largest: Extreme = spectrum.lambda_max
    along = None
    if v is not None:
        along = float(torch.dot(operator.matvec(v).double(), v.to(operator.device).double()))
    return GaussNewton(lambda_max=largest, quotient_along_v=along, trace=spectrum.trace)
