"""Class-conditional SAM (CC-SAM, CVPR 2023), stage 1, as its released code does it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from ..class_counts import ClassTable, number, whole_counts
from .buffers import buffers_move_once
from .data_parallel import Gradient
from .passes import Inputs, OptimizerError, Passes
from .wrapper import Common, Wrapper


class CCSAM(Wrapper):
    """CC-SAM stage 1: every class of the batch sees the classifier moved along its own gradient.

    For a class ``c`` of the batch and each tensor ``theta`` of the classifier, with ``g_c`` the gradient of the mean loss over
    the batch's samples of ``c``, ``n_c`` the training count and ``d`` the number of classifier parameters::

        eps_c = rho_c sqrt(d) g_c / ||g_c||,   rho_c = k sqrt(||theta|| / ||g_c||) / (sqrt(2) (n_c - 1)^(1/4) d^(1/4))
        grad of (1 - a) mean_i l_i(theta) + a mean_i l_i(theta + eps_{y_i})

    with ``eps`` held constant; norms per tensor. Features are computed once, so the price is 1 full forward and 1 full backward
    pass, plus one classifier forward and one classifier backward pass for every class in the batch.

    What is from where: the rule, ``a`` (``flat_ratio``) 0.3 on CIFAR-10-LT and 0.5 on CIFAR-100-LT, ``k`` (``noise_ratio``)
    1e-6 and mixup with Beta(1, 1) are those of the released code; the paper's text was not available to check against. There
    ``l`` is plain cross-entropy, and under mixup the perturbed part, like the class of a sample, goes by the unmixed image's
    label; both hold here, with ``loss_fn`` in the place of cross-entropy. Ours: mixup is off by default, so that optimizers are
    compared on the same samples; a vanishing ``g_c`` gives no perturbation (there a division by zero); data-parallel processes
    sum ``g_c``. Stage 2 (frozen backbone, class-balanced sampling) is another training protocol and no part of a step.

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``, at least 2 each (the rule divides by ``n_c - 1``).
        flat_ratio: ``a`` above, in [0, 1].
        noise_ratio: ``k`` above, >= 0.
        classifier: Dotted name of the module that turns features into logits; ``None``: the last module that has parameters.
        mixup_alpha: Parameter of the Beta distribution of mixup; 0 is no mixup.
        generator: Source of mixup's randomness, required with mixup.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: A setting out of its range, or a class with fewer than two samples.
    """

    name: ClassVar[str] = "ccsam"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        class_counts: Sequence[int],
        *,
        flat_ratio: float = 0.3,
        noise_ratio: float = 1e-6,
        classifier: str | None = None,
        mixup_alpha: float = 0.0,
        generator: np.random.Generator | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(base, **common)
        self.counts = whole_counts(class_counts, OptimizerError, least=2)
        self.flat_ratio = number("flat_ratio (weight of the perturbed loss)", flat_ratio, 0, 1, OptimizerError)
        self.noise_ratio = number("noise_ratio (scale of the perturbation)", noise_ratio, 0, math.inf, OptimizerError)
        self.mixup_alpha = number("mixup_alpha (0 is no mixup)", mixup_alpha, 0, math.inf, OptimizerError)
        if mixup_alpha > 0 and generator is None:
            raise OptimizerError("mixup_alpha > 0 needs generator=numpy.random.default_rng(seed), the source of its randomness")
        self.classifier, self.generator = classifier, generator
        self.settings = {
            "flat_ratio": self.flat_ratio,
            "noise_ratio": self.noise_ratio,
            "classifier": classifier,
            "mixup_alpha": self.mixup_alpha,
            "class_counts": self.counts,
        }
        self._one = ClassTable([1] * len(self.counts), torch.long, OptimizerError)

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        local = torch.zeros(len(self.counts), dtype=torch.long, device=targets.device)
        local.index_add_(0, targets, self._one(targets))
        present = self._global_counts(local)
        batch = sum(present)
        head = self._find_classifier(passes.model)
        mixed, other, share = self._mix(inputs, targets)
        with buffers_move_once(head) as buffers:
            with _captured_call(head) as calls:
                logits, losses = passes.forward(mixed, targets)
                if other is not None:
                    with passes.precision(targets.device):
                        losses = share * losses + (1 - share) * passes.loss(logits, other)
            buffers.moved()
            if len(calls) != 1 or calls[0][1] is not logits:
                named = self.classifier or "the last module with parameters"
                raise OptimizerError(
                    f"CC-SAM needs the module that turns features into logits, which {named} does not: its output is not "
                    "the model's. Name it with classifier='...', as in model.named_modules()"
                )
            features = calls[0][0]
            total = (1 - self.flat_ratio) / batch * losses.sum()
            own_shard = self.parallel is None or self.parallel.m_sharpness
            sizes = [int(n) for n in local.tolist()] if own_shard else present
            moves = self._perturbations(passes, head, losses, targets, sizes) if self.flat_ratio > 0 else {}
            for label, move in moves.items():
                index = (targets == label).nonzero().squeeze(1)
                if len(index) > 0:
                    buffers.rewind()
                    moved = self._moved_losses(passes, head, move, features[index], targets[index])
                    total = total + self.flat_ratio / batch * moved.sum()
        gradient = passes.scaled_gradient(total, passes.parameters)
        passes.backwards += 1
        return gradient, losses.detach().mean(), logits.detach()

    def _perturbations(
        self, passes: Passes, head: nn.Module, losses: Tensor, targets: Tensor, sizes: Sequence[int]
    ) -> dict[int, dict[str, Tensor]]:
        """``eps_c`` by class and classifier tensor, for every class with samples (``sizes``: joined batch or own shard)."""
        named = [(k, p) for k, p in head.named_parameters() if p.requires_grad]
        if not named:
            raise OptimizerError("CC-SAM perturbs the classifier, whose parameters are all frozen")
        weights = [p for _, p in named]
        labels = [label for label, n in enumerate(sizes) if n > 0]
        gradients = [passes.scaled_gradient(losses[targets == c].sum() / sizes[c], weights, retain=True) for c in labels]
        if self.parallel is not None and not self.parallel.m_sharpness:
            gradients = self.parallel.sum_gradients(gradients, weights)
        d = sum(p.numel() for p in head.parameters())
        with torch.no_grad():
            return {
                c: {k: self._epsilon(p, g, c, d) for (k, p), g in zip(named, gradient, strict=True) if g is not None}
                for c, gradient in zip(labels, gradients, strict=True)
            }

    def _epsilon(self, theta: Tensor, g: Tensor, label: int, d: int) -> Tensor:
        constant = self.noise_ratio * math.sqrt(d) / (math.sqrt(2) * (self.counts[label] - 1) ** 0.25 * d**0.25)
        norm = torch.linalg.vector_norm(g)
        length = constant * (torch.linalg.vector_norm(theta) / norm).sqrt()
        return torch.where(norm == 0, torch.zeros_like(g), length / norm * g)  # not finite: passed on to the gradient scaler

    def _moved_losses(
        self, passes: Passes, head: nn.Module, move: dict[str, Tensor], features: Tensor, targets: Tensor
    ) -> Tensor:
        """Losses of one class's samples under its own classifier ``theta + eps``."""
        moved = {k: p + move[k] if k in move else p for k, p in head.named_parameters()}
        with passes.precision(features.device):
            return passes.loss(torch.func.functional_call(head, moved, (features,)), targets)

    def _mix(self, inputs: Inputs, targets: Tensor) -> tuple[Inputs, Tensor | None, float]:
        if self.mixup_alpha == 0:
            return inputs, None, 1.0
        assert self.generator is not None
        if not isinstance(inputs, Tensor):
            raise OptimizerError("mixup takes inputs that are one tensor [n, ...]; with several use mixup_alpha=0")
        share = float(self.generator.beta(self.mixup_alpha, self.mixup_alpha))
        order = torch.from_numpy(self.generator.permutation(len(inputs))).to(inputs.device)
        return share * inputs + (1 - share) * inputs[order], targets[order], share

    def _find_classifier(self, model: nn.Module) -> nn.Module:
        if self.classifier is None:
            return [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))][-1]
        try:
            return model.get_submodule(self.classifier)
        except AttributeError:
            names = ", ".join(name for name, _ in model.named_children())
            raise OptimizerError(
                f"classifier={self.classifier!r} is no module of the model, whose parts are: {names}"
            ) from None

    def _memory(self) -> dict[str, Any]:
        return {"generator": None if self.generator is None else self.generator.bit_generator.state}

    def _remember(self, memory: dict[str, Any]) -> None:
        if self.generator is not None and memory["generator"] is not None:
            self.generator.bit_generator.state = memory["generator"]


@contextmanager
def _captured_call(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects ``(input, output)`` of the module's forward calls inside."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = module.register_forward_hook(lambda _m, args, output: calls.append((args[0], output)))
    try:
        yield calls
    finally:
        hook.remove()
