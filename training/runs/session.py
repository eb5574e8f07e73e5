"""A run in memory: its parts, built from the settings alone, and the state to continue from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..data.datasets import LongTailedData
from ..files import write_torch
from ..losses import PerSampleLoss, build_loss
from ..networks.models import build_model
from ..optimizers.registry import OptimizerError, Wrapper, build_optimizer
from .accuracy import class_groups
from .checkpoint import StateError, load_state, plain_state
from .messages import in_one_line
from .run import RunSettings
from .schedule import learning_rate

AUTOCAST = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
INITIAL, ORDER, AUGMENT, LAYERS, METHOD = range(5)  # what a seed is for


def derived_seed(seed: int, purpose: int, *position: int) -> int:
    """An independent 63-bit seed for one purpose at one place of a run."""
    return int(np.random.SeedSequence([seed, purpose, *position]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _generator(seed: int, purpose: int, *position: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *position))


def _seed_layers(device: torch.device, seed: int) -> None:
    """Seeds what dropout draws from; ``train_run`` puts the global state back.

    Not ``torch.manual_seed``: each call of that formats a stack trace for every kind of accelerator that is not in use, a
    twentieth of the time in which a small network trains.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _compiled(model: nn.Module) -> nn.Module:
    """The model through ``torch.compile``.

    The sizes of batches are two, the ordinary one and the last of an epoch: each has code of its own, as code for any size is
    slower, and its choice would depend on what this process had trained before.
    """
    return cast(nn.Module, torch.compile(model, dynamic=False))


@contextmanager
def _kept_graphs(compiled: bool) -> Iterator[None]:
    """Lets compiled code keep its graphs, where rules differentiate one of them several times; torch frees them by default."""
    if not compiled:
        yield
        return
    from torch._functorch import config  # the place that torch's own message about this names

    with config.patch(donated_buffer=False):
        yield


@dataclass
class Session:
    """A run in memory.

    Attributes:
        epoch: epochs done.
        step: steps done of the current epoch.
        stepped: the model as the steps evaluate it: itself, or compiled.
        loss_sum: sum of the training losses of the current epoch's samples so far, float64 on the device.
        seconds: spent on the current epoch in earlier sessions.
    """

    run: RunSettings
    data: LongTailedData
    device: torch.device
    model: nn.Module
    loss: PerSampleLoss
    optimizer: Wrapper
    mixing: np.random.Generator
    stepped: nn.Module
    epoch: int = 0
    step: int = 0
    loss_sum: Tensor | None = None
    seconds: float = 0.0

    @classmethod
    def build(cls, run: RunSettings, data: LongTailedData, device: torch.device) -> Session:
        """Everything as it is before the first step."""
        model = build_model(**model_arguments(run, data), seed=derived_seed(run.seed, INITIAL))
        # Convolutions on a CPU are 1.2 to 1.4 times faster in this layout, evaluation twice; values do not depend on it.
        model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
        mixing = np.random.default_rng(derived_seed(run.seed, METHOD))
        loss = build_loss(class_counts=data.class_counts, **run.loss.model_dump())
        on_device = LongTailedData(**{**vars(data), "train": data.train.to(device), "test": data.test.to(device)})
        optimizer = make_optimizer(run, data.class_counts, model, mixing, device)
        stepped = _compiled(model) if run.training.compile else model
        return cls(run, on_device, device, model, loss, optimizer, mixing, stepped)

    @property
    def autocast(self) -> torch.dtype | None:
        """Mixed precision of the forward passes."""
        return AUTOCAST[self.run.training.autocast]

    @property
    def groups(self) -> dict[str, list[int]]:
        """Classes by group, for accuracy."""
        return class_groups(self.data.class_counts, **self.run.groups.model_dump())

    @property
    def lr(self) -> float:
        """Learning rate of the current epoch."""
        table = self.run.training
        return learning_rate(
            self.epoch,
            epochs=table.epochs,
            lr=table.lr,
            schedule=table.schedule,
            warmup_epochs=table.warmup_epochs,
            steps=table.steps,
        )

    @property
    def steps_done(self) -> int:
        """Steps since the beginning."""
        return self.epoch * -(-len(self.data.train) // self.run.training.batch_size) + self.step

    def steps(self) -> Iterator[None]:
        """Does the remaining steps of the current epoch, one at a time."""
        table, seed = self.run.training, self.run.seed
        train = self.data.train
        self.stepped.train()
        self.optimizer.set_epoch(self.epoch)
        self.loss.set_epoch(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        order = torch.randperm(len(train), generator=_generator(seed, ORDER, self.epoch)).to(self.device)
        batches = order.split(table.batch_size)
        if self.loss_sum is None:
            self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        numbers = range(self.step, len(batches))
        draws = ((batches[number], _generator(seed, AUGMENT, self.epoch, number)) for number in numbers)
        for number, inputs in zip(numbers, train.augmented_batches(draws, table.augment), strict=True):
            index = batches[number]
            _seed_layers(self.device, derived_seed(seed, LAYERS, self.epoch, number))
            with _kept_graphs(self.stepped is not self.model):
                outcome = self.optimizer.step(self.stepped, self.loss, (inputs, train.targets[index]))
            self.loss_sum += outcome.loss.double() * len(index)
            self.step = number + 1
            yield

    def next_epoch(self) -> None:
        """Counts the epoch as done."""
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, None, 0.0

    def finite(self) -> bool:
        """Whether neither the losses of this epoch nor a weight or running statistic has left the numbers."""
        values = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        if self.loss_sum is not None:
            values.append(self.loss_sum)
        return bool(torch.stack([t.isfinite().all() for t in values]).all())

    def store(self, path: Path, seconds: float) -> None:
        """Writes what :meth:`restore` needs."""
        state = {
            "model": plain_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "mixing": _plain(self.mixing.bit_generator.state),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "seconds": seconds,
        }
        write_torch(path, state)

    def restore(self, path: Path) -> None:
        """Continues from a stored state, if there is one.

        Raises:
            StateError: it is damaged, or of another network.
        """
        state = load_state(path, self.device)
        if state is None:
            return
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise StateError(
                f"{path} is of another network than [model] builds now ({in_one_line(error)}); put the network "
                "back as it was, or remove the run's folder"
            ) from None
        self.optimizer.load_state_dict(state["optimizer"])
        self.mixing.bit_generator.state = state["mixing"]
        self.epoch, self.step, self.loss_sum = state["epoch"], state["step"], state["loss_sum"]
        self.seconds = state["seconds"]


def model_arguments(run: RunSettings, data: LongTailedData) -> dict[str, Any]:
    """Arguments of ``build_model`` but for the seed."""
    shape = {} if ":" in run.model.name else {"in_channels": data.train.in_channels}
    return {"name": run.model.name, "num_classes": data.num_classes, **shape, **run.model.args}


def make_optimizer(
    run: RunSettings, class_counts: list[int], model: nn.Module, mixing: np.random.Generator, device: torch.device
) -> Wrapper:
    """The run's optimizer around SGD with momentum.

    Raises:
        OptimizerError: unknown or unfit settings, or a rule that compiled steps cannot take.
    """
    table = run.training
    if table.compile and run.settings.get("split_batches"):
        raise OptimizerError(f"[optimizers.{run.optimizer}] does not go with training.compile: split_batches needs every size")
    if table.compile and run.key == "eigensam":
        raise OptimizerError(f"[optimizers.{run.optimizer}] does not go with training.compile: it needs second derivatives")
    base = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=table.lr,
        momentum=table.momentum,
        weight_decay=table.weight_decay,
        nesterov=table.nesterov,
    )
    return build_optimizer(
        run.key,
        base,
        table=run.optimizer,
        class_counts=class_counts,
        epochs=table.epochs,
        eta=run.groups.eta,
        settings=run.settings,
        generator=mixing,
        max_norm=table.max_norm,
        autocast=AUTOCAST[table.autocast],
        scaler=torch.amp.GradScaler(device.type) if table.autocast == "fp16" else None,
        parallel=None,
    )


def _plain(state: Any) -> Any:
    """A numpy generator's state without numpy integers, for ``torch.load(weights_only=True)``."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return int(state) if isinstance(state, np.integer) else state
