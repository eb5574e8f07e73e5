"""Which samples a monitor watches, and what watching a part costs."""

import numpy as np
import torch
from saddlescope.analysis.monitor.chosen import choose
from saddlescope.analysis.samples.groups import make_scheme
from torch.utils.data import DataLoader, TensorDataset, default_collate

from saddlescope import Monitor


def test_parts_are_disjoint_of_one_size_and_of_their_group(long_tail):
    samples = long_tail(count=200, counts=(120, 50, 20, 10))
    scheme = make_scheme("head-tail", samples.class_counts, eta=30)
    found = choose(samples, scheme, 25, seed=0)
    for name, members in scheme.groups.items():
        parts = found.parts[name]
        assert len(parts) == (4 if name != "tail" else 2)
        assert {len(part) for part in parts} == {25 if name != "tail" else 15}
        assert len(set(np.concatenate(parts))) == sum(map(len, parts))
        assert set(found.samples.labels[np.concatenate(parts)]) <= set(members)
    # The group of all is a sample of all: the tail's share is what it is in the data, not in the union of the parts.
    many = [choose(samples, scheme, 25, seed) for seed in range(200)]
    tail = np.mean([np.isin(one.samples.labels[one.parts["all"][0]], (2, 3)).mean() for one in many])
    assert abs(tail - 30 / 200) < 0.02


def test_the_choice_is_the_seeds_and_nobody_elses(long_tail):
    samples = long_tail(count=200, counts=(120, 50, 20, 10))
    scheme = make_scheme("head-tail", samples.class_counts, eta=30)
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    one, again, other = (choose(samples, scheme, 25, seed) for seed in (0, 0, 1))
    assert one.index_sha256 == again.index_sha256 != other.index_sha256
    assert one.samples.sha256() == again.samples.sha256()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_small_groups_are_watched_whole(long_tail):
    samples = long_tail()
    found = choose(samples, make_scheme("head-tail", samples.class_counts, eta=6), 1000, seed=0)
    assert found.whole
    assert found.samples is samples
    assert {name: len(parts[0]) for name, parts in found.parts.items()} == {"all": 37, "head": 30, "tail": 7}


def test_a_part_is_stated_and_its_sampling_error_measured(network, long_tail, tmp_path):
    samples = long_tail(count=200, counts=(120, 50, 20, 10))
    model = network(torch.float32)
    monitor = Monitor(samples, eta=30, most=25, every=1, at_most=None, folder=tmp_path)
    first, second, third = (monitor(model, step) for step in range(3))
    assert np.isnan(first["curvature/head/lambda_min_sampling_error"])
    assert second["curvature/head/lambda_min_sampling_error"] > 0
    assert np.isnan(third["curvature/head/lambda_min_sampling_error"])
    head = monitor.result.groups["head"]
    assert (head.size, monitor.result.scheme.sizes["head"]) == (25, 170)
    assert any("measured on 25 of 170 samples" in warning for warning in head.warnings)
    watched = monitor.result.provenance.training["watched"]["head"]
    assert (watched["samples"], watched["of"]) == (25, 170)
    assert monitor.result.additivity is None
    # The same weights, the same samples, other starts: the same numbers, to what was asked for.
    for number in ("lambda_max", "loss", "gradient_norm"):
        values = [numbers[f"curvature/head/{number}"] for numbers in (first, second, third)]
        np.testing.assert_allclose(values, values[0], rtol=2e-2)
    dense = Monitor(
        monitor.chosen.samples.subset(monitor.chosen.parts["head"][0]), every=1, at_most=None, folder=tmp_path / "o"
    )
    np.testing.assert_allclose(dense(model, 0)["curvature/all/loss"], first["curvature/head/loss"], rtol=1e-6)


def test_a_loader_is_watched_in_the_order_of_its_set_and_reading_it_draws_no_random_number(long_tail, tmp_path):
    def list_of(items):
        return default_collate(items)  # another function than the default

    inputs, targets = long_tail().batch
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=3, shuffle=True, collate_fn=list_of)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    watched = Monitor(loader, folder=tmp_path).chosen
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(watched.samples.batch[0], inputs)
    assert watched.sha256 == Monitor((inputs, targets), folder=tmp_path).chosen.sha256


def test_items_that_draw_random_numbers_leave_those_of_the_training(long_tail, tmp_path):
    inputs, labels = long_tail().batch

    class Drawing:
        lazy, targets = True, labels

        def __len__(self):
            return len(labels)

        def __getitem__(self, item):
            torch.rand(1)  # as a transform does that is applied with probability 0
            return inputs[item], int(labels[item])

    torch.manual_seed(1)
    before = torch.get_rng_state()
    Monitor(Drawing(), folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
