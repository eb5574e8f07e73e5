"""What is analysed: model, samples and loss, put together from a checkpoint's side-car, the command line, or both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from saddlescope import Permission, load_factory

from ..hessian.losses import BatchLoss, ClassificationLoss
from ..records.base import validated
from ..records.results import Choice
from ..records.side_car import SideCar, side_car_of
from ..samples.provenance import Source
from ..samples.samples import Samples
from .hugging_face import build_hugging_face
from .user_code import SubjectError, build_loss, call, load_samples
from .user_models import build_model
from .weights import State, fit_weights, load_state, weights_digest


@dataclass(frozen=True)
class Given:
    """What the command line says about a checkpoint; ``None`` leaves it to the side-car.

    Attributes:
        model: see :func:`~saddlescope.analysis.checkpoints.user_models.build_model`.
        model_args: its keyword arguments.
        data: see :func:`~saddlescope.analysis.checkpoints.user_code.load_samples`.
        data_args: its keyword arguments.
        loss: see :func:`~saddlescope.analysis.checkpoints.user_code.build_loss`.
        key: where the state dict lies in the file; several with commas are joined.
        trust: the file may run code when it is read, and what lies beside it may name code.
        named: further code that the person named, and a file may therefore name as well.
        extra_keys: names or patterns that the file may have though the model has not.
        num_classes: C, where the labels do not show every class.
        logits: which part of the model's output the logits are, where that does not show.
        labels: which part of a batch the class labels are, where that does not show.
        column: what else is told of each sample, that groups are made of.
        data_root: folder to look for the data in first, for data sets of the suite.
    """

    model: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    data_args: Mapping[str, Any] = field(default_factory=dict)
    loss: str | None = None
    key: str | None = None
    trust: bool = False
    extra_keys: tuple[str, ...] = ()
    num_classes: int | None = None
    logits: str | None = None
    labels: str | None = None
    column: str | None = None
    data_root: str | None = None
    named: frozenset[str] = frozenset()

    @property
    def permission(self) -> Permission:
        """What a file may name: all that is named here, too."""
        here = {name for name in (self.model, self.data, self.loss) if name is not None}
        return Permission(self.named | here, self.trust)

    def record(self) -> dict[str, Any]:
        """What may change a number, for the provenance; where the data lie does not."""
        fields: dict[str, Any] = {
            "model": self.model,
            "model_args": dict(self.model_args),
            "data": self.data,
            "data_args": dict(self.data_args),
        }
        fields |= {"loss": self.loss, "key": self.key, "num_classes": self.num_classes, "extra_keys": list(self.extra_keys)}
        fields |= {"logits": self.logits, "labels": self.labels, "column": self.column}
        return {name: value for name, value in fields.items() if value not in (None, {}, [])}


def given_from_flags(
    *, model_args: str = "{}", data_args: str = "{}", pixels: Mapping[str, Any] | None = None, **flags: Any
) -> Given:
    """What the command line says, its JSON read.

    Args:
        model_args: JSON object.
        data_args: JSON object.
        pixels: flags of a folder of images, ``None`` where one was not given: ``normalise``, ``mean`` and ``std`` (numbers with
            commas), ``size``.
        flags: fields of :class:`Given`.

    Raises:
        SubjectError: ``--model-args`` or ``--data-args`` is no JSON object; flags of a folder of images for other data.
    """
    tables = {}
    for name, text in (("model_args", model_args), ("data_args", data_args)):
        try:
            tables[name] = json.loads(text)
        except ValueError as error:
            raise SubjectError(f'--{name.replace("_", "-")} {text}: not JSON ({error}); write {{"depth": 32}}') from None
        if not isinstance(tables[name], dict):
            raise SubjectError(f'--{name.replace("_", "-")} {text}: must be a JSON object, such as {{"depth": 32}}')
    asked = {name: value for name, value in (pixels or {}).items() if value is not None}
    folder = Path(flags.get("data") or "").expanduser()
    if asked and not (flags.get("data") and folder.is_dir()):
        raise SubjectError(
            "--normalise, --mean, --std and --image-size are for --data FOLDER of images; other data take their arguments from "
            "--data-args"
        )
    tables["data_args"] |= {name: _floats(name, asked[name]) if name in ("mean", "std") else asked[name] for name in asked}
    return Given(**tables, **flags)


def _floats(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SubjectError(f"--{name} {text}: write one number, or one a channel: 0.49,0.48,0.45") from None


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


class _Recorded(BaseModel):
    """:meth:`Given.record` as a result stores it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    model_args: dict[str, Any] = {}
    data: str | None = None
    data_args: dict[str, Any] = {}
    loss: str | None = None
    key: str | None = None
    extra_keys: tuple[str, ...] = ()
    num_classes: int | None = Field(None, ge=2)
    logits: str | None = None
    labels: str | None = None
    column: str | None = None


def given_again(record: Mapping[str, Any], given: Given, where: Path) -> Given:
    """What the command line said when a result was measured; what it says now goes before.

    Args:
        record: ``provenance.subject`` of the result.
        given: what it says now.
        where: the result.

    Raises:
        TrustError: the result names code, or a file, that the command line does not name.
        ResultError: the record is damaged.
    """
    stored = validated(_Recorded, record, f"{where}, provenance.subject")
    parts = {"model": (stored.model, stored.model_args), "data": (stored.data, stored.data_args), "loss": (stored.loss, {})}
    left = {part: (name, args) for part, (name, args) in parts.items() if name is not None and getattr(given, part) is None}
    given.permission.check(where, left)
    return replace(
        given,
        model=given.model or stored.model,
        model_args=given.model_args or (stored.model_args if given.model in (None, stored.model) else {}),
        data=given.data or stored.data,
        data_args=given.data_args or (stored.data_args if given.data in (None, stored.data) else {}),
        loss=given.loss or stored.loss,
        key=given.key or stored.key,
        extra_keys=given.extra_keys or stored.extra_keys,
        num_classes=given.num_classes or stored.num_classes,
        logits=given.logits or stored.logits,
        labels=given.labels or stored.labels,
        column=given.column or stored.column,
    )


def check_side_car(side_car: SideCar, given: Given, where: Path) -> None:
    """Returns if the side-car names only what it may, of those parts that the command line leaves to it.

    Raises:
        TrustError: see :class:`saddlescope.Permission`.
    """
    parts = {"model": side_car.model, "data": side_car.data, "loss": side_car.loss}
    left = {part: (made.factory, made.args) for part, made in parts.items() if getattr(given, part) is None}
    given.permission.check(where, left)


def check_side_cars(checkpoints: Iterable[Path], given: Given) -> None:
    """The same for many checkpoints, before work on any of them begins.

    Raises:
        TrustError: see :class:`saddlescope.Permission`.
        ResultError: a side-car is damaged.
    """
    for checkpoint in dict.fromkeys(checkpoints):
        side_car = side_car_of(checkpoint)
        if side_car is not None:
            check_side_car(side_car, given, checkpoint.with_suffix(".json"))


def model_of(side_car: SideCar) -> nn.Module:
    """The model that a side-car describes, which :func:`check_side_car` has let through."""
    return build_model(side_car.model.factory, side_car.model.args)


def open_checkpoint(checkpoint: Path, given: Given | None = None) -> Subject:
    """Model, samples and loss of a checkpoint.

    Args:
        checkpoint: any file or folder that :func:`~saddlescope.analysis.checkpoints.weights.load_weights` reads.
        given: what the side-car does not tell, or should not decide.

    Raises:
        SubjectError: model or data are neither given nor in a side-car; weights or data changed since the side-car was written.
        CheckpointError: the file cannot be read, or does not fit the model.
        SamplesError: the data cannot be analysed.
    """
    given = given or Given()
    side_car = side_car_of(checkpoint)
    if not checkpoint.exists():
        raise SubjectError(f"{checkpoint}: no such checkpoint")
    missing = [f"--{name}" for name in ("model", "data") if getattr(given, name) is None and side_car is None]
    if missing:
        raise SubjectError(
            f"{checkpoint}: no side-car {checkpoint.stem}.json beside it, so say what it is with {' and '.join(missing)}"
        )
    if side_car is not None:
        check_side_car(side_car, given, checkpoint.with_suffix(".json"))
    itself = checkpoint.suffix == ".pt2" and given.model is not None and Path(given.model).expanduser() == checkpoint
    state = None if itself else load_state(checkpoint, trust=given.trust, key=given.key)
    digest = weights_digest(checkpoint, given.key)
    if side_car is not None and digest != side_car.sha256:
        raise SubjectError(f"{checkpoint}: not the weights that its side-car describes (SHA-256 differs); train the run again")
    samples, data_name = _samples(checkpoint, given, side_car)
    if given.loss is None or ":" not in given.loss:
        samples.require_classes()
    counts = samples.class_counts.tolist()
    if given.model == "hf":
        model, complete = build_hugging_face(checkpoint, given.model_args)
        name, state = given.model, None if complete else state
    elif given.model is not None:
        model, name = build_model(given.model, given.model_args, samples.num_classes), given.model
    else:
        assert side_car is not None
        model = model_of(side_car)
        name = str(side_car.model.args.get("name") or side_car.model.factory)
    notes = fit_weights(model, state.tensors, checkpoint, given.extra_keys) if state is not None else []
    if given.loss is None and side_car is not None:
        record = side_car.loss
        loss_name = record.name
        own = call(load_factory(record.factory), record.factory, record.args)
        loss: BatchLoss = ClassificationLoss(own, logits=given.logits, labels=given.labels)
    else:
        loss, loss_name = build_loss(given.loss, counts, logits=given.logits, labels=given.labels)
    source = Source(
        checkpoint=checkpoint.name,
        checkpoint_sha256=digest,
        model=name,
        data=data_name,
        loss=loss_name,
        index_sha256=side_car.data.index_sha256 if side_car is not None and given.data is None else None,
        training=side_car.record().get("training") if side_car is not None else None,
        subject=given.record(),
        choices=(*samples.choices, *_weights_choice(state, notes, given.key)),
        objective=_objective(side_car, checkpoint.with_suffix(".json")),
    )
    return Subject(model, samples, loss, source, side_car.thresholds if side_car is not None else {}, notes)


def _weights_choice(state: State | None, notes: list[str], key: str | None) -> list[Choice]:
    """Which of the tensors in the file the weights are, where it holds more than these."""
    if state is None or (state.key is None and not notes):
        return []
    where = [f"'{state.key}' of the file"] if state.key is not None else []
    others = [f"not {', '.join(state.others)}"] if state.others else []
    guessed = key is None and bool(others or any("left out" in note for note in notes))
    return [Choice(name="weights", value=", ".join([*where, *others, *notes]), flag="--key", guessed=guessed)]


class _Decay(BaseModel):
    weight_decay: float | None = Field(None, ge=0, allow_inf_nan=False)


class _Training(BaseModel):
    training: _Decay = _Decay()


def _objective(side_car: SideCar | None, where: Path) -> dict[str, float]:
    """What the training's objective needs beside model, data and loss: ``eta`` of head and tail, ``weight_decay``.

    Raises:
        ResultError: the side-car's recipe has no such thing as a number there.
    """
    if side_car is None:
        return {}
    recipe = validated(_Training, side_car.record().get("recipe") or {}, f"{where}, recipe")
    told = {"eta": side_car.thresholds.get("eta"), "weight_decay": recipe.training.weight_decay}
    return {name: float(value) for name, value in told.items() if value is not None}


def _samples(checkpoint: Path, given: Given, side_car: SideCar | None) -> tuple[Samples, str]:
    """The samples and their name; those of a side-car must be the ones trained on."""
    root = {"root": given.data_root} if given.data_root is not None else {}
    if given.data is not None:
        own = ":" not in given.data and not Path(given.data).expanduser().exists()
        arguments = {**given.data_args, **(root if own else {})}
        samples = load_samples(given.data, arguments, given.num_classes, given.labels, given.column)
        return samples, given.data
    assert side_car is not None
    data = side_car.data
    arguments = {**data.args, **given.data_args, **root}
    samples = load_samples(data.factory, arguments, len(data.class_counts), column=given.column)
    if samples.class_counts.tolist() != data.class_counts:
        raise SubjectError(
            f"{checkpoint}: trained on class counts {data.class_counts}, but {data.factory} now gives "
            f"{samples.class_counts.tolist()}; the data have changed"
        )
    if samples.index_sha256 not in (None, data.index_sha256):
        raise SubjectError(
            f"{checkpoint}: not the samples that it was trained on, though as many of each class: the list that names them, or "
            "the seed of the long tail, has changed; restore it, or train the run again"
        )
    return samples, data.name
