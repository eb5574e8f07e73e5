"""``saddlescope report``, and the commands that hold results against a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds this package's commands to the command line."""
    from .check.commands import register_baseline

    @app.command()
    def report(
        study: Annotated[
            Path,
            typer.Argument(
                help="folder that 'saddlescope reproduce' or 'train' wrote, or of results of your own checkpoints",
                metavar="STUDY",
            ),
        ],
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print the report's path only")] = False,
    ) -> None:
        """Write the tables and report.html of a study from its stored results."""
        from ..analysis.records.load_study import load_study
        from .page.html import pictures, write_report
        from .page.summary import print_summary

        path = write_report(study)
        read = load_study(study)
        if not quiet:
            print_summary(read)
        if not pictures(read):
            typer.echo(f"no figures in it: run 'saddlescope figures {study}', then this again", err=True)
        for file, reason in read.left_out.items():
            typer.echo(f"left out: {file}: {reason}", err=True)
        typer.echo(path)

    register_baseline(app)
