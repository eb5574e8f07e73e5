"""report.html: whole, self-contained, sortable, byte-stable, and made without torch."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from saddlescope.analysis.records.base import ResultError
from saddlescope.analysis.records.load_study import load_study
from saddlescope.reports.page.html import LARGEST_SVG, render, write_report
from saddlescope.reports.page.summary import summary_sheet, summary_table
from saddlescope.reports.tables.gather import ReportError
from typer.testing import CliRunner

from saddlescope import application

ROOT = Path(__file__).resolve().parents[3]
STORED = sorted(path.parent for path in (ROOT / "reports" / "studies").glob("*/study.json"))
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 5"><text x="1" y="3">density</text></svg>'


class Page(HTMLParser):
    """Collects tags with their attributes and checks that they close in order."""

    EMPTY = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def draw(folder: Path, *names: str) -> None:
    (folder / "figures").mkdir()
    manifest = {name: {"title": f"Figure {name}", "caption": "Look left of zero.", "paper": "slide 17"} for name in names}
    (folder / "figures" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for name in names:
        (folder / "figures" / f"{name}.svg").write_text(SVG, encoding="utf-8")


def test_the_page_is_whole_and_self_contained(build_study):
    folder = build_study(schemes=("head-tail", "per-class"))
    draw(folder, "density", "extremes")
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    fetched = [
        value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "srcset", "data", "poster")
    ]
    assert len(fetched) == 2
    assert all(value is not None and value.startswith("data:image/svg+xml;base64,") for value in fetched)
    assert not page.all("link")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert set(re.findall(r'(\w+)="https?://', text)) == {"href"}
    assert all(attributes["href"].startswith(("#", "https://")) for attributes in page.all("a"))
    policy = next(attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert text.index('id="answer"') < text.index('id="method"') < text.index('id="verdicts"') < text.index('id="figures"')
    for section in ("papers", "tables", "provenance", "rerun", "words"):
        assert f'<section id="{section}">' in text


def test_pictures_and_tables_are_accessible(build_study):
    folder = build_study()
    draw(folder, "density")
    page = Page(render(load_study(folder)))
    assert page.all("img")[0]["alt"] == "Figure density. Look left of zero."
    assert page.all("html")[0]["lang"] == "en"
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    assert all(attributes.get("aria-label") and attributes.get("aria-describedby") for attributes in page.all("table"))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {attributes["href"][1:] for attributes in page.all("a") if attributes["href"].startswith("#")} <= set(names)


def test_the_page_says_what_a_reader_needs(whole_study):
    text = render(load_study(whole_study))
    plain = re.sub(r"<[^>]+>", "", text)
    for words in (
        "Does SSE-SAM escape the saddles of head and tail classes",
        "How sure: the sign of the curvature is settled in 24 of 24 measurements",
        "resnet8 (78,042 parameters) on digits-lt IF 20 (ldam) from 3 seeds",
        "with intervals that hold with probability 99.9 %",
        "τ = 0.001 λmax",
        "saddle 3/3 seeds",
        "no negative curvature above τ 3/3 seeds",
        "−19.60 ± 0.40",
        "not reproduced",
        "Lyu, Xu, Yang, Lyu, Huang: SSE-SAM. AAAI 2025",
        "2.13.0",
    ):
        assert words in plain, words
    study = load_study(whole_study)
    for run in study.runs:
        assert run.side_car["sha256"] in text
    assert study.runs[0].curvature[0].provenance.data_sha256 in text


def test_a_gap_is_seen_and_the_answer_waits(build_study):
    text = render(load_study(build_study(unfinished=(("ssesam", 2),))))
    assert "Not answered" in text
    assert "SSE-SAM, seed 2: no final checkpoint" in text
    assert 'class="gap">gap<small>seed 2: no value</small>' in text


def test_equal_inputs_give_equal_bytes(build_study):
    folder = build_study()
    draw(folder, "density")
    write_report(folder)
    first = {path: path.read_bytes() for path in [folder / "report.html", *sorted((folder / "tables").iterdir())]}
    write_report(folder)
    assert first == {path: path.read_bytes() for path in first}
    assert str(folder.parent) not in first[folder / "report.html"].decode()


def test_words_from_files_are_escaped(build_study, edit):
    folder = build_study()
    draw(folder, "density")
    edit(folder / "figures" / "manifest.json", lambda raw: raw["density"].update(title="<script>alert(1)</script>"))
    (folder / "recipe.toml").write_text('question = "a < b & <i>?"\n', encoding="utf-8")
    text = render(load_study(folder))
    assert text.count("<script>") == 1
    assert "a &lt; b &amp; &lt;i&gt;?" in text


def test_mixed_data_write_nothing(build_study, edit):
    folder = build_study()
    for path in (folder / "sam-seed1" / "curvature").glob("*.json"):
        edit(path, lambda raw: raw["provenance"].update(data_sha256="0" * 64))
    with pytest.raises(ReportError, match="data_sha256"):
        write_report(folder)
    assert not (folder / "report.html").exists()
    assert not (folder / "tables").exists()


def test_a_figure_that_is_listed_but_gone_is_an_error(build_study):
    folder = build_study()
    draw(folder, "density")
    (folder / "figures" / "density.svg").unlink()
    with pytest.raises(ResultError, match=r"no density\.svg or \.png"):
        render(load_study(folder))


def test_a_heavy_svg_gives_way_to_its_png(build_study):
    folder = build_study()
    draw(folder, "surface")
    (folder / "figures" / "surface.svg").write_text(SVG + " " * LARGEST_SVG, encoding="utf-8")
    (folder / "figures" / "surface.png").write_bytes(b"\x89PNG")
    assert Page(render(load_study(folder))).all("img")[0]["src"] == "data:image/png;base64,iVBORw=="


def test_a_study_without_curvature_still_reports(build_study):
    text = render(load_study(build_study(schemes=())))
    assert "Not answered" in text
    assert "Held-out accuracy" in text


def test_the_command(build_study):
    folder = build_study()
    result = CliRunner().invoke(application(), ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.output.strip().splitlines()[-1].endswith("report.html")
    assert "Yes. SSE-SAM ends without negative curvature" in re.sub(r"\s+", " ", result.output)
    for name in ("accuracy", "curvature_head-tail", "curvature_head-tail_seeds", "differences_head-tail", "claims", "summary"):
        assert (folder / "tables" / f"{name}.csv").stat().st_size > 100
        assert (folder / "tables" / f"{name}.md").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_the_command_refuses_what_is_no_study(tmp_path, folder):
    command = [sys.executable, str(ROOT / "saddlescope.py"), "report", str(tmp_path / folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "no study.json there" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_summary_fits_a_terminal(whole_study):
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(load_study(whole_study)))
    text = console.export_text()
    assert "…" not in text
    assert "−19.60" in text
    assert "none 3/3" in text


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_no_number_of_the_summary_is_cut(folder):
    from rich.console import Console

    console, study = Console(width=80, file=io.StringIO()), load_study(folder)
    console.print(summary_table(study))
    shown = console.file.getvalue().split()
    numbers = [word for row in summary_sheet(study).rows for entry in row[2:] for word in entry.text.split()]
    assert all(word in shown for word in numbers)


def test_reports_never_import_torch(whole_study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole_study, folder)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from saddlescope.reports.page.html import write_report\n"
        f"write_report(Path({str(folder)!r}))\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_tables_sort_in_a_browser(build_study, tmp_path):
    """Clicks on the accuracy table's head twice in headless Chromium and reads the rows back; a gap stays last."""
    text = render(load_study(build_study(unfinished=(("imbsam", 1),))))
    probe = """<script>
    const all = () => [...document.querySelectorAll("#table-accuracy tbody tr")];
    const rows = () => all().map((row) => row.cells[0].textContent).join(" ");
    const button = document.querySelectorAll("#table-accuracy thead button")[3];
    const found = [rows()]; button.click(); found.push(rows()); button.click(); found.push(rows());
    document.title = found.join("|");
    </script></body>"""
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", probe), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None
    assert title.group(1).split("|") == ["SGD SAM ImbSAM SSE-SAM", "SGD SAM SSE-SAM ImbSAM", "SSE-SAM SAM SGD ImbSAM"]
