"""Groups that were measured on a part of their samples: how large the part was, and what another part would have given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...analysis.records.base import Estimate
from ...analysis.records.results import GroupResult
from .words import listed, number


def sampling_words(results: Iterable[Mapping[str, GroupResult]]) -> str | None:
    """A sentence about the groups that were subsampled; None where each was measured whole.

    Args:
        results: the groups of each checkpoint, by name.
    """
    found: dict[str, list[GroupResult]] = {}
    for groups in results:
        for name, entry in groups.items():
            if entry.sampling is not None:
                found.setdefault(name, []).append(entry)
    if not found:
        return None
    parts, several = [], max(map(len, found.values())) > 1
    for name, entries in found.items():
        samplings = [entry.sampling for entry in entries if entry.sampling is not None]
        first = samplings[0]
        ends = [("λ_min", [one.lambda_min for one in samplings]), ("λ_max", [one.lambda_max for one in samplings])]
        said = ", ".join(f"{symbol} {_words(estimates)}" for symbol, estimates in ends)
        parts.append(
            f"{name} on {first.subset_size:,} of {first.population:,} samples ({said} over {first.subsets} such parts)"
        )
    means = "the largest standard error of a checkpoint's mean" if several else "mean ± standard error"
    return (
        f"Measured on a random part of the samples: {listed(parts)}; {means}. The other numbers are of one part each, and "
        "their intervals do not hold what another part would give; a part looks more like a saddle than the whole."
    )


def _words(estimates: list[Estimate]) -> str:
    """Of one checkpoint its mean and error; of several, which have no mean in common, the error alone."""
    error = f"± {number(max(one.standard_error or 0.0 for one in estimates), 2)}"
    return f"{number(estimates[0].value)} {error}" if len(estimates) == 1 else error
