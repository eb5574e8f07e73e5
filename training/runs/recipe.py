"""Recipes: a study as a TOML file with validated fields, any of which can be overridden on the command line.

Above 300 lines: the fields of all tables stand in one place, with what makes a recipe of them.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from saddlescope import Permission

from ..optimizers.registry import OPTIMIZERS

RECIPES = Path(__file__).parents[1] / "recipes"


class RecipeError(ValueError):
    """A recipe that does not exist or does not hold together; the message names file, field and fix."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataTable(_Table):
    """``[data]``: arguments of :func:`~saddlescope.training.data.datasets.load_data`."""

    name: str
    imbalance_factor: float | None = Field(None, gt=0, description="largest over smallest class; 100 and 0.01 mean the same")
    kind: Literal["exp", "step"] = "exp"
    protocol: Literal["ldam", "first"] = "ldam"
    seed: int = Field(0, ge=0, lt=2**32, description="of the protocol and of the held-out part; not the training seed")
    n_max: int | None = Field(None, ge=1, description="size of the largest class; default: all there is")
    held_out: int | None = Field(None, ge=1, description="images of each class set aside, for sets that come in one part")
    train_list: str | None = Field(None, description="image-list: 'path label' lines of the training images")
    test_list: str | None = Field(None, description="image-list: lines of the images that accuracy is measured on")
    image_size: int | None = Field(None, ge=1, description="listed images: height and width of the inputs; default 224")

    @model_serializer(mode="wrap")
    def _without_lists(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields of listed images only where they are given: a run's folder is named after all of its settings."""
        fields: dict[str, Any] = handler(self)
        return {k: v for k, v in fields.items() if v is not None or k not in ("train_list", "test_list", "image_size")}


class GroupsTable(_Table):
    """``[groups]``: a class is tail if it has fewer than ``eta`` training images; many > ``many``, few < ``few``."""

    eta: int = Field(ge=1)
    many: int = Field(100, ge=0)
    few: int = Field(20, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> GroupsTable:
        if self.few > self.many + 1:
            raise ValueError(f"few = {self.few} above many = {self.many}: a class would be both")
        return self


class ModelTable(_Table):
    """``[model]``: a name of :data:`~saddlescope.training.networks.models.MODELS` or a factory, and its arguments."""

    name: str
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_name(self) -> ModelTable:
        for own, place in (("name", "model.name"), ("seed", "the run's seed")):
            if own in self.args:
                raise ValueError(f"field 'model.args.{own}': it would take the place of {place}; leave it out")
        return self


class LossTable(BaseModel):
    """``[loss]``: the name and the loss's own settings, see :func:`~saddlescope.training.losses.build_loss`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = "cross-entropy"

    @model_validator(mode="after")
    def _not_the_counts(self) -> LossTable:
        if "class_counts" in (self.model_extra or {}):
            raise ValueError("field 'loss.class_counts': they are those of the data; leave it out")
        return self


class TrainingTable(_Table):
    """``[training]``: what all optimizers share. The base step is SGD with momentum."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    steps: list[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0)]]] = Field(
        [], description="for schedule = 'step': [epochs done, factor of lr]"
    )
    warmup_epochs: int = Field(0, ge=0)
    augment: Literal["none", "crop", "crop-flip"] = "none"
    max_norm: float | None = Field(None, gt=0, description="clip the gradient to this norm")
    autocast: Literal["none", "bf16", "fp16"] = "none"
    checkpoint_every: int | None = Field(None, ge=1, description="epochs; the stage switch and the end are stored anyway")
    evaluate_every: int = Field(1, ge=1, description="epochs between accuracies; checkpoints have one anyway")
    device: str = Field("auto", description="'auto' is a GPU if there is one, else the CPU")
    threads: int = Field(1, ge=1, description="CPU threads of one run; small models are fastest on one")
    compile: bool = Field(False, description="steps through torch.compile; pays off in convolution networks, after a minute")
    start_from: str | None = Field(None, min_length=1, description="study whose final checkpoints the runs go on from, by seed")
    start_optimizer: str | None = Field(None, description="whose checkpoints those are; default: sgd")
    checkpoint_every_steps: int | None = Field(None, ge=1, description="steps; beside the checkpoints by epochs")

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later only where they are given, as :meth:`DataTable._without_lists`."""
        fields: dict[str, Any] = handler(self)
        later = ("start_from", "start_optimizer", "checkpoint_every_steps", "compile")
        return {k: v for k, v in fields.items() if k not in later or v not in (None, False)}

    @model_validator(mode="after")
    def _consistent(self) -> TrainingTable:
        if (self.schedule == "step") != bool(self.steps):
            raise ValueError("schedule 'step' and 'steps' go together: give both or neither")
        if [after for after, _ in self.steps] != sorted({after for after, _ in self.steps}):
            raise ValueError(f"steps must have rising epochs, got {self.steps}")
        if self.start_optimizer is not None and self.start_from is None:
            raise ValueError("start_optimizer says whose checkpoints start_from means: give both, or neither")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is a way of using momentum: set momentum above 0")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs} leaves nothing of epochs = {self.epochs}")
        return self


class Recipe(_Table):
    """A study: every optimizer with every seed on one training set.

    A table of ``optimizers`` is named like the optimizer that it is, or says by ``rule`` which one: so one optimizer can be in
    a study several times, with different settings. ``analysis`` and ``slices`` are kept as they are, for the packages that
    read them.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    question: str
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    data: DataTable
    groups: GroupsTable
    model: ModelTable
    loss: LossTable = LossTable()
    training: TrainingTable
    optimizers: dict[str, dict[str, Any]] = Field(min_length=1)
    analysis: dict[str, Any] = {}
    slices: dict[str, Any] = {}

    @model_validator(mode="after")
    def _distinct(self) -> Recipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds repeat: {self.seeds}")
        return self

    @model_validator(mode="after")
    def _known_optimizers(self) -> Recipe:
        for name, table in self.optimizers.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"field 'optimizers.{name}': a name has letters, digits, - and _, as it names folders too")
            if name in OPTIMIZERS:
                if table.get("rule", name) != name:
                    raise ValueError(
                        f"field 'optimizers.{name}.rule': {table['rule']!r} under the name of another optimizer; name "
                        f"the table {table['rule']}-<something>"
                    )
                continue
            field, given = (f"optimizers.{name}.rule", table["rule"]) if "rule" in table else (f"optimizers.{name}", name)
            if not isinstance(given, str) or given not in OPTIMIZERS:
                near = difflib.get_close_matches(str(given), OPTIMIZERS, n=1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                own = "" if "rule" in table else "; a table of any other name says by rule which of them it is"
                raise ValueError(f"field '{field}': unknown optimizer {given!r}; {hint}Known: {', '.join(OPTIMIZERS)}{own}")
        return self

    def resolved(self) -> dict[str, Any]:
        """All fields with their defaults filled in, as TOML can hold them (a field that is ``None`` is left out)."""
        return self.model_dump(mode="json", exclude_none=True)


def recipe_names() -> list[str]:
    """The recipes that come with the suite."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), *, trust: bool = False) -> Recipe:
    """Reads a recipe.

    Args:
        name_or_path: one of :func:`recipe_names`, or a TOML file.
        overrides: ``table.field=value`` with the value written as in TOML (a bare word is taken as text).
        trust: a recipe that lies in a study folder may name a model that is not ours.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown field (with the nearest known one) or a value out of range.
        TrustError: a recipe that lies in a study folder, and so came with it, names code that no override names.
    """
    path = _find(name_or_path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # the latter: thousands of nested lists
        raise RecipeError(f"{path}: not readable as TOML: {error}") from None
    for override in overrides:
        _apply(raw, override)
    model = raw.get("model")
    if isinstance(model, dict) and isinstance(model.get("name"), str):
        of_study = (path.parent / "study.json").exists()
        if of_study and not any(override.partition("=")[0].strip() in ("model", "model.name") for override in overrides):
            Permission(everything=trust).check(path, {"model": (model["name"], {})}, "--set model.name=")
        model["name"] = _anchored(model["name"], Path() if of_study else path.parent)
    return parse_recipe(raw, str(path))


def parse_recipe(raw: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Validates a recipe given as a dictionary.

    Raises:
        RecipeError: as in :func:`load_recipe`.
    """
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}") from None


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix == ".toml" or path.is_file():
        if path.is_file():
            return path
        raise RecipeError(f"recipe {path}: no such file; recipes that come with saddlescope: {', '.join(recipe_names())}")
    if path.name == str(name_or_path) and (RECIPES / f"{path}.toml").is_file():
        return RECIPES / f"{path}.toml"
    near = difflib.get_close_matches(str(name_or_path), recipe_names(), n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise RecipeError(f"no recipe named '{name_or_path}'; {hint}Known: {', '.join(recipe_names())}, or the path of a TOML file")


def _anchored(model: str, folder: Path) -> str:
    """A factory file written relative to the recipe, as an absolute path: the study is stored elsewhere."""
    file, colon, name = model.rpartition(":")
    if not colon or not file.endswith(".py"):
        return model
    beside = folder / Path(file).expanduser()
    return f"{(beside if beside.is_file() else Path(file).expanduser()).resolve()}:{name}"


def _apply(raw: dict[str, Any], override: str) -> None:
    """Sets one field of the raw recipe."""
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise RecipeError(f"--set {override}: write table.field=value, such as training.epochs=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    table = raw
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override}: '{part}' is a value, not a table")
    table[parts[-1]] = value


def _explain(error: ValidationError) -> str:
    """The first problem of a validation in one sentence."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    field = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = _fields(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean '{'.'.join([*location[:-1], near[0]])}'?" if near else f"known there: {', '.join(known)}"
        return f"unknown field '{field}'; {hint}"
    if first["type"] == "missing":
        return f"field '{field}' is missing"
    message: str = first["msg"].removeprefix("Value error, ")
    if not field:
        return message
    return f"field '{field}': {message} (given: {first.get('input')!r})" if len(location) > 1 else f"{field}: {message}"


def _fields(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        inner = model.model_fields[part].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return list(model.model_fields)
