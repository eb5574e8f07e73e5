"""What is analysed: a model, the samples that its loss is taken over, that loss, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from ..samples.provenance import Source
from ..samples.samples import Samples
from .losses import BatchLoss


@dataclass(frozen=True)
class Subject:
    """A model, its samples and its loss: together they are the function whose Hessian is measured.

    Attributes:
        source: names for the provenance.
        groups: thresholds of the class groups (``eta``, ``many``, ``few``), where a side-car tells.
        notes: what was done to make a file fit.
    """

    model: nn.Module
    samples: Samples
    loss: BatchLoss
    source: Source
    groups: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
