"""What every stored record is: frozen, without NaN, written whole or not at all, refused where it is damaged or newer.

This package imports no torch: a result computed on a GPU is read and redrawn on a laptop.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

SCHEMA_VERSION = 1


#: ``(low, high)``; ``None`` means that nothing is known on that side.
Interval = tuple[float | None, float | None]


class ResultError(ValueError):
    """A stored file cannot be read as what it claims to be; the message names the file, the field and the fix."""


class Record(BaseModel):
    """Base of every stored record: frozen, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _inside(name: str) -> str:
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise ValueError(f"{name!r:.80} is no name of a file in this folder; it would lead elsewhere")
    return name


#: A name that becomes part of a path: of one file or folder inside the folder of the file that names it, never elsewhere.
FileName = Annotated[str, AfterValidator(_inside)]


class Estimate(Record):
    """A number with what is known about it.

    ``interval`` holds with probability at least ``confidence`` (1.0: deterministic). ``standard_error`` is over
    ``count`` probes, seeds or subsets; ``None`` where that notion does not apply.
    """

    value: float
    interval: Interval = (None, None)
    confidence: float = 1.0
    standard_error: float | None = None
    count: int | None = None


R = TypeVar("R", bound=Record)


M = TypeVar("M", bound=BaseModel)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes ``text`` so that a reader sees the old file or the whole new one, never a part of it.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a result is as readable as any file
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save(record: Record, path: Path) -> Path:
    """Stores a record as JSON at ``path``, atomically; returns ``path``."""
    write_text_atomically(path, record.model_dump_json(indent=1) + "\n")
    return path


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is none; also where thousands of lists are nested, which Python ends in another error.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ResultError: missing, damaged, or not an object.
    """
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file") from None
    except ValueError as error:
        raise ResultError(f"{path}: not readable as JSON ({error}); the file is damaged, make it again") from None
    if not isinstance(raw, dict):
        raise ResultError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def load(kind: type[R], path: Path) -> R:
    """Reads a record of type ``kind``.

    Raises:
        ResultError: missing or truncated file, another kind of file, a newer schema, or a field out of range.
    """
    raw = read_json(path)
    version = raw.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ResultError(f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}; update saddlescope to read it")
    return validated(kind, raw, path)


def validated(kind: type[M], raw: Any, where: Path | str) -> M:
    """What was read from ``where`` as a record of type ``kind``.

    Raises:
        ResultError: a field is missing, unknown, or out of range; names it.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ResultError(f"{where}: field '{field}': {first['msg']} (not a {kind.__name__} of this version?)") from None
