"""What a finished figure must not do: texts over each other, over curves or cut by the canvas; axes that tell no scale."""

import re
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox

#: pixels at 100 dpi by which boxes may touch: a text's box is as high as its tallest letters and lowest tails
SLACK = 1.0
_NUMBER = re.compile(r"^[−$]?\d")


def complaints(figure: Figure) -> list[str]:
    """Everything wrong with the layout, in words; an empty list where nothing is."""
    figure.draw_without_rendering()
    boxes = [(_words(text), box(text)) for text in texts(figure)]
    found = []
    for index, (words, path) in enumerate(boxes):
        area = path.get_extents()
        if not _within(area, figure.bbox):
            found.append(f"{words!r} is cut by the canvas")
        found += [
            f"{words!r} and {other!r} overlap"
            for other, place in boxes[index + 1 :]
            if path.intersects_path(place, filled=True)
        ]
    for axes in figure.axes:
        found += _over_curves(axes)
        found += [
            f"{which} axis of {axes.get_ylabel()!r} {axes.get_title()!r} has {number} labelled tick"
            for which, number in _scarce(axes)
        ]
    return found


def texts(figure: Figure) -> Iterator[Text]:
    """Every text that is drawn."""
    ticks: dict[Text, bool] = {}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown = set(map(id, tick_labels(axis)))
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                ticks |= {label: id(label) in shown for label in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and ticks.get(text, True):
            yield text


def tick_labels(axis: Axis) -> list[Text]:
    """The labels of an axis that are drawn."""
    if not (axis.axes.get_visible() and axis.axes.axison and axis.get_visible()):
        return []
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    return [
        label
        for tick in axis.get_major_ticks()
        if low - room <= tick.get_loc() <= high + room
        for label in (tick.label1, tick.label2)
        if label.get_visible() and label.get_text().strip()
    ]


def box(text: Text) -> Path:
    """The outline of a text, turned as it is, less the slack; blank lines at its end hold no ink."""
    turn = text.get_rotation() if text.get_rotation_mode() == "anchor" else 0.0
    if turn:
        text.set_rotation(0)
    area = Text.get_window_extent(text)  # of an annotation: without its arrow
    if turn:
        text.set_rotation(turn)
    lines = text.get_text().split("\n")
    blank = len(lines) - len(text.get_text().rstrip().split("\n"))
    low = area.y0 + area.height * blank / len(lines) + SLACK
    path = Path(Bbox([[area.x0 + SLACK, low], [area.x1 - SLACK, area.y1 - SLACK]]).corners()[[0, 1, 3, 2, 0]], closed=True)
    if not turn:
        return path
    return path.transformed(Affine2D().rotate_deg_around(*text.get_transform().transform(text.get_position()), turn))


def _within(area: Bbox, canvas: Bbox) -> bool:
    return area.x0 >= canvas.x0 and area.y0 >= canvas.y0 and area.x1 <= canvas.x1 and area.y1 <= canvas.y1


def _over_curves(axes: Axes) -> list[str]:
    """Words written on top of a curve; lines of two points (rules, bars of intervals) do not count."""
    found = []
    for line in axes.get_lines():
        if line.get_linestyle() == "None" or len(line.get_xdata()) < 3 or not line.get_visible():
            continue
        points = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
        whole = points[np.isfinite(points).all(axis=1)]
        if len(whole) < 2:
            continue
        course = Path(whole).clip_to_bbox(axes.bbox)
        if not len(course.vertices):
            continue
        found += [
            f"{_words(text)!r} lies over the curve {line.get_gid()}"
            for text in axes.texts
            if text.get_visible() and text.get_text().strip() and _near(course, box(text).get_extents())
        ]
    return found


def _near(course: Path, area: Bbox) -> bool:
    """Whether any part of the curve passes through the box."""
    return bool(course.intersects_bbox(area, filled=False))


def _scarce(axes: Axes) -> Iterator[tuple[str, int]]:
    """Axes with a number at a tick, but not the two that a scale takes; a colour bar has them always."""
    bar = axes.get_label() == "<colorbar>"
    for which, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        numbers = [label for label in tick_labels(axis) if _NUMBER.search(label.get_text())]
        if len(numbers) == 1 or (bar and which == "y" and not numbers):
            yield which, len(numbers)


def _words(text: Text) -> str:
    return text.get_text().strip().replace("\n", " / ")
