"""The study on one screen: a row per optimizer, for the end of ``reproduce`` and the top of the report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...analysis.records.study import Study
from ..tables import study_tables as tables
from ..tables.accuracy import parts
from ..tables.entries import Entry, Sheet, curvature_entry, gap_entry, label, mean_entry, name_entry, records, tone_of
from ..tables.findings import headline_groups, main_scheme, states
from ..tables.gather import compared
from ..tables.sampling import mean_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SHOWN = ("lambda_min", "lambda_max", "negative_ratio")


def summary_sheet(study: Study) -> Sheet:
    """Verdict, λ_min, λ_max and ratio of the last group of the question (the tail); accuracy of all, head and tail."""
    scheme = main_scheme(study)
    group = headline_groups(states(study, scheme))[-1] if scheme else ""
    accuracies = {(row["optimizer"], row["part"]): row for row in records(tables.accuracy(study))}
    shown = [part for part in ("all", "head", "tail") if part in parts(study)]
    numbers = (
        {(row["optimizer"], row["group"], row["quantity"]): row for row in records(tables.curvature(study, scheme, compared))}
        if scheme
        else {}
    )
    verdicts = {(row["optimizer"], row["group"]): row for row in records(tables.verdicts(study, scheme))} if scheme else {}
    parted = mean_words(study, scheme).get(group, "")
    rows, data = [], []
    for optimizer in study.optimizers:
        wide: dict[str, Any] = {"optimizer": optimizer, "group": group} | ({"lambda_of": parted} if parted else {})
        for name, spread in [
            *((f"accuracy_{part}", accuracies[optimizer, part]) for part in shown),
            *((name, numbers[optimizer, group, name]) for name in SHOWN if scheme),
        ]:
            wide |= {f"{name}_{column}": spread[column] for column in ("mean", "std", "n", "missing_seeds")}
        data.append(wide | {"verdict": verdicts[optimizer, group]["text"] if scheme else None})
        row = [name_entry(study, optimizer)]
        if scheme:
            verdict = verdicts[optimizer, group]
            row.append(Entry(verdict["text"], "", verdict["text"], tone_of(verdict)))
            row += [_of_parts(curvature_entry(numbers[optimizer, group, name]), name, parted) for name in SHOWN]
        rows.append(row + [mean_entry(accuracies[optimizer, part]) for part in shown])
    heads = [("optimizer", "")]
    if scheme:
        heads += [(f"{group} verdict", "over seeds"), *((f"{group} {label(name)[0]}", label(name)[1]) for name in SHOWN)]
    heads += [(f"acc. {part} (%)", "held-out accuracy") for part in shown]
    return Sheet(
        "summary",
        "Summary",
        "Mean ± standard deviation over seeds; below it the interval that encloses the measurements of the single checkpoints."
        + (" Over random parts of the samples it is a Student t interval over the parts." if parted else ""),
        heads,
        rows,
        pd.DataFrame(data),
    )


def _of_parts(entry: Entry, name: str, words: str) -> Entry:
    """Says of a group on random parts which number this is: the ends' mean over the parts, the ratio of one part."""
    of = "of one part" if name == "negative_ratio" else words
    return replace(entry, detail="; ".join(part for part in (of, entry.detail) if part)) if words else entry


def verdict_sheet(study: Study, scheme: str) -> Sheet:
    """Verdict per optimizer and group, with λ_min and λ_max under it."""
    data = tables.verdicts(study, scheme)
    found_numbers = records(tables.curvature(study, scheme, compared))
    numbers = {(row["optimizer"], row["group"], row["quantity"]): row for row in found_numbers}
    parted = mean_words(study, scheme)
    groups = list(dict.fromkeys(data["group"]))
    rows = []
    for optimizer in study.optimizers:
        found = {row["group"]: row for row in records(data[data["optimizer"] == optimizer])}
        row = [name_entry(study, optimizer)]
        for group in groups:
            means = [f"{label(name)[0]} {mean_entry(numbers[optimizer, group, name]).text}" for name in SHOWN[:2]]
            means += [parted[group]] if group in parted else []
            complete = not found[group]["gap"]
            detail = (
                ", ".join(means) if complete else gap_entry(numbers[optimizer, group, "lambda_min"]["missing_seeds"]).detail
            )
            row.append(Entry(found[group]["text"], detail, found[group]["text"], tone_of(found[group])))
        rows.append(row)
    return Sheet(
        f"verdicts_{scheme}",
        f"Verdict per optimizer and group ({scheme})",
        "In how many seeds the final checkpoint is at a saddle of the group's loss: negative curvature below −τ, proven, and a "
        "gradient so small that curvature outweighs it nearby.",
        [("optimizer", ""), *((group, "") for group in groups)],
        rows,
        data,
    )


#: a verdict in a word or two, for the terminal
SHORT = {"negative curvature, not stationary": "not stat.", "no negative curvature above tau": "none", "; ": "\n", " seeds": ""}
LEGEND = (
    "mean±std over seeds. saddle: negative curvature, stationary. not stat.: negative curvature, not stationary. none: neither."
)


def summary_table(study: Study) -> Table:
    """The summary as a rich table that fits 80 columns; below it, what the verdicts' words mean."""
    from rich import box
    from rich.table import Table

    sheet = summary_sheet(study)
    parted = mean_words(study, main_scheme(study)).get(str(sheet.data["group"].iloc[0]), "")
    legend = f"{LEGEND} λ_min, λ_max: {parted}; ratio: of one part." if parted else LEGEND
    table = Table(title=study.name, caption=legend, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.padding, table.pad_edge, table.show_edge = (0, 1, 0, 0), False, False
    for column, (head, _) in enumerate(sheet.heads):
        label_words = head.replace(" (%)", "").replace("|λ_min|/λ_max", "ratio").replace(" ", "\n", 1)
        table.add_column(label_words, justify="left" if column < 2 else "right", no_wrap=column > 1, overflow="fold")
    for row in sheet.rows:
        cells = [entry.text.replace(" ± ", "\n± ") for entry in row]
        cells[0] = cells[0].replace(" (", "\n(")
        for long, short in SHORT.items():
            cells[1] = cells[1].replace(long, short)
        table.add_row(*cells)
    return table


def print_summary(study: Study, console: Console | None = None) -> None:
    """Prints the answer and the summary table on the terminal."""
    from rich.console import Console

    from ..tables.escape_experiment import experiment_sentences
    from ..tables.findings import find

    console = console or Console()
    found = find(study)
    console.print(found.question, style="bold")
    console.print(f"{found.answer}. {found.sentence}")
    if found.decides:
        console.print(found.decides, highlight=False, markup=False)
    for sentence in experiment_sentences(study):
        console.print(sentence, highlight=False, markup=False)
    console.print(summary_table(study))
