"""Head and tail perturbed by other radii and in other directions: LE-SAM per group, and GSA's direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch

from ..class_counts import number
from .data_parallel import Gradient
from .group_sam import HeadTail, Normalisation
from .passes import NORM_FLOOR, OptimizerError, combined, dot, joint_norm, scaled_to
from .sam import Part
from .stages import epoch_of, whole_epochs
from .wrapper import Common


class LESAM(HeadTail):
    """LE-SAM per group: head and tail are moved as far as raises the loss of each by the same amount.

    ``sum_p grad L_p(w + rho_p g_p / ||g_p||)`` over head and tail, ``rho_p = min(sigma_t / (||g_p|| + 1e-12), rho_max)``:
    to first order ``L_p`` grows by ``sigma_t``, which falls to zero by a cosine, ``sigma_t = sigma (1 + cos(pi t / epochs))
    / 2`` in epoch ``t``. 3 forward and 4 backward passes. LE-SAM has this radius for the whole loss; that head and tail
    have it each is ours, and so are the defaults. Call :meth:`set_epoch` at the start of every epoch.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``.
        eta: A class is tail iff its count is below ``eta``.
        epochs: Length of the whole training, in epochs.
        sigma: By how much the loss of either part may grow, at first.
        rho_max: Largest radius, > 0.
        normalisation: As in :class:`~saddlescope.training.optimizers.group_sam.ImbSAM`; with ``"group"`` the losses are group
            means.
        split_batches: As there.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: A setting out of its range.
    """

    name: ClassVar[str] = "lesam"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        class_counts: Sequence[int],
        *,
        eta: float,
        epochs: int,
        sigma: float = 0.05,
        rho_max: float = 0.5,
        normalisation: Normalisation = "batch",
        split_batches: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, class_counts, eta=eta, normalisation=normalisation, split_batches=split_batches, **common)
        self.epochs = whole_epochs(epochs)
        self.sigma = number("sigma (growth of the loss)", sigma, 0, math.inf, OptimizerError)
        self.rho_max = number("rho_max (largest radius)", rho_max, 0, math.inf, OptimizerError)
        self.settings |= {"sigma": self.sigma, "rho_max": self.rho_max, "epochs": self.epochs}

    def radii(self) -> tuple[float, float]:
        """The largest that are possible: zero if the loss may not grow."""
        largest = self.rho_max if self.budget() > 0 else 0.0
        return largest, largest

    def budget(self) -> float:
        """``sigma_t``."""
        done = min(epoch_of(self, "LE-SAM changes its radius") / self.epochs, 1.0)
        return self.sigma * (1 + math.cos(math.pi * done)) / 2

    def aim(self, parts: Sequence[Part], gradients: Sequence[Gradient], i: int) -> Gradient:
        """``rho_i g_i / ||g_i||`` with the radius of the class."""
        norm = joint_norm(gradients[i])
        return (
            gradients[i] if norm is None else scaled_to(gradients[i], (self.budget() / (norm + 1e-12)).clamp(max=parts[i].rho))
        )


class GSA(HeadTail):
    """GSA's direction: each group is moved along what its gradient does not share with the whole loss's.

    ``sum_p grad L_p(w + rho d_p / ||d_p||)`` over head and tail, ``d_p = g_p - (<g_p, g> / ||g||^2) g``, ``g = sum_p g_p``:
    3 forward and 4 backward passes. With two groups the directions are opposite. A batch of one group has no such direction
    and is differentiated at ``w`` (1 and 1). The direction only: GSA (CVPR 2026) has four groups found by clustering, radii
    from the sizes of the groups and a penalty, none of which is here.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``.
        eta: A class is tail iff its count is below ``eta``.
        rho: Radius for either part.
        normalisation: As in :class:`~saddlescope.training.optimizers.group_sam.ImbSAM`.
        split_batches: As there.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: A setting out of its range.
    """

    name: ClassVar[str] = "gsa"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        class_counts: Sequence[int],
        *,
        eta: float,
        rho: float = 0.05,
        normalisation: Normalisation = "batch",
        split_batches: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, class_counts, eta=eta, normalisation=normalisation, split_batches=split_batches, **common)
        self.rho = number("rho (radius of the perturbation)", rho, 0, math.inf, OptimizerError)
        self.settings["rho"] = self.rho

    def radii(self) -> tuple[float, float]:
        """``rho`` for both."""
        return self.rho, self.rho

    def arranged(self, parts: list[Part]) -> list[Part]:
        """One part alone has no direction of its own."""
        return parts if len(parts) > 1 else [Part(part.weights, 0.0) for part in parts]

    def aim(self, parts: Sequence[Part], gradients: Sequence[Gradient], i: int) -> Gradient:
        """``rho d_i / ||d_i||``; nothing where the rest is rounding."""
        whole = gradients[0]
        for other in gradients[1:]:
            whole = combined(1.0, whole, 1.0, other)
        square = dot(whole, whole).clamp(min=NORM_FLOOR**2)
        own = combined(1.0, gradients[i], -dot(gradients[i], whole) / square, whole)
        left, before = joint_norm(own), joint_norm(gradients[i])
        if left is None or before is None:
            return own
        rounding = 100 * torch.finfo(left.dtype).eps * before
        return scaled_to(own, torch.where(left <= rounding, torch.zeros_like(left), parts[i].rho))
