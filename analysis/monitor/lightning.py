"""The monitor as a callback of Lightning (extra ``lightning``)."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from .chosen import Data
from .monitor import Monitor


class LightningMonitor(Callback):  # type: ignore[misc, unused-ignore]  # untyped where it is not installed
    """Measures curvature along ``Trainer.fit`` and gives the numbers to the trainer's loggers.

    ::

        Trainer(callbacks=[LightningMonitor(samples, eta=100, every=500, at_most=0.05)])

    Steps are the trainer's ``global_step``. What is measured is the loss of ``module(inputs)``; give ``loss`` where that is
    another one. Results go to the trainer's log folder, or its root folder, unless ``folder`` names one.

    Args:
        samples: as of :class:`~saddlescope.analysis.monitor.monitor.Monitor`.
        options: as there.

    Attributes:
        monitor: once training has begun.
    """

    def __init__(self, samples: Data, **options: Any) -> None:
        self._samples, self._options = samples, options
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the monitor: its share of the time counts from here."""
        folder = trainer.log_dir  # in all processes: the first one tells the others, and waits for them
        if self.monitor is None and trainer.is_global_zero:
            found = {
                "optimizer": trainer.optimizers[0] if trainer.optimizers else None,
                "folder": folder or trainer.default_root_dir,
                "resume": trainer.global_step > 0,
            }
            self.monitor = Monitor(self._samples, **{**found, **self._options})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures if it is time."""
        numbers = None if self.monitor is None else self.monitor(pl_module, trainer.global_step)
        if numbers is not None:
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)
