"""``saddlescope reproduce --list``: what the literature shows, how to make it, and whether it reproduces."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

from ...analysis.records.load_study import load_study
from .papers import Item, papers
from .states import list_items


def print_registry(runs: Path) -> None:
    """Prints every figure and table of the registry.

    Args:
        runs: folder of studies; states come from those that are finished there.
    """
    studies = [load_study(index.parent) for index in sorted(runs.glob("*/study.json"))]
    finished = [study for study in studies if not study.missing]
    sources = papers()
    for item in list_items(finished):
        evidence = f" ({item.evidence})" if item.evidence else ""
        print(f"{item.id:<4} {item.title}: {item.state}{evidence}")
        for text in (f"{sources[item.paper].cite}; {item.where}", f"made by {_made_by(item)}; {item.cost}"):
            print(fill(text, 100, initial_indent=" " * 5, subsequent_indent=" " * 5))
    names = ", ".join(study.name for study in finished) or "none"
    print(f"\nRecipes are run by 'saddlescope reproduce RECIPE'. Finished studies under {runs}: {names}.")


def _made_by(item: Item) -> str:
    recipes = ", ".join(f"{recipe} ({scale})" for scale, recipe in item.recipes.items())
    return item.command or recipes or "no recipe yet"
