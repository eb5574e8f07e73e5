"""One seed gives no interval, and nothing may say that one includes zero."""

from saddlescope.analysis.records.load_study import load_study
from saddlescope.reports.literature import claims
from saddlescope.reports.tables.findings import find


def states(folder):
    return {claim.key: outcome for claim, outcome in claims.evaluate(load_study(folder))}


def test_one_seed_has_no_interval_that_could_include_zero(build_study, build_variants):
    folder = build_study(seeds=(0,))
    found = states(folder)
    assert found["imbsam-head"].why == (
        "One seed gives no interval for head, ImbSAM − SAM: a second and a third would show the spread."
    )
    assert states(build_variants(seeds=(0,)))["imbsam-weightings"].why == (
        "Group − batch, tail: one seed gives no interval for accuracy (%) and ‖∇L‖: a second and a third would show the spread."
    )
    (size,) = [line for line in find(load_study(folder)).support if line.startswith("Size, tail")]
    assert size == (
        "Size, tail: λ_min of SSE-SAM is not decidedly different from SGD, SAM and ImbSAM (one seed gives no interval)."
    )
    said = [outcome.why for outcome in found.values()]
    assert not [why for why in said if "includes zero" in why]
