"""The loops of the page on analysis, run as they stand there with the real loggers, and read back from what these wrote."""

import math
import re
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from saddlescope import Monitor

pytestmark = pytest.mark.filterwarnings("ignore")  # of the loggers
PAGE = Path(__file__).parents[3] / "analysis" / "README.md"
NAME = "curvature/tail/lambda_min"


@pytest.fixture
def run(long_tail, tmp_path, monkeypatch):
    """Runs the block that holds a word; what the monitor returned, by step."""
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    samples, returned = long_tail(), {}

    def train_on(batch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch[0].float()), batch[1]).backward()
        optimizer.step()

    class Told(Monitor):
        def __init__(self, samples, **options):
            super().__init__(samples, **(options | {"eta": 6, "every": 2, "at_most": None, "steps": 8}))

        def __call__(self, model, step):
            numbers = super().__call__(model, step)
            if numbers is not None:
                returned[step] = numbers
            return numbers

    def run(word):
        (block,) = [text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in text]
        names = {
            "samples": samples,
            "model": model,
            "loader": [samples.batch] * 4,
            "train_on": train_on,
            "optimizer": optimizer,
        }
        if "Monitor(" in block:
            block = block.replace("from saddlescope import Monitor\n", "")
            names["Monitor"] = Told
        else:
            names["monitor"] = Told(samples, folder="runs/mine")
        exec(compile(block, f"block with {word}", "exec"), names)
        assert list(returned) == [2, 4]
        return returned

    return run


def equal(read, returned):
    return all(
        a == pytest.approx(b, rel=1e-6) or (math.isnan(a) and math.isnan(b)) for a, b in zip(read, returned, strict=True)
    )


def test_tensorboard(run):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    returned = run("SummaryWriter(")
    read = events.EventAccumulator("runs/mine/tensorboard")
    read.Reload()
    assert set(read.Tags()["scalars"]) == set(returned[2])
    for name in returned[2]:
        scalars = read.Scalars(name)
        assert [event.step for event in scalars] == [2, 4]
        assert equal([event.value for event in scalars], [numbers[name] for numbers in returned.values()])


def test_mlflow(run):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")  # its small edition has no store
    returned = run("mlflow.set_tracking_uri(")
    client = mlflow.MlflowClient()
    (stored,) = client.search_runs(["0"])
    assert stored.info.status == "FINISHED"
    assert set(stored.data.metrics) == set(returned[2])
    history = client.get_metric_history(stored.info.run_id, NAME)
    assert [metric.step for metric in history] == [2, 4]
    assert equal([metric.value for metric in history], [numbers[NAME] for numbers in returned.values()])


def test_wandb_offline(run, monkeypatch):
    pytest.importorskip("wandb")
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_SILENT", "true")
    returned = run("wandb.init(")
    (file,) = Path("runs/mine/wandb").glob("offline-run-*/run-*.wandb")
    rows = {}
    for record in records(file.read_bytes()):
        read = messages.Record()
        read.ParseFromString(record)
        if read.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): item.value_json for item in read.history.item}
            rows[int(row["_step"])] = {name: float(row[name]) for name in returned[2]}
    assert list(rows) == [2, 4]
    assert all(equal(rows[step].values(), returned[step].values()) for step in rows)


def records(content):
    """The records of W&B's file: LevelDB's log after 7 bytes, in blocks of 32 KiB."""
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or last
            yield record
            record = b""
