"""Published curves beside ours, the same as those that the registry of the literature prints."""

from pathlib import Path

from saddlescope.analysis.records.load_study import load_study
from saddlescope.figures.drawing import published
from saddlescope.figures.plots import along_training as along
from saddlescope.reports.literature import papers


def artists(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


def test_published_ratios_lie_beside_ours_in_the_single_classes_of_the_full_size_study():
    study = load_study(Path(__file__).parents[3] / "reports" / "studies" / "cifar10-lt-resnet20")
    plan = along.figures(study)[-1]  # of single classes; the first one is of head and tail, where these were measured
    printed = {
        number.what: [float(value) for value in number.paper.split()]
        for item in papers.items()
        if item.id == "F4"
        for number in item.numbers
    }
    drawing = plan.make()
    panels = {
        axes.get_title().partition("\n")[0]: column for column, axes in enumerate(drawing.figure.axes) if axes.get_title()
    }
    ratios = drawing.figure.axes[2 * len(panels) :]
    for name, column in panels.items():
        known = [printed[f"{rule}, {name}"] for rule in ("SGD", "SAM") if f"{rule}, {name}" in printed]
        drawn = [line.get_ydata().tolist() for line in artists(ratios[column], "published")]
        assert drawn == known
        ours = [line for line in artists(ratios[column], "seed-0") if len(line.get_xdata())]
        assert len(ours) == (1 if name == "class 5" else 4)
        bars = [c for c in ratios[column].collections if c.get_gid() == "interval" and len(c.get_segments())]
        # one run each: every point with its interval
        assert [len(bar.get_segments()) for bar in bars] == [len(line.get_xdata()) for line in ours]
    assert {"class 8", "class 9"} <= set(panels)
    assert "Rangwani et al. 2022, slide 19: ResNet-32; read by eye" in drawing.caption


def test_every_published_curve_is_the_one_that_is_printed_for_people():
    (item,) = [item for item in papers.items() if item.id == "F4"]
    ours = {
        f"{rule.upper()}, class {label}": list(values)
        for rule, classes in published._RATIOS.items()
        for label, values in classes.items()
    }
    assert ours == {number.what: [float(value) for value in number.paper.split()] for number in item.numbers}
