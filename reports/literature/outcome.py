"""What a study says about a claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["reproduced", "not reproduced", "undecided", "not tested"]


@dataclass(frozen=True)
class Outcome:
    """What this study says about a claim: ``ours`` holds the numbers, ``why`` the sentence."""

    state: State
    ours: str
    why: str
