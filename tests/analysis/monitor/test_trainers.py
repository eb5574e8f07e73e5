"""The callbacks in the real trainers: same weights with and without, numbers where people look for them."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from saddlescope import Monitor, Samples

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
COUNTS = (60, 30, 10, 6)


def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.full((count,), c) for c, count in enumerate(COUNTS)])
    return torch.randn(len(labels), 12, generator=generator) + labels[:, None], labels


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def lightning_module(lightning, on_validation=None):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 4))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, _):
            if on_validation is not None:
                on_validation(self)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    return Module()


def fit(lightning, module, folder, callbacks=(), **options):
    loader = DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True)
    logger = lightning.pytorch.loggers.CSVLogger(folder)
    trainer = lightning.Trainer(
        max_epochs=3, logger=logger, callbacks=list(callbacks), accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder, **options,
    )  # fmt: skip
    lightning.seed_everything(5, verbose=False)
    trainer.fit(module, loader, DataLoader(TensorDataset(*data()), batch_size=64))
    return logger


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")
    from saddlescope import LightningMonitor

    plain, watched = lightning_module(lightning), lightning_module(lightning)
    fit(lightning, plain, tmp_path / "plain")
    callback = LightningMonitor(Samples.from_tensors(*data()), eta=20, every=7, at_most=None)
    logger = fit(lightning, watched, tmp_path / "watched", [callback])
    assert equal(plain, watched)
    rows = (tmp_path / "watched" / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "curvature/tail/lambda_min" in rows
    steps = sorted(int(path.stem.split("-")[1]) for path in (callback.monitor.folder / "curvature").glob("step-*.json"))
    assert steps == [7, 14, 21]
    assert callback.monitor.folder == type(callback.monitor.folder)(logger.log_dir)
    assert callback.monitor.result.provenance.model == "Module"


def test_lightning_inside_a_validation_step(tmp_path):
    lightning = pytest.importorskip("lightning")
    seen = []
    monitor = Monitor(Samples.from_tensors(*data()), eta=20, every=1, at_most=None, folder=tmp_path)

    def measure(module):
        seen.append((torch.is_inference_mode_enabled(), monitor(module, len(seen))))

    module = lightning_module(lightning, measure)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.validate(module, DataLoader(TensorDataset(*data()), batch_size=64), verbose=False)
    (inference, numbers), _ = seen
    assert inference
    x, y = data()
    gradient = torch.autograd.grad(nn.functional.cross_entropy(module.eval()(x), y), list(module.parameters()))
    norm = torch.cat([part.reshape(-1) for part in gradient]).norm()
    assert numbers["curvature/all/gradient_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_lightning_asks_for_the_folder_in_every_process(tmp_path):
    pytest.importorskip("lightning")
    from saddlescope import LightningMonitor

    class Told:
        """A trainer of two processes: who asks for the folder waits until the other does."""

        global_step, optimizers, asked = 0, (), []

        def __init__(self, first):
            self.is_global_zero = first

        @property
        def log_dir(self):
            self.asked.append(self.is_global_zero)
            return tmp_path

    callbacks = [LightningMonitor(data(), eta=20) for _ in range(2)]
    for first, callback in zip((True, False), callbacks, strict=True):
        callback.on_train_start(Told(first), None)
    assert Told.asked == [True, False]
    assert [callback.monitor is None for callback in callbacks] == [False, True]


def small_bert(transformers):
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, num_labels=4,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


class Sentences(torch.utils.data.Dataset):
    def __init__(self):
        self.labels = data()[1]
        self.ids = torch.randint(0, 40, (len(self.labels), 10), generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, item):
        return {"input_ids": self.ids[item], "attention_mask": torch.ones(10, dtype=torch.int64), "labels": self.labels[item]}


@pytest.mark.parametrize("attached", [True, False])
def test_transformers(tmp_path, attached):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from saddlescope import TransformersMonitor

    def run(folder, callback=None):
        arguments = transformers.TrainingArguments(
            output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=8, report_to=[], save_strategy="no",
            logging_steps=5, seed=3, use_cpu=True, disable_tqdm=True, learning_rate=1e-3,
        )  # fmt: skip
        given = [] if callback is None or attached else [callback]
        trainer = transformers.Trainer(small_bert(transformers), arguments, train_dataset=Sentences(), callbacks=given)
        if callback is not None and attached:
            callback.attach(trainer)
        trainer.train()
        return trainer

    plain = run(tmp_path / "plain")
    callback = TransformersMonitor(Sentences(), eta=20, every=5, at_most=None, steps=20)
    watched = run(tmp_path / "watched", callback)
    assert equal(plain.model, watched.model)
    rows = [row for row in watched.state.log_history if "curvature/tail/lambda_min" in row]
    assert [row["step"] for row in rows] == [5, 10]
    assert all(row["curvature/all/loss"] > 0 for row in rows)
    stored = json.loads((tmp_path / "watched" / "curvature" / "step-10.json").read_text())
    assert stored["groups"]["tail"]["loss"] == rows[-1]["curvature/tail/loss"]
    assert "curvature/all/sharpness_lr_half" in rows[0]


class Texts(torch.utils.data.Dataset):
    """Token ids as a tokeniser gives them, of any length, with words beside them that no model takes."""

    def __init__(self):
        generator = torch.Generator().manual_seed(2)
        self.rows = [torch.randint(1, 40, (3 + row % 5,), generator=generator).tolist() for row in range(24)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        ids = self.rows[row]  # ends an iteration with IndexError
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "label": row % 4, "domain": ["mail", "news"][row // 16]}


def padded(items):
    widest = max(len(item["input_ids"]) for item in items)
    assert all(set(item) <= {"input_ids", "attention_mask", "label"} for item in items)  # as a tokeniser's collator wants
    ids = [torch.tensor(item["input_ids"] + [0] * (widest - len(item["input_ids"]))) for item in items]
    ids = torch.stack(ids)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([item["label"] for item in items])}


@pytest.mark.parametrize("kind", ["data set", "datasets", "loader"])
def test_transformers_collates_what_is_watched_as_the_trainer_does(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from saddlescope import TransformersMonitor

    data, texts, model = Texts(), Texts(), small_bert(transformers)
    if kind == "datasets":
        data = pytest.importorskip("datasets").Dataset.from_list([texts[row] for row in range(len(texts))])
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=8, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True, learning_rate=1e-3,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=data, data_collator=padded)
    groups = {} if kind == "loader" else {"column": "domain"}
    if kind == "loader":

        def collate(items):
            return padded([{key: value for key, value in item.items() if key != "domain"} for item in items])

        data = DataLoader(texts, batch_size=5, shuffle=True, collate_fn=collate)
    callback = TransformersMonitor(data, every=2, at_most=None, steps=6, **groups).attach(trainer)
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "curvature/all/loss" in row]
    losses = []
    with torch.no_grad():
        for text in texts:
            logits = model.eval()(input_ids=torch.tensor([text["input_ids"]])).logits
            losses.append(float(nn.functional.cross_entropy(logits, torch.tensor([text["label"]]))))
    assert row["curvature/all/loss"] == pytest.approx(sum(losses) / 24, rel=1e-4)
    if kind != "loader":
        assert row["curvature/news/loss"] == pytest.approx(sum(losses[16:]) / 8, rel=1e-4)
    assert callback.monitor.scheme.sizes["all"] == 24
