"""The record of whole commands as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

_QUESTIONS = {"ends": "Both ends", "verdict": "Is there negative curvature?"}


def whole_table(record: dict[str, Any]) -> str:
    """One table a case and question; ratios above 1: we are faster."""
    machine = record["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        "# Whole commands",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, {machine['system']}, Python "
        f"{machine['python']}; {packages}; {record['date']}.",
        "",
        "From the start of a process to its end: imports, reading, measuring, writing. Commands are interleaved; seconds are "
        "medians, ratios over ours by default of the same round, above 1 we are faster; CPU is processor time, which other "
        "work on the machine disturbs less. Errors are relative to a converged reference. A peer's line is its library's "
        "defaults, *best* the batch size, calls and steps that suit it best, found beforehand and not counted.",
    ]
    for case in record["cases"]:
        known = case["known"]
        lines += [
            "",
            f"## {case['title']}",
            "",
            f"{known['parameters']:,} parameters, {known['samples']:,} samples; reference after {known['steps']} steps: "
            f"[{known['lambda_min']:.4g}, {known['lambda_max']:.4g}].",
        ]
        for question, title in _QUESTIONS.items():
            entries = [entry for entry in case["entries"] if entry["question"] == question]
            lines += ["", f"**{title}**", "", *_rows(entries)]
            if said := case.get("announced", {}).get(question):
                lines += ["", _announced(said, entries[0])]
    return "\n".join(lines) + "\n"


def _rows(entries: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| | seconds | CPU seconds | ratio | CPU ratio | error of lambda_min, lambda_max | peak MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in entries:
        title = f"{entry['title']}{', *best*' if entry['best'] else ''}"
        if "failed" in entry:
            rows.append(f"| {title} | failed: {entry['failed'].replace('|', '/')} | | | | | |")
            continue
        errors = ", ".join(_percent(entry["errors"][end]) for end in ("lambda_min", "lambda_max"))
        rows.append(
            f"| {title} | {statistics.median(entry['seconds']):.3g} | "
            f"{statistics.median(entry['cpu_seconds']):.3g} | {entry['ratio']:.2f} | {entry['cpu_ratio']:.2f} | {errors} | "
            f"{entry['peak_bytes'] / 2**20:,.0f} |"
        )
    return rows


def _announced(said: dict[str, float], ours: dict[str, Any]) -> str:
    """What ``--dry-run`` said beside what then happened."""
    seconds, peak = statistics.median(ours["seconds"]), ours["peak_bytes"] / 2**20
    memory, most = said["memory_bytes"] / 2**20, said["memory_bytes_at_most"] / 2**20
    return (
        f"`--dry-run` had said (in {said['took']:.2g} CPU seconds): {said['seconds']:.3g} s, at least "
        f"{said['seconds_at_least']:.3g} and at most {said['seconds_at_most']:.3g}; then {seconds:.3g}, "
        f"{seconds / said['seconds']:.2f} times as much. {memory:,.0f} MiB, at most {most:,.0f}; then {peak:,.0f}, "
        f"{peak / memory:.2f} times as much."
    )


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{100 * error:.2g} %"
