"""What the commands do: find the checkpoints that a path means, measure, and say what came out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saddlescope import load_factory

from ..checkpoints.analysis_inputs import check_side_cars, open_checkpoint
from ..checkpoints.checkpoint_flags import Given
from ..checkpoints.discovery import TargetError, find_checkpoints, share_of, thin
from ..hessian.distributed import planned, world_of
from ..measures.analyze import usable
from ..records.base import load
from ..records.results import CurvatureResult
from ..records.settings import AnalysisSettings, SettingsError
from ..records.steps import StepResult
from ..records.study import read_recipe
from ..records.study_plan import CurvatureItem, StudyAnalysis, curvature_item, result_names
from ..records.terminal import compare, show, show_steps
from .analyses import RefusedGroupsError, curvature_is_current, do_curvature, study_of
from .progress import GROUPS, analyze_with_progress, measure_with_steps, progress_bar
from .worker_pool import default_jobs, run_items

if TYPE_CHECKING:
    from .verify import Check


@dataclass(frozen=True)
class Request:
    """Everything ``saddlescope analyze`` was asked, but for the targets; fields as the flags."""

    settings: AnalysisSettings = field(default_factory=AnalysisSettings)
    given: Given = field(default_factory=Given)
    every: int = 1
    shard: str | None = None
    out: Path | None = None
    figures: Path | None = None
    as_json: bool = False
    dry_run: bool = False
    again: bool = False
    quick: bool = False
    layers: bool = False
    jobs: int | None = None


def analyze_targets(targets: Sequence[str], request: Request) -> None:
    """``saddlescope analyze``.

    Raises:
        TargetError: no checkpoint there.
        WorkError: some of several checkpoints, or groups of one, failed; the others are kept.
    """
    if len(targets) == 1 and _analyze_of_study(Path(targets[0]), request):
        return
    if request.settings.goal == "critical-step" and request.figures is not None:
        raise TargetError(
            "--figures: critical steps are drawn for studies only ([analysis] critical_steps = true in the recipe)"
        )
    check_request(request)
    checkpoints = share_of(thin(find_checkpoints(targets), request.every), request.shard)
    check_side_cars(checkpoints, request.given)
    names = result_names(checkpoints, request.out)
    items = [
        curvature_item(checkpoint, settings, request.out, name, request.given.key)
        for checkpoint, name in zip(checkpoints, names, strict=True)
        for settings in _layers(checkpoint, request)
    ]
    if request.dry_run:
        from .cost import measure_cost
        from .cost_table import print_cost

        spent = time.process_time()
        processes, slices, speaks = planned(request.settings.mesh)
        if not speaks:
            return
        os.environ |= {"WORLD_SIZE": "1", "RANK": "0"}  # it plans alone: a factory that spreads its model waits for nobody
        cost = measure_cost(items[0], request.given, count=len(items), processes=processes, slices=slices, spent=spent)
        if request.as_json:
            print(json.dumps(cost.record(), indent=1))
        else:
            print_cost(cost)
        return
    with world_of(request.settings.device, request.settings.mesh) as world:
        measure = [item for item in items if request.again or not curvature_is_current(item, request.given)]
        world.wait()  # before the first result changes what is current
        refused = None
        if len(measure) == 1 or world.size > 1:
            for item in measure:
                try:
                    measure_with_steps(item, request.given, world)
                except RefusedGroupsError as error:  # said below what was measured
                    refused = error
        else:
            _with_items(measure, request)
        world.wait()
        if world.first:
            _tell([item.output for item in items], request)
        if refused is not None:
            raise refused


def check_request(request: Request) -> None:
    """Returns if nothing that can be known beforehand is wrong: model and data may take minutes to load.

    Raises:
        SettingsError: there is no such device or group, or what names parameters is no pattern.
        TargetError: results or pictures cannot lie where they are to go.
    """
    settings = request.settings
    usable(settings.device)
    groups = (*settings.groups, "all") if settings.groups else GROUPS.get(settings.scheme)
    unknown = [name for name in settings.only or () if groups is not None and name not in groups]
    if unknown:
        raise SettingsError(
            f"only: no group {', '.join(unknown)} in scheme {settings.scheme}; there are: {', '.join(groups or ())}"
        )
    for part in settings.params.split(",") if settings.params is not None else ():
        if not part.strip() or part.count("[") != part.count("]"):
            raise SettingsError(f"--params '{settings.params}': write patterns of parameter names, such as 'layer4.*,fc.*'")
    if request.layers and settings.params is not None:
        raise TargetError("--layers takes every part of the model in turn: leave out --params, or --layers")
    for flag, folder in (("--out", request.out), ("--figures", request.figures)):
        # The nearest thing that is there, of which the rest would be made.
        there = next((place for place in (folder, *folder.parents) if place.exists()), None) if folder is not None else None
        if there is not None and not there.is_dir():
            raise TargetError(f"{flag} {folder}: {there} is a file; name a folder")
        if there is not None and not os.access(there, os.W_OK):
            raise TargetError(f"{flag} {folder}: nothing can be written in {there}")


def _layers(checkpoint: Path, request: Request) -> list[AnalysisSettings]:
    """The settings, once for each part of the model where ``--layers`` asks for it."""
    if not request.layers:
        return [request.settings]
    model = open_checkpoint(checkpoint, request.given).model
    parts = [name for name, part in model.named_children() if any(p.requires_grad for p in part.parameters())]
    if not parts:
        raise TargetError(f"{checkpoint}: the model has no parts with parameters of their own; leave out --layers")
    return [request.settings.model_copy(update={"params": f"{name}.*"}) for name in parts]


def _tell(outputs: Sequence[Path], request: Request) -> None:
    """What was found: JSON, one table, or several checkpoints side by side."""
    if request.settings.goal == "critical-step":
        _tell_steps(outputs, request)
        return
    results = [load(CurvatureResult, path) for path in outputs]
    if request.as_json:
        content = [json.loads(result.model_dump_json()) for result in results]
        print(json.dumps(content[0] if len(content) == 1 else content, indent=1))
    elif len(results) == 1:
        show(results[0], quick=request.quick)
        print(outputs[0])
    else:
        compare(dict(zip(outputs, results, strict=True)))
        print(f"{len(outputs)} results, the last one {outputs[-1]}")
    if request.figures is not None:
        load_factory("saddlescope.figures.draw:draw_results")(list(outputs), request.figures)
        if not request.as_json:
            print(f"figures in {request.figures}")


def _tell_steps(outputs: Sequence[Path], request: Request) -> None:
    results = [load(StepResult, path) for path in outputs]
    if request.as_json:
        content = [json.loads(result.model_dump_json()) for result in results]
        print(json.dumps(content[0] if len(content) == 1 else content, indent=1))
        return
    for result, path in zip(results, outputs, strict=True):
        show_steps(result)
        print(path)


def _analyze_of_study(target: Path, request: Request) -> bool:
    """Does the target if it is a study or one of its runs, with the settings of the study's recipe; else returns False."""
    runs = None
    study: Path | None = target
    if not (target / "study.json").exists():
        study = study_of(target) if target.is_dir() else None
        runs = [target]
    if study is None:
        return False
    ignored = [name for name in _OF_FILES if _asked(request, name)]
    if ignored:
        flags = ", ".join("--" + _FLAGS.get(name, name.replace("_", "-")) for name in ignored)
        raise TargetError(f"{target} is analysed as its recipe says: name its checkpoint files instead to use {flags}")
    changed = request.settings.model_dump(mode="json", exclude_unset=True)
    plan = StudyAnalysis.parse(recipe_of(study, changed), str(study / "recipe.toml"))
    given = request.given
    analyze_with_progress(study, plan, data_root=given.data_root, jobs=request.jobs, runs=runs, permission=given.permission)
    if runs is None:
        print(f"results under {study}; draw and report them with: saddlescope figures {study}, saddlescope report {study}")
    else:
        show(load(CurvatureResult, curvature_item(target / "checkpoint.pt", plan.final).output))
    return True


#: what is asked of checkpoint files only
_OF_FILES = ("every", "shard", "out", "figures", "as_json", "dry_run", "again", "layers", "given")
_FLAGS = {"as_json": "json", "given": "model, --data, --loss or --key"}


def _asked(request: Request, name: str) -> bool:
    if name == "given":
        return bool(request.given.record())
    return bool(getattr(request, name) != getattr(Request(), name))


def recipe_of(study: Path, analysis: dict[str, Any]) -> dict[str, Any]:
    """A study's recipe, with changes to its ``[analysis]`` table."""
    recipe = read_recipe(study)
    return recipe | {"analysis": recipe.get("analysis", {}) | analysis}


class ClaimError(RuntimeError):
    """A stored claim does not hold."""


def verify_result(result: Path, checkpoint: Path | None = None, given: Given | None = None) -> None:
    """``saddlescope verify``.

    Raises:
        ClaimError: a certificate does not hold.
        VerificationError: weights, data or vectors are not those of the result.
    """
    from .verify import verify

    with world_of() as world:
        checks = verify(result, checkpoint=checkpoint, given=given, world=world)
        first = world.first
    if first:
        _tell_checks(result, checks)
    failed = [check.group for check in checks if not check.holds]
    if failed and not first:
        raise SystemExit(1)  # the first process says it
    if failed:
        raise ClaimError(f"{result}: negative curvature of {', '.join(failed)} is not confirmed")


def _tell_checks(result: Path, checks: Sequence[Check]) -> None:
    if not checks:
        print(f"{result}: weights and data are unchanged; it claims no negative curvature, so there is no proof to check")
        return
    for check in checks:
        print(
            f"{check.group}: {'holds' if check.holds else 'FAILS'}: v'Hv = {check.product:.6g} by a Hessian-vector product, "
            f"{check.difference:.6g} by gradient differences (stored {check.stored:.6g}; must be below {check.threshold:.3g})"
        )


def _with_items(items: Sequence[CurvatureItem], request: Request) -> None:
    with progress_bar() as bar:
        task = bar.add_task("analyze", total=len(items))
        for _ in run_items(partial(do_curvature, given=request.given), items, request.jobs or default_jobs()):
            bar.update(task, advance=1)
