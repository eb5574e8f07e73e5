"""The registry of what the literature shows: every figure and table, its recipe, its numbers, and whether it reproduces."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...analysis.records.study import Study

#: "drawn": a figure without a claim that could be tested, made from a study that is there
State = Literal["reproduced", "not reproduced", "undecided", "drawn", "needs more compute", "not run"]
Scale = Literal["digits", "small", "paper"]
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

    ``command`` makes what needs no recipe.
    """

    id: str
    title: str
    paper: str
    where: str
    quantity: str
    setting: str
    recipes: dict[Scale, str]
    cost: str
    numbers: tuple[PaperNumber, ...]
    note: str = ""
    command: str = ""
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


def _has_convexity_map(study: Study) -> bool:
    finished = [(run, run.side_car) for run in study.runs if run.side_car is not None]
    return any(
        piece.lambda_min and piece.provenance.checkpoint_sha256 == side_car["sha256"]
        for run, side_car in finished
        for piece in run.slices.values()
    )


#: items that no recipe makes: whether a study holds what they are drawn from
_DRAWN_FROM: dict[str, Callable[[Study], bool]] = {"F9": _has_convexity_map}


class _Registry(_Entry):
    papers: dict[str, Paper]
    items: tuple[Item, ...]
    claims: tuple[Claim, ...]


@cache
def _registry() -> _Registry:
    try:
        found = _Registry.model_validate(tomllib.loads(REGISTRY.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise RegistryError(f"{REGISTRY}: {error}") from None
    unknown = ({item.paper for item in found.items} | {claim.paper for claim in found.claims}) - set(found.papers)
    unknown |= {name for claim in found.claims for name in claim.items} - {item.id for item in found.items}
    if unknown:
        raise RegistryError(f"{REGISTRY}: names papers or items that it does not list: {', '.join(sorted(unknown))}")
    return found


def claims() -> tuple[Claim, ...]:
    """Every claim, in the registry's order."""
    return _registry().claims


def papers() -> dict[str, Paper]:
    """Every source by its key."""
    return dict(_registry().papers)


def list_items(studies: Iterable[Study] = ()) -> list[Item]:
    """Every item in the registry's order. States come from the claims that ``studies`` (stored results) decide.

    An item with several claims is reproduced only if all of them are, and not reproduced if any is not. Of several studies the
    last one that tests an item gives its state, and one of the item's own recipes before any other.
    """
    from .claims import evaluate

    items = {item.id: item for item in _registry().items}
    own: set[str] = set()
    for study in studies:
        by_item: dict[str, list[str]] = {}
        for claim, outcome in evaluate(study):
            for name in claim.items if outcome.state != "not tested" else ():
                by_item.setdefault(name, []).append(outcome.state)
        for item in items.values():
            drawn = study.name in item.recipes.values() or (item.id in _DRAWN_FROM and _DRAWN_FROM[item.id](study))
            if drawn and item.id not in by_item and item.state == "not run":
                items[item.id] = item.model_copy(update={"state": "drawn", "evidence": f"study {study.name}"})
        for name, found in by_item.items():
            if study.name in items[name].recipes.values():
                own.add(name)
            elif name in own:
                continue
            state: State = "undecided"
            if "not reproduced" in found:
                state = "not reproduced"
            elif set(found) == {"reproduced"}:
                state = "reproduced"
            items[name] = items[name].model_copy(
                update={"state": state, "evidence": f"study {study.name}: direction only, not the paper's setting"}
            )
    return list(items.values())
