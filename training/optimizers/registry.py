"""The optimizers of the suite, around any torch optimizer: plain steps, SAM, its class-aware relatives, and saddle escapers.

All have one interface::

    optimizer = SSESAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), class_counts, eta=100, epochs=200)
    for epoch in range(200):
        optimizer.set_epoch(epoch)                                  # from 0
        for inputs, targets in loader:
            step = optimizer.step(model, loss_fn, (inputs, targets))  # loss_fn(outputs, targets) -> losses [n]

The base optimizer owns learning rate, momentum and weight decay. They are torch optimizers themselves; the ways into other
people's loops are in ``training/README.md``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch

from .bsam import BSAM
from .ccsam import CCSAM
from .data_parallel import DataParallel
from .directions import GSA, LESAM
from .eigensam import EigenSAM
from .group_sam import FocalSAM, ImbSAM, Normalisation
from .noise import LPFSGD, PGD
from .passes import OptimizerError, PerSampleLoss
from .sam import SAM, Plain
from .stages import SSESAM, LateImbSAM
from .wrapper import Common, Step, Wrapper

__all__ = [
    "BSAM",
    "CCSAM",
    "GSA",
    "LESAM",
    "LPFSGD",
    "OPTIMIZERS",
    "PGD",
    "SAM",
    "SSESAM",
    "Common",
    "DataParallel",
    "EigenSAM",
    "FocalSAM",
    "ImbSAM",
    "LateImbSAM",
    "Normalisation",
    "OptimizerError",
    "PerSampleLoss",
    "Plain",
    "Step",
    "Wrapper",
    "build_optimizer",
]

_ALL = (Plain, SAM, ImbSAM, SSESAM, CCSAM, FocalSAM, LateImbSAM, BSAM, LESAM, GSA, PGD, LPFSGD, EigenSAM)
#: key in recipes and records -> class
OPTIMIZERS: dict[str, type[Wrapper]] = {cls.name: cls for cls in _ALL}


def build_optimizer(
    name: str,
    base: torch.optim.Optimizer,
    *,
    class_counts: Sequence[int],
    epochs: int,
    eta: float | None = None,
    settings: Mapping[str, Any] | None = None,
    table: str | None = None,
    generator: np.random.Generator | None = None,
    **common: Unpack[Common],
) -> Wrapper:
    """Builds an optimizer from its key and the settings of a recipe.

    Args:
        name: A key of ``OPTIMIZERS``, such as ``sam``.
        base: The optimizer to wrap.
        class_counts: Training samples of each class; handed to the methods that use it.
        epochs: Length of the training; likewise.
        eta: Head/tail threshold; likewise.
        settings: The method's own settings (JSON-able), such as ``{"rho_head": 0.05}``; may override ``eta``.
        table: The name of its table in the recipe, for messages; default ``name``.
        generator: Randomness for the methods that use some.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: Unknown key or setting, a missing ``eta``, or a setting that the method refuses.
    """
    if name not in OPTIMIZERS:
        raise OptimizerError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
    takes = {k for k, p in inspect.signature(OPTIMIZERS[name]).parameters.items() if p.kind is not p.VAR_KEYWORD} - {"base"}
    given = dict(settings or {})
    own = sorted(takes - {"class_counts", "epochs", "generator"})
    unknown = sorted(key for key in given.keys() - set(own) if not isinstance(given[key], np.random.Generator))
    if unknown:
        raise OptimizerError(
            f"[optimizers.{table or name}] has unknown setting {unknown[0]!r}; it takes: {', '.join(own) or 'nothing'}"
        )
    context = {"class_counts": class_counts, "epochs": epochs, "eta": eta, "generator": generator}
    arguments = {k: v for k, v in context.items() if k in takes} | given
    if "eta" in takes and arguments["eta"] is None:
        raise OptimizerError(f"{name} needs eta, the count below which a class is tail (class counts: {list(class_counts)})")
    return OPTIMIZERS[name](base, **arguments, **common)
