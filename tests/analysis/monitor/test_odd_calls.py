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


def test_a_log_that_was_cut_off_still_tells_its_samples(network, long_tail, tmp_path):
    options = {"every": 1, "at_most": None, "folder": tmp_path, "resume": True}
    Monitor(long_tail(), eta=6, **options)(network(torch.float32), 1)
    log = tmp_path / "curvature" / "monitor.jsonl"
    log.write_bytes(log.read_bytes() + b'{"event": "measured", "step": 2, "sec')
    with pytest.raises(MonitorError, match="holds results over other samples"):
        Monitor(long_tail(), eta=3, **options)
    assert Monitor(long_tail(), eta=6, **options)(network(torch.float32), 2) is not None


def test_monitors_made_in_one_second_have_folders_of_their_own(network, long_tail, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monitors = [Monitor(long_tail(), every=1, at_most=None, **more) for more in ({}, {"eta": 6}, {})]
    assert not list(tmp_path.iterdir())  # until it is needed: the other processes of a group need none
    model = network(torch.float32)
    for monitor in monitors[:2]:
        monitor(model, 1)
    assert len({monitor.folder for monitor in monitors}) == 3
    assert len(list(tmp_path.glob("runs/monitor-*/curvature/step-1.json"))) == 2


def test_two_monitors_do_not_write_over_each_other(network, long_tail, tmp_path, caplog):
    first, second = (Monitor(long_tail(), every=1, at_most=None, folder=tmp_path, **more) for more in ({}, {"eta": 6}))
    model = network(torch.float32)
    for monitor in (first, second, first):  # its own result it may replace
        assert monitor.measure(model, 1)["curvature/all/lambda_min"] < 0
    assert list(json.loads((tmp_path / "curvature" / "step-1.json").read_text())["groups"]) == ["all"]
    (said,) = caplog.messages
    assert "step-1.json is another monitor's: give each of them a folder of its own" in said


def test_a_model_may_keep_a_state_that_is_no_tensor(long_tail, tmp_path):
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"scale": 1.0}

    model = Counting(12, 4)
    x, y = long_tail().batch
    numbers = Monitor((x.reshape(len(y), -1)[:, :12], y), every=1, at_most=None, folder=tmp_path)(model, 1)
    assert numbers["curvature/all/lambda_max"] > 0


def test_what_is_no_optimizer_is_refused(long_tail, tmp_path):
    with pytest.raises(MonitorError, match="optimizer = float: give the optimizer"):
        Monitor(long_tail(), optimizer=0.1, folder=tmp_path)
