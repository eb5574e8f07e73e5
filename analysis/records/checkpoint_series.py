"""A folder of results of somebody's own checkpoints, read as a study: one run for each training, along its steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import ResultError, load, parse_json
from .result_names import checkpoint_names
from .results import CurvatureResult
from .study import Run, Study

#: words before a number in a checkpoint's name, and what the number then counts
_COUNTED = {"epoch": "epoch", "ep": "epoch", "e": "epoch", "step": "step", "checkpoint": "step", "ckpt": "step", "iter": "step"}
_NUMBER = re.compile(r"(?<![a-z])(epoch|ep|e|step|checkpoint|ckpt|iter)(?:ation)?s?[-_=. ]?(\d+)(?!\d)", re.IGNORECASE)
#: the command in results that a monitor stored while the model was trained
MONITOR = "saddlescope.Monitor"
#: the optimizer of a run that does not record one
UNKNOWN = "checkpoints"


def load_series(folder: Path) -> Study | None:
    """Reads the curvature results below a folder, of checkpoints that no study of ours trained.

    Where a checkpoint stands in its training is taken from its side-car (``epoch`` or ``step``), else from its name
    (``epoch-12``, ``step_500``, ``checkpoint-500``), where all agree on what they count; else they are counted in the order of
    their names.

    Where a monitor has stored results, the series is theirs: it looks at samples of its own, and results of ``analyze`` for a
    checkpoint of the same run, which lie beside them, are over others.

    Args:
        folder: holds ``*.json`` results, in itself or anywhere below (``curvature/`` beside each checkpoint).

    Returns:
        the study, or None where there is no curvature result.

    Raises:
        ResultError: a damaged result, two results of one checkpoint and scheme, or results over different data.
    """
    results = {path: load(CurvatureResult, path) for path in sorted(folder.rglob("*.json"), key=_natural) if _is_result(path)}
    whole = {path: result for path, result in results.items() if result.provenance.params_pattern is None}
    if not whole:
        return None
    watched = {path: result for path, result in whole.items() if result.provenance.command == MONITOR}
    left_out = {
        str(path.relative_to(folder)): "no result of the monitor, whose samples are others; 'analyze --out' keeps it apart"
        for path in whole
        if watched and path not in watched
    }
    whole = watched or whole
    hashes = {result.provenance.data_sha256 for result in whole.values()}
    if len(hashes) > 1:
        raise ResultError(f"{folder}: results over {len(hashes)} different data sets; keep those of one in a folder")
    names = checkpoint_names(whole)
    axis, positions = _positions({name: whole[path].provenance.training for path, name in names.items()})
    runs: dict[tuple[str, int], list[tuple[int, CurvatureResult]]] = {}
    for path, result in whole.items():
        training = result.provenance.training
        key = (str(training.get("optimizer") or UNKNOWN), int(training.get("seed") or 0))
        runs.setdefault(key, []).append((positions[names[path]], result))
    return Study(
        name=folder.resolve().name,
        folder=folder,
        recipe={"question": "Where do the groups of these checkpoints end, and how did they come there?"},
        runs=[_run(folder, *key, placed) for key, placed in runs.items()],
        axis=axis,
        own=True,
        left_out=left_out,
    )


def _is_result(path: Path) -> bool:
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "curvature" in path.parts[-2:]  # a damaged result says so when it is loaded; another's file is left alone
    return isinstance(raw, dict) and raw.get("kind") == "curvature"


def _positions(training: Mapping[str, dict[str, Any]]) -> tuple[str, dict[str, int]]:
    """What checkpoints are counted by, and the count of each by name."""
    for axis in ("epoch", "step"):
        told = {name: record.get(axis) for name, record in training.items()}
        counts = {name: value for name, value in told.items() if isinstance(value, int)}
        if len(counts) == len(training):
            return axis, counts
    found = {name: [(_COUNTED[word.lower()], int(count)) for word, count in _NUMBER.findall(name)] for name in training}
    for axis in ("epoch", "step"):
        named = {name: [count for kind, count in pairs if kind == axis] for name, pairs in found.items()}
        if all(len(one) == 1 for one in named.values()) and len({one[0] for one in named.values()}) == len(named):
            return axis, {name: one[0] for name, one in named.items()}
    return "checkpoint", {name: index for index, name in enumerate(training, start=1)}


def _run(folder: Path, optimizer: str, seed: int, placed: list[tuple[int, CurvatureResult]]) -> Run:
    """One training, its last checkpoint the final one."""
    placed = sorted(placed, key=lambda pair: pair[0])
    seen: dict[tuple[int, str], CurvatureResult] = {}
    for position, result in placed:
        if (position, result.scheme.name) in seen:
            raise ResultError(
                f"{folder}: two results of scheme '{result.scheme.name}' at one point of one training "
                f"({seen[position, result.scheme.name].provenance.checkpoint} and {result.provenance.checkpoint}); keep one, "
                "or give trainings folders of their own"
            )
        seen[position, result.scheme.name] = result
    last = placed[-1][1].provenance
    side_car = {
        "checkpoint": last.checkpoint,
        "sha256": last.checkpoint_sha256,
        "model": {"args": {"name": last.model}, "parameters": last.parameters},
        "data": {"name": last.data, "class_counts": last.class_counts, "index_sha256": last.index_sha256},
        "training": {**last.training, "epoch": placed[-1][0]},
    }
    return Run(optimizer, seed, folder, side_car, [], curvature=[_placed(result, position) for position, result in placed])


def _placed(result: CurvatureResult, position: int) -> CurvatureResult:
    # Under "epoch" alone: a step beside it is a point of an escape experiment, which is no curve along training.
    training = {name: value for name, value in result.provenance.training.items() if name != "step"} | {"epoch": position}
    return result.model_copy(update={"provenance": result.provenance.model_copy(update={"training": training})})


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
