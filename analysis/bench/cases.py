"""What the bench measures on: trained networks with their groups, and operators whose spectrum is prescribed."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saddlescope import load_factory

from ..checkpoints.analysis_inputs import open_checkpoint
from ..checkpoints.checkpoint_flags import Given
from ..hessian.subject import Subject
from ..krylov.linear_operator import LinearOperator
from ..samples.groups import group_indices, make_scheme
from ..samples.samples import Samples


class BenchError(ValueError):
    """The bench cannot measure this; the message names the case and the fix."""


@dataclass(frozen=True)
class Case:
    """One row of the table, or two: a checkpoint with its groups.

    Attributes:
        title: for tables and pictures.
        groups: names of the groups measured, and the largest number of their samples (``None``: all of them).
        checkpoint: a checkpoint with a side-car, relative to the checkout.
        recipe: or what is trained first, see ``training.recipe``.
        probes: random starts of the density that others are held against; with 0 densities are not compared.
    """

    title: str
    groups: Mapping[str, int | None] = field(default_factory=dict)
    checkpoint: str | None = None
    recipe: Mapping[str, Any] | None = None
    probes: int = 8


def _recipe(model: str, epochs: int, **changes: Any) -> dict[str, Any]:
    """A plain training run: SGD, one seed. CIFAR-10-LT with IF 100, whose three smallest classes hold 272 images."""
    return {
        "question": "a trained network to measure time on",
        "seeds": [0],
        "data": {"name": "cifar10", "imbalance_factor": 100},
        "groups": {"eta": 140},
        "model": {"name": model},
        "training": {"epochs": epochs, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "threads": 2, "device": "cpu"},
        "optimizers": {"sgd": {}},
        **changes,
    }


_DIGITS = {"name": "digits", "imbalance_factor": 20, "n_max": 120, "held_out": 50}
#: group -> at most so many of its samples
_HEAD_AND_TAIL: dict[str, int | None] = {"head": 1000, "tail": None}
#: Trained long enough to have outliers above a bulk and a few negative eigenvalues; how well they classify is not asked here.
CASES: dict[str, Case] = {
    "digits": Case("digits, ResNet (5 k)", _HEAD_AND_TAIL, checkpoint="tests/prescribed/checkpoint.pt"),
    # Fewer starts for densities where a product takes a second, none where they would take an hour.
    "resnet8": Case("CIFAR-10-LT, ResNet-8", _HEAD_AND_TAIL, recipe=_recipe("resnet8-cifar", 4), probes=4),
    "resnet32": Case("CIFAR-10-LT, ResNet-32", _HEAD_AND_TAIL, recipe=_recipe("resnet32-cifar", 3), probes=0),
    "transformer": Case(
        "digits as 16 patches, transformer",
        _HEAD_AND_TAIL,
        recipe=_recipe(
            "saddlescope.analysis.bench.networks:digits_vit",
            40,
            data=_DIGITS,
            groups={"eta": 40},
            training={"epochs": 40, "batch_size": 32, "lr": 0.05, "device": "cpu"},
        ),
    ),
    "prescribed": Case("prescribed spectrum, 50,000 x 50,000", {"separated": None, "crowded": None}, probes=0),
}


class PrescribedOperator(LinearOperator):
    """``Q diag(spectrum) Q`` with a Householder reflection ``Q``: diagonal plus rank two, every eigenvalue known.

    Args:
        spectrum: eigenvalues ``[n]``, float64; products are taken in float32, as of a network.
        seed: of the reflection.
    """

    def __init__(self, spectrum: Tensor, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        u = torch.randn(len(spectrum), generator=generator, dtype=torch.float64)
        self._u, self._spectrum = (u / u.norm()).float(), spectrum.float()
        self.size, self.num_samples, self.matvecs = len(spectrum), 1, 0
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def matvec(self, v: Tensor) -> Tensor:
        """``H v`` for ``v [n]``."""
        self.matvecs += 1
        return self._reflect(self._spectrum * self._reflect(v))

    def _reflect(self, v: Tensor) -> Tensor:
        along: Tensor = torch.dot(self._u, v) * self._u
        return v - 2 * along


def prescribed_spectrum(kind: str, size: int = 50_000) -> Tensor:
    """Eigenvalues ``[size]``: a bulk around zero, ten outliers above it, and a smallest one that is easy or hard to find.

    Args:
        kind: ``separated``: three clearly negative eigenvalues; ``crowded``: the bulk's own edge, where hundreds lie close by.
        size: n.
    """
    generator = torch.Generator().manual_seed(0)
    bulk = 0.02 * torch.randn(size, generator=generator, dtype=torch.float64)
    bulk[:10] = torch.logspace(0, 1, 10, dtype=torch.float64)
    if kind == "separated":
        bulk[10:13] = torch.tensor([-0.5, -0.35, -0.25], dtype=torch.float64)
    else:
        edge = -0.1
        bulk[10:] = bulk[10:].clamp(min=edge * 0.8)
        bulk[10:410] = edge * (1 - 0.2 * torch.linspace(0, 1, 400, dtype=torch.float64))
    return bulk


@dataclass(frozen=True)
class Problem:
    """What one competitor is given: a network with a group's samples, or an operator.

    Attributes:
        subject: the network, its weights in float32; ``None`` where there is only an operator.
        samples: the group's.
        operator: see ``subject``.
        extremes: where they are known.
    """

    subject: Subject | None = None
    samples: Samples | None = None
    operator: PrescribedOperator | None = None
    extremes: tuple[float, float] | None = None

    @property
    def model(self) -> nn.Module:
        """The network."""
        assert self.subject is not None
        return self.subject.model

    @property
    def size(self) -> int:
        """Parameters, or rows of the operator."""
        if self.operator is not None:
            return self.operator.size
        return sum(p.numel() for p in self.model.parameters())

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """The group's samples as ``(inputs, targets)``, ``size`` at a time."""
        assert self.samples is not None
        return list(self.samples.batches(size, torch.device("cpu"), torch.float32))


def prepare(name: str, out: Path, data_root: str | None) -> str | None:
    """Trains what a case needs and is not there yet; returns its checkpoint, ``None`` for a prescribed operator.

    Args:
        name: of the case.
        out: the bench's folder; networks go to ``out/models``.
        data_root: folder to look for CIFAR-10 in first.

    Raises:
        BenchError: the checkpoint belongs to a checkout, and this is none.
        DataError: CIFAR-10 was not found.
    """
    case = CASES[name]
    if case.checkpoint is not None:
        path = Path(__file__).resolve().parents[2] / case.checkpoint
        if not path.exists():
            raise BenchError(f"case {name}: {path} does not exist; run the bench from a checkout, or choose others with --case")
        return str(path)
    if case.recipe is None:
        return None
    recipe = copy.deepcopy(dict(case.recipe)) | {"name": name}
    folder = out / "models" / name
    plan = load_factory("saddlescope.training.runs.recipe:parse_recipe")(recipe, f"case {name}")
    (run,) = load_factory("saddlescope.training.runs.study:train_study")(plan, folder, data_root=data_root)
    return str(run / "checkpoint.pt")


def open_problem(name: str, group: str, checkpoint: str | None, data_root: str | None) -> Problem:
    """What a competitor is given for one group of a case; arguments as for :func:`prepare`.

    Raises:
        As :func:`~saddlescope.analysis.checkpoints.analysis_inputs.open_checkpoint`.
    """
    if checkpoint is None:
        spectrum = prescribed_spectrum(group)
        return Problem(operator=PrescribedOperator(spectrum), extremes=(float(spectrum.min()), float(spectrum.max())))
    subject = _subject(checkpoint, data_root)
    scheme = make_scheme("head-tail", subject.samples.class_counts, eta=subject.groups.get("eta"))
    indices = group_indices(scheme, subject.samples)[group]
    most = CASES[name].groups[group]
    if most is not None and most < len(indices):  # evenly over the classes, which lie one after another
        indices = indices[np.linspace(0, len(indices) - 1, most).astype(int)]
    subject.model.eval()
    return Problem(subject=subject, samples=subject.samples.subset(indices))


@lru_cache(maxsize=1)
def _subject(checkpoint: str, data_root: str | None) -> Subject:
    return open_checkpoint(Path(checkpoint), Given(data_root=data_root))


def micro_batches(samples: int) -> list[int]:
    """Sizes that peers may choose from: powers of two from 32 on, and all at once where that is not more than 1,024."""
    sizes = [2**power for power in range(5, 10) if 2**power < samples]
    return [*sizes, samples] if samples <= 1024 else sizes


def relative_error(value: float, reference: float) -> float:
    """``|value - reference| / |reference|``; infinite where the value is missing."""
    return abs(value - reference) / abs(reference) if math.isfinite(value) else math.inf
