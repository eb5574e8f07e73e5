"""Where in the content of a file the state dict lies, and several state dicts as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .errors import CheckpointError
from .objects import Foreign
from .torch_files import needs_trust

#: keys under which training codes keep the state dict, the preferred ones first
NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights", "params", "module", "ema")
#: a state dict lies no deeper than this under such keys (a dictionary in a pickle can hold itself)
_DEEPEST = 8
#: what wrappers of a part put before each of its names
_WRAPPERS = ("module.", "_orig_mod.")


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


@dataclass(frozen=True)
class Part:
    """One of the state dicts that are joined.

    Attributes:
        file: it lies in.
        key: where in it; None for the usual place.
        prefix: what its names get before them; None keeps them.
    """

    file: Path
    key: str | None = None
    prefix: str | None = None


def keys_of(key: str | None, path: Path) -> list[Part]:
    """The parts that a key names.

    Args:
        key: ``outer/inner``; ``feat_model,classifier`` joins two and keeps their names; ``classifier=fc`` puts ``fc.`` before
            them; ``.`` is the file's own; ``other.pth`` and ``other.pth:inner`` are in a file of that name beside this one.
        path: the checkpoint.
    """
    if key is None:
        return [Part(path)]
    parts = []
    for text in key.split(","):
        place, given, prefix = text.partition("=")
        name, _, inner = place.partition(":")
        beside = path.parent / name
        other = place != "." and Path(name).name == name and name not in ("", "..") and "\0" not in name and beside.is_file()
        file, inside = (beside, inner or None) if other else (path, None if place == "." else place)
        parts.append(Part(file, inside, prefix if given else None))
    if all(part.file != path for part in parts):
        parts.insert(0, Part(path))
    return parts


def join_states(parts: Sequence[Part], states: Sequence[State], key: str) -> State:
    """The tensors of all parts; wrappers of a part (``module.``) are taken off before it gets a prefix.

    Raises:
        CheckpointError: two parts have a tensor of one name.
    """
    joined: dict[str, Tensor] = {}
    for part, state in zip(parts, states, strict=True):
        tensors = _named(state.tensors, part.prefix)
        twice = next((name for name in tensors if name in joined), None)
        if twice is not None:
            raise CheckpointError(
                f"{part.file}: {twice} is in two of the parts that are joined ({key}): put a prefix before the names of one, "
                "such as --key classifier=fc"
            )
        joined |= tensors
    return State(joined, key, [])


def _named(tensors: dict[str, Tensor], prefix: str | None) -> dict[str, Tensor]:
    if prefix is None:
        return tensors
    while wrapper := next((one for one in _WRAPPERS if all(name.startswith(one) for name in tensors)), None):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    before = f"{prefix.removesuffix('.')}." if prefix else ""
    return {f"{before}{name}": tensor for name, tensor in tensors.items()}


def find_state(content: Any, key: str | None, path: Path) -> State:
    """The state dict in what a file holds.

    Args:
        content: of the file.
        key: where it lies: ``outer/inner``, or the last part of that if it is the only one of that name; or the first part of
            the names in a state dict, ``student`` for ``student.conv.weight``.
        path: the file, for messages.

    Raises:
        CheckpointError: there is none, or a whole model that would have to be unpickled; says what there is.
    """
    if isinstance(content, Foreign) and content.is_module:
        raise needs_trust(path, f"a whole pickled model, {content.kind}")
    table = _table(content)
    if table is None:
        raise CheckpointError(f"{path}: holds a {_kind(content)}, not a state dict")
    tensors = _default(table, path) if key is None else _at(table, key, path)
    return State(tensors, *_places(table, tensors, key))


def _table(content: Any) -> Mapping[Any, Any] | None:
    """What something holds by name: a list by number, an object by its attributes, a model (of a trusted file) its tensors."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if isinstance(content, Foreign):
        return None if content.is_module else content.table
    if isinstance(content, list | tuple):
        return {str(number): value for number, value in enumerate(content)}
    return content if isinstance(content, Mapping) else None


def _at(content: Mapping[Any, Any], key: str, path: Path) -> dict[str, Tensor]:
    inner: Any = content
    parts = key.split("/")
    for at, part in enumerate(parts):
        table = _table(inner)
        if table is None or part not in table:
            return (at > 0 and _part_of(inner, "/".join(parts[at:]))) or _by_last_part(content, key, path)
        inner = table[part]
    return _tensors_in(inner, key, path)


def _part_of(content: Any, key: str) -> dict[str, Tensor]:
    """The tensors of a state dict whose names begin so; empty if there are none."""
    if not _is_state(content):
        return {}
    return {name.removeprefix(f"{key}."): tensor for name, tensor in _tensors(content).items() if name.startswith(f"{key}.")}


def _by_last_part(content: Mapping[Any, Any], key: str, path: Path) -> dict[str, Tensor]:
    states = dict(_states(content))
    found = [name for name in states if name.endswith(f"/{key}")]
    if len(found) == 1:
        return states[found[0]]
    if len(found) > 1:
        raise CheckpointError(f"{path}: '{key}' is both {' and '.join(found)}: write one of these")
    for state in [content] if _is_state(content) else states.values():
        if part := _part_of(state, key):
            return part
    there = ", ".join(name for name in states if "/" in name)
    raise CheckpointError(
        f"{path}: has no key '{key}'{_no_file(key)}; there are: {_names(content)}{f'; state dicts: {there}' if there else ''}"
    )


def _no_file(key: str) -> str:
    """Says that a key is no file either, where it looks like one."""
    name = key.partition(":")[0]
    return (
        f", and no file {name} lies beside it" if Path(name).suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors") else ""
    )


def _tensors_in(inner: Any, key: str, path: Path) -> dict[str, Tensor]:
    if isinstance(inner, Foreign) and (inner.is_module or not inner.table):
        raise needs_trust(path, f"under '{key}' lies an object, {inner.kind}")
    table = _table(inner)
    if not _is_state(table):
        held = f" that holds {_names(table)}" if table else ""
        raise CheckpointError(f"{path}: what lies under '{key}' is no state dict but a {_kind(inner)}{held}")
    return _tensors(table or {})


def _default(content: Mapping[Any, Any], path: Path, depth: int = 0) -> dict[str, Tensor]:
    if _is_state(content):
        return _tensors(content)
    for name in NESTED:
        inner = content.get(name)
        if isinstance(inner, Foreign) and inner.is_module:
            raise needs_trust(path, f"under '{name}' lies a whole pickled model, {inner.kind}")
        table = _table(inner)
        if table is not None and depth < _DEEPEST:
            return _tensors(table) if _is_state(table) else _default(table, path, depth + 1)
    states = [name for name, _ in _states(content)]
    inside = f"; state dicts: {', '.join(states[:12])}" if states else ""
    join = f", and join several: {' '.join(f'--key {name}' for name in states[:3])}" if len(states) > 1 else ""
    raise CheckpointError(
        f"{path}: no state dict found; its keys are {_names(content)}{inside}. Name the right one with --key (nested: "
        f"outer/inner){join}"
        if content
        else f"{path}: no state dict found; it is empty"
    )


def _places(content: Any, state: Mapping[str, Tensor], key: str | None) -> tuple[str | None, list[str]]:
    """Key of a state, and of all others of the same shapes; the names may carry the prefixes of wrappers."""
    states = dict(_states(content))
    same = [name for name, other in states.items() if _shapes(other) == _shapes(state)]
    own = next((name for name in sorted(same, key=lambda name: name != key) if _is_same(states[name], state)), None)
    return own, [name for name in same if name != own]


def _states(content: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, dict[str, Tensor]]]:
    seen = set() if seen is None else seen
    table = _table(content)
    if table is None or _is_state(table) or id(content) in seen or prefix.count("/") > _DEEPEST:
        return
    seen.add(id(content))
    for name, value in table.items():
        inner = _table(value)
        if _is_state(inner):
            yield f"{prefix}{name}", _tensors(inner or {})
        else:
            yield from _states(value, f"{prefix}{name}/", seen)


def _is_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].data_ptr() == tensor.data_ptr() for name, tensor in other.items())


def _shapes(state: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    """Shapes of the tensors, counters left out (a wrapper adds its own)."""
    return sorted(tuple(tensor.shape) for tensor in state.values() if not is_lazy(tensor) and tensor.dim() > 0)


def _is_state(content: Any) -> bool:
    """Tensors with names, nearly all of them; some codes add a version number or an epoch beside."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return False
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    return tensors > 0 and not any(isinstance(value, Mapping) and value for value in content.values())


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _names(content: Mapping[Any, Any]) -> str:
    """What is in a table, by name, and what kind of thing each is."""
    names = [f"{name} ({_kind(value)})" for name, value in content.items()]
    return ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")


def _kind(value: Any) -> str:
    if isinstance(value, Foreign):
        of = value.arguments[0] if value.arguments else None  # what makes an array is given its class
        kind = of.kind if isinstance(of, type) and issubclass(of, Foreign) else value.kind
        return f"a whole model, {kind}" if value.is_module else kind
    return type(value).__name__
