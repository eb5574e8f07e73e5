"""One optimizer several times in a study: which rule a table follows, and what tells it from the others of that rule.

``[optimizers.imbsam-group]`` with ``rule = "imbsam"`` is ImbSAM under a name of its own. The words that tell variants apart are
the settings that differ between them, as the study's recipe records them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One optimizer of a study.

    Attributes:
        key: what recipe and results call it.
        rule: key of the update rule that it follows; the same as ``key`` but for named variants.
        settings: as the recipe records them.
        label: what tells it from the other optimizers of this rule; empty where the study holds no other.
        order: 0 for the one that is named like its rule, then 1, 2, ... by key.
    """

    key: str
    rule: str
    settings: Mapping[str, Any]
    label: str = ""
    order: int = 0

    def named(self, rule_name: str) -> str:
        """``ImbSAM (group)``, given the display name of the rule."""
        return f"{rule_name} ({self.label})" if self.label else rule_name


def variants(tables: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Variant]:
    """The optimizers ``keys`` of a study, from its ``[optimizers]`` tables; one without a table stands for itself."""
    rules = {key: str(tables.get(key, {}).get("rule", key)) for key in keys}
    settings = {key: {name: value for name, value in tables.get(key, {}).items() if name != "rule"} for key in keys}
    found = {}
    for key, rule in rules.items():
        family = [other for other in keys if rules[other] == rule]
        order = sorted(family, key=lambda name, rule=rule: (name != rule, name)).index(key)  # type: ignore[misc]
        # The plain key keeps its marker and colour also in a study that does not hold it.
        order += rule not in family
        found[key] = Variant(key, rule, settings[key], _label(key, rule, {other: settings[other] for other in family}), order)
    return found


def _label(key: str, rule: str, family: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings of ``key`` that differ within the family; its own name where none is recorded or it is alone."""
    if len(family) == 1:
        return "" if key == rule else key.removeprefix(f"{rule}-")
    names = list(dict.fromkeys(name for settings in family.values() for name in settings))
    differ = [name for name in names if any(s.get(name) != family[key].get(name) for s in family.values())]
    words = {other: ", ".join(_words(name, settings.get(name)) for name in differ) for other, settings in family.items()}
    alone = list(words.values()).count(words[key]) == 1
    return words[key] if words[key] and alone else key


def _words(name: str, value: Any) -> str:
    """``group``, ``rho 0.05``, ``split_batches``, ``no split_batches``."""
    if value is None or value is False:
        return f"no {name}"
    if value is True:
        return name
    return value if isinstance(value, str) else f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {value}"
