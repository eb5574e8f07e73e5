"""The bench's record as Markdown."""

from __future__ import annotations

from typing import Any

#: why a peer may be ahead, by what is compared
_QUESTIONS = {"extremes": "Both ends of the spectrum", "density": "Spectral density of equal accuracy"}
_WHY = {
    "products": "it needs fewer products: the number of its steps was found beforehand, ours looks when to stop, and spends "
    "products on whether the operator is fixed and symmetric",
    "cost": "it spends less on each product and what belongs to it (ours orthogonalises every vector in float64, checks "
    "the operator and computes intervals, which shows where products are cheap)",
}


def table(record: dict[str, Any]) -> str:
    """The whole record; a peer that is ahead is named under its table, with the reason where it shows in the numbers."""
    machine, versions = record["machine"], record["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        "# Side by side",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, {machine['system']}, Python "
        f"{machine['python']}; {packages}; {record['date']}.",
        "",
        "Each measurement is a process of its own; rounds are interleaved. Seconds: median (least to most). Ratio: seconds "
        "over ours in the same round (for the ends: ours asked for them alone), median of the rounds; above 1 we are faster. "
        "CPU ratio: the same of processor time, which other work on the machine disturbs less. Errors are relative to the "
        "reference. Peers run at the micro-batch, calls and steps that suit them best, found beforehand and not counted.",
    ]
    for group in record["groups"]:
        lines += ["", f"## {group['title']}, {_group_name(group)}", ""]
        reference = group["reference"]
        ends = f"[{reference['lambda_min']:.4g}, {reference['lambda_max']:.4g}]"
        lines.append(f"{group['parameters']:,} parameters; reference after {reference['steps']} steps: {ends}.")
        for question, title in _QUESTIONS.items():
            entries = [entry for entry in group["entries"] if entry["question"] == question]
            if any(not entry["competitor"].startswith("ours") for entry in entries):
                lines += ["", f"**{title}**", "", *_rows(entries, question)]
    return "\n".join(lines) + "\n"


def _group_name(group: dict[str, Any]) -> str:
    return f"{group['group']} ({group['samples']:,} samples)" if group["samples"] else str(group["group"])


def _rows(entries: list[dict[str, Any]], question: str) -> list[str]:
    accuracy = "error of lambda_min, lambda_max" if question == "extremes" else "W1 distance / width"
    rows = [
        f"| | seconds | ratio | CPU ratio | products | {accuracy} | peak MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    notes = []
    ours = entries[0]
    for entry in entries:
        seconds, composed = entry["seconds"], entry["composed"]
        if question == "extremes":
            reached = "from T" if composed else ", ".join(_percent(entry[f"error_{end}"]) for end in ("min", "max"))
        else:
            reached = "-" if entry["distance"] is None else f"{entry['distance']:.2g}"
        rows.append(
            f"| {entry['title']}{' *' if composed else ''} | {seconds['median']:.3g} ({seconds['min']:.3g} to "
            f"{seconds['max']:.3g}) | {entry['ratio']['median']:.2f} | {entry['cpu_ratio']['median']:.2f} | "
            f"{entry['products']} | {reached} | {entry['peak_bytes'] / 2**20:,.0f} |"
        )
        if entry["ratio"]["median"] < 1 and not entry["competitor"].startswith("ours"):
            fewer = entry["products"] < ours["products"]
            cheaper = seconds["median"] / entry["products"] < ours["seconds"]["median"] / ours["products"]
            why = [_WHY[name] for name, holds in (("products", fewer), ("cost", cheaper)) if holds]
            notes.append(f"**{entry['title']} is ahead here:** {'; '.join(why)}.")
        if question == "extremes" and entry["tried"]:
            ways = ", ".join(
                f"{'+'.join(one['ends'])} ncv {one['ncv']}: {one['products']}{' (missed)' if one['missed'] else ''}"
                for one in entry["tried"]
            )
            notes.append(
                f"eigsh's ways and the products that the reference's Krylov space says they take: {ways}. The first is run."
            )
        missed = [e for e in ("min", "max") if question == "extremes" and not composed and _missed(entry[f"error_{e}"])]
        if missed:
            notes.append(f"{entry['title']} did not reach 1 % at lambda_{' and lambda_'.join(missed)}.")
    if any(entry["composed"] for entry in entries):
        notes.append("\\* Not run to the end: the time of a few products, times the number that the method needs.")
    return rows + [line for note in notes for line in ("", note)]


def _missed(error: float | None) -> bool:
    return error is None or error > 0.01


def _percent(error: float | None) -> str:
    return "not found" if error is None else f"{100 * error:.2g} %"
