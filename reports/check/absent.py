"""What the results owe: readings that the baseline holds of weights and seeds, and that are gone."""

from __future__ import annotations

from collections.abc import Sequence

from .baseline import Series
from .readings import Reading, statistic


def strangers(old: Series, new: Series) -> set[str]:
    """The checkpoints of ``new`` whose weights ``old`` does not hold."""
    return set(new.checkpoints) - set(old.checkpoints)


def given(series: Series, number: str) -> dict[str, Reading]:
    """Checkpoint -> reading of one number, where it was measured."""
    if number not in series.numbers:
        return {}
    pairs = zip(series.checkpoints, series.numbers[number].readings, strict=True)
    return {checkpoint: one for checkpoint, one in pairs if one is not None}


def absent(number: str, old: Series, new: Series, *, quick: bool = False) -> list[int | str]:
    """The trainings of the baseline whose reading of this number the results owe and do not have.

    Weights that both sides hold owe what they had. Where the results hold some of a series' weights, its other seeds owe theirs
    as well, unless they were trained anew. A series trained anew as a whole owes no particular seed, nor does a night without
    a seed come again.

    Args:
        number: its name.
        old: the baseline's series.
        new: the results'.
        quick: nothing is owed of checkpoints that were not given.
    """
    if set(new.checkpoints) == strangers(old, new):
        return []
    held, measured, seeds = given(old, number), given(new, number), set(new.trainings)
    found = []
    for training, checkpoint in zip(old.trainings, old.checkpoints, strict=True):
        if checkpoint not in held or checkpoint in measured:
            continue
        if checkpoint in new.checkpoints:
            owed = not explained(number, new, checkpoint)
        else:
            owed = not quick and old.counted == "seeds" and training not in seeds
        if owed:
            found.append(training)
    return found


def explained(number: str, new: Series, checkpoint: str | None = None) -> bool:
    """No negative curvature, no escape from it: the group's verdict, compared on its own, says why the number is gone.

    Multipliers are gone for good: a quotient whose denominator vanishes near a saddle is no longer made.

    Args:
        number: its name.
        new: the results' series.
        checkpoint: the training in which it is gone; default: in all.
    """
    if statistic(number) == "escape.multiplier":
        return True
    if not statistic(number).startswith("escape.") and statistic(number) != "gauss_newton.quotient_along_v":
        return False
    answers = given(new, f"{number.split(f'.{statistic(number)}', maxsplit=1)[0]}.curvature")
    asked = list(answers) if checkpoint is None else [checkpoint]
    return bool(asked) and all(one in answers and answers[one].value != "negative curvature" for one in asked)


def trainings_named(series: Series, trainings: Sequence[int | str]) -> str:
    """``seeds 1, 2`` or ``runs 1f2e3d4c5b6a``; empty for none."""
    if not trainings:
        return ""
    word = series.counted if len(trainings) > 1 else series.counted.removesuffix("s")
    return f"{word} {', '.join(str(one)[:12] for one in trainings)}"
