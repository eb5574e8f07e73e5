"""Measuring in the middle of training without leaving a trace in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed import is_available as has_distributed
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedParameter


class NotWholeError(ValueError):
    """The weights are not all here."""


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Inside, the modes of a training loop are off and random numbers may be drawn; afterwards all is as it was.

    Off: ``no_grad``, ``inference_mode``, autocast, another default device or dtype. Put back: random states (torch on the CPU
    and on every GPU in use, NumPy, Python) and whether torch is told to be deterministic.

    Args:
        device: where the model is.
    """
    strict, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(same_random_states())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)


@contextmanager
def same_random_states() -> Iterator[None]:
    """Puts the random states of torch (on the CPU and on every GPU in use), NumPy and Python back afterwards."""
    numbers, python = np.random.get_state(), random.getstate()  # noqa: NPY002  # theirs
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            np.random.set_state(numbers)  # noqa: NPY002
            random.setstate(python)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside the wrappers of ``torch.compile``, DataParallel and DistributedDataParallel.

    Raises:
        NotWholeError: the parameters are sharded over processes, so that one of them cannot measure.
    """
    inner: Any = model
    while hasattr(inner, "_orig_mod") or isinstance(inner, DataParallel | DistributedDataParallel):
        inner = inner._orig_mod if hasattr(inner, "_orig_mod") else inner.module
    whole: nn.Module = inner
    # The wrapper FSDP may leave parameters that look like any.
    sharded = ["the model"] if any(type(part).__name__ == "FullyShardedDataParallel" for part in whole.modules()) else []
    for name, parameter in whole.named_parameters():
        if type(parameter.data).__name__ == "DTensor" or hasattr(parameter, "ds_id"):
            sharded.append(f"parameter '{name}'")
    if sharded:
        raise NotWholeError(
            f"{sharded[0]} is sharded over processes (FSDP, ZeRO or tensor parallel): one process cannot measure; "
            "analyse its gathered checkpoints with 'saddlescope analyze'"
        )
    return whole


def device_of(model: nn.Module) -> torch.device:
    """Where the weights are.

    Raises:
        NotWholeError: there are none, or none with values yet.
    """
    parameters = dict(model.named_parameters())
    if not parameters:
        raise NotWholeError(f"{type(model).__name__} has no parameters: give the monitor the model that is trained")
    for name, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise NotWholeError(f"parameter '{name}' has no shape yet: a lazy layer gets it at the first forward pass")
        if parameter.is_meta:
            raise NotWholeError(f"parameter '{name}' has no values: the model is on the device meta")
    return next(iter(parameters.values())).device


def first_process() -> bool:
    """Whether this process measures: the only one, or the first of a process group."""
    return not grouped() or torch.distributed.get_rank() == 0


def grouped() -> bool:
    """Whether other processes may be waiting for this one."""
    return has_distributed() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
