"""What an analysis is asked to do: the ``[analysis]`` table of a recipe and the flags of ``saddlescope analyze``."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class SettingsError(ValueError):
    """A setting is unknown or out of range; the message names the table, the field and the fix."""


class AnalysisSettings(BaseModel):
    """Every choice that can change a number. Stored whole in the provenance of each result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: Literal["all", "head-tail", "many-medium-few", "per-class", "custom"] = "head-tail"
    eta: int | None = Field(None, ge=1, description="a class is tail if it has fewer training samples; default: the side-car's")
    groups: dict[str, list[int]] | None = Field(None, description="group -> classes, for scheme = 'custom'")
    only: list[str] | None = Field(None, description="measure these groups only; default: all of the scheme")
    steps: int = Field(100, ge=2, description="Lanczos step limit of each start")
    min_steps: int = Field(30, ge=1, description="steps done even where both ends converge sooner, for density and interval")
    rtol: float = Field(1e-3, gt=0, description="residual at which an extreme counts as converged, relative to its size")
    starts: int = Field(1, ge=1, description="independent random starts: probes of the density, and they tighten the interval")
    delta: float = Field(1e-3, gt=0, lt=1, description="failure probability of every two-sided interval")
    thresholds: tuple[float, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1), description="tau / lambda_max ladder of the negative mass")
    tau: float = Field(1e-3, ge=0, description="the verdict's threshold for negative curvature, relative to lambda_max")
    stationarity: float = Field(0.1, gt=0, description="largest s* / ||w|| that counts as stationary")
    k: int = Field(1, ge=1, description="eigenpairs at each end")
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    engine: Literal["saddlescope", "pyhessian", "exact"] = "saddlescope"
    params: str | None = Field(None, description="glob pattern: the Hessian over these parameters only")
    gauss_newton: bool = Field(False, description="also measure the Gauss-Newton part G of H = G + E")
    escape: bool = Field(True, description="certificate, signed multipliers and escape test where curvature is negative")
    rho: dict[str, float] = Field(
        {"sam": 0.05, "imbsam": 0.05, "ssesam": 0.1}, description="radii of the signed multipliers, by optimizer key"
    )
    micro_batch: int | None = Field(None, ge=1, description="samples per micro-batch; default: chosen within the memory budget")
    memory: int | None = Field(None, ge=1, description="memory budget in bytes; default: half of what is free")
    subsample: int | None = Field(None, ge=2, description="at most this many samples a group, with the sampling error measured")
    deterministic: bool = Field(False, description="deterministic kernels, one thread: equal digits on one platform")

    @model_validator(mode="after")
    def _custom_needs_groups(self) -> AnalysisSettings:
        if (self.scheme == "custom") != (self.groups is not None):
            raise ValueError("scheme 'custom' and 'groups' go together: give both or neither")
        return self


def parse_settings(table: dict[str, Any], where: str = "[analysis]") -> AnalysisSettings:
    """Validates an ``[analysis]`` table.

    Raises:
        SettingsError: an unknown field (with the nearest known one) or a value out of range.
    """
    for name in table:
        if name not in AnalysisSettings.model_fields:
            near = difflib.get_close_matches(name, AnalysisSettings.model_fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(AnalysisSettings.model_fields)}"
            raise SettingsError(f"{where}: unknown field '{name}'; {hint}")
    try:
        return AnalysisSettings.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "settings"
        raise SettingsError(f"{where}: field '{field}': {first['msg']} (given: {first.get('input')!r})") from None


class SliceSettings(BaseModel):
    """The ``[slices]`` table: which lines and planes a study draws through its final checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: int = Field(41, ge=3, description="grid points of a line, centre included")
    span: float = Field(1.0, gt=0, description="a filter-normalised line runs over [-span, span]")
    plane_points: int = Field(21, ge=3, description="grid points of a plane along each axis")
    lines: tuple[str, ...] = Field(
        ("tail-min", "random"),
        description="<group>-min or <group>-max: along that eigenvector; random: filter-normalised (Li et al. 2018)",
    )
    planes: tuple[str, ...] = Field(
        ("tail-plane", "random-plane", "path-plane"),
        description="<group>-plane: its most negative x largest eigenvector; random-plane; path-plane: PCA of training",
    )
    plane_seeds: tuple[int, ...] = Field((0,), description="training seeds whose final checkpoint gets a plane")
    seed: int = 0


def parse_slices(table: dict[str, Any], where: str = "[slices]") -> SliceSettings:
    """Validates a ``[slices]`` table.

    Raises:
        SettingsError: an unknown field or a value out of range.
    """
    try:
        return SliceSettings.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{where}: field '{field}': {first['msg']}; known: {', '.join(SliceSettings.model_fields)}"
        ) from None
