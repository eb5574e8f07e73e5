"""What a training says of itself, in side-cars, in the provenance of results and in ``metrics.jsonl``. Torch-free.

Fields that are read here are checked, others are let through: a training code may note more.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Noted(BaseModel):
    """Base of these records."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Accuracy(Noted):
    """Accuracy of each group under its name, and of each class; null where there are no images of it."""

    __pydantic_extra__: dict[str, float | None]
    per_class: list[float | None] | None = None


class Start(Noted):
    """The checkpoint of another study that a run goes on from; its path is relative to the run's study."""

    study: str
    run: str
    sha256: str
    checkpoint: str


class Training(Noted):
    """Of which run a checkpoint is, and how far the training had come."""

    study: str | None = None
    run: str | None = None
    optimizer: str | None = None
    rule: str | None = None
    seed: int | None = None
    epoch: int | None = Field(None, ge=0)
    step: int | None = Field(None, ge=0, description="of a checkpoint stored every so many steps")
    epochs: int | None = Field(None, ge=0)
    stage: int | None = None
    stage_switch_epoch: int | None = None
    accuracy: Accuracy | None = None
    accuracy_split: str | None = None
    start: Start | None = None


class Epoch(Noted):
    """One line of ``metrics.jsonl``."""

    epoch: int = Field(ge=0)
    stage: int | None = None
    lr: float
    train_loss: float
    accuracy: Accuracy | None = None
    seconds: float | None = None


def _checked(raw: dict[str, Any]) -> dict[str, Any]:
    Training.model_validate(raw)
    return raw


#: :class:`Training` as the dictionary that was stored
TrainingTable = Annotated[dict[str, Any], AfterValidator(_checked)]
