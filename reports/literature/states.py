"""Whether what the literature shows reproduces: the state of every item of the registry, from stored studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...analysis.records.study import Study
from . import papers
from .claims import evaluate
from .outcome import Outcome
from .papers import Claim, Item, State


def _has_convexity_map(study: Study) -> bool:
    finished = [(run, run.side_car) for run in study.runs if run.side_car is not None]
    return any(
        piece.lambda_min and piece.provenance.checkpoint_sha256 == side_car["sha256"]
        for run, side_car in finished
        for piece in run.slices.values()
    )


def _where(study: Study) -> str:
    scale = papers.scale_of(study.name)
    return f"study {study.name}" + (f" at scale {scale}" if scale else "")


def _evidence(study: Study) -> str:
    own = papers.scale_of(study.name) == "paper"
    return _where(study) + (": the direction, in the paper's setting" if own else ": direction only, not the paper's setting")


def list_claims(studies: Iterable[Study] = ()) -> list[tuple[Claim, list[tuple[str, Outcome]]]]:
    """Every claim of the papers, and what each study that tests it says: ``(study and scale, outcome)``."""
    found: dict[str, list[tuple[str, Outcome]]] = {claim.key: [] for claim in papers.claims()}
    for study in studies:
        for claim, outcome in evaluate(study):
            if outcome.state != "not tested":
                found[claim.key].append((_where(study), outcome))
    return [(claim, found[claim.key]) for claim in papers.claims()]


#: items that no recipe makes: whether a study holds what they are drawn from
_DRAWN_FROM: dict[str, Callable[[Study], bool]] = {"F9": _has_convexity_map}


def list_items(studies: Iterable[Study] = ()) -> list[Item]:
    """Every item in the registry's order. States come from the claims that ``studies`` (stored results) decide.

    An item with several claims is reproduced only if all of them are, and not reproduced if any is not. Of several studies the
    last one that tests an item gives its state, and one of the item's own recipes before any other.
    """
    items = {item.id: item for item in papers.items()}
    own: set[str] = set()
    for study in studies:
        by_item: dict[str, list[str]] = {}
        for claim, outcome in evaluate(study):
            for name in claim.items if outcome.state != "not tested" else ():
                by_item.setdefault(name, []).append(outcome.state)
        for item in items.values():
            drawn = study.name in item.recipes.values() or (item.id in _DRAWN_FROM and _DRAWN_FROM[item.id](study))
            if drawn and item.id not in by_item and item.state == "not run":
                items[item.id] = item.model_copy(update={"state": "drawn", "evidence": _where(study)})
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
            items[name] = items[name].model_copy(update={"state": state, "evidence": _evidence(study)})
    return list(items.values())
