"""``saddlescope analyze`` and ``saddlescope slice``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of [analysis] or [slices]: --set steps=200."),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Checkpoints at a time; default: one per core.")]
DataRoot = Annotated[str | None, typer.Option(help="Folder to look for the data in first.")]


def register(app: typer.Typer) -> None:
    """Adds this package's commands to the command line."""
    app.command()(analyze)
    app.command("slice")(slice_)


def analyze(
    target: Annotated[Path, typer.Argument(metavar="STUDY|RUN|CHECKPOINT", help="A study, a run folder, or a .pt file.")],
    overrides: Settings = None,
    data_root: DataRoot = None,
    jobs: Jobs = None,
) -> None:
    """Measure curvature: every checkpoint of a study or a run, or one checkpoint file."""
    from .drive import analyze_target

    analyze_target(target, overrides or [], data_root=data_root, jobs=jobs)


def slice_(
    target: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run folder or a checkpoint that was analyzed.")],
    name: Annotated[str, typer.Argument(help="tail-min, tail-max, tail-plane, random, random-plane or path-plane.")],
    overrides: Settings = None,
    data_root: DataRoot = None,
) -> None:
    """Group losses on a line or plane through a checkpoint."""
    from .drive import slice_target

    slice_target(target, name, overrides or [], data_root=data_root)
