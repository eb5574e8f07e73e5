"""``report.html``: one file that a person reads top to bottom, offline, on a phone, on paper.

Everything is embedded: pictures as data URIs, styles and the sorting script inline, and a content security policy that forbids
the browser to fetch anything. Equal inputs give equal bytes.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ...analysis.records.base import ResultError, write_text_atomically
from ...analysis.records.load_study import load_study
from ...analysis.records.study import Study, read_manifest
from ..literature import papers
from ..literature.claims import evaluate
from ..tables.answers import TARGET
from ..tables.comparison import comparison_sheet
from ..tables.entries import Sheet
from ..tables.findings import find, headline_groups, main_scheme, states
from ..tables.gather import schemes
from ..tables.provenance import facts, gaps, method, warnings
from ..tables.variants import families
from . import writers
from .sheets import along_sheet, claim_sheet, sheets
from .summary import summary_sheet, verdict_sheet

TEMPLATES = Path(__file__).with_name("templates")
MANIFEST = "manifest.json"
#: an SVG above this size (a surface with many cells, say) is embedded as the PNG beside it
LARGEST_SVG = 1_500_000
#: a table with more rows (CIFAR-100 per class and seed, say) is left to its files
LONGEST_TABLE = 400


@dataclass(frozen=True)
class Picture:
    """One figure: what it shows, in words, and its bytes as a data URI."""

    name: str
    title: str
    caption: str
    paper: str
    uri: str


def pictures(study: Study) -> list[Picture]:
    """The figures that ``figures/manifest.json`` lists, in its order; none where no figure was drawn.

    Raises:
        ResultError: the manifest is damaged, or names a figure that is not there.
    """
    folder = study.folder / "figures"
    if not (folder / MANIFEST).exists():
        return []
    return [
        Picture(name, entry.title, entry.caption, entry.paper or "", _data_uri(folder, name))
        for name, entry in read_manifest(folder / MANIFEST).items()
    ]


def _data_uri(folder: Path, name: str) -> str:
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    for path, kind in ((svg, "svg+xml"), (png, "png")):
        if path.exists() and not (path is svg and png.exists() and svg.stat().st_size > LARGEST_SVG):
            return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    raise ResultError(
        f"{folder / MANIFEST}: names '{name}', but there is no {name}.svg or .png; run 'saddlescope figures' again"
    )


def render(study: Study) -> str:
    """The report as HTML."""
    names = schemes(study)
    scheme = main_scheme(study)
    finding = find(study)
    groups = headline_groups(states(study, scheme)) if scheme else []
    compare = scheme is not None and TARGET in study.optimizers and len(study.optimizers) > 1
    everything = sheets(study, names)
    first = {f"curvature_{scheme}", f"escape_{scheme}", "accuracy", *(f"variants_{rule}" for rule in families(study))}
    context: dict[str, Any] = {
        "study": study.name,
        "finding": finding,
        "method": method(study),
        "summary": summary_sheet(study),
        "verdicts": verdict_sheet(study, scheme) if scheme else None,
        "comparison": comparison_sheet(study, scheme, TARGET, groups) if scheme and compare else None,
        "pictures": pictures(study),
        "claims": claim_sheet(evaluate(study)),
        "papers": papers.papers(),
        "open_sheets": [sheet for sheet in everything if sheet.name in first],
        "folded_sheets": [sheet for sheet in everything if sheet.name not in first],
        "longest": LONGEST_TABLE,
        "gaps": gaps(study),
        "warnings": warnings(study, names),
        "facts": facts(study),
        "recipe": _recipe_text(study),
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["maths"] = maths
    # our own files, not data: safe to embed as they are
    environment.globals["style"] = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    environment.globals["script"] = Markup((TEMPLATES / "report.js").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(context)


def maths(text: str) -> Markup:
    """λ_min as λ with a subscript, tau as τ, an interval kept on one line; everything else escaped."""
    words = str(escape(text)).replace("above tau", "above τ")
    for index in ("min", "max"):
        words = words.replace(f"λ_{index}", f"λ<sub>{index}</sub>")
    return Markup(re.sub(r"\[[^\[\]]{3,40}\]", r'<span class="interval">\g<0></span>', words))


def _recipe_text(study: Study) -> str:
    path = study.folder / "recipe.toml"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def write_tables(study: Study) -> list[Path]:
    """Writes every table to ``STUDY/tables`` as CSV and Markdown; returns the paths.

    Raises:
        ReportError: the study mixes results that must not be compared.
    """
    names = schemes(study)
    scheme = main_scheme(study)
    found: list[Sheet] = [summary_sheet(study), *sheets(study, names), claim_sheet(evaluate(study))]
    found += [verdict_sheet(study, name) for name in names]
    found += [along_sheet(study, name) for name in names]
    if scheme and TARGET in study.optimizers and len(study.optimizers) > 1:
        found.append(comparison_sheet(study, scheme, TARGET, headline_groups(states(study, scheme))))
    return [path for sheet in found for path in writers.write(sheet, study.folder / "tables")]


def write_report(folder: Path) -> Path:
    """Reads a study folder, writes ``tables/`` and ``report.html`` into it, and returns the report's path.

    Raises:
        ResultError: not a study folder, or a damaged file in it.
        ReportError: the study mixes results that must not be compared.
    """
    study = load_study(folder)
    html = render(study)  # everything is checked before anything is written
    write_tables(study)
    path = folder / "report.html"
    write_text_atomically(path, html)
    return path
