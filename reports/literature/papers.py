"""The registry of what the literature shows: every figure and table, its recipe, its numbers, and whether it reproduces."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

#: "drawn": a figure without a claim that could be tested, made from a study that is there
State = Literal["reproduced", "not reproduced", "undecided", "drawn", "needs more compute", "not run"]
#: digits: embedded; small: real images, few of them; full: the paper's data, a smaller network; paper: the paper's setting
Scale = Literal["digits", "small", "full", "paper"]
REGISTRY = Path(__file__).with_name("papers.toml")


class RegistryError(ValueError):
    """``papers.toml`` does not say what it must."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Paper(_Entry):
    """One source."""

    cite: str
    link: str | None = None


class PaperNumber(_Entry):
    """What the paper prints, and where exactly it was read."""

    what: str
    paper: str
    source: str


class Item(_Entry):
    """One figure (F) or table (T). ``recipes``: scale -> recipe of ``saddlescope reproduce``; a missing scale has none.

    ``command`` makes what needs no recipe, at ``cost``; what a recipe costs is said once for all of its items.
    """

    id: str
    title: str
    paper: str
    where: str
    quantity: str
    setting: str
    recipes: dict[Scale, str]
    numbers: tuple[PaperNumber, ...]
    note: str = ""
    command: str = ""
    cost: str = ""
    state: State = "not run"
    evidence: str = ""


class Claim(_Entry):
    """One statement of a paper, judged in ``claims.py`` under the same key; ``items``: the figures and tables it decides."""

    key: str
    paper: str
    where: str
    statement: str
    numbers: str
    items: tuple[str, ...]


class _Registry(_Entry):
    papers: dict[str, Paper]
    items: tuple[Item, ...]
    claims: tuple[Claim, ...]
    costs: dict[str, str]


@cache
def _registry() -> _Registry:
    try:
        found = _Registry.model_validate(tomllib.loads(REGISTRY.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise RegistryError(f"{REGISTRY}: {error}") from None
    unknown = ({item.paper for item in found.items} | {claim.paper for claim in found.claims}) - set(found.papers)
    unknown |= {name for claim in found.claims for name in claim.items} - {item.id for item in found.items}
    unknown |= {recipe for item in found.items for recipe in item.recipes.values()} - set(found.costs)
    if unknown:
        raise RegistryError(f"{REGISTRY}: names papers, items or costs that it does not list: {', '.join(sorted(unknown))}")
    return found


def items() -> tuple[Item, ...]:
    """Every figure and table as the registry has it, its state not yet known."""
    return _registry().items


def claims() -> tuple[Claim, ...]:
    """Every claim, in the registry's order."""
    return _registry().claims


def papers() -> dict[str, Paper]:
    """Every source by its key."""
    return dict(_registry().papers)


def costs() -> dict[str, str]:
    """Recipe -> what it takes."""
    return dict(_registry().costs)


def scale_of(study: str) -> Scale | None:
    """The scale of the study of that recipe; None where no item is made by it."""
    return next((scale for item in items() for scale, recipe in item.recipes.items() if recipe == study), None)
