"""The monitor as a callback of Hugging Face's Trainer (extra ``transformers``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..samples.labels import LABEL_KEYS
from ..samples.samples import Samples
from .chosen import Data
from .monitor import Monitor
from .untouched import NotWholeError, unwrapped

#: samples that are padded to one length: few, or one long text makes all long
_BATCH = 16


class TransformersMonitor(TrainerCallback):  # type: ignore[misc, unused-ignore]  # untyped where it is not installed
    """Measures curvature along ``Trainer.train``.

    ::

        TransformersMonitor(samples, eta=100, every=500, at_most=0.05).attach(trainer)

    A data set is collated as the trainer collates its own, without the entries that the model does not take (the trainer's
    ``remove_unused_columns``).

    Steps are the trainer's ``global_step``. The numbers go to everything in ``report_to`` and to ``state.log_history``. (Given
    as ``callbacks=[...]`` it does not know the trainer, which alone can log: then they go to ``state.log_history`` only.)
    Results go to ``output_dir`` unless ``folder`` names another one.

    Args:
        samples: as of :class:`~saddlescope.analysis.monitor.monitor.Monitor`.
        options: as there.

    Attributes:
        monitor: once training has begun.
    """

    def __init__(self, samples: Data, **options: Any) -> None:
        self._samples, self._options = samples, options
        self._trainer: Trainer | None = None
        self.monitor: Monitor | None = None

    def attach(self, trainer: Trainer) -> TransformersMonitor:
        """Adds this to a trainer; the numbers are then logged as the trainer's own."""
        self._trainer = trainer
        trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **others: Any
    ) -> None:
        """Makes the monitor: its share of the time counts from here."""
        if self.monitor is None and state.is_world_process_zero:
            collate = getattr(others.get("train_dataloader"), "collate_fn", None)
            taken = _taken(others["model"]) if args.remove_unused_columns and "model" in others else None
            samples = self._samples if collate is None else _collated(self._samples, collate, taken)
            found = {"optimizer": optimizer, "folder": args.output_dir, "resume": state.global_step > 0}
            self.monitor = Monitor(samples, **{**found, **self._options})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Measures if it is time."""
        numbers = None if self.monitor is None else self.monitor(model, state.global_step)
        if numbers is None:
            return
        if self._trainer is not None:
            self._trainer.log(numbers)
        else:
            state.log_history.append({**numbers, "step": state.global_step})


def _taken(model: Any) -> set[str] | None:
    """The entries of a batch that a model is called with; None where that does not show."""
    try:
        inner: Any = unwrapped(model)
    except NotWholeError:  # which is said at the first measurement, and stops nothing
        return None
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # peft's forward takes anything
    parameters = inspect.signature(inner.forward).parameters
    return None if {*parameters} <= {"args", "kwargs"} else {*parameters, *LABEL_KEYS, "label_ids"}


def _collated(data: Data, collate: Callable[[list[Any]], Any], taken: set[str] | None) -> Data:
    """A data set as the loader that a trainer would make of it; anything else as it is."""
    items = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, tuple | list)
    if not items or isinstance(data, Samples | IterableDataset):
        return data

    def own(rows: list[Any]) -> Any:
        if taken is not None:
            rows = [{k: v for k, v in row.items() if k in taken} if isinstance(row, Mapping) else row for row in rows]
        return collate(rows)

    return DataLoader(data, batch_size=_BATCH, collate_fn=own)  # type: ignore[arg-type]
