"""What a study holds for its figures: comparable final results, gaps by name, and the words of captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from matplotlib.figure import Figure

from ...analysis.records.results import CurvatureResult, GroupResult, Provenance
from ...analysis.records.study import Run, Study, Variant
from .appearance import Look, looks_of, optimizer_looks
from .canvas import FigureError

#: panels for more groups than this would be too small to read
MOST_GROUPS = 6
#: why a result may lack what a figure shows
SPECTRUM_ONLY = "analyze with --goal spectrum (the default), which measures it and which --goal ends and verdict leave out"
_SCHEMES = ("head-tail", "many-medium-few", "custom", "all", "per-class")


class NothingToDraw(Exception):
    """A figure has no data in this study; the message is the reason that the manifest states."""


@dataclass(frozen=True)
class Drawing:
    """A finished figure and the words that go with it."""

    figure: Figure
    title: str
    caption: str
    paper: str = ""


@dataclass(frozen=True)
class Planned:
    """A figure that a study could have; ``make`` draws it or raises :class:`NothingToDraw`."""

    name: str
    make: Callable[[], Drawing]


@dataclass(frozen=True)
class Finals:
    """The final checkpoints' curvature under one scheme; ``gaps`` names the runs that lack it, each with the reason."""

    scheme: str
    results: dict[tuple[str, int], CurvatureResult]
    optimizers: list[str]
    seeds: list[int]
    groups: list[str]
    left_out: list[str]
    gaps: list[str]
    variants: Mapping[str, Variant] = field(default_factory=dict)
    #: what stands side by side
    unit: ClassVar[str] = "optimizer"

    @property
    def looks(self) -> dict[str, Look]:
        """The look of each optimizer."""
        return optimizer_looks(self.optimizers, self.variants)

    def words(self, *, mean: bool = True) -> str:
        """How many seeds, and what the mean is over."""
        if len(self.seeds) == 1:
            return f"One training seed ({self.seeds[0]}): no mean, no spread."
        if not mean:
            return f"{len(self.seeds)} training seeds, each drawn."
        return f"{len(self.seeds)} training seeds, each drawn; the mean only where no seed is missing."

    @property
    def first(self) -> CurvatureResult:
        """Any of the results: what they share is read from it."""
        return next(iter(self.results.values()))

    def of(self, optimizer: str, group: str) -> dict[int, GroupResult]:
        """Seed -> result of one optimizer and group, by seed."""
        found = ((seed, self.results.get((optimizer, seed))) for seed in self.seeds)
        return {seed: result.groups[group] for seed, result in found if result is not None and group in result.groups}

    @property
    def entries(self) -> list[GroupResult]:
        """Every result of a group that is shown; a result may lack some (``refused``)."""
        return [result.groups[g] for result in self.results.values() for g in self.groups if g in result.groups]

    def complete(self, number: int) -> bool:
        """True if ``number`` is every seed of the study and there are several: only then a mean is drawn."""
        return number == len(self.seeds) > 1


def seeds_of(study: Study) -> list[int]:
    """Seeds that any optimizer has, ascending."""
    return sorted({run.seed for run in study.runs})


def final_of(run: Run, scheme: str) -> CurvatureResult | None:
    """The whole-model curvature of the checkpoint that lies there now; a result of older weights is none."""
    if run.side_car is None:
        return None
    for result in reversed(run.curvature):  # a checkpoint of the last step has the same weights, and was measured less
        whole = result.provenance.params_pattern is None
        if whole and result.scheme.name == scheme and result.provenance.checkpoint_sha256 == run.side_car["sha256"]:
            return result
    return None


def main_scheme(study: Study) -> str:
    """The scheme most figures show: head and tail where measured.

    Raises:
        NothingToDraw: no final checkpoint was analysed.
    """
    names = {result.scheme.name for run in study.runs for result in run.curvature if final_of(run, result.scheme.name)}
    if not names:
        raise NothingToDraw("no final checkpoint of the study has a curvature result; run 'saddlescope analyze' on it")
    return min(names, key=lambda name: (_SCHEMES.index(name) if name in _SCHEMES else len(_SCHEMES), name))


def finals(study: Study, scheme: str | None = None) -> Finals:
    """The comparable final results of a study.

    Raises:
        NothingToDraw: there are none.
        FigureError: results of different data, groups, loss or model size under one scheme.
    """
    scheme = scheme or main_scheme(study)
    seeds, results, gaps = seeds_of(study), {}, []
    by_key = {(run.optimizer, run.seed): run for run in study.runs}
    looks = looks_of(study)
    for optimizer in study.optimizers:
        for seed in seeds:
            run = by_key.get((optimizer, seed))
            result = final_of(run, scheme) if run is not None else None
            if result is not None:
                results[optimizer, seed] = result
            else:
                reason = "not in the study" if run is None else "not analysed" if run.finished else "no final checkpoint"
                gaps.append(f"{looks[optimizer].name} seed {seed} ({reason})")
    if not results:
        raise NothingToDraw(f"no final checkpoint was analysed under scheme '{scheme}'")
    refuse_mixed({f"{optimizer} seed {seed}": result for (optimizer, seed), result in results.items()})
    groups, refused = measured_groups({f"{looks[name].name} seed {seed}": result for (name, seed), result in results.items()})
    shown, gaps = spread_names(groups), gaps + refused
    return Finals(scheme, results, study.optimizers, seeds, shown, [g for g in groups if g not in shown], gaps, study.variants)


def measured_groups(results: Mapping[str, CurvatureResult]) -> tuple[list[str], list[str]]:
    """The groups of a scheme that any result holds, and the gaps: what was refused where.

    Args:
        results: of one scheme, by the name a reader knows them by.
    """
    gaps = [f"{group} of {name} (refused)" for name, result in results.items() for group in result.refused]
    return groups_in(results.values()), gaps


def groups_in(results: Iterable[CurvatureResult]) -> list[str]:
    """The groups of a scheme that any of its results holds, in the scheme's order."""
    found = list(results)
    return [group for group in found[0].scheme.groups if any(group in result.groups for result in found)]


def spread_names(names: list[str]) -> list[str]:
    """At most ``MOST_GROUPS`` names (of groups, of panels): the first, the last and some between."""
    if len(names) <= MOST_GROUPS:
        return names
    steps = [round(index * (len(names) - 1) / (MOST_GROUPS - 1)) for index in range(MOST_GROUPS)]
    return [names[index] for index in steps]


def refuse_mixed(results: dict[str, CurvatureResult]) -> None:
    """Checks that results, by the name a reader knows them by, may share a figure.

    Raises:
        FigureError: they differ in scheme, data, groups, loss, or the parameters that the Hessian is taken over.
    """
    (first_key, first), *others = results.items()
    for key, other in others:
        for name, left, right in (
            ("scheme.name", first.scheme.name, other.scheme.name),
            ("data_sha256", first.provenance.data_sha256, other.provenance.data_sha256),
            ("groups", first.scheme.groups, other.scheme.groups),
            ("loss", first.provenance.loss, other.provenance.loss),
            ("parameters", first.provenance.parameters, other.provenance.parameters),
            ("params_pattern", first.provenance.params_pattern, other.provenance.params_pattern),
        ):
            if left != right:
                raise FigureError(
                    f"results of scheme '{first.scheme.name}' cannot share a figure: field '{name}' of {first_key} "
                    f"differs from {key}; analyze the odd one again, or keep it apart"
                )


def setting(provenance: Provenance) -> str:
    """Data, model and loss as the record names them: a figure's subtitle."""
    parts = [provenance.data, f"{provenance.model} ({provenance.parameters:,} parameters)", provenance.loss]
    return ", ".join(part for part in parts if part)


def group_title(results: Iterable[CurvatureResult], group: str) -> str:
    """``tail (7 classes, 138 samples)``, ``city (138 samples)``, ``tail (7 classes, 100 of 138 samples)``, on two lines.

    Args:
        results: that the figure shows; some may lack the group, or all.
        group: its name.
    """
    known = list(results)
    result = next((one for one in known if group in one.groups), known[0])
    classes, size = len(result.scheme.groups[group]), result.scheme.sizes[group]
    members = f"{classes} class{'es' if classes != 1 else ''}, " if result.scheme.column is None else ""
    seen = result.groups[group].size if group in result.groups else size
    part = f"{seen:,} of " if seen < size else ""
    return f"{group} ({members}{part}{size:,} sample{'s' if size != 1 else ''})".replace(" (", "\n(")


def hessian_words(group: str) -> str:
    """Whose Hessian: ``the tail Hessian``."""
    return "the Hessian of all classes" if group == "all" else f"the {group} Hessian"


def count(number: int, what: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def gap_words(gaps: Sequence[str], left_out: Sequence[str] = ()) -> str:
    """What is missing, by name; empty where nothing is."""
    words = f" Missing: {', '.join(gaps)}." if gaps else ""
    if left_out:
        words += f" Not drawn for lack of room ({len(left_out)} groups, in the tables): {', '.join(left_out[:12])}"
        words += ", … ." if len(left_out) > 12 else "."
    return words


def study_title(study: Study) -> str:
    """The subtitle of figures that rest on side-cars only."""
    for run in study.runs:
        if run.side_car is not None:
            return ", ".join(part for part in (_data_name(run), str(run.side_car["model"]["args"].get("name", ""))) if part)
    return study.name


def _data_name(run: Run) -> str:
    return str((run.side_car or {}).get("data", {}).get("name", ""))


def slices_by_name(study: Study, axes: int) -> dict[str, list[Run]]:
    """Slice name -> the runs whose slice of that name goes through today's final checkpoint, for lines or planes."""
    found: dict[str, list[Run]] = {}
    for run in study.runs:
        for name, piece in run.slices.items():
            current = run.side_car is not None and piece.provenance.checkpoint_sha256 == run.side_car["sha256"]
            if current and len(piece.axes) == axes:
                found.setdefault(name, []).append(run)
    return {name: found[name] for name in sorted(found)}
