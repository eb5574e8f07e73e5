"""Accuracy by class group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..data.images import ImageSet
from ..optimizers.passes import evaluate


def class_groups(class_counts: Sequence[int], eta: int, many: int, few: int) -> dict[str, list[int]]:
    """Classes of ``all``, ``head`` (count >= eta), ``tail``, ``many`` (> many), ``medium``, ``few`` (< few)."""
    counts = list(enumerate(class_counts))
    return {
        "all": [c for c, _ in counts],
        "head": [c for c, n in counts if n >= eta],
        "tail": [c for c, n in counts if n < eta],
        "many": [c for c, n in counts if n > many],
        "medium": [c for c, n in counts if few <= n <= many],
        "few": [c for c, n in counts if n < few],
    }


@torch.no_grad()
def measure_accuracy(
    model: nn.Module,
    images: ImageSet,
    groups: dict[str, list[int]],
    *,
    batch_size: int | None = None,
    autocast: torch.dtype | None = None,
) -> dict[str, Any]:
    """Share of images whose largest logit is their class's, by group; ``None`` for a group without images.

    Args:
        model: put into eval mode, and back into the mode it was in.
        images: clean images are used.
        groups: name -> classes.
        batch_size: images evaluated at once; default: 100 on a CPU, whose caches large batches outgrow, else 1,000.
        autocast: mixed precision, as in training.

    Returns:
        The groups' accuracies and ``per_class``, a list.
    """
    was_training = model.training
    model.eval()
    classes = 1 + max(max(members, default=0) for members in groups.values())
    device = images.targets.device
    batch_size = batch_size or (100 if device.type == "cpu" else 1000)
    right = torch.zeros(classes, dtype=torch.long, device=device)
    for inputs, targets in zip(images.clean_batches(batch_size), images.targets.split(batch_size), strict=True):
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            predicted = evaluate(model, inputs).argmax(1)
        right += torch.bincount(targets[predicted == targets], minlength=classes)
    model.train(was_training)
    total = torch.bincount(images.targets, minlength=classes).tolist()
    hits = right.tolist()

    def share(members: list[int]) -> float | None:
        shown = sum(total[c] for c in members)
        return sum(hits[c] for c in members) / shown if shown else None

    return {name: share(members) for name, members in groups.items()} | {"per_class": [share([c]) for c in range(classes)]}
