"""Claims about single classes of the papers' own data."""

from __future__ import annotations

from ...analysis.records.published_data import on_cifar10_lt_100
from ...analysis.records.results import CurvatureResult
from ...analysis.records.study import Run, Study
from ..tables.words import interval, listed, number
from .outcome import Outcome

#: the class that the paper shows
_CLASS = 8
#: printed 0.993, and 0.95 and more from epoch 100 on; read by eye to about 0.02
_HIGH = 0.9


def rare_class_ratio(study: Study) -> Outcome:
    """Judges that with SGD the ratio |λ_min|/λ_max of class 8 ends near 1, seed by seed, by the interval of each number."""
    said, truths = [], list[bool | None]()
    for run in study.of("sgd"):
        for result in run.curvature:
            names = [name for name, classes in result.scheme.groups.items() if classes == [_CLASS] and name in result.groups]
            if not names or not _is_end(run, result):
                continue
            ratio = result.groups[names[0]].negative_ratio
            low, high = ratio.interval
            beside = number(ratio.value)
            said.append(f"seed {run.seed}: {beside} {interval(low, high, beside=beside)}")
            truths.append(True if low is not None and low >= _HIGH else False if high is not None and high < _HIGH else None)
            break
    if not truths:
        return Outcome(
            "not tested", "", f"no final spectrum of class {_CLASS} of CIFAR-10-LT, imbalance 100, with SGD in this study"
        )
    ours = f"class {_CLASS}, last epoch, SGD, {listed(said)}"
    counts = f"Below {_HIGH:g} in {truths.count(False)}, above in {truths.count(True)} of {len(truths)} runs, by the intervals"
    if truths.count(True) == len(truths):
        return Outcome("reproduced", ours, f"{counts}.")
    if truths.count(False) == len(truths):
        return Outcome("not reproduced", ours, f"{counts}.")
    more = "seeds that disagree are not reconciled by more of them" if None not in truths else "more Lanczos steps would decide"
    return Outcome("undecided", ours, f"{counts}: {more}.")


def _is_end(run: Run, result: CurvatureResult) -> bool:
    """Whether a result is of the whole model at the run's end, on the paper's data."""
    source = result.provenance
    ends = run.side_car is not None and source.checkpoint_sha256 == run.side_car["sha256"]
    return ends and source.params_pattern is None and on_cifar10_lt_100(source)
