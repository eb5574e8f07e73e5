"""Trains one run: one optimizer, one seed.

All randomness comes from the run's seed, the epoch and the step, so that a run continued from any step reaches the same digits
as one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..data.datasets import LongTailedData
from ..files import write_json
from ..networks.models import count_parameters
from .accuracy import measure_accuracy
from .checkpoint import Log, provenance, save_checkpoint
from .fork import load_start
from .messages import in_one_line
from .run import RunSettings, network_sha256
from .session import Session, model_arguments


class TrainingError(RuntimeError):
    """A run failed; what it had stored is kept."""


#: called with the number of epochs done, before the first epoch and after each
OnEpoch = Callable[[int], None]


def choose_device(name: str) -> torch.device:
    """``auto``, or a device as torch writes it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


@contextmanager
def reproducible(device: torch.device, threads: int) -> Iterator[None]:
    """Same inputs, same digits: a fixed number of threads, deterministic kernels, and the global random state put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            yield
    finally:
        torch.set_num_threads(before)


def train_run(
    run: RunSettings,
    folder: Path,
    data: LongTailedData,
    *,
    data_root: str | None = None,
    on_epoch: OnEpoch | None = None,
    state_seconds: float = 20.0,
) -> None:
    """Trains until ``folder/checkpoint.json`` exists; continues where an earlier call was interrupted.

    Args:
        run: the run's settings.
        folder: the run's folder.
        data: what ``run.data`` names, loaded.
        data_root: where it was found, for the side-car.
        on_epoch: progress.
        state_seconds: how often the state to continue from is stored.

    Raises:
        TrainingError: the loss or a weight is no longer finite, or torch.compile failed.
    """
    if (folder / "checkpoint.json").exists():
        return
    device = choose_device(run.training.device)
    state = folder / "state.pt"
    if not state.exists():  # a run that goes on keeps the record of how it began
        source = network_sha256(run)
        write_json(
            folder / "run.json",
            {"run": run.folder, **run.model_dump(mode="json"), **({"network_sha256": source} if source else {})},
        )
    log = Log(folder / "metrics.jsonl")
    with reproducible(device, run.training.threads):
        session = Session.build(run, data, device)
        if run.start is not None:
            load_start(session.model, run.start, folder.parent)
        session.restore(state)
        log.keep(session.epoch)
        stored = time.monotonic()
        along = set(_checkpoints_along(session))
        while True:
            if on_epoch is not None:
                on_epoch(session.epoch)
            started = time.monotonic() - session.seconds
            for _ in _steps(session):
                if run.training.checkpoint_every_steps and session.steps_done % run.training.checkpoint_every_steps == 0:
                    path = folder / "checkpoints" / f"step-{session.steps_done:06d}.pt"
                    here: dict[str, Any] = {"epoch": session.epoch, "stage": session.optimizer.stage, "accuracy": {}}
                    side_car = _side_car(session, here, data_root, trained=session.epoch)
                    side_car["training"]["step"] = session.steps_done
                    _require_finite(session, folder)
                    save_checkpoint(path, session.model, side_car)
                if time.monotonic() - stored >= state_seconds:
                    _require_finite(session, folder)
                    session.store(state, seconds=time.monotonic() - started)
                    stored = time.monotonic()
            _require_finite(session, folder)
            row = _describe_epoch(session, along)
            session.next_epoch()
            log.append(row | {"seconds": round(time.monotonic() - started, 3)})
            if session.epoch == run.training.epochs:
                break
            if session.epoch in along:
                path = folder / "checkpoints" / f"epoch-{session.epoch:03d}.pt"
                save_checkpoint(path, session.model, _side_car(session, row, data_root))
        save_checkpoint(folder / "checkpoint.pt", session.model, _side_car(session, row, data_root))
    state.unlink(missing_ok=True)
    if on_epoch is not None:
        on_epoch(session.epoch)


def _steps(session: Session) -> Iterator[None]:
    """The steps of the epoch.

    Raises:
        TrainingError: torch.compile failed.
    """
    try:
        yield from session.steps()
    except RuntimeError as error:
        if not (session.run.training.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))):
            raise
        said = str(error)
        lacking = any(word in said for word in ("InvalidCxxCompiler", "CppCompileError", "Triton"))
        needs = "a C++ compiler (g++, clang) is needed on a CPU, Triton on a GPU; or train" if lacking else "to see more, train"
        raise TrainingError(
            f"run {session.run.folder}: torch.compile failed: {in_one_line(error, 300)}; {needs} without training.compile"
        ) from error


def _checkpoints_along(session: Session) -> list[int]:
    """Epochs, counted as done, after which a checkpoint is stored beside the final one."""
    table, switch = session.run.training, session.optimizer.stage_switch_epoch
    regular = range(table.checkpoint_every, table.epochs, table.checkpoint_every) if table.checkpoint_every else ()
    return sorted({*regular, *([switch] if switch else [])})


def _require_finite(session: Session, folder: Path) -> None:
    if session.finite():
        return
    kept = sorted((folder / "checkpoints").glob("epoch-*.json"))
    last = f"the last good checkpoint is {kept[-1].with_suffix('.pt')}" if kept else "no checkpoint had been stored yet"
    raise TrainingError(
        f"run {session.run.folder}, epoch {session.epoch + 1}: the loss or a weight is no longer a finite number (learning "
        f"rate {session.lr:g}); {last}. Lower training.lr or the optimizer's radius, or clip with training.max_norm"
    )


def _describe_epoch(session: Session, along: Collection[int]) -> dict[str, Any]:
    """The epoch's line of ``metrics.jsonl`` but for the seconds; no accuracies where none are due."""
    assert session.loss_sum is not None
    done, table = session.epoch + 1, session.run.training
    due = done % table.evaluate_every == 0 or done in along or done == table.epochs
    return {
        "epoch": done,
        "stage": session.optimizer.stage,
        "lr": session.lr,
        "train_loss": float(session.loss_sum) / len(session.data.train),
        "accuracy": measure_accuracy(session.model, session.data.test, session.groups, autocast=session.autocast)
        if due
        else {},
    }


def _side_car(session: Session, row: dict[str, Any], data_root: str | None, *, trained: int | None = None) -> dict[str, Any]:
    """What the checkpoint after the epoch of ``row`` is, and how to rebuild model, data and loss.

    Args:
        session: the run.
        row: of ``metrics.jsonl``; its epochs are done.
        data_root: where the data were found.
        trained: the epoch of the last step, counted from 0; default: the last that is done.
    """
    run, data, optimizer = session.run, session.data, session.optimizer
    data_arguments = run.data.model_dump(mode="json", exclude_none=True) | ({"root": data_root} if data_root else {})
    return {
        "model": {
            "factory": "saddlescope:build_model",
            "args": model_arguments(run, data),
            "parameters": count_parameters(session.model),
        },
        "data": {
            "factory": "saddlescope:analysis_set",
            "args": data_arguments,
            "name": data.title,
            "index_sha256": data.index_sha256,
            "class_counts": data.class_counts,
        },
        "loss": {
            "name": run.loss.name,
            "factory": "saddlescope:build_loss",
            "args": _loss_in_force(run, row["epoch"] - 1 if trained is None else trained) | {"class_counts": data.class_counts},
        },
        "groups": run.groups.model_dump(),
        "accuracy_split": data.split,
        "training": {
            "study": run.study,
            "run": run.folder,
            "optimizer": run.optimizer,
            **({"rule": run.rule} if run.rule else {}),
            "optimizer_settings": run.settings,
            "seed": run.seed,
            **({"start": run.start} if run.start else {}),
            "epoch": row["epoch"],
            "epochs": run.training.epochs,
            "stage": row["stage"],
            "stage_switch_epoch": optimizer.stage_switch_epoch,
            "accuracy": row["accuracy"],
        },
        "recipe": run.model_dump(mode="json", exclude_none=True),
        "provenance": provenance() | {"device": str(session.device)},
    }


def _loss_in_force(run: RunSettings, epoch: int) -> dict[str, Any]:
    """Arguments of the loss of this epoch, counted from 0: deferred re-weighting is on or off for good."""
    arguments = run.loss.model_dump()
    if "drw_epoch" in arguments:
        weighted = epoch >= arguments.pop("drw_epoch")
        arguments |= {"drw_epoch": 0} if weighted else {}
    return arguments
