"""Commands of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds this package's commands to the command line."""
    app.command()(figures)
    app.command("saddle-demo")(saddle_demo)


def figures(
    study: Annotated[Path, typer.Argument(help="Folder of a study (with study.json), or of results of your own checkpoints.")],
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


def saddle_demo(
    out: Annotated[Path, typer.Argument(help="Folder to draw into.")] = Path("figures"),
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="FORMAT", help="svg, png or pdf; repeat for several; default: svg and png."),
    ] = None,
) -> None:
    """Draw the textbook saddle that gradient descent leaves and SAM with a large radius does not; needs no study."""
    from .drawing.canvas import check_formats
    from .plots.saddle_demo import save

    for path in save(out, check_formats(tuple(formats or ("svg", "png")))):
        typer.echo(path)
