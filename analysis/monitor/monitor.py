"""Curvature while a model trains: a few lines in any loop, numbers for any logger, results in the run folder.

The loop calls the monitor after every step. When it is time, the monitor measures a copy of the model on samples of its own and
returns a flat dictionary; otherwise None. It keeps to a share of the training time, leaves nothing behind in the training, and
no failure of its own stops it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..hessian.losses import BatchLoss, loss_of
from ..measures.analyze import analyze
from ..measures.objective import training_parts
from ..measures.optimizer_fields import rules
from ..records.checkpoint_series import MONITOR
from ..records.results import CurvatureResult
from ..samples.given import as_samples
from ..samples.groups import scheme_of
from ..samples.provenance import Source
from .chosen import Data, Parts, choose
from .first_guess import first_guess
from .monitor_settings import monitor_settings, require, whole_step
from .numbers import PREFIX, flat
from .run_folder import MonitorError, RunFolder
from .time_share import TimeShare
from .untouched import device_of, first_process, grouped, same_random_states, untouched, unwrapped

log = logging.getLogger(__name__)

#: Seconds that the other processes of a group are let wait in their next exchange: half of the shortest default time limit.
LONGEST_WAIT = 300.0
#: Measurements from one that also measured the sampling error to the next.
SAMPLING_EVERY = 10
#: Seeds from one step to the next: an analysis takes some hundreds of them around its own.
_SEEDS = 1000


class Monitor:
    """Measures curvature along training: ``numbers = monitor(model, step)`` after each step.

    Args:
        samples: clean training samples (no random transforms): ``Samples``, ``(inputs, targets)``, a data set, a loader (with
            its collator, in the order of its data set), or batches.
        eta: a class with fewer samples is tail, else head; without it, and without ``scheme`` or ``groups``, all samples are
            one group.
        every: steps from one measurement to the next: at steps that it divides.
        goal: ``ends`` (smallest and largest eigenvalue), ``verdict`` (is there negative curvature; fewer steps), ``spectrum``.
        at_most: share of the wall-clock time since now that measuring may take; None: no limit.
        most: samples of a group that are watched, chosen once.
        loss: ``loss(model, batch) -> [n]``; default: cross-entropy.
        optimizer: adds the sharpness, ``lambda_max`` against ``2 / lr``; of several learning rates the largest. With
            ``escape=True`` its weight decay is that of the escape rates.
        folder: the run's; results go to ``<folder>/curvature``. Default: a new ``runs/monitor-<time>``.
        resume: the folder holds results of an earlier part of this training.
        facts: stored with each result (``{"optimizer": "sam", "seed": 0}``), for figures and checks.
        seed: of the choice of samples and of all random starts.
        settings: any other field of :class:`~saddlescope.analysis.records.settings.AnalysisSettings`.

    Attributes:
        scheme: the groups, with the sizes of the whole data.
        folder: the run's folder.
        skipped: measurements that were due and not made, for lack of time.
        result: the last measurement's.

    Raises:
        MonitorError: the folder holds another run's results, or those of other samples, or an argument is out of range.
        SettingsError: an unknown setting, or one out of range.
        GroupError: a group is empty.
        SamplesError: the samples change between two looks, or are none.
    """

    def __init__(
        self,
        samples: Data,
        *,
        eta: int | None = None,
        every: int = 500,
        goal: str = "ends",
        at_most: float | None = 0.05,
        most: int = 1000,
        loss: BatchLoss | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        facts: Mapping[str, Any] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        require(every, most, at_most, optimizer)
        self.time = TimeShare(at_most)
        with self.time.spending():
            self.every, self.loss, self.optimizer = every, loss, optimizer
            self.settings = monitor_settings(eta, goal, seed, settings)
            with same_random_states():  # a loader draws from them at every reading, and items may
                given = as_samples(samples, "Monitor", column=self.settings.column)
                loss_of(loss, given)
                self.scheme = scheme_of(self.settings, given)
                self.chosen = choose(given, self.scheme, most, seed)
            if self.settings.escape and not self.chosen.whole:
                raise MonitorError(f"escape needs all samples of every group: raise most = {most}, or leave escape out")
            self._rates = self._rated(given.class_counts) if self.settings.escape and self.settings.rates is not False else []
            self._run = RunFolder(folder, resume, self.chosen.index_sha256)
        self.facts = dict(facts or {})
        self.skipped = 0
        self.result: CurvatureResult | None = None
        self._warm: dict[str, Tensor] = {}
        self._last: int | None = None
        self._expected: float | None = None
        self._since_sampling: int | None = None
        self._said: set[str] = set()
        self._began = False

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._run.run

    def __call__(self, model: nn.Module, step: int) -> dict[str, float] | None:
        """Measures if it is time.

        Args:
            model: as it is trained; it is copied.
            step: steps done, from 0 on.

        Returns:
            ``curvature/<group>/<number>`` -> value, NaN where undecided or failed; None when it is not time, where the share of
            the training time would not allow it, and in all processes of a group but the first.
        """
        whole = self._counted(step)
        if whole is None or not self._due(whole) or not first_process():
            return None
        return self._measured(model, whole, self.time.left())

    def measure(self, model: nn.Module, step: int) -> dict[str, float] | None:
        """Measures now, whatever schedule and share say (the end of training, say); counted like all others."""
        whole = self._counted(step)
        if whole is None or not first_process():
            return None
        self._last = whole
        return self._measured(model, whole, math.inf)

    def _counted(self, step: Any) -> int | None:
        if (whole := whole_step(step)) is None:
            self._say("step", f"nothing is measured at step {step!r:.40}: a step is a number from 0 on")
        return whole

    def _due(self, step: int) -> bool:
        last, self._last = self._last, step
        if step == last:
            return False  # gradient accumulation: the same step again
        return step % self.every == 0 or (last is not None and step // self.every > last // self.every)

    def _measured(self, model: nn.Module, step: int, left: float) -> dict[str, float] | None:
        limit = min(left, LONGEST_WAIT) if grouped() else left
        result, reason = None, ""
        with self.time.spending() as so_far:
            try:
                model = unwrapped(model)
                device = device_of(model)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)  # what the training still had to do is not ours
                with untouched(device):
                    if self._too_long(model, device, limit):
                        raise _OutOfTimeError
                    parts = self._parts(limit)
                    result = self._analyze(model, device, step, parts, lambda: so_far() > limit)
                self._keep(result, step, parts, so_far())
            except _OutOfTimeError as out:
                if out.args:
                    self._expected = 2 * so_far()
                self.skipped += 1
                if self.result is None:
                    self._say("skipped", f"nothing measured at step {step}: {self.time.why(self._expected or 0.0, limit)}")
                self._log("skipped", step=step, expected=self._expected, left=limit, stopped_at=str(out) or None)
                return None
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                self._expected = max(self._expected or 0.0, so_far())
        numbers = flat(result, self.scheme.groups, self._lr(), self._rates)
        numbers |= {f"{PREFIX}/time_share": self.time.share, f"{PREFIX}/skipped": float(self.skipped)}
        if reason:
            self._say("failed", f"no curvature at step {step}, training goes on: {reason}")
            self._log("failed", step=step, reason=reason)
        elif result is not None:
            self._log("measured", step=step, seconds=result.provenance.seconds, share=self.time.share)
        return numbers

    def _too_long(self, model: nn.Module, device: torch.device, limit: float) -> bool:
        if math.isinf(limit):
            return False
        if self._expected is None:
            self._expected = first_guess(model, self.chosen, self.loss, device, self._dtype(model), self.time.clock)
        return self._expected > limit

    def _parts(self, limit: float) -> Parts:
        """The watched part of each group; now and then, where there is time, all of them."""
        most = max(len(parts) for parts in self.chosen.parts.values())
        due = self._since_sampling is None or self._since_sampling >= SAMPLING_EVERY
        # Not in the first measurement: it says what one takes.
        if most > 1 and due and self.result is not None and most * (self._expected or 0.0) <= limit:
            return self.chosen.parts
        return self.chosen.watched

    def _analyze(
        self, model: nn.Module, device: torch.device, step: int, parts: Parts, late: Callable[[], bool]
    ) -> CurvatureResult:
        def stop_when_late(group: str, _: int) -> None:
            if late():
                raise _OutOfTimeError(group)

        return analyze(
            model,
            self.chosen.samples,
            loss=self.loss,
            settings=self.settings.model_copy(
                update={
                    # The vectors of the last measurement know nothing of these starts, so that the interval holds.
                    "seed": self.settings.seed + _SEEDS * step,
                    "device": str(device),
                    "dtype": str(self._dtype(model)).removeprefix("torch."),
                }
            ),
            scheme=self.scheme,
            source=self._source(step),
            progress=stop_when_late,
            parts=parts,
            warm=self._warm,
        )

    def _source(self, step: int) -> Source:
        watched = {
            name: {"samples": len(parts[0]), "of": self.scheme.sizes[name], "index_sha256": self.chosen.index_sha256[name]}
            for name, parts in self.chosen.parts.items()
        }
        name = getattr(self.loss, "__name__", type(self.loss).__name__) if self.loss is not None else "cross-entropy"
        return Source(
            checkpoint=f"step-{step}",
            loss=name,
            index_sha256=self.chosen.sha256,
            training={**self.facts, "step": step, "watched": watched},
            command=MONITOR,
            objective={} if self.optimizer is None else {"weight_decay": self._largest("weight_decay")},
        )

    def _rated(self, class_counts: np.ndarray) -> list[str]:
        """Names of the optimizers whose escape rates are measured."""
        return [rule.name for rule in rules(self.settings.rho, list(training_parts(class_counts, self.settings.eta)))]

    def _keep(self, result: CurvatureResult, step: int, parts: Parts, seconds: float) -> None:
        self.result = result
        if any(len(some) > 1 for some in parts.values()):
            self._since_sampling = 0
        else:
            self._since_sampling = None if self._since_sampling is None else self._since_sampling + 1
            self._expected = seconds
        try:
            self._run.store(result, step)
        except OSError as error:
            self._say("stored", f"the result of step {step} cannot be stored: {error}")

    def _dtype(self, model: nn.Module) -> torch.dtype:
        return torch.float64 if next(model.parameters()).dtype == torch.float64 else getattr(torch, self.settings.dtype)

    def _lr(self) -> float | None:
        return None if self.optimizer is None else self._largest("lr")

    def _largest(self, number: str) -> float:
        assert self.optimizer is not None
        return max(float(group.get(number, 0.0)) for group in self.optimizer.param_groups)

    def _say(self, kind: str, sentence: str) -> None:
        """Each kind once: what goes wrong at one step goes wrong at most of them. The log has all."""
        if kind not in self._said:
            self._said.add(kind)
            # A logger, not `warnings`: these can be set to stop the program.
            log.warning("saddlescope monitor: %s (said once; the others are in %s)", sentence, self._run.folder)

    def _log(self, event: str, **what: Any) -> None:
        try:
            if not self._began:
                self._run.log("began", every=self.every, at_most=self.time.at_most, index_sha256=self.chosen.index_sha256)
                self._began = True
            self._run.log(event, **what)
        except (OSError, TypeError, ValueError) as error:
            self._say("stored", f"the log cannot be written: {error}")


class _OutOfTimeError(Exception):
    """The share of the training time is used up."""
