"""``saddlescope augmentation-control``: puts models and data of the control together, and stores what it measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope import load_factory

from ..checkpoints.analysis_inputs import open_checkpoint
from ..checkpoints.checkpoint_flags import Given
from ..checkpoints.user_code import load_samples
from ..hessian.losses import BatchLoss
from ..hessian.subject import Subject
from ..records.augmentation import AugmentationControl, ControlEntry, ControlPanel
from ..records.base import parse_json, save
from ..records.side_car import side_car_of
from ..samples.given import as_samples
from ..samples.provenance import Source, describe
from ..samples.samples import Samples
from .control import WEIGHT_DECAY, ControlError, CropMirror, measure_control, softmax_regression

NAME = "augmentation_control"
#: the long tail of each of our sets, unless --data-args says otherwise
TAILS: dict[str, dict[str, Any]] = {"digits": {"imbalance_factor": 20, "n_max": 120, "held_out": 50}}
_LOAD_DATA = "saddlescope:load_data"


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        data: of the softmax regression: a set of ours, a file, a folder or a factory.
        data_args: its keyword arguments.
        data_root: folder to look for the data in first.
        checkpoints: trained networks, each on the data that its side-car names.
        mirror: mirror images; None: colour images only.
        steps: of Lanczos.
        seed: of start vectors and draws.
        trust: the checkpoints may run code when they are read, and their side-cars may name code.
        classes: of the checkpoints; empty: all. The softmax regression is cheap and measured on every class.
    """

    data: str = "digits"
    data_args: str = "{}"
    data_root: str | None = None
    checkpoints: Sequence[Path] = ()
    mirror: bool | None = None
    steps: int = 100
    seed: int = 0
    trust: bool = False
    classes: Sequence[int] = ()


def run_control(out: Path, wanted: Wanted) -> list[Path]:
    """Measures, stores ``out/augmentation_control.json`` and draws it; returns all files.

    Raises:
        ControlError: the data are no labelled images, or the arguments are no JSON object.
    """
    opened = [_opened(path, wanted) for path in wanted.checkpoints]
    for path, subject in zip(wanted.checkpoints, opened, strict=True):
        counts = subject.samples.class_counts
        if absent := [label for label in wanted.classes if not (label < len(counts) and counts[label])]:
            raise ControlError(f"--class {absent[0]}: the data of {path} hold no sample of that class")
    panels = [_regression(wanted)]
    for subject in opened:
        panels.append(_panel(subject.model, _images(subject.samples), subject.source, wanted, loss=subject.loss))
    record = save(AugmentationControl(panels=panels), out / f"{NAME}.json")
    drawn: list[Path] = load_factory("saddlescope.figures.plots.augmentation_control:save")(record, ("svg", "png", "pdf"))
    return [record, *drawn]


def _opened(path: Path, wanted: Wanted) -> Subject:
    """Model, data and loss of a checkpoint; its record of training also tells how the images were augmented then."""
    subject = open_checkpoint(path, Given(data_root=wanted.data_root, trust=wanted.trust))
    side_car = side_car_of(path)
    trained = (side_car.recipe or {}).get("training") if side_car is not None else None
    augment = trained.get("augment") if isinstance(trained, dict) else None
    training = {**(subject.source.training or {}), "augment": augment}
    return replace(subject, source=replace(subject.source, training=training))


def _regression(wanted: Wanted) -> ControlPanel:
    given, name, index = _data(wanted)
    samples = _images(given)
    inputs, targets = samples.batch
    print(f"softmax regression on {name}: fitting {samples.num_samples} samples ...", flush=True)
    model, gradient = softmax_regression(inputs, targets, samples.num_classes)
    training = {"optimizer": "L-BFGS", "weight_decay": WEIGHT_DECAY, "largest_gradient_entry": gradient, "augment": "none"}
    source = Source(model="softmax regression", data=name, index_sha256=index, training=training)
    return _panel(model, samples, source, wanted, convex=True)


def _data(wanted: Wanted) -> tuple[Samples, str, str | None]:
    """The samples, what to call them, and the identity of the long tail."""
    try:
        given = parse_json(wanted.data_args)
    except ValueError as error:
        raise ControlError(f'--data-args {wanted.data_args}: not JSON ({error}); write {{"imbalance_factor": 50}}') from None
    if not isinstance(given, dict):
        raise ControlError(f'--data-args {wanted.data_args}: must be a JSON object, such as {{"imbalance_factor": 50}}')
    if ":" in wanted.data or "/" in wanted.data or Path(wanted.data).expanduser().exists():
        return load_samples(wanted.data, given), wanted.data, None
    data = load_factory(_LOAD_DATA)(
        name=wanted.data, root=wanted.data_root, **(TAILS.get(wanted.data, {"imbalance_factor": 100}) | given)
    )
    return as_samples(data.train.for_analysis(), wanted.data, data.num_classes), data.title, data.index_sha256


def _images(samples: Samples) -> Samples:
    """The same samples in memory, if they are pairs of images and labels.

    Raises:
        ControlError: they are not.
        SamplesError: they are too many for the memory.
    """
    held = samples.in_memory()
    pair = isinstance(held.batch, tuple | list) and len(held.batch) == 2
    if not pair or not all(isinstance(part, Tensor) for part in held.batch):
        raise ControlError("the control crops images at random: give data of pairs (image, label)")
    return held


def _panel(
    model: nn.Module,
    samples: Samples,
    source: Source,
    wanted: Wanted,
    *,
    loss: BatchLoss | None = None,
    convex: bool = False,
) -> ControlPanel:
    inputs, targets = samples.batch
    augment = CropMirror.of(inputs, wanted.mirror)
    classes = [label for label, count in enumerate(samples.class_counts.tolist()) if count]
    if wanted.classes and not convex:
        classes = sorted(set(wanted.classes))
    started = time.perf_counter()

    def tell(entry: ControlEntry) -> None:
        size = f"class {entry.label} ({entry.samples} samples)"
        print(f"{source.model}, {size}, {entry.data}: ratio {entry.ratio:.3g}, operator noise {entry.noise:.2g}", flush=True)

    entries = measure_control(
        model, inputs, targets, classes, augment, num_classes=samples.num_classes, loss=loss, steps=wanted.steps,
        seed=wanted.seed, progress=tell,
    )  # fmt: skip
    weights = next(model.parameters())
    provenance = describe(
        source,
        model,
        samples,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        settings={"steps": wanted.steps, "seed": wanted.seed, "augmentation": augment.words()},
        device=torch.device("cpu"),
        dtype=weights.dtype,
        seconds=time.perf_counter() - started,
    )
    return ControlPanel(title=source.model, convex=convex, augmentation=augment.words(), entries=entries, provenance=provenance)
