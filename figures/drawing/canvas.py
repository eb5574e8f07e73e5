"""Figures without global state: our own style, the Agg canvas, and the same bytes for the same numbers."""

from __future__ import annotations

import io
import os
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Annotation

STYLE = Path(__file__).with_name("style.mplstyle")
#: without a date or version, equal numbers give equal files
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
FORMATS = tuple(METADATA)


class FigureError(ValueError):
    """What was asked cannot be drawn; the message says which figure, file or format, and the fix."""


@contextmanager
def style() -> Iterator[None]:
    """Our style over matplotlib's defaults; the reader's own settings neither count nor change."""
    own = matplotlib.rc_params_from_file(STYLE, fail_on_error=True, use_default_template=True)
    with matplotlib.rc_context({key: value for key, value in own.items() if not key.startswith("backend")}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches that pyplot does not know of."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def column_width(columns: int) -> float:
    """Inches for one of ``columns`` panels side by side, so that fonts stay legible where the figure is shown a page wide."""
    return min(2.3, max(1.4, 9.4 / columns))


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """A bold title and plain words below it, both within the layout and wrapped to the figure's width."""
    width = figure.get_figwidth()
    first, second = (
        textwrap.wrap(words, int(width / size), break_on_hyphens=False) for words, size in ((title, 0.098), (subtitle, 0.075))
    )
    above = figure.suptitle("\n".join([*first, *(" " for _ in second)]))
    below = Annotation("\n".join(second), xy=(0.5, 0), xycoords=above, ha="center", va="bottom", fontsize=9, color="#444444")
    figure.add_artist(below)


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend under the panels, in as few rows as the figure's width allows."""
    widths = [0.58 + 0.078 * len(str(handle.get_label())) for handle in handles]
    # matplotlib fills a legend column by column
    rows = next(
        rows
        for rows in range(1, len(widths) + 1)
        if rows == len(widths)
        or sum(max(widths[at : at + rows]) for at in range(0, len(widths), rows)) <= figure.get_figwidth()
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(widths) // rows))


def check_formats(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats, each once.

    Raises:
        FigureError: none given, or one that is not known.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise FigureError(f"--format {' '.join(unknown) or '(none)'}: known formats are {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(formats))


def render(figure: Figure, formats: tuple[str, ...]) -> dict[str, bytes]:
    """The figure as bytes per format; laid out once, so that every format shows the same picture."""
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    figure.set_layout_engine("none")
    # Not savefig: for a figure that ever had a layout engine that draws everything twice.
    figure.set_facecolor(matplotlib.rcParams["savefig.facecolor"])
    return {name: _printed(figure, name) for name in formats}


def _printed(figure: Figure, name: str) -> bytes:
    buffer = io.BytesIO()
    figure.set_dpi(matplotlib.rcParams["savefig.dpi"])  # vector formats leave their own behind
    if name == "svg":
        FigureCanvasSVG(figure).print_svg(buffer, metadata=METADATA[name])
    elif name == "pdf":
        from matplotlib.backends.backend_pdf import FigureCanvasPdf  # reads a library of fonts, which no study's report needs

        FigureCanvasPdf(figure).print_pdf(buffer, metadata=METADATA[name])
    else:
        FigureCanvasAgg(figure).print_png(buffer, metadata=METADATA[name])
    return buffer.getvalue()


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` so that a reader sees the old file or the whole new one.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a picture is as readable as any file
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
