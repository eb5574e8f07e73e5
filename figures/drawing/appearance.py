"""How optimizers and verdicts look: the same in every figure, distinguishable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D

from ...analysis.records.study import Study, Variant


@dataclass(frozen=True)
class Look:
    """Name, colour, and the marker and line style that tell it apart in grey."""

    name: str
    colour: str
    marker: str
    line: Any = "-"

    @property
    def short(self) -> str:
        """The name for a narrow panel: what tells variants apart on lines of its own, a long name on two, cut in its middle."""
        if " (" in self.name:
            return self.name.replace(" (", "\n(", 1).replace(", ", ",\n")
        if len(self.name) <= _LINE:
            return self.name
        if len(self.name) > 2 * _LINE:
            return f"{self.name[: _LINE - 1]}…\n{self.name[-_LINE:]}"  # names often differ at their ends only
        fits = range(len(self.name) - _LINE, _LINE + 1)
        at = max((at for at in fits if self.name[at - 1] in "-_ ."), default=_LINE)
        return f"{self.name[:at]}\n{self.name[at:]}"

    @property
    def ink(self) -> str:
        """A darker shade for text, legible on white."""
        share = 0.72
        while _luminance(ink := _shade(self.colour, share - 1)) > _LEGIBLE:
            share -= 0.04
        return ink


#: characters of a bold title in the narrowest column
_LINE = 14
#: relative luminance of text, black 0 and white 1: a contrast with white of 4 to 1
_LEGIBLE = 0.21


def _channels(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def _luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _shade(colour: str, towards: float) -> str:
    """The hue darker (below 0, -1 is black) or lighter."""
    return "#" + "".join(f"{round(c + towards * ((255 - c) if towards > 0 else c)):02X}" for c in _channels(colour))


#: Okabe and Ito's colours (safe for colour-blind readers), chosen to differ in lightness too
OPTIMIZERS = {
    "sgd": Look("SGD", "#2B2B2B", "o"),
    "sam": Look("SAM", "#0072B2", "s"),
    "imbsam": Look("ImbSAM", "#E69F00", "^"),
    "ssesam": Look("SSE-SAM", "#D55E00", "D"),
    "ccsam": Look("CC-SAM", "#009E73", "v"),
    "focalsam": Look("Focal-SAM", "#CC79A7", "P"),
}
#: further rules of the suite (Paul Tol's colours): rarely beside each other, so variants may take the markers that are left
FURTHER = {
    "imbsam-late": Look("ImbSAM, late", "#B08A3C", "<"),
    "bsam": Look("BSAM", "#56B4E9", ">"),
    "lesam": Look("LE-SAM", "#882255", "h"),
    "gsa": Look("GSA", "#999933", "p"),
    "pgd": Look("PGD", "#44AA99", "*"),
    "lpfsgd": Look("LPF-SGD", "#AA4499", "d"),
    "eigensam": Look("Eigen-SAM", "#6F4E37", "8"),
}
#: for optimizers of a user's own, in alphabetical order of their keys
_OTHERS = ("#56B4E9", "#882255", "#999933", "#44AA99", "#AA4499", "#6F4E37")
#: for these and for named variants of the known ones, each marker once as long as they last
_MARKERS = ("X", "<", ">", "h", "p", "*", "d", "8")
#: of the variants of one rule, after the rule's own solid line and colour: line style, and how far towards black (-) or white
_SHADES = (((0, (5, 1.6)), -0.45), ((0, (1.4, 1.1)), 0.45), ((0, (6, 1.5, 1.4, 1.5)), -0.7), ((0, (2.5, 3)), 0.7))

#: verdict label -> (colour, hatch, wording); hatches carry the meaning in grey
VERDICTS = {
    "saddle": ("#B2455A", "", "saddle: negative curvature, stationary"),
    "negative curvature, not stationary": ("#DDBFD9", "////", "negative curvature, not stationary"),
    "no negative curvature above tau": ("#8CC5C9", "", "no negative curvature above τ"),
    "undetermined": ("#D9D9D9", "....", "undetermined"),
    "gap": ("#FFFFFF", "xx", "not measured"),
}


def optimizer_looks(keys: Sequence[str], variants: Mapping[str, Variant] | None = None) -> dict[str, Look]:
    """The look of each optimizer key; known ones have theirs whatever else a study holds.

    Args:
        keys: in the order wanted.
        variants: what the study records of them. A named variant has its rule's hue at another lightness, a marker and a line
            style of its own, and a name that says what tells it apart.
    """
    of = {key: (variants or {}).get(key) or Variant(key, key, {}) for key in keys}
    rules = {entry.rule for entry in of.values()}
    strangers = sorted(rules - OPTIMIZERS.keys() - FURTHER.keys())
    further = {rule: look for rule, look in FURTHER.items() if rule in rules}
    others, markers = ([one for one in every if one not in {getattr(look, name) for look in further.values()}] or list(every)
                       for every, name in ((_OTHERS, "colour"), (_MARKERS, "marker")))  # fmt: skip
    known = (
        OPTIMIZERS
        | further
        | {rule: Look(rule, others[index % len(others)], markers[index % len(markers)]) for index, rule in enumerate(strangers)}
    )
    named = sorted(key for key, entry in of.items() if entry.order)
    marker = {key: markers[index % len(markers)] for index, key in enumerate(named, start=len(strangers))}
    found = {}
    for key, entry in of.items():
        plain = known[entry.rule]
        line, towards = _SHADES[(entry.order - 1) % len(_SHADES)] if entry.order else ("-", 0.0)
        if towards < 0 and max(_channels(plain.colour)) < 96:
            towards *= -0.6  # too dark to go darker
        found[key] = Look(entry.named(plain.name), _shade(plain.colour, towards), marker.get(key, plain.marker), line)
    return found


def looks_of(study: Study) -> dict[str, Look]:
    """The look of each optimizer of a study, in its order."""
    return optimizer_looks(study.optimizers, study.variants)


def handle(look: Look, *, line: bool = False) -> Line2D:
    """The legend entry of an optimizer."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line if line else "none", label=look.name)
