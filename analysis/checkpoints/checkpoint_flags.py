"""What the command line says about a checkpoint: its model, data and loss; now, or when a result was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from saddlescope import Permission

from ..records.base import parse_json, validated
from .user_code import SubjectError


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
            tables[name] = parse_json(text)
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
