"""Figure and page of the control show the stored numbers, and say only what they bear out."""

import subprocess
import sys

import pytest
from saddlescope.analysis.records.augmentation import AugmentationControl, ControlEntry, ControlPanel
from saddlescope.analysis.records.base import save as store
from saddlescope.analysis.records.results import Provenance
from saddlescope.figures.drawing.canvas import style
from saddlescope.figures.plots.augmentation_control import draw, page, paragraph, save

#: (class, images) -> ratio on fixed, frozen and redrawn data; numbers chosen by hand
SIZES = {0: 100, 1: 30, 2: 5}
CONVEX = {0: (0.0, 1e-8, 0.1), 1: (2e-7, 0.0, 0.25), 2: (0.0, 0.0, 0.5)}
NETWORK = {0: (0.02, 0.03, 0.01), 1: (0.02, 0.05, 0.2), 2: (0.04, 0.06, 0.4)}


def panel(title, convex, ratios, rayleigh=0.3, refuse=("redrawn",)):
    entries = [
        ControlEntry(
            label=label,
            samples=SIZES[label],
            data=data,
            lambda_min=-2.0 * ratio,
            lambda_max=2.0,
            residual_min=0.0,
            rayleigh_min=rayleigh if data == "redrawn" else -2.0 * ratio,
            noise=0.4 + 0.1 * label if data == "redrawn" else 0.0,
            refusal="two products differ" if data in refuse else None,
            steps=100,
        )
        for label, row in ratios.items()
        for data, ratio in zip(("fixed", "frozen", "redrawn"), row, strict=True)
    ]
    provenance = Provenance(
        saddlescope="0.1.0", python="3.12", torch="2", numpy="2", platform="Linux", device="cpu", dtype="float32", threads=1,
        seed=0, checkpoint="c.pt", checkpoint_sha256="0" * 64, model=title, parameters=1234, data="patterns IF 20",
        data_sha256="1" * 64, class_counts=[100, 30, 5], loss="cross-entropy", settings={"steps": 100}, created="2025-01-01",
    )  # fmt: skip
    return ControlPanel(
        title=title, convex=convex, augmentation="random crop (padding 1)", entries=entries, provenance=provenance
    )


@pytest.fixture
def control():
    return AugmentationControl(
        panels=[panel("softmax regression", True, CONVEX), panel("some-resnet", False, NETWORK, rayleigh=-0.02)]
    )


def points(axes, data):
    (line,) = [line for line in axes.get_lines() if line.get_gid() == data]
    return dict(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_every_stored_ratio_and_noise_is_where_it_belongs(control):
    with style():
        figure = draw(control).figure
    ratios, noises = figure.axes[:2], figure.axes[2:]
    for axes, numbers in zip(ratios, (CONVEX, NETWORK), strict=True):
        for place, data in enumerate(("fixed", "frozen", "redrawn")):
            assert points(axes, data) == pytest.approx({SIZES[label]: row[place] for label, row in numbers.items()})
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] > max(max(row) for row in numbers.values())
    for axes in noises:
        assert points(axes, "redrawn") == pytest.approx({100: 0.4, 30: 0.5, 5: 0.6})
        assert axes.get_ylim()[1] > 0.6
        assert axes.get_xscale() == "log"


def test_a_negative_lowest_value_is_a_ratio_and_a_positive_one_is_none(control):
    entry = control.panels[0].entries[2]
    assert entry.ratio == pytest.approx(0.1)
    assert entry.model_copy(update={"lambda_min": 0.1}).ratio == 0
    assert entry.model_copy(update={"lambda_max": -1.0}).ratio == 0


def test_the_page_has_a_row_for_every_measurement_and_the_largest_class_first(control):
    text = page(control)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| class |" not in f"|{line}"]
    assert len([row for row in rows if row.split("|")[1].strip().isdigit()]) == 18
    first, last = (next(line for line in order if line.startswith("| ")) for order in (rows[1:], rows[::-1]))
    assert first.startswith("| 0 | 100 |")
    assert last.startswith("| 2 | 5 | augmented anew at every product | -8.00e-01 | 2.00e+00 | 4.00e-01 |")
    assert last.endswith("| refused |")
    assert "some-resnet on patterns IF 20" in text


def test_the_paragraph_counts(control):
    words = paragraph(control)
    assert "0.1 to 0.5 (0.1 for the largest class, 100 images, and 0.5 for the smallest, 5)" in words
    assert "at most 2.0e-07, rounding" in words
    assert "higher than on clean data in 2 of 3 classes, 10 times as high in the median class and at most 10 times" in words
    assert "finds 2 % to 100 % of its value again where the data are redrawn, 100 % where they are clean" in words
    assert "refuses 6 of the 6 redrawn operators and 0 of the 12 fixed ones" in words
    assert "no evidence of negative curvature" in words


def test_the_paragraph_of_one_class_has_no_median_and_no_range():
    words = paragraph(AugmentationControl(panels=[panel("some-resnet", False, {2: NETWORK[2]}, rayleigh=-0.02)]))
    assert "The ratio is 0.04 on clean data, 0.06 with augmentation kept and 0.4 (a class of 5 images) with" in words
    assert "higher than on clean data in 1 of 1 class, 10 times as high. " in words


def test_the_paragraph_owns_up_to_what_does_not_fit():
    broken = {**CONVEX, 1: (0.03, 0.0, 0.25)}
    words = paragraph(AugmentationControl(panels=[panel("softmax regression", True, broken, rayleigh=-0.2, refuse=())]))
    assert "rounding" not in words
    assert "up to 3.0e-02" in words
    assert "do not trust this measurement" in words
    assert "curvature of -0.1 λ_max or more" in words
    assert "refuses 0 of the 3" in words


def test_files_are_the_same_bytes_again(control, tmp_path):
    record = store(control, tmp_path / "augmentation_control.json")
    files = save(record, ("svg", "png"))
    assert [path.name for path in files] == [f"augmentation_control.{kind}" for kind in ("svg", "png", "md")]
    before = [path.read_bytes() for path in files]
    assert [path.read_bytes() for path in save(record, ("svg", "png"))] == before
    assert before[1].startswith(b"\x89PNG")


def test_the_figure_needs_no_torch():
    code = "import sys, saddlescope.figures.plots.augmentation_control; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
