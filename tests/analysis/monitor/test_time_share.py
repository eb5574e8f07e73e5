"""The share of the training time that a monitor keeps to, by a clock that is told what things take."""

import json

import pytest
import torch
from saddlescope.analysis.monitor.time_share import TimeShare
from torch import nn

from saddlescope import Monitor


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def __deepcopy__(self, memo):
        return self


class Slow(nn.Module):
    """A pass takes ``seconds``."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.fc = nn.Linear(36, 4)

    def forward(self, x):
        self.clock.now += self.seconds
        return self.fc(x.flatten(1).tanh())


def test_what_is_left_is_what_keeps_the_share():
    clock = Clock()
    share = TimeShare(0.2, clock)
    assert share.left() == 0
    clock.now = 8.0
    assert share.left() == pytest.approx(2.0)  # 2 of 10 seconds
    with share.spending() as so_far:
        clock.now += 2.0
        assert so_far() == 2.0
    assert share.left() == pytest.approx(0)
    assert share.share == pytest.approx(0.2)
    assert TimeShare(None, clock).left() == float("inf")


@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_the_share_is_kept_and_what_is_left_out_is_said(long_tail, tmp_path, seconds):
    torch.manual_seed(0)
    clock = Clock()
    model = Slow(clock, seconds)
    monitor = Monitor(long_tail(), every=20, at_most=0.1, steps=6, folder=tmp_path)
    monitor.time = TimeShare(0.1, clock)
    measured = 0
    for step in range(1, 801):
        clock.now += 1
        measured += monitor(model, step) is not None
        # What the first guess costs itself, and what comes after the last Lanczos step, is not stopped.
        assert monitor.time.spent <= 0.1 * clock.now + 20 * seconds
    assert measured + monitor.skipped == 40
    assert measured > 1
    assert monitor.skipped > 1
    assert 0.03 < monitor.time.share <= 0.1 + 1e-9
    events = [json.loads(line) for line in (tmp_path / "curvature" / "monitor.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "skipped" for event in events) == monitor.skipped
    assert sum(event["event"] == "measured" for event in events) == measured


def test_a_measurement_that_takes_too_long_is_stopped_and_the_next_waits(long_tail, tmp_path):
    torch.manual_seed(0)
    clock = Clock()
    model = Slow(clock, 0.001)
    monitor = Monitor(long_tail(), eta=6, every=1, at_most=0.5, folder=tmp_path)
    monitor.time = TimeShare(0.5, clock)
    clock.now = 100.0
    monitor._expected = 0.0  # a guess that is far too low
    model.seconds = 50.0
    assert monitor(model, 1) is None
    spent = monitor.time.spent
    assert 100 < spent < 1500  # 30 passes: what comes before the first Lanczos step, the look at the operator among it
    assert monitor._expected == pytest.approx(2 * spent)
    assert monitor(model, 2) is None
    assert monitor.time.spent == spent
    assert monitor.skipped == 2
    assert monitor.measure(model, 3) is not None  # asked for, whatever it takes


def test_a_short_training_without_a_measurement_is_told_why_and_what_to_do(long_tail, tmp_path, caplog):
    torch.manual_seed(0)
    clock = Clock()
    model = Slow(clock, 0.5)
    monitor = Monitor(long_tail(), every=10, at_most=0.05, folder=tmp_path)
    monitor.time = TimeShare(0.05, clock)
    for step in range(1, 51):
        clock.now += 1
        assert monitor(model, step) is None
    (said,) = [record.getMessage() for record in caplog.records]  # once
    assert "nothing measured at step 10" in said
    assert "at_most = 0.05 leaves 0.53 s now" in said
    assert "at_most=None measures whatever it takes" in said
    # One forward pass of 0.5 s, 160 of which are 80 s: 5 % of 25 more minutes.
    assert "about 80 s" in said
    assert "that much after 25 min of training" in said


def test_the_wait_that_is_said_is_when_there_is_enough():
    clock = Clock()
    share = TimeShare(0.1, clock)
    clock.now = 30.0
    with share.spending():
        clock.now += 5.0
    assert "that much after 95 s" in share.why(8.89, share.left())
    clock.now += 95.0
    assert share.left() == pytest.approx(8.89, abs=0.01)
