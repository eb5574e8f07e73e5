"""Group losses on lines and planes through a checkpoint, as stored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import SCHEMA_VERSION, Record
from .results import Provenance, Scheme


class Direction(Record):
    """One axis of a slice. ``kind``: random, min-eigenvector, max-eigenvector, difference, pca ..."""

    kind: str
    normalisation: Literal["filter", "none"] = "none"
    group: str | None = Field(None, description="the group whose eigenvector this is")
    eigenvalue: float | None = None
    slope: dict[str, float] = Field({}, description="<d, grad L_g> for each group g at the centre")
    curvature: dict[str, float] = Field({}, description="d^T H_g d for each group g at the centre")
    norm: float
    seed: int | None = None
    explained_variance: float | None = None


class Slice(Record):
    """Group losses on a line (one axis) or plane (two axes) through a checkpoint.

    ``loss[group]`` has one row per ``axes[0]`` value; on a plane each row holds one value per ``axes[1]`` value.
    """

    kind: Literal["slice"] = "slice"
    schema_version: int = SCHEMA_VERSION
    directions: list[Direction]
    axes: list[list[float]]
    loss: dict[str, list[float | None] | list[list[float | None]]]
    accuracy: dict[str, list[float | None] | list[list[float | None]]] = {}
    lambda_min: dict[str, list[list[float | None]]] = {}
    lambda_max: dict[str, list[list[float | None]]] = {}
    path: list[list[float]] = Field([], description="training path: one point per checkpoint in the plane's coordinates")
    path_epochs: list[int] = []
    path_distance: list[float] = Field([], description="distance of each path point from the plane")
    scheme: Scheme
    provenance: Provenance
