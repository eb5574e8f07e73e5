"""The control that tells curvature from augmentation noise: one Lanczos run on data that stand still, and on data that do not.

The released analysis of class-wise saddles takes its Hessian-vector products over a loader that crops and mirrors at random, so
every product belongs to another matrix. Lanczos then returns a tridiagonal matrix that is the Hessian of nothing: its lowest
Ritz value may be negative although every single draw is positive semidefinite, as it is for softmax regression. Here the same
spectra are measured with clean data, with augmentation drawn once and kept, and with augmentation redrawn at every product.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..hessian.losses import BatchLoss
from ..hessian.operator import HessianOperator
from ..krylov.guards import RandomOperatorError, guard, require_symmetric
from ..krylov.lanczos import Lanczos, random_start
from ..krylov.linear_operator import OperatorError
from ..records.augmentation import ControlData, ControlEntry
from ..samples.samples import Samples

#: ``(inputs [n, ...], generator) -> inputs [n, ...]``
Augmentation = Callable[[Tensor, torch.Generator], Tensor]
#: L2 penalty of the softmax regression, as in the recipes; without it a separable set has no minimum
WEIGHT_DECAY = 5e-4


class ControlError(ValueError):
    """The control cannot be run on these data; the message says why."""


class ConvergenceError(RuntimeError):
    """The softmax regression did not reach its minimum."""


@dataclass(frozen=True)
class CropMirror:
    """Random crop after padding with black and, if asked, mirror images: the usual augmentation of small images.

    Attributes:
        pad: pixels on each side.
        mirror: mirror half of the images.
        black: value of black in each channel of the inputs ``[C]``, which are normalised.
    """

    pad: int
    mirror: bool
    black: Tensor

    @classmethod
    def of(cls, inputs: Tensor, mirror: bool | None = None) -> CropMirror:
        """The augmentation for a set of images ``[N, C, H, W]``: padded by an eighth of their height (4 pixels of 32).

        Args:
            inputs: the whole set; black is taken to be the darkest value of each channel.
            mirror: default: colour images are mirrored, grey ones (digits) are not.

        Raises:
            ControlError: these are no images.
        """
        if inputs.dim() != 4:
            raise ControlError(
                f"inputs of shape {tuple(inputs.shape)}: the control crops images at random, give images [N, C, H, W]"
            )
        flips = inputs.shape[1] == 3 if mirror is None else mirror
        return cls(max(1, inputs.shape[2] // 8), flips, inputs.amin(dim=(0, 2, 3)))

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """One draw for each of ``inputs [n, C, H, W]``."""
        n, channels, height, width = inputs.shape
        top, left = torch.randint(0, 2 * self.pad + 1, (2, n, 1), generator=generator)
        rows, columns = top + torch.arange(height), left + torch.arange(width)
        if self.mirror:
            mirrored = torch.rand(n, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        black = self.black.to(inputs)[:, None, None]
        padded = black.expand(n, channels, height + 2 * self.pad, width + 2 * self.pad).clone()
        padded[:, :, self.pad : self.pad + height, self.pad : self.pad + width] = inputs
        picture = torch.arange(n)[:, None, None]
        return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def words(self) -> str:
        """``random crop (padding 4) and mirror image``."""
        return f"random crop (padding {self.pad}){' and mirror image' if self.mirror else ''}"


class RedrawnSamples(Samples):
    """Images augmented anew each time they are handed out, as a training loader does: what no analysis should be given."""

    def __init__(
        self, inputs: Tensor, targets: Tensor, num_classes: int, augment: Augmentation, generator: torch.Generator
    ) -> None:
        super().__init__((inputs, targets), targets, num_classes)
        self.augment, self.generator = augment, generator

    def batches(self, size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Iterator[Any]:
        """As of :class:`Samples`, with a new draw of every image."""
        for inputs, targets in super().batches(size, "cpu", dtype):
            yield self.augment(inputs, self.generator).to(device), targets.to(device)


def softmax_regression(inputs: Tensor, targets: Tensor, num_classes: int, max_steps: int = 5_000) -> tuple[nn.Module, float]:
    """Multinomial logistic regression at its minimum, and the largest entry of its gradient there.

    Cross-entropy is convex in the logits and the logits are linear in the weights, so the Hessian of every class's loss is
    positive semidefinite, whatever the weights and the data.

    Args:
        inputs: ``[N, ...]``; flattened.
        targets: ``[N]``.
        num_classes: C.
        max_steps: of L-BFGS.

    Raises:
        ConvergenceError: the gradient is still larger than 1e-5 after ``max_steps``.
    """
    x = inputs.flatten(1).double()
    centre = x.mean(0)
    variances, axes = torch.linalg.eigh((x - centre).T @ (x - centre) / len(x))
    # In whitened coordinates the problem is the same and its condition number that of the classes, not that of the pixels.
    scale = (variances.clamp_min(0) + 4 * WEIGHT_DECAY).rsqrt()
    z = (x - centre) @ (axes * scale)
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=max_steps, max_eval=2 * max_steps, tolerance_grad=3e-7, tolerance_change=0, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = (weight * scale).square().sum()
        loss: Tensor = functional.cross_entropy(z @ weight.T + bias, targets) + 0.5 * WEIGHT_DECAY * penalty
        loss.backward()
        return loss

    optimizer.step(objective)
    layer = nn.Linear(x.shape[1], num_classes, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight * scale @ axes.T)
        layer.bias.copy_(bias - layer.weight @ centre)
    # The gradient where it was asked for: in the pixels' own coordinates.
    loss = functional.cross_entropy(layer(x), targets) + 0.5 * WEIGHT_DECAY * layer.weight.square().sum()
    steepest = max(float(part.abs().max()) for part in torch.autograd.grad(loss, list(layer.parameters())))
    if not steepest <= 1e-5:
        raise ConvergenceError(f"softmax regression: gradient {steepest:.1e} after {max_steps} steps of L-BFGS at most")
    return nn.Sequential(nn.Flatten(), layer.float()), steepest


def measure_control(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    classes: Sequence[int],
    augment: Augmentation,
    *,
    num_classes: int,
    loss: BatchLoss | None = None,
    steps: int = 100,
    seed: int = 0,
    progress: Callable[[ControlEntry], None] | None = None,
) -> list[ControlEntry]:
    """The extreme Ritz values of every class's Hessian with fixed, frozen and redrawn inputs, from one start vector.

    Args:
        model: maps inputs to logits.
        inputs: clean, ``[N, ...]``.
        targets: ``[N]``.
        classes: which to measure.
        augment: the augmentation.
        num_classes: C.
        loss: default: cross-entropy.
        steps: of Lanczos; the released analysis takes 100.
        seed: of the start vector and of all draws.
        progress: called with each entry.
    """
    entries = []
    for label in classes:
        chosen = targets == label
        for data in get_args(ControlData):
            generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, label]).generate_state(1)[0]))
            samples = class_samples(inputs[chosen], targets[chosen], num_classes, data, augment, generator)
            # Kept graphs would repeat one draw. The released code keeps none either.
            memory = 1 if data == "redrawn" else None
            operator = HessianOperator(copy.deepcopy(model), samples, loss, memory=memory)
            entries.append(measure_entry(operator, label, data, steps, seed))
            if progress is not None:
                progress(entries[-1])
    return entries


def class_samples(
    inputs: Tensor, targets: Tensor, num_classes: int, data: ControlData, augment: Augmentation, generator: torch.Generator
) -> Samples:
    """The samples of one class under one of the three treatments."""
    if data == "redrawn":
        return RedrawnSamples(inputs, targets, num_classes, augment, generator)
    shown = augment(inputs, generator) if data == "frozen" else inputs
    return Samples.from_tensors(shown, targets, num_classes)


def measure_entry(operator: HessianOperator, label: int, data: ControlData, steps: int, seed: int) -> ControlEntry:
    """Both ends of one Lanczos run, what the guard says to the operator, and what the lowest Ritz vector says by itself."""
    noise = repeat_difference(operator, seed)
    try:
        if data != "redrawn":  # what changes at every pass is for the guard to say
            operator.look(seed=seed)
        guard(operator, seed)
        refusal = None
    except (RandomOperatorError, OperatorError) as error:
        refusal = str(error)
    run = Lanczos(operator, seed).run(steps)
    if refusal is None:
        try:
            scale = float(max(abs(run.ritz.values[0]), abs(run.ritz.values[-1])))
            require_symmetric(run.asymmetry, scale, operator, run.steps)
        except RandomOperatorError as error:
            refusal = str(error)
    v = run.ritz_vector(0)
    return ControlEntry(
        label=label,
        samples=operator.num_samples,
        data=data,
        lambda_min=float(run.ritz.values[0]),
        lambda_max=float(run.ritz.values[-1]),
        residual_min=float(run.ritz.residuals[0]),
        rayleigh_min=float(torch.dot(v.double(), operator.matvec(v).double())),
        noise=noise,
        refusal=refusal,
        steps=run.steps,
    )


def repeat_difference(operator: HessianOperator, seed: int = 0) -> float:
    """Operator noise: ``||H u - H u|| / ||H u||`` of two products of one random vector; 0 for an operator that is 0."""
    u = random_start(operator, seed + 101)
    first, again = operator.matvec(u).double(), operator.matvec(u).double()
    size = max(float(first.norm()), float(again.norm()))
    return float((first - again).norm()) / size if size > 0 else 0.0
