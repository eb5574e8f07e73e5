"""What every data set hands over before it is made long-tailed, and where files are looked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .images import ImageSet


class DataError(ValueError):
    """A data set is missing, damaged, or not what the recipe says; the message names files and the fix."""


@dataclass(frozen=True)
class Source:
    """A data set as published.

    Attributes:
        title: name to show.
        train: the part that training samples are taken from.
        test: the part that accuracy is measured on; never used to choose anything.
        split: one phrase that says what ``test`` is.
        unchanged: how the training part is called where no long tail is cut from it.
    """

    title: str
    train: ImageSet
    test: ImageSet
    split: str
    unchanged: str = "as published"


#: where packaged data sets usually lie, after --data-root and $SADDLESCOPE_DATA
USUAL_PLACES = (
    "data",
    "~/data",
    "~/.cache/torch/datasets",
    "/usr/share/datasets",
    "/usr/local/share/datasets",
    "/data",
    "/datasets",
)


def search_roots(root: str | Path | None) -> list[Path]:
    """Folders to look in, in order: ``root``, ``$SADDLESCOPE_DATA``, the usual places."""
    given = [root] if root is not None else []
    variable = os.environ.get("SADDLESCOPE_DATA")
    return [Path(place).expanduser() for place in [*given, *([variable] if variable else []), *USUAL_PLACES]]


def find(
    title: str,
    names: Sequence[str],
    root: str | Path | None,
    subfolders: Sequence[str] = (),
    fits: Callable[[Path], bool] = Path.exists,
) -> Path:
    """The first of ``names`` that exists, and ``fits``, in a search root or in one of its ``subfolders``.

    Raises:
        DataError: none does; says where it looked, for which names, and what to do.
    """
    roots = search_roots(root)
    for base in roots:
        for folder in (base, *(base / sub for sub in subfolders)):
            for name in names:
                if fits(folder / name):
                    return folder / name
    where = ", ".join(str(base) for base in roots)
    inside = f" or its subfolder {' or '.join(f'{sub}/' for sub in subfolders)}" if subfolders else ""
    raise DataError(
        f"{title} was not found: looked in {where}{inside} for {', or '.join(names)}. Nothing is downloaded by itself: put the "
        "files there, or say where they are with --data-root FOLDER or the variable SADDLESCOPE_DATA"
    )
