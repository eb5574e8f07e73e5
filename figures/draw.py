"""Draws every figure of a study from its stored records, and the manifest that the report reads.

``figures/manifest.json`` holds, per figure drawn and in the order of the report, ``files``, ``title``, ``caption`` and
``paper`` (the published figure it answers). Figures without data are in ``figures/skipped.json`` with the reason.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..analysis.records.base import write_text_atomically
from ..analysis.records.load_study import load_study
from ..analysis.records.study import Study, read_json, read_manifest
from . import draw_results as stored
from .drawing.canvas import FORMATS, FigureError, check_formats, render, style, write_bytes_atomically
from .drawing.study_data import NothingToDraw, Planned
from .plots import accuracy, class_sizes, convexity, density, escape, extremes, lines, planes, verdicts
from .plots import along_training as along
from .plots import critical_steps as critical
from .plots import escape_experiment as experiment
from .plots import escape_rates as rates
from .plots import negative_mass as mass
from .plots import shared_directions as shared

MANIFEST, SKIPPED, CAPTIONS = "manifest.json", "skipped.json", "captions.md"
#: in the order of the report: the answer, what it rests on, how it came about, what it is good for
FAMILIES: tuple[Callable[[Study], list[Planned]], ...] = (
    verdicts.figures,
    extremes.figures,
    density.figures,
    mass.figures,
    escape.figures,
    along.figures,
    rates.figures,
    experiment.figures,
    critical.figures,
    shared.figures,
    lines.figures,
    planes.figures,
    convexity.figures,
    class_sizes.figures,
    accuracy.figures,
)


@dataclass(frozen=True)
class Written:
    """One figure of a study: its files, or the reason why there are none."""

    name: str
    files: list[Path]
    title: str = ""
    skipped: str | None = None


def planned(study: Study, only: Sequence[str] = ()) -> list[Planned]:
    """The figures a study could have; ``only``: names or patterns such as ``slice-*``.

    Raises:
        FigureError: a pattern that means no figure.
    """
    every = [plan for family in FAMILIES for plan in family(study)]
    for pattern in only:
        if not any(fnmatch.fnmatchcase(plan.name, pattern) for plan in every):
            raise FigureError(
                f"--only {pattern}: no such figure of this study; known: {', '.join(plan.name for plan in every)}"
            )
    return [plan for plan in every if not only or any(fnmatch.fnmatchcase(plan.name, pattern) for pattern in only)]


def draw_study(
    study_folder: Path,
    *,
    only: Sequence[str] = (),
    formats: Sequence[str] = ("svg", "png"),
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
) -> list[Written]:
    """Draws a study's figures into ``<study>/figures``. Equal records give equal bytes.

    Args:
        study_folder: folder with ``study.json``.
        only: names or patterns of figures; the others stay as they are.
        formats: svg, png, pdf.
        progress: called with (figures done, figures in all).
        jobs: figures at a time, each in a process; the bytes do not depend on it.

    Returns:
        One entry per figure, in the report's order; those without data say why.

    Raises:
        ResultError: the folder is no study, or a stored record is damaged.
        FigureError: an unknown figure or format, or results that cannot share a figure.
    """
    chosen = check_formats(tuple(formats))
    study = load_study(study_folder)
    out = study.folder / "figures"
    plans = planned(study, only)
    known = _known(out) if only else {}
    reasons = read_json(out / SKIPPED) if only and (out / SKIPPED).exists() else {}
    written: list[Written] = []
    pictures: dict[Path, bytes] = {}
    jobs = min(jobs, len(plans))
    for name, drawn in _in_processes(study_folder, only, chosen, jobs) if jobs > 1 else _drawn(plans, chosen):
        if progress is not None:
            progress(len(written), len(plans))
        known.pop(name, None)
        reasons.pop(name, None)
        if isinstance(drawn, str):
            reasons[name] = drawn
            written.append(Written(name, [], skipped=drawn))
            continue
        words, images = drawn
        files = {out / f"{name}.{kind}": content for kind, content in images.items()}
        pictures.update(files)
        known[name] = {"files": [path.name for path in files], **words}
        written.append(Written(name, list(files), words["title"]))
    for path, data in pictures.items():  # only now: results that are refused leave the old pictures with their captions
        write_bytes_atomically(path, data)
    written += [Written(file, [], skipped=reason) for file, reason in study.left_out.items()]
    _store(out, known, reasons, [plan.name for plan in planned(study)])
    if progress is not None:
        progress(len(plans), len(plans))
    return written


#: a figure's words and its pictures by format, or why there is none
Drawn = str | tuple[dict[str, str], dict[str, bytes]]


def _drawn(plans: Sequence[Planned], formats: tuple[str, ...]) -> Iterator[tuple[str, Drawn]]:
    """Figures by name, one after another."""
    with style():
        for plan in plans:
            try:
                drawing = plan.make()
            except NothingToDraw as reason:
                yield plan.name, str(reason)
                continue
            words = {"title": drawing.title, "caption": drawing.caption, "paper": drawing.paper}
            yield plan.name, (words, render(drawing.figure, formats))


def _in_processes(study_folder: Path, only: Sequence[str], formats: tuple[str, ...], jobs: int) -> Iterator[tuple[str, Drawn]]:
    """The same, in the same order, shared out to processes that each read the study."""
    from joblib import Parallel, delayed

    shares = Parallel(n_jobs=jobs)(delayed(_share)(study_folder, only, formats, part, jobs) for part in range(jobs))
    for row in zip_longest(*shares):
        yield from (entry for entry in row if entry is not None)


def _share(study_folder: Path, only: Sequence[str], formats: tuple[str, ...], part: int, jobs: int) -> list[tuple[str, Drawn]]:
    return list(_drawn(planned(load_study(study_folder), only)[part::jobs], formats))


def draw_results(paths: Sequence[Path], out: Path, *, formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Draws stored curvature results that belong to no study, and what the pictures show into ``captions.md``.

    Args:
        paths: ``curvature/<stem>.<scheme>.json`` files, in the order of the figures; of one scheme and one data set.
        out: folder to write into.
        formats: svg, png, pdf.

    Returns:
        The pictures written.

    Raises:
        ResultError: a file is missing, damaged or no curvature result.
        FigureError: an unknown format, results that cannot share a figure, or ``out`` holds the figures of a study.
    """
    return _draw_loose(lambda: stored.figures(stored.gather(paths)), out, formats)


def draw_slice(path: Path, out: Path, *, formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Draws one stored slice, and what the pictures show into ``captions.md``.

    Args:
        path: a ``slices/<name>.json`` file.
        out: folder to write into.
        formats: svg, png, pdf.

    Returns:
        The pictures written.

    Raises:
        ResultError: the file is missing, damaged or no slice.
        FigureError: an unknown format, or ``out`` holds the figures of a study.
    """
    families = (lines.figures, shared.figures, planes.figures, convexity.figures)

    def plans() -> list[Planned]:
        study = stored.around(path)
        return [plan for family in families for plan in family(study) if plan.name not in (lines.PREFIX, planes.PREFIX)]

    return _draw_loose(plans, out, formats)


def _draw_loose(plans: Callable[[], Sequence[Planned]], out: Path, formats: Sequence[str]) -> list[Path]:
    """Figures that belong to no study, their words in one file."""
    chosen = check_formats(tuple(formats))
    if (out / MANIFEST).exists():
        raise FigureError(f"{out}: holds the figures of a study, which would be mixed up with these; give another folder")
    pictures, words = {}, []
    with style():
        for plan in plans():
            try:
                drawing = plan.make()
            except NothingToDraw as reason:
                words.append(f"**Not drawn: {plan.name}.** {reason}")
                continue
            pictures.update({out / f"{plan.name}.{name}": data for name, data in render(drawing.figure, chosen).items()})
            words.append(f"**{plan.name}: {drawing.title}.** {drawing.caption}")
    for path, data in pictures.items():
        write_bytes_atomically(path, data)
    write_text_atomically(out / CAPTIONS, "\n\n".join(words) + "\n")
    return list(pictures)


def _known(out: Path) -> dict[str, dict[str, Any]]:
    """The manifest that is there; strictly read, since pictures under its names are removed."""
    path = out / MANIFEST
    return {name: entry.model_dump() for name, entry in read_manifest(path).items()} if path.exists() else {}


def _store(out: Path, known: dict[str, Any], reasons: dict[str, Any], order: list[str]) -> None:
    """Writes the manifest, then removes pictures of ours that it does not list: a stale one must not pass for current."""
    before = _known(out)
    place = {name: index for index, name in enumerate(order)}
    for path, table in ((out / MANIFEST, known), (out / SKIPPED, reasons)):
        sorted_table = dict(sorted(table.items(), key=lambda item: (place.get(item[0], len(order)), item[0])))
        write_text_atomically(path, json.dumps(sorted_table, indent=1, ensure_ascii=False) + "\n")
    current = {name for entry in known.values() for name in entry["files"]}
    for name in {*before, *order}:
        for kind in FORMATS:
            if f"{name}.{kind}" not in current:
                (out / f"{name}.{kind}").unlink(missing_ok=True)
