"""The tables of a study: accuracies, curvature, verdicts, paired differences and where each number comes from.

Every function returns a data frame of unrounded numbers, one observation per row; ``writers.py`` puts them on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...analysis.records.study import Study
from .accuracy import accuracy, accuracy_per_class, accuracy_seeds, part_accuracy, parts, runs_of
from .curvature import VERDICTS, curvature, curvature_along, curvature_seeds, quantities, verdicts
from .gather import cells, check_accuracy_comparable, compared, grid, run_status
from .sampling import mean_words
from .statistics import paired_difference

__all__ = [
    "VERDICTS",
    "accuracy",
    "accuracy_per_class",
    "accuracy_seeds",
    "by_seed",
    "checkpoints",
    "curvature",
    "curvature_along",
    "curvature_seeds",
    "differences",
    "differences_between",
    "part_accuracy",
    "reference",
    "verdicts",
]

#: what is compared between optimizers
COMPARED = ("accuracy", "lambda_min", "lambda_max", "negative_ratio", "negative_mass@0.001", "trace", "gradient_norm")

#: (optimizer, group, quantity) -> seed -> value; None: a gap
BySeed = dict[tuple[str, str, str], dict[int, float | None]]


def by_seed(study: Study, scheme: str | None = "head-tail") -> BySeed:
    """Every number seed by seed: held-out ``accuracy`` (%) of every part, and the curvature of every group of ``scheme``.

    Of a group that was measured on random parts, ``lambda_min`` and ``lambda_max`` are the means over the parts and there is no
    ``negative_ratio``: that of one part is not the group's, and can order optimizers the other way round.
    """
    check_accuracy_comparable(study)
    values: BySeed = {}
    for optimizer in study.optimizers:
        for part in parts(study):
            runs = runs_of(study, optimizer)
            values[optimizer, part, "accuracy"] = {seed: part_accuracy(run, part) for seed, run in runs.items()}
    found = list(cells(study, scheme)) if scheme else []
    names, parted = quantities(found), mean_words(study, scheme)
    for cell in found:
        entries = compared(cell.result) if cell.result is not None else {}
        for name in names:
            if name == "negative_ratio" and cell.group in parted:
                continue
            entry = entries.get(name)
            values.setdefault((cell.optimizer, cell.group, name), {})[cell.seed] = entry.value if entry else None
    return values


def reference(study: Study) -> str:
    """The optimizer that the others are compared with: SGD, or the first where there is none."""
    return "sgd" if "sgd" in study.optimizers else study.optimizers[0]


def differences(study: Study, scheme: str | None = "head-tail", against: str | None = None) -> pd.DataFrame:
    """Paired differences (optimizer minus reference, same seed), with a 95 % interval over seeds.

    Curvature of the groups of ``scheme``, or accuracies of every part where ``scheme`` is None.
    """
    base = against or reference(study)
    values = {key: found for key, found in by_seed(study, scheme).items() if (key[2] == "accuracy") == (scheme is None)}
    keys = [key for key in values if key[0] != base and key[2] in COMPARED]
    return pd.DataFrame([_difference(values, key, base) for key in keys], columns=_DIFFERENCE)


def differences_between(
    study: Study, scheme: str | None, optimizer: str, against: str, quantities: Sequence[str]
) -> pd.DataFrame:
    """The same for one optimizer against another, accuracies included."""
    values = by_seed(study, scheme)
    keys = [key for key in values if key[0] == optimizer and key[2] in quantities]
    return pd.DataFrame([_difference(values, key, against) for key in keys], columns=_DIFFERENCE)


_DIFFERENCE = (
    "optimizer",
    "against",
    "group",
    "quantity",
    "difference",
    "low",
    "high",
    "n",
    "higher_in",
    "missing_seeds",
    "decision",
    "seeds_needed",
)


def _difference(values: BySeed, key: tuple[str, str, str], against: str) -> dict[str, Any]:
    optimizer, group, name = key
    result = paired_difference(values[key], values[against, group, name])
    missing = " ".join(str(seed) for seed in result.missing)
    numbers = (result.mean, result.low, result.high, result.count, result.higher, missing, result.decision, result.needed)
    return dict(zip(_DIFFERENCE, (optimizer, against, group, name, *numbers), strict=True))


def checkpoints(study: Study) -> pd.DataFrame:
    """Where the numbers come from: run, model, parameters, data and checkpoint hashes."""
    rows = []
    for optimizer, seed, run in grid(study):
        car = run.side_car if run is not None and run.side_car is not None else {}
        model, data = car.get("model", {}), car.get("data", {})
        rows.append(
            {
                "optimizer": optimizer,
                "seed": seed,
                "status": run_status(run),
                "epoch": car.get("training", {}).get("epoch"),
                "model": model.get("args", {}).get("name", model.get("factory")),
                "parameters": model.get("parameters"),
                "checkpoint_sha256": car.get("sha256"),
                "index_sha256": data.get("index_sha256"),
                "run": run.folder.name if run else None,
            }
        )
    return pd.DataFrame(rows)
