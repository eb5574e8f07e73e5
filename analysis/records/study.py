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

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .results import Course, CurvatureResult, ResultError, Slice, StepResult, load
from .variants import Variant, variants

#: ``Variant`` for figures and reports, which know this module and the schema only
__all__ = ["Run", "Study", "Variant", "load_run", "load_study", "read_json", "read_metrics"]


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

    def final(self, scheme: str = "head-tail") -> CurvatureResult | None:
        """The curvature of the final checkpoint under ``scheme``, or None where it was not computed."""
        epochs = self.side_car["training"]["epoch"] if self.side_car else None
        for result in self.curvature:
            if result.scheme.name == scheme and result.provenance.training.get("epoch") == epochs:
                return result
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
    """A recipe and its runs, in the recipe's order."""

    name: str
    folder: Path
    recipe: dict[str, Any]
    runs: list[Run]

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


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ResultError: missing, damaged, or not an object.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: not readable as JSON ({error}); the file is damaged, make it again") from None
    if not isinstance(raw, dict):
        raise ResultError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """One dictionary per epoch; a last line cut off by a kill is left out, any other bad line is an error."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ResultError(f"{path}, line {number}: not readable as JSON; the file is damaged") from None
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
        side_car=read_json(side_car_path) if side_car_path.exists() else None,
        metrics=read_metrics(folder / "metrics.jsonl"),
        curvature=sorted(curvature, key=lambda result: result.provenance.training.get("epoch", 0)),
        slices={path.stem: load(Slice, path) for path in sorted(folder.glob("slices/*.json"))},
        courses={path.stem: load(Course, path) for path in sorted(folder.glob("course/*.json"))},
        steps=sorted(
            (load(StepResult, path) for path in folder.glob("steps/*.json")),
            key=lambda result: (result.provenance.training.get("epoch", 0), result.scheme.name),
        ),
    )


def load_study(folder: Path) -> Study:
    """Reads a study folder.

    Raises:
        ResultError: no ``study.json`` there, or a damaged file below it.
    """
    index = folder / "study.json"
    if not index.exists():
        raise ResultError(f"{folder}: no study.json there; give the folder that 'saddlescope train' or 'reproduce' wrote")
    raw = read_json(index)
    recipe_path = folder / "recipe.toml"
    recipe = tomllib.loads(recipe_path.read_text(encoding="utf-8")) if recipe_path.exists() else {}
    runs = [load_run(folder / row["folder"], row["optimizer"], int(row["seed"])) for row in raw["runs"]]
    return Study(name=raw["name"], folder=folder, recipe=recipe, runs=runs)
