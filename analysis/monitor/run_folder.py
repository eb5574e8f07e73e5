"""What a monitor leaves on disk: a result for each measured step, and a log of what it did and did not do."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from contextlib import suppress
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
        run: the run's folder; default: a new ``runs/monitor-<time>`` in the current one, made when it is first needed.
        resume: the folder may hold results of an earlier part of the run.
        index_sha256: of the samples that are watched, by group: an earlier part of the run has to have watched the same.

    Raises:
        MonitorError: it holds results of another run, or of other samples.
    """

    def __init__(self, run: str | Path | None, resume: bool, index_sha256: Mapping[str, str]) -> None:
        self._run, self._resume = None if run is None else Path(run), resume
        self._stored: set[int] = set()
        before = [] if run is None else sorted(self.folder.glob("*.json"))
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

    @property
    def run(self) -> Path:
        """The run's folder."""
        if self._run is None:
            self._run = _new_run()
        return self._run

    @property
    def folder(self) -> Path:
        """Where results are."""
        return self.run / "curvature"

    def store(self, result: CurvatureResult, step: int) -> Path:
        """Writes ``step-<step>.json``.

        Raises:
            FileExistsError: another monitor wrote it.
        """
        path = self.folder / f"step-{step}.json"
        if path.exists() and step not in self._stored and not self._resume:
            raise FileExistsError(f"{path} is another monitor's: give each of them a folder of its own")
        self._stored.add(step)
        return save(result, path)

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
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, LookupError, TypeError):  # cut off where the training was killed
            event = json.loads(line)
            if event["event"] == "began":
                return event["index_sha256"]
    return None


def _new_run() -> Path:
    """A new folder, which another run that begins in the same second does not get."""
    stem = f"monitor-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    path = Path("runs", stem)
    for number in range(2, 1000):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            path = Path("runs", f"{stem}-{number}")
        except OSError:  # said where a result cannot be stored
            break
        else:
            break
    return path
