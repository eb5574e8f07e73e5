"""One run of a study: its settings, and the folder that belongs to them."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from .optimizers import OPTIMIZERS, OptimizerError
from .recipe import DataTable, GroupsTable, LossTable, ModelTable, Recipe, TrainingTable

#: raised when a change to the code changes what equal settings train to, so that older runs are not taken for new ones
ALGORITHM = 1
#: arguments of optimizers that are no settings: the study supplies them
_SUPPLIED = {"base", "class_counts", "epochs", "eta", "generator", "common"}


class RunSettings(BaseModel):
    """Everything that decides what a run trains to. Stored as ``run.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    optimizer: str
    settings: dict[str, Any]
    seed: int
    data: DataTable
    groups: GroupsTable
    model: ModelTable
    loss: LossTable
    training: TrainingTable

    @property
    def folder(self) -> str:
        """``<optimizer>-seed<k>-<8 digits of the hash of the settings>``: equal settings share a folder, others never do."""
        content = self.model_dump(mode="json", exclude={"study"})
        del content["training"]["device"]  # where a run is done does not make it another run
        text = json.dumps([ALGORITHM, content], sort_keys=True, separators=(",", ":"))
        return f"{self.optimizer}-seed{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def with_defaults(optimizer: str, settings: dict[str, Any]) -> dict[str, Any]:
    """An ``[optimizers.<key>]`` table with the method's defaults filled in.

    Raises:
        OptimizerError: unknown optimizer. (Unknown settings are refused when it is built.)
    """
    if optimizer not in OPTIMIZERS:
        raise OptimizerError(f"[optimizers.{optimizer}]: unknown optimizer; known are {', '.join(OPTIMIZERS)}")
    parameters = inspect.signature(OPTIMIZERS[optimizer]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in _SUPPLIED}
    return {name: value for name, value in (defaults | settings).items() if value is not None}


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with the defaults of its optimizers filled in."""
    optimizers = {key: with_defaults(key, settings) for key, settings in recipe.optimizers.items()}
    return recipe.model_copy(update={"optimizers": optimizers})


def runs(recipe: Recipe) -> list[RunSettings]:
    """Every run that the recipe asks for: optimizers in its order, and for each the seeds."""
    shared = {field: getattr(recipe, field) for field in ("data", "groups", "model", "loss", "training")}
    return [
        RunSettings(study=recipe.name, optimizer=key, settings=settings, seed=seed, **shared)
        for key, settings in resolve(recipe).optimizers.items()
        for seed in recipe.seeds
    ]
