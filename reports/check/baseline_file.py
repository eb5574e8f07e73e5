"""Reading and writing ``baseline.json``: what is damaged, newer or empty never passes for a baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...analysis.records.base import parse_json, write_text_atomically
from .baseline import BASELINE_VERSION, Baseline, BaselineError


def save_baseline(baseline: Baseline, path: Path) -> Path:
    """Stores a baseline, atomically.

    Raises:
        BaselineError: there is nothing in it.
    """
    if not baseline.identifiers():
        raise BaselineError(f"{path}: not written, there is no number to store; give results, or a wider --only")
    raw = baseline.model_dump(mode="json", exclude_defaults=True)
    raw = {
        "kind": baseline.kind,
        "schema_version": baseline.schema_version,
        "false_alarm_rate": baseline.false_alarm_rate,
    } | raw
    write_text_atomically(path, _layout(raw) + "\n")
    return path


def _layout(raw: Any, indent: int = 0) -> str:
    """JSON with one reading to a line: short enough to edit, and a version-control diff shows which seed changed."""
    flat = json.dumps(raw, allow_nan=False)
    if not isinstance(raw, dict | list) or (len(flat) + indent <= 140 and "readings" not in raw):
        return flat
    inner, outer = "\n" + " " * (indent + 1), "\n" + " " * indent
    if isinstance(raw, list):
        return "[" + ",".join(inner + _layout(one, indent + 1) for one in raw) + outer + "]"
    return "{" + ",".join(f"{inner}{json.dumps(key)}: {_layout(one, indent + 1)}" for key, one in raw.items()) + outer + "}"


def load_baseline(path: Path) -> Baseline:
    """Reads a baseline.

    Raises:
        BaselineError: missing, corrupt, empty or of a newer schema; a NaN or any field out of range.
    """
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaselineError(f"{path}: no such baseline; make it with 'saddlescope baseline save RESULT... -o {path}'") from None
    except ValueError as error:
        raise BaselineError(f"{path}: not readable as JSON ({error}); take it from version control again") from None
    if not isinstance(raw, dict) or raw.get("kind") != "baseline":
        raise BaselineError(
            f'{path}: not a baseline (no "kind": "baseline"); results go before --baseline, the baseline after it'
        )
    version = raw.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BaselineError(f"{path}: field 'schema_version': expected a whole number, found {version!r}")
    if version > BASELINE_VERSION:
        raise BaselineError(f"{path}: schema_version {version} is newer than {BASELINE_VERSION}; update saddlescope to read it")
    try:
        baseline = Baseline.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BaselineError(f"{path}: field '{where}': {first['msg']} (given: {str(first.get('input'))[:60]})") from None
    _consistent(baseline, path)
    return baseline


def _consistent(baseline: Baseline, path: Path) -> None:
    if not baseline.identifiers():
        raise BaselineError(f"{path}: holds no number at all; save it again from results")
    for name, series in baseline.series.items():
        if not series.seeds or len(series.seeds) != len(series.checkpoints):
            raise BaselineError(f"{path}: series '{name}': {len(series.seeds)} seeds and {len(series.checkpoints)} checkpoints")
        for number, entry in series.numbers.items():
            if len(entry.readings) != len(series.seeds) or not entry.present:
                raise BaselineError(
                    f"{path}: '{name}::{number}': {len(entry.readings)} readings ({len(entry.present)} not null) "
                    f"for {len(series.seeds)} seeds; delete the number or save the baseline again"
                )
            if entry.rule not in ("exact", "label") and not all(isinstance(one.value, int | float) for one in entry.present):
                raise BaselineError(
                    f"{path}: '{name}::{number}': rule '{entry.rule}' needs numbers; texts are 'exact' or 'label'"
                )
