"""Results of somebody's own checkpoints: names that tell them apart, a folder as a series, intervals open at an end."""

import json

import pytest
from saddlescope.analysis.records.base import ResultError, load
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.result_names import checkpoint_names
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.figures import draw_results as stored
from saddlescope.figures.draw import draw_study
from saddlescope.figures.drawing.canvas import style
from saddlescope.figures.plots import along_training as along
from saddlescope.reports.page.html import write_report
from typer.testing import CliRunner

import saddlescope


@pytest.fixture
def series(whole_study, tmp_path, edit):
    """``series("a/model.safetensors", ...)``: a result beside each checkpoint, or all in one ``out``."""

    def make(*checkpoints, training=None, out=None):
        source = whole_study / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json"
        paths = []
        for index, checkpoint in enumerate(checkpoints):
            *folders, name = checkpoint.split("/")
            stem = name.rsplit(".", 1)[0]
            place = tmp_path.joinpath("mine", *folders, "curvature", f"{stem}.head-tail.json")
            if out:
                place = tmp_path / "mine" / f"{'-'.join((*folders, name))}.head-tail.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            raw = json.loads(source.read_text())
            told = (training or {}).get(checkpoint, {})
            raw["provenance"] |= {"checkpoint": name, "checkpoint_sha256": f"{index:064}", "training": told}
            place.write_text(json.dumps(raw))
            paths.append(place)
        return paths

    return make


HF = ("checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors", "checkpoint-1500/model.safetensors")


@pytest.mark.parametrize("out", [None, "results"])
def test_checkpoints_of_one_name_are_called_by_what_tells_them_apart(series, out):
    paths = series(*HF, out=out)
    names = checkpoint_names({path: load(CurvatureResult, path) for path in paths})
    assert [names[path] for path in paths] == ["checkpoint-500", "checkpoint-1000", "checkpoint-1500"]


def test_only_names_that_are_alike_grow(series):
    paths = series("a/model.pt", "b/model.pt", "a/best.pt")
    names = checkpoint_names({path: load(CurvatureResult, path) for path in paths})
    assert [names[path] for path in paths] == ["a/model", "b/model", "best"]


def test_parts_of_one_checkpoint_share_its_name(series, edit):
    paths = series("a/model.pt", "b/model.pt")
    part = paths[0].with_name("model.head-tail.abc123.json")
    part.write_text(paths[0].read_text())
    edit(part, lambda raw: raw["provenance"].update(params_pattern="fc.*"))
    names = checkpoint_names({path: load(CurvatureResult, path) for path in [*paths, part]})
    assert list(names.values()) == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("checkpoints", "training", "axis", "at"),
    [
        (HF, {}, "step", [500, 1000, 1500]),
        (("epoch-2.pt", "epoch-10.pt"), {}, "epoch", [2, 10]),
        (("epoch=3-step=90.ckpt", "epoch=4-step=120.ckpt"), {}, "epoch", [3, 4]),
        (("first.pt", "last.pt"), {}, "checkpoint", [1, 2]),
        (("epoch-2.pt", "best.pt"), {}, "checkpoint", [2, 1]),
        (("a.pt", "b.pt"), {"a.pt": {"epoch": 7}, "b.pt": {"epoch": 3}}, "epoch", [3, 7]),
        (("resnet50-1.pt", "resnet50-2.pt"), {}, "checkpoint", [1, 2]),
    ],
)
def test_where_a_checkpoint_stands_in_its_training(series, tmp_path, checkpoints, training, axis, at):
    series(*checkpoints, training=training)
    study = load_study(tmp_path / "mine")
    (run,) = study.runs
    assert (study.axis, [position for position, _ in run.along()]) == (axis, sorted(at))


def test_a_folder_of_own_checkpoints_is_drawn_and_reported_as_a_series(series, tmp_path):
    series(*HF)
    folder = tmp_path / "mine"
    drawn = {figure.name for figure in draw_study(folder, formats=("png",)) if figure.files}
    assert {"along_training", "extremes", "density"} <= drawn
    with style():
        figure = along.draw(load_study(folder)).figure
    assert figure.axes[-1].get_xlabel() == "step"
    assert "steps 500, 1000, 1500" in write_report(folder).read_text(encoding="utf-8")


def test_what_is_no_series(series, tmp_path, edit):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.json").write_text("{}")
    with pytest.raises(ResultError, match=r"no study\.json there.*or one of results of"):
        load_study(tmp_path / "mine")
    first, _ = series("epoch-1.pt", "epoch-2.pt")
    edit(first, lambda raw: raw["provenance"].update(data_sha256="other"))
    with pytest.raises(ResultError, match="2 different data sets"):
        load_study(tmp_path / "mine")


def test_an_interval_open_at_an_end_is_an_arrow_and_not_a_point_without_error(series, edit):
    paths = series("a.pt", "b.pt")

    def opened(raw):
        for group in raw["groups"].values():
            group["lambda_min"]["interval"][0] = None

    with style():
        closed = stored.figures(stored.gather(paths))[0].make()
        edit(paths[0], opened)
        drawing = stored.figures(stored.gather(paths))[0].make()
    arrows = [[text for text in axes.texts if text.get_gid() == "open-end"] for axes in drawing.figure.axes]
    assert [len(found) for found in arrows] == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert all(text.xyann[1] < 0 for found in arrows for text in found)  # downwards: the side that nothing bounds
    assert "Arrows: the interval is open on that side" in drawing.caption
    assert "(3 of 18 numbers" in drawing.caption
    assert "Arrows" not in closed.caption


def test_what_a_goal_left_out_is_said_so(series, tmp_path, edit):
    for path in series("a.pt", "b.pt"):
        edit(path, lambda raw: [group.update(density=None, negative_mass=[]) for group in raw["groups"].values()])
    skipped = {figure.name: figure.skipped for figure in draw_study(tmp_path / "mine", formats=("png",)) if figure.skipped}
    assert "--goal spectrum" in skipped["density"]
    assert "--goal spectrum" in skipped["negative_mass"]


def test_results_of_an_analysis_beside_those_of_a_monitor_are_left_out_by_name(series, tmp_path, edit, capsys):
    *watched, other = series("step-50.pt", "step-300.pt", "epoch=24-step=300.pt", training={})
    for path in watched:
        edit(path, lambda raw: raw["provenance"].update(command="saddlescope.Monitor"))
        edit(path, lambda raw: raw["groups"]["tail"].update(size=7))
    edit(other, lambda raw: raw["provenance"].update(data_sha256="of all samples"))
    folder = tmp_path / "mine"
    study = load_study(folder)
    assert [position for position, _ in study.runs[0].along()] == [50, 300]
    written = {figure.name: figure for figure in draw_study(folder, only=["along_training"], formats=("png",))}
    assert written["along_training"].files
    (name,) = study.left_out
    assert name.endswith("epoch=24-step=300.head-tail.json")
    assert "no result of the monitor" in written[name].skipped
    assert "no result of the monitor" in write_report(folder).read_text(encoding="utf-8")
    with style():
        titles = [axes.get_title() for axes in along.draw(study).figure.axes]
    assert any("7 of " in title and title.startswith("tail") for title in titles)  # what was looked at, of the group
    assert not any(" of " in title and title.startswith("head") for title in titles)


def test_the_report_of_a_series_says_where_it_ends_and_how_to_get_figures(series, tmp_path, edit):
    paths = series(*HF)
    folder = tmp_path / "mine"
    edit(paths[0], lambda raw: raw["groups"]["tail"]["lambda_min"].update(value=-12.3))
    edit(paths[-1], lambda raw: raw["groups"]["tail"]["lambda_min"].update(value=-4.56))
    said = CliRunner().invoke(saddlescope.application(), ["report", str(folder)])
    assert said.exit_code == 0
    words = " ".join(said.output.split())
    assert "SSE-SAM" not in words
    assert "tail at step 1500: saddle, λ_min −4.56, after −12.3 at step 500." in words
    assert f"run 'saddlescope figures {folder}'" in words
    draw_study(folder, formats=("png",), only=["extremes"])
    assert "saddlescope figures" not in CliRunner().invoke(saddlescope.application(), ["report", str(folder)]).output
