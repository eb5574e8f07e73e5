"""Head and tail samples as separate sub-batches: ImbSAM and SSE-SAM for the price of SAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .batches import take
from .buffers import buffers_move_once
from .data_parallel import DataParallel, Gradient
from .passes import Inputs, OptimizerError, Passes, added, perturbed
from .running_statistics import pooled_statistics, require_pooled
from .sam import Aim, Part, ascent


def split_gradient(
    passes: Passes,
    inputs: Inputs,
    targets: Tensor,
    parts: Sequence[Part],
    parallel: DataParallel | None = None,
    aim: Aim = ascent,
) -> tuple[Gradient, Tensor, Tensor]:
    """As :func:`~saddlescope.training.optimizers.sam.partwise_gradient`, every part evaluated on its own samples only.

    The price is that of SAM: in SSE-SAM's stage 1 each sample passes forward twice and backward twice; in stage 2 and in ImbSAM
    only tail samples do. Without batch normalisation the gradient is the same. With it, head and tail samples are normalised by
    the statistics of their own sub-batch, which changes the function that is trained; running statistics move once, by the
    pooled moments.

    Args:
        passes: Evaluates and counts.
        inputs: ``[n, ...]``.
        targets: ``[n]``.
        parts: With disjoint samples (those of non-zero weight).
        parallel: As in ``partwise_gradient``.
        aim: As there.

    Raises:
        BatchNormError: A sub-batch for which batch statistics do not exist, or buffers that move and that are no running
            statistics of batch normalisation (how to pool those of sub-batches is not known).
        OptimizerError: Synchronised batch normalisation in a data-parallel job, where processes would wait for each other.
    """
    if parallel is not None and any(isinstance(m, nn.SyncBatchNorm) for m in passes.model.modules()):
        raise OptimizerError(
            "split_batches=True does not go with SyncBatchNorm: processes without a tail sample would be waited for"
        )
    members = [part.weights.nonzero().squeeze(1) for part in parts]
    nothing: Gradient = [None] * len(passes.parameters)

    def evaluate(part: Part, index: Tensor) -> tuple[Tensor, Tensor, Gradient] | None:
        if len(index) == 0:
            return None
        logits, losses = passes.forward(take(inputs, index), targets[index])
        return logits.detach(), losses.detach(), passes.gradient(losses, part.weights[index])

    with buffers_move_once(passes.model) as buffers:
        with pooled_statistics(passes.model):
            at_w = [evaluate(part, index) for part, index in zip(parts, members, strict=True)]
        require_pooled(buffers.changed())
        buffers.moved()
        seen = [(index, values) for index, values in zip(members, at_w, strict=True) if values is not None]
        order = torch.cat([index for index, _ in seen]).argsort()
        logits = torch.cat([values[0] for _, values in seen])[order]
        loss = torch.cat([values[1] for _, values in seen]).mean()
        gradients = [nothing if values is None else values[2] for values in at_w]
        directions = gradients
        if parallel is not None and not parallel.m_sharpness:
            directions = parallel.sum_gradients(gradients, passes.parameters)
        total: Gradient = nothing
        for i, (part, index, gradient) in enumerate(zip(parts, members, gradients, strict=True)):
            if part.rho == 0:
                total = added(total, gradient)
                continue
            buffers.rewind()
            with perturbed(passes.parameters, aim(parts, directions, i)):
                values = evaluate(part, index)
            total = added(total, nothing if values is None else values[2])
    return total, loss, logits
