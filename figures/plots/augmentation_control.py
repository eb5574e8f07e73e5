"""What redrawn augmentation makes of a spectrum: the ratio of single classes on data that stand still and data that do not.

Drawn from the stored ``augmentation_control.json`` of ``saddlescope augmentation-control``.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes

from ...analysis.records.augmentation import AugmentationControl, ControlData, ControlPanel
from ...analysis.records.base import load, write_text_atomically
from ..drawing.canvas import heading, new_figure, render, style, write_bytes_atomically
from ..drawing.scales import fix_ticks, number_label, plain_ticks, signed_axis
from ..drawing.study_data import Drawing

PAPER = "F5 (ours: the control for the spectra of Rangwani et al. 2022)"
#: relative difference of two products above which every analysis refuses the operator
LIMIT = 1e-3
#: share of lambda_max that rounding to single precision may leave below zero
ROUNDING = 1e-6
NAMES: dict[ControlData, str] = {
    "fixed": "clean data, fixed",
    "frozen": "augmented once, then fixed",
    "redrawn": "augmented anew at every product",
}
#: told apart without colour; the open square leaves a dot inside visible
LOOKS: dict[ControlData, dict[str, Any]] = {
    "fixed": {"marker": "o", "color": "#2F4550", "markersize": 3.6},
    "frozen": {"marker": "s", "color": "#3F8F96", "markersize": 7.0, "markerfacecolor": "none", "markeredgewidth": 1.1},
    "redrawn": {"marker": "^", "color": "#B2455A", "markersize": 5.4},
}


def draw(control: AugmentationControl) -> Drawing:
    """A column per model: the ratio of every class against its size, and below it how far two products of one vector differ."""
    figure = new_figure(max(5.4, 0.6 + 4.0 * len(control.panels)), 5.8)
    panels = figure.subplots(2, len(control.panels), sharex="col", squeeze=False, height_ratios=(1.5, 1))
    for (above, below), panel in zip(panels.T, control.panels, strict=True):
        _ratios(above, panel)
        _noise(below, panel)
    panels[0, 0].set_ylabel(r"$|\min(\lambda_\mathrm{min}, 0)|\,/\,\lambda_\mathrm{max}$")
    panels[1, 0].set_ylabel("operator noise\n" + r"$\Vert H_1 u - H_2 u\Vert\,/\,\Vert H_1 u\Vert$")
    figure.align_ylabels(list(panels[:, 0]))
    figure.legend(handles=panels[0, 0].get_lines()[: len(NAMES)], loc="outside lower center", ncols=len(NAMES))
    heading(
        figure, "Negative curvature, or noise of the data loader?", "; ".join(panel_title(panel) for panel in control.panels)
    )
    title = "A loader that augments draws saddles where there are none"
    return Drawing(figure, title, paragraph(control), PAPER)


def _ratios(axes: Axes, panel: ControlPanel) -> None:
    for data, name in NAMES.items():
        entries = panel.of(data)
        sizes = [entry.samples for entry in entries]
        axes.plot(sizes, [e.ratio for e in entries], linestyle="none", clip_on=False, label=name, gid=data, **LOOKS[data])
    axes.set_ylim(0, 1.08 * max(entry.ratio for entry in panel.entries) or 1.0)
    plain_ticks(axes.yaxis)
    words = "no Hessian has a negative eigenvalue" if panel.convex else "negative curvature can be real"
    axes.set_title(f"{panel.title}: {words}", fontweight="normal")


def _noise(axes: Axes, panel: ControlPanel) -> None:
    for data in NAMES:
        entries = panel.of(data)
        axes.plot(
            [entry.samples for entry in entries], [entry.noise for entry in entries], linestyle="none", gid=data, **LOOKS[data]
        )
    signed_axis(axes, "y", [LIMIT, *(entry.noise for entry in panel.entries)], LIMIT / 100, ticks=6)
    top = axes.get_ylim()[1]
    axes.axhspan(LIMIT, top, facecolor="#F6ECEE", zorder=0)
    axes.axhline(LIMIT, color="#B2455A", linewidth=0.6, zorder=1)
    axes.annotate(
        f"refused by every analysis (above {number_label(LIMIT)})", (0.02, LIMIT), xycoords=("axes fraction", "data"),
        xytext=(0, 2.5), textcoords="offset points", fontsize=7.5, color="#7F2F3F",
    )  # fmt: skip
    axes.set_xscale("log")
    sizes = sorted({entry.samples for entry in panel.entries})
    fix_ticks(axes.xaxis, sorted({sizes[round(step * (len(sizes) - 1) / 5)] for step in range(6)}))
    axes.set_xlabel("training images of the class (log)")


def page(control: AugmentationControl) -> str:
    """The table of every panel and what it says, as Markdown."""
    parts = ["# Augmentation control: curvature, or noise of the data loader?\n", paragraph(control) + "\n"]
    for panel in control.panels:
        parts += [f"## {panel_title(panel)}\n", _table(panel)]
    return "\n".join(parts)


def panel_title(panel: ControlPanel) -> str:
    """Model and data by name."""
    return f"{panel.title} on {panel.provenance.data}"


def paragraph(control: AugmentationControl) -> str:
    """What was done and what came out, in one paragraph that claims no more than the numbers do."""
    said = [
        "Every class's Hessian was given to the same Lanczos run from the same start vector three times: on clean fixed data, "
        "on images augmented once and kept, and on images augmented anew at every Hessian-vector product. The last is what a "
        "training loader does, and the default of the released analysis of class-wise saddles (Rangwani et al., NeurIPS 2022)."
    ]
    said += [_convex_words(panel) if panel.convex else _network_words(panel) for panel in control.panels]
    said.append(
        f"{_refused(control)} What follows: a lowest Ritz value measured over a loader that augments is no evidence of "
        "negative curvature. What does not follow: that published figures are wrong, because which loader made them is unknown."
    )
    return " ".join(said)


def _convex_words(panel: ControlPanel) -> str:
    still = max(entry.ratio for data in ("fixed", "frozen") for entry in panel.of(data))
    if still > ROUNDING:
        found = f"yet one is found (|λ_min|/λ_max up to {still:.1e}): **do not trust this measurement**"
    else:
        found = f"none is found (|λ_min|/λ_max {f'at most {still:.1e}, rounding' if still else '0 throughout'})"
    lowest = min(entry.rayleigh_min / entry.lambda_max for entry in panel.of("redrawn"))
    return (
        f"{_subject(panel)}, no Hessian has a negative eigenvalue, and on data that stand still {found}. Redrawn, the ratio is "
        f"{_range(panel)}: a saddle where none can be. One more product with each of these lowest Ritz vectors gives it a "
        f"curvature of {lowest:.2g} λ_max or more."
    )


def _network_words(panel: ControlPanel) -> str:
    fixed, redrawn = panel.of("fixed"), panel.of("redrawn")
    pairs = [(b.ratio, a.ratio) for a, b in zip(fixed, redrawn, strict=True)]
    times = [after / before for after, before in pairs if before > 0]
    typical = ""
    if len(times) == 1:
        typical = f", {times[0]:.2g} times as high"
    elif times:
        typical = f", {median(times):.2g} times as high in the median class and at most {max(times):.2g} times"
    return (
        f"{_subject(panel)}, negative curvature can be real. The ratio is {_span([entry.ratio for entry in fixed])} on clean "
        f"data, {_span([entry.ratio for entry in panel.of('frozen')])} with augmentation kept and {_range(panel)} with "
        f"augmentation redrawn: higher than on clean data in {sum(after > before for after, before in pairs)} of "
        f"{len(pairs)} {'class' if len(pairs) == 1 else 'classes'}{typical}. {_confirmed(panel)}"
    )


def _confirmed(panel: ControlPanel) -> str:
    """How much of the lowest Ritz value one more product finds again."""
    shares = {
        data: [100 * entry.rayleigh_min / entry.lambda_min for entry in panel.of(data) if entry.lambda_min < 0]
        for data in ("fixed", "redrawn")
    }
    if not all(shares.values()):
        return ""
    spans = {data: _span(found, ".0f", " %") for data, found in shares.items()}
    return (
        f"One more product with the lowest Ritz vector finds {spans['redrawn']} of its value again where the data are redrawn, "
        f"{spans['fixed']} where they are clean."
    )


def _range(panel: ControlPanel) -> str:
    entries = panel.of("redrawn")
    first, last = entries[0], entries[-1]
    if len(entries) == 1:
        return f"{first.ratio:.2g} (a class of {first.samples} images)"
    return (
        f"{_span([entry.ratio for entry in entries])} ({first.ratio:.2g} for the largest class, {first.samples} images, and "
        f"{last.ratio:.2g} for the smallest, {last.samples})"
    )


def _span(values: list[float], form: str = ".2g", unit: str = "") -> str:
    """The smallest and the largest, once where they print the same."""
    return " to ".join(dict.fromkeys(f"{end:{form}}{unit}" for end in (min(values), max(values))))


def _refused(control: AugmentationControl) -> str:
    redrawn = [entry for panel in control.panels for entry in panel.of("redrawn")]
    still = [entry for panel in control.panels for data in ("fixed", "frozen") for entry in panel.of(data)]
    stopped, wrongly = (sum(entry.refusal is not None for entry in entries) for entries in (redrawn, still))
    noise = [entry.noise for entry in redrawn]
    return (
        f"Two products of one vector differ by {_span(noise)} of their size where the data are redrawn, and by "
        f"{max(entry.noise for entry in still):.1g} at most where they stand still. `saddlescope analyze` takes that "
        f"difference before its first Lanczos step: it refuses {stopped} of the {len(redrawn)} redrawn operators and "
        f"{wrongly} of the {len(still)} fixed ones."
    )


def _subject(panel: ControlPanel) -> str:
    """Model and data, how it was trained, and what is drawn at random here."""
    trained = panel.provenance.training.get("augment")
    how = "" if trained is None else "trained on clean images; " if trained == "none" else f"trained with {trained}; "
    return f"For {panel_title(panel)} ({how}here: {panel.augmentation})"


def _table(panel: ControlPanel) -> str:
    rows = [
        "| class | images | data | λ_min | λ_max | \\|λ_min\\|/λ_max | vᵀHv, lowest Ritz vector | operator noise | guard |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entries in zip(*(panel.of(data) for data in NAMES), strict=True):
        for entry in entries:
            numbers = (entry.lambda_min, entry.lambda_max, entry.ratio, entry.rayleigh_min, entry.noise)
            answer = "refused" if entry.refusal else "let through"
            rows.append(
                f"| {entry.label} | {entry.samples} | {NAMES[entry.data]} | "
                f"{' | '.join(f'{number:.2e}' for number in numbers)} | {answer} |"
            )
    made = panel.provenance
    rows.append(
        f"\n{made.model} ({made.parameters:,} parameters), {made.loss}, {made.settings.get('steps')} Lanczos steps, seed "
        f"{made.seed}, {made.dtype}; checkpoint {made.checkpoint}, saddlescope {made.saddlescope}.\n"
    )
    return "\n".join(rows)


def save(record: Path, formats: tuple[str, ...]) -> list[Path]:
    """Writes the figure and the page beside the stored record; returns their paths."""
    control = load(AugmentationControl, record)
    with style():
        files = {record.with_suffix(f".{kind}"): data for kind, data in render(draw(control).figure, formats).items()}
    for path, data in files.items():
        write_bytes_atomically(path, data)
    text = record.with_suffix(".md")
    write_text_atomically(text, page(control))
    return [*files, text]
