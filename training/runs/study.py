"""Trains a study: every optimizer with every seed, several runs at a time, finished runs left alone."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from joblib import Parallel, delayed

from saddlescope import reuse_freed_memory, share

from ..data.datasets import LongTailedData, load_data
from ..files import write_bytes, write_json
from ..losses import LossError, build_loss
from ..networks.models import MODELS, ModelError, build_model
from ..optimizers.passes import OptimizerError, evaluate
from .fork import check_start
from .loop import TrainingError, choose_device, train_run
from .messages import in_one_line
from .recipe import Recipe, RecipeError
from .run import RunSettings, resolve, runs
from .session import make_optimizer, model_arguments


def train_study(
    recipe: Recipe,
    folder: Path,
    *,
    data_root: str | None = None,
    jobs: int = 1,
    only: list[str] | None = None,
    shard: str | None = None,
) -> list[Path]:
    """Trains the runs of a recipe that are not finished; call it again after an interruption.

    Everything that can be wrong with the recipe is found before the first step: the data are loaded, and every optimizer is
    built once.

    Args:
        recipe: the study.
        folder: the study's folder, ``runs/<name>``; made if need be.
        data_root: folder to look for data in first.
        jobs: runs trained at a time, each in a process of its own. The digits do not depend on it.
        only: optimizer keys; default: all of the recipe.
        shard: ``i/n``, the part of these runs that is this process's, so that several processes or machines with a common
            folder share them.

    Returns:
        The folders of the runs asked for, in the recipe's order.

    Raises:
        DataError, LongTailError, OptimizerError, ModelError, LossError: something in the recipe does not fit.
        TrainingError: a run failed; the others are kept.
    """
    recipe = resolve(recipe)
    wanted = runs(recipe, folder)
    data = check(wanted, data_root)
    for run in wanted:
        if run.start is not None:
            check_start(run.start, folder, model_arguments(run, data), _described(data))
    chosen = chosen_runs(wanted, only, shard)
    open_runs = [run for run in chosen if not (folder / run.folder / "checkpoint.json").exists()]
    if open_runs:  # a finished study is read on machines that could not train it
        _try(open_runs[0], data)
    store_plan(recipe, wanted, folder)
    workers = Parallel(n_jobs=max(1, min(jobs, len(open_runs))), return_as="generator_unordered", max_nbytes=None)
    failures = [failure for failure in workers(delayed(_train)(run, folder, data_root) for run in open_runs) if failure]
    if failures:
        more = f" (and {len(failures) - 1} more runs failed)" if len(failures) > 1 else ""
        raise TrainingError(failures[0] + more)
    return [folder / run.folder for run in chosen]


def chosen_runs(wanted: list[RunSettings], only: list[str] | None, shard: str | None) -> list[RunSettings]:
    """The runs of the optimizers ``only``, and of these the share ``i/n``.

    Raises:
        RecipeError: an optimizer that the recipe does not have; a share that is not of that form.
    """
    known = list(dict.fromkeys(run.optimizer for run in wanted))
    unknown = [key for key in only or [] if key not in known]
    if unknown:
        raise RecipeError(f"optimizer {unknown[0]!r} is not in the recipe; it has: {', '.join(known)}")
    chosen = [run for run in wanted if only is None or run.optimizer in only]
    return share(chosen, shard, RecipeError)


def check(wanted: list[RunSettings], data_root: str | None) -> LongTailedData:
    """Loads the data and builds each optimizer once, so that a bad recipe fails before any training.

    Raises:
        As :func:`train_study`.
    """
    data = _load(wanted[0].data.model_dump_json(exclude_none=True), data_root)
    loss = build_loss(class_counts=data.class_counts, **wanted[0].loss.model_dump())
    for run in {run.optimizer: run for run in wanted}.values():
        model = build_model(**model_arguments(run, data), seed=0)
        make_optimizer(run, data.class_counts, model, np.random.default_rng(0), torch.device("cpu"))
    table = wanted[0].model
    if loss.expects_cosines and table.name in MODELS and table.args.get("classifier") != "cosine":
        raise LossError(
            f"the loss {wanted[0].loss.name} takes cosines: set model.args.classifier = 'cosine' (not all networks have one)"
        )
    return data


@torch.no_grad()
def _try(run: RunSettings, data: LongTailedData) -> None:
    """Two training images through model and loss, on the CPU, and a number on the device.

    Raises:
        LossError, ModelError, OptimizerError: they do not belong together.
        RecipeError: there is no such device.
    """
    model = build_model(**model_arguments(run, data), seed=0).eval()
    inputs, targets = next(iter(data.train.clean_batches(2))), data.train.targets[:2]
    try:
        logits = evaluate(model, inputs)
    except OptimizerError:
        raise
    except Exception as error:
        raise ModelError(f"the model does not take inputs of shape {list(inputs.shape[1:])}: {in_one_line(error)}") from error
    build_loss(class_counts=data.class_counts, **run.loss.model_dump())(logits, targets)
    try:
        torch.zeros(1, device=choose_device(run.training.device))
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"training.device = {run.training.device!r} cannot be used here: {in_one_line(error)}") from None


def _described(data: LongTailedData) -> dict[str, Any]:
    return {"name": data.title, "class_counts": data.class_counts, "index_sha256": data.index_sha256}


def store_plan(recipe: Recipe, wanted: list[RunSettings], folder: Path) -> None:
    """Writes ``recipe.toml``, resolved, and ``study.json``, the list of runs."""
    text = tomli_w.dumps(recipe.resolved()).encode()
    write_bytes(folder / "recipe.toml", text)
    index = [{"optimizer": run.optimizer, "seed": run.seed, "folder": run.folder} for run in wanted]
    write_json(folder / "study.json", {"name": recipe.name, "recipe_sha256": hashlib.sha256(text).hexdigest(), "runs": index})


def epochs_done(folder: Path, recipe: Recipe, only: list[str] | None = None, shard: str | None = None) -> tuple[int, int]:
    """``(done, asked for)`` epochs of all runs, read from their logs: works from any process, at any moment."""
    wanted = chosen_runs(runs(recipe, folder), only, shard)
    total = recipe.training.epochs
    done = 0
    for run in wanted:
        log = folder / run.folder / "metrics.jsonl"
        if (folder / run.folder / "checkpoint.json").exists():
            done += total
        elif log.exists():
            done += min(log.read_bytes().count(b"\n"), total)
    return done, total * len(wanted)


def _train(run: RunSettings, folder: Path, data_root: str | None) -> str | None:
    """One run in a worker; a failed job comes back as its message, so that the other runs go on."""
    reuse_freed_memory()
    data = _load(run.data.model_dump_json(exclude_none=True), data_root)
    try:
        train_run(run, folder / run.folder, data, data_root=data_root)
    except TrainingError as error:
        return str(error)
    return None


@lru_cache(maxsize=1)
def _load(table: str, data_root: str | None) -> LongTailedData:
    """The data of a study, once per process."""
    arguments: dict[str, Any] = json.loads(table)
    return load_data(**arguments, root=data_root)
