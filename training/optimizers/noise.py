"""Methods that move the weights at random: perturbed gradient descent and LPF-SGD."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..class_counts import number, whole_number
from .batches import take
from .buffers import buffers_move_once
from .data_parallel import Gradient
from .passes import Inputs, OptimizerError, Passes, added, joint_norm, perturbed
from .sam import Part, partwise_gradient
from .stages import epoch_of, whole_epochs
from .wrapper import Common, Wrapper


class Random(Wrapper):
    """A method with randomness of its own, from a numpy generator whose state is saved with the optimizer's.

    Without one it is seeded with 0: equal trainings have equal digits, and seeds to be compared need a generator each. In a
    data-parallel job all processes need the same.
    """

    def __init__(
        self, base: torch.optim.Optimizer, *, generator: np.random.Generator | None = None, **common: Unpack[Common]
    ) -> None:
        super().__init__(base, **common)
        self.generator = np.random.default_rng(0) if generator is None else generator

    def drawn(self, device: torch.device, *, own: bool = False) -> torch.Generator:
        """A torch generator for the numbers of one step; with ``own`` another one for each process."""
        seed = int(self.generator.integers(2**62))
        if own and self.parallel is not None:
            seed += dist.get_rank(self.parallel.group)
        return torch.Generator(device).manual_seed(seed)

    def _memory(self) -> dict[str, Any]:
        return {"generator": self.generator.bit_generator.state}

    def _remember(self, memory: dict[str, Any]) -> None:
        self.generator.bit_generator.state = memory["generator"]


class PGD(Random):
    """Perturbed gradient descent (Jin et al. 2017): where the gradient is small the weights jump, and go on from there.

    Where ``||g|| <= threshold`` and the last jump is more than ``wait`` steps ago, ``w <- w + xi`` with ``xi`` uniform in
    the ball of this radius, and the step is taken with the gradient at the new weights: 2 forward and 2 backward passes,
    else 1 and 1. ``g`` is the gradient of the batch (in the paper: of the whole loss), so the threshold has to lie above
    its noise where jumps shall occur at all. Loss and running statistics are those before the jump. The weights move in
    ``backward``, not in ``step()``. The defaults are ours.

    Args:
        base: Any torch optimizer.
        threshold: Largest gradient norm at which it jumps.
        radius: Of the ball.
        wait: Steps without a jump after one.
        generator: Randomness, see :class:`Random`.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: A setting out of its range.
    """

    name: ClassVar[str] = "pgd"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        *,
        threshold: float = 0.05,
        radius: float = 0.05,
        wait: int = 100,
        generator: np.random.Generator | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, generator=generator, **common)
        self.threshold = number("threshold (gradient norm)", threshold, 0, math.inf, OptimizerError)
        self.radius = number("radius (of the ball)", radius, 0, math.inf, OptimizerError)
        self.wait = whole_number("wait (steps)", wait, 0, OptimizerError)
        self.settings = {"threshold": self.threshold, "radius": self.radius, "wait": self.wait}
        self.since: int | None = None  #: steps since the last jump, ``None`` before the first

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        weights = self._mean(passes, targets)
        with buffers_move_once(passes.model) as buffers:
            gradient, loss, logits = partwise_gradient(passes, inputs, targets, [Part(weights, 0.0)])
            buffers.moved()
            self.since = None if self.since is None else self.since + 1
            if not self._jumps(passes, gradient):
                return gradient, loss, logits
            self.since = 0
            moved = [p for p, g in zip(passes.parameters, gradient, strict=True) if g is not None]
            kept = [p.detach().clone() for p in moved]
            self._jump(moved)
            buffers.rewind()
            try:
                _, losses = passes.forward(inputs, targets)
                return passes.gradient(losses, weights), loss, logits
            except BaseException:
                with torch.no_grad():
                    for parameter, before in zip(moved, kept, strict=True):
                        parameter.copy_(before)
                raise

    def _jumps(self, passes: Passes, gradient: Gradient) -> bool:
        whole = gradient if self.parallel is None else self.parallel.sum_gradients([gradient], passes.parameters)[0]
        norm = joint_norm(whole)
        waited = self.since is None or self.since > self.wait
        return waited and norm is not None and bool(norm <= self.threshold)

    @torch.no_grad()
    def _jump(self, moved: list[nn.Parameter]) -> None:
        source = self.drawn(moved[0].device)
        noise: Gradient = [torch.randn(p.shape, generator=source, device=p.device, dtype=p.dtype) for p in moved]
        share = float(torch.rand((), generator=source, device=moved[0].device)) ** (1 / sum(p.numel() for p in moved))
        norm = joint_norm(noise)
        assert norm is not None
        for parameter, z in zip(moved, noise, strict=True):
            assert z is not None
            parameter.add_(z * (self.radius * share / norm).to(z))

    def _memory(self) -> dict[str, Any]:
        return super()._memory() | {"since": self.since}

    def _remember(self, memory: dict[str, Any]) -> None:
        super()._remember(memory)
        self.since = memory["since"]


class LPFSGD(Random):
    """LPF-SGD (Bisla et al. 2022): the gradient of a loss smoothed by a Gaussian, each part of the batch at a draw of its own.

    The batch is cut into ``parts``; part ``j`` is differentiated at ``w + n_j``, ``n_j ~ N(0, (sigma_t ||f||)^2)`` for each
    number of a filter ``f`` (the tensor's slice along its first dimension; a vector is one filter), and ``sigma_t = sigma
    (1 + (growth - 1) (1 - cos(pi t / epochs)) / 2)`` in epoch ``t``. Rule and settings are those of the authors' code,
    where ``t`` counts steps, batch normalisation sees the parts, and running statistics move at the perturbed weights. Here
    they move once, by a forward pass at ``w`` (which also gives loss and logits): 2 forward passes and 1 backward. A part
    has two samples at least, so that small batches have fewer parts. Call :meth:`set_epoch` at the start of every epoch.
    Data-parallel processes draw their own noise.

    Args:
        base: Any torch optimizer.
        epochs: Length of the whole training, in epochs.
        sigma: Noise over the norm of a filter, in the first epoch.
        growth: Factor of ``sigma`` at the end, >= 1.
        parts: Pieces of a batch, each with a draw of its own.
        generator: Randomness, see :class:`Random`.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: A setting out of its range.
    """

    name: ClassVar[str] = "lpfsgd"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        *,
        epochs: int,
        sigma: float = 5e-4,
        growth: float = 15.0,
        parts: int = 8,
        generator: np.random.Generator | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, generator=generator, **common)
        self.epochs = whole_epochs(epochs)
        self.sigma = number("sigma (noise over the norm of a filter)", sigma, 0, math.inf, OptimizerError)
        self.growth = number("growth (factor of sigma at the end)", growth, 1, math.inf, OptimizerError)
        self.parts = whole_number("parts (of a batch)", parts, 1, OptimizerError)
        self.settings = {"sigma": self.sigma, "growth": self.growth, "parts": self.parts, "epochs": self.epochs}

    def width(self) -> float:
        """``sigma_t``."""
        done = min(epoch_of(self, "LPF-SGD changes its noise") / self.epochs, 1.0)
        return self.sigma * (1 + (self.growth - 1) * (1 - math.cos(math.pi * done)) / 2)

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        weights, width = self._mean(passes, targets), self.width()
        source = self.drawn(passes.parameters[0].device, own=True)
        total: Gradient = [None] * len(passes.parameters)
        with buffers_move_once(passes.model) as buffers:
            with torch.no_grad():
                logits, losses = passes.forward(inputs, targets)
            buffers.moved()
            for index in torch.arange(len(targets), device=targets.device).tensor_split(
                max(1, min(self.parts, len(targets) // 2))
            ):
                buffers.rewind()
                with perturbed(passes.parameters, [filter_noise(p, width, source) for p in passes.parameters]):
                    _, own = passes.forward(take(inputs, index), targets[index])
                    total = added(total, passes.gradient(own, weights[index]))
        return total, losses.mean(), logits


@torch.no_grad()
def filter_noise(weight: Tensor, width: float, source: torch.Generator) -> Tensor:
    """Normal noise of standard deviation ``width`` times the norm of the filter that the number belongs to."""
    norm: Tensor = weight.norm() if weight.ndim < 2 else weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
    noise: Tensor = torch.randn(weight.shape, generator=source, device=weight.device, dtype=weight.dtype) * (width * norm)
    return noise
