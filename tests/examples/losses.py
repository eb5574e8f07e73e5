"""Somebody's losses that are no classification: each returns one number a sample, which is what a group's mean is made of."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def per_pixel(model: nn.Module, batch: Any) -> Tensor:
    """Segmentation: cross-entropy of every pixel, averaged over each image; 255 is no class. Masks ``[n, H, W]``."""
    images, masks = batch
    pixels = functional.cross_entropy(model(images), masks, reduction="none", ignore_index=255)
    return pixels.sum((1, 2)) / (masks != 255).sum((1, 2)).clamp(min=1)


def several_labels(model: nn.Module, batch: Any) -> Tensor:
    """Several labels a sample: binary cross-entropy, averaged over the labels ``[n, K]`` of zeros and ones."""
    logits = model(batch["x"])
    return functional.binary_cross_entropy_with_logits(logits, batch["labels"].to(logits.dtype), reduction="none").mean(1)


def next_token(model: nn.Module, batch: Any) -> Tensor:
    """Language modelling: cross-entropy of each next token, averaged over each sequence; labels of -100 are padding."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"])
    logits, targets = getattr(logits, "logits", logits)[:, :-1], batch["labels"][:, 1:]
    tokens = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=-100)
    return tokens.sum(1) / (targets != -100).sum(1).clamp(min=1)


def contrastive(model: nn.Module, batch: Any) -> Tensor:
    """NT-Xent (Chen et al. 2020): each sample against all others of its batch. No mean over samples, and refused."""
    one, other = (functional.normalize(model(view).flatten(1), dim=1) for view in batch[:2])
    likeness = one @ other.T / 0.5
    return functional.cross_entropy(likeness, torch.arange(len(one), device=one.device), reduction="none")
