"""Eigen-SAM: SAM's perturbation turned towards an eigenvector, here also that of the tail's most negative curvature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from ..class_counts import ClassTable, number, whole_counts, whole_number
from .buffers import buffers_move_once
from .data_parallel import Gradient
from .group_sam import tail_classes
from .noise import Random
from .passes import NORM_FLOOR, Inputs, OptimizerError, Passes, combined, dot, joint_norm
from .sam import Part, partwise_gradient
from .wrapper import Common

Along = Literal["tail-smallest", "largest"]


class EigenSAM(Random):
    """Eigen-SAM: ``grad L(w + eps)``, ``eps = rho (h + alpha sign<g, v> (v - <h, v> h))``, ``h = g / ||g||``.

    As published the unit vector ``v`` belongs to the largest eigenvalue of the loss's Hessian, from 5 power steps every 100
    training steps. With ``along = "tail-smallest"`` (the default, and untried before) it belongs to the most negative one
    of the tail's mean loss. Either is the Ritz vector of as many Lanczos steps, on the batch at hand in train mode, started
    from the last ``v`` and a random direction; if it has no tail sample the next batch's. 2 forward and 2 backward passes;
    a step that finds ``v`` anew has 1 and ``1 + 2 iterations`` more, in full precision.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``.
        eta: A class is tail iff its count is below ``eta``.
        rho: Radius of SAM's part of the perturbation.
        alpha: Weight of the eigenvector.
        along: ``"tail-smallest"`` or ``"largest"``.
        every: Steps from one ``v`` to the next.
        iterations: Lanczos steps.
        generator: Randomness, see :class:`~saddlescope.training.optimizers.noise.Random`.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: A setting out of its range.
    """

    name: ClassVar[str] = "eigensam"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        class_counts: Sequence[int],
        *,
        eta: float,
        rho: float = 0.1,
        alpha: float = 0.2,
        along: Along = "tail-smallest",
        every: int = 100,
        iterations: int = 5,
        generator: np.random.Generator | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, generator=generator, **common)
        counts = whole_counts(class_counts, OptimizerError)
        if along not in get_args(Along):
            raise OptimizerError(f"along must be one of {', '.join(get_args(Along))}; got {along!r}")
        self.eta, self.along = eta, along
        self.rho = number("rho (radius of the perturbation)", rho, 0, math.inf, OptimizerError)
        self.alpha = number("alpha (weight of the eigenvector)", alpha, 0, math.inf, OptimizerError)
        self.every = whole_number("every (steps)", every, 1, OptimizerError)
        self.iterations = whole_number("iterations (Lanczos steps)", iterations, 1, OptimizerError)
        self._is_tail = ClassTable(tail_classes(counts, eta), torch.bool, OptimizerError)
        self.settings = {
            "eta": eta,
            "rho": self.rho,
            "alpha": self.alpha,
            "along": along,
            "every": self.every,
            "iterations": self.iterations,
            "class_counts": counts,
        }
        #: ``v``, one tensor for each trained parameter; the Ritz value with it
        self.vector: list[Tensor] | None = None
        self.value = math.nan
        self.age = 0

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        if self.vector is not None and [v.shape for v in self.vector] != [p.shape for p in passes.parameters]:
            self.vector = None  # a layer was frozen or let go
        is_tail = self._is_tail(targets)
        if self.rho > 0 and self.alpha > 0 and (self.vector is None or self.age >= self.every):
            of = is_tail if self.along == "tail-smallest" else torch.ones_like(is_tail)
            (size,) = self._global_counts(of.sum().reshape(1))
            if size > 0:
                self._look(passes, inputs, targets, of.to(passes.weight_dtype) / size)
        self.age += 1
        return partwise_gradient(
            passes, inputs, targets, [Part(self._mean(passes, targets), self.rho)], self.parallel, self._aim
        )

    def _aim(self, parts: Sequence[Part], gradients: Sequence[Gradient], i: int) -> Gradient:
        g = gradients[i]
        norm = joint_norm(g)
        if norm is None:
            return g
        h = combined(1 / norm.clamp(min=NORM_FLOOR), g, 0.0, g)
        if self.vector is None:
            return combined(parts[i].rho, h, 0.0, h)
        v: Gradient = [None if a is None else b for a, b in zip(g, self.vector, strict=True)]
        across = combined(1.0, v, -dot(h, v), h)
        return combined(parts[i].rho, h, parts[i].rho * self.alpha * torch.sign(dot(g, v)), across)

    def _look(self, passes: Passes, inputs: Inputs, targets: Tensor, weights: Tensor) -> None:
        """Finds ``v`` for ``sum_i weights_i l_i`` at the weights; buffers stay as they are."""
        parameters = passes.parameters
        device = parameters[0].device
        exact = replace(passes, autocast=None, scale=None)
        sizes = [p.numel() for p in parameters]

        def flat(gradient: Gradient) -> Tensor:
            pieces = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradient, strict=True)]
            return torch.cat([piece.detach().reshape(-1).to(passes.weight_dtype) for piece in pieces])

        with buffers_move_once(passes.model), torch.autocast(device.type, enabled=False):
            _, losses = exact.forward(inputs, targets)
            gradient = torch.autograd.grad((losses * weights).sum(), parameters, create_graph=True, allow_unused=True)
            curved = [(i, g) for i, g in enumerate(gradient) if g is not None and g.requires_grad]

            def product(x: Tensor) -> Tensor:
                pieces = [piece.view_as(p).to(p.dtype) for piece, p in zip(x.split(sizes), parameters, strict=True)]
                along = [(g * pieces[i]).sum() for i, g in curved]
                found: Gradient = [None] * len(parameters)
                if along:
                    found = list(
                        torch.autograd.grad(torch.stack(along).sum(), parameters, retain_graph=True, allow_unused=True)
                    )
                if self.parallel is not None:
                    (found,) = self.parallel.sum_gradients([found], parameters)
                return flat(found)

            start = torch.randn(sum(sizes), generator=self.drawn(device), device=device, dtype=passes.weight_dtype)
            start = start / start.norm()
            if self.vector is not None:
                start = start + flat(list(self.vector))
            self.value, vector = ritz(product, start, self.iterations, largest=self.along == "largest")
        passes.forwards, passes.backwards = exact.forwards, exact.backwards + 1 + 2 * self.iterations
        self.vector = [piece.view_as(p).to(p.dtype) for piece, p in zip(vector.split(sizes), parameters, strict=True)]
        self.age = 0

    def _memory(self) -> dict[str, Any]:
        return super()._memory() | {"vector": self.vector, "value": self.value, "age": self.age}

    def _remember(self, memory: dict[str, Any]) -> None:
        super()._remember(memory)
        self.vector, self.value, self.age = memory["vector"], memory["value"], memory["age"]


@torch.no_grad()
def ritz(product: Callable[[Tensor], Tensor], start: Tensor, steps: int, *, largest: bool) -> tuple[float, Tensor]:
    """The extreme Ritz pair of a few Lanczos steps, each vector orthogonalised twice against all before.

    Args:
        product: ``x -> H x`` for a symmetric ``H``.
        start: ``[d]``, not zero.
        steps: Products.
        largest: The algebraically largest pair, else the smallest.

    Returns:
        The Ritz value and its unit vector ``[d]``.
    """
    basis, images = [start / start.norm()], []
    for _ in range(min(steps, len(start))):
        with torch.enable_grad():
            image = product(basis[-1])
        images.append(image)
        rest = image.clone()
        for _ in range(2):
            for q in basis:
                rest -= torch.dot(q, rest) * q
        norm = rest.norm()
        if not norm > torch.finfo(rest.dtype).eps * 10 * image.norm():
            break  # the space is invariant
        basis.append(rest / norm)
    q = torch.stack(basis[: len(images)])
    small = (q @ torch.stack(images).T).double()
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    at = -1 if largest else 0
    found = vectors[:, at].to(q) @ q
    return float(values[at]), found / found.norm()
