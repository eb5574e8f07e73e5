"""``saddlescope reproduce --list``: what the literature shows, how to make it, and whether it reproduces."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

from ...analysis.records.load_study import load_study
from .papers import Item, costs, papers
from .states import list_claims, list_items


def print_registry(runs: Path) -> None:
    """Prints every figure and table of the registry, then every claim, then what each recipe costs.

    Args:
        runs: folder of studies; states come from those that are finished there.
    """
    studies = [load_study(index.parent) for index in sorted(runs.glob("*/study.json"))]
    finished = [study for study in studies if not study.missing]
    sources = papers()
    for item in list_items(finished):
        evidence = f" ({item.evidence})" if item.evidence else ""
        print(f"{item.id:<4} {item.title}: {item.state}{evidence}")
        _indented(f"{sources[item.paper].cite}; {item.where}", f"made by {_made_by(item)}")
    print("\nWhat the papers claim:")
    for claim, outcomes in list_claims(finished):
        print(f"- {claim.statement} ({sources[claim.paper].cite.partition(':')[0]}; {claim.where})")
        _indented(*([f"{outcome.state} ({where}): {outcome.why}" for where, outcome in outcomes] or ["not tested"]))
    print("\nWhat the recipes take, unless said otherwise on CPU cores:")
    for recipe, cost in costs().items():
        _indented(f"{recipe}: {cost}")
    names = ", ".join(study.name for study in finished) or "none"
    print(f"\nRecipes are run by 'saddlescope reproduce RECIPE'. Finished studies under {runs}: {names}.")


def _indented(*texts: str) -> None:
    for text in texts:
        print(fill(text, 100, initial_indent=" " * 5, subsequent_indent=" " * 7))


def _made_by(item: Item) -> str:
    recipes = ", ".join(f"{recipe} ({scale})" for scale, recipe in item.recipes.items())
    command = item.command and item.command + (f"; {item.cost}" if item.cost else "")
    return command or recipes or "no recipe yet"
