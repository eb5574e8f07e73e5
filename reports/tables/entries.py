"""Cells of a table as a person reads them: a mean with its spread, the measurement's own interval, a gap for a missing seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...analysis.records.study import Study
from .words import GAP, interval, number, optimizer_name, threshold, with_spread


@dataclass(frozen=True)
class Entry:
    """One cell: its words, a smaller second line, what it sorts by, and a tone (gap, saddle, open, free) for its colour."""

    text: str
    detail: str = ""
    sort: float | str | None = None
    tone: str = ""

    @property
    def key(self) -> str:
        """What the cell sorts by, as text."""
        return "" if self.sort is None else str(self.sort)


@dataclass(frozen=True)
class Sheet:
    """A table to be shown and stored. ``heads``: (label, what it means); the first ``keys`` columns name the row."""

    name: str
    title: str
    caption: str
    heads: list[tuple[str, str]]
    rows: list[list[Entry]]
    data: pd.DataFrame
    keys: int = 1
    notes: list[str] = field(default_factory=list)


#: quantity -> (label, what it means)
LABELS = {
    "accuracy": ("accuracy (%)", "held-out accuracy"),
    "lambda_min": ("λ_min", "most negative eigenvalue of the group's Hessian"),
    "lambda_max": ("λ_max", "largest eigenvalue of the group's Hessian"),
    "lambda_min_parts": ("λ_min, parts", "mean over random parts of the samples (λ_min is of one); Student t over parts"),
    "lambda_max_parts": ("λ_max, parts", "mean over random parts of the samples (λ_max is of one); Student t over parts"),
    "negative_ratio": ("|λ_min|/λ_max", "negative_ratio: read it beside λ_min and λ_max, it also moves when only λ_max does"),
    "negative_mass": ("M(τ)", "share of eigenvalues below −τ"),
    "negative_energy": ("negative energy", "Σ|λ| over negative eigenvalues, divided by Σ|λ| over all"),
    "saddle_index": ("index ≥", "at least so many eigenvalues lie below −τ (needs no convergence)"),
    "trace": ("trace", "sum of all eigenvalues, estimated; the interval is over probes"),
    "gauss_newton_lambda_max": ("λ_max(G)", "largest eigenvalue of the Gauss-Newton part of the Hessian"),
    "gradient_norm": ("‖∇L‖", "gradient norm of the group's loss"),
    "displacement_ratio": (
        "s*/‖w‖",
        "displacement beyond which curvature outweighs the gradient; at most the threshold: stationary",
    ),
    "loss": ("loss", "mean loss of the group's training samples"),
    "train_accuracy": ("train acc. (%)", "accuracy on the group's training samples"),
}


def label(quantity: str) -> tuple[str, str]:
    """Label and meaning; ``negative_mass@0.001`` names its threshold."""
    base, _, relative = quantity.partition("@")
    short, meaning = LABELS.get(base, (base, ""))
    if not relative:
        return short, meaning
    tau = f"τ = {threshold(float(relative))} λ_max"
    return f"{short.replace('(τ)', '')} at {tau}", f"{meaning}, {tau}"


def gap_entry(missing: str) -> Entry:
    """A mean that cannot be given because seeds are missing."""
    return Entry(GAP, f"seed {missing.replace(' ', ', ')}: no value", None, "gap")


def mean_entry(row: Mapping[str, Any], detail: str = "") -> Entry:
    """``mean ± std`` of a spread row, or its gap."""
    if pd.isna(row["mean"]):
        return gap_entry(str(row["missing_seeds"]))
    std = None if pd.isna(row["std"]) else float(row["std"])
    one = "" if std is not None else "one seed, spread unknown"
    return Entry(with_spread(float(row["mean"]), std), "; ".join(part for part in (detail, one) if part), float(row["mean"]))


def curvature_entry(row: Mapping[str, Any]) -> Entry:
    """The mean over seeds with the enclosing interval of the single measurements below it."""
    if row["undefined_seeds"] and not row["missing_seeds"]:
        return Entry("–", f"not defined in seed {row['undefined_seeds'].replace(' ', ', ')}")
    low, high = (None if pd.isna(row[end]) else float(row[end]) for end in ("seed_interval_low", "seed_interval_high"))
    if str(row["quantity"]).startswith("saddle_index"):
        return mean_entry(row, f"at least {low:.0f} in each seed" if low is not None and row["n"] > 1 else "")
    if low is None and high is None:
        return mean_entry(row)
    entry = mean_entry(row)
    return mean_entry(row, interval(low, high, beside=entry.text.split(" ")[0] if entry.sort is not None else ""))


def tone_of(label_counts: Mapping[str, Any]) -> str:
    """Tone of a verdict cell: one verdict in all seeds gives its tone, anything else is open."""
    if label_counts["gap"] == label_counts["seeds"]:
        return "gap"
    for verdict, tone in (("saddle", "saddle"), ("no negative curvature above tau", "free")):
        if label_counts[verdict] == label_counts["seeds"]:
            return tone
    return "open"


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def name_entry(study: Study, key: str) -> Entry:
    """An optimizer by its display name, sorted in the study's order."""
    return Entry(optimizer_name(study, key), "", study.optimizers.index(key))


def difference_entry(row: Mapping[str, Any]) -> Entry:
    """``mean [low, high]`` and the count of seeds behind it."""
    if pd.isna(row["difference"]):
        return gap_entry(str(row["missing_seeds"]))
    value = float(row["difference"])
    text = ("+" if value > 0 else "") + number(value)
    seeds = f"higher in {row['higher_in']} of {row['n']}"
    if pd.isna(row["low"]):
        return Entry(text, f"one seed, no interval; {seeds}", value)
    tone = "decided" if row["decision"] in ("higher", "lower") else ""
    if row["decision"] == "undecided" and not pd.isna(row["seeds_needed"]):
        seeds += f"; {int(row['seeds_needed'])} seeds would decide"
    return Entry(f"{text} {interval(float(row['low']), float(row['high']), beside=text, signed=True)}", seeds, value, tone)


def measured_entry(row: Mapping[str, Any], quantity: str) -> Entry:
    """One number of one checkpoint with its own interval; ``†`` marks an extreme that did not converge, or is not confirmed."""
    value = row.get(quantity)
    if value is None or pd.isna(value):
        return Entry("–", "", None)
    low, high = (_or_none(row.get(f"{quantity}_{end}")) for end in ("low", "high"))
    text = number(100 * value if quantity == "train_accuracy" else value)
    if quantity.startswith("saddle_index"):
        return Entry(str(int(value)), "", value)
    shown = f"{text} †" if quantity in ("lambda_min", "lambda_max") and not row["converged"] else text
    spread = _or_none(row.get("trace_standard_error")) if quantity == "trace" else None
    details = [
        interval(low, high, beside=text) if low is not None or high is not None else "",
        f"± {number(spread, 2)} (s.e.)" if spread else "",
    ]
    return Entry(shown, " ".join(detail for detail in details if detail), value)


def _or_none(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
