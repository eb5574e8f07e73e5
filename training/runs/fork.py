"""Going on from another study's checkpoints: every optimizer from the same weights of the same seed."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .recipe import Recipe, RecipeError

#: whose checkpoints are gone on from, where the recipe does not tell
USUAL = "sgd"


def starts_of(recipe: Recipe, folder: Path) -> dict[int, dict[str, Any]]:
    """Where the run of each seed starts; empty where the recipe starts anew.

    Args:
        recipe: with ``training.start_from``: a study beside this one, or the folder of one.
        folder: of the study that is to be trained.

    Returns:
        Seed -> ``study``, ``run``, ``sha256`` and ``checkpoint``, a path relative to ``folder``.

    Raises:
        RecipeError: there is no such study, or it lacks the optimizer or a seed.
    """
    name = recipe.training.start_from
    if name is None:
        return {}
    study = _study(name, folder)
    wanted = recipe.training.start_optimizer or USUAL
    if study.resolve() == folder.resolve():
        raise RecipeError(f"training.start_from: study {study.name} cannot start from itself; give this recipe another name")
    rows = _rows(study)
    known = list(dict.fromkeys(optimizer for optimizer, _, _ in rows))
    if wanted not in known:
        raise RecipeError(
            f"training.start_optimizer: study {study.name} has no optimizer '{wanted}'; it has: {', '.join(known)}"
        )
    by_seed = {seed: run for optimizer, seed, run in rows if optimizer == wanted}
    finished = {seed: run for seed, run in by_seed.items() if (study / run / "checkpoint.json").exists()}
    if missing := [str(seed) for seed in recipe.seeds if seed not in finished]:
        there = ", ".join(map(str, finished)) or "none"
        raise RecipeError(
            f"training.start_from: study {study.name} has no finished {wanted} run of seed {', '.join(missing)} "
            f"(finished: {there}); train it there, or choose among these with --set seeds=[...]"
        )
    found = {}
    for seed in recipe.seeds:
        checkpoint = study / finished[seed] / "checkpoint.pt"
        side_car = side_car_of(checkpoint)
        found[seed] = {
            "study": study.name,
            "run": finished[seed],
            "sha256": side_car["sha256"],
            "checkpoint": os.path.relpath(checkpoint, folder),
        }
    return found


def _study(name: str, folder: Path) -> Path:
    beside, path = folder.parent / name, Path(name).expanduser()
    for study in (beside, path):
        if (study / "study.json").is_file():
            return study
    if path.name != name:
        raise RecipeError(f"training.start_from: no study in {path} (it has no study.json); give the folder of a study")
    raise RecipeError(
        f"training.start_from: no study '{name}' ({beside} has no study.json); make it first with 'saddlescope reproduce "
        f"{name} --out {folder.parent}', or give the folder of a study"
    )


def _rows(study: Path) -> list[tuple[str, int, str]]:
    """Optimizer, seed and folder of every run that ``study.json`` lists; a folder lies in the study's."""
    path = study / "study.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["runs"]
        found = [(row["optimizer"], row["seed"], row["folder"]) for row in rows]
        kinds = {(type(name), type(seed), type(run)) for name, seed, run in found}
        if kinds <= {(str, int, str)} and all(run and Path(run).name == run for _, _, run in found):
            return found
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        pass
    raise RecipeError(f"training.start_from: {path} is damaged; train that study again, which keeps the runs that are finished")


def side_car_of(checkpoint: Path) -> dict[str, Any]:
    """The record beside a checkpoint of ours.

    Raises:
        RecipeError: it is damaged.
    """
    path = checkpoint.with_suffix(".json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        parts = (record["sha256"], record["model"], record["model"].get("args", {}), record["data"])
        if [type(part) for part in parts] == [str, dict, dict, dict]:
            return dict(record)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        pass
    raise RecipeError(f"training.start_from: {path} is damaged; train that run again")


def check_start(start: dict[str, Any], folder: Path, model: dict[str, Any], data: dict[str, Any]) -> None:
    """Refuses to go on from weights of another model, from other data, or from a file that is gone or changed.

    Args:
        start: as :func:`starts_of` gives it.
        folder: of the study that is to be trained.
        model: arguments of the model that is to be trained.
        data: ``name``, ``index_sha256`` and ``class_counts`` of the data that it is trained on.

    Raises:
        RecipeError: another model or other data, by name; or as :func:`load_start`.
    """
    record = side_car_of(_path(start, folder))
    where = f"training.start_from: study {start['study']}"
    there = record["model"].get("args", {})
    if there != model:
        differing = sorted(key for key in {*there, *model} if there.get(key) != model.get(key))
        words = ", ".join(f"{key} {there.get(key)!r} there, {model.get(key)!r} here" for key in differing)
        raise RecipeError(f"{where} trained another model ({words}); give this recipe the same [model]")
    for key, value in data.items():
        if record["data"].get(key) != value:
            raise RecipeError(
                f"{where} trained on other data ({key} {_short(record['data'].get(key))} there, {_short(value)} here); give "
                "this recipe the same [data]"
            )
    _content(start, folder)


def _path(start: dict[str, Any], folder: Path) -> Path:
    return Path(os.path.normpath(folder / start["checkpoint"]))  # the study's own folder may not be there yet


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def load_start(model: nn.Module, start: dict[str, Any], folder: Path) -> None:
    """Puts the weights and running statistics of the starting checkpoint into the model.

    Raises:
        RecipeError: the file is gone or not the one that was there when the study began.
    """
    model.load_state_dict(torch.load(io.BytesIO(_content(start, folder)), map_location="cpu", weights_only=True))


def _content(start: dict[str, Any], folder: Path) -> bytes:
    """The checkpoint's bytes, those that its side-car tells of."""
    path = _path(start, folder)
    try:
        content = path.read_bytes()
    except OSError:
        raise RecipeError(f"training.start_from: {path} is gone; train that run again") from None
    if hashlib.sha256(content).hexdigest() != start["sha256"]:
        raise RecipeError(f"training.start_from: {path} is not the checkpoint of its side-car (SHA-256 differs)")
    return content
