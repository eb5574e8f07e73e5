"""The augmentation control, as stored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import SCHEMA_VERSION, Record
from .results import Provenance

ControlData = Literal["fixed", "frozen", "redrawn"]


class ControlEntry(Record):
    """Ends of one class's spectrum in the augmentation control, under one treatment of the data."""

    label: int
    samples: int
    data: ControlData = Field(description="clean; augmented once and kept; augmented anew at every product")
    lambda_min: float = Field(description="lowest Ritz value; an eigenvalue of nothing where the data are redrawn")
    lambda_max: float
    residual_min: float
    rayleigh_min: float = Field(description="v^T H v of the lowest Ritz vector, from one more product")
    noise: float = Field(description="||H u - H u|| / ||H u|| of two products of one vector")
    refusal: str | None = Field(description="what the guard of every analysis says to this operator; None: let through")
    steps: int

    @property
    def ratio(self) -> float:
        """``|min(lambda_min, 0)| / lambda_max``; 0 where lambda_max is not positive."""
        return max(-self.lambda_min, 0.0) / self.lambda_max if self.lambda_max > 0 else 0.0


class ControlPanel(Record):
    """All classes of one model under the three treatments; ``convex``: no Hessian of it has a negative eigenvalue."""

    title: str
    convex: bool
    augmentation: str
    entries: list[ControlEntry]
    provenance: Provenance

    def of(self, data: ControlData) -> list[ControlEntry]:
        """The entries of one treatment, the largest class first."""
        return sorted((entry for entry in self.entries if entry.data == data), key=lambda e: (-e.samples, e.label))


class AugmentationControl(Record):
    """``augmentation_control.json``: what redrawn augmentation makes of a spectrum."""

    kind: Literal["augmentation-control"] = "augmentation-control"
    schema_version: int = SCHEMA_VERSION
    panels: list[ControlPanel]
