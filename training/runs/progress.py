"""Training with a progress bar that counts the epochs of all runs, whichever process does them."""

from __future__ import annotations

import threading
from pathlib import Path

import joblib
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .recipe import Recipe
from .run import edited_networks, runs
from .study import chosen_runs, epochs_done, train_study


def train_with_progress(
    recipe: Recipe,
    folder: Path,
    *,
    data_root: str | None = None,
    jobs: int | None = None,
    only: list[str] | None = None,
    shard: str | None = None,
) -> list[Path]:
    """:func:`~saddlescope.training.runs.study.train_study` under a bar with the time left; arguments and errors as there.

    Args:
        recipe: as there.
        folder: as there.
        data_root: as there.
        jobs: default: one run per core.
        only: as there.
        shard: as there.
    """
    if edited := edited_networks(chosen_runs(runs(recipe, folder), only, shard), folder):
        typer.echo(
            f"the file of [model] has changed since {', '.join(edited)} began; what is trained is kept, and to train anew with "
            "the file as it is now, remove these folders",
            err=True,
        )
    finished = threading.Event()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        done, total = epochs_done(folder, recipe, only, shard)
        task = bar.add_task(f"train {recipe.name}", total=total, completed=done)

        def watch() -> None:
            while not finished.wait(0.3):
                bar.update(task, completed=epochs_done(folder, recipe, only, shard)[0])

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            return train_study(recipe, folder, data_root=data_root, jobs=jobs or joblib.cpu_count(), only=only, shard=shard)
        finally:
            finished.set()
            thread.join()
            bar.update(task, completed=epochs_done(folder, recipe, only, shard)[0])
