"""What both benches share: fresh processes, versions and machine, and the record of a folder."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from saddlescope import processor, processors

from ..records.base import write_text_atomically
from .cases import BenchError

Say = Callable[[str], None]


class BenchRunError(RuntimeError):
    """A measurement did not finish; the message holds the end of what it printed."""


def one_of(names: Sequence[str], name: str, kind: str) -> str:
    """The name, if there is such a thing.

    Raises:
        BenchError: there is none.
    """
    if name not in names:
        raise BenchError(f"--{kind} {name}: not known; there are {', '.join(names)}")
    return name


def versions_of(chosen: Sequence[str]) -> dict[str, str]:
    """Version of every package that takes part.

    Raises:
        BenchError: a peer is not installed.
    """
    from .peers import COMPETITORS, installed

    versions = {COMPETITORS[name].package: installed(name) for name in chosen}
    missing = [package for package, version in versions.items() if version is None]
    if missing:
        raise BenchError(f"not installed: {', '.join(missing)}; install the peers with: pip install 'saddlescope[bench]'")
    import numpy
    import scipy
    import torch

    own = {"torch": torch.__version__, "numpy": numpy.__version__, "scipy": scipy.__version__}
    return {name: str(version) for name, version in versions.items()} | own


def machine() -> dict[str, Any]:
    """What the timings depend on: processor, cores that this process may use, threads."""
    cores = processors()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    threads = os.environ.get("OMP_NUM_THREADS")
    return {
        "processor": processor(),
        "cores": cores,
        "threads": int(threads) if threads else cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": load,
    }


_BOOT = "from saddlescope.analysis.bench.child_process import main; main()"


def child(task: str, job: dict[str, Any], say: Say) -> dict[str, Any]:
    """What a task returns, done in a fresh process.

    Raises:
        BenchRunError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        given = json.dumps({"task": task, "result": str(result), **job})
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", _BOOT], input=given, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not result.exists():
            what = " ".join(str(job[key]) for key in ("case", "group", "competitor", "question") if key in job)
            end = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise BenchRunError(f"{task} {what}: {end[0]}")
        if task == "prepare" and time.perf_counter() - began > 60:
            say(f"{job['case']}: trained")
        content: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return content


def prepared(task: str, job: dict[str, Any], say: Say, *, asked: bool) -> dict[str, Any] | None:
    """What the preparation of a case returns; None where nobody asked for the case and its data are not there.

    Raises:
        BenchRunError: it failed.
    """
    try:
        return child(task, job, say)
    except BenchRunError as error:
        if asked or "was not found" not in str(error):
            raise
        say(f"case {job['case']} is left out: {error}")
        return None


def kept(path: Path, heading: tuple[str, int], key: str) -> list[dict[str, Any]]:
    """Entries of an earlier run into the same folder, which the record lists under ``key``.

    Raises:
        BenchError: the file is of another version.
    """
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    if (record.get("format"), record.get("version")) != heading:
        raise BenchError(f"{path}: not a bench of this version of saddlescope; choose another folder, or delete it")
    entries: list[dict[str, Any]] = record[key]
    return entries


def add(
    path: Path,
    heading: tuple[str, int],
    versions: dict[str, str],
    key: str,
    entry: dict[str, Any],
    order: Callable[[dict[str, Any]], Any],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """Adds an entry to the record, in the place of one of the same case and group, and writes its table beside it.

    Others may write into the same folder meanwhile: what they have added is kept.

    Args:
        path: ``bench.json``.
        heading: format and version.
        versions: of all packages that take part.
        key: what the record lists entries under.
        entry: what was measured.
        order: of entries.
        table: the record as Markdown.

    Raises:
        BenchError: the file is of another version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        entries = {_name(one): one for one in kept(path, heading, key)} | {_name(entry): entry}
        before = json.loads(path.read_text(encoding="utf-8"))["versions"] if path.exists() else {}
        record = {
            "format": heading[0],
            "version": heading[1],
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "versions": versions | {name: version for name, version in before.items() if name not in versions},
            key: sorted(entries.values(), key=order),
        }
        write_text_atomically(path, json.dumps(record, indent=1) + "\n")
        write_text_atomically(path.with_suffix(".md"), table(record))


def _name(entry: dict[str, Any]) -> tuple[Any, Any]:
    return entry["case"], entry.get("group")
