"""A study folder, or a folder of results of somebody's own checkpoints, read as one thing."""

from __future__ import annotations

from pathlib import Path

from .base import ResultError
from .checkpoint_series import load_series
from .study import Study, load_run, read_index, read_recipe


def load_study(folder: str | Path) -> Study:
    """Reads a study folder, or a folder of results of other people's checkpoints as a study of theirs.

    Raises:
        ResultError: neither ``study.json`` nor a curvature result there, or a damaged file below it.
    """
    folder = Path(folder)
    index = folder / "study.json"
    if not index.exists():
        series = load_series(folder) if folder.is_dir() else None
        if series is not None:
            return series
        raise ResultError(
            f"{folder}: no study.json there; give the folder that 'saddlescope train' or 'reproduce' wrote, or one of results "
            "of 'saddlescope analyze'"
        )
    listed = read_index(folder)
    recipe = read_recipe(folder) if (folder / "recipe.toml").exists() else {}
    runs = [load_run(folder / run.folder, run.optimizer, run.seed) for run in listed.runs]
    return Study(name=listed.name, folder=folder, recipe=recipe, runs=runs)
