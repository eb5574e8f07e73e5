"""The monitor in a training loop: right numbers, on time, within its share, and no trace in the training."""

import copy
import gc
import json
import logging
import math
import random

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.monitor.run_folder import MonitorError
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.settings import SettingsError
from saddlescope.analysis.samples.samples import SamplesError
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from saddlescope import Monitor

ETA = 6  # head: 20 and 10 samples, tail: 5 and 2


def train(model, samples, steps, monitor=None, *, around=None, seed=3):
    """A loop with everything that a monitor could disturb; returns all that it leaves."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    inputs, targets = samples.batch
    dtype = next(model.parameters()).dtype
    seen = []
    for step in range(steps):
        rows = torch.randint(len(targets), (8,))
        noise = np.random.rand() + random.random()  # noqa: NPY002
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
            outputs = functional.dropout(model(inputs[rows].to(dtype) * (1 + 0.1 * noise)), 0.1)
            loss = functional.cross_entropy(outputs, targets[rows])
            loss.backward()
            if monitor is not None:  # gradients half accumulated, autocast on
                with around() if around is not None else torch.enable_grad():
                    seen.append(monitor(model, step))
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    states = [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype(np.int64)), random.random()]  # noqa: NPY002
    gradients = [p.grad for p in model.parameters()]
    flags = [module.training for module in model.modules()]
    return [*model.state_dict().values(), *gradients, *states, *flags], seen


def draws(model, batch):
    """Cross-entropy that uses up random numbers of everybody's, and wants full precision."""
    assert not torch.is_autocast_enabled("cpu")
    torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def same(one, other):
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True))


def test_the_numbers_of_every_step_are_those_of_the_dense_hessian(network, long_tail, dense, tmp_path):
    model, samples = network(), long_tail()
    copies = {}

    class Kept(Monitor):
        def __call__(self, model, step):
            numbers = super().__call__(model, step)
            if numbers is not None:
                copies[step] = (copy.deepcopy(model), numbers)
            return numbers

    monitor = Kept(samples, eta=ETA, every=4, at_most=None, folder=tmp_path)
    train(model, samples, 21, monitor)
    assert sorted(copies) == [0, 4, 8, 12, 16, 20]
    for step, (at, numbers) in copies.items():
        assert all(type(value) is float for value in numbers.values())
        stored = load(CurvatureResult, tmp_path / "curvature" / f"step-{step}.json")
        for name, classes in {"all": [0, 1, 2, 3], "head": [0, 1], "tail": [2, 3]}.items():
            exact = dense(at, samples.subset(np.flatnonzero(np.isin(samples.labels, classes))))
            values = torch.linalg.eigvalsh(exact.hessian)
            of = {key.split("/")[-1]: value for key, value in numbers.items() if key.startswith(f"curvature/{name}/")}
            assert of["lambda_min"] == pytest.approx(float(values[0]), rel=2e-2, abs=1e-3 * float(values[-1]))
            assert of["lambda_max"] == pytest.approx(float(values[-1]), rel=2e-2)
            assert of["lambda_min_high"] >= float(values[0]) - 1e-12
            assert of["lambda_max_low"] <= float(values[-1]) + 1e-12
            assert not of["lambda_min_low"] > float(values[0])  # NaN: open
            assert not of["lambda_max_high"] < float(values[-1])
            assert of["gradient_norm"] == pytest.approx(float(exact.gradient.norm()), rel=1e-6)
            assert of["loss"] == pytest.approx(exact.loss, rel=1e-6)
            assert stored.groups[name].gradient_norm == of["gradient_norm"]
        assert stored.provenance.training["step"] == step


@pytest.mark.parametrize("around", [None, torch.no_grad, torch.inference_mode])
def test_training_gives_the_same_bits_with_and_without_it(network, long_tail, tmp_path, around):
    model, samples = network(torch.float32), long_tail()
    beside = copy.deepcopy(model)
    without, _ = train(model, samples, 11)
    monitor = Monitor(samples, eta=ETA, every=3, at_most=None, loss=draws, folder=tmp_path, deterministic=True)
    with_it, seen = train(beside, samples, 11, monitor, around=around)
    assert sum(numbers is not None for numbers in seen) == 4
    assert not any(math.isnan(numbers["curvature/tail/lambda_max"]) for numbers in seen if numbers)
    assert same(without, with_it)
    assert not torch.are_deterministic_algorithms_enabled()


def test_modes_around_it_change_no_number(network, long_tail, tmp_path):
    model, samples = network(torch.float32), long_tail()
    found = []
    for number, around in enumerate((torch.enable_grad, torch.no_grad, torch.inference_mode)):
        monitor = Monitor(samples, eta=ETA, every=1, at_most=None, folder=tmp_path / str(number))
        with around(), torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(monitor(model, 0))
        found[-1].pop("curvature/time_share")
    assert str(found[0]) == str(found[1]) == str(found[2])


def test_nothing_of_a_measurement_stays_in_memory(network, long_tail, tmp_path):
    model, samples = network(torch.float32), long_tail()
    monitor = Monitor(samples, eta=ETA, every=1, at_most=None, folder=tmp_path)

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    monitor(model, 0)
    before = tensors()
    for step in range(1, 4):
        monitor(model, step)
    assert tensors() == before


def test_a_failure_stops_nothing_and_is_said_once(network, long_tail, tmp_path, caplog):
    calls = []

    def fails(model, batch):
        calls.append(1)
        raise RuntimeError("no such kernel")

    model, samples = network(torch.float32), long_tail()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monitor = Monitor(samples, eta=ETA, every=1, at_most=None, loss=fails, folder=tmp_path)
    with caplog.at_level(logging.WARNING):
        seen = [monitor(model, step) for step in range(3)]
    assert all(math.isnan(numbers["curvature/tail/lambda_min"]) for numbers in seen)
    assert [record.levelname for record in caplog.records if "no such kernel" in record.message] == ["WARNING"]
    events = [json.loads(line) for line in (tmp_path / "curvature" / "monitor.jsonl").read_text().splitlines()]
    assert ["no such kernel" in event.get("reason", "") for event in events] == [False, True, True, True]
    assert same(before.values(), model.state_dict().values())
    good = Monitor(samples, eta=ETA, every=1, at_most=None, folder=tmp_path / "other")(model, 0)
    assert set(good) == set(seen[0])  # a logger sees the same names


def test_weights_in_pieces_and_weights_that_are_not_finite_are_failures(network, long_tail, tmp_path):
    samples, model = long_tail(), network(torch.float32)
    monitor = Monitor(samples, eta=ETA, every=1, at_most=None, folder=tmp_path)
    next(model.parameters()).ds_id = 0  # as ZeRO marks a sharded weight
    assert math.isnan(monitor(model, 0)["curvature/all/lambda_max"])
    model = network(torch.float32)
    with torch.no_grad():
        model.fc.weight[0, 0] = math.nan
    assert math.isnan(monitor(model, 1)["curvature/all/lambda_max"])
    reasons = [json.loads(line).get("reason") for line in (tmp_path / "curvature" / "monitor.jsonl").read_text().splitlines()]
    assert "sharded" in reasons[1]
    assert "NaN" in reasons[2]


def test_numbers_come_where_nothing_can_be_stored(network, long_tail, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    monitor = Monitor(long_tail(), eta=ETA, every=1, at_most=None, folder=tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        numbers = monitor(network(torch.float32), 0)
    assert numbers["curvature/all/lambda_max"] > 0
    assert len(caplog.records) == 1


def test_it_is_due_where_every_divides_the_step_or_a_multiple_was_passed(network, long_tail, tmp_path):
    monitor = Monitor(long_tail(), eta=ETA, every=10, folder=tmp_path)
    asked = [3, 7, 10, 10, 11, 19, 22, 29, 30, 55]
    assert [step for step in asked if monitor._due(step)] == [10, 22, 30, 55]


def test_compiled_and_wrapped_models_are_looked_through(network, long_tail, tmp_path):
    model, samples = network(torch.float32), long_tail()
    found = []
    for number, wrapped in enumerate((model, torch.compile(model, backend="eager"), nn.DataParallel(model))):
        found.append(Monitor(samples, eta=ETA, every=1, at_most=None, folder=tmp_path / str(number))(wrapped, 0))
        found[-1].pop("curvature/time_share")
    assert str(found[0]) == str(found[1]) == str(found[2])


def test_sharpness_stands_against_the_largest_learning_rate(network, long_tail, tmp_path):
    model = network(torch.float32)
    head, *rest = model.parameters()
    optimizer = torch.optim.SGD([{"params": [head], "lr": 0.2}, {"params": rest}], lr=0.1)
    numbers = Monitor(long_tail(), eta=ETA, every=1, at_most=None, optimizer=optimizer, folder=tmp_path)(model, 0)
    assert numbers["curvature/all/sharpness_lr_half"] == pytest.approx(numbers["curvature/all/lambda_max"] / (2 / 0.2))


def test_a_folder_belongs_to_one_run(network, long_tail, tmp_path):
    model, samples = network(torch.float32), long_tail()
    Monitor(samples, eta=ETA, every=1, at_most=None, folder=tmp_path)(model, 0)
    with pytest.raises(MonitorError, match=r"step-0.json .*: give the monitor a new folder, or resume=True"):
        Monitor(samples, eta=ETA, folder=tmp_path)
    resumed = Monitor(samples, eta=ETA, every=1, at_most=None, folder=tmp_path, resume=True)
    assert resumed(model, 1) is not None


def test_without_a_folder_every_monitor_has_its_own(network, long_tail, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, samples = network(torch.float32), long_tail()
    for _ in range(2):
        Monitor(samples, every=1, at_most=None)(model, 0)
    assert len(list(tmp_path.glob("runs/monitor-*/curvature/step-0.json"))) == 2


def test_what_cannot_be_watched_is_said_before_training(long_tail):
    class Augmented(Dataset):
        targets = list(range(4)) * 5

        def __len__(self):
            return 20

        def __getitem__(self, item):
            return torch.randn(1, 6, 6), self.targets[item]

    samples = long_tail()
    with pytest.raises(SamplesError, match="random augmentation"):
        Monitor(Augmented())
    with pytest.raises(SamplesError, match=r"Monitor: of object no samples can be made; give \(inputs, targets\), a Dataset"):
        Monitor(object())
    with pytest.raises(SettingsError, match="did you mean 'steps'"):
        Monitor(samples, stebs=3)
    with pytest.raises(MonitorError, match="every = 0"):
        Monitor(samples, every=0)
    with pytest.raises(MonitorError, match="leave out 'device'"):
        Monitor(samples, device="cuda")
    with pytest.raises(MonitorError, match="escape needs all samples"):
        Monitor(samples, most=5, escape=True)


def test_escape_rates_are_among_the_numbers_where_they_are_asked_for(network, long_tail, tmp_path):
    """SGD's rate is minus the curvature of what is trained: mean loss and half the weight decay, along the tail's vector."""
    model, samples = network(), long_tail()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    options = {"optimizer": optimizer, "at_most": None, "escape": True, "rtol": 1e-4}
    monitor = Monitor(samples, eta=6, folder=tmp_path, **options)
    numbers = monitor(model, 500)
    names = {name.rpartition("/")[2] for name in numbers if "escape_rate" in name}
    assert names == {f"escape_rate_{rule}" for rule in ("sgd", "sam", "imbsam", "ssesam-1", "ssesam-2")}
    vectors, operator = monitor._warm, HessianOperator(model, samples)
    v = vectors["tail/min"].double()
    assert numbers["curvature/tail/escape_rate_sgd"] == pytest.approx(-float(v @ operator.matvec(v)) - 0.01, rel=1e-2)
    assert not any("escape_rate" in name for name in Monitor(samples, folder=tmp_path / "b", at_most=None)(model, 500))


def test_a_compiled_model_with_a_scaler_trains_to_the_same_bits(long_tail, tmp_path):
    samples = long_tail()
    inputs, targets = samples.batch

    def trained(monitor=None):
        torch.manual_seed(0)
        layers = nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4)
        model = torch.compile(nn.Sequential(*layers), backend="eager")
        optimizer, scaler = torch.optim.Adam(model.parameters()), torch.amp.GradScaler("cpu", enabled=False)
        for step in range(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = functional.cross_entropy(model(inputs.float()), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if monitor is not None:
                assert monitor(model, step)["curvature/all/loss"] > 0
        return [*model.state_dict().values(), *(state["exp_avg"] for state in optimizer.state.values()), torch.get_rng_state()]

    assert same(trained(), trained(Monitor(samples, every=1, at_most=None, steps=6, folder=tmp_path)))
