"""Variants of one optimizer are told apart in every figure, in grey too, and the plain ones look as ever."""

import colorsys
import itertools

import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.variants import variants
from saddlescope.figures.drawing import appearance as looks
from saddlescope.figures.drawing.study_data import finals
from saddlescope.figures.plots.accuracy import draw_curves_over_epochs, draw_final
from saddlescope.figures.plots.density import draw as draw_density
from saddlescope.figures.plots.extremes import draw as draw_extremes
from saddlescope.reports.tables import words
from saddlescope.training.optimizers.registry import OPTIMIZERS


def lightness(colour):
    """CIE L* of an sRGB colour: what is left of it in grey."""
    y = looks._luminance(colour)
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def hue(colour):
    return colorsys.rgb_to_hls(*(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)))[0]


@pytest.mark.parametrize("rule", looks.OPTIMIZERS)
def test_three_of_one_rule_beside_all_the_others(rule):
    tables = {key: {} for key in looks.OPTIMIZERS} | {
        f"{rule}-{name}": {"rule": rule, "normalisation": name} for name in ("batch", "group")
    }
    found = looks.optimizer_looks(list(tables), variants(tables, list(tables)))
    plain = {key: look for key, look in found.items() if key in looks.OPTIMIZERS}
    assert {key: (look.colour, look.marker, look.line) for key, look in plain.items()} == {
        key: (look.colour, look.marker, look.line) for key, look in looks.OPTIMIZERS.items()
    }
    assert len({look.marker for look in found.values()}) == len({look.name for look in found.values()}) == len(tables)
    family = [found[rule], *(look for key, look in found.items() if key not in plain)]
    assert len({str(look.line) for look in family}) == 3
    values = sorted(lightness(look.colour) for look in family)
    assert min(b - a for a, b in itertools.pairwise(values)) > 9
    assert max(abs(hue(look.colour) - hue(found[rule].colour)) for look in family) < 0.02
    assert len({look.colour for look in found.values()}) == len(tables)


def test_text_of_every_look_can_be_read_on_white():
    tables = {key: {} for key in looks.OPTIMIZERS} | {
        f"{rule}-{name}": {"rule": rule, "rho": name} for rule in looks.OPTIMIZERS for name in "abcd"
    }
    for look in looks.optimizer_looks(list(tables), variants(tables, list(tables))).values():
        assert 1.05 / (looks._luminance(look.ink) + 0.05) >= 4


def test_figures_name_and_draw_each_variant(build_variants):
    study = load_study(build_variants())
    names = {"SGD", "ImbSAM (batch)", "ImbSAM (group)", "ImbSAM (batch-x2)"}
    found = looks.looks_of(study)
    assert {look.name for look in found.values()} == names
    accuracy = draw_final(study).figure
    assert {text.get_text() for text in accuracy.legends[0].get_texts()} == names
    curves = draw_curves_over_epochs(study).figure
    assert names <= {text.get_text() for text in curves.legends[0].get_texts()}
    means = [line for line in curves.axes[0].lines if line.get_gid() == "mean"]
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in means}) == len(means) == 4
    assert {tick.get_text() for tick in draw_extremes(finals(study)).figure.axes[-1].get_xticklabels()} == names
    titles = [axes.get_title() for axes in draw_density(finals(study)).figure.axes[:4]]
    assert titles == ["SGD", "ImbSAM\n(group)", "ImbSAM\n(batch)", "ImbSAM\n(batch-x2)"]


def test_a_gap_of_a_variant_has_its_own_name(build_variants):
    study = load_study(build_variants(unfinished=(("sam", 1),)))
    assert finals(study).gaps == ["ImbSAM (group) seed 1 (no final checkpoint)"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("SSE-SAM", "SSE-SAM"),
        ("exactly_14_let", "exactly_14_let"),
        ("imbsam-seed0-0b2a4009", "imbsam-seed0-\n0b2a4009"),
        ("my_very_own_optimizer", "my_very_own_\noptimizer"),
        ("abcdefghijklmnopqrst", "abcdefghijklmn\nopqrst"),
        ("resnet32-cifar10-lt-if100-drw-epoch-160", "resnet32-cifa…\n-drw-epoch-160"),
    ],
)
def test_long_names_that_differ_at_their_ends_stay_apart(name, short):
    assert looks.Look(name, "#000000", "o").short == short
    assert all(len(line) <= 14 for line in short.split("\n"))


def test_every_rule_of_the_suite_has_a_name_and_a_look_that_no_study_changes():
    assert looks.OPTIMIZERS.keys() | looks.FURTHER.keys() == OPTIMIZERS.keys() == words.OPTIMIZERS.keys()
    alone = {key: looks.optimizer_looks([key])[key] for key in OPTIMIZERS}
    together = looks.optimizer_looks([*OPTIMIZERS, "mine", "yours"])
    assert {key: together[key] for key in alone} == alone
    assert {key: look.name for key, look in alone.items()} == words.OPTIMIZERS
    assert len({look.colour for look in alone.values()}) == len({look.marker for look in alone.values()}) == len(alone)
