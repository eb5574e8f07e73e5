"""What a loop may hand to a monitor besides a step that is a number and a model that has weights: nothing stops training."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from saddlescope.analysis.monitor.run_folder import MonitorError
from torch import nn

from saddlescope import Monitor


@pytest.mark.parametrize("step", [torch.tensor(6), np.int64(6), 6.0])
def test_a_step_may_be_counted_by_anything_that_counts(network, long_tail, tmp_path, step):
    monitor = Monitor(long_tail(), every=3, at_most=None, folder=tmp_path)
    assert monitor(network(torch.float32), step) is not None
    assert (tmp_path / "curvature" / "step-6.json").exists()


def test_a_step_that_is_none_stops_nothing(network, long_tail, tmp_path, caplog):
    monitor = Monitor(long_tail(), every=1, at_most=None, folder=tmp_path)
    for step in (-1, "one", None, math.nan, torch.ones(2)):
        assert monitor(network(torch.float32), step) is None
        assert monitor.measure(network(torch.float32), step) is None
    assert ["step -1: a step is a number from 0 on" in record.getMessage() for record in caplog.records] == [True]


def test_a_model_without_weights_or_their_values_says_so(network, long_tail, tmp_path):
    monitor = Monitor(long_tail(), every=1, at_most=None, folder=tmp_path)
    models = [nn.Flatten(), network(torch.float32).to("meta"), nn.Sequential(nn.Flatten(), nn.LazyLinear(4))]
    assert all(math.isnan(monitor(model, step)["curvature/all/loss"]) for step, model in enumerate(models))
    reasons = [json.loads(line).get("reason") for line in (tmp_path / "curvature" / "monitor.jsonl").read_text().splitlines()]
    for reason, said in zip(reasons[1:], ("Flatten has no parameters", "on the device meta", "has no shape yet"), strict=True):
        assert said in reason


def test_a_run_goes_on_with_the_samples_that_it_began_with(network, long_tail, tmp_path):
    samples, model = long_tail(), network(torch.float32)
    options = {"eta": 6, "every": 1, "at_most": None, "folder": tmp_path, "resume": True}
    Monitor(samples, **options)(model, 1)
    for other in ({"eta": 3}, {"most": 4}):
        with pytest.raises(MonitorError, match="holds results over other samples: go on with the same data, groups"):
            Monitor(samples, **(options | other))
    again = copy.deepcopy(Monitor(samples, **options))
    assert again(model, 1) is not None  # the same step once more
    assert again(model, 2) is not None
    assert sorted(path.name for path in (tmp_path / "curvature").glob("*.json")) == ["step-1.json", "step-2.json"]


def test_what_is_no_optimizer_is_refused(long_tail, tmp_path):
    with pytest.raises(MonitorError, match="optimizer = float: give the optimizer"):
        Monitor(long_tail(), optimizer=0.1, folder=tmp_path)
