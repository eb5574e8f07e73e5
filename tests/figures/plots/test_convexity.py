"""Convexity maps: every cell is the stored ratio in its place, gaps are no numbers, and nothing is drawn without data."""

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from saddlescope.analysis.records.load_study import load_study
from saddlescope.figures.draw import draw_slice, draw_study
from saddlescope.figures.drawing.canvas import style
from saddlescope.figures.plots import convexity

X, Y = [-1.0, -0.5, 0.0, 0.5, 1.0], [-1.0, -0.5, 0.0, 0.5, 1.0]


@pytest.fixture(autouse=True)
def our_style():
    with style():
        yield


def add_map(low, high):
    """``low(a, b)`` and ``high(a, b)`` of the tail; the head is convex with a λ_max of 2 everywhere."""

    def edit(raw):
        raw["lambda_min"] = {"head": [[0.25 for _ in Y] for _ in X], "tail": [[low(a, b) for b in Y] for a in X]}
        raw["lambda_max"] = {"head": [[2.0 for _ in Y] for _ in X], "tail": [[high(a, b) for b in Y] for a in X]}

    return edit


@pytest.fixture
def mapped(build_study, edit):
    """Two optimizers, two seeds; SGD has maps on both planes, SAM on the tail's only."""
    folder = build_study(optimizers=("sgd", "sam"), seeds=(0, 1))
    sgd = add_map(lambda a, b: -(1 + a) - 0.1 * b, lambda a, b: 20.0 + 2 * b)
    edit(folder / "sgd-seed0" / "slices" / "tail-plane.json", sgd)
    edit(folder / "sgd-seed0" / "slices" / "path-plane.json", sgd)
    edit(folder / "sam-seed0" / "slices" / "tail-plane.json", add_map(lambda a, b: -0.5, lambda a, b: None if a > 0 else 10.0))
    return folder


def panels(drawing, columns):
    axes = [axes for axes in drawing.figure.axes if any(line.get_gid() == "centre" for line in axes.get_lines())]
    return np.array(axes).reshape(-1, columns)


def mesh(axes):
    (found,) = [found for found in axes.collections if isinstance(found, QuadMesh)]
    return found


def plans(folder):
    return {plan.name: plan for plan in convexity.figures(load_study(folder))}


def test_every_cell_is_the_stored_ratio_in_its_place(mapped):
    drawing = plans(mapped)["convexity-tail-plane"].make()
    grid = panels(drawing, 2)
    assert grid.shape == (2, 2)  # head and tail, SGD and SAM
    cells = mesh(grid[1, 0])
    wanted = [[max(1 + a + 0.1 * b, 0) / (20 + 2 * b) for a in X] for b in Y]  # axis 0 runs to the right
    np.testing.assert_allclose(cells.get_array(), wanted)
    corners = cells.get_coordinates()
    assert (corners[0, 0].tolist(), corners[-1, -1].tolist()) == ([-1.25, -1.25], [1.25, 1.25])
    np.testing.assert_allclose(mesh(grid[0, 0]).get_array(), 0)  # convex
    assert [mesh(axes).norm.vmax for axes in grid.flat] == pytest.approx([0.15] * 4)
    assert mesh(grid[0, 0]).norm.vmin == 0
    assert "0 to 0.15 (Li et al. show 0 to 0.5)" in drawing.caption
    assert "SGD tail −1 and 20" in drawing.caption


def test_maps_are_legible(mapped, layout):
    drawn = plans(mapped)
    assert len(drawn) == 4
    assert [layout.complaints(plan.make().figure) for plan in drawn.values()] == [[]] * 4


def test_what_is_not_known_is_a_gap(mapped):
    drawing = plans(mapped)["convexity-tail-plane"].make()
    cells = mesh(panels(drawing, 2)[1, 1]).get_array()
    assert cells.mask.tolist() == [[False, False, False, True, True]] * 5
    assert "Hatched: not known (10 cells)" in drawing.caption


def test_cells_above_the_scale_are_counted(build_study, edit):
    folder = build_study(optimizers=("sgd",), seeds=(0,))
    far = add_map(lambda a, b: -9.0 if (a, b) == (1, 1) else -0.1, lambda a, b: 1.0)
    edit(folder / "sgd-seed0" / "slices" / "tail-plane.json", far)
    edit(folder / "sgd-seed0" / "slices" / "tail-plane.json", lambda raw: raw["lambda_min"].pop("head"))
    # 1 of 25 is more than 2 %: the scale would hold it; beside the head's 25 cells it is not
    assert "above it" not in plans(folder)["convexity-tail-plane"].make().caption
    edit(folder / "sgd-seed0" / "slices" / "tail-plane.json", far)
    drawing = plans(folder)["convexity-tail-plane"].make()
    assert "1 cell of 50 lies above it, up to 9," in drawing.caption


def test_the_ends_have_scales_of_their_own_and_what_is_not_negative_is_white(mapped):
    drawing = plans(mapped)["convexity_ends-tail-plane"].make()
    grid = panels(drawing, 2)
    assert grid.shape == (4, 2)
    low, high = mesh(grid[1, 0]), mesh(grid[3, 0])
    np.testing.assert_allclose(high.get_array(), [[20 + 2 * b for a in X] for b in Y])
    np.testing.assert_allclose(low.get_array()[:, 2:], [[1 + a + 0.1 * b for a in X[2:]] for b in Y])
    convex = mesh(grid[0, 0])
    assert convex.to_rgba(convex.get_array()[0, 0]) == (1, 1, 1, 1)
    assert (high.norm.vmin, high.norm.vmax) == (2, 22)


def test_the_training_path_and_the_checkpoint_are_marked(mapped):
    drawing = plans(mapped)["convexity-path-plane"].make()
    axes = panels(drawing, 1)[0, 0]
    (path,) = [line for line in axes.get_lines() if line.get_gid() == "path"]
    assert path.get_xydata().tolist() == [[-0.8, 0.5], [-0.2, 0.1], [0.0, 0.0]]
    assert "Missing: SAM." in drawing.caption
    assert "Line: the stored checkpoints" in drawing.caption


def test_without_maps_there_is_no_figure_and_no_gap(build_study):
    assert plans(build_study(optimizers=("sgd",), seeds=(0,))) == {}


def test_maps_without_a_known_cell_are_skipped_with_the_reason(build_study, edit):
    folder = build_study(optimizers=("sgd",), seeds=(0,))
    nothing = add_map(lambda a, b: None, lambda a, b: 1.0)
    edit(folder / "sgd-seed0" / "slices" / "tail-plane.json", nothing)
    edit(folder / "sgd-seed0" / "slices" / "tail-plane.json", lambda raw: raw["lambda_min"].pop("head"))
    written = {figure.name: figure for figure in draw_study(folder, formats=["png"])}
    assert "known anywhere" in written["convexity-tail-plane"].skipped


def test_one_slice_is_drawn_without_its_study(mapped, tmp_path, edit):
    path = mapped / "sgd-seed0" / "slices" / "tail-plane.json"
    written = draw_slice(path, tmp_path / "out", formats=["png"])
    names = ["convexity-tail-plane.png", "convexity_ends-tail-plane.png", "surface-tail-plane.png"]
    assert sorted(file.name for file in written) == names
    assert "seed 0" in (tmp_path / "out" / "captions.md").read_text(encoding="utf-8")
    edit(path, lambda raw: raw["provenance"].update(training={}, checkpoint="walk/model_best.pth.tar"))
    draw_slice(path, tmp_path / "out", formats=["png"])
    words = (tmp_path / "out" / "captions.md").read_text(encoding="utf-8")
    assert "(cross) of model_best.pth.tar" in words
    assert "seed 0" not in words
    lines = draw_slice(mapped / "sgd-seed0" / "slices" / "tail-min.json", tmp_path / "lines", formats=["png"])
    assert [file.name for file in lines] == ["slice-tail-min.png", "shared_eigenvectors.png"]


def test_maps_are_drawn_without_torch(mapped):
    code = (
        "import sys, saddlescope\n"
        f"sys.argv = ['saddlescope', 'figures', {str(mapped)!r}, '--only', 'convexity*']\n"
        "try:\n    saddlescope.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'matplotlib.pyplot', 'pandas'} & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    first = {path.name: path.read_bytes() for path in (mapped / "figures").glob("convexity*")}
    assert len(first) == 8
    draw_study(mapped, only=["convexity*"])
    assert {name: (mapped / "figures" / name).read_bytes() for name in first} == first
