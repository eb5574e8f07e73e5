"""Figures on disk: files, manifest, gaps, repeated bytes, and independence of torch and of the reader's settings."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import pytest
from matplotlib.figure import Figure
from saddlescope.analysis.records.base import ResultError
from saddlescope.analysis.records.load_study import load_study
from saddlescope.figures.draw import draw_study
from saddlescope.figures.drawing.canvas import METADATA, FigureError, new_figure, render, style
from saddlescope.figures.drawing.study_data import finals, group_title
from saddlescope.figures.plots import along_training, extremes, negative_mass, what_moved

NAMES = [
    "verdicts",
    "extremes",
    "density",
    "negative_mass",
    "escape",
    "along_training",
    "along_v",
    "net_rates",
    "shared_eigenvectors",
    "slice-random",
    "slice-tail-min",
    "surface-path-plane",
    "surface-tail-plane",
    "accuracy",
    "learning_curves",
]


def manifest(folder):
    return json.loads((folder / "figures" / "manifest.json").read_text(encoding="utf-8"))


def skipped(folder):
    return json.loads((folder / "figures" / "skipped.json").read_text(encoding="utf-8"))


def test_figures_drawn_in_several_processes_are_the_same(build_study):
    folder = build_study(optimizers=("sgd",), seeds=(0,))
    drawn = []
    for jobs in (1, 2):
        written = draw_study(folder, only=["verdicts", "learning_curves", "surface-*"], jobs=jobs)
        drawn.append(({path.name: path.read_bytes() for figure in written for path in figure.files}, manifest(folder)))
    assert drawn[0] == drawn[1]
    assert len(drawn[0][0]) == 8


def test_a_study_is_drawn_whole_and_twice_the_same(build_study):
    folder = build_study(optimizers=("sgd", "ssesam"), seeds=(0, 1))
    before = dict(matplotlib.rcParams)
    written = draw_study(folder)
    assert [figure.name for figure in written] == NAMES == list(manifest(folder))
    assert skipped(folder) == {}
    assert dict(matplotlib.rcParams) == before
    first = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert set(first) == {"manifest.json", "skipped.json", *(f"{name}.{kind}" for name in NAMES for kind in ("svg", "png"))}
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "theirs", "axes.facecolor": "red"}):
        draw_study(folder)
    again = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert [name for name in first if first[name] != again[name]] == []
    for entry in manifest(folder).values():
        assert entry["title"]
        assert "2 training seeds" in entry["caption"] or "seed 0" in entry["caption"]


def test_a_figure_is_drawn_once_for_each_format_and_is_what_savefig_makes(monkeypatch):
    draws, own = [], Figure.draw

    def drawing(self, renderer):
        draws.append(self)
        return own(self, renderer)

    def picture():
        figure = new_figure(3, 2)
        axes = figure.subplots()
        axes.plot([1, 10, 100], [0.1, 0.2, 0.15], label="$\\lambda_{min}$")
        axes.set(xscale="log", xlabel="a", ylabel="b", facecolor="red")
        axes.legend()
        return figure

    with style():
        saved = picture()
        saved.draw_without_rendering()
        saved.set_layout_engine("none")
        wanted = {}
        for kind, metadata in METADATA.items():
            saved.savefig(buffer := io.BytesIO(), format=kind, metadata=metadata)
            wanted[kind] = buffer.getvalue()
        monkeypatch.setattr(Figure, "draw", drawing)
        found = render(picture(), tuple(METADATA))
    assert found == wanted
    assert len(draws) == len(METADATA)


def test_missing_parts_are_skipped_with_a_reason_and_the_rest_is_drawn(build_study):
    folder = build_study(bare=True, optimizers=("sam",), seeds=(5,))
    written = {figure.name: figure for figure in draw_study(folder, formats=("png",))}
    without = {name for name, figure in written.items() if figure.skipped}
    assert without == {"density", "escape", "along_v", "net_rates", "slice", "surface"} == set(skipped(folder))
    assert "saddlescope slice" in skipped(folder)["slice"]
    assert "escape = true" in skipped(folder)["escape"]
    assert "extremes" in manifest(folder)
    assert "density" not in manifest(folder)
    assert "One training seed (5)" in manifest(folder)["extremes"]["caption"]


def test_an_untrained_study_has_no_figures_and_says_why(build_study):
    folder = build_study(bare=True, optimizers=("sam",), seeds=(0,), unfinished=(("sam", 0),))
    assert all(figure.skipped and not figure.files for figure in draw_study(folder))
    assert manifest(folder) == {}
    assert "saddlescope train" in skipped(folder)["accuracy"]


def test_only_redraws_what_was_asked_and_no_stale_picture_stays(build_study, edit):
    folder = build_study(optimizers=("sgd",), seeds=(0,))
    draw_study(folder, formats=["svg"])
    out = folder / "figures"
    old = (out / "verdicts.svg").stat().st_mtime_ns
    draw_study(folder, only=["slice-*", "extremes"], formats=["png"])
    assert (out / "verdicts.svg").stat().st_mtime_ns == old
    assert list(manifest(folder)) == NAMES
    assert manifest(folder)["extremes"]["files"] == ["extremes.png"]
    assert not (out / "extremes.svg").exists()  # it showed what extremes.png no longer shows
    for path in folder.glob("sgd-seed0/slices/random.json"):
        path.unlink()
    draw_study(folder, formats=["svg"])
    assert "slice-random" not in manifest(folder)
    assert not list(out.glob("slice-random.*"))


def test_what_cannot_be_asked_for_is_refused_by_name(build_study, tmp_path):
    folder = build_study(bare=True, optimizers=("sgd",), seeds=(0,))
    with pytest.raises(FigureError, match=r"--only densty.*known: verdicts, extremes, density"):
        draw_study(folder, only=["densty"])
    with pytest.raises(FigureError, match="bmp: known formats are svg, png, pdf"):
        draw_study(folder, formats=["bmp"])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ResultError, match=r"no study\.json"):
        draw_study(tmp_path / "nothing")


def test_refused_results_leave_the_old_pictures_with_their_captions(build_study, edit):
    folder = build_study(optimizers=("sgd", "sam"), seeds=(0,))
    draw_study(folder, formats=["svg"])
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    for path in folder.glob("sam-seed0/curvature/*.json"):
        edit(path, lambda raw: raw["provenance"].update(loss="focal"))
    with pytest.raises(FigureError, match="'loss'"):
        draw_study(folder, formats=["svg"])
    assert {path.name: path.read_bytes() for path in (folder / "figures").iterdir()} == before


def test_the_command_draws_without_torch_and_without_the_readers_settings(build_study, tmp_path):
    folder = build_study(optimizers=("sgd",), seeds=(0,))
    hostile = tmp_path / "config"
    hostile.mkdir()
    (hostile / "matplotlibrc").write_text("backend: TkAgg\nfont.size: 40\nfigure.facecolor: black\n", encoding="utf-8")
    code = (
        "import sys, saddlescope\n"
        f"sys.argv = ['saddlescope', 'figures', {str(folder)!r}, '--only', 'density', '--format', 'png']\n"
        "try:\n    saddlescope.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'matplotlib.pyplot', 'pandas'} & set(sys.modules)\n"
    )
    environment = os.environ | {"MATPLOTLIBRC": str(hostile)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    hostile_bytes = (folder / "figures" / "density.png").read_bytes()
    draw_study(folder, only=["density"], formats=["png"])
    assert (folder / "figures" / "density.png").read_bytes() == hostile_bytes


def row(identifier, outcome, old, new, tolerance=None):
    sides = (None if value is None else SimpleNamespace(mean=value) for value in (old, new))
    before, now = sides
    return SimpleNamespace(identifier=identifier, outcome=outcome, old=before, new=now, tolerance=tolerance)


def test_what_moved_is_drawn_in_units_of_the_tolerance(tmp_path):
    rows = [
        row("a::lambda_min", "moved", -1.0, -3.0, 0.5),
        row("a::trace", "same", 5.0, 5.0, 0.1),
        row("b::lambda_max", "missing", 2.0, None),
    ]
    figure = what_moved.draw(rows)
    (point,) = [line for line in figure.axes[0].get_lines() if line.get_gid() == "a::lambda_min"]
    assert point.get_xdata()[0] == pytest.approx(-4)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a::lambda_min", "b::lambda_max"]
    assert {text.get_text() for text in figure.axes[0].texts} == {"−1 → −3", "2 → none"}
    for kind in ("svg", "png", "pdf"):
        what_moved.save_what_moved(rows, tmp_path / f"moved.{kind}")
    what_moved.save_what_moved([], tmp_path / "nothing.svg")
    with pytest.raises(FigureError, match=r"must end in \.svg"):
        what_moved.save_what_moved(rows, tmp_path / "moved.gif")


def test_a_study_is_drawn_where_a_group_of_one_run_was_refused(build_study, edit):
    study = build_study(optimizers=("sgd", "sam"))

    def refused(raw):
        del raw["groups"]["tail"]
        raw["refused"] = {"tail": "the gradient is not the derivative of the loss"}

    edit(study / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json", refused)
    found = finals(load_study(study))
    assert found.gaps == ["tail of SGD seed 0 (refused)"]
    with style():
        assert "tail of SGD seed 0 (refused)" in extremes.draw(found).caption
        assert negative_mass.draw(found).figure is not None


def leave_out(folder, edit, group, runs="*"):
    for path in folder.glob(f"{runs}/curvature/*.json"):
        edit(path, lambda raw: raw["groups"].pop(group, None))


def test_groups_that_were_not_asked_for_are_left_out(build_study, edit):
    folder = build_study(optimizers=("sgd", "ssesam"), seeds=(0, 1))
    leave_out(folder, edit, "all")
    assert {figure.name for figure in draw_study(folder) if figure.skipped} == set()
    study = load_study(folder)
    assert "all" not in finals(study).groups
    with style():  # no empty column of a group that no result holds
        titles = [axes.get_title().partition("\n")[0] for axes in along_training.draw(study).figure.axes if axes.get_title()]
    assert titles == ["head", "tail"]


def test_a_group_that_one_result_lacks_is_drawn_from_the_others(build_study, edit):
    folder = build_study(optimizers=("sgd", "ssesam"), seeds=(0, 1))
    leave_out(folder, edit, "all", "sgd-seed0*")
    assert {figure.name for figure in draw_study(folder) if figure.skipped} == set()
    found = finals(load_study(folder))
    assert "all" in found.groups
    assert len(found.entries) == len(found.groups) * len(found.results) - 1


def test_a_part_that_was_measured_is_named_where_the_first_result_lacks_the_group(build_study, edit):
    folder = build_study(optimizers=("sgd", "ssesam"), seeds=(0,), bare=True)
    leave_out(folder, edit, "tail", "sgd-seed0*")
    for path in folder.glob("ssesam-*/curvature/checkpoint.head-tail.json"):
        edit(path, lambda raw: raw["groups"]["tail"].update(size=3))
    found = finals(load_study(folder))
    assert "tail" not in found.first.groups
    assert "3 of " in group_title(found.results.values(), "tail")


def test_captions_give_the_least_probability_of_what_is_drawn(build_study, edit):
    folder = build_study(optimizers=("sgd", "ssesam"), seeds=(0,))
    for path in folder.glob("sgd-*/curvature/checkpoint.head-tail.json"):  # a result of --goal ends
        edit(path, lambda raw: [group.update(negative_mass=[]) for group in raw["groups"].values()])
    for path in folder.glob("ssesam-*/curvature/checkpoint.head-tail.json"):
        edit(path, lambda raw: raw["groups"]["tail"]["negative_ratio"].update(confidence=0.987))
        edit(path, lambda raw: [mass.update(confidence=0.876) for mass in raw["groups"]["tail"]["negative_mass"]])
    found = finals(load_study(folder))
    with style():
        assert "probability at least 0.987" in extremes.draw(found).caption
        assert "probability 0.876" in negative_mass.draw(found).caption


def test_curvature_along_training_is_drawn_before_there_is_a_final_checkpoint(build_study):
    folder = build_study(optimizers=("sgd",), seeds=(0,), bare=True)
    for path in folder.glob("*/checkpoint.json"):
        path.unlink()
    with style():
        assert "scheme head-tail" in along_training.draw(load_study(folder), "head-tail").title
