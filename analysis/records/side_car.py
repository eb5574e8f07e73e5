"""The side-car: the JSON file beside a checkpoint that tells model, data and loss. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from .base import FileName, ResultError, read_json, validated
from .training_record import Noted, Training

SIDE_CAR_FORMAT, SIDE_CAR_VERSION = "saddlescope-checkpoint", 1


class Made(Noted):
    """What a factory makes when it is called with ``args``."""

    factory: str
    args: dict[str, Any] = Field({})


class MadeData(Made):
    """The samples trained on, and what tells whether they are still the same."""

    name: str
    class_counts: list[int] = Field(min_length=1)
    index_sha256: str | None = None


class MadeLoss(Made):
    """The loss trained with."""

    name: str


class Groups(Noted):
    """Thresholds of the class groups, see ``AnalysisSettings``."""

    eta: int | None = Field(None, ge=1)
    many: int | None = Field(None, ge=0)
    few: int | None = Field(None, ge=0)


class SideCar(Noted):
    """``<stem>.json`` beside ``<stem>.pt``."""

    format: Literal["saddlescope-checkpoint"]
    version: int = Field(1, ge=0)
    checkpoint: FileName | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    model: Made
    data: MadeData
    loss: MadeLoss
    groups: Groups = Groups()
    accuracy_split: str | None = None
    training: Training | None = None
    recipe: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """As JSON, what the file does not hold left out."""
        return self.model_dump(mode="json", exclude_unset=True)

    @property
    def thresholds(self) -> dict[str, int]:
        """Those of the class groups that the file tells."""
        return {name: value for name, value in self.groups if value is not None and name in Groups.model_fields}


class OfRun(Training):
    """The same of a run of ours, which always tells its epoch."""

    epoch: int = Field(ge=0)


class RunSideCar(SideCar):
    """The side-car that our training writes, as figures and reports of a study need it."""

    checkpoint: FileName
    training: OfRun


S = TypeVar("S", bound=SideCar)


def read_side_car(path: Path, kind: type[S]) -> S:
    """Reads a side-car.

    Raises:
        ResultError: missing, damaged, a field out of range, or of a newer version.
    """
    raw = read_json(path)
    version = raw.get("version", 0)
    if isinstance(version, int) and version > SIDE_CAR_VERSION:
        raise ResultError(f"{path}: version {version} is newer than {SIDE_CAR_VERSION}; update saddlescope to read it")
    return validated(kind, raw, path)


def side_car_of(checkpoint: Path) -> SideCar | None:
    """The side-car beside a checkpoint, None if there is none; a JSON file of somebody else's is none.

    Raises:
        ResultError: damaged, or of a newer version.
    """
    path = checkpoint.with_suffix(".json")
    if path == checkpoint or not path.exists():
        return None
    try:
        raw = read_json(path)
    except ResultError as error:
        raise ResultError(f"{error}: train the run again, or move the file away and give --model and --data") from None
    return read_side_car(path, SideCar) if raw.get("format") == SIDE_CAR_FORMAT else None
