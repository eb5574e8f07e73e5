"""``saddlescope bench``: this suite and its peers on the same checkpoints, samples, machine and accuracy.

Rounds are interleaved (A B C A B C ...), so that whatever else the machine does hits everyone, and ratios are taken within a
round. Every measurement is a process of its own: its peak memory is its own, and nobody profits from what another left behind.
The peers get the configuration that suits them best (micro-batch by trial, calls and steps from a converged reference that no
user has), we run at our defaults.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saddlescope import load_factory

from .cases import CASES, BenchError
from .harness import Say, add, child, kept, one_of, prepared, versions_of
from .table import table

FORMAT, VERSION = "saddlescope-bench", 1
QUESTIONS = ("extremes", "density")
#: peers in the order of a round
ORDER = ("ours-ends", "ours", "curvlinops", "eigenthings", "pyhessian")


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
    wanted = [one_of(tuple(CASES), name, "case") for name in cases] or list(CASES)
    chosen = [name for name in ORDER if not competitors or name.startswith("ours") or name in competitors]
    for name in competitors:
        one_of(ORDER, name, "competitor")
    versions = versions_of(chosen)
    path = out / "bench.json"
    measured = bool(kept(path, (FORMAT, VERSION), "groups"))
    for case in wanted:
        job: dict[str, Any] = {"case": case, "out": str(out.resolve()), "data_root": data_root}
        ready = prepared("prepare", job, say, asked=bool(cases))
        if ready is None:
            continue
        job["checkpoint"] = ready["checkpoint"]
        for group in CASES[case].groups:
            entry = _group({**job, "group": group}, chosen, rounds, longest, say)
            entry = {"case": case, "title": CASES[case].title, "group": group, **entry}
            add(path, (FORMAT, VERSION), versions, "groups", entry, lambda one: list(CASES).index(one["case"]), table)
            measured = True
    if not measured:
        raise BenchError("nothing was measured: no case could be prepared; see --data-root")
    load_factory("saddlescope.figures.plots.bench:save")(path, out)
    return path


def _group(job: dict[str, Any], chosen: list[str], rounds: int, longest: float | None, say: Say) -> dict[str, Any]:
    """All competitors on one group, both questions."""
    name = f"{job['case']}/{job['group']}"
    say(f"{name}: converged reference")
    reference = child("reference", job, say)
    plans: dict[str, dict[str, Any]] = {}
    for competitor in chosen:
        plan = child("plan", {**job, "competitor": competitor, "reference": reference}, say)
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
                runs.setdefault((competitor, question), []).append(child("measure", task | composition, say))
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
