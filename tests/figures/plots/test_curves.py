"""What is drawn is what is stored: curves, points, labels and words, read back from the figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.spectra import Density
from saddlescope.figures.drawing import appearance as looks
from saddlescope.figures.drawing.canvas import FigureError, style
from saddlescope.figures.drawing.study_data import finals
from saddlescope.figures.plots import accuracy, class_sizes, density, extremes, lines, planes, verdicts
from saddlescope.figures.plots import along_training as along
from saddlescope.figures.plots import negative_mass as mass


def artists(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


def result(study: Path, optimizer: str, seed: int, stem: str = "checkpoint.head-tail") -> CurvatureResult:
    return load(CurvatureResult, study / f"{optimizer}-seed{seed}" / "curvature" / f"{stem}.json")


@pytest.fixture
def found(whole_study):
    return finals(load_study(whole_study))


@pytest.fixture(autouse=True)
def our_style():
    with style():
        yield


@pytest.mark.parametrize("scale", [1e-3, 0.02, 5.0])
@pytest.mark.parametrize("width", [0.05, density.WIDTH, 0.5])
def test_a_broadened_density_integrates_to_one_and_keeps_each_node_in_its_place(scale, width):
    stored = Density(
        distribution="sphere",
        probes=[
            {"seed": 0, "nodes": [-3.0, 0.0, 40.0], "weights": [0.25, 0.7, 0.05]},
            {"seed": 1, "nodes": [-2.5, 1e-3, 41.0], "weights": [0.15, 0.8, 0.05]},
        ],
    )
    at = np.sinh(np.linspace(np.arcsinh(-3 / scale) - 10 * width, np.arcsinh(41 / scale) + 10 * width, 40_001)) * scale
    curve = density.broadened(stored, scale, at, width)
    assert np.trapezoid(curve, at) == pytest.approx(1, abs=1e-6)
    if scale < 1 and width < 0.5:
        below = at < -0.5
        assert np.trapezoid(curve[below], at[below]) == pytest.approx(0.2, abs=1e-4)  # nothing of the bulk leaks below zero


def test_one_node_is_a_gaussian_of_the_stated_width_at_zero_and_far_from_it():
    width, tau = density.WIDTH, 0.01
    for node, sigma in ((0.0, width * tau), (50.0, width * 50.0)):
        stored = Density(distribution="exact", probes=[{"seed": 0, "nodes": [node], "weights": [1.0]}])
        at = node + np.linspace(-4, 4, 8001) * sigma
        curve = density.broadened(stored, tau, at)
        assert curve[4000] == pytest.approx(1 / (sigma * np.sqrt(2 * np.pi)), rel=1e-3)
        assert curve[4000 - 100] / curve[4000] == pytest.approx(np.exp(-0.5 * 0.1**2), rel=0.02)


def test_density_panels_draw_every_seed_of_their_own_optimizer_and_group(found, whole_study):
    figure = density.draw(found).figure
    panels = np.array(figure.axes).reshape(3, 4)
    for row, group in enumerate(("all", "head", "tail")):
        for column, optimizer in enumerate(("sgd", "sam", "imbsam", "ssesam")):
            for seed in (0, 1, 2):
                (curve,) = artists(panels[row, column], f"seed-{seed}")
                at, drawn = curve.get_data()
                entry = result(whole_study, optimizer, seed).groups[group]
                scale = float(np.median([r.groups[g].verdict.tau for r in found.results.values() for g in found.groups]))
                np.testing.assert_allclose(np.nan_to_num(drawn), density.broadened(entry.density, scale, at), rtol=1e-12)
                low, high = panels[row, column].get_xlim()
                assert low < entry.lambda_min.interval[0] <= entry.lambda_max.interval[1] < high


def test_every_seed_is_a_point_with_its_interval_and_the_mean_a_bar(found, whole_study):
    panels = np.array(extremes.draw(found).figure.axes).reshape(3, 3)
    for row, read in enumerate((lambda g: g.lambda_min, lambda g: g.lambda_max, lambda g: g.negative_ratio)):
        for column, group in enumerate(("all", "head", "tail")):
            axes = panels[row, column]
            for seed in (0, 1, 2):
                drawn = [line.get_ydata()[0] for line in artists(axes, f"seed-{seed}")]
                stored = [read(result(whole_study, o, seed).groups[group]) for o in found.optimizers]
                assert drawn == [number.value for number in stored]
            bars = [s for c in axes.collections if c.get_gid() != "mean" for s in c.get_segments()]
            stored = [read(result(whole_study, o, s).groups[group]).interval for o in found.optimizers for s in (0, 1, 2)]
            assert sorted((low, high) for (_, low), (_, high) in bars) == sorted(stored)
            means = [c.get_segments()[0][0][1] for c in axes.collections if c.get_gid() == "mean"]
            values = [[read(result(whole_study, o, s).groups[group]).value for s in (0, 1, 2)] for o in found.optimizers]
            assert means == pytest.approx(np.mean(values, axis=1))


def test_an_unconverged_end_is_hollow_and_an_open_side_has_no_bar(build_study, edit):
    folder = build_study(optimizers=("sgd",), seeds=(0,))

    def loosen(raw):
        raw["groups"]["tail"]["lambda_min"] |= {"converged": False, "interval": [None, -20.0]}

    edit(folder / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json", loosen)
    drawing = extremes.draw(finals(load_study(folder)))
    axes = drawing.figure.axes
    tail, head = (artists(axes[i], "seed-0")[0] for i in (2, 1))
    assert tail.get_markerfacecolor() == "white"
    assert head.get_markerfacecolor() == head.get_color()
    assert "Hollow: not converged, a one-sided bound (1 of 3)" in drawing.caption
    (segment,) = axes[2].collections[0].get_segments()
    assert segment[:, 1].tolist() == [-20.0, -20.0]


def test_negative_mass_is_drawn_at_its_threshold(found, whole_study):
    axes = mass.draw(found).figure.axes[2]
    points = artists(axes, "seed-1")
    assert len(points) == 4 * 4  # thresholds x optimizers
    by_threshold = {}
    for point in points:
        by_threshold.setdefault(round(point.get_xdata()[0]), []).append(point.get_ydata()[0])
    for place, relative in enumerate((1e-4, 1e-3, 1e-2, 1e-1)):
        ladders = (result(whole_study, o, 1).groups["tail"].negative_mass for o in found.optimizers)
        stored = [next(m.value for m in ladder if m.relative == relative) for ladder in ladders]
        assert by_threshold[place] == stored
    assert [label.get_text() for label in axes.get_xticklabels()] == ["$10^{-4}$", "0.001", "0.01", "0.1"]


def test_a_quadratic_loss_lies_on_its_own_quadratic_model(whole_study):
    study = load_study(whole_study)
    drawing = lines.draw(study, "tail-min", study.runs)
    panels = np.array(drawing.figure.axes).reshape(3, 4)
    for row in range(3):
        for axes in panels[row]:
            for seed in (0, 1, 2):
                (loss,), (model,) = artists(axes, f"loss-seed-{seed}"), artists(axes, f"quadratic-seed-{seed}")
                drawn = np.isfinite(model.get_ydata())
                assert drawn.sum() > 3
                np.testing.assert_allclose(model.get_ydata()[drawn], loss.get_ydata()[drawn], rtol=1e-12)
    assert "the most negative eigenvector of the tail Hessian" in drawing.title
    assert "'" not in drawing.title


def test_a_slice_of_an_older_checkpoint_is_not_drawn(build_study, edit):
    folder = build_study(optimizers=("sgd", "sam"), seeds=(0, 1))
    edit(folder / "sam-seed1" / "slices" / "random.json", lambda raw: raw["provenance"].update(checkpoint_sha256="old"))
    study = load_study(folder)
    plan = {plan.name: plan for plan in lines.figures(study)}["slice-random"]
    drawing = plan.make()
    panels = np.array(drawing.figure.axes).reshape(3, 2)
    assert len(artists(panels[0, 1], "loss-seed-0")) == 1
    assert artists(panels[0, 1], "loss-seed-1") == []
    assert "Missing: SAM seed 1." in drawing.caption


def test_the_surface_has_the_grids_axes_and_the_training_path(whole_study):
    study = load_study(whole_study)
    runs = [run for run in study.runs if "path-plane" in run.slices]
    axes = planes.draw(study, "path-plane", runs).figure.axes[0]
    (path,) = artists(axes, "path")
    assert path.get_xydata().tolist() == [[-0.8, 0.5], [-0.2, 0.1], [0.0, 0.0]]
    (centre,) = artists(axes, "centre")
    assert centre.get_xydata().tolist() == [[0, 0]]
    # loss is a^2 + b^2 / 2: the values of axis 0 belong on x, so the contours are narrower along x
    ring = max((p for c in axes.collections for p in c.get_paths() if len(p.vertices)), key=lambda p: len(p.vertices))
    assert np.ptp(ring.vertices[:, 0]) <= np.ptp(ring.vertices[:, 1])
    assert planes.losses(runs[0].slices["path-plane"], "all")[0, 2] == pytest.approx(0.5 + 1)  # a = -1, b = 0


def test_curvature_along_training_follows_the_checkpoints_and_marks_the_switch(whole_study):
    panels = np.array(along.draw(load_study(whole_study)).figure.axes).reshape(3, 3)
    tail = panels[0, 2]
    curves = artists(tail, "seed-2")
    assert len(curves) == 4
    stored = [
        result(whole_study, "sgd", 2, stem).groups["tail"].lambda_min.value
        for stem in ("epoch-004.head-tail", "epoch-008.head-tail", "checkpoint.head-tail")
    ]
    assert curves[0].get_xdata().tolist() == [4, 8, 12]
    assert curves[0].get_ydata().tolist() == stored
    (switch,) = artists(tail, "switch")  # only SSE-SAM has stages
    assert list(switch.get_xdata()) == [8, 8]
    assert switch.get_color() == looks.OPTIMIZERS["ssesam"].colour


def test_a_stage_that_never_came_is_not_marked(build_study):
    folder = build_study(optimizers=("sgd", "ssesam"))
    for path in folder.glob("ssesam-*/checkpoint.json"):  # gamma = 1: the epoch of the switch is the last
        path.write_text(path.read_text().replace('"stage_switch_epoch": 8', '"stage_switch_epoch": 12'))
    study = load_study(folder)
    assert {run.side_car["training"]["stage_switch_epoch"] for run in study.of("ssesam")} == {12}
    figure = along.draw(study).figure
    assert not any(artists(axes, "switch") for axes in figure.axes)
    assert "stage 2" not in " ".join(text.get_text() for legend in figure.legends for text in legend.get_texts())


def test_a_mean_never_passes_over_a_missing_seed(build_study):
    folder = build_study(optimizers=("sgd", "sam"), unfinished=(("sam", 1),))
    study = load_study(folder)
    drawing = extremes.draw(finals(study))
    assert "Missing: SAM seed 1 (no final checkpoint)." in drawing.caption
    axes = drawing.figure.axes[0]
    means = [c for c in axes.collections if c.get_gid() == "mean"]
    assert [tuple(c.get_color()[0][:3]) for c in means] == [pytest.approx((0x2B / 255,) * 3)]
    means = artists(along.draw(study).figure.axes[0], "mean")
    assert [line.get_color() for line in means] == [looks.OPTIMIZERS["sgd"].colour]


def test_accuracy_of_groups_and_classes_in_per_cent(whole_study):
    left, right = accuracy.draw_final(load_study(whole_study)).figure.axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["all", "head", "tail"]
    values = [line.get_ydata()[0] for line in artists(left, "seed-0")]
    side_car = json.loads((whole_study / "sgd-seed0" / "checkpoint.json").read_text())["training"]["accuracy"]
    assert values[:3] == pytest.approx([100 * side_car[name] for name in ("all", "head", "tail")])
    assert artists(right, "seed-0")[0].get_ydata() == pytest.approx([100 * value for value in side_car["per_class"]])
    assert right.get_xticklabels()[0].get_text() == "0\n102"
    assert not [text for text in left.texts if text.get_gid() == "open-end"]  # a count has no error to be unknown


def test_learning_curves_hold_every_epoch(whole_study):
    panels = accuracy.draw_curves_over_epochs(load_study(whole_study)).figure.axes
    rows = [json.loads(text) for text in (whole_study / "sam-seed1" / "metrics.jsonl").read_text().splitlines()]
    (loss,) = (line for line in artists(panels[0], "seed-1") if line.get_color() == looks.OPTIMIZERS["sam"].colour)
    assert loss.get_ydata().tolist() == [row["train_loss"] for row in rows]
    for axes, group in zip(panels[1:], ("all", "head", "tail"), strict=True):
        (curve,) = (line for line in artists(axes, "seed-1") if line.get_color() == looks.OPTIMIZERS["sam"].colour)
        assert curve.get_ydata().tolist() == [100 * row["accuracy"][group] for row in rows]
        low, high = axes.get_ylim()
        assert low <= min(curve.get_ydata())
        assert max(curve.get_ydata()) <= high


def test_verdicts_are_counted_and_gaps_are_shown(build_study, edit):
    folder = build_study(optimizers=("sgd", "ssesam"), unfinished=(("ssesam", 2),))
    path = folder / "sgd-seed1" / "curvature" / "checkpoint.head-tail.json"
    edit(path, lambda raw: raw["groups"]["tail"]["verdict"].update(label="undetermined"))
    found = finals(load_study(folder))
    assert verdicts.labels(found, "sgd", "tail") == {"saddle": 2, "undetermined": 1}
    assert verdicts.labels(found, "ssesam", "tail") == {"no negative curvature above tau": 2, "gap": 1}
    drawing = verdicts.draw(found)
    texts = {text.get_gid(): text.get_text() for text in drawing.figure.axes[0].texts}
    assert texts["sgd:tail:undetermined"] == "1 of 3"
    assert texts["ssesam:tail:gap"] == "1 of 3"


def test_single_classes_are_drawn_at_their_size(whole_study):
    found = finals(load_study(whole_study), class_sizes.SCHEME)
    seeds, means = class_sizes.curve(found, "sgd", extremes.ROWS[0][1])
    stored = result(whole_study, "sgd", 0, "checkpoint.per-class")
    expected = [(stored.scheme.sizes[str(label)], stored.groups[str(label)].lambda_min.value) for label in reversed(range(10))]
    assert seeds[0] == expected
    assert [size for size, _ in means] == [5, 7, 9, 13, 19, 26, 37, 52, 73, 102]


def test_titles_name_data_model_and_groups_of_the_record(build_study, edit):
    folder = build_study(optimizers=("sam",), seeds=(3,))
    for path in folder.glob("*/curvature/*.json"):
        edit(path, lambda raw: raw["provenance"].update(data="CIFAR-10 (JPEG) IF 100", model="resnet32", parameters=466_906))
    figure = extremes.draw(finals(load_study(folder))).figure
    words = [artist.get_text() for artist in figure.artists]
    assert words == ["CIFAR-10 (JPEG) IF 100, resnet32 (466,906 parameters), cross-entropy"]
    assert figure.axes[2].get_title() == "tail\n(7 classes, 116 samples)"


def test_results_of_different_data_never_share_a_figure(build_study, edit):
    folder = build_study(optimizers=("sgd", "sam"), seeds=(0,))
    for path in folder.glob("sam-seed0/curvature/*.json"):
        edit(path, lambda raw: raw["provenance"].update(data_sha256="other"))
    with pytest.raises(FigureError, match=r"data_sha256.*sgd seed 0.*sam seed 0"):
        finals(load_study(folder))


def test_optimizers_look_the_same_whatever_the_study_holds_and_differ_in_colour_and_marker():
    every = [*looks.OPTIMIZERS, "mine", "another"]
    whole = looks.optimizer_looks(every)
    assert len({look.colour for look in whole.values()}) == len({look.marker for look in whole.values()}) == len(every)
    for some in (["ssesam"], ["sam", "sgd"], ["mine", "ssesam", "another"]):
        assert all(looks.optimizer_looks(some)[key] == whole[key] for key in some)
