"""What a monitor leaves on disk: a result for each measured step, and a log of what it did and did not do."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..records.base import save
from ..records.results import CurvatureResult

LOG = "monitor.jsonl"


class MonitorError(ValueError):
    """A monitor was asked for something that does not fit."""


class RunFolder:
    """``<run>/curvature``.

    Args:
        run: the run's folder; default: a new ``runs/monitor-<time>`` in the current one. Nothing is made before it is needed.
        resume: the folder may hold results of an earlier part of the run.
        index_sha256: of the samples that are watched, by group: an earlier part of the run has to have watched the same.

    Raises:
        MonitorError: it holds results of another run, or of other samples.
    """

    def __init__(self, run: str | Path | None, resume: bool, index_sha256: Mapping[str, str]) -> None:
        self.run = Path(run) if run is not None else _new_run()
        self.folder = self.run / "curvature"
        before = sorted(self.folder.glob("*.json"))
        if before and not resume:
            raise MonitorError(
                f"{self.folder} holds results already ({before[0].name} ...): give the monitor a new folder, or resume=True if "
                "this training goes on where that one stopped"
            )
        if before and _watched(self.folder / LOG) not in (None, dict(index_sha256)):
            raise MonitorError(
                f"{self.folder} holds results over other samples: go on with the same data, groups, most and seed, or give a "
                "new folder"
            )

    def store(self, result: CurvatureResult, step: int) -> Path:
        """Writes ``step-<step>.json``."""
        return save(result, self.folder / f"step-{step}.json")

    def log(self, event: str, **what: Any) -> None:
        """Adds a line to ``monitor.jsonl``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {"event": event, "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **what}
        line = {key: None if value == float("inf") else value for key, value in line.items()}
        with (self.folder / LOG).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _watched(log: Path) -> Any:
    """What the last monitor that wrote there watched; None where its log does not tell."""
    try:
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        return [event["index_sha256"] for event in events if event["event"] == "began"][-1]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _new_run() -> Path:
    stem = f"monitor-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    return next(path for path in map(Path("runs").joinpath, names) if not path.exists())
