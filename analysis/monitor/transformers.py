"""The monitor as a callback of Hugging Face's Trainer (extra ``transformers``)."""

from __future__ import annotations

from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .chosen import Data
from .monitor import Monitor


class TransformersMonitor(TrainerCallback):  # type: ignore[misc, unused-ignore]  # untyped where it is not installed
    """Measures curvature along ``Trainer.train``.

    ::

        TransformersMonitor(samples, eta=100, every=500, at_most=0.05).attach(trainer)

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
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        """Makes the monitor: its share of the time counts from here."""
        if self.monitor is None and state.is_world_process_zero:
            found = {"optimizer": optimizer, "folder": args.output_dir, "resume": state.global_step > 0}
            self.monitor = Monitor(self._samples, **{**found, **self._options})

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
