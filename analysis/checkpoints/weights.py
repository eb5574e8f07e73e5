"""Weights out of whatever file a training code left behind, and into a model.

Files are read with ``weights_only=True`` on the CPU: a pickle that would run code is refused, and named.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

#: keys under which training codes keep the state dict, the preferred ones first
NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights", "params", "module", "ema")
_NEVER_RUN = (
    "holds layers without weights: a lazy layer (LazyLinear ...) has none before its first batch. Run the model on one batch "
    "and save it again"
)
#: a state dict lies no deeper than this under such keys (a dictionary in a pickle can hold itself)
_DEEPEST = 8
#: what wrappers put before every key
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "_forward_module.")


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit its model; the message says which keys and what to do."""


def load_weights(path: Path, *, trust: bool = False, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a checkpoint file, on the CPU.

    Args:
        path: ``torch.save`` file (bare state dict, dictionary that holds one, Lightning ``.ckpt``) or ``.safetensors``.
        trust: unpickle arbitrary objects. This runs code that the file brings along; only for files of your own.
        key: where the state dict lies, such as ``ema``; default: the first of the usual names.

    Raises:
        CheckpointError: unreadable or truncated file, a pickle that needs ``trust``, or no state dict inside.
    """
    return load_state(path, trust=trust, key=key).tensors


@dataclass(frozen=True)
class State:
    """A state dict, and where in its file it lay.

    Attributes:
        tensors: by name.
        key: such as ``state_dict`` or ``outer/inner``; None where the file holds nothing else.
        others: keys of further states of the same shapes: averaged weights, say.
    """

    tensors: dict[str, Tensor]
    key: str | None
    others: list[str]


def load_state(path: Path, *, trust: bool = False, key: str | None = None) -> State:
    """As :func:`load_weights`, with where in the file the state dict lay and what else could have been meant."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.suffix == ".pt2":
        raise CheckpointError(
            f"{path}: an exported program, weights and model in one: name it as the model as well, --model {path} (reading it "
            "can run code that it brings along)"
        )
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path, trust)
    if isinstance(content, nn.Module):
        content = content.state_dict()
    state = _find_state(content, key, path)
    if any(is_lazy(tensor) for tensor in state.values()):
        raise CheckpointError(f"{path}: {_NEVER_RUN}")
    return State({name: tensor.detach() for name, tensor in state.items()}, *_places(content, state))


def _places(content: Any, state: Mapping[str, Tensor]) -> tuple[str | None, list[str]]:
    """Key of a state, and of all others of the same shapes; the names may carry the prefixes of wrappers."""
    states = dict(_states(content))
    same = [name for name, other in states.items() if _shapes(other) == _shapes(state)]
    own = next((name for name in same if _is_same(states[name], state)), None)
    return own, [name for name in same if name != own]


def _states(content: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or _is_state(content):
        return
    for name, value in content.items():
        inner = value.state_dict() if isinstance(value, nn.Module) else value
        if _is_state(inner):
            yield f"{prefix}{name}", _tensors(inner)
        else:
            yield from _states(inner, f"{prefix}{name}/")


def _is_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].data_ptr() == tensor.data_ptr() for name, tensor in other.items())


def _shapes(state: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    """Shapes of the tensors, counters left out (a wrapper adds its own)."""
    return sorted(tuple(tensor.shape) for tensor in state.values() if not is_lazy(tensor) and tensor.dim() > 0)


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except PermissionError:
        raise
    except Exception as error:  # of the header's contents, too: a type or a shape that torch does not know
        raise CheckpointError(f"{path}: not readable as safetensors ({_first_line(error)}); is the file complete?") from None


def _torch_file(path: Path, trust: bool) -> Any:
    if _is_torchscript(path):
        return _torchscript(path, trust)
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except PermissionError:
        raise
    except Exception as error:
        text = str(error)
        if "UninitializedParameter" in text or "UninitializedBuffer" in text:
            raise CheckpointError(f"{path}: {_NEVER_RUN}") from None
        if "weights_only" in text or "Unsupported" in text or "WeightsUnpickler" in text:
            what = next(
                (line.strip() for line in text.splitlines() if "GLOBAL" in line or "class" in line), text.splitlines()[0]
            )
            raise CheckpointError(
                f"{path}: holds more than tensors and plain containers, and reading it would run code ({what[:200]}). If the "
                "file is your own, add --trust-checkpoint; better, save model.state_dict() only"
            ) from None
        whole = "" if zipfile.is_zipfile(path) else " It is no complete torch file (truncated, or of another kind)."
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}.{whole}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # whatever is wrong with the archive, the reader below says it (zipfile has many ways to)
        return False


def _torchscript(path: Path, trust: bool) -> Any:
    if not trust:
        raise CheckpointError(
            f"{path}: a TorchScript program, and reading it can run code that it brings along. If the file is your own, add "
            "--trust-checkpoint; better, save model.state_dict()"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole; its files are still about
            return torch.jit.load(path, map_location="cpu")
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as TorchScript: {_first_line(error)}") from None


def _find_state(content: Any, key: str | None, path: Path, depth: int = 0) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    if key is not None:
        inner: Any = content
        for part in key.split("/"):
            if not isinstance(inner, Mapping) or part not in inner:
                raise CheckpointError(f"{path}: has no key '{key}'; there are: {_names(content)}")
            inner = inner[part]
        content = inner.state_dict() if isinstance(inner, nn.Module) else inner
        if _is_state(content):
            return _tensors(content)
        raise CheckpointError(f"{path}: what lies under '{key}' is no state dict")
    if _is_state(content):
        return _tensors(content)
    for name in NESTED:
        inner = content.get(name)
        if isinstance(inner, nn.Module):
            inner = inner.state_dict()
        if isinstance(inner, Mapping) and depth < _DEEPEST:
            return _tensors(inner) if _is_state(inner) else _find_state(inner, None, path, depth + 1)
    raise CheckpointError(
        f"{path}: no state dict found; its keys are {_names(content)}. Name the right one with --key (nested: outer/inner)"
    )


def _is_state(content: Any) -> bool:
    """Tensors with names, nearly all of them; some codes add a version number or an epoch beside."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return False
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    return tensors > 0 and not any(isinstance(value, Mapping) and value for value in content.values())


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _names(content: Mapping[Any, Any]) -> str:
    names = [str(name) for name in content]
    return ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")


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
    state, notes = _without_prefixes(dict(state), set(wanted))
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
    try:
        model.load_state_dict({name: state[name] for name in wanted})
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: cannot be loaded into {type(model).__name__}: {' '.join(str(error).split())[:300]}"
        ) from None
    return notes + ([f"left out, as allowed: {', '.join(allowed)}"] if allowed else [])


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


def _without_prefixes(state: dict[str, Tensor], wanted: set[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Takes wrapper prefixes off while that makes more names fit."""
    notes: list[str] = []

    def fits(candidate: Mapping[str, Tensor]) -> int:
        return len(wanted & set(candidate))

    while fits(state) < len(wanted):
        better = None
        for prefix in PREFIXES:
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
