"""RESULT arguments -> named series: result files, run folders and study folders, seeds of one optimizer together."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ...analysis.records.base import load
from ...analysis.records.load_study import load_study
from ...analysis.records.results import CurvatureResult
from ...analysis.records.study import read_json
from .baseline import BaselineError, Series, series_of


def collect(arguments: Iterable[str | Path], *, every_checkpoint: bool = False, by_seed: bool = False) -> dict[str, Series]:
    """Reads results from disk.

    Args:
        arguments: result JSON files, folders of them, run folders or study folders; ``NAME=PATH`` names the series of PATH.
        every_checkpoint: of a folder take every analysed checkpoint, not only the final one.
        by_seed: make every seed a series of its own.

    Returns:
        series by name: ``study/optimizer/final/scheme`` for our own runs, ``checkpoint/scheme`` for others,
        ``NAME/checkpoint/scheme`` for a named folder of several, and for what a monitor stored.

    Raises:
        BaselineError: nothing there, an unfinished study, or two results for one seed of a series.
        ResultError: a damaged file, a newer schema or a NaN.
    """
    found = read_results(arguments, every_checkpoint=every_checkpoint)
    origin = {id(result): str(path) for _, path, result in found}
    return gather([(name, result) for name, _, result in found], origin, by_seed=by_seed)


def read_results(
    arguments: Iterable[str | Path | tuple[str, str | Path]], *, every_checkpoint: bool = False
) -> list[tuple[str | None, Path, CurvatureResult]]:
    """``(name or None, file, result)`` of every result that the arguments mean, each file once; see ``collect``.

    ``(NAME, PATH)`` is ``NAME=PATH`` whatever the two hold.
    """
    found: dict[Path, tuple[str | None, Path, CurvatureResult]] = {}
    for argument in arguments:
        name, path = (argument[0], Path(argument[1])) if isinstance(argument, tuple) else _split(str(argument))
        results = _results(path, every_checkpoint)
        several = path.is_dir() and len({_stem(result) for _, result in results}) > 1
        for file, result in results:
            # One name for a folder of several checkpoints of one's own: each is a series, not another night of the same one.
            apart = several and name is not None and not _along(result) and not result.provenance.training.get("study")
            own = f"{name}/{_stem(result)}" if apart else name
            if found.setdefault(file.resolve(), (own, file, result))[0] != own:
                raise BaselineError(f"{file}: given twice under different names")
    return list(found.values())


def gather(
    named: Iterable[tuple[str | None, CurvatureResult]], origin: Mapping[int, str] | None = None, *, by_seed: bool = False
) -> dict[str, Series]:
    """Groups results into series by study, optimizer, point and scheme.

    Args:
        named: ``(name or None, result)``; a name replaces study and optimizer (or the checkpoint's file name).
        origin: ``id(result)`` -> file, for messages.
        by_seed: make every seed a series of its own.

    Raises:
        BaselineError: no result at all, two of one checkpoint or seed, or seeds that were not measured alike.
    """
    together: dict[str, list[tuple[str | None, CurvatureResult]]] = {}
    for name, result in named:
        key = series_name(result, name)
        seed = result.provenance.training.get("seed")
        if by_seed and seed is not None:
            key = f"{key}/seed-{seed}"
        together.setdefault(key, []).append((name, result))
    if not together:
        raise BaselineError("no result given: name result files, run folders or a study folder")
    for key, members in together.items():
        _told_apart(key, members, origin or {}, by_seed=by_seed)
    return {key: series_of([result for _, result in members], key) for key, members in sorted(together.items())}


def _told_apart(
    key: str, members: list[tuple[str | None, CurvatureResult]], origin: Mapping[int, str], *, by_seed: bool
) -> None:
    """Refuses a series that holds one training twice, or of which nobody said that its checkpoints are one training's."""
    unseeded = sum(result.provenance.training.get("seed") is None for _, result in members)
    if 0 < unseeded < len(members):
        raise BaselineError(
            f"series '{key}': {unseeded} of its {len(members)} results say no seed, the others do; name them apart: NAME=PATH"
        )
    seen: dict[int | str | None, tuple[str | None, CurvatureResult]] = {}
    for name, result in members:
        seed, weights = result.provenance.training.get("seed"), result.provenance.checkpoint_sha256
        earlier = seen.get(weights) or seen.get(seed)
        if earlier is None:
            seen[weights] = seen[seed] = (name, result)
            continue
        files = " and ".join(origin.get(id(one), "a result given") for one in (earlier[1], result))
        who = f"seed {seed}" if seed is not None else "a model without a seed"
        if earlier[1].provenance.checkpoint_sha256 == weights:
            raise BaselineError(f"series '{key}': two results for {who} ({files}); give one, or name them: NAME=PATH")
        if by_seed:
            raise BaselineError(
                f"series '{key}': two results for {who} ({files}), and --by-seed expects one for each; give one, or name them "
                "apart: NAME=PATH"
            )
        if name is None:
            raise BaselineError(
                f"series '{key}': two results for {who} with different weights ({files}); if they are nights of one training, "
                "say so with one name for all: NAME=PATH NAME=PATH; else name them apart"
            )
        seen[weights] = (name, result)


def series_name(result: CurvatureResult, name: str | None = None) -> str:
    """Name of the series a result belongs to; the same for every seed and every machine."""
    training = result.provenance.training
    ours = [str(training[key]) for key in ("study", "optimizer") if training.get(key)]
    stem = Path(result.provenance.checkpoint).stem
    parts = [name] if name else ours or [stem]
    if _along(result) and (name or ours):
        parts.append(stem)
    elif ours:
        parts.append("final" if _is_final(result) else stem)
    parts.append(result.scheme.name)
    if key := result.provenance.subject.get("key"):  # one file may hold several states
        parts.append(f"key={key}")
    if result.provenance.params_pattern:
        parts.append(f"params={result.provenance.params_pattern}")
    return "/".join(parts)


def matches(pattern: str, series: str, number: str) -> bool:
    """True if an ``--only`` pattern means this number: of ``series::number``, of the number or of the series."""
    return any(fnmatch.fnmatchcase(text, pattern) for text in (f"{series}::{number}", number, series))


def restrict(series: Mapping[str, Series], only: Sequence[str]) -> dict[str, Series]:
    """The part of ``series`` that any of the patterns means; all of it without patterns."""
    if not only:
        return dict(series)
    kept = {}
    for name, entry in series.items():
        numbers = {number: value for number, value in entry.numbers.items() if any(matches(p, name, number) for p in only)}
        if numbers:
            kept[name] = entry.model_copy(update={"numbers": numbers})
    return kept


def _split(argument: str) -> tuple[str | None, Path]:
    name, found, rest = argument.partition("=")
    if found and "/" not in name and not Path(argument).exists():
        return name, Path(rest)
    return None, Path(argument)


def _results(path: Path, every_checkpoint: bool) -> list[tuple[Path, CurvatureResult]]:
    if path.is_file():
        return [(path, load(CurvatureResult, path))]
    if not path.exists():
        raise BaselineError(f"{path}: no such file or folder")
    if (path / "study.json").exists():
        study = load_study(path)
        if study.missing:
            names = ", ".join(f"{run.optimizer} seed {run.seed}" for run in study.missing)
            raise BaselineError(f"{path}: unfinished, no final checkpoint of {names}; finish the study or name run folders")
        folders = [run.folder for run in study.runs]
    else:
        folders = [path]
    found = []
    for folder in folders:
        stored = [(file, load(CurvatureResult, file)) for file in _files(folder)]
        kept = [(file, result) for file, result in stored if every_checkpoint or _is_final(result)]
        if not kept:
            raise BaselineError(
                f"{folder}: no {'' if every_checkpoint else 'final '}result of 'saddlescope analyze' in it or in its curvature/"
            )
        found += kept
    return found


def _files(folder: Path) -> list[Path]:
    """Results of a run folder, or of a folder that ``analyze --out`` filled; other JSON files beside them are left alone."""
    inside = sorted(folder.glob("curvature/*.json"))
    return inside or [file for file in sorted(folder.glob("*.json")) if read_json(file).get("kind") == "curvature"]


def _stem(result: CurvatureResult) -> str:
    return Path(result.provenance.checkpoint).stem


def _along(result: CurvatureResult) -> bool:
    """Whether a result is one of several along a training that is no run of ours: a monitor's."""
    training = result.provenance.training
    return "step" in training and not training.get("study")


def _is_final(result: CurvatureResult) -> bool:
    # training writes run/checkpoint.pt at the end and run/checkpoints/epoch-012.pt on the way; a user's file is what it is
    provenance = result.provenance
    return "epoch" not in provenance.training or Path(provenance.checkpoint).stem == "checkpoint"
