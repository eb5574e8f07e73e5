"""How many seeds would decide: against printed tables of power analysis, against simulation, and where it is said."""

import io

import numpy as np
import pytest
from rich.console import Console
from saddlescope.analysis.records.load_study import load_study
from saddlescope.reports.page.html import write_report
from saddlescope.reports.page.summary import print_summary
from saddlescope.reports.tables.escape_experiment import judge
from saddlescope.reports.tables.findings import find
from saddlescope.reports.tables.statistics import needed_words, paired_difference, power, seeds_needed
from scipy import stats


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_counts_are_those_of_the_printed_tables(effect, pairs):
    # paired two-sided t test, alpha 0.05, power 0.8: Cohen 1988, table 2.3.6 and G*Power 3.1
    assert seeds_needed(effect, 1.0) == pairs
    assert seeds_needed(-3 * effect, 3.0) == pairs


@pytest.mark.parametrize(("effect", "count"), [(2.0, 3), (1.0, 6), (0.4, 12)])
def test_the_power_is_how_often_simulated_seeds_decide(effect, count):
    rng = np.random.default_rng(0)
    drawn = rng.normal(effect, 1.0, (20_000, count))
    half = stats.t.ppf(0.975, count - 1) * drawn.std(axis=1, ddof=1) / count**0.5
    assert power(effect, 1.0, count) == pytest.approx((drawn.mean(axis=1) > half).mean(), abs=0.012)


def test_effects_far_beyond_the_spread_need_few_seeds_and_none_need_no_number():
    assert power(1e6, 1.0, 2) == 1.0
    assert seeds_needed(1e6, 1.0) == 2
    assert seeds_needed(0.001, 1.0) is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1.0, 0.0) is None


def paired(*values):
    return paired_difference(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))


def test_the_spread_is_read_back_from_the_interval():
    assert paired(-1.0, 2.0, 5.0).std == pytest.approx(3.0)


def test_an_undecided_difference_says_what_would_decide_it():
    found = paired(-1.0, 2.0, 5.0)
    assert found.decision == "undecided"
    count = seeds_needed(2.0, 3.0)
    assert needed_words(found) == f"{count} seeds would decide an effect of this size with probability 0.8"
    assert needed_words(found, short=True) == f"{count} seeds"
    assert needed_words(paired(1.0, 1.1, 0.9)) == ""
    assert "second" in needed_words(paired(1.0))
    assert "1000" in needed_words(paired(-1.0, 1.0001, 0.0))


def test_the_report_the_tables_and_the_terminal_say_it(build_study):
    folder = build_study(optimizers=("sgd", "ssesam"), seeds=(0, 1, 2))
    study = load_study(folder)
    found = find(study)
    html = write_report(folder).read_text()
    console = Console(file=io.StringIO(), width=1000)
    print_summary(study, console)
    assert "seeds_needed" in (folder / "tables" / "differences_head-tail.csv").read_text().splitlines()[0]
    if found.answer == "Undecided":
        assert found.decides
        assert found.decides in console.file.getvalue()
        assert "What would decide it" in html


def test_an_undecided_escape_says_how_many_seeds():
    class End:
        def __init__(self, value):
            self.value, self.interval = value, (None, value)

    class Result:
        def __init__(self, value):
            self.lambda_min, self.verdict = End(value), type("V", (), {"curvature": "negative curvature"})

    mine = {seed: {10: Result(value)} for seed, value in enumerate((-0.1, -0.9, -0.5))}
    control = {seed: {10: Result(value)} for seed, value in enumerate((-1.0, -1.0, -1.0))}
    found = judge(mine, control, "SAM", "SGD")
    assert found.state == "undecided"
    assert found.decides == f"{seeds_needed(0.5, 0.4)} seeds would decide an effect of this size with probability 0.8"
    assert found.decides in found.sentence
