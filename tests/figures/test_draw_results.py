"""Figures of stored results without a study: one, a series, and what cannot share a figure."""

import shutil

import pytest
from saddlescope.analysis.records.base import ResultError, load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.figures import draw_results as stored
from saddlescope.figures.draw import draw_results
from saddlescope.figures.drawing.appearance import OPTIMIZERS
from saddlescope.figures.drawing.canvas import FigureError, style
from saddlescope.figures.plots import density, extremes


@pytest.fixture
def results(whole_study, tmp_path):
    """``results("sgd", ...)``: copies of final results that the test may change, of one run each."""

    def copy(*optimizers, stem="checkpoint.head-tail"):
        paths = []
        for optimizer in optimizers:
            path = tmp_path / f"{optimizer}-run" / "curvature" / f"{stem}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(whole_study / f"{optimizer}-seed0" / "curvature" / path.name, path)
            paths.append(path)
        return paths

    return copy


def values(axes):
    return [float(line.get_ydata()[0]) for line in axes.get_lines() if line.get_gid() == "seed-0"]


def test_one_result_shows_its_groups_side_by_side(results, tmp_path):
    (path,) = results("sgd")
    written = draw_results([path], tmp_path / "out")
    assert sorted(file.name for file in written) == [
        f"{name}.{kind}" for name in ("density", "escape", "extremes") for kind in ("png", "svg")
    ]
    groups = load(CurvatureResult, path).groups
    with style():
        figure = stored.draw_ends(stored.gather([path])).figure
    low, high, ratio = figure.axes
    assert values(low) == [groups[name].lambda_min.value for name in ("all", "head", "tail")]
    assert values(high) == [groups[name].lambda_max.value for name in ("all", "head", "tail")]
    assert values(ratio) == [groups[name].negative_ratio.value for name in ("all", "head", "tail")]
    assert [tick.get_text() for tick in low.get_xticklabels()] == ["all\nn = 343", "head\nn = 227", "tail\nn = 116"]
    words = (tmp_path / "out" / "captions.md").read_text(encoding="utf-8")
    assert "One checkpoint." in words
    assert "seed" not in words.replace("(not a spread over seeds)", "")


def test_several_results_stand_in_the_order_given_under_their_names(results):
    paths = results("sam", "sgd", "imbsam")
    found = stored.gather(paths)
    assert found.optimizers == ["sam-run", "sgd-run", "imbsam-run"]  # every file is called checkpoint: the folder tells
    assert [look.colour for look in found.looks.values()] == [OPTIMIZERS[name].colour for name in ("sam", "sgd", "imbsam")]
    with style():
        drawing = extremes.draw(found)
    axes = drawing.figure.axes
    assert values(axes[2]) == [load(CurvatureResult, path).groups["tail"].lambda_min.value for path in paths]
    assert [tick.get_text() for tick in axes[-1].get_xticklabels()] == found.optimizers
    assert not any(c.get_gid() == "mean" for panel in axes for c in panel.collections)
    assert drawing.title.endswith("per checkpoint and group")
    assert "3 checkpoints in the order given, no mean." in drawing.caption


def test_a_series_of_one_run_is_named_by_checkpoint(results, edit):
    paths = [results("sgd", stem=f"{stem}.head-tail")[0] for stem in ("epoch-004", "epoch-008", "checkpoint")]
    assert stored.gather(paths).optimizers == ["epoch-004", "epoch-008", "checkpoint"]
    edit(paths[0], lambda raw: raw["provenance"].update(checkpoint="model_best.pth.tar"))
    assert stored.gather(paths).optimizers[0] == "model_best"
    edit(paths[1], lambda raw: raw["provenance"].update(checkpoint="model_best.pth.tar"))
    assert stored.gather(paths).optimizers == ["sgd-run/epoch-004", "sgd-run/epoch-008", "checkpoint"]


def test_more_results_than_panels_are_named_in_the_caption(results, edit):
    paths = []
    for epoch in range(9):
        (path,) = results("sgd", stem="epoch-004.head-tail")
        moved = path.with_name(f"e{epoch}.head-tail.json")
        path.rename(moved)
        edit(moved, lambda raw, epoch=epoch: raw["provenance"].update(checkpoint=f"e{epoch}.pt"))
        paths.append(moved)
    with style():
        plans = {plan.name: plan.make() for plan in stored.figures(stored.gather(paths))}
    assert len(plans[density.NAME].figure.axes) == 3 * 6
    assert plans[density.NAME].caption.endswith("Not drawn for lack of room: e1, e4, e7.")
    assert len(values(plans[extremes.NAME].figure.axes[0])) == 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw["provenance"].update(data_sha256="0" * 64), "'data_sha256'"),
        (lambda raw: raw["provenance"].update(params_pattern="fc.*"), "'params_pattern'"),
        (lambda raw: raw["scheme"].update(name="custom"), "'scheme.name'"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(results, edit, tmp_path, change, words):
    paths = results("sgd", "sam")
    edit(paths[1], change)
    with pytest.raises(FigureError, match=f"{words} of sgd-run differs from sam-run"):
        draw_results(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_of_a_study_and_missing_files_are_refused(results, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FigureError, match="figures of a study"):
        draw_results(results("sgd"), tmp_path / "study")
    with pytest.raises(ResultError, match="no such file"):
        draw_results([tmp_path / "none.json"], tmp_path / "out")
    with pytest.raises(FigureError, match="at least one"):
        draw_results([], tmp_path / "out")


def test_groups_that_were_refused_or_not_asked_for_are_left_out_and_the_refused_named(results, edit):
    first, second = results("sgd", "sam")

    def without(group, why):
        def change(raw):
            del raw["groups"][group]
            raw["refused"] = {group: why} if why else {}

        return change

    edit(first, without("tail", "the gradient is not the derivative of the loss"))
    edit(second, without("all", ""))
    with style():
        extremes.draw(stored.gather([first, second]))
        stored.draw_ends(stored.gather([second]))
        drawing = stored.draw_ends(stored.gather([first]))
        assert len(values(drawing.figure.axes[0])) == 2
    assert "Missing: tail of checkpoint (refused)" in drawing.caption
    assert stored.gather([first, second]).groups == ["all", "head", "tail"]
