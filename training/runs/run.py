"""One run of a study: its settings, and the folder that belongs to them."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..optimizers.registry import OPTIMIZERS, OptimizerError
from .fork import starts_of
from .recipe import DataTable, GroupsTable, LossTable, ModelTable, Recipe, TrainingTable

#: raised when a change to the code changes what equal settings train to, so that older runs are not taken for new ones
ALGORITHM = 1
#: arguments of optimizers that are no settings: the study supplies them
_SUPPLIED = {"base", "class_counts", "epochs", "eta", "generator", "common"}


class RunSettings(BaseModel):
    """Everything that decides what a run trains to. Stored as ``run.json``.

    ``optimizer`` is the name of its table in the recipe, ``rule`` the key of the optimizer where that is another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    optimizer: str
    rule: str | None = None
    settings: dict[str, Any]
    seed: int
    data: DataTable
    groups: GroupsTable
    model: ModelTable
    loss: LossTable
    training: TrainingTable
    start: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """The key of the optimizer."""
        return self.rule or self.optimizer

    @property
    def folder(self) -> str:
        """``<optimizer>-seed<k>-<8 digits of the hash of the settings>``: equal settings share a folder, others never do."""
        content = self.model_dump(mode="json", exclude={"study"})
        if self.rule is None:
            del content["rule"]  # runs of before there were named variants keep their folders
        if self.start is None:
            del content["start"]
        else:
            content["start"] = self.start["sha256"]  # other weights to start from make another run; where they lie does not
        del content["training"]["device"]  # where a run is done does not make it another run
        text = json.dumps([ALGORITHM, content], sort_keys=True, separators=(",", ":"))
        return f"{self.optimizer}-seed{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def network_sha256(run: RunSettings) -> str | None:
    """Of the text of the file that the network comes from; None for saddlescope's own, for modules, and where it is gone."""
    place = Path(run.model.name.rpartition(":")[0]).expanduser()
    return hashlib.sha256(place.read_bytes()).hexdigest() if place.suffix == ".py" and place.is_file() else None


def edited_networks(wanted: Sequence[RunSettings], folder: Path) -> list[str]:
    """The runs below ``folder`` of which something is trained, with another text of the file that their network comes from."""
    found = []
    for run in wanted:
        if not any((folder / run.folder / name).exists() for name in ("state.pt", "checkpoint.json")):
            continue
        try:
            begun = json.loads((folder / run.folder / "run.json").read_text(encoding="utf-8")).get("network_sha256")
        except (OSError, ValueError, AttributeError):
            continue  # damaged
        if begun is not None and network_sha256(run) not in (begun, None):
            found.append(run.folder)
    return found


def with_defaults(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """An ``[optimizers.<name>]`` table with the method's defaults filled in; a ``rule`` that is the name itself is left out.

    Unknown settings are refused when the optimizer is built.
    """
    rule = table.get("rule", name)
    parameters = inspect.signature(OPTIMIZERS[rule]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in _SUPPLIED}
    own = {field: value for field, value in table.items() if field != "rule"}
    settings = {field: value for field, value in (defaults | own).items() if value is not None}
    return settings if rule == name else {"rule": rule, **settings}


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with the defaults of its optimizers filled in.

    Raises:
        OptimizerError: two tables that are one optimizer with one set of settings.
    """
    optimizers = {name: with_defaults(name, table) for name, table in recipe.optimizers.items()}
    seen: dict[str, str] = {}
    for name, table in optimizers.items():
        same = seen.setdefault(json.dumps({"rule": name} | table, sort_keys=True), name)
        if same != name:
            raise OptimizerError(
                f"[optimizers.{name}] is [optimizers.{same}] again, setting for setting; change one of them or leave it out"
            )
    return recipe.model_copy(update={"optimizers": optimizers})


def runs(recipe: Recipe, folder: Path | None = None) -> list[RunSettings]:
    """Every run that the recipe asks for: optimizers in its order, and for each the seeds.

    Args:
        recipe: the study.
        folder: the study's folder, needed where the runs go on from another study.

    Raises:
        RecipeError: there is no such study to go on from.
    """
    starts = starts_of(recipe, folder) if folder is not None else {}
    shared = {field: getattr(recipe, field) for field in ("data", "groups", "model", "loss", "training")}
    return [
        RunSettings(
            study=recipe.name,
            optimizer=name,
            rule=table.get("rule"),
            settings={field: value for field, value in table.items() if field != "rule"},
            seed=seed,
            start=starts.get(seed),
            **shared,
        )
        for name, table in resolve(recipe).optimizers.items()
        for seed in recipe.seeds
    ]
