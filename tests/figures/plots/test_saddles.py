"""The saddle demonstration against update rules written out, and eigenvectors shared by groups against the stored slices."""

import json

import numpy as np
import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.figures.draw import planned
from saddlescope.figures.drawing.canvas import style
from saddlescope.figures.drawing.study_data import NothingToDraw
from saddlescope.figures.plots import saddle_demo
from saddlescope.figures.plots import shared_directions as shared
from typer.testing import CliRunner

from saddlescope import application


def artists(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


def test_gradient_descent_on_a_quadratic_has_a_closed_form():
    path = saddle_demo.walk((2.0, -1.5), (0.3, 0.01), 0.0, steps=50, rate=0.02)
    k = np.arange(51)[:, None]
    np.testing.assert_allclose(path, np.array([0.3, 0.01]) * (1 - 0.02 * np.array([2.0, -1.5])) ** k, rtol=1e-12)


def test_a_step_of_sam_is_the_gradient_at_the_worst_nearby_point():
    x, y, rho = 0.3, 0.1, 0.05
    path = saddle_demo.walk((2.0, -2.0), (x, y), rho, steps=1, rate=0.1)
    norm = np.hypot(2 * x, -2 * y)
    there = (x + rho * 2 * x / norm, y - rho * 2 * y / norm)
    np.testing.assert_allclose(path[1], (x - 0.1 * 2 * there[0], y + 0.1 * 2 * there[1]), rtol=1e-14)
    np.testing.assert_array_equal(saddle_demo.walk((2.0, -2.0), (0.0, 0.0), rho, steps=3), np.zeros((4, 2)))


@pytest.mark.parametrize(("distance", "side"), [(0.99, -1), (1.01, 1)])
def test_the_shaded_circle_is_where_the_step_turns_back(distance, side):
    rho = 0.5
    start = np.array([0.6, 0.8]) * distance * rho  # the circle of radius rho is where ||grad|| = rho |lambda|
    path = saddle_demo.walk((2.0, -2.0), tuple(start), rho, steps=1)
    assert np.sign(path[1, 1] - path[0, 1]) == side


def test_the_demonstration_shows_one_that_leaves_one_that_is_slower_and_one_that_is_caught():
    with style():
        drawing = saddle_demo.draw()
    ends = [float(artists(drawing.figure.axes[1], f"rho-{rho:g}")[0].get_ydata()[-1]) for rho in (0, 0.05, 0.5)]
    assert ends == pytest.approx([0.01 * 1.015**600, 9.7, 0.0], rel=0.01)
    for words in ("|w₋| = 76", "more slowly (9.7)", "it is caught (0)"):
        assert words in drawing.caption


def test_the_command_needs_no_study(tmp_path):
    ran = CliRunner().invoke(application(), ["saddle-demo", str(tmp_path), "--format", "png"])
    assert ran.exit_code == 0, ran.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saddle_demo.md", "saddle_demo.png"]


def test_every_group_is_shown_along_the_eigenvectors_that_lines_follow(whole_study):
    with style():
        drawing = shared.draw(load_study(whole_study))
    curvature, slope = drawing.figure.axes
    points = artists(curvature, "seed-1")
    assert [round(line.get_xdata()[0]) for line in points] == [0] * 4 + [1] * 4 + [2] * 4
    assert [line.get_ydata()[0] for line in points] == [-1.0] * 4 + [2.0] * 4 + [-4.0] * 4
    # the tail's own slope is 0.3: its eigenvector is turned to point downhill, and the others' slopes with it
    assert [line.get_ydata()[0] for line in artists(slope, "seed-1")] == [-0.1] * 4 + [0.2] * 4 + [-0.3] * 4
    assert curvature.get_title() == "most negative eigenvector\nof tail"
    assert "Missing" not in drawing.caption
    assert not [text for axes in (curvature, slope) for text in axes.texts if text.get_gid() == "open-end"]  # these are exact


def test_a_run_without_the_line_is_named(build_study):
    folder = build_study(optimizers=("sgd", "sam"), seeds=(0, 1))
    (folder / "sam-seed1" / "slices" / "tail-min.json").unlink()
    with style():
        drawing = shared.draw(load_study(folder))
    assert "Missing: SAM seed 1 (most negative eigenvector of tail)." in drawing.caption
    for path in folder.glob("*/slices/tail-min.json"):
        path.unlink()
    study = load_study(folder)
    assert shared.NAME not in [plan.name for plan in planned(study)]
    with pytest.raises(NothingToDraw, match="tail-min"):
        shared.draw(study)


def test_lines_of_another_checkpoint_are_left_out(build_study):
    folder = build_study(optimizers=("sgd",), seeds=(0,))
    side_car = folder / "sgd-seed0" / "checkpoint.json"
    side_car.write_text(json.dumps(json.loads(side_car.read_text()) | {"sha256": "0" * 64}), encoding="utf-8")
    assert shared.directions(load_study(folder)) == {}
