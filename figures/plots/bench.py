"""The bench's picture: how much longer each peer took than this suite, from the stored record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...analysis.records.base import write_text_atomically
from ..drawing.appearance import Look
from ..drawing.canvas import FigureError, check_formats, heading, new_figure, render, style, write_bytes_atomically
from ..drawing.scales import log_axis
from ..drawing.study_data import Drawing, count

NAME = "bench"
FORMAT, VERSION = "saddlescope-bench", 1
#: competitor -> look; Okabe and Ito's colours as elsewhere, with a marker each
PEERS = {
    "ours": Look("saddlescope, defaults", "#2B2B2B", "o"),
    "curvlinops": Look("curvlinops + SciPy eigsh", "#0072B2", "s"),
    "eigenthings": Look("hessian-eigenthings", "#D55E00", "D"),
    "pyhessian": Look("PyHessian", "#009E73", "^"),
}
PANELS = {"extremes": "both ends of the spectrum", "density": "spectral density of equal accuracy"}


def read(path: Path) -> dict[str, Any]:
    """The record that ``saddlescope bench`` wrote.

    Raises:
        FigureError: no such file, or not one of a bench of this version.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise FigureError(f"{path}: cannot be read; write it with: saddlescope bench {path.parent}") from None
    except ValueError as error:
        raise FigureError(f"{path}: not readable as JSON ({error}); run saddlescope bench again") from None
    if not isinstance(record, dict) or (record.get("format"), record.get("version")) != (FORMAT, VERSION):
        raise FigureError(f"{path}: not a bench of this version of saddlescope; run saddlescope bench again")
    if not record["groups"]:
        raise FigureError(f"{path}: holds no measurement")
    return record


def draw(record: dict[str, Any]) -> Drawing:
    """A row a group, a mark a peer, at its seconds over ours; the line spans the rounds.

    Hollow marks: extrapolated from a few products, or the accuracy asked for was not reached.
    """
    groups = record["groups"]
    figure = new_figure(9.4, 1.9 + 0.42 * len(groups))
    panels = figure.subplots(1, len(PANELS), sharey=True)
    every = [entry for group in groups for entry in group["entries"] if entry["competitor"] in PEERS]
    for axes, (question, title) in zip(panels, PANELS.items(), strict=True):
        _panel(axes, groups, question)
        axes.set_title(title, fontweight="normal")
    panels[0].set_yticks(range(len(groups)), [_row_name(group) for group in groups])
    panels[0].set_ylim(len(groups) - 0.4, -0.6)
    seen = [name for name in PEERS if any(entry["competitor"] == name for entry in every)]
    marks = [Line2D([], [], color=PEERS[n].colour, marker=PEERS[n].marker, linestyle="none", label=PEERS[n].name) for n in seen]
    figure.legend(handles=marks, loc="outside lower center", ncols=min(4, len(marks)))
    machine = record["machine"]
    heading(
        figure,
        "Time of the same answers, relative to saddlescope",
        f"{machine['processor']}, {count(machine['cores'], 'core')}, {count(machine['threads'], 'thread')}; "
        "right of 1 saddlescope is faster",
    )
    hollow = any(_hollow(entry) for entry in every)
    caption = (
        "Seconds of each peer over those of saddlescope in the same round (left: asked for the ends alone; right: at its "
        "defaults): median and span of rounds, every measurement in a process of its own, peers at their best configuration."
    )
    if hollow:
        caption += " Hollow: extrapolated from a few products, or an end was missed by more than 1 %."
    return Drawing(figure, "Side by side", caption)


def _panel(axes: Axes, groups: list[dict[str, Any]], question: str) -> None:
    values = [1.0]
    for row, group in enumerate(groups):
        peers = [entry for entry in group["entries"] if entry["question"] == question and entry["competitor"] in PEERS]
        for index, entry in enumerate(peers):
            look, ratio = PEERS[entry["competitor"]], entry["ratio"]
            y = row + 0.14 * (index - (len(peers) - 1) / 2)
            axes.plot([ratio["min"], ratio["max"]], [y, y], color=look.colour, linewidth=1.2)
            axes.plot(
                ratio["median"],
                y,
                color=look.colour,
                marker=look.marker,
                markersize=5,
                markerfacecolor="white" if _hollow(entry) else look.colour,
                gid=f"{group['case']}-{group['group']}-{entry['competitor']}-{question}",
            )
            values += [ratio["min"], ratio["max"]]
    axes.axvline(1, color="#777777", linewidth=0.8, zorder=1)
    log_axis(axes, "x", values)
    axes.set_xlabel("seconds / ours (log)")
    axes.grid(visible=False, axis="y")


def _hollow(entry: dict[str, Any]) -> bool:
    errors = [entry["error_min"], entry["error_max"]] if entry["question"] == "extremes" else []
    return bool(entry["composed"]) or any(error is None or error > 0.01 for error in errors)


def _row_name(group: dict[str, Any]) -> str:
    samples = f", {group['samples']:,} samples" if group["samples"] else ""
    return f"{group['title']}\n{group['group']}{samples}"


def save(path: Path, out: Path, formats: tuple[str, ...] = ("svg", "png")) -> list[Path]:
    """Draws ``path`` (``bench.json``) as ``out/bench.<format>`` with a caption ``out/bench.caption.md``; returns the pictures.

    Raises:
        FigureError: the record cannot be drawn, or a format is not known.
    """
    record = read(path)
    with style():
        drawing = draw(record)
        files = {out / f"{NAME}.{kind}": data for kind, data in render(drawing.figure, check_formats(formats)).items()}
    for file, data in files.items():
        write_bytes_atomically(file, data)
    write_text_atomically(out / f"{NAME}.caption.md", f"**{drawing.title}.** {drawing.caption}\n")
    return list(files)
