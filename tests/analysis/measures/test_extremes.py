"""Both ends from few steps: against known spectra, with a start that helps, misleads, or is not there."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.hessian.sample_parts import WORTH_A_LOOK, part_of
from saddlescope.analysis.krylov.guards import RandomOperatorError
from saddlescope.analysis.krylov.linear_operator import MatrixOperator
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.measures.extremes import FIRST_LOOK, half_way, measure_ends
from saddlescope.analysis.records.settings import AnalysisSettings, SettingsError, parse_settings
from saddlescope.analysis.samples.samples import Samples


def with_bulk(n, outliers, width, seed=0):
    values = np.random.default_rng(seed).normal(0, width, n)
    values[: len(outliers)] = outliers
    return values


#: outliers above a bulk around zero: -17 of 170 as in a tail, -1.2 of 100 as in a head
TAIL = [170, 110, 45, 25, -17, -15, -13, -12]
HEAD = [100, 60, 50, 20, 11, 5, 3, -1.2, -1.0, -0.9]


@pytest.mark.parametrize("outliers", [TAIL, HEAD, [1.0, -170, -110, -45]])
@pytest.mark.parametrize("part", ["none", "like it", "another"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_at_the_defaults(diagonal, outliers, part, dtype):
    values = with_bulk(3000, outliers, 0.05)
    looked_at = {
        "none": None,
        "like it": diagonal(values * np.random.default_rng(1).uniform(0.8, 1.2, 3000), dtype, reflect=3),
        "another": diagonal(with_bulk(3000, [10, -9], 1.0, seed=2)[::-1].copy(), dtype, reflect=4),
    }
    for seed in range(5):
        operator = diagonal(values, dtype, reflect=3)
        found = measure_ends(operator, part=looked_at[part], seed=seed)
        for end, truth in ((found.lambda_min, values.min()), (found.lambda_max, values.max())):
            assert end.converged
            assert end.value == pytest.approx(truth, rel=1e-3)
            below, above = end.interval
            assert below is None or below <= truth
            assert above is None or truth <= above
            assert end.residual_interval[0] <= truth <= end.residual_interval[1]
        for name, truth in (("min", values.min()), ("max", values.max())):
            v = found.vectors[name].double()
            assert float(v.norm()) == pytest.approx(1, abs=1e-6)
            quotient = float(v @ diagonal(values, torch.float64, reflect=3).matvec(v))
            assert quotient == pytest.approx(truth, rel=1e-3)
        for bound in found.saddle_index:
            assert bound.at_least <= (values < -bound.tau + found.noise.absolute).sum()
        assert found.matvecs == operator.matvecs == found.steps[0] + (5 if part == "none" else 0)


def test_a_part_that_knows_the_way_saves_products(diagonal):
    values = with_bulk(20_000, [100, 60, 30, *-np.linspace(1, 3, 40)], 0.2)
    near = diagonal(values * np.random.default_rng(1).uniform(0.99, 1.01, len(values)), torch.float32, reflect=3)

    def steps(part, rtol, *, confirm=True):
        given = {"part": part, "rtol": rtol, "confirm": confirm}
        return [measure_ends(diagonal(values, torch.float32, reflect=3), seed=s, **given).steps[0] for s in range(5)]

    # Finding them, that is: whether they are the ends only the random half of the start can say, part or no part.
    assert np.median(steps(near, 1e-2, confirm=False)) < 0.7 * np.median(steps(None, 1e-2, confirm=False))
    whole = [measure_spectrum(diagonal(values, torch.float32, reflect=3), seed=s).matvecs for s in range(3)]
    assert np.median(steps(None, 1e-3)) < 0.9 * np.median(whole)


def test_a_part_keeps_nothing_once_it_was_looked_at(diagonal):
    values, freed = with_bulk(2000, [50, 20, 10, -8], 0.1), []
    part = diagonal(values, reflect=3)
    part.release = lambda: freed.append(part.matvecs)
    for given in ({"confirm": False}, {"enough": -1.0}, {}):
        freed.clear()
        operator = diagonal(values, reflect=3)
        operator.matvec = lambda v, product=operator.matvec: freed.append("operator") or product(v)
        measure_ends(operator, part=part, **given)
        assert freed[freed.index("operator") - 1] == part.matvecs  # after all of its products, before the operator's first one


def test_an_end_near_zero_is_not_taken_for_settled_on_its_way(diagonal):
    """The first Ritz values lie near zero with small residuals, whatever the smallest eigenvalue is."""
    values = with_bulk(20_000, HEAD, 1e-3)
    for seed in range(10):
        found = measure_ends(diagonal(values, torch.float32, reflect=3), rtol=1e-2, seed=seed)
        assert found.lambda_min.value == pytest.approx(-1.2, rel=2e-2)


@pytest.mark.parametrize("misleading", [False, True])
def test_intervals_cover_at_least_as_often_as_stated(diagonal, misleading):
    """A spectrum without gaps, few steps, and a start that knows nothing of the ends, or everything about the wrong ones."""
    n, delta = 300, 0.2
    values = np.sort(np.cos(np.linspace(0, np.pi, n)) ** 3)
    wrong = np.zeros(n)
    wrong[n // 2], wrong[n // 3] = 1, -1
    missed = said = 0
    for seed in range(300):
        part = diagonal(wrong, reflect=5) if misleading else diagonal(values, reflect=5)
        found = measure_ends(diagonal(values, reflect=5), part=part, seed=seed, steps=12, delta=delta)
        below, above = found.lambda_min.interval[0], found.lambda_max.interval[1]
        said += below is not None
        missed += below is not None and (below > values[0] or above < values[-1])
    assert said == 300
    assert missed <= delta * 300


def test_a_verdict_takes_fewer_products_than_the_ends(diagonal):
    values = with_bulk(20_000, TAIL, 0.5)
    for seed in range(5):
        ends = measure_ends(diagonal(values, torch.float32, reflect=3), seed=seed, tau=1e-3)
        verdict = measure_ends(diagonal(values, torch.float32, reflect=3), seed=seed, tau=1e-3, enough=-2.0)
        assert verdict.matvecs < 0.7 * ends.matvecs
        assert -17 <= verdict.lambda_min.value < -2 - verdict.noise.absolute
        assert not verdict.lambda_min.converged
        assert verdict.lambda_min.interval[1] < -2
        assert any("lambda_min not converged" in warning for warning in verdict.warnings)


def of_samples(seed, n=400, count=300):
    """Per-sample Hessians as of a network's: shared directions, large and negative, with a share of every sample's own."""
    rng = np.random.default_rng(seed)
    shared = np.linalg.qr(rng.normal(size=(n, 16)))[0]
    strength = np.concatenate([np.geomspace(100, 5, 8), -np.geomspace(8, 2, 8)]) * (1 + 0.8 * rng.normal(size=(count, 16)))
    own = rng.normal(size=(count, n, 2)) / np.sqrt(n)
    size = 20 * np.exp(1.5 * rng.normal(size=count))[:, None] * np.array([1.5, -1.2])  # heavy tails: a few samples dominate

    def mean(chosen):
        vectors = own[chosen].transpose(1, 0, 2).reshape(n, -1)
        mixed = (vectors * size[chosen].ravel()) @ vectors.T / len(chosen)
        return MatrixOperator(torch.from_numpy((shared * strength[chosen].mean(0)) @ shared.T + mixed))

    return mean(np.arange(count)), mean(part_of(np.arange(count), np.zeros(count, dtype=int)))


def test_a_part_that_leads_elsewhere_is_not_believed():
    """The group's smallest eigenvector is often not its part's. With NEAR = 1, one of these 40 is off by 4 %."""
    off = []
    for seed in range(40):
        whole, part = of_samples(seed)
        found = measure_ends(whole, part=part, rtol=1e-2, seed=seed)
        off.append(abs(found.lambda_min.value / float(torch.linalg.eigvalsh(whole.matrix)[0]) - 1))
    assert max(off) < 1e-2


def test_where_nothing_is_enough_the_ends_are_measured(diagonal):
    values = with_bulk(20_000, TAIL, 0.5)
    given = {"tau": 1e-3, "seed": 1}
    found = measure_ends(diagonal(values, torch.float32, reflect=3), enough=-40.0, **given)
    assert found.lambda_min.converged
    assert found.steps == measure_ends(diagonal(values, torch.float32, reflect=3), **given).steps


def test_positive_operators_are_looked_at_until_that_is_known(diagonal):
    values = abs(with_bulk(2000, [50, 20, 10], 0.1)) + 1.0
    found = measure_ends(diagonal(values, reflect=3), tau=1e-3, enough=0.0)
    assert found.lambda_min.interval[0] > -0.05
    assert FIRST_LOOK < found.steps[0] < 100


def test_spanned_spaces_and_two_parameters(diagonal):
    found = measure_ends(diagonal([3.0, -1.0]))
    assert (found.lambda_min.value, found.lambda_max.value) == pytest.approx((-1, 3))
    assert found.lambda_min.converged
    assert found.lambda_min.confidence == 1
    assert measure_ends(diagonal(np.full(50, 2.0))).lambda_min.value == pytest.approx(2)
    assert measure_ends(diagonal(np.zeros(50))).lambda_max.value == 0


def test_asymmetric_operators_are_refused_by_their_part(diagonal):
    matrix = torch.randn(40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RandomOperatorError, match="not symmetric"):
        measure_ends(diagonal(np.arange(40.0)), part=MatrixOperator(matrix))


def test_parts_hold_the_classes_in_their_shares_and_small_groups_have_none():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [400, 200, 100]))
    group = np.flatnonzero(labels < 2)
    part = part_of(group, labels)
    assert set(part) <= set(group)
    assert len(part) == 150
    assert np.bincount(labels[part]).tolist() == [100, 50]
    assert (np.diff(part) > 0).all()
    assert [len(part_of(np.arange(n), labels)) for n in (256, 255, 64)] == [64, 32, 8]
    assert part_of(np.arange(63), labels) is None
    assert part_of(np.arange(300), labels, work=WORTH_A_LOOK / 2) is None
    assert len(part_of(np.arange(300), labels, work=WORTH_A_LOOK)) == 75


def test_what_is_random_in_a_group_is_found_on_a_few_samples():
    samples = Samples.from_tensors(torch.randn(300, 4), torch.arange(300) % 3)
    model = torch.nn.Linear(4, 3)
    counted = []

    def loss(model, batch):
        counted.append(len(batch[1]))
        noise = 1 + 0.3 * torch.rand(len(batch[1]))
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none") * noise

    operator = HessianOperator(model, samples, loss, micro_batch=64)
    counted.clear()
    with pytest.raises(RandomOperatorError, match="differ by"):
        measure_ends(operator)
    assert sum(counted) <= 64  # not in a pass over all 300
    assert operator.matvecs == 0


@pytest.mark.parametrize("goal", ["ends", "verdict"])
def test_a_network_against_its_dense_hessian(network, long_tail, dense, goal):
    for seed in range(3):
        model, samples = network(seed=seed), long_tail(seed=seed + 10)
        found = analyze(model, samples, settings=AnalysisSettings(eta=6, goal=goal))
        whole = analyze(model, samples, settings=AnalysisSettings(eta=6))
        for name, group in found.groups.items():
            few = samples.subset(np.flatnonzero(np.isin(samples.labels, group.classes)))
            values = torch.linalg.eigvalsh(dense(model, few).hessian).numpy()
            for end, truth in ((group.lambda_min, values[0]), (group.lambda_max, values[-1])):
                below, above = end.interval
                assert below is None or below <= truth
                assert above is None or truth <= above
                if goal == "ends":
                    assert end.value == pytest.approx(truth, rel=2e-3)
            assert group.verdict.label == whole.groups[name].verdict.label
            if group.verdict.curvature == "negative curvature":
                assert group.certificate.holds
                assert group.matvecs < whole.groups[name].matvecs
            assert group.negative_mass == []
            assert group.density is group.trace is group.negative_energy is None


def test_what_a_goal_leaves_out_cannot_be_asked_for():
    with pytest.raises(SettingsError, match=r"leave out k, starts"):
        parse_settings({"goal": "ends", "k": 3, "starts": 2})
    with pytest.raises(SettingsError, match="leave out engine"):
        parse_settings({"goal": "verdict", "engine": "exact"})
    with pytest.raises(SettingsError, match="goal"):
        parse_settings({"goal": "everything"})


@pytest.mark.parametrize("misleading", [False, True])
def test_vectors_of_an_earlier_run_keep_the_interval(diagonal, misleading):
    """However wrong they are: here a unit vector without any part along the ends, which a random one always has."""
    n, delta = 300, 0.2
    values = np.sort(np.cos(np.linspace(0, np.pi, n)) ** 3)
    knows = torch.zeros(n, dtype=torch.float64)
    knows[[n // 2, n // 3] if misleading else [0, n - 1]] = 0.5**0.5
    missed = said = 0
    for seed in range(100):
        operator = diagonal(values, reflect=5)
        found = measure_ends(operator, seed=seed, steps=12, delta=delta, knows=operator._turn(knows))
        below, above = found.lambda_min.interval[0], found.lambda_max.interval[1]
        said += below is not None
        missed += below is not None and (below > values[0] or above < values[-1])
    assert said == 100
    assert missed <= delta * 100


def test_vectors_of_an_earlier_run_save_products(diagonal):
    values = with_bulk(3000, TAIL, 0.05)
    before, now = diagonal(values, reflect=3), diagonal(values * np.random.default_rng(1).uniform(0.95, 1.05, 3000), reflect=3)
    first = measure_ends(before, seed=0)
    knows = half_way(first.vectors["min"], first.vectors["max"])
    warm, cold = measure_ends(now, seed=1000, knows=knows), measure_ends(now, seed=1000)
    assert warm.matvecs < 0.8 * cold.matvecs
    assert warm.lambda_min.value == pytest.approx(now.values.min().item(), rel=1e-3)
    assert warm.lambda_max.value == pytest.approx(now.values.max().item(), rel=1e-3)


@pytest.mark.parametrize("goal", ["ends", "verdict"])
def test_an_analysis_leaves_its_vectors_for_the_next(network, long_tail, dense, goal):
    """Both ends of every group, whatever is stored of them: the next analysis starts between them."""
    model, samples, left = network(), long_tail(), {}
    first = AnalysisSettings(eta=6, goal=goal, only=["tail"])
    analyze(model, samples, settings=first, warm=left)
    assert sorted(left) == ["tail/max", "tail/min"]
    values, vectors = torch.linalg.eigh(dense(model, samples.subset(np.flatnonzero(samples.labels == 2))).hessian)
    assert len(values) == len(left["tail/max"])
    assert abs(float(vectors[:, -1] @ left["tail/max"].double())) > 0.9
    later = first.model_copy(update={"seed": 1000})
    cold = analyze(model, samples, settings=later).groups["tail"].steps[0]
    assert analyze(model, samples, settings=later, warm=left).groups["tail"].steps[0] < cold
