"""What a claim is judged on, and how differences with a claimed sign are: by their paired 95 % intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...analysis.records.study import Study
from ..tables import study_tables as tables
from ..tables.entries import label
from ..tables.statistics import Difference, needed_words, paired_difference
from ..tables.words import interval, listed, number, optimizer_name
from .outcome import Outcome

#: the side of zero that a difference is claimed to lie on
Side = Literal["higher", "lower"]


@dataclass(frozen=True)
class Evidence:
    """What claims are judged on: numbers and verdict labels, seed by seed.

    ``parted``: groups whose ends are means over random parts, with the words for it.
    """

    study: Study
    values: tables.BySeed
    labels: dict[tuple[str, str], dict[int, str | None]]
    parted: dict[str, str] = field(default_factory=dict)

    def name(self, optimizer: str) -> str:
        """The display name of an optimizer."""
        return optimizer_name(self.study, optimizer)

    def lacks(self, *needed: tuple[str, str, str]) -> str | None:
        """Why the claim cannot be tested, or None. ``needed``: (optimizer, group, quantity)."""
        for optimizer, group, quantity in needed:
            found = self.values.get((optimizer, group, quantity))
            if found is None and quantity == "negative_ratio" and group in self.parted:
                return self.one_part([group])
            if found is None:
                return f"no {label(quantity)[0]} of {self.name(optimizer)}, {group}, in this study"
            gaps = [str(seed) for seed, value in found.items() if value is None]
            if gaps:
                return f"gap: seed {listed(gaps)} of {self.name(optimizer)}"
        return None

    def one_part(self, groups: Sequence[str]) -> str:
        """Why the ratio of these groups is not compared; empty where it is."""
        found = [group for group in groups if group in self.parted]
        return f"{label('negative_ratio')[0]} of {listed(found)} is known of one random part only" if found else ""

    def of_parts(self, *groups: str) -> str:
        """Which of these groups' ends are means over parts, for the end of a list of numbers."""
        found = [f"λ_min and λ_max of {group}: {self.parted[group]}" for group in groups if group in self.parted]
        return "".join(f"; {words}" for words in found)

    def difference(self, a: tuple[str, str, str], b: tuple[str, str, str]) -> Difference:
        """``a - b`` paired over seeds."""
        return paired_difference(self.values[a], self.values[b])


def signed(found: Difference) -> str:
    """``+0.12 [0.05, 0.19]``."""
    assert found.mean is not None
    text = ("+" if found.mean > 0 else "") + number(found.mean)
    return f"{text} {interval(found.low, found.high, beside=text, signed=True) if found.low is not None else '(one seed)'}"


def directions(parts: Sequence[tuple[str, Difference, Side]], more: str = "", lacking: str = "") -> Outcome:
    """Judges several claimed directions together.

    Args:
        parts: (words, difference, claimed side).
        more: stands after the numbers.
        lacking: why a direction of the claim is not among ``parts``; then it is not reproduced or undecided.
    """
    ours = "; ".join(f"{words}: {signed(found)}" for words, found, _ in parts) + more
    against = [words for words, found, side in parts if found.decision in ("higher", "lower") and found.decision != side]
    open_ = [words for words, found, side in parts if found.decision not in ("higher", "lower")]
    if against:
        return Outcome("not reproduced", ours, f"The other way round for {listed(against)}.")
    if open_:
        why = undecided(open_, [found for _, found, _ in parts])
        return Outcome("undecided", ours, f"{why} {lacking}." if lacking else why)
    if lacking:
        return Outcome("undecided", ours, f"The other differences have the claimed sign, but {lacking}.")
    return Outcome("reproduced", ours, "Every difference has the claimed sign and its interval leaves out zero.")


def _seeds(found: Difference) -> float:
    """How many seeds a difference would be decided with; infinite where more than any number tried, or not known."""
    return 0 if found.decision != "undecided" else found.needed or math.inf


def undecided(open_: Sequence[str], found: Sequence[Difference]) -> str:
    """Why differences are open, and how many seeds would decide the widest."""
    if all(one.count < 2 for one in found):
        return f"One seed gives no interval for {listed(open_)}: a second and a third would show the spread."
    words = needed_words(max(found, key=_seeds))
    return f"The interval over seeds includes zero for {listed(open_)}{f'; {words}' if words else ''}."
