"""What results of several checkpoints are called: what tells them apart, and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from .results import CurvatureResult

_SUFFIXES = (".tar", ".pth", ".pt", ".ckpt", ".safetensors", ".bin")


def checkpoint_stem(checkpoint: str) -> str:
    """``model_best.pth.tar`` -> ``model_best``."""
    name = Path(checkpoint).name
    while name.endswith(_SUFFIXES) and Path(name).stem:
        name = Path(name).stem
    return name


def checkpoint_names(results: Mapping[Path, CurvatureResult]) -> dict[Path, str]:
    """The checkpoint's name without suffixes where that tells it from the others, else as much of the path as does.

    ``checkpoint-500/model.safetensors`` and ``checkpoint-1000/model.safetensors`` are ``checkpoint-500`` and
    ``checkpoint-1000``, whether their results lie beside them or in one folder. Results of one checkpoint (of several parts of
    a model) share its name.

    Args:
        results: by the file that they are stored in.
    """
    parts = {path: _parts(path, result) for path, result in results.items()}
    stems = {path: checkpoint_stem(result.provenance.checkpoint) for path, result in results.items()}
    often = Counter(stems[path] for path in {parts[path]: path for path in results}.values())
    alone = len(often) == 1
    alike: dict[str, list[Path]] = {}
    for path, stem in stems.items():
        alike.setdefault(stem, []).append(path)
    names = dict(stems)
    for stem, paths in alike.items():
        if often[stem] > 1:
            names |= _shortest({path: parts[path] for path in paths}, drop=alone)
    return names


def _parts(path: Path, result: CurvatureResult) -> tuple[str, ...]:
    """Folders and name of the result's file without what every result has: ``curvature/``, the scheme, a suffix."""
    name, scheme, _ = path.name.removesuffix(".json").partition(f".{result.scheme.name}")
    name = name if scheme else name.rpartition(".")[0] or name
    folders = path.absolute().parent
    if folders.name == "curvature":
        folders = folders.parent
    own, stem = checkpoint_stem(name), checkpoint_stem(result.provenance.checkpoint)
    inside = (own.removesuffix(f"-{stem}"), stem) if own.endswith(f"-{stem}") else (own,)
    return (*folders.parts, *inside)


def _shortest(parts: dict[Path, tuple[str, ...]], *, drop: bool) -> dict[Path, str]:
    """The last parts, as few as tell all apart; with ``drop`` without a last part that all share."""
    apart = len(set(parts.values()))
    if drop and len({one[-1] for one in parts.values()}) == 1 and len({one[:-1] for one in parts.values()}) == apart:
        parts = {path: one[:-1] for path, one in parts.items()}
    depth = 1 if drop else 2
    while len({one[-depth:] for one in parts.values()}) < apart:
        depth += 1
    return {path: "/".join(part.strip("/") for part in one[-depth:]) for path, one in parts.items()}
