"""How optimizers and verdicts look: the same in every figure, distinguishable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.lines import Line2D


@dataclass(frozen=True)
class Look:
    """Name, colour, and the marker that tells it apart in grey."""

    name: str
    colour: str
    marker: str

    @property
    def short(self) -> str:
        """The name, cut where it would not fit over a narrow panel."""
        return self.name if len(self.name) <= 14 else f"{self.name[:13]}…"

    @property
    def ink(self) -> str:
        """A darker shade for text, legible on white."""
        channels = (int(self.colour[at : at + 2], 16) for at in (1, 3, 5))
        return "#" + "".join(f"{round(0.72 * channel):02X}" for channel in channels)


#: Okabe and Ito's colours (safe for colour-blind readers), chosen to differ in lightness too
OPTIMIZERS = {
    "sgd": Look("SGD", "#2B2B2B", "o"),
    "sam": Look("SAM", "#0072B2", "s"),
    "imbsam": Look("ImbSAM", "#E69F00", "^"),
    "ssesam": Look("SSE-SAM", "#D55E00", "D"),
    "ccsam": Look("CC-SAM", "#009E73", "v"),
    "focalsam": Look("Focal-SAM", "#CC79A7", "P"),
}
#: for optimizers of a user's own, in alphabetical order of their keys
_OTHERS = (("#56B4E9", "X"), ("#882255", "<"), ("#999933", ">"), ("#44AA99", "h"), ("#AA4499", "p"), ("#6F4E37", "*"))

#: verdict label -> (colour, hatch, wording); hatches carry the meaning in grey
VERDICTS = {
    "saddle": ("#B2455A", "", "saddle: negative curvature, stationary"),
    "negative curvature, not stationary": ("#DDBFD9", "////", "negative curvature, not stationary"),
    "no negative curvature above tau": ("#8CC5C9", "", "no negative curvature above τ"),
    "undetermined": ("#D9D9D9", "....", "undetermined"),
    "gap": ("#FFFFFF", "xx", "not measured"),
}


def optimizer_looks(keys: Sequence[str]) -> dict[str, Look]:
    """The look of each optimizer key; known ones have theirs whatever else a study holds."""
    strangers = sorted(set(keys) - set(OPTIMIZERS))
    found = {key: Look(key, *_OTHERS[index % len(_OTHERS)]) for index, key in enumerate(strangers)}
    return {key: OPTIMIZERS.get(key) or found[key] for key in keys}


def handle(look: Look, *, line: bool = False) -> Line2D:
    """The legend entry of an optimizer."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle="-" if line else "none", label=look.name)
