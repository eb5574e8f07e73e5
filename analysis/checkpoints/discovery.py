"""Which checkpoint files the arguments of a command mean."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from saddlescope import share

from ..records.settings import SettingsError
from .formats.distributed import PART, TABLE
from .formats.folders import holds, is_checkpoint
from .formats.shards import INDEX, shards_of

#: what a Trainer of Hugging Face writes beside the weights, and by which of its files one is known
_OF_TRAINER = re.compile(r"(optimizer|scheduler|scaler|rng_state(_\d+)?)\.(pt|pth|safetensors)")
_TRAINER = ("trainer_state.json", "training_args.bin")


class TargetError(ValueError):
    """A path on the command line is nothing that can be analysed."""


def find_checkpoints(targets: Sequence[str]) -> list[Path]:
    """Files that the targets mean: files, globs, and folders (their ``.pt``, ``.pth``, ``.ckpt``, ``.safetensors`` files).

    A folder of Hugging Face, of an adapter or of ``torch.distributed.checkpoint`` is one checkpoint, and shards are one with
    their index. What a Trainer keeps beside the weights (optimizer, scheduler, random state) is none.

    Sorted so that ``epoch-9`` comes before ``epoch-10``.

    Raises:
        TargetError: a target means no file.
    """
    found: list[Path] = []
    for target in targets:
        path = Path(target).expanduser()
        if path.is_dir():
            matches = _checkpoints_in(path)
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        if not matches:
            there = f"; it holds {holds(path)}" if path.is_dir() else ""
            if path.is_dir() and any(path.rglob(f"*{PART}")):
                there += f": parts of a distributed checkpoint, whose table of contents, {TABLE}, is missing"
            raise TargetError(
                f"{target}: no checkpoint there (looked for .pt, .pth, .ckpt, .safetensors and .tar files, and for folders of "
                f"Hugging Face and of torch.distributed.checkpoint){there}"
            )
        found += sorted(set(matches), key=_natural)
    return list(dict.fromkeys(found))


def _checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints in a folder, which may be one itself, and below."""
    kinds = ("*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.tar", f"*{INDEX}", TABLE)
    files = [file for kind in kinds for file in folder.rglob(kind) if not any(_is_hidden(p) for p in _between(file, folder))]
    found: list[Path] = []
    for place in sorted({file.parent for file in files}):
        if is_checkpoint(place):
            found.append(place if place.name not in ("", "..") else place.resolve())  # results are called by it
            continue
        here = [file for file in files if file.parent == place]
        shards = {name for file in here if file.name.endswith(INDEX) for name in shards_of(file).values()}
        found += [file for file in here if file.name not in shards and not _is_no_checkpoint(file)]
    return found or ([folder] if is_checkpoint(folder) else [])  # an adapter without weights: which, is said when it is read


def _between(file: Path, folder: Path) -> tuple[str, ...]:
    parts = file.relative_to(folder).parts
    return parts[:-1] if parts[-1] == TABLE else parts


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _is_no_checkpoint(file: Path) -> bool:
    """Eigenvectors and states to continue from of ours, and what a Trainer of Hugging Face keeps beside the weights."""
    kept = _OF_TRAINER.fullmatch(file.name) and any((file.parent / name).exists() for name in _TRAINER)
    return file.name.endswith(".vectors.safetensors") or _is_state(file) or bool(kept)


def _is_state(file: Path) -> bool:
    """What a run of ours continues from; a file of that name elsewhere is somebody's checkpoint."""
    return file.name == "state.pt" and (file.parent / "run.json").exists()


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


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
