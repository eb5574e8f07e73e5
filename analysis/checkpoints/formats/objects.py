"""Pickles as data: tensors and plain containers are made, and of every other object what the pickle says of it is kept.

Training codes keep their ``argparse.Namespace``, paths, enums, NumPy numbers, configurations and tables of their own beside the
weights. torch's reader without trust refuses such files. This one imports none of these classes: each object becomes a
:class:`Foreign`. What it makes and calls is torch's own list of the harmless (rebuilding tensors), and nothing else.
"""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

import torch
from torch import nn
from torch._weights_only_unpickler import _blocklisted_modules, _get_allowed_globals

NEVER_RUN = (
    "holds layers without weights: a lazy layer (LazyLinear ...) has none before its first batch. Run the model on one batch "
    "and save it again"
)
#: what files of torch do without, and calls or imports
_REFUSED = (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID)


class Refused(pickle.UnpicklingError):
    """A pickle needs more than tensors, containers and data; the message says what."""


class Foreign:
    """An object of a class that is not ours to make, as its pickle describes it.

    Attributes:
        kind: module and name of its class, or of the function that would have made it.
        arguments: what that would have been called with.
        state: its attributes, or whatever else its class would have been given to restore it.
        entries: of a kind of dictionary, what it holds.
        items: of a kind of list or set, what it holds.
    """

    kind: ClassVar[str] = ""
    arguments: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]
    items: list[Any]

    def __new__(cls, *arguments: Any, **more: Any) -> Foreign:
        """Keeps the arguments; nothing is called with them."""
        self = super().__new__(cls)
        self.arguments, self.state, self.entries, self.items = (*arguments, *more.values()), None, {}, []
        return self

    def __init__(self, *_: Any, **__: Any) -> None:
        """Of what it is given, all is kept already."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, item: Any) -> None:
        """Keeps an item of a list."""
        self.items.append(item)

    add = append

    @property
    def is_module(self) -> bool:
        """Whether it is a whole model, by what every module keeps."""
        table = self.state if isinstance(self.state, dict) else {}
        return "_parameters" in table and "_modules" in table

    @property
    def table(self) -> dict[Any, Any]:
        """What it holds by name: entries of a dictionary, attributes of anything else."""
        return self.entries or (self.state if isinstance(self.state, dict) else {})


class Unpickler(pickle._Unpickler):
    """Reads a pickle without running anything that it names; in Python, where every step of it can be restricted."""

    # Of the reader in Python, which the types of the standard library do not tell.
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    dispatch: ClassVar[Any] = {code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in _REFUSED}

    def find_class(self, module: str, name: str) -> Any:
        """A class or function of torch's list, or a stand-in that only remembers its name."""
        if module in _blocklisted_modules:
            raise Refused(f"{module}.{name}")
        kind = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if "Uninitialized" in name:
            raise pickle.UnpicklingError(NEVER_RUN)
        known = _get_allowed_globals()
        return known[kind] if kind in known else type("Foreign", (Foreign,), {"kind": kind})

    def _make(self, of: Any, arguments: Any, more: Mapping[str, Any]) -> Any:
        foreign = isinstance(of, type) and issubclass(of, Foreign)
        if not foreign and not any(of is known for known in _get_allowed_globals().values()):
            raise Refused(f"it calls {of.kind if isinstance(of, Foreign) else type(of).__name__}")
        return of(*arguments, **more)

    def load_reduce(self) -> None:
        """Calls what may be called."""
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments, {})

    def load_newobj_ex(self) -> None:
        """Likewise, with keywords."""
        more = self.stack.pop()
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments, more)

    def load_build(self) -> None:
        """Gives a state to what is known to take one without running anything."""
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, Foreign):
            made.state = state
        elif type(made) in (torch.Tensor, nn.Parameter):
            made.__setstate__(state)
        elif type(made) in (OrderedDict, Counter):
            made.__dict__.update(state)
        else:
            raise Refused(f"it changes a {type(made).__name__}")

    def load_bytearray8(self) -> None:
        """Reads before it takes memory: a damaged file may say any length."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_binpersid(self) -> None:
        """Asks torch for the numbers of a tensor; old files hold whole models there, with paths of their sources."""
        wanted = self.stack[-1]
        if not isinstance(wanted, tuple) or wanted[:1] != ("storage",):
            raise Refused(
                "a whole pickled model"
                if isinstance(wanted, tuple) and wanted[:1] == ("module",)
                else "more than the numbers of a tensor"
            )
        super().load_binpersid()  # type: ignore[misc]

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BINPERSID[0]] = load_binpersid


def load(file: BinaryIO, **options: Any) -> Any:
    """One pickle of a file; together with :class:`Unpickler` what ``torch.load`` asks of a ``pickle_module``."""
    return Unpickler(file, **options).load()
