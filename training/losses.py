"""Per-sample losses for long-tailed classification.

Every loss maps logits ``[n, C]`` and labels ``[n]`` to losses ``[n]`` in the logits' dtype and on their device, so that any
group of samples can be summed, weighted or differentiated alone.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .class_counts import number, whole_counts

WeightScale = Literal["classes", "samples"]


class LossError(ValueError):
    """A loss was given settings, labels or logits that it cannot work with."""


def effective_number_weights(class_counts: Sequence[int], beta: float, scale: WeightScale = "classes") -> list[float]:
    """Class weights ``(1 - beta) / (1 - beta^n_c)`` (Cui et al. 2019), rescaled.

    Args:
        class_counts: Training samples of each class ``[C]``, at least 1 each.
        beta: In [0, 1); 0 gives equal weights, towards 1 inverse frequency.
        scale: ``"classes"``: the weights sum to C. ``"samples"``: their mean over the training samples is 1, see
            :class:`PerSampleLoss`.
    """
    counts = whole_counts(class_counts, LossError, least=1)
    if number("beta (effective number of samples)", beta, 0, 1, LossError) == 1:
        raise LossError("beta (effective number of samples) must be below 1; its limit is the loss 're-weighted'")
    return _rescaled([(1 - beta) / (1 - beta**n) for n in counts], counts, scale)


def inverse_frequency_weights(class_counts: Sequence[int], scale: WeightScale = "classes") -> list[float]:
    """Class weights proportional to ``1 / n_c``, rescaled as in :func:`effective_number_weights`."""
    counts = whole_counts(class_counts, LossError, least=1)
    return _rescaled([1 / n for n in counts], counts, scale)


class PerSampleLoss(ABC):
    """``loss(outputs [n, C], targets [n]) -> losses [n]``, times a weight per class if re-weighting is on.

    Weighted losses are meant to be averaged over the batch size. ``torch.nn.CrossEntropyLoss(weight=...)`` divides by the sum
    of the batch's weights instead, which no per-sample loss can do; where a published recipe relies on that,
    ``weight_scale="samples"`` gives the same gradient scale on average (weights summing to C make it smaller by
    ``sum n_c w_c / N``: on CIFAR-10-LT with IF 100 and beta 0.9999 by a factor of 5.8).

    Attributes:
        expects_cosines: The logits must be cosines in [-1, 1] (a cosine classifier), which the loss scales itself.
    """

    expects_cosines = False

    def __init__(
        self, class_counts: Sequence[int], weights: Sequence[float] | None = None, weights_from_epoch: float = 0
    ) -> None:
        self.class_counts = whole_counts(class_counts, LossError)
        self._tables: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self._weights = None if weights is None else list(weights)
        self._weights_from_epoch = weights_from_epoch
        self._weighted = weights is not None and weights_from_epoch == 0

    def set_epoch(self, epoch: int) -> None:
        """Tells the loss which epoch begins, counted from 0 (deferred re-weighting starts at its epoch)."""
        self._weighted = self._weights is not None and epoch >= self._weights_from_epoch

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses ``[n]``.

        Raises:
            LossError: Wrong shapes, or a label outside 0 .. C-1 (on the CPU; CUDA reports a device assertion).
        """
        if outputs.ndim != 2 or outputs.shape[1] != len(self.class_counts) or targets.shape != outputs.shape[:1]:
            raise LossError(
                f"the loss takes logits [n, {len(self.class_counts)}] and labels [n], one column for each class count; got "
                f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
            )
        try:
            losses = self.unweighted(outputs, targets)
        except (RuntimeError, IndexError):
            _check_labels(targets, outputs.shape[1])
            raise
        if not self._weighted:
            return losses
        assert self._weights is not None
        return losses * self.table("weights", self._weights, losses).gather(0, targets)

    @abstractmethod
    def unweighted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss without class weights."""

    def table(self, name: str, values: Sequence[float], like: Tensor) -> Tensor:
        """A constant ``[C]`` in the dtype and on the device of ``like``."""
        key = (name, like.dtype, like.device)
        if key not in self._tables:
            self._tables[key] = torch.tensor(values, dtype=like.dtype, device=like.device)
        return self._tables[key]


class CrossEntropy(PerSampleLoss):
    """``-log softmax(z)_y``."""

    def unweighted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See the class."""
        return cross_entropy(outputs, targets)


class Focal(PerSampleLoss):
    """Focal loss (Lin et al. 2017): ``-(1 - p_y)^gamma log p_y``; ``gamma = 0`` is cross-entropy."""

    def __init__(self, class_counts: Sequence[int], *, gamma: float = 2.0, **weights: Any) -> None:
        super().__init__(class_counts, **weights)
        self.gamma = number("gamma (exponent)", gamma, 0, math.inf, LossError)

    def unweighted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See the class."""
        nll = cross_entropy(outputs, targets)
        if self.gamma == 0:
            return nll
        # A sure answer has 1 - p = 0 to the last digit, where a power has no derivatives for every gamma.
        miss = (-torch.expm1(-nll)).clamp(min=torch.finfo(nll.dtype).tiny)
        return miss**self.gamma * nll


class LDAM(PerSampleLoss):
    """LDAM (Cao et al. 2019): cross-entropy of ``s (cos_j - m_y [j = y])``, ``m_c = max_m (n_min / n_c)^(1/4)``.

    The logits must be cosines, from a classifier with normalised features and weights.
    """

    expects_cosines = True

    def __init__(self, class_counts: Sequence[int], *, max_m: float = 0.5, s: float = 30.0, **weights: Any) -> None:
        super().__init__(class_counts, **weights)
        counts = whole_counts(class_counts, LossError, least=1)
        largest = number("max_m (largest margin)", max_m, 0, math.inf, LossError)
        self.margins = [largest * (min(counts) / n) ** 0.25 for n in counts]
        self.s = number("s (scale of the cosines)", s, 0, math.inf, LossError)
        if self.s == 0:
            raise LossError("s (scale of the cosines) must be positive, got 0")
        self._looked = False

    def unweighted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See the class.

        Raises:
            LossError: The first logits seen are no cosines.
        """
        self._look(outputs)
        margin = self.table("margins", self.margins, outputs).gather(0, targets)
        shifted = outputs.scatter_add(1, targets.unsqueeze(1), -margin.unsqueeze(1))
        return cross_entropy(self.s * shifted, targets)

    def _look(self, outputs: Tensor) -> None:
        """Once per loss, since reading a value makes the device wait; rounding in bfloat16 may carry a cosine past 1."""
        if self._looked:
            return
        try:
            largest = float(outputs.detach().abs().max())
        except RuntimeError:  # inside torch.vmap no value can be read; the first call outside looks
            return
        self._looked = True
        if largest > 1.02:
            raise LossError(
                f"LDAM takes cosines in [-1, 1] and scales them by s itself, but a logit has size {largest:.3g}; give the "
                "model a cosine classifier (normalised features and weights, no scale, no bias)"
            )


class VS(PerSampleLoss):
    """Vector scaling: cross-entropy of ``z_c / (n_max / n_c)^gamma + tau log(n_c / N)``.

    With ``gamma = 0`` it is logit adjustment (LA), with ``tau = 0`` too it is cross-entropy. ``gamma = 0.3, tau = 1`` are the
    defaults of the escaping-saddle-points code, ``gamma = 0.05, tau = 0.75`` those of the SSE-SAM code (whose LA has tau 0.75).
    """

    def __init__(self, class_counts: Sequence[int], *, gamma: float = 0.3, tau: float = 1.0, **weights: Any) -> None:
        super().__init__(class_counts, **weights)
        counts = whole_counts(class_counts, LossError, least=1)
        exponent = number("gamma (exponent)", gamma, 0, math.inf, LossError)
        self.factors = [(n / max(counts)) ** exponent for n in counts]
        prior = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        self.offsets = (number("tau (strength of the adjustment)", tau, 0, math.inf, LossError) * prior.log()).tolist()

    def unweighted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See the class."""
        factors, offsets = self.table("factors", self.factors, outputs), self.table("offsets", self.offsets, outputs)
        return cross_entropy(outputs * factors + offsets, targets)


class LogitAdjustment(VS):
    """Logit adjustment (LA): cross-entropy of ``z_c + tau log(n_c / N)``."""

    def __init__(self, class_counts: Sequence[int], *, tau: float = 1.0, **weights: Any) -> None:
        super().__init__(class_counts, gamma=0.0, tau=tau, **weights)


#: name in recipes -> (class, own settings are its keywords)
LOSSES: dict[str, Callable[..., PerSampleLoss]] = {
    "cross-entropy": CrossEntropy,
    "class-balanced": CrossEntropy,
    "re-weighted": CrossEntropy,
    "focal": Focal,
    "ldam": LDAM,
    "logit-adjustment": LogitAdjustment,
    "vs": VS,
}
_ALIASES = {"ce": "cross-entropy", "la": "logit-adjustment"}


def build_loss(
    name: str,
    class_counts: Sequence[int],
    *,
    drw_epoch: int | None = None,
    beta: float = 0.9999,
    weight_scale: WeightScale = "classes",
    **settings: float,
) -> PerSampleLoss:
    """Builds a loss from JSON-able settings.

    Args:
        name: ``cross-entropy`` (``ce``), ``class-balanced`` (cross-entropy with effective-number weights), ``re-weighted``
            (with inverse-frequency weights), ``focal`` (``gamma``), ``ldam`` (``max_m``, ``s``), ``logit-adjustment`` (``la``;
            ``tau``) or ``vs`` (``gamma``, ``tau``).
        class_counts: Training samples of each class ``[C]``.
        drw_epoch: Deferred re-weighting: effective-number weights from this epoch on, counted from 0 (160 of 200 in Cao et
            al. 2019). Goes with every loss that is not weighted already.
        beta: Of the effective-number weights.
        weight_scale: ``"classes"`` (weights sum to C) or ``"samples"`` (mean 1 over the training samples).
        **settings: The loss's own.

    Raises:
        LossError: Unknown name or setting, a setting out of range, or a class without samples where the loss needs one.
    """
    key = _ALIASES.get(name, name)
    if key not in LOSSES:
        raise LossError(f"unknown loss {name!r}; known are {', '.join([*LOSSES, *_ALIASES])}")
    own = [k for k, p in inspect.signature(LOSSES[key]).parameters.items() if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(settings.keys() - set(own))
    if unknown:
        common = "drw_epoch, beta, weight_scale"
        raise LossError(f"loss {key!r} has no setting {unknown[0]!r}; it takes {', '.join([*own, common])}")
    counts = whole_counts(class_counts, LossError)
    weighting: dict[str, Any] = {}
    if key in ("class-balanced", "re-weighted"):
        if drw_epoch is not None:
            raise LossError(f"{key!r} is weighted from the start; drw_epoch goes with a loss such as 'cross-entropy'")
        if key == "class-balanced":
            weighting["weights"] = effective_number_weights(counts, beta, weight_scale)
        else:
            weighting["weights"] = inverse_frequency_weights(counts, weight_scale)
    elif drw_epoch is not None:
        weighting["weights"] = effective_number_weights(counts, beta, weight_scale)
        weighting["weights_from_epoch"] = number("drw_epoch (counted from 0)", drw_epoch, 0, math.inf, LossError)
    return LOSSES[key](counts, **settings, **weighting)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """``-log softmax(z)_y`` per sample; unlike ``torch.nn.functional.cross_entropy`` it ignores no label."""
    return -outputs.log_softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)


def _rescaled(weights: list[float], counts: list[int], scale: WeightScale) -> list[float]:
    if scale not in ("classes", "samples"):
        raise LossError(f"weight_scale must be 'classes' or 'samples', got {scale!r}")
    if scale == "classes":
        factor = len(weights) / sum(weights)
    else:
        factor = sum(counts) / sum(n * w for n, w in zip(counts, weights, strict=True))
    return [factor * w for w in weights]


def _check_labels(targets: Tensor, num_classes: int) -> None:
    if targets.is_floating_point():
        raise LossError(f"labels must be whole numbers (torch.int64), got {targets.dtype}")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= num_classes:
        raise LossError(f"labels must lie in 0 .. {num_classes - 1} (one per class count), but they run from {low} to {high}")
