"""``saddlescope bench``: whole commands, ours and the scripts that users of the peers would write, each a fresh process.

Commands are interleaved (A B C A B C ...); wall and processor time and peak memory are those of the process,
errors are against a converged reference. The scripts are in ``scripts/``. Each is run at its library's defaults, and at the
settings that suit it best, found beforehand and not counted; ours at its defaults, which is what ratios are taken over, and
beside that without confirmed ends: the peers' solvers stop at settled ones.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cases import BenchError, relative_error
from .harness import BenchRunError, Say, add, child, kept, one_of, prepared, versions_of
from .whole_cases import WHOLE_CASES
from .whole_table import whole_table

FORMAT, VERSION = "saddlescope-bench-whole", 1
QUESTIONS = ("ends", "verdict")
SCRIPTS = Path(__file__).resolve().parent / "scripts"
PEERS = ("curvlinops", "eigenthings", "pyhessian")
#: samples at once where nobody chose
BATCH = 64
OURS = "saddlescope analyze --goal"
_RAISED = re.compile(r"[\w.]*(Error|Exception)\b|error: ")
_OURS = "import saddlescope; saddlescope.main()"


@dataclass(frozen=True)
class Command:
    """One thing that is run.

    Attributes:
        title: for the table.
        question: ``ends`` or ``verdict``.
        peer: of the inner bench's names; ``ours``.
        best: at settings that were found beforehand.
        arguments: of the interpreter.
    """

    title: str
    question: str
    peer: str
    best: bool
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Ran:
    """What a process took and said."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    lambda_min: float | None
    lambda_max: float | None


@dataclass(frozen=True)
class Announced:
    """What ``--dry-run`` said beforehand of one of our commands: times in seconds, memory resident at the largest.

    Attributes:
        took: processor time of the dry run itself, a whole process.
    """

    seconds_at_least: float
    seconds: float
    seconds_at_most: float
    memory_bytes: int
    memory_bytes_at_most: int
    took: float


def bench_whole(
    out: Path,
    *,
    cases: Sequence[str] = (),
    competitors: Sequence[str] = (),
    rounds: int = 3,
    data_root: str | None = None,
    say: Say = print,
) -> Path:
    """Measures, and writes ``out/whole.json`` and ``out/whole.md`` after every case.

    Args:
        out: folder; networks and samples are kept in ``out/subjects``.
        cases: of :data:`~saddlescope.analysis.bench.whole_cases.WHOLE_CASES`; default: all. Those of an earlier run are kept.
        competitors: ``curvlinops``, ``eigenthings``, ``pyhessian``; default: all. We take part in any case.
        rounds: how often everything is run, in turn.
        data_root: folder to look for CIFAR-10 in first.
        say: told what is being done.

    Returns:
        ``out/whole.json``.

    Raises:
        BenchError: unknown case or competitor, or a peer that is not installed.
        BenchRunError: a case could not be prepared, or our own default failed. What failed of a peer stands in its row.
    """
    wanted = [one_of(tuple(WHOLE_CASES), name, "case") for name in cases] or list(WHOLE_CASES)
    for name in competitors:
        one_of((*PEERS, "ours"), name, "competitor")
    chosen = [name for name in PEERS if not competitors or name in competitors]
    versions = versions_of(["ours", *chosen])
    path = out / "whole.json"
    measured = bool(kept(path, (FORMAT, VERSION), "cases"))
    for name in wanted:
        job = {"case": name, "out": str(out.resolve()), "data_root": data_root}
        ready = prepared("prepare-whole", job, say, asked=bool(cases))
        if ready is None:
            continue
        folder = Path(ready["folder"])
        say(f"{name}: converged reference, and the peers' best settings")
        known = child("find-out", {"folder": str(folder)}, say)
        commands = [one for one in _commands(folder, known) if one.peer in ("ours", *chosen)]
        announced = {question: asdict(announce(_default(commands, question), folder)) for question in QUESTIONS}
        runs, failed = _rounds(name, commands, folder, rounds, say)
        entry = {
            "case": name,
            "title": WHOLE_CASES[name].title,
            "known": {key: known[key] for key in ("parameters", "samples", "lambda_min", "lambda_max", "steps")},
            "entries": [_entry(command, ran, runs, known, failed.get(command)) for command, ran in runs.items()],
            "announced": announced,
        }
        add(path, (FORMAT, VERSION), versions, "cases", entry, lambda one: list(WHOLE_CASES).index(one["case"]), whole_table)
        measured = True
    if not measured:
        raise BenchError("nothing was measured: no case could be prepared; see --data-root")
    return path


def _rounds(
    name: str, commands: Sequence[Command], folder: Path, rounds: int, say: Say
) -> tuple[dict[Command, list[Ran]], dict[Command, str]]:
    """Everything in turn, so many times; what failed once is not run again, and has no runs but a message.

    Raises:
        BenchRunError: ours failed at its defaults, which the others are compared with.
    """
    runs: dict[Command, list[Ran]] = {command: [] for command in commands}
    failed: dict[Command, str] = {}
    for index in range(rounds):
        for command in commands:
            if command in failed:
                continue
            what = f"{command.question}, {command.title}{' (best)' if command.best else ''}"
            try:
                ran = _run(command, folder)
            except BenchRunError as error:
                if command == _default(commands, command.question):
                    raise
                failed[command], runs[command] = str(error), []
                say(f"{name}: round {index + 1} of {rounds}, {what}: failed, {error}")
                continue
            runs[command].append(ran)
            took = f"{ran.seconds:.3g} s, CPU {ran.cpu_seconds:.3g} s, {ran.peak_bytes >> 20:,} MiB"
            say(f"{name}: round {index + 1} of {rounds}, {what}: {took}, ends {ran.lambda_min}, {ran.lambda_max}")
    return runs, failed


def _default(commands: Iterable[Command], question: str) -> Command:
    """Ours at its defaults."""
    return next(one for one in commands if one.peer == "ours" and one.question == question)


def _commands(folder: Path, known: dict[str, Any]) -> list[Command]:
    """Everything that is run for a case, in the order of a round."""
    where, batch = str(folder), str(BATCH)
    best, steps = known["eigsh"], known["eigenthings"]
    mine, theirs = (str(known["batch"].get(name, BATCH)) for name in ("curvlinops", "eigenthings"))

    def eigsh(size: str, ncv: int, ends: Sequence[str]) -> tuple[str, ...]:
        return (str(SCRIPTS / "curvlinops_eigsh.py"), where, size, str(ncv), *ends)

    def things(size: str, low: int, high: int) -> tuple[str, ...]:
        return (str(SCRIPTS / "eigenthings.py"), where, size, str(low), str(high))

    def ours(goal: str, *more: str) -> tuple[str, ...]:
        options = (
            "--data",
            f"{where}/data.npz",
            "--groups",
            "all",
            "--goal",
            goal,
            "--again",
            "--json",
            "--out",
            f"{where}/ours",
            *more,
        )
        return ("-c", _OURS, "analyze", f"{where}/weights.pt", "--model", f"{where}/network.py:build", *options)

    titles = "curvlinops + eigsh", "hessian-eigenthings", "PyHessian, density"
    return [
        Command(f"{OURS} ends: ends confirmed (default)", "ends", "ours", False, ours("ends")),
        Command(f"{OURS} ends --set confirm=false", "ends", "ours", False, ours("ends", "--set", "confirm=false")),
        Command(titles[0], "ends", "curvlinops", False, eigsh(batch, 0, ["BE"])),
        Command(titles[0], "ends", "curvlinops", True, eigsh(mine, best["ends"]["ncv"], best["ends"]["ends"])),
        Command(titles[1], "ends", "eigenthings", False, things(batch, 0, 0)),
        Command(titles[1], "ends", "eigenthings", True, things(theirs, steps[0], steps[1])),
        Command(titles[2], "ends", "pyhessian", False, (str(SCRIPTS / "pyhessian_density.py"), where, batch)),
        Command(f"{OURS} verdict", "verdict", "ours", False, ours("verdict")),
        Command(titles[0], "verdict", "curvlinops", False, eigsh(batch, 0, ["SA"])),
        Command(titles[0], "verdict", "curvlinops", True, eigsh(mine, best["verdict"]["ncv"], ["SA"])),
        Command(titles[1], "verdict", "eigenthings", True, things(theirs, steps[0], -1)),
    ]


def announce(command: Command, folder: Path) -> Announced:
    """What ours says beforehand, by the same command with ``--dry-run``.

    Raises:
        BenchRunError: it failed; what it last said.
    """
    said, took, _ = _process(command, folder, "--dry-run")
    least, usual, most = (60 * (said["start_minutes"] + said[f"minutes{name}"]) for name in ("_at_least", "", "_at_most"))
    cpu = took.ru_utime + took.ru_stime
    return Announced(least, usual, most, said["memory_bytes"], said["memory_bytes_at_most"], cpu)


def _run(command: Command, folder: Path) -> Ran:
    """One process, from its start to its end.

    Raises:
        BenchRunError: it failed; what it last said.
    """
    found, used, seconds = _process(command, folder)
    if command.peer == "ours":
        group = found["groups"]["all"]
        found = {name: group[name]["value"] for name in ("lambda_min", "lambda_max")}
    peak = used.ru_maxrss if sys.platform == "darwin" else used.ru_maxrss * 1024
    return Ran(seconds, used.ru_utime + used.ru_stime, peak, found.get("lambda_min"), found.get("lambda_max"))


def _process(command: Command, folder: Path, *more: str) -> tuple[dict[str, Any], resource.struct_rusage, float]:
    """What it printed, what it used, and seconds from its start to its end."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command.arguments, *more], stdout=said, stderr=errors, cwd=folder)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        errors.seek(0)
        if process.returncode:
            said_last = errors.read().strip().splitlines() or ["no message"]
            raised = [line for line in said_last if _RAISED.match(line)]  # a message may have many lines
            why = (raised or said_last)[-1]
            raise BenchRunError(f"{folder.name}, {command.title}: exit code {process.returncode}, {why}")
        return json.loads(said.read()), used, seconds


def _entry(
    command: Command, ran: list[Ran], runs: dict[Command, list[Ran]], known: dict[str, Any], failed: str | None = None
) -> dict[str, Any]:
    """Medians, and ratios to ours of the same round and question; of what failed what it said."""
    about = {
        **{key: value for key, value in asdict(command).items() if key != "arguments"},
        "arguments": [part.replace(str(SCRIPTS), "scripts") for part in command.arguments if part != _OURS],
    }
    if failed is not None:
        return {**about, "failed": failed}
    ours = runs[_default(runs, command.question)]
    errors = {end: None if (value := getattr(ran[0], end)) is None else relative_error(value, known[end]) for end in _ENDS}
    return {
        **about,
        "rounds": len(ran),
        "seconds": [one.seconds for one in ran],
        "cpu_seconds": [one.cpu_seconds for one in ran],
        "ratio": statistics.median(one.seconds / us.seconds for one, us in zip(ran, ours, strict=True)),
        "cpu_ratio": statistics.median(one.cpu_seconds / us.cpu_seconds for one, us in zip(ran, ours, strict=True)),
        "peak_bytes": max(one.peak_bytes for one in ran),
        "found": {end: [getattr(one, end) for one in ran] for end in _ENDS},
        "errors": errors,
    }


_ENDS = ("lambda_min", "lambda_max")
