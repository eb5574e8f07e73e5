"""``saddlescope bench``: this suite and its peers on the same checkpoints, samples, machine and accuracy.

Rounds are interleaved (A B C A B C ...), so that whatever else the machine does hits everyone, and ratios are taken within a
round. Every measurement is a process of its own: its peak memory is its own, and nobody profits from what another left behind.
The peers get the configuration that suits them best (micro-batch by trial, calls and steps from a converged reference that no
user has), we run at our defaults.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saddlescope import load_factory, processors

from ..records.base import write_text_atomically
from .cases import CASES, BenchError
from .table import table

FORMAT, VERSION = "saddlescope-bench", 1
QUESTIONS = ("extremes", "density")
#: peers in the order of a round
ORDER = ("ours-ends", "ours", "curvlinops", "eigenthings", "pyhessian")
Say = Callable[[str], None]


class BenchRunError(RuntimeError):
    """A measurement did not finish; the message holds the end of what it printed."""


def bench(
    out: Path,
    *,
    cases: Sequence[str] = (),
    competitors: Sequence[str] = (),
    rounds: int = 5,
    longest: float | None = None,
    data_root: str | None = None,
    say: Say = print,
) -> Path:
    """Measures, and writes ``out/bench.json`` and ``out/bench.md`` after every group, at the end the picture.

    Args:
        out: folder; networks are trained into ``out/models`` once.
        cases: of :data:`~saddlescope.analysis.bench.cases.CASES`; default: all. Those of an earlier run that are not measured
            again are kept.
        competitors: of :data:`ORDER`; default: all. We take part in any case.
        rounds: how often everything is measured.
        longest: a run that would take more seconds than this is not finished: five of its products are timed, and multiplied by
            their number in the reference's Krylov space; such entries are marked. Default: everything is run.
        data_root: folder to look for CIFAR-10 in first.
        say: told what is being done.

    Returns:
        ``out/bench.json``.

    Raises:
        BenchError: unknown case or competitor, or a peer that is not installed.
        BenchRunError: a measurement failed.
    """
    wanted = [_known(name, tuple(CASES), "case") for name in cases] or list(CASES)
    chosen = [name for name in ORDER if not competitors or name.startswith("ours") or name in competitors]
    for name in competitors:
        _known(name, ORDER, "competitor")
    versions = _versions(chosen)
    path = out / "bench.json"
    stored = {(group["case"], group["group"]): group for group in _kept(path)}
    for case in wanted:
        job: dict[str, Any] = {"case": case, "out": str(out.resolve()), "data_root": data_root}
        try:
            job["checkpoint"] = _child("prepare", job, say)["checkpoint"]
        except BenchRunError as error:
            if cases or "was not found" not in str(error):
                raise
            say(f"case {case} is left out: {error}")
            continue
        for group in CASES[case].groups:
            entry = _group({**job, "group": group}, chosen, rounds, longest, say)
            stored[case, group] = {"case": case, "title": CASES[case].title, "group": group, **entry}
            record = {
                "format": FORMAT,
                "version": VERSION,
                "date": datetime.now(UTC).date().isoformat(),
                "machine": machine(),
                "versions": versions,
                "groups": [stored[key] for key in sorted(stored, key=lambda key: list(CASES).index(key[0]))],
            }
            out.mkdir(parents=True, exist_ok=True)
            write_text_atomically(path, json.dumps(record, indent=1) + "\n")
            write_text_atomically(out / "bench.md", table(record))
    if not stored:
        raise BenchError("nothing was measured: no case could be prepared; see --data-root")
    load_factory("saddlescope.figures.plots.bench:save")(path, out)
    return path


def _group(job: dict[str, Any], chosen: list[str], rounds: int, longest: float | None, say: Say) -> dict[str, Any]:
    """All competitors on one group, both questions."""
    name = f"{job['case']}/{job['group']}"
    say(f"{name}: converged reference")
    reference = _child("reference", job, say)
    plans: dict[str, dict[str, Any]] = {}
    for competitor in chosen:
        plan = _child("plan", {**job, "competitor": competitor, "reference": reference}, say)
        if plan["takes_part"]:
            plans[competitor] = plan
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for index in range(rounds):
        for competitor, plan in plans.items():
            for question in plan["questions"]:
                expected = plan["products"][question] * plan["seconds_a_product"]
                composed = longest is not None and expected > longest
                say(f"{name}: round {index + 1} of {rounds}, {competitor}, {question}{' (composed)' if composed else ''}")
                task = {**job, "competitor": competitor, "question": question, "plan": plan["plan"], "reference": reference}
                composition = {"compose": plan["products"][question]} if composed else {}
                runs.setdefault((competitor, question), []).append(_child("measure", task | composition, say))
    entries = [
        _entry(competitor, question, plan, measured, reference, _ours(runs, question))
        for competitor, plan in plans.items()
        for question in QUESTIONS
        if (measured := runs.get((competitor, question)) or (plan["together"] and runs.get((competitor, "extremes"))) or None)
    ]
    return {"samples": reference["samples"], "parameters": reference["parameters"], "reference": _short(reference)} | {
        "entries": entries
    }


def _ours(runs: dict[tuple[str, str], list[dict[str, Any]]], question: str) -> list[dict[str, Any]]:
    """What everyone is compared with: our call for that question; the defaults answer both, as for the density."""
    return runs["ours-ends" if question == "extremes" else "ours", "extremes"]


def _entry(
    competitor: str,
    question: str,
    plan: dict[str, Any],
    measured: list[dict[str, Any]],
    reference: dict[str, Any],
    ours: list[dict[str, Any]],
) -> dict[str, Any]:
    """One competitor's line: medians, spread, ratios round by round, and the accuracy of its first run."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    first = measured[0]
    return {
        "competitor": competitor,
        "title": plan["title"],
        "question": question,
        "plan": plan["plan"],
        "tried": plan["tried"],
        "composed": first["composed"],
        "rounds": len(measured),
        "seconds": spread([run["seconds"] for run in measured]),
        "cpu_seconds": spread([run["cpu_seconds"] for run in measured]),
        "ratio": spread([run["seconds"] / us["seconds"] for run, us in zip(measured, ours, strict=True)]),
        "cpu_ratio": spread([run["cpu_seconds"] / us["cpu_seconds"] for run, us in zip(measured, ours, strict=True)]),
        "products": first["products"],
        "error_min": first["error_min"] if question == "extremes" else None,
        "error_max": first["error_max"] if question == "extremes" else None,
        "distance": first["distance"] if question == "density" else None,
        "peak_bytes": max(run["peak_bytes"] for run in measured),
        "before_bytes": max(run["before_bytes"] for run in measured),
    }


def _short(reference: dict[str, Any]) -> dict[str, Any]:
    return {name: reference[name] for name in ("lambda_min", "lambda_max", "steps")}


def _kept(path: Path) -> list[dict[str, Any]]:
    """Groups of an earlier run into the same folder.

    Raises:
        BenchError: the file is of another version.
    """
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    if (record.get("format"), record.get("version")) != (FORMAT, VERSION):
        raise BenchError(f"{path}: not a bench of this version of saddlescope; choose another folder, or delete it")
    groups: list[dict[str, Any]] = record["groups"]
    return groups


def _known(name: str, names: Sequence[str], kind: str) -> str:
    if name not in names:
        raise BenchError(f"--{kind} {name}: not known; there are {', '.join(names)}")
    return name


def _versions(chosen: Sequence[str]) -> dict[str, str]:
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
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux on x86
    cores = processors()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    threads = os.environ.get("OMP_NUM_THREADS")
    return {
        "processor": name,
        "cores": cores,
        "threads": int(threads) if threads else cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": load,
    }


_BOOT = "from saddlescope.analysis.bench.child_process import main; main()"


def _child(task: str, job: dict[str, Any], say: Say) -> dict[str, Any]:
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
