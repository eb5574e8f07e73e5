"""Puts sheets on disk: unrounded CSV for programs, Markdown for people. Equal inputs give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...analysis.records.base import write_text_atomically
from ..tables.entries import Entry, Sheet


def markdown(sheet: Sheet) -> str:
    """The sheet as a Markdown document: title, caption, table, notes."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    def words(entry: Entry) -> str:
        return f"{entry.text} ({entry.detail})" if entry.detail else entry.text

    lines = [f"# {sheet.title}", "", sheet.caption, "", line(head for head, _ in sheet.heads), line("---" for _ in sheet.heads)]
    lines += [line(words(entry) for entry in row) for row in sheet.rows]
    lines += ["", *(f"- {head}: {meaning}" for head, meaning in sheet.heads if meaning)]
    return "\n".join(lines).rstrip() + "\n"


def write(sheet: Sheet, folder: Path) -> list[Path]:
    """Writes ``<name>.csv`` and ``<name>.md`` atomically; returns their paths.

    Raises:
        OSError: the folder cannot be written.
    """
    csv, md = folder / f"{sheet.name}.csv", folder / f"{sheet.name}.md"
    write_text_atomically(csv, sheet.data.convert_dtypes().to_csv(index=False, lineterminator="\n"))
    write_text_atomically(md, markdown(sheet))
    return [csv, md]
