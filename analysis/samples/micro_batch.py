"""How many samples are worth passing through a model at once."""

from __future__ import annotations

import torch

from .samples import Samples

#: Numbers in the inputs of a micro-batch (64 CIFAR images): small ones stay in a CPU's cache, a GPU wants large ones.
_MICRO_BATCH = {"cpu": 200_000, "cuda": 1_600_000}


def fitting(samples: Samples, device: torch.device, dtype: torch.dtype) -> int:
    """Samples a micro-batch, by the size of the largest one's inputs."""
    most = _MICRO_BATCH.get(device.type, 200_000)
    if dtype == torch.float64:
        most //= 4  # its convolutions unfold the images, nine numbers for one under a 3 x 3 kernel
    return min(samples.num_samples, max(8, most // max(samples.store.widest, 1)), 4096)
