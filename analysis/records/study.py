"""Finds and reads what a study left on disk. Torch-free: shared by figures and reports.

Layout (``runs/<study>/``)::

    recipe.toml                 the resolved recipe
    study.json                  {"name", "recipe_sha256", "runs": [{"optimizer", "seed", "folder"}]}
    <run folder>/run.json       the resolved settings of one run
    <run folder>/metrics.jsonl  one line per epoch
    <run folder>/checkpoint.pt + checkpoint.json, checkpoints/epoch-012.pt + .json
    <run folder>/curvature/<checkpoint stem>.<scheme>.json (+ .vectors.safetensors)
    <run folder>/steps/<checkpoint stem>.<scheme>.critical-step.json
    <run folder>/course/<scheme>.json
    <run folder>/slices/<name>.json
    figures/, tables/, report.html
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, RootModel, ValidationError

from .base import FileName, Record, ResultError, load, parse_json, read_json, validated
from .results import CurvatureResult
from .side_car import RunSideCar, read_side_car
from .slices import Slice
from .steps import Course, StepResult
from .training_record import Epoch
from .variants import Variant, variants

#: ``Variant`` for figures and reports, which know this module and the schema only
__all__ = ["Run", "Study", "Variant", "load_run", "read_json", "read_metrics"]


class RunEntry(Record):
    """A run in ``study.json``; its folder lies in the study's."""

    optimizer: str
    seed: int
    folder: FileName


class Index(Record):
    """``study.json``."""

    name: str
    recipe_sha256: str | None = None
    runs: list[RunEntry]


class Figure(Record):
    """A figure in ``figures/manifest.json``; its files lie beside it."""

    files: list[FileName] = Field([])
    title: str = Field(min_length=1)
    caption: str = ""
    paper: str | None = None


@dataclass(frozen=True)
class Run:
    """One optimizer, one seed."""

    optimizer: str
    seed: int
    folder: Path
    side_car: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    curvature: list[CurvatureResult] = field(default_factory=list)  # every checkpoint and scheme, by epoch
    slices: dict[str, Slice] = field(default_factory=dict)  # by file stem
    steps: list[StepResult] = field(default_factory=list)  # critical steps, by epoch
    courses: dict[str, Course] = field(default_factory=dict)  # by scheme, of a run that goes on from another study

    @property
    def finished(self) -> bool:
        """True once the final checkpoint's side-car exists."""
        return self.side_car is not None

    @property
    def stage_switch(self) -> int | None:
        """Epochs done when stage 2 began; None for an optimizer without stages, and where stage 2 never came."""
        training = (self.side_car or {}).get("training", {})
        switch, end = training.get("stage_switch_epoch"), training.get("epochs")
        return None if switch is None or (end is not None and switch >= end) else int(switch)

    def final(self, scheme: str = "head-tail") -> CurvatureResult | None:
        """The curvature of the final checkpoint under ``scheme``, or None where it was not computed."""
        epochs = self.side_car["training"]["epoch"] if self.side_car and "training" in self.side_car else None
        for result in self.curvature:
            if result.scheme.name == scheme and result.provenance.training.get("epoch") == epochs:
                return result
        return None

    def own_net_rate(self, result: CurvatureResult) -> float | None:
        """Net rate of the optimizer's own field at the weights of ``result``, whichever result of them holds it."""
        for other in (result, *self.curvature):
            if other.net_rates and other.provenance.checkpoint_sha256 == result.provenance.checkpoint_sha256:
                own = [rate for rate in other.net_rates if rate.optimizer != "sgd"] or other.net_rates
                return own[-1].rate
        return None

    def along(self, scheme: str = "head-tail") -> list[tuple[int, CurvatureResult]]:
        """``(epoch, result)`` of every analysed checkpoint under ``scheme``, by epoch."""
        return [
            (int(result.provenance.training["epoch"]), result)
            for result in self.curvature
            if result.scheme.name == scheme
            and "epoch" in result.provenance.training
            and "step" not in result.provenance.training
        ]

    def by_step(self, scheme: str = "head-tail") -> list[tuple[int, CurvatureResult]]:
        """``(steps done, result)`` of the checkpoints that were stored every so many steps, in their order."""
        own = [(result.provenance.training.get("step"), result) for result in self.curvature if result.scheme.name == scheme]
        return sorted(((int(step), result) for step, result in own if step is not None), key=lambda pair: pair[0])


@dataclass(frozen=True)
class Study:
    """A recipe and its runs, in the recipe's order; or somebody's own checkpoints.

    Attributes:
        name: of its folder.
        folder: where it lies.
        recipe: as training stored it.
        runs: of every optimizer and seed.
        axis: what checkpoints along training are counted by.
        own: no recipe of ours trained the checkpoints.
        left_out: file of results below the folder that is no part of this -> why not.
    """

    name: str
    folder: Path
    recipe: dict[str, Any]
    runs: list[Run]
    axis: str = "epoch"
    own: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def optimizers(self) -> list[str]:
        """Optimizer keys in the recipe's order, each once."""
        return list(dict.fromkeys(run.optimizer for run in self.runs))

    @property
    def variants(self) -> dict[str, Variant]:
        """Optimizer key -> its rule and what tells it from others of the same rule, as the recipe records it."""
        return variants(self.recipe.get("optimizers", {}), self.optimizers)

    def of(self, optimizer: str) -> list[Run]:
        """The runs of one optimizer, by seed."""
        return sorted((run for run in self.runs if run.optimizer == optimizer), key=lambda run: run.seed)

    @property
    def missing(self) -> list[Run]:
        """Runs that the recipe asks for and that have no final checkpoint."""
        return [run for run in self.runs if not run.finished]


def read_index(study: Path) -> Index:
    """Reads ``study.json``.

    Raises:
        ResultError: missing or damaged, or a run's folder would lie outside of the study.
    """
    path = study / "study.json"
    return validated(Index, read_json(path), path)


def read_recipe(study: Path) -> dict[str, Any]:
    """The study's ``recipe.toml``, resolved by training; tables that are read here are tables.

    Raises:
        ResultError: missing or damaged.
    """
    path = study / "recipe.toml"
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file; a study keeps its recipe there") from None
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path}: not readable as TOML ({error}); the file is damaged, store the recipe again") from None
    for name in ("analysis", "slices", "optimizers"):
        if not isinstance(recipe.get(name, {}), dict):
            raise ResultError(f"{path}: '{name}' is a {type(recipe[name]).__name__}, expected a table")
    for name, table in recipe.get("optimizers", {}).items():
        if not isinstance(table, dict):
            raise ResultError(f"{path}: 'optimizers.{name}' is a {type(table).__name__}, expected a table")
    return recipe


def read_manifest(path: Path) -> dict[str, Figure]:
    """Figure name -> what ``figures/manifest.json`` says of it.

    Raises:
        ResultError: missing or damaged, or a name leads out of the folder.
    """
    raw = read_json(path)
    try:
        return _Manifest.model_validate(raw).root
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ResultError(f"{path}: '{field}': {first['msg']}; run 'saddlescope figures' again") from None


class _Manifest(RootModel[dict[FileName, Figure]]):
    """The whole file."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """One dictionary per epoch; a last line cut off by a kill is left out, any other bad line is an error.

    Raises:
        ResultError: a line is no record of an epoch.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            row = parse_json(line)
        except ValueError:
            if number < len(lines):
                raise ResultError(f"{where}: not readable as JSON; the file is damaged") from None
            continue
        validated(Epoch, row, where)
        rows.append(row)
    return rows


def load_run(folder: Path, optimizer: str, seed: int) -> Run:
    """Reads one run folder, however far it has come.

    Raises:
        ResultError: a stored file is damaged, or results of one run rest on different data.
    """
    side_car_path = folder / "checkpoint.json"
    curvature = [load(CurvatureResult, path) for path in sorted(folder.glob("curvature/*.json"))]
    hashes = {result.provenance.data_sha256 for result in curvature if result.provenance.params_pattern is None}
    if len(hashes) > 1:
        raise ResultError(
            f"{folder}/curvature: results over {len(hashes)} different data sets in one run; remove the stale ones"
        )
    return Run(
        optimizer=optimizer,
        seed=seed,
        folder=folder,
        side_car=read_side_car(side_car_path, RunSideCar).record() if side_car_path.exists() else None,
        metrics=read_metrics(folder / "metrics.jsonl"),
        curvature=sorted(curvature, key=lambda result: result.provenance.training.get("epoch", 0)),
        slices={path.stem: load(Slice, path) for path in sorted(folder.glob("slices/*.json"))},
        courses={path.stem: load(Course, path) for path in sorted(folder.glob("course/*.json"))},
        steps=sorted(
            (load(StepResult, path) for path in folder.glob("steps/*.json")),
            key=lambda result: (result.provenance.training.get("epoch", 0), result.scheme.name),
        ),
    )
