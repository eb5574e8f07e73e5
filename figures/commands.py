"""Commands of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds this package's commands to the command line."""
    app.command()(figures)


def figures(
    study: Annotated[Path, typer.Argument(help="Folder of a study: the one with study.json.")],
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Draw this figure only (a name, or a pattern as 'slice-*').")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="FORMAT", help="svg, png or pdf; repeat for several; default: svg and png."),
    ] = None,
) -> None:
    """Draw a study's figures from what is stored; nothing is computed again."""
    from .draw import draw_study

    written = draw_study(study, only=only or (), formats=formats or ("svg", "png"))
    for figure in written:
        for path in figure.files:
            typer.echo(path)
    for figure in written:
        if figure.skipped is not None:
            typer.echo(f"not drawn: {figure.name}: {figure.skipped}", err=True)
