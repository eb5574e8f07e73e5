"""The baseline file: what the numbers were, how much each may differ, and who accepted which change and why.

One series per (study, optimizer, point, scheme); its seeds are its samples. Tolerances stand next to the numbers and are
meant to be edited by hand; they survive ``check --accept``.
"""

from __future__ import annotations

import datetime
import getpass
import os
from typing import Any, Literal

from pydantic import Field

from ...analysis.records.base import Record
from ...analysis.records.results import CurvatureResult
from .readings import FAMILIES, Direction, Reading, Rule, Value, readings, statistic

BASELINE_VERSION = 1
FALSE_ALARM_RATE = 0.01
Counted = Literal["seeds", "runs"]
#: settings that choose the probes and the Krylov spaces: same weights and same of these, equal digits
PROBES = ("seed", "starts", "mass_width", "max_starts", "steps", "min_steps", "rtol", "k")
SETTINGS = (*PROBES, "delta", "tau", "stationarity")


class BaselineError(ValueError):
    """A baseline or a set of results cannot be compared at all; the message names the file, the field and the fix."""


class Conditions(Record):
    """What two results must share before any number of theirs is compared."""

    data_sha256: str
    index_sha256: str | None
    scheme: str
    eta: int | None
    groups: dict[str, list[int]]
    dtype: str
    engine: str
    loss: str
    params_pattern: str | None
    parameters: int
    subsample: int | None

    def differences(self, other: Conditions) -> list[str]:
        """Sentences on each condition in which ``other`` differs; empty if comparable."""
        found = []
        for name in type(self).model_fields:
            ours, theirs = getattr(self, name), getattr(other, name)
            # a hash that one side does not know says nothing; data_sha256 is always known
            if ours != theirs and not (name == "index_sha256" and None in (ours, theirs)):
                found.append(f"{name}: {_short(ours)} in the baseline, {_short(theirs)} in the result")
        return found


class Number(Record):
    """One number over the seeds of a series, and how much it may differ.

    Attributes:
        rule: see ``check_readings.Rule``; ``exact`` makes any difference a moved number.
        abs_tol, rel_tol: a difference up to ``abs_tol + rel_tol * |baseline|`` is no difference.
        direction: ``not-lower`` lets the number rise and not fall; ``not-higher`` the other way round.
        readings: one for each seed of the series; None where it was not measured.
    """

    rule: Rule
    abs_tol: float = Field(ge=0)
    rel_tol: float = Field(ge=0)
    direction: Direction
    readings: list[Reading | None]

    @property
    def present(self) -> list[Reading]:
        """The readings that exist."""
        return [reading for reading in self.readings if reading is not None]


class Series(Record):
    """The same measurement over one or more trainings: seeds of a study, or nights of a retrained model (seeds unknown)."""

    conditions: Conditions
    settings: dict[str, Any]
    environment: dict[str, str | int | bool | None]
    seeds: list[int | None]
    checkpoints: list[str] = Field(description="SHA-256 of each seed's checkpoint")
    numbers: dict[str, Number]

    @property
    def trainings(self) -> list[int | str]:
        """What tells the trainings apart: their seeds, or where those are unknown or shared their checkpoints."""
        known = [seed for seed in self.seeds if seed is not None]
        return [*known] if len(set(known)) == len(self.checkpoints) else [*self.checkpoints]

    @property
    def counted(self) -> Counted:
        """What the readings are counted as: seeds where those are known and distinct, else nights of one training."""
        return "runs" if self.trainings == self.checkpoints else "seeds"


class Change(Record):
    """Old and new values of one number in an accepted change; None where there was no such number."""

    verdict: str
    old: list[Value | None] | None
    new: list[Value | None] | None


class Acceptance(Record):
    """One entry of the history."""

    when: str
    who: str
    saddlescope: str
    reason: str
    changes: dict[str, Change] = Field({})
    dropped: dict[str, list[int | str]] = Field({}, description="series -> the seeds (or checkpoints) that it no longer holds")


class Baseline(Record):
    """``baseline.json``."""

    kind: Literal["baseline"] = "baseline"
    schema_version: int = BASELINE_VERSION
    false_alarm_rate: float = Field(default=FALSE_ALARM_RATE, gt=0, lt=1, description="per build, all tested numbers together")
    only: list[str] = Field(
        default=[], description="patterns given to 'baseline save': numbers that none means are not compared"
    )
    by_seed: bool = Field(
        default=False, description="every seed is a series of its own, compared by tolerance and never as a sample"
    )
    history: list[Acceptance]
    series: dict[str, Series]

    def identifiers(self) -> list[str]:
        """``series::number`` of every number."""
        return [f"{name}::{number}" for name, series in self.series.items() for number in series.numbers]


def series_of(results: list[CurvatureResult], name: str) -> Series:
    """Puts the results of several seeds together, with default tolerances.

    Args:
        results: one result for each seed.
        name: of the series, for messages.

    Raises:
        BaselineError: results under different conditions cannot be seeds of one series.
    """
    results = sorted(results, key=lambda result: result.provenance.training.get("seed") or 0)
    first = _conditions(results[0])
    for other in results[1:]:
        if differences := first.differences(_conditions(other)):
            raise BaselineError(
                f"series '{name}': its results were not measured alike ({differences[0]}); measure them again alike"
            )
        for key in SETTINGS:  # else some seeds would have to agree to the digit and some not
            one, two = (result.provenance.settings.get(key) for result in (results[0], other))
            if one != two:
                raise BaselineError(
                    f"series '{name}': its results were not measured alike (setting '{key}': {one} and {two}); measure them "
                    "again alike"
                )
    found = [readings(result) for result in results]
    names = dict.fromkeys(number for each in found for number in each)
    provenance = results[0].provenance
    return Series(
        conditions=first,
        settings={key: provenance.settings[key] for key in SETTINGS if key in provenance.settings},
        environment={
            key: getattr(provenance, key)
            for key in (
                "saddlescope",
                "torch",
                "numpy",
                "python",
                "platform",
                "processor",
                "device",
                "threads",
                "deterministic",
            )
        },
        seeds=[result.provenance.training.get("seed") for result in results],
        checkpoints=[result.provenance.checkpoint_sha256 for result in results],
        numbers={number: _number(number, [each.get(number) for each in found], results) for number in names},
    )


def _number(name: str, found: list[Reading | None], results: list[CurvatureResult]) -> Number:
    family = FAMILIES[statistic(name)]
    finer = 0.01 if results[0].provenance.dtype == "float64" else 1.0
    absolute = family.absolute * finer
    if family.scaled:
        group = name.split(f".{statistic(name)}", maxsplit=1)[0]
        holder = next(result for result in results if group in result.groups)  # not every seed need hold every group
        absolute *= abs(holder.groups[group].lambda_max.value)
    if name.startswith("training."):
        finer, absolute = 1.0, family.absolute  # measured by the training loop, whatever the operator's precision
    return Number(
        rule=family.rule,
        abs_tol=float(f"{absolute:.3g}"),
        rel_tol=family.relative * finer,
        direction=family.direction,
        readings=found,
    )


def _conditions(result: CurvatureResult) -> Conditions:
    provenance = result.provenance
    return Conditions(
        data_sha256=provenance.data_sha256,
        index_sha256=provenance.index_sha256,
        scheme=result.scheme.name,
        eta=result.scheme.eta,
        groups={name: sorted(classes) for name, classes in result.scheme.groups.items()},
        dtype=provenance.dtype,
        engine=provenance.engine,
        loss=provenance.loss,
        params_pattern=provenance.params_pattern,
        parameters=provenance.parameters,
        subsample=provenance.settings.get("subsample"),
    )


def acceptance(
    reason: str, changes: dict[str, Change] | None = None, dropped: dict[str, list[int | str]] | None = None
) -> Acceptance:
    """A history entry of now, by whoever runs this: the CI's actor where there is one, else the user of this machine.

    Raises:
        BaselineError: the reason is empty.
    """
    from saddlescope import __version__

    if not reason.strip():
        raise BaselineError("a changed baseline needs a reason: give --reason 'why these numbers are right'")
    return Acceptance(
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        who=_who(),
        saddlescope=__version__,
        reason=reason.strip(),
        changes=changes or {},
        dropped=dropped or {},
    )


def _who() -> str:
    try:
        return os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN") or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
