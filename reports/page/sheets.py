"""The tables of a study as a person reads them; each sheet carries the unrounded data frame that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from ...analysis.records.study import Study
from ..literature import papers
from ..literature.outcome import Outcome
from ..literature.papers import Claim
from ..tables import study_tables as tables
from ..tables.critical_steps import step_sheets
from ..tables.entries import (
    LABELS,
    Entry,
    Sheet,
    curvature_entry,
    difference_entry,
    label,
    mean_entry,
    measured_entry,
    name_entry,
    records,
    tone_of,
)
from ..tables.escape import escape_sheets
from ..tables.escape_experiment import experiment_sheets
from ..tables.escape_rates import rate_sheets
from ..tables.sampling import mean_words
from ..tables.shared_directions import shared_sheets
from ..tables.statistics import POWER
from ..tables.variants import variant_sheets
from ..tables.words import GAP, listed, number, optimizer_name


def accuracy_sheet(study: Study) -> Sheet:
    """Accuracy of every part per optimizer."""
    data = tables.accuracy(study)
    parts = list(dict.fromkeys(data["part"]))
    rows = []
    for optimizer in study.optimizers:
        mine = {row["part"]: row for row in records(data[data["optimizer"] == optimizer])}
        rows.append([name_entry(study, optimizer), *(mean_entry(mine[part]) for part in parts)])
    return Sheet(
        "accuracy",
        "Held-out accuracy",
        "Percent, mean ± standard deviation over seeds.",
        [("optimizer", ""), *((part, "") for part in parts)],
        rows,
        data,
    )


def class_sheet(study: Study) -> Sheet:
    """Accuracy of every class, classes down, optimizers across."""
    data = tables.accuracy_per_class(study)
    rows = []
    for key, group in data.groupby("class", sort=True):
        entries = {row["optimizer"]: mean_entry(row) for row in records(group)}
        samples = int(group["samples"].iloc[0])
        rows.append(
            [
                Entry(str(key), "", float(str(key))),
                Entry(str(samples), "", samples),
                *(entries[name] for name in study.optimizers),
            ]
        )
    heads = [("class", ""), ("training samples", ""), *((optimizer_name(study, name), "") for name in study.optimizers)]
    caption = "Percent, mean ± standard deviation over seeds; rows in the data set's order of classes."
    return Sheet("accuracy_per_class", "Held-out accuracy of each class", caption, heads, rows, data, keys=1)


def accuracy_seed_sheet(study: Study) -> Sheet:
    """Accuracy of every run."""
    data = tables.accuracy_seeds(study)
    parts = [str(column) for column in data.columns[3:]]
    rows = []
    for row in records(data):
        values = [
            Entry(GAP, row["status"], None, "gap") if pd.isna(row[part]) else Entry(f"{row[part]:.2f}", "", row[part])
            for part in parts
        ]
        rows.append(
            [
                name_entry(study, row["optimizer"]),
                Entry(str(row["seed"]), "", row["seed"]),
                *values,
            ]
        )
    heads = [("optimizer", ""), ("seed", ""), *((part, "") for part in parts)]
    return Sheet("accuracy_seeds", "Held-out accuracy of every run", "Percent.", heads, rows, data, keys=2)


def curvature_sheet(study: Study, scheme: str) -> Sheet:
    """Every curvature number, optimizer and group down."""
    data, verdicts = tables.curvature(study, scheme), tables.verdicts(study, scheme)
    names = list(dict.fromkeys(data["quantity"]))
    counted = {(row["optimizer"], row["group"]): row for row in records(verdicts)}
    rows = []
    for (optimizer, group), part in data.groupby(["optimizer", "group"], sort=False):
        entries = {row["quantity"]: curvature_entry(row) for row in records(part)}
        verdict = counted[optimizer, group]
        rows.append(
            [
                name_entry(study, str(optimizer)),
                Entry(str(group), "", str(group)),
                Entry(verdict["text"], "", verdict["text"], tone_of(verdict)),
                *(entries[name] for name in names),
            ]
        )
    heads = [("optimizer", ""), ("group", "class group"), ("verdict", "over seeds"), *(label(name) for name in names)]
    return Sheet(
        f"curvature_{scheme}",
        f"Curvature of the groups ({scheme})",
        "Mean ± standard deviation over seeds. Below it the interval that encloses the intervals of the single checkpoints: "
        "the first is how much seeds differ, the second how well each was measured.",
        heads,
        rows,
        data,
        keys=2,
    )


def seed_sheet(study: Study, scheme: str) -> Sheet:
    """The class-group table (T3): every checkpoint's numbers, each with its own interval."""
    data = tables.curvature_seeds(study, scheme)
    names = [name for name in data.columns if f"{name}_low" in data.columns or name in LABELS]
    rows = []
    for row in records(data):
        keys = [
            name_entry(study, row["optimizer"]),
            Entry(str(row["seed"]), "", row["seed"]),
            Entry(row["group"], "", row["group"]),
        ]
        if row["status"] != "measured":
            rows.append([*keys, *(Entry(GAP, row["status"], None, "gap") for _ in range(len(names) + 3))])
            continue
        verdict = Entry(row["verdict"], "certificate holds" if row["certificate_holds"] is True else "", row["verdict"])
        noise = Entry(number(row["noise_absolute"], 2), "", row["noise_absolute"])
        size = Entry(str(int(row["size"])), "", row["size"])
        rows.append([*keys, verdict, size, *(measured_entry(row, str(name)) for name in names), noise])
    heads = [
        ("optimizer", ""),
        ("seed", ""),
        ("group", "class group"),
        ("verdict", "of this checkpoint"),
        ("n", "training samples of the group"),
        *(label(str(name)) for name in names),
        ("noise", "measured noise of a Hessian product, in units of an eigenvalue: the floor of any claim of sign"),
    ]
    return Sheet(
        f"curvature_{scheme}_seeds",
        f"Every checkpoint, group by group ({scheme})",
        "Below each number its own interval: for λ_min and λ_max the two-sided Lanczos bound, for M(τ) and the trace what the "
        "probes allow. † did not converge, or is not confirmed "
        "to be the outermost: the one-sided bound still holds (λ_min is at most, λ_max at least the value shown).",
        heads,
        rows,
        data,
        keys=3,
    )


def difference_sheet(study: Study, scheme: str | None) -> Sheet:
    """Paired differences against the reference optimizer: quantity and optimizer down, groups across (None: accuracies)."""
    data = tables.differences(study, scheme)
    base, parted = optimizer_name(study, tables.reference(study)), mean_words(study, scheme)
    of = f" λ_min and λ_max of {listed(list(parted))} are means over random parts, other numbers of one." if parted else ""
    groups = list(dict.fromkeys(data["group"]))
    rows = []
    for quantity in (name for name in tables.COMPARED if name in set(data["quantity"])):
        for optimizer in study.optimizers:
            mine = data[(data["quantity"] == quantity) & (data["optimizer"] == optimizer)]
            if mine.empty:
                continue
            found = {row["group"]: row for row in records(mine)}
            entries = [difference_entry(found[group]) if group in found else Entry("") for group in groups]
            rows.append([Entry(label(quantity)[0], "", quantity), name_entry(study, optimizer), *entries])
    return Sheet(
        f"differences_{scheme or 'accuracy'}",
        f"Paired differences against {base} ({scheme or 'held-out accuracy'})",
        f"Optimizer minus {base} on the same seed: mean and 95 % Student t interval over seeds, then in how many seeds it was "
        "higher, and with how many seeds an undecided difference of this size and spread would be decided with probability "
        f"{POWER:g}. Bold where the interval leaves out zero. The intervals are not corrected for their number: of "
        f"{len(data)} about {max(1, round(0.05 * len(data)))} would leave out zero by chance.{of}",
        [("quantity", ""), ("optimizer", ""), *((group, "") for group in groups)],
        rows,
        data,
        keys=2,
    )


def checkpoint_sheet(study: Study) -> Sheet:
    """Every run's checkpoint and its SHA-256."""
    data = tables.checkpoints(study)
    rows = []
    for row in records(data):
        hashed = row["checkpoint_sha256"]
        sha = Entry(GAP, row["status"], None, "gap") if pd.isna(hashed) else Entry(str(hashed), "", str(hashed), "hash")
        epoch = Entry("") if pd.isna(row["epoch"]) else Entry(str(int(row["epoch"])), "", int(row["epoch"]))
        rows.append(
            [
                name_entry(study, row["optimizer"]),
                Entry(str(row["seed"]), "", row["seed"]),
                epoch,
                Entry(str(row["run"] or "")),
                sha,
            ]
        )
    heads = [("optimizer", ""), ("seed", ""), (study.axis, ""), ("run folder", ""), ("SHA-256 of checkpoint.pt", "")]
    return Sheet("checkpoints", "Checkpoints", "Final checkpoint of every run.", heads, rows, data, keys=2)


def along_sheet(study: Study, scheme: str) -> Sheet:
    """λ_min, λ_max and ratio of every analysed checkpoint along training."""
    data = tables.curvature_along(study, scheme)
    shown = ("lambda_min", "lambda_max", "negative_ratio")
    rows = []
    for row in records(data):
        keys = [
            (row["optimizer"], None),
            (row["seed"], row["seed"]),
            (row["epoch"], row["epoch"]),
            (row["group"], row["group"]),
        ]
        texts = [name_entry(study, row["optimizer"])]
        texts += [Entry(str(text), "", sort) for text, sort in keys[1:]]
        rows.append([*texts, Entry(row["verdict"], "", row["verdict"]), *(measured_entry(row, name) for name in shown)])
    heads = [
        ("optimizer", ""),
        ("seed", ""),
        (study.axis, ""),
        ("group", ""),
        ("verdict", ""),
        *(label(name) for name in shown),
    ]
    caption = "Every analysed checkpoint, each number with its own interval. † did not converge, or may not be the end."
    return Sheet(f"curvature_{scheme}_along", f"Along training ({scheme})", caption, heads, rows, data, keys=4)


def claim_sheet(found: Sequence[tuple[Claim, Outcome]]) -> Sheet:
    """What the papers say beside what this study says; ``notes`` are the keys of the papers cited."""
    tones = {"reproduced": "free", "not reproduced": "saddle", "undecided": "open", "not tested": "gap"}
    rows, data = [], []
    sources = papers.papers()
    for claim, outcome in found:
        source = f"{sources[claim.paper].cite}; {claim.where}"
        ours = Entry(outcome.ours or "–", outcome.why, outcome.ours, "long")
        rows.append(
            [
                Entry(claim.statement, source, claim.statement, "long"),
                Entry(claim.numbers, "", claim.numbers, "long"),
                ours,
                Entry(outcome.state, "", outcome.state, tones[outcome.state]),
            ]
        )
        data.append(
            {
                "claim": claim.key,
                "source": source,
                "statement": claim.statement,
                "paper": claim.numbers,
                "ours": outcome.ours,
                "state": outcome.state,
                "why": outcome.why,
            }
        )
    return Sheet(
        "claims",
        "Paper beside ours",
        "Each claim with its source, the paper's numbers, ours with 95 % intervals over seeds, and whether it reproduces here.",
        [("claim", ""), ("paper", ""), ("ours", ""), ("state", "")],
        rows,
        pd.DataFrame(data),
        keys=0,
        notes=list(dict.fromkeys(claim.paper for claim, _ in found)),
    )


def sheets(study: Study, schemes: Iterable[str]) -> list[Sheet]:
    """Every sheet of the study in the report's order."""
    schemes = list(schemes)
    found = [
        *variant_sheets(study, next(iter(schemes), None)),
        accuracy_sheet(study),
        difference_sheet(study, None),
        class_sheet(study),
        accuracy_seed_sheet(study),
    ]
    for scheme in schemes:
        found += [curvature_sheet(study, scheme), *escape_sheets(study, scheme), *rate_sheets(study, scheme)]
        found += [seed_sheet(study, scheme), difference_sheet(study, scheme)]
    return [*found, *experiment_sheets(study), *step_sheets(study), *shared_sheets(study), checkpoint_sheet(study)]
