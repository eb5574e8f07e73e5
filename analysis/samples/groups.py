"""Class groups: which samples' loss is looked at alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..records.results import Scheme
from ..records.settings import AnalysisSettings
from .columns import Column, cut_values, parse_column
from .samples import Samples


class GroupError(ValueError):
    """A scheme cannot be made of these classes; the message lists the class counts."""


#: (many if count > first, few if count < second): the conventions of CIFAR-10-LT, and of CIFAR-100-LT, ImageNet-LT, Places-LT
_SHOTS = {"large": (1000, 200), "small": (100, 20)}
#: Mean samples a class from which classes are "large": CIFAR-10-LT has 900 to 3000, the others 100 to 200. (The largest class
#: does not tell them apart: ImageNet-LT's has 1280 samples.)
_LARGE = 500


def make_scheme(
    name: str,
    class_counts: Sequence[int] | np.ndarray,
    *,
    eta: int | None = None,
    shots: tuple[int, int] | None = None,
    mapping: Mapping[str, Sequence[int]] | None = None,
) -> Scheme:
    """Names the groups of a data set; every named scheme also holds the group ``all``, first.

    Args:
        name: ``all``, ``head-tail`` (a class with fewer than ``eta`` samples is tail), ``many-medium-few`` (over 1000 / under
            200 where classes have 500 samples or more on average, as CIFAR-10-LT papers do, else more than 100 / fewer
            than 20, unless ``shots`` tells), ``per-class``, or ``custom``: the groups of ``mapping`` and no others.
        class_counts: samples of each class, ``[C]``.
        eta: threshold of ``head-tail``.
        shots: thresholds ``(many, few)`` of ``many-medium-few``.
        mapping: group name -> classes.

    Raises:
        GroupError: unknown name, missing eta or mapping, a group without samples, or a class that does not exist.
    """
    counts = np.asarray(class_counts, dtype=np.int64)
    classes = range(len(counts))
    if name == "all":
        groups: dict[str, list[int]] = {}
    elif name == "head-tail":
        if eta is None:
            raise GroupError(
                f"head-tail needs eta: a class with fewer training samples is tail; class counts: {counts.tolist()}"
            )
        groups = {"head": [c for c in classes if counts[c] >= eta], "tail": [c for c in classes if counts[c] < eta]}
    elif name == "many-medium-few":
        many, few = shots or _SHOTS["large" if counts.mean() >= _LARGE else "small"]
        groups = {
            "many": [c for c in classes if counts[c] > many],
            "medium": [c for c in classes if few <= counts[c] <= many],
            "few": [c for c in classes if counts[c] < few],
        }
    elif name == "per-class":
        groups = {f"class {c}": [c] for c in classes}
    elif name == "custom":
        if not mapping:
            raise GroupError('a custom scheme needs groups: --group "tail=7,8,9" or a mapping file')
        groups = {group: sorted(set(map(int, members))) for group, members in mapping.items()}
        if groups.get("all", list(classes)) != list(classes):
            raise GroupError("the name 'all' is the group of every class; choose another name")
    else:
        raise GroupError(f"unknown scheme '{name}'; known: all, head-tail, many-medium-few, per-class, custom")
    unknown = sorted({c for members in groups.values() for c in members} - set(classes))
    if unknown:
        raise GroupError(f"classes {unknown} do not exist; the data has classes 0..{len(counts) - 1}")
    if name != "custom" or "all" in groups:
        groups = {"all": list(classes), **{group: members for group, members in groups.items() if group != "all"}}
    sizes = {group: int(counts[members].sum()) for group, members in groups.items()}
    empty = [group for group, size in sizes.items() if size == 0]
    if empty:
        hint = f" with eta = {eta}" if eta is not None else ""
        limits = ""
        if name == "many-medium-few":
            limits = f" (many: over {many} samples, few: under {few}; others with --set many=N --set few=N)"
        raise GroupError(f"group {', '.join(empty)} of scheme {name}{hint} is empty; class counts: {counts.tolist()}{limits}")
    return Scheme(name=name, eta=eta if name == "head-tail" else None, groups=groups, sizes=sizes)


def scheme_of(settings: AnalysisSettings, samples: Samples) -> Scheme:
    """The scheme that the settings ask for; one of the user's own groups holds ``all`` where ``only`` names it.

    Raises:
        GroupError: as :func:`make_scheme`; no such column, or one that is cut elsewhere.
        SamplesError: groups of classes, and the samples have none.
    """
    if settings.column is not None:
        return _of_column(settings.scheme_name, _column(samples, settings.column), samples.num_samples)
    if settings.scheme != "all":
        samples.require_classes()
    mapping = settings.groups
    if mapping is not None and "all" in (settings.only or ()):
        mapping = {"all": list(range(samples.num_classes)), **mapping}
    return make_scheme(settings.scheme, samples.class_counts, eta=settings.eta, shots=settings.shots, mapping=mapping)


def _of_column(name: str, column: Column, samples: int) -> Scheme:
    """A group for each value that any sample has, after ``all``."""
    groups = {value if value != "all" else f"{column.name} all": [code] for code, value in enumerate(column.values)}
    sizes = {group: len(column.having(members)) for group, members in groups.items()}
    groups = {"all": list(range(len(column.values))), **{group: groups[group] for group, size in sizes.items() if size}}
    return Scheme(name=name, column=column.name, groups=groups, sizes={group: sizes.get(group, samples) for group in groups})


def _column(samples: Samples, text: str) -> Column:
    name, cuts = parse_column(text)
    if name not in samples.columns:
        there = f"there are: {', '.join(samples.columns)}" if samples.columns else "these have none"
        raise GroupError(f"the samples have no column {name}; {there}")
    column = samples.columns[name]
    if cuts and column.values != cut_values(name, cuts):
        raise GroupError(
            f"column {name} of the samples is not cut there (it has {', '.join(column.values[:4])} ...); give them its numbers "
            f"again: samples.with_column({text!r}, numbers)"
        )
    return column


def asked_for(scheme: Scheme, only: Sequence[str] | None) -> list[str]:
    """The groups to measure, in the scheme's order: all of it, or those of ``only``.

    Raises:
        GroupError: there is no such group.
    """
    if unknown := [name for name in only or () if name not in scheme.groups]:
        raise GroupError(f"no group {', '.join(unknown)} in scheme {scheme.name}; there are: {', '.join(scheme.groups)}")
    return [name for name in scheme.groups if only is None or name in only]


def group_indices(scheme: Scheme, samples: Samples) -> dict[str, np.ndarray]:
    """Sample indices of each group, ascending.

    Raises:
        GroupError: the scheme is one of a column that the samples do not have.
    """
    if scheme.column is None:
        return {group: np.flatnonzero(np.isin(samples.labels, members)) for group, members in scheme.groups.items()}
    column, everything = _column(samples, scheme.column), np.arange(samples.num_samples)
    return {group: everything if group == "all" else column.having(members) for group, members in scheme.groups.items()}


def is_partition(scheme: Scheme, samples: Samples) -> bool:
    """True when the groups other than ``all`` hold each class, or each sample of a column, exactly once."""
    if scheme.column is not None:
        return _column(samples, scheme.column).single
    members = sorted(c for group, own in scheme.groups.items() if group != "all" for c in own)
    return members == list(range(samples.num_classes))
