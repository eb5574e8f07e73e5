"""``saddlescope train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds this package's commands to the command line."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe that comes with saddlescope (digits-lt ...) or a TOML file.")],
    out: Annotated[Path, typer.Option(help="Folder of studies; this one goes to OUT/<name of the recipe>.")] = Path("runs"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a field: --set training.epochs=5.")
    ] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder to look for the data in first.")] = None,
    only: Annotated[list[str] | None, typer.Option("--optimizer", help="Train these optimizers only.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs trained at a time; default: one per core.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="This process's share of the runs: 0/4.")] = None,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Run the code that the recipe of a study folder names.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write each run's curves for TensorBoard, under its folder.")
    ] = False,
) -> None:
    """Train every optimizer of RECIPE with every seed; run it again to continue after an interruption."""
    from .runs.progress import train_with_progress
    from .runs.recipe import load_recipe

    plan = load_recipe(recipe, overrides or [], trust=trust_checkpoint)
    if tensorboard:
        from .runs.tensorboard import require

        require()
    folders = train_with_progress(plan, out / plan.name, data_root=data_root, jobs=jobs, only=only, shard=shard)
    if tensorboard:
        from .runs.tensorboard import write_events

        for folder in folders:
            write_events(folder)
        typer.echo(f"tensorboard --logdir {out / plan.name}")
    typer.echo(f"{len(folders)} runs under {out / plan.name}")
