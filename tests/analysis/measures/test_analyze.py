"""The whole analysis of one model against the dense float64 truth, at its defaults."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.krylov.guards import RandomOperatorError
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.samples.groups import GroupError
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.nn import functional

ETA = 6  # head: 20 and 10 samples, tail: 5 and 2


def part(samples, classes):
    return samples.subset(np.flatnonzero(np.isin(samples.labels, classes)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_group_encloses_its_dense_spectrum(network, long_tail, dense, dtype):
    for seed in range(4):
        model, samples = network(seed=seed), long_tail(seed=seed + 10)
        found = analyze(model, samples, settings=AnalysisSettings(eta=ETA, dtype=dtype))
        assert list(found.groups) == ["all", "head", "tail"]
        for group in found.groups.values():
            exact = dense(model, part(samples, group.classes))
            values = torch.linalg.eigvalsh(exact.hessian).numpy()
            assert group.loss == pytest.approx(exact.loss, rel=1e-5)
            assert group.gradient_norm == pytest.approx(float(exact.gradient.norm()), rel=1e-4)
            for extreme, truth in ((group.lambda_min, values[0]), (group.lambda_max, values[-1])):
                assert extreme.interval[0] <= truth <= extreme.interval[1]
                assert extreme.value == pytest.approx(truth, rel=2e-3, abs=1e-3 * values[-1])
            ratio = max(-values[0], 0) / values[-1]
            assert group.negative_ratio.interval[0] <= ratio <= group.negative_ratio.interval[1]
            for mass in group.negative_mass:
                assert mass.interval[0] - 1e-9 <= float((values < -mass.tau).mean()) <= mass.interval[1] + 1e-9
            for bound in group.saddle_index:
                assert bound.at_least <= int((values < -bound.tau).sum())
            assert (group.verdict.curvature == "negative curvature") == (values[0] < -group.verdict.tau)
            if group.certificate is not None:
                assert group.certificate.holds


def test_sums_over_groups_are_the_whole(network, long_tail):
    found = analyze(network(torch.float32), long_tail(), settings=AnalysisSettings(eta=ETA))
    assert found.additivity < 1e-5
    total = sum(found.groups[name].size * found.groups[name].loss for name in ("head", "tail"))
    assert total == pytest.approx(found.groups["all"].size * found.groups["all"].loss, rel=1e-5)


def test_relu_units_at_the_edge_widen_the_interval_of_float32():
    """Pre-activations of exactly zero up to rounding: the float32 network is another function than the float64 one."""
    gaps = []
    for seed in range(6):  # to which side the units fall is chance, and differs between machines
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
        inputs = torch.randn(40, 5, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            for unit in range(8):  # each unit exactly at its kink for five of the samples, up to rounding either way
                rows = inputs[5 * unit : 5 * unit + 5]
                target = torch.full((5, 1), -1 / 3, dtype=torch.float64)
                model[0].weight[unit] = torch.linalg.lstsq(rows, target).solution[:, 0]
                model[0].bias[unit] = 1 / 3
        model = model.float().double()  # weights that both precisions hold
        samples = Samples.from_tensors(inputs, torch.arange(40) % 3)
        narrow, wide = (
            analyze(model, samples, settings=AnalysisSettings(scheme="all", dtype=dtype)).groups["all"].lambda_max
            for dtype in ("float64", "float32")
        )
        assert wide.interval[0] <= narrow.value <= wide.interval[1]
        gaps.append(abs(narrow.value - wide.value) / narrow.value)
    assert max(gaps) > 1e-4  # far beyond float32 rounding


def test_subsampling_measures_its_own_error(network, long_tail):
    samples = long_tail(count=200, counts=(120, 50, 20, 10))
    settings = AnalysisSettings(eta=30, subsample=25)
    found = analyze(network(torch.float32), samples, settings=settings)
    head = found.groups["head"]
    assert head.size == 25
    assert head.sampling.population == 170
    assert head.sampling.subsets == 4
    assert head.sampling.lambda_max.standard_error > 0
    assert any("disjoint subsets" in warning for warning in head.warnings)
    whole = analyze(network(torch.float32), samples, settings=AnalysisSettings(eta=30)).groups["head"]
    assert head.sampling.lambda_min.value < whole.lambda_min.interval[1]  # subsets look more like saddles (concavity)
    assert whole.sampling is None
    assert found.additivity is None


def test_model_data_and_global_state_are_left_alone(network, long_tail):
    model, samples = network(torch.float32), long_tail()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    analyze(model, samples, settings=AnalysisSettings(eta=ETA, steps=10))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_random_model_is_refused(long_tail):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(36, 4)

        def forward(self, x):
            return self.fc(x.flatten(1) + 0.3 * torch.randn_like(x.flatten(1)))

    with pytest.raises(RandomOperatorError, match="random"):
        analyze(Noisy(), long_tail(), settings=AnalysisSettings(eta=ETA))


def test_an_empty_group_lists_the_class_counts(network, long_tail):
    with pytest.raises(GroupError, match=r"class counts: \[20, 10, 5, 2\]"):
        analyze(network(), long_tail(), settings=AnalysisSettings(eta=1))


def test_only_some_groups(network, long_tail):
    found = analyze(network(torch.float32), long_tail(), settings=AnalysisSettings(eta=ETA, only=["tail"], steps=10))
    assert list(found.groups) == ["tail"]


def test_a_loss_with_float32_constants_is_judged_in_float32():
    weights = torch.tensor([1.0, 2.0, 9.0])
    x, y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3

    def weighted(model, batch):
        return functional.cross_entropy(model(batch[0]), batch[1], weight=weights, reduction="none")

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    result = analyze(model, Samples.from_tensors(x, y), loss=weighted, settings=AnalysisSettings(eta=14))
    for group in result.groups.values():
        assert any("not re-evaluated in float64" in warning for warning in group.warnings)
        assert group.certificate is None or group.certificate.dtype == "float32"


def test_a_compiled_model_is_looked_through_and_a_complex_one_refused():
    x, y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    samples, settings = Samples.from_tensors(x, y), AnalysisSettings(eta=14, escape=False)
    model = nn.Linear(5, 3)
    plain = analyze(model, samples, settings=settings)
    assert analyze(torch.compile(model, backend="eager"), samples, settings=settings).groups == plain.groups
    model.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(OperatorError, match="'phase' is complex"):
        analyze(model, samples, settings=settings)


def test_a_flat_loss_has_no_negative_curvature():
    x, y = torch.randn(12, 5), torch.arange(12) % 3
    flat = lambda model, batch: 0 * model(batch[0]).sum(1)  # noqa: E731
    result = analyze(nn.Linear(5, 3), Samples.from_tensors(x, y), loss=flat, settings=AnalysisSettings(scheme="all"))
    assert {group.verdict.curvature for group in result.groups.values()} == {"none above tau"}


def test_a_result_draws_itself(tmp_path):
    x, y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    result = analyze(nn.Linear(5, 3), Samples.from_tensors(x, y), settings=AnalysisSettings(eta=14))
    drawn = result.draw(tmp_path)
    assert {path.suffix for path in drawn} == {".svg", ".png"}
    assert all(path.stat().st_size > 1000 for path in drawn)
    page = result._repr_html_()
    assert page.count("<tr>") == 4
    assert "No eigenvalue below" in page
