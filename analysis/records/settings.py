"""What an analysis is asked to do: the ``[analysis]`` and ``[slices]`` tables of a recipe."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from .base import FileName


class SettingsError(ValueError):
    """A setting is unknown or out of range; the message names the table, the field and the fix."""


class AnalysisSettings(BaseModel):
    """Every choice that can change a number. Stored whole in the provenance of each result."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scheme: Literal["all", "head-tail", "many-medium-few", "per-class", "custom", "column"] = "head-tail"
    eta: int | None = Field(None, ge=1, description="a class is tail if it has fewer training samples; default: the side-car's")
    many: int | None = Field(None, ge=0, description="many: more samples; default: the side-car's, else by the data's size")
    few: int | None = Field(None, ge=0, description="few: fewer samples; default: as for many")
    groups: dict[str, list[int]] | None = Field(None, description="group -> classes, for scheme = 'custom'")
    column: str | None = Field(
        None, min_length=1, description="for scheme = 'column': what is told of each sample, with cuts: length:16,64"
    )
    goal: Literal["spectrum", "ends", "verdict", "critical-step"] = Field(
        "spectrum",
        description="'ends': lambda_min and lambda_max alone; 'verdict': stop once it is decided (lambda_min is then a bound); "
        "'critical-step': the learning rate at which a step starts to hurt a group, by forward passes",
    )
    confirm: bool = Field(
        True,
        description="with goal ends: go on until an eigenvalue well beyond the ends is improbable; false: until they settle",
    )
    rough: bool = Field(
        True,
        description="goals ends and verdict: look for the vectors with convolutions in bfloat16, where the processor has it",
    )
    only: list[str] | None = Field(None, description="measure these groups only; default: all of the scheme")
    steps: int = Field(100, ge=2, description="Lanczos step limit of each start")
    min_steps: int = Field(30, ge=1, description="steps done even where both ends converge sooner, for density and interval")
    rtol: float = Field(1e-3, gt=0, description="residual at which an extreme counts as converged, relative to its size")
    starts: int = Field(1, ge=1, description="independent random starts: probes of the density, and they tighten the interval")
    mass_width: float | None = Field(None, gt=0, description="add starts until the negative masses' intervals are so narrow")
    max_starts: int = Field(32, ge=1, description="but no more than so many")
    delta: float = Field(1e-3, gt=0, lt=1, description="failure probability of every two-sided interval")
    thresholds: tuple[PositiveFloat, ...] = Field(
        (1e-4, 1e-3, 1e-2, 1e-1), description="tau / lambda_max ladder of the negative mass"
    )
    tau: float = Field(1e-3, ge=0, description="the verdict's threshold for negative curvature, relative to lambda_max")
    stationarity: float = Field(0.1, gt=0, description="largest s* / ||w|| that counts as stationary")
    k: int = Field(1, ge=1, description="eigenpairs at each end")
    seed: int = Field(0, ge=0, lt=2**62)
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    engine: Literal["saddlescope", "pyhessian", "exact"] = "saddlescope"
    products: Literal["auto", "exact", "differences"] = Field(
        "auto",
        description="Hessian-vector products: exact (double backward), by differences of the gradient, or differences only "
        "where an operation has no second derivative or a wrong one",
    )
    params: str | None = Field(None, description="glob pattern: the Hessian over these parameters only")
    gauss_newton: bool = Field(False, description="also measure the Gauss-Newton part G of H = G + E")
    escape: bool = Field(True, description="certificate, escape rates and escape test where curvature is negative")
    escape_test: bool | None = Field(None, description="the loss along lambda_min's vector; default: with goal spectrum")
    keep_vectors: Literal["both", "min"] | None = Field(
        None, description="which ends' vectors are stored; default: both; with goal verdict lambda_min's alone"
    )
    rates: bool | None = Field(
        None,
        description="escape rates of the optimizers' fields, over all samples; default: with goal spectrum, where 'all' and at "
        "most 6 groups are measured",
    )
    net_rates: Literal["none", "own", "all"] | None = Field(
        None,
        description="net rates: of SGD's and the trained optimizer's field (own), or of all; default: own where rates are",
    )
    rho: dict[str, PositiveFloat] = Field(
        {"sam": 0.05, "imbsam": 0.05, "ssesam": 0.1, "ssesam-head": 0.05},
        description="radii of the fields (ssesam: the tail's); the trained optimizer has its side-car's, a study its recipe's",
    )
    weight_decay: float | None = Field(None, ge=0, description="of the fields; default: the side-car's, else 0")
    micro_batch: int | None = Field(None, ge=1, description="samples per micro-batch; default: chosen within the memory budget")
    memory: int | None = Field(
        None, ge=1, description="memory budget in bytes, for graphs and Krylov vectors; default: a quarter of what is free"
    )
    basis: Literal["auto", "device", "cpu", "disk"] = Field(
        "auto",
        description="where the vectors of the Krylov space are kept; auto: half of the budget on the device, the rest on disk",
    )
    mesh: str | None = Field(
        None,
        pattern=r"^[1-9]\d*x[1-9]\d*$",
        description="of several processes, samples x vectors: samples are shared over all, each vector of the Krylov space is "
        "spread over the second number; default: whole vectors in each",
    )
    subsample: int | None = Field(None, ge=2, description="at most this many samples a group, with the sampling error measured")
    deterministic: bool = Field(False, description="deterministic kernels, one thread: equal digits on one kind of processor")

    @property
    def shots(self) -> tuple[int, int] | None:
        """``(many, few)``, where they are given."""
        return None if self.many is None or self.few is None else (self.many, self.few)

    @property
    def scheme_name(self) -> str:
        """``head-tail``, ``column-domain``: what results are called by."""
        return self.scheme if self.column is None else f"column-{re.sub(r'[^A-Za-z0-9_-]+', '-', self.column)}"

    def with_groups_of(self, side_car: Mapping[str, int]) -> AnalysisSettings:
        """The settings with the thresholds of the scheme taken from a side-car's ``groups`` where they leave them open."""
        wanted = {"head-tail": ("eta",), "many-medium-few": ("many", "few")}.get(self.scheme, ())
        if any(getattr(self, name) is not None for name in wanted):
            return self
        return self.model_copy(update={name: side_car.get(name) for name in wanted})

    def measure_as(self, stored: Mapping[str, Any]) -> bool:
        """Whether stored settings mean the same measurement; fields that were not known then have their defaults."""
        try:
            return AnalysisSettings.model_validate({**stored, "basis": self.basis, "mesh": self.mesh}) == self
        except ValidationError:
            return False

    @property
    def kept_vectors(self) -> str:
        """``both`` or ``min``: slices along lambda_max's vector need both, a certificate lambda_min's."""
        return self.keep_vectors or ("min" if self.goal == "verdict" else "both")

    @property
    def wants_escape_test(self) -> bool:
        """Whether the loss is followed along the most negative direction."""
        return self.escape_test if self.escape_test is not None else self.goal == "spectrum"

    @model_validator(mode="after")
    def _custom_needs_groups(self) -> AnalysisSettings:
        if (self.scheme == "custom") != (self.groups is not None):
            raise ValueError("scheme 'custom' and 'groups' go together: give both or neither")
        if (self.scheme == "column") != (self.column is not None):
            raise ValueError("scheme 'column' and 'column' go together: give both or neither")
        if (self.many is None) != (self.few is None):
            raise ValueError("'many' and 'few' go together: give both or neither")
        if self.many is not None and self.few is not None and self.few > self.many + 1:
            raise ValueError(f"few = {self.few} above many = {self.many}: a class would be both")
        return self

    @model_validator(mode="after")
    def _exact_products_for_peers(self) -> AnalysisSettings:
        if self.products == "differences" and self.engine == "pyhessian":
            raise ValueError("engine 'pyhessian' estimates without error bounds: it takes no products by differences")
        if self.products == "differences" and self.gauss_newton:
            raise ValueError("the Gauss-Newton part needs exact products: leave out gauss_newton, or products = 'differences'")
        return self

    @model_validator(mode="after")
    def _mesh_has_a_krylov_space(self) -> AnalysisSettings:
        if self.mesh is not None and self.engine != "saddlescope":
            raise ValueError(f"mesh spreads a Krylov space over processes: engine '{self.engine}' has none that could be")
        return self

    @model_validator(mode="after")
    def _goal_leaves_out(self) -> AnalysisSettings:
        idle = {"k": 1, "starts": 1, "mass_width": None, "engine": "saddlescope"}
        asked = [name for name, value in idle.items() if getattr(self, name) != value]
        if self.goal != "spectrum" and asked:
            raise ValueError(f"goal '{self.goal}' measures one pair at each end from one start: leave out {', '.join(asked)}")
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
    lines: tuple[FileName, ...] = Field(
        ("tail-min", "random"),
        description="<group>-min or <group>-max: along that eigenvector; random: filter-normalised (Li et al. 2018)",
    )
    planes: tuple[FileName, ...] = Field(
        ("tail-plane", "random-plane", "path-plane"),
        description="<group>-plane: its most negative x largest eigenvector; random-plane; path-plane: PCA of training",
    )
    plane_seeds: tuple[int, ...] = Field((0,), description="training seeds whose final checkpoint gets a plane")
    convexity: tuple[str, ...] = Field(
        (), description="planes with a convexity map: lambda_min and lambda_max of each group, one spectrum per cell and group"
    )
    convexity_groups: tuple[str, ...] | None = Field(None, min_length=1, description="in the map; default: all of the scheme")
    convexity_rtol: float = Field(1e-2, gt=0, description="residual at which an end of the map counts as converged")
    seed: int = Field(0, ge=0, lt=2**62)

    @model_validator(mode="after")
    def _maps_are_of_planes(self) -> SliceSettings:
        strangers = [name for name in self.convexity if name not in self.planes]
        if strangers:
            raise ValueError(f"convexity names {', '.join(strangers)}, which planes = {list(self.planes)} does not hold")
        return self


def parse_slices(table: dict[str, Any], where: str = "[slices]") -> SliceSettings:
    """Validates a ``[slices]`` table.

    Raises:
        SettingsError: an unknown field or a value out of range.
    """
    try:
        return SliceSettings.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "convexity"
        raise SettingsError(
            f"{where}: field '{field}': {first['msg']}; known: {', '.join(SliceSettings.model_fields)}"
        ) from None
