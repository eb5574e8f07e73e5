"""The settings that flags on a command line mean."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .base import parse_json
from .settings import AnalysisSettings, SettingsError, parse_settings


def settings_from_flags(
    flags: dict[str, Any],
    *,
    groups: str | None,
    group: Sequence[str],
    memory: str | None,
    quick: bool,
    overrides: Sequence[str],
) -> AnalysisSettings:
    """The settings that the flags of ``saddlescope analyze`` mean.

    Args:
        flags: field -> value, ``None`` where the flag was not given.
        groups: name of a scheme, ``column:domain``, or a JSON file ``{group: [classes]}``.
        group: ``name=classes``, such as ``tail=7,8,9``.
        memory: ``2GB``.
        quick: a verdict within 30 steps over at most 256 samples a group, and no rates, for what was not said otherwise. (Where
            more than a verdict is asked for, such as several starts, a spectrum of 30 steps.)
        overrides: ``field=value`` for all other fields.

    Raises:
        SettingsError: a value that cannot be read or does not fit.
    """
    said = {name: value for name, value in flags.items() if value is not None} | read_overrides(overrides)
    table: dict[str, Any] = {"steps": 30, "subsample": 256, "rates": False} if quick else {}
    if quick and not said.keys() & {"k", "starts", "mass_width", "engine"}:
        table["goal"] = "verdict"
    table |= said
    if memory is not None:
        table["memory"] = parse_bytes(memory)
    if group and groups is not None:
        raise SettingsError("--group and --groups exclude each other: list all groups, or name a scheme")
    if group:
        table |= {"scheme": "custom", "groups": dict(_group(text) for text in group)}
    elif groups is not None and groups.startswith("column:"):
        table |= {"scheme": "column", "column": groups.removeprefix("column:")}
    elif groups is not None and groups.endswith(".json"):
        table |= {"scheme": "custom", "groups": _mapping(Path(groups))}
    elif groups is not None:
        table["scheme"] = groups
    return parse_settings({**table, **read_overrides(overrides)}, "flags")  # before --groups and --memory, too


def _group(text: str) -> tuple[str, list[int]]:
    name, equals, classes = text.partition("=")
    try:
        members = [int(part) for part in classes.split(",")]
    except ValueError:
        members = []
    if not name.strip() or not equals or not members:
        raise SettingsError(f"--group {text}: write name=classes, such as tail=7,8,9")
    return name.strip(), members


def _mapping(path: Path) -> dict[str, list[int]]:
    try:
        mapping = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"--groups {path}: no such file") from None
    except ValueError as error:
        raise SettingsError(f"--groups {path}: not readable as JSON ({error})") from None
    if not isinstance(mapping, dict):
        raise SettingsError(f'--groups {path}: must hold an object of lists, such as {{"tail": [7, 8, 9]}}')
    return mapping


def parse_bytes(text: str) -> int:
    """``2GB``, ``500 MB``, ``1GiB`` or a plain number, in bytes.

    Raises:
        SettingsError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if match is None or not float(match[1]):
        raise SettingsError(f"--memory {text}: write a size such as 2GB or 500MB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``field=value`` pairs with values written as in TOML; a bare word is text.

    Raises:
        SettingsError: no equals sign.
    """
    table: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--set {override}: write field=value, such as steps=200")
        try:
            table[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            table[key.strip()] = text.strip()
    return table
