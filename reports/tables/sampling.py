"""Groups that were measured on a part of their samples: how large the part was, and what another part would have given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...analysis.records.base import Estimate
from ...analysis.records.results import GroupResult
from ...analysis.records.spectra import SamplingError
from ...analysis.records.study import Study
from .gather import cells
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


def mean_words(study: Study, scheme: str | None) -> dict[str, str]:
    """Group -> ``mean over 4 random parts``, for every group that some checkpoint of the study measured on parts.

    Where others measured it whole, that is said as well: a part looks more like a saddle than the whole.
    """
    found: dict[str, list[SamplingError | None]] = {}
    for cell in cells(study, scheme) if scheme else ():
        if cell.result is not None:
            found.setdefault(cell.group, []).append(cell.result.sampling)
    words = {}
    for group, samplings in found.items():
        if counts := sorted({one.subsets for one in samplings if one is not None}):
            whole = ", in some runs of all samples" if None in samplings else ""
            words[group] = f"mean over {listed([str(count) for count in counts], 'or')} random parts{whole}"
    return words


def _words(estimates: list[Estimate]) -> str:
    """Of one checkpoint its mean and error; of several, which have no mean in common, the error alone."""
    error = f"± {number(max(one.standard_error or 0.0 for one in estimates), 2)}"
    return f"{number(estimates[0].value)} {error}" if len(estimates) == 1 else error
