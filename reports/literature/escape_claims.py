"""Claims about leaving, where a study has tested it: every optimizer from the same checkpoint, against SGD going on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...analysis.records.study import Study
from ..tables.escape_experiment import outcomes
from ..tables.words import listed
from .outcome import Outcome


def by_experiment(study: Study, optimizer: str, groups: Sequence[str], claimed: Literal["leaves", "stays"]) -> Outcome | None:
    """Judges that an optimizer leaves the negative curvature of every one of ``groups``, or of none.

    Returns:
        None where the study is no escape experiment, or does not hold the optimizer or a group.
    """
    found = outcomes(study)
    if any((optimizer, group) not in found for group in groups):
        return None
    here = {group: found[optimizer, group] for group in groups}
    as_said, against = ("escaped", "not escaped") if claimed == "leaves" else ("not escaped", "escaped")
    ours = "; ".join(f"{group}: {one.sentence}" for group, one in here.items())
    if wrong := [group for group, one in here.items() if one.state == against]:
        word = "not left" if claimed == "leaves" else "left"
        return Outcome("not reproduced", ours, f"From the same checkpoint {listed(wrong)} is {word}, against SGD going on.")
    if open_ := [group for group, one in here.items() if one.state != as_said]:
        return Outcome("undecided", ours, f"Undecided in {listed(open_)}: {here[open_[0]].decides}.")
    return Outcome("reproduced", ours, "So it does from the same checkpoint, against SGD going on.")
