"""Which checkpoint files the arguments of a command mean."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from saddlescope import share

from ..records.settings import SettingsError


class TargetError(ValueError):
    """A path on the command line is nothing that can be analysed."""


def find_checkpoints(targets: Sequence[str]) -> list[Path]:
    """Files that the targets mean: files, globs, and folders (their ``.pt``, ``.pth``, ``.ckpt``, ``.safetensors`` files).

    Sorted so that ``epoch-9`` comes before ``epoch-10``.

    Raises:
        TargetError: a target means no file.
    """
    found: list[Path] = []
    for target in targets:
        path = Path(target).expanduser()
        if path.is_dir():
            kinds = ("*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.tar")
            found_here = [file.relative_to(path) for kind in kinds for file in path.rglob(kind)]
            matches = [path / file for file in found_here if not _is_ours(file) and not _is_state(path / file)]
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        if not matches:
            raise TargetError(f"{target}: no checkpoint there (looked for .pt, .pth, .ckpt, .safetensors and .tar files)")
        found += sorted(set(matches), key=_natural)
    return list(dict.fromkeys(found))


def _is_ours(file: Path) -> bool:
    """Files of ours that are no checkpoints: eigenvectors and states to continue from."""
    hidden = any(part.startswith(".") for part in file.parts)
    return hidden or file.name.endswith(".vectors.safetensors")


def _is_state(file: Path) -> bool:
    """What a run of ours continues from; a file of that name elsewhere is somebody's checkpoint."""
    return file.name == "state.pt" and (file.parent / "run.json").exists()


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def thin(checkpoints: list[Path], every: int) -> list[Path]:
    """Every n-th, the last one always."""
    return checkpoints[::-1][::every][::-1]


def share_of(checkpoints: list[Path], shard: str | None) -> list[Path]:
    """This process's :func:`saddlescope.share`, which may not be empty.

    Raises:
        SettingsError: not of the form ``i/n``, or nothing is left for this part.
    """
    part = share(checkpoints, shard, SettingsError)
    if not part:
        raise SettingsError(f"--shard {shard}: {len(checkpoints)} checkpoints leave nothing for this share")
    return part
