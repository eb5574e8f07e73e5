"""Every figure as a reader gets it: no text cut, over another or over a curve, and a scale on every axis."""

from pathlib import Path

import pytest
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.figures.draw import planned
from saddlescope.figures.drawing.appearance import handle, optimizer_looks
from saddlescope.figures.drawing.canvas import legend_below, new_figure, style
from saddlescope.figures.drawing.scales import colour_bar, log_axis, signed_axis
from saddlescope.figures.drawing.study_data import NothingToDraw
from saddlescope.figures.plots import saddle_demo
from saddlescope.figures.plots.spectrum_anatomy import anatomy

#: measured, not made up: seeds that differ, intervals open at an end, losses that rise steeply
STORED = Path(__file__).parents[2] / "reports" / "studies" / "cifar10-lt-small"


def all_complaints(layout, folder):
    found = {}
    with style():
        for plan in planned(load_study(folder)):
            try:
                drawing = plan.make()
            except NothingToDraw:
                continue
            found[plan.name] = layout.complaints(drawing.figure)
    assert len(found) > 10
    return {name: said for name, said in found.items() if said}


def test_figures_of_a_measured_study_are_legible(layout):
    assert all_complaints(layout, STORED) == {}


def test_figures_of_two_schemes_are_legible(layout, whole_study):
    assert all_complaints(layout, whole_study) == {}


def test_figures_of_named_variants_are_legible(layout, build_variants):
    assert all_complaints(layout, build_variants()) == {}


def test_the_demo_and_the_anatomy_are_legible(layout):
    with style():
        assert layout.complaints(saddle_demo.draw().figure) == []
        for path in sorted(STORED.glob("*-seed0-*/curvature/checkpoint.head-tail.json")):
            result = load(CurvatureResult, path)
            for group in result.groups:
                assert layout.complaints(anatomy(result, group)) == [], (path, group)


@pytest.mark.parametrize(("low", "high", "tau"), [(-0.25, 13, 0.0022), (-14, 230, 0.1), (-0.004, 0.9, 0.002), (-3, 0.0, 0.01)])
def test_ticks_of_both_signs_keep_apart_in_a_narrow_panel(layout, low, high, tau):
    with style():
        figure = new_figure(9.4, 2.5)
        panels = figure.subplots(1, 4, sharex=True, sharey=True)
        signed_axis(panels[0], "x", [low, high], tau, ticks=3)
        assert layout.complaints(figure) == []
        places = [label.get_text() for label in layout.tick_labels(panels[0].xaxis)]
    assert "0" in places
    assert len(places) >= 2


@pytest.mark.parametrize("span", [1.02, 1.3, 3, 9, 40, 700, 1e5])
@pytest.mark.parametrize("low", [0.3, 0.97, 1.1, 7.0, 4e-5])
def test_a_logarithmic_scale_of_any_length_has_two_labels(layout, span, low):
    with style():
        figure = new_figure(5, 4)
        axes = figure.subplots()
        log_axis(axes, "y", [low, low * span])
        image = axes.pcolormesh([[low, low * span]], norm="log")
        colour_bar(figure, image, [axes], low, low * span, "loss (log)", aspect=30)
        assert layout.complaints(figure) == []
        assert len(layout.tick_labels(axes.yaxis)) >= 2


def test_a_long_legend_takes_more_rows_and_stays_inside(layout):
    with style():
        figure = new_figure(5.6, 3)
        figure.subplots()
        looks = optimizer_looks(["sgd", "sam", "imbsam", "ssesam", "ccsam", "focalsam", "an_optimizer_of_ones_own"])
        legend_below(figure, [handle(look) for look in looks.values()])
        assert layout.complaints(figure) == []


def test_what_is_wrong_is_seen(layout):
    """The check itself: each fault alone, in words."""
    with style():
        figure = new_figure(4, 3)
        axes = figure.subplots()
        axes.plot([0, 1, 2], [0, 1, 0], gid="roof")
        axes.set_xticks([0, 1, 2])
        axes.set_yticks([0, 0.5, 1])
        assert layout.complaints(figure) == []
        axes.text(1, 0.9, "over the roof", ha="center")
        assert layout.complaints(figure) == ["'over the roof' lies over the curve roof"]
        axes.text(1.1, 0.88, "twice", ha="center")
        assert "'over the roof' and 'twice' overlap" in layout.complaints(figure)
        axes.texts[1].remove()
        axes.texts[0].remove()
        axes.set_yticks([0.5])
        assert layout.complaints(figure) == ["y axis of '' '' has 1 labelled tick"]
        axes.set_yticks([0, 1])
        outside = figure.text(0.97, 0.5, "far right")
        outside.set_in_layout(False)
        assert layout.complaints(figure) == ["'far right' is cut by the canvas"]


def test_a_group_measured_at_few_epochs_is_named():
    words = {plan.name: plan for plan in planned(load_study(STORED), ["along_training"])}["along_training"].make().caption
    assert "Measured at epoch 60 only: all, head." in words


def test_a_share_of_all_eigenvalues_has_a_tick_above_the_highest_point(layout, whole_study):
    (plan,) = planned(load_study(whole_study), ["negative_mass"])
    figure = plan.make().figure
    figure.draw_without_rendering()
    assert layout.tick_labels(figure.axes[0].yaxis)[-1].get_text() == "1"
