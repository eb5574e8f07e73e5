"""The optimizers in loops of Lightning, Hugging Face and accelerate, with the real packages; skipped where they are missing.

Truth is the optimizer's own loop over the same batches: the weights agree to the last bit.
"""

import pytest
import torch
from saddlescope.training.optimizers.registry import SSESAM, OptimizerError
from torch import nn
from torch.utils.data import DataLoader, Dataset

COUNTS = [60, 40, 9, 5]
pytestmark = pytest.mark.filterwarnings("ignore")  # other packages' own


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


class Points(Dataset):
    """Dictionaries, as Hugging Face's loaders make them."""

    def __init__(self, n=24):
        self.x = torch.randn(n, 3, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"features": self.x[i], "labels": torch.tensor(i % 4)}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, features, labels=None):
        return {"logits": self.body(features)}


def sse(model, lr=0.1):
    return SSESAM(torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), COUNTS, eta=10, epochs=2, gamma=0.5)


def loader(size=8):
    return DataLoader(Points(), batch_size=size)


def by_itself(*, accumulate=1, clip=None, schedule=False):
    """The same training in a loop of one's own."""
    model = Net().train()
    optimizer = sse(model)
    total = 2 * len(loader()) // accumulate
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total) if schedule else None
    for epoch in range(2):
        optimizer.set_epoch(epoch)
        for number, batch in enumerate(loader(), start=1):
            optimizer.backward(model, cross_entropy, batch, share=1 / accumulate)
            if number % accumulate == 0:
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                if scheduler:
                    scheduler.step()
                optimizer.zero_grad()
    return model


def same(left, right, **tolerance):
    for (name, a), b in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}", **(tolerance or {"rtol": 0, "atol": 0}))


def test_lightning_by_manual_optimisation(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.net = Net()

        def configure_optimizers(self):
            optimizer = sse(self.net)
            return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 6)]

        def on_train_epoch_start(self):
            self.optimizers().optimizer.set_epoch(self.current_epoch)

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            step = optimizer.optimizer.backward(self.net, cross_entropy, batch)
            optimizer.step()
            self.lr_schedulers().step()
            self.log("loss", step.loss)

    def trainer(epochs):
        return lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )

    module, whole = Module(), trainer(2)
    whole.fit(module, loader())
    assert whole.global_step == 6
    same(module.net, by_itself(schedule=True))

    first = trainer(1)
    first.fit(Module(), loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = Module()
    trainer(2).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt")
    same(resumed.net, module.net)


def test_lightning_by_automatic_optimisation_is_refused(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def configure_optimizers(self):
            return sse(self.net)

        def training_step(self, batch, index):
            return cross_entropy(self.net(batch["features"])["logits"], batch["labels"]).mean()

    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path, barebones=False
    )
    with pytest.raises(OptimizerError, match="no gradient of its own"):
        trainer.fit(Module(), loader())


def hugging_face(tmp_path, **arguments):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class SharpnessAware(transformers.Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            model.train()
            share = 1 / self.args.gradient_accumulation_steps
            optimizer = self.optimizer.optimizer  # accelerate's, around ours
            step = optimizer.backward(model, cross_entropy, self._prepare_inputs(inputs), share=share)
            return step.loss * share

        def get_train_dataloader(self):
            return loader()

    class Epochs(transformers.TrainerCallback):
        def on_epoch_begin(self, args, state, control, optimizer=None, **kwargs):
            optimizer.optimizer.set_epoch(round(state.epoch))

    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **{"save_strategy": "no", "max_grad_norm": 0.0, **arguments},
    )
    model = Net()
    optimizer = sse(model)
    total = 6 // settings.gradient_accumulation_steps
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total)
    return SharpnessAware(model, settings, train_dataset=Points(), optimizers=(optimizer, scheduler), callbacks=[Epochs()])


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, 0.2)])
def test_hugging_face_trainer(tmp_path, accumulate, clip):
    trainer = hugging_face(tmp_path, gradient_accumulation_steps=accumulate, max_grad_norm=clip or 0.0)
    trainer.train()
    same(trainer.model, by_itself(accumulate=accumulate, clip=clip, schedule=True))


def test_hugging_face_trainer_continues(tmp_path):
    trainer = hugging_face(tmp_path, save_strategy="epoch")
    trainer.train()
    again = hugging_face(tmp_path, save_strategy="epoch")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    same(again.model, trainer.model)


def test_hugging_face_trainer_as_it_is_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    trainer = hugging_face(tmp_path)

    class Plain(transformers.Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return cross_entropy(model(**inputs)["logits"], inputs["labels"]).mean()

    plain = Plain(trainer.model, trainer.args, train_dataset=Points(), optimizers=(trainer.optimizer, trainer.lr_scheduler))
    with pytest.raises(OptimizerError, match="no gradient of its own"):
        plain.train()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_accelerate(tmp_path, accumulate):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    net = Net().train()
    ours = sse(net)
    scheduler = torch.optim.lr_scheduler.LinearLR(ours, 1.0, 0.0, 6 // accumulate)
    model, optimizer, batches, scheduler = accelerator.prepare(net, ours, loader(), scheduler)
    for epoch in range(2):
        ours.set_epoch(epoch)
        for batch in batches:
            with accelerator.accumulate(model):
                ours.backward(model, cross_entropy, batch, share=1 / accelerator.gradient_accumulation_steps)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.2)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    same(net, by_itself(accumulate=accumulate, clip=0.2, schedule=True))
    accelerator.save_state(str(tmp_path / "state"))
    ours.set_epoch(0)
    accelerator.load_state(str(tmp_path / "state"))
    assert ours.epoch == 1
