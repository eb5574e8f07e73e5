"""What is analysed: model, samples and loss, put together from a checkpoint's side-car, the command line, or both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from saddlescope import load_factory

from ..hessian.losses import BatchLoss, classification_loss
from ..records.results import ResultError
from ..samples.provenance import Source, file_sha256
from ..samples.samples import Samples
from .user_code import SubjectError, build_loss, call, load_samples
from .user_models import build_model
from .weights import fit_weights, load_weights

SIDE_CAR_FORMAT, SIDE_CAR_VERSION = "saddlescope-checkpoint", 1


@dataclass(frozen=True)
class Given:
    """What the command line says about a checkpoint; ``None`` leaves it to the side-car.

    Attributes:
        model: see :func:`~saddlescope.analysis.checkpoints.user_models.build_model`.
        model_args: its keyword arguments.
        data: see :func:`~saddlescope.analysis.checkpoints.user_code.load_samples`.
        data_args: its keyword arguments.
        loss: see :func:`~saddlescope.analysis.checkpoints.user_code.build_loss`.
        key: where the state dict lies in the file.
        trust: the file may run code when it is read.
        num_classes: C, where the labels do not show every class.
        data_root: folder to look for the data in first, for data sets of the suite.
    """

    model: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    data_args: Mapping[str, Any] = field(default_factory=dict)
    loss: str | None = None
    key: str | None = None
    trust: bool = False
    num_classes: int | None = None
    data_root: str | None = None

    def record(self) -> dict[str, Any]:
        """What may change a number, for the provenance; where the data lie does not."""
        fields: dict[str, Any] = {
            "model": self.model,
            "model_args": dict(self.model_args),
            "data": self.data,
            "data_args": dict(self.data_args),
        }
        fields |= {"loss": self.loss, "key": self.key, "num_classes": self.num_classes}
        return {name: value for name, value in fields.items() if value not in (None, {})}


def given_from_flags(*, model_args: str = "{}", data_args: str = "{}", **flags: Any) -> Given:
    """What the command line says, its JSON read.

    Raises:
        SubjectError: ``--model-args`` or ``--data-args`` is no JSON object.
    """
    tables = {}
    for name, text in (("model_args", model_args), ("data_args", data_args)):
        try:
            tables[name] = json.loads(text)
        except ValueError as error:
            raise SubjectError(f'--{name.replace("_", "-")} {text}: not JSON ({error}); write {{"depth": 32}}') from None
        if not isinstance(tables[name], dict):
            raise SubjectError(f'--{name.replace("_", "-")} {text}: must be a JSON object, such as {{"depth": 32}}')
    return Given(**tables, **flags)


@dataclass(frozen=True)
class Subject:
    """A model at a checkpoint, its samples and its loss.

    Attributes:
        source: names for the provenance.
        groups: thresholds of the class groups (``eta``, ``many``, ``few``), where the side-car tells.
        notes: what was done to make the file fit.
    """

    model: nn.Module
    samples: Samples
    loss: BatchLoss
    source: Source
    groups: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def side_car_of(checkpoint: Path) -> dict[str, Any] | None:
    """The side-car beside a checkpoint, None if there is none.

    Raises:
        ResultError: damaged, or of a newer version.
    """
    path = checkpoint.with_suffix(".json")
    if path == checkpoint or not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"{path}: not readable as JSON ({error}); train the run again or give --model and --data") from None
    if not isinstance(raw, dict) or raw.get("format") != SIDE_CAR_FORMAT:
        return None  # a JSON file of somebody else
    if raw.get("version", 0) > SIDE_CAR_VERSION:
        raise ResultError(f"{path}: version {raw['version']} is newer than {SIDE_CAR_VERSION}; update saddlescope to read it")
    return raw


def open_checkpoint(checkpoint: Path, given: Given | None = None) -> Subject:
    """Model, samples and loss of a checkpoint.

    Args:
        checkpoint: any file that :func:`~saddlescope.analysis.checkpoints.weights.load_weights` reads.
        given: what the side-car does not tell, or should not decide.

    Raises:
        SubjectError: model or data are neither given nor in a side-car; weights or data changed since the side-car was written.
        CheckpointError: the file cannot be read, or does not fit the model.
        SamplesError: the data cannot be analysed.
    """
    given = given or Given()
    side_car = side_car_of(checkpoint)
    if not checkpoint.is_file():
        raise SubjectError(f"{checkpoint}: no such checkpoint")
    missing = [f"--{name}" for name in ("model", "data") if getattr(given, name) is None and side_car is None]
    if missing:
        raise SubjectError(
            f"{checkpoint}: no side-car {checkpoint.stem}.json beside it, so say what it is with {' and '.join(missing)}"
        )
    itself = checkpoint.suffix == ".pt2" and given.model is not None and Path(given.model).expanduser() == checkpoint
    state = None if itself else load_weights(checkpoint, trust=given.trust, key=given.key)
    digest = file_sha256(checkpoint)
    if side_car is not None and digest != side_car["sha256"]:
        raise SubjectError(f"{checkpoint}: not the weights that its side-car describes (SHA-256 differs); train the run again")
    samples, data_name = _samples(checkpoint, given, side_car)
    counts = samples.class_counts.tolist()
    if given.model is not None:
        model, name = build_model(given.model, given.model_args, samples.num_classes), given.model
    else:
        assert side_car is not None
        model = build_model(side_car["model"]["factory"], side_car["model"]["args"])
        name = str(side_car["model"]["args"].get("name") or side_car["model"]["factory"])
    notes = fit_weights(model, state, checkpoint) if state is not None else []
    if given.loss is None and side_car is not None:
        loss_name = side_car["loss"]["name"]
        record = side_car["loss"]
        loss: BatchLoss = classification_loss(call(load_factory(record["factory"]), record["factory"], record["args"]))
    else:
        loss, loss_name = build_loss(given.loss, counts)
    source = Source(
        checkpoint=checkpoint.name,
        checkpoint_sha256=digest,
        model=name,
        data=data_name,
        loss=loss_name,
        index_sha256=side_car["data"]["index_sha256"] if side_car is not None and given.data is None else None,
        training=side_car["training"] if side_car is not None else None,
        subject=given.record(),
        objective=_objective(side_car),
    )
    return Subject(model, samples, loss, source, (side_car or {}).get("groups", {}), notes)


def _objective(side_car: Mapping[str, Any] | None) -> dict[str, float]:
    """What the training's objective needs beside model, data and loss: ``eta`` of head and tail, ``weight_decay``."""
    record = side_car or {}
    told = {
        "eta": record.get("groups", {}).get("eta"),
        "weight_decay": record.get("recipe", {}).get("training", {}).get("weight_decay"),
    }
    return {name: float(value) for name, value in told.items() if value is not None}


def _samples(checkpoint: Path, given: Given, side_car: dict[str, Any] | None) -> tuple[Samples, str]:
    """The samples and their name; those of a side-car must be the ones trained on."""
    root = {"root": given.data_root} if given.data_root is not None else {}
    if given.data is not None:
        own = ":" not in given.data and not Path(given.data).expanduser().exists()
        samples = load_samples(given.data, {**given.data_args, **(root if own else {})}, given.num_classes)
        return samples, given.data
    assert side_car is not None
    data = side_car["data"]
    samples = load_samples(data["factory"], {**data["args"], **given.data_args, **root}, len(data["class_counts"]))
    if samples.class_counts.tolist() != data["class_counts"]:
        raise SubjectError(
            f"{checkpoint}: trained on class counts {data['class_counts']}, but {data['factory']} now gives "
            f"{samples.class_counts.tolist()}; the data have changed"
        )
    if samples.index_sha256 not in (None, data["index_sha256"]):
        raise SubjectError(
            f"{checkpoint}: not the samples that it was trained on, though as many of each class: the list that names them, or "
            "the seed of the long tail, has changed; restore it, or train the run again"
        )
    return samples, data["name"]
