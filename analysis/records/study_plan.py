"""Which analyses a study asks for: its ``[analysis]`` and ``[slices]`` tables against the checkpoints on disk.

The ``[analysis]`` table holds the settings of the final checkpoints. ``[analysis.along]`` overrides fields for the checkpoints
along training, and each ``[[analysis.also]]`` is a further pass over the final checkpoints (another scheme, say)::

    [analysis]
    starts = 4
    [analysis.along]
    starts = 1
    [[analysis.also]]
    scheme = "per-class"

``critical_steps = true`` adds the critical steps of every checkpoint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .settings import AnalysisSettings, SettingsError, SliceSettings, parse_settings, parse_slices
from .study import read_index


@dataclass(frozen=True)
class StudyAnalysis:
    """The validated tables of a recipe."""

    final: AnalysisSettings
    along: AnalysisSettings
    also: tuple[AnalysisSettings, ...]
    slices: SliceSettings
    steps: AnalysisSettings | None = None

    @classmethod
    def parse(cls, recipe: dict[str, Any], where: str = "recipe") -> StudyAnalysis:
        """Validates ``[analysis]`` and ``[slices]`` of a recipe before anything is trained.

        Raises:
            SettingsError: an unknown field, a value out of range, or two passes that would write the same file.
        """
        table = dict(recipe.get("analysis", {}))
        along, also = table.pop("along", {}), table.pop("also", [])
        if not isinstance(along, dict):
            raise SettingsError(f"{where} [analysis.along]: is a {type(along).__name__}, expected a table")
        if not isinstance(also, list) or not all(isinstance(extra, dict) for extra in also):
            raise SettingsError(f"{where} [[analysis.also]]: expected a list of tables")
        steps = table.pop("critical_steps", False)
        table.setdefault("rho", radii_of(recipe.get("optimizers", {})))
        final = parse_settings(table, f"{where} [analysis]")
        passes = tuple(parse_settings({**table, **extra}, f"{where} [[analysis.also]]") for extra in also)
        schemes = [settings.scheme_name for settings in (final, *passes)]
        if len(set(schemes)) < len(schemes):
            raise SettingsError(f"{where} [[analysis.also]]: schemes {schemes} repeat; each pass needs a scheme of its own")
        return cls(
            final=final,
            along=parse_settings({**table, **along}, f"{where} [analysis.along]"),
            also=passes,
            slices=parse_slices(recipe.get("slices", {}), f"{where} [slices]"),
            steps=_steps_of(table, where) if steps else None,
        )


#: settings that critical steps have in common with the rest of an analysis
_OF_STEPS = {
    "scheme",
    "eta",
    "many",
    "few",
    "groups",
    "rho",
    "weight_decay",
    "seed",
    "dtype",
    "device",
    "params",
    "memory",
    "subsample",
}


def _steps_of(table: dict[str, Any], where: str) -> AnalysisSettings:
    own = {name: value for name, value in table.items() if name in _OF_STEPS}
    return parse_settings({**own, "goal": "critical-step"}, f"{where} [analysis]")


#: rule -> radius in ``AnalysisSettings.rho`` -> its name in the rule's table of a recipe
_RADII = {
    "sam": {"sam": "rho"},
    "imbsam": {"imbsam": "rho"},
    "ssesam": {"ssesam": "rho_tail", "ssesam-head": "rho_head"},
}


def radii_of(optimizers: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The radii that a study trains with, for the fields of its optimizers; where it does not tell, those of the settings.

    Args:
        optimizers: the recipe's tables. Of several of one rule the first counts: a checkpoint's own field has its own radii.
    """
    found: dict[str, float] = {}
    for name, table in optimizers.items():
        for radius, field in _RADII.get(str(table.get("rule", name)), {}).items():
            if isinstance(table.get(field), int | float) and table[field] > 0:
                found.setdefault(radius, float(table[field]))
    return {**AnalysisSettings().rho, **found}


@dataclass(frozen=True)
class CurvatureItem:
    """One unit of work: one checkpoint under one scheme."""

    checkpoint: Path
    settings: AnalysisSettings
    output: Path

    def __str__(self) -> str:
        return str(self.checkpoint)


@dataclass(frozen=True)
class SliceItem:
    """One unit of work: one line or plane through a final checkpoint."""

    checkpoint: Path
    name: str
    settings: SliceSettings
    analysis: AnalysisSettings
    output: Path
    key: str | None = None

    def __str__(self) -> str:
        return f"slice '{self.name}' of {self.checkpoint}"


def run_folders(study: Path) -> list[tuple[Path, int]]:
    """``(folder, seed)`` of every run that ``study.json`` lists, in its order."""
    return [(study / run.folder, run.seed) for run in read_index(study).runs]


def curvature_items(study: Path, plan: StudyAnalysis) -> list[CurvatureItem]:
    """Every curvature result the study asks for, final checkpoints first, finished or not."""
    final, along = [], []
    for folder, _ in run_folders(study):
        checkpoint = folder / "checkpoint.pt"
        if not checkpoint.with_suffix(".json").exists():
            continue
        steps = [plan.steps] if plan.steps is not None else []
        final += [curvature_item(checkpoint, settings) for settings in (plan.final, *plan.also, *steps)]
        side_cars = sorted(folder.glob("checkpoints/*.json"))
        along += [
            curvature_item(side_car.with_suffix(".pt"), settings) for side_car in side_cars for settings in (plan.along, *steps)
        ]
    return final + along


def _result_folder(checkpoint: Path, out: Path | None, name: str = "curvature") -> Path:
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return out or run / name


def result_names(checkpoints: Sequence[Path], out: Path | None = None) -> list[str]:
    """What the results of checkpoints are called: their stems, with as much more as keeps two of one folder apart.

    ``m.pt`` beside ``m.safetensors`` become ``m.pt`` and ``m.safetensors``, ``a/m.pt`` and ``b/m.pt`` with one ``out`` become
    ``a-m.pt`` and ``b-m.pt``.
    """
    together: dict[tuple[Path, str], list[Path]] = {}
    for checkpoint in checkpoints:
        together.setdefault((_result_folder(checkpoint, out), checkpoint.stem), []).append(checkpoint)
    names: dict[Path, str] = {}
    for (_, stem), alike in together.items():
        depth, wanted = 0, [stem] * len(alike)
        while len(set(wanted)) < len(alike):
            depth += 1
            wanted = ["-".join(part.strip("/") for part in file.absolute().parts[-depth:]) for file in alike]
        names |= dict(zip(alike, wanted, strict=True))
    return [names[checkpoint] for checkpoint in checkpoints]


def curvature_item(
    checkpoint: Path, settings: AnalysisSettings, out: Path | None = None, name: str | None = None, key: str | None = None
) -> CurvatureItem:
    """The work item of one checkpoint.

    Args:
        checkpoint: the file.
        settings: what to measure.
        out: folder of the result; default: ``curvature/`` of its run folder, or beside the file.
        name: of the result, see ``result_names``; default: the stem.
        key: where in the file the weights lie, where that was told: other weights are another result.
    """
    suffix = f".{hashlib.sha256(settings.params.encode()).hexdigest()[:6]}" if settings.params else ""
    if settings.goal == "critical-step":
        suffix += ".critical-step"
    file = f"{name or checkpoint.stem}{key_suffix(key)}.{settings.scheme_name}{suffix}.json"
    folder = _result_folder(checkpoint, out, "steps" if settings.goal == "critical-step" else "curvature")
    return CurvatureItem(checkpoint, settings, folder / file)


def key_suffix(key: str | None) -> str:
    """What a key adds to the names of results: ``.ema``; a hash where the key is no file name."""
    if key is None:
        return ""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", key)
    return f".{plain}" + (f"-{hashlib.sha256(key.encode()).hexdigest()[:6]}" if plain != key else "")


def slice_items(study: Path, plan: StudyAnalysis) -> list[SliceItem]:
    """Every slice the study asks for: the lines of each final checkpoint, planes for ``plane_seeds``.

    The plane of the training path is left out where fewer than two checkpoints along training were stored.
    """
    items = []
    for folder, seed in run_folders(study):
        checkpoint = folder / "checkpoint.pt"
        if not checkpoint.with_suffix(".json").exists():
            continue
        names = [*plan.slices.lines, *(plan.slices.planes if seed in plan.slices.plane_seeds else ())]
        if len(list(folder.glob("checkpoints/*.json"))) < 2:
            names = [name for name in names if name != "path-plane"]  # no path to speak of; the figure says that it is missing
        for name in names:
            output = folder / "slices" / f"{name}.json"
            items.append(SliceItem(checkpoint, name, plan.slices, plan.final, output))
    return items
