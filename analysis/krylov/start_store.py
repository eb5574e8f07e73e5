"""Lanczos runs in a folder: finished ones to be added to, running ones to be continued after whatever ended them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from .basis import Place
from .lanczos import SAME, Lanczos, LanczosError, Stop, random_start
from .lanczos_runs import Start, StartPlan
from .linear_operator import LinearOperator, product_error
from .space import space_of
from .stored_state import ALONE, Processes, StateError, forget, load_state, save_state

#: seconds between two states stored of a running start, or so many times as long as storing one takes
STORE_EVERY, STORE_RARELY = 30.0, 20.0


@dataclass(frozen=True)
class StartStore:
    """Lanczos runs of one operator under one set of settings, in a folder.

    Finished starts are kept, so that asking for more of them adds to what is there; a running one is stored every half minute
    (more rarely where storing takes long), so that an interrupted one goes on from there, to the same digits; with another
    number of processes to rounding. What the operator had measured of its products' error by then goes on as well. Several
    processes do alike, whatever each of them can read: all of it or none.

    Attributes:
        folder: that all of them see.
        who: the processes that share the operator.
    """

    folder: Path
    who: Processes = ALONE

    def empty_unless_of(self, operator: LinearOperator, products: Mapping[int, Tensor]) -> None:
        """Forgets everything if it belongs to another operator.

        Names and hashes do not tell: somebody's model or loss may have been edited. The product of one random vector does.

        Args:
            operator: what is measured now.
            products: seed of a random unit vector -> its product with ``operator``.
        """
        path, space = self.folder / "operator.safetensors", space_of(operator)
        try:
            (name, before), *_ = load_state(path, space, lambda name: True).items()
        except (FileNotFoundError, SafetensorError, StateError, ValueError):
            name, before = "", None
        if before is not None and before.shape != next(iter(products.values())).shape:
            name, before = "", None
        if self.agreed(name) and before is not None:
            seed = int(name)
            now = products[seed] if seed in products else operator.matvec(random_start(operator, seed))
            apart = space.norm(now.double() - before.to(now.device).double())
            if apart <= SAME * space.norm(now.double()):
                return
        if self.who.first:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.who.everyone(None)
        seed, product = next(iter(products.items()))
        save_state(path, {}, {str(seed): product}, space, self.who, 0)

    def run(self, operator: LinearOperator, seed: int, further: int, plan: StartPlan) -> Start:
        """The start of a seed as ``plan.run`` gives it: from the folder, or run to its end from wherever it was."""
        finished, running = self.folder / f"{seed}.safetensors", self.folder / f"{seed}.running.safetensors"
        space = space_of(operator)
        kept = Start.load(finished, operator)
        if kept is not None and not set(plan.products) <= set(kept.controls.seeds):
            kept = None  # of an analysis with another first start: it has no controls for these products
        if self.agreed(kept and kept.steps) and kept is not None:
            operator.matvecs += kept.steps
            remember_error(operator, kept.error)
            return kept
        run = self._continued(operator, running, plan.place) or Lanczos(operator, seed, place=plan.place)
        operator.matvecs += run.steps
        remember_error(operator, run.stored_error)
        self._finish(run, running, plan.steps, plan.stop)
        start = plan.kept(run, further)
        start.save(finished, space, self.who)
        forget(running, self.who)
        return start

    def search(
        self, operator: LinearOperator, name: str, begin: Callable[[], Lanczos], steps: int, stop: Stop, place: Place
    ) -> Lanczos:
        """A run as ``begin`` makes it, to its end, from wherever it was stored; its state stays until :meth:`forget`.

        Args:
            operator: of the run.
            name: of its state.
            begin: makes it anew.
            steps: limit, as :meth:`Lanczos.run`.
            stop: likewise.
            place: where the Krylov basis is kept.
        """
        running = self.folder / f"{name}.running.safetensors"
        run = self._continued(operator, running, place)
        before = operator.matvecs
        if run is not None and run.repeats(stop):
            operator.matvecs = before + run.steps
        else:
            operator.matvecs, run = before, begin()
        remember_error(operator, run.stored_error)
        self._finish(run, running, steps, stop)
        return run

    def worth(self, began: float) -> bool:
        """Whether what was found since ``began`` (``time.monotonic``) took so long that it is stored."""
        return self._all(True, time.monotonic() > began + STORE_EVERY)

    def forget(self, *names: str) -> None:
        """Removes the states of searches."""
        for name in names:
            forget(self.folder / f"{name}.running.safetensors", self.who)

    def _finish(self, run: Lanczos, running: Path, steps: int, stop: Stop) -> None:
        due = time.monotonic() + STORE_EVERY

        def watch(run: Lanczos) -> bool:
            nonlocal due
            if self._all(run.storable and self._has_room(run), time.monotonic() > due):
                began = time.monotonic()
                running.parent.mkdir(parents=True, exist_ok=True)
                run.save(running, self.who)
                due = time.monotonic() + max(STORE_EVERY, STORE_RARELY * (time.monotonic() - began))
            return stop(run)

        if not (run.steps and stop(run)):
            run.run(steps, watch)

    def agreed(self, found: object) -> bool:
        """Whether all have found the same; of nothing, too."""
        words = self.who.everyone(found)
        return all(word == words[0] for word in words)

    def _all(self, able: bool, due: bool) -> bool:
        """Whether the first process says that it is due (clocks differ) and all are able."""
        words = self.who.everyone((able, due))
        return bool(words[0][1]) and all(one for one, _ in words)

    def _has_room(self, run: Lanczos) -> bool:
        """Whether two states fit on the disk, the one before and the next: what only saves time must not end a run."""
        there = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        return shutil.disk_usage(there).free > 2 * (run.steps + 1) * space_of(run.operator).local * run.operator.dtype.itemsize

    def _continued(self, operator: LinearOperator, path: Path, place: Place) -> Lanczos | None:
        try:
            run = Lanczos.load(operator, path, place)
        except (FileNotFoundError, LanczosError):
            run = None
        return run if self.agreed(run and run.steps) else None


def remember_error(operator: LinearOperator, error: float) -> None:
    """The operator's products have at least this error: it was measured on more of them than are taken again."""
    if error > product_error(operator):
        operator.error = error  # type: ignore[attr-defined]
