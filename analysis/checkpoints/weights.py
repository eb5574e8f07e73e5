"""Weights out of whatever a training code left behind, and into a model.

Pickles are read as data on the CPU: what would run code is refused, and named (see
:mod:`~saddlescope.analysis.checkpoints.formats`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..hessian.sharded_models import cut_like
from .formats.distributed import TABLE, tensors_apart
from .formats.errors import CheckpointError
from .formats.folders import checkpoint_sha256, read_weights
from .formats.objects import NEVER_RUN
from .formats.states import State, find_state, join_states, keys_of

__all__ = ["CheckpointError", "State", "fit_weights", "load_state", "load_weights", "weights_digest"]

#: what wrappers put before every key
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "_forward_module.")


def load_weights(path: Path, *, trust: bool = False, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a checkpoint, on the CPU.

    Args:
        path: ``torch.save`` file (bare state dict, dictionary that holds one, Lightning ``.ckpt``), ``.safetensors``, an index
            of shards (``model.safetensors.index.json``), a folder of Hugging Face or of ``torch.distributed.checkpoint``.
        trust: unpickle arbitrary objects. This runs code that the file brings along; only for files of your own.
        key: where the state dict lies, such as ``ema``; default: the first of the usual names. Several are joined, see
            :func:`~saddlescope.analysis.checkpoints.formats.states.keys_of`.

    Raises:
        CheckpointError: unreadable or truncated file, a pickle that needs ``trust``, or no state dict inside.
    """
    return load_state(path, trust=trust, key=key).tensors


def load_state(path: Path, *, trust: bool = False, key: str | None = None) -> State:
    """As :func:`load_weights`, with where in the file the state dict lay and what else could have been meant."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.suffix == ".pt2":
        raise CheckpointError(
            f"{path}: an exported program, weights and model in one: name it as the model as well, --model {path} (reading it "
            "can run code that it brings along)"
        )
    parts = keys_of(key, path)
    contents = {file: read_weights(file, trust=trust) for file in dict.fromkeys(part.file for part in parts)}
    found = [find_state(contents[part.file], part.key, part.file) for part in parts]
    state = found[0] if len(parts) == 1 and parts[0].prefix is None else join_states(parts, found, key or "")
    if any(is_lazy(tensor) for tensor in state.tensors.values()):
        raise CheckpointError(f"{path}: {NEVER_RUN}")
    return State({name: tensor.detach() for name, tensor in state.tensors.items()}, state.key, state.others)


def weights_digest(path: Path, key: str | None = None) -> str:
    """SHA-256 of a checkpoint and of the files beside it that a key names."""
    digests = [checkpoint_sha256(file) for file in dict.fromkeys(part.file for part in keys_of(key, path))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def fit_weights(
    model: nn.Module, state: Mapping[str, Tensor], path: Path | str = "checkpoint", extra_keys: Sequence[str] = ()
) -> list[str]:
    """Loads ``state`` into ``model`` strictly, after taking off the prefixes of wrappers.

    A tensor that the model has under several names (tied weights) may be in the file under one of them. Lazy layers take the
    shapes of the file.

    Args:
        model: to load into.
        state: the tensors of the file.
        path: the file, for messages.
        extra_keys: names, or patterns such as ``*.position_ids``, that the file may have though the model has not. What the
            model has may not be missing in the file, whatever is allowed.

    Returns:
        Notes: prefixes taken off, counters that the file lacked, names left out.

    Raises:
        CheckpointError: names or shapes differ, and the message lists what is missing, unexpected and of another shape; or the
            file gives two values to one tensor, or none to a lazy layer.
    """
    wanted = model.state_dict()
    state, notes = _of_average(dict(state), set(wanted))
    state, taken = _without_prefixes(state, set(wanted), path)
    notes += taken
    for name in list(wanted):
        if name.endswith("num_batches_tracked") and name not in state:
            state[name] = wanted[name]  # absent from files of torch < 0.4.1; does not enter any result
    _tie(model, state, path)
    missing = [name for name in wanted if name not in state]
    strangers = [name for name in state if name not in wanted]
    allowed = [name for name in strangers if any(fnmatchcase(name, pattern) for pattern in extra_keys)]
    unexpected = [name for name in strangers if name not in allowed]
    shapes = [
        f"{name} (file {list(state[name].shape)}, model {list(wanted[name].shape)})"
        for name in wanted
        if name in state and not is_lazy(wanted[name]) and state[name].shape != wanted[name].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{title}: {', '.join(rows[:6])}{f' and {len(rows) - 6} more' if len(rows) > 6 else ''}"
            for title, rows in (("missing in the file", missing), ("not in the model", unexpected), ("other shape", shapes))
            if rows
        ]
        flags = " ".join(f"--allow-extra-keys '{name}'" for name in unexpected[:6])
        asked = "Is it the right architecture, with the right --model-args?"
        if not missing and not shapes:
            asked = f"If the model does without them, leave them out with {flags} (or with a pattern)"
        raise CheckpointError(
            f"{path}: does not fit {type(model).__name__} ({len(wanted)} tensors in the model, {len(state)} in the file). "
            f"{'; '.join(parts)}. {asked}"
        )
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name in wanted:
        if (what := _no_plain_numbers(state[name], wanted[name], weight=name in trained)) is not None:
            raise CheckpointError(
                f"{path}: {name} {what}, where {type(model).__name__} has plain numbers ({wanted[name].dtype}): store the "
                "weights themselves, dense and in floating point"
            )
    try:
        model.load_state_dict({name: cut_like(state[name], wanted[name]) for name in wanted})
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: cannot be loaded into {type(model).__name__}: {' '.join(str(error).split())[:300]}"
        ) from None
    return notes + ([f"left out, as allowed: {', '.join(allowed)}"] if allowed else [])


def is_in_parts(path: Path) -> bool:
    """Whether a checkpoint can be read tensor by tensor (:func:`fit_in_parts`)."""
    return path.is_dir() and (path / TABLE).is_file()


def fit_in_parts(model: nn.Module, folder: Path, extra_keys: Sequence[str] = ()) -> list[str]:
    """Loads a folder of ``torch.distributed.checkpoint`` into a sharded model, one tensor after another.

    Each process reads a tensor whole, keeps its part, and lets go of the rest before it reads the next.

    Args:
        model: to load into.
        folder: the checkpoint.
        extra_keys: as for :func:`fit_weights`.

    Returns:
        Notes: prefixes taken off.

    Raises:
        CheckpointError: the folder is damaged, or names or shapes differ.
    """
    wanted, there = model.state_dict(), tensors_apart(folder)
    names, notes = _without_prefixes({name: name for name in there}, set(wanted), folder)
    odd = [name for name in wanted if name not in names or there[names[name]][0] != tuple(wanted[name].shape)]
    left = [name for name in names if name not in wanted and not any(fnmatchcase(name, pattern) for pattern in extra_keys)]
    for what, found in (("missing, or of another shape", odd), ("not in the model", left)):
        if found:
            raise CheckpointError(
                f"{folder}: does not fit {type(model).__name__}: {what}: {', '.join(found[:6])}"
                f"{f' and {len(found) - 6} more' if len(found) > 6 else ''}. Is it the right architecture, with the right "
                "--model-args?"
            )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(cut_like(there[names[name]][1](), tensor))
    return notes


def _no_plain_numbers(stored: Tensor, wanted: Tensor, *, weight: bool) -> str | None:
    """Why a tensor of a file is not what the model computes with, which copying it would not say; None where it is."""
    if stored.is_meta:
        return "has no values (it was saved on the device meta)"
    if stored.layout != torch.strided:
        return f"is sparse ({stored.layout})"
    if stored.is_quantized:
        return f"is quantised ({stored.dtype})"
    if stored.is_complex() and not wanted.is_complex():
        return f"is complex ({stored.dtype})"
    if weight and wanted.is_floating_point() and not stored.is_floating_point():
        return f"holds whole numbers ({stored.dtype}; quantised?)"
    return None


def _tie(model: nn.Module, state: dict[str, Tensor], path: Path | str) -> None:
    """Completes the names of tied tensors; such files are left behind by safetensors, among others.

    Raises:
        CheckpointError: the file has different values for one tensor, of which loading would silently take the last.
    """
    names_of: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names_of.setdefault(id(tensor), []).append(name)
    for names in names_of.values():
        there = [name for name in names if name in state]
        if there and not all(torch.equal(state[name], state[there[0]]) for name in there[1:]):
            raise CheckpointError(
                f"{path}: {' and '.join(there)} are one tensor in {type(model).__name__} and differ in the file: were they "
                "not tied when it was trained?"
            )
        state.update({name: state[there[0]] for name in names if there and name not in there})


def _of_average(state: dict[str, Tensor], wanted: set[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Takes off what ``torch.optim.swa_utils.AveragedModel`` adds: how many models the weights are the average of."""
    count = state.get("n_averaged")
    if count is None or count.numel() != 1 or "n_averaged" in wanted:
        return state, []
    return {k: v for k, v in state.items() if k != "n_averaged"}, [f"weights averaged {int(count)} times (AveragedModel)"]


def _attribute_of(state: Mapping[str, Tensor], wanted: set[str], path: Path | str) -> list[str]:
    """The attribute of a larger module that the model is, as in a LightningModule: its prefix makes every name fit.

    Raises:
        CheckpointError: there are two, teacher and student, say.
    """
    ends = {name[: name.index(".") + 1] for name in state if "." in name}
    fitting = sorted(end for end in ends if wanted <= {name.removeprefix(end) for name in state if name.startswith(end)})
    if len(fitting) > 1:
        one = fitting[0].rstrip(".")
        raise CheckpointError(
            f"{path}: the model can be {' or '.join(fitting)} of its tensors: say which, such as --key {one} "
            f"(of one of several state dicts in a file: --key STATE/{one})"
        )
    return fitting


def _without_prefixes(state: dict[str, Any], wanted: set[str], path: Path | str) -> tuple[dict[str, Any], list[str]]:
    """Takes wrapper prefixes off while that makes more names fit."""
    notes: list[str] = []

    def fits(candidate: Mapping[str, Any]) -> int:
        return len(wanted & set(candidate))

    while fits(state) < len(wanted):
        better = None
        for prefix in [*PREFIXES, *_attribute_of(state, wanted, path)]:
            with_prefix = {name: value for name, value in state.items() if name.startswith(prefix)}
            if not with_prefix:
                continue
            shorter = {name.removeprefix(prefix): value for name, value in with_prefix.items()}
            rest = {} if fits(shorter) == len(wanted) else {k: v for k, v in state.items() if k not in with_prefix}
            candidate = rest | shorter
            if fits(candidate) > fits(state) or (not fits(state) and len(with_prefix) == len(state)):
                better = (prefix, candidate, len(state) - len(candidate))
                break
        if better is None:
            return state, notes
        prefix, state, dropped = better
        notes.append(f"prefix '{prefix}' taken off" + (f", {dropped} other tensors of the file left out" if dropped else ""))
    return state, notes
