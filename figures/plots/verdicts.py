"""The verdicts at a glance: for every optimizer and group, how many seeds ended where."""

from __future__ import annotations

from collections import Counter

from matplotlib.patches import Patch, Rectangle

from ...analysis.records.study import Study
from ..drawing.appearance import VERDICTS
from ..drawing.canvas import heading, new_figure
from ..drawing.study_data import Drawing, Finals, Planned, count, finals, gap_words, group_title, setting

NAME = "verdicts"
#: text on these cells is white
_DARK = {"saddle"}


def figures(study: Study) -> list[Planned]:
    """The figure of verdicts."""
    return [Planned(NAME, lambda: draw(finals(study)))]


def labels(found: Finals, optimizer: str, group: str) -> Counter[str]:
    """Verdict label -> number of seeds; seeds without a result count as ``gap``."""
    counts: Counter[str] = Counter(str(entry.verdict.label) for entry in found.of(optimizer, group).values())
    counts["gap"] = len(found.seeds) - counts.total()
    return +counts


def draw(found: Finals) -> Drawing:
    """A cell per optimizer and group, divided by verdict, the number of seeds written in."""
    looks = found.looks
    rows, columns = len(looks), len(found.groups)
    figure = new_figure(max(5.6, 1.4 + 1.9 * columns), 1.75 + 0.42 * rows)
    axes = figure.subplots()
    used: set[str] = set()
    for row, optimizer in enumerate(found.optimizers):
        for column, group in enumerate(found.groups):
            left, counts = column + 0.04, labels(found, optimizer, group)
            for label in (name for name in VERDICTS if counts[name]):
                width = 0.92 * counts[label] / len(found.seeds)
                colour, hatch, _ = VERDICTS[label]
                axes.add_patch(
                    Rectangle(
                        (left, row + 0.08), width, 0.84, facecolor=colour, hatch=hatch, edgecolor=_edge(label), linewidth=1.2
                    )
                )
                axes.text(
                    left + width / 2, row + 0.5, _words(counts[label], len(found.seeds)), ha="center", va="center", fontsize=9,
                    color="white" if label in _DARK else "#222222", gid=f"{optimizer}:{group}:{label}",
                    bbox=None if label in _DARK else {"facecolor": colour, "edgecolor": "none", "pad": 1.5},
                )  # fmt: skip
                left += width
                used.add(label)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_xticks([c + 0.5 for c in range(columns)], [group_title(found.results.values(), g) for g in found.groups])
    axes.set_yticks([r + 0.5 for r in range(rows)], [look.name for look in looks.values()])
    for tick, look in zip(axes.get_yticklabels(), looks.values(), strict=True):
        tick.set_color(look.ink)
        tick.set_fontweight("bold")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=_edge(label), label=words)
        for label, (colour, hatch, words) in VERDICTS.items()
        if label in used
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(handles) > 1 else 1)
    heading(figure, f"Verdicts on the final checkpoints ({count(len(found.seeds), 'seed')})", setting(found.first.provenance))
    return Drawing(figure, "Verdict per optimizer and group", _caption(found))


def _edge(label: str) -> str:
    return "#BBBBBB" if label == "gap" else "white"


def _words(number: int, seeds: int) -> str:
    """``2 of 3``; the number alone where its part of the cell is too narrow for more."""
    return f"{number} of {seeds}" if number / seeds > 0.3 else str(number)


def _caption(found: Finals) -> str:
    thresholds = sorted({entry.verdict.threshold for result in found.results.values() for entry in result.groups.values()})
    stationary = " or ".join(f"{threshold:g}" for threshold in thresholds)
    entries = [entry for result in found.results.values() for entry in result.groups.values()]
    negative = [entry for entry in entries if entry.verdict.curvature == "negative curvature"]
    stored = sum(entry.certificate is not None and entry.certificate.holds for entry in negative)
    return (
        f"How many of {count(len(found.seeds), 'training seed')} got each verdict. Negative curvature: a unit vector with "
        f"vᵀHv < −τ was found (and is stored, with a certificate, in {stored} of {len(negative)}). Stationary: the distance "
        f"2‖∇L‖/|λ_min| beyond which curvature outweighs the gradient is at most {stationary} of ‖w‖. Undetermined: the "
        "interval of λ_min reaches both sides of −τ."
        f"{gap_words(found.gaps, found.left_out)}"
    )
