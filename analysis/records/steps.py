"""Critical steps of class groups, and the course of a run that goes on from another study's checkpoint, as stored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import SCHEMA_VERSION, Record
from .results import Provenance, Scheme
from .saddles import Verdict
from .spectra import Extreme


class CriticalStep(Record):
    """Smallest ``eta > 0`` with ``L_g(w - eta d) > L_g(w)`` for an update d in the units of a training step.

    0 where the loss rises to first order already (``slope < 0``); None where it is not higher anywhere up to ``longest``.
    """

    update: str = Field(description="sgd, sam, imbsam, ssesam-1, ssesam-2; head: its part of a plain step; own: the group's")
    step: float | None = Field(ge=0)
    bracket: tuple[float, float | None] = Field(description="not higher at the first, higher at the second")
    slope: float = Field(description="<d, grad L_g>")
    norm: float = Field(gt=0, description="||d||")
    longest: float = Field(ge=0, description="largest eta tried: a step of 8 times the norm of the weights; 0: none was needed")

    @property
    def sharpness(self) -> float | None:
        """``2 / step``; None where there is no step, or where it is 0."""
        return 2 / self.step if self.step else None


class GroupSteps(Record):
    """Critical steps of one class group."""

    size: int = Field(gt=0)
    loss: float
    gradient_norm: float = Field(ge=0)
    steps: list[CriticalStep]


class StepResult(Record):
    """One checkpoint, one scheme: ``steps/<checkpoint stem>.<scheme>.critical-step.json``."""

    kind: Literal["critical-steps"] = "critical-steps"
    schema_version: int = SCHEMA_VERSION
    scheme: Scheme
    groups: dict[str, GroupSteps]
    weight_decay: float
    provenance: Provenance


class StartPoint(Record):
    """What was known of a group at the checkpoint that a run started from."""

    loss: float
    weight_norm: float
    lambda_min: Extreme
    verdict: Verdict


class CoursePoint(Record):
    """Where a run is after ``step`` steps, seen from the checkpoint that it started from."""

    step: int = Field(ge=1)
    checkpoint: str
    checkpoint_sha256: str
    along: dict[str, float] = Field(description="group -> <v, w - w0>, v its most negative eigenvector at the start (no sign)")
    moved: float = Field(ge=0, description="||w - w0||")


class Course(Record):
    """``course/<scheme>.json``: the way of a run that goes on from a checkpoint of another study."""

    kind: Literal["course"] = "course"
    schema_version: int = SCHEMA_VERSION
    scheme: Scheme
    started_from: dict[str, str]
    start: dict[str, StartPoint]
    vectors: dict[str, str] = Field(description="group -> SHA-256 of the eigenvector")
    points: list[CoursePoint]
