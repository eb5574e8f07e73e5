"""What ``saddlescope slice`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from saddlescope import load_factory

from ..checkpoints.checkpoint_flags import Given, given_again
from ..checkpoints.discovery import TargetError
from ..records.base import ResultError, load
from ..records.results import CurvatureResult
from ..records.setting_flags import read_overrides
from ..records.settings import AnalysisSettings, SliceSettings, parse_settings, parse_slices
from ..records.study_plan import CurvatureItem, SliceItem, StudyAnalysis, curvature_item, key_suffix
from .analyses import curvature_is_current, study_of
from .analyze_command import recipe_of
from .progress import measure_with_steps, progress_bar
from .slices import SlicesOfCheckpoint, do_slices, slice_is_current


def slice_target(
    target: Path,
    name: str,
    overrides: Sequence[str],
    given: Given | None = None,
    *,
    convexity: bool = False,
    figures: Path | None = None,
) -> None:
    """``saddlescope slice``. A slice of a study's run is as the study's recipe says, but for the overrides.

    Args:
        target: a run folder or a checkpoint.
        name: of the slice.
        overrides: ``field=value`` of the tables slices and analysis.
        given: what the command line says of model, data and loss.
        convexity: also the ends of each group's Hessian at every cell of the plane.
        figures: folder for the pictures.

    Raises:
        TargetError: no checkpoint there.
    """
    checkpoint = target / "checkpoint.pt" if target.is_dir() else target
    if not checkpoint.is_file():
        raise TargetError(f"{target}: no checkpoint there (looked for {checkpoint})")
    table = read_overrides(overrides)
    of_slices = {key: value for key, value in table.items() if key in SliceSettings.model_fields}
    own = {key: value for key, value in table.items() if key not in SliceSettings.model_fields}
    study = study_of(checkpoint.parent)
    if study is not None:
        recipe = recipe_of(study, own)
        stored, of_slices = StudyAnalysis.parse(recipe).final, recipe.get("slices", {}) | of_slices
    else:
        stored = parse_settings(own, "--set")
    if convexity:
        of_slices |= {"planes": [name], "convexity": [name]}
    slices = parse_slices(of_slices)
    key = given.key if given is not None else None
    curvature = curvature_item(checkpoint, stored, key=key)
    if study is None and not own:
        curvature, given = _as_it_was_measured(curvature, given or Given())
        stored = curvature.settings
    stem = f"{'' if checkpoint.stem == 'checkpoint' else f'{checkpoint.stem}.'}{name}{key_suffix(key)}"
    output = curvature.output.parent.parent / "slices" / f"{stem}.json"
    item = SliceItem(checkpoint, name, slices, stored, output, key)
    measured = curvature_is_current(curvature, given)
    if not measured:
        measure_with_steps(curvature, given or Given())
    if not (measured and study is not None and slice_is_current(item)):
        with progress_bar("points") as bar:
            task = bar.add_task(name, total=None)
            do_slices(SlicesOfCheckpoint((item,)), given, lambda done, total: bar.update(task, completed=done, total=total))
    print(output)
    if figures is not None:
        load_factory("saddlescope.figures.draw:draw_slice")(output, figures)
        print(f"figures in {figures}")


def _as_it_was_measured(item: CurvatureItem, given: Given) -> tuple[CurvatureItem, Given]:
    """Settings and subject of the result that is there, so that a slice does not replace it by one of its own."""
    try:
        source = load(CurvatureResult, item.output).provenance
        settings = AnalysisSettings.model_validate(source.settings)
    except (ResultError, ValueError):
        return item, given
    return replace(item, settings=settings), given_again(source.subject, given, item.output)
