"""What is analysed: model, samples and loss, put together from a checkpoint's side-car, the command line, or both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, Field
from torch import nn

from saddlescope import load_factory

from ..hessian.losses import BatchLoss, ClassificationLoss
from ..hessian.modules import matching_parameters
from ..hessian.sharded_models import is_sharded, processes
from ..hessian.subject import Subject
from ..records.base import validated
from ..records.results import Choice
from ..records.side_car import SideCar, side_car_of
from ..samples.provenance import Source
from ..samples.samples import Samples
from .checkpoint_flags import Given
from .hugging_face import build_hugging_face
from .user_code import SubjectError, build_loss, call, load_samples, names_part
from .user_models import build_model, needs_classes
from .weights import State, fit_in_parts, fit_weights, is_in_parts, load_state, weights_digest


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


def open_checkpoint(checkpoint: Path, given: Given | None = None, params: str | None = None) -> Subject:
    """Model, samples and loss of a checkpoint.

    Args:
        checkpoint: any file or folder that :func:`~saddlescope.analysis.checkpoints.weights.load_weights` reads.
        given: what the side-car does not tell, or should not decide.
        params: patterns of the parameters that will be measured; held against the model before the data are read, unless it
            needs to know their classes.

    Raises:
        OperatorError: a pattern of ``params`` matches nothing.
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
    # A model that its factory spreads over processes is never whole, nor are its weights where they can be read in parts.
    in_parts = processes() > 1 and given.key is None and is_in_parts(checkpoint)
    state = None if itself or in_parts else load_state(checkpoint, trust=given.trust, key=given.key)
    digest = weights_digest(checkpoint, given.key)
    if side_car is not None and digest != side_car.sha256:
        raise SubjectError(f"{checkpoint}: not the weights that its side-car describes (SHA-256 differs); train the run again")
    for reference in (given.model, given.loss):  # data may take minutes to load: a name that is not there is known before
        if reference is not None and ".py:" in reference:
            load_factory(reference)
    early = _model(checkpoint, given, side_car) if params is not None and _is_known(given) else None
    if early is not None:
        matching_parameters(early[0], params)
    samples, data_name = _samples(checkpoint, given, side_car)
    if given.loss is None or ":" not in given.loss:
        samples.require_classes()
    counts = samples.class_counts.tolist()
    model, name, complete = early or _model(checkpoint, given, side_car, samples.num_classes)
    if params is not None:
        matching_parameters(model, params)
    notes: list[str] = []
    if in_parts and not complete:
        if is_sharded(model):
            notes = fit_in_parts(model, checkpoint, given.extra_keys)
        else:
            state = load_state(checkpoint, trust=given.trust)
    state = None if complete else state
    if state is not None:
        notes = fit_weights(model, state.tensors, checkpoint, given.extra_keys)
    labels = given.labels if given.data is None or names_part(given.data) else None
    if given.loss is None and side_car is not None:
        record = side_car.loss
        loss_name = record.name
        own = call(load_factory(record.factory), record.factory, record.args)
        loss: BatchLoss = ClassificationLoss(own, logits=given.logits, labels=labels)
    else:
        loss, loss_name = build_loss(given.loss, counts, logits=given.logits, labels=labels)
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


def _is_known(given: Given) -> bool:
    """Whether the model can be built without the data."""
    return given.model in (None, "hf") or given.num_classes is not None or not needs_classes(given.model, given.model_args)


def _model(
    checkpoint: Path, given: Given, side_car: SideCar | None, num_classes: int | None = None
) -> tuple[nn.Module, str, bool]:
    """The model, its name, and whether it holds all its weights already."""
    if given.model == "hf":
        model, complete = build_hugging_face(checkpoint, given.model_args)
        return model, given.model, complete
    if given.model is not None:
        return build_model(given.model, given.model_args, num_classes or given.num_classes), given.model, False
    assert side_car is not None
    return model_of(side_car), str(side_car.model.args.get("name") or side_car.model.factory), False


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
