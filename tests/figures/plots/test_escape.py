"""What leaving would gain: curves, lowest points and rates are the stored ones, downhill on the right."""

import numpy as np
import pytest
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.figures.drawing.canvas import style
from saddlescope.figures.drawing.study_data import NothingToDraw, finals
from saddlescope.figures.plots import escape
from saddlescope.figures.plots import escape_rates as rates


def artists(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


@pytest.fixture(autouse=True)
def our_style():
    with style():
        yield


@pytest.fixture
def found(whole_study):
    return finals(load_study(whole_study))


def tail(study, optimizer, seed=0):
    return load(CurvatureResult, study / f"{optimizer}-seed{seed}" / "curvature" / "checkpoint.head-tail.json").groups["tail"]


def test_the_stored_losses_are_drawn_in_percent_of_the_weights_against_the_checkpoint(found, whole_study):
    drawing = escape.draw(found)
    panels = np.array(drawing.figure.axes).reshape(3, 4)
    test = tail(whole_study, "sam").escape.test
    for seed in (0, 1, 2):
        (loss,), (model,) = (artists(panels[2, 1], f"{kind}-seed-{seed}") for kind in ("loss", "quadratic"))
        np.testing.assert_allclose(loss.get_xdata(), np.array(test.steps) / 20 * 100)  # ||w|| = 20
        np.testing.assert_allclose(loss.get_ydata(), [2.5, 1.1, 0.98, 1.0, 0.95, 0.9, 2.1])
        drawn = np.array(test.quadratic) / 0.05
        np.testing.assert_allclose(model.get_ydata(), np.where(drawn > 0, drawn, np.nan))
        (lowest,) = artists(panels[2, 1], f"lowest-seed-{seed}")
        assert (lowest.get_xdata()[0], lowest.get_ydata()[0]) == pytest.approx((10.0, 0.9))
    assert "falls by 10 %" in [text.get_text() for text in panels[2, 1].texts]
    assert "rise above 2 times" in drawing.caption
    assert panels[2, 1].get_ylim()[1] < 2.5


def test_downhill_is_on_the_right_whatever_the_sign_of_v(whole_study):
    entry = tail(whole_study, "sgd")
    turned = entry.model_copy(update={"escape": entry.escape.model_copy(update={"gradient_along_v": 0.001})})
    straight, mirrored = escape.walk(entry), escape.walk(turned)
    np.testing.assert_allclose(mirrored.at, -straight.at[::-1])
    np.testing.assert_allclose(mirrored.loss, straight.loss[::-1])
    assert straight.lowest == pytest.approx((10.0, 0.9))
    assert mirrored.lowest == pytest.approx((-10.0, 0.9))


def test_a_loss_that_only_rises_has_its_lowest_point_at_the_checkpoint(build_study, edit):
    folder = build_study(optimizers=("sgd",), seeds=(0,))

    def rise(raw):
        raw["groups"]["tail"]["escape"]["test"]["loss"] = [0.08, 0.06, 0.051, 0.05, 0.052, 0.06, 0.09]

    edit(folder / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json", rise)
    figure = escape.draw(finals(load_study(folder))).figure
    (lowest,) = artists(figure.axes[2], "lowest-seed-0")
    assert (lowest.get_xdata()[0], lowest.get_ydata()[0]) == (0.0, 1.0)
    assert [text.get_text() for text in figure.axes[2].texts] == ["falls by 0 %"]


def test_a_group_without_a_test_is_an_empty_panel(build_study, edit):
    folder = build_study(optimizers=("sgd", "sam"), seeds=(0,))
    edit(
        folder / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json",
        lambda raw: raw["groups"]["head"].update(escape=None),
    )
    found = finals(load_study(folder))
    panels = np.array(escape.draw(found).figure.axes).reshape(3, 2)
    assert [text.get_text() for text in panels[1, 0].texts] == ["not tested"]
    assert len(artists(panels[1, 1], "loss-seed-0")) == 1
    rates.draw(found)


def test_rates_are_drawn_as_stored_and_never_averaged(found, whole_study):
    drawing = rates.draw(found)
    panels = np.array(drawing.figure.axes).reshape(4, 3)
    for seed in (0, 1, 2):
        # SGD, SAM and SSE-SAM's second stage at the checkpoint of each optimizer
        assert [line.get_ydata()[0] for line in artists(panels[2, 2], f"seed-{seed}")] == [-0.5, 0.25, 2.0] * 4
        assert [line.get_ydata()[0] for line in artists(panels[3, 2], f"seed-{seed}")] == [-0.25, 0.125, 1.0] * 4
        low = [tail(whole_study, optimizer, seed).lambda_min.value for optimizer in found.optimizers]
        both = [line.get_ydata()[0] for line in artists(panels[1, 2], f"seed-{seed}")]
        assert both == [value for own in low for value in (own, 0.5)]
    stored = [tail(whole_study, optimizer).escape.correlated_negative_curvature for optimizer in found.optimizers]
    assert [line.get_ydata()[0] for line in artists(panels[0, 2], "seed-0")] == stored
    assert not any(c.get_gid() == "mean" for axes in panels.flat for c in axes.collections)
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert sorted(legend) == [
        "curvature of the group's loss",
        "field of SAM (ρ = 0.05)",
        "field of SGD",
        "field of SSE-SAM, stage 2 (ρ = 0.1)",
        "of the training objective",
    ]
    assert "2.0e-07 (at the checkpoint) and over 0.02" in drawing.caption


def test_net_rates_are_drawn_and_what_has_not_converged_is_hollow(found):
    (axes,) = rates.draw_net(found).figure.axes
    points = artists(axes, "seed-1")
    assert [line.get_ydata()[0] for line in points] == [0.5, -0.2] * 4
    assert [line.get_markerfacecolor() for line in points[:2]] == [points[0].get_color(), "white"]
    ends = [path.vertices[:, 1].tolist() for bars in axes.collections for path in bars.get_paths() if len(path.vertices) == 2]
    assert [0.5, 0.9] in ends  # the interval that is stored
    assert [text for text in axes.texts if text.get_gid() == "open-end"]  # SAM's has no ends


def test_results_without_escape_records_are_not_drawn(build_study):
    found = finals(load_study(build_study(bare=True, optimizers=("sgd",), seeds=(0,))))
    for family in (escape, rates):
        with pytest.raises(NothingToDraw, match="escape = true"):
            family.draw(found)
