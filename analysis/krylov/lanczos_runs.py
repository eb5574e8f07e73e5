"""One finished Lanczos run: what is kept of it, on disk as well, so that an analysis can be continued and added to."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from scipy.linalg import eigvalsh_tridiagonal
from torch import Tensor

from .basis import Place
from .bounds import mass_bracket
from .controls import Controls
from .density import counted_weights
from .lanczos import Lanczos, LanczosError, random_start
from .linear_operator import LinearOperator
from .space import Space, space_of
from .stored_state import ALONE, Processes, StateError, forget, load_state, save_state

#: seconds between two states stored of a running start
STORE_EVERY = 30.0
#: products of one operator agree to this part of their size, whatever the number of threads
_SAME = 1e-4
_ARRAYS = ("nodes", "weights", "counted", "lowest", "highest", "block_nodes", "block_norms")


@dataclass
class Start:
    """What is kept of a finished run.

    Attributes:
        seed: of the random start.
        steps: Lanczos steps.
        exhausted: the whole space was spanned; nodes are the eigenvalues.
        complete: the run broke down somewhere, so the start's own Krylov space was spanned.
        nodes, weights: the Gauss quadrature.
        counted: weights of the nodes in the density (``density.counted_weights``).
        lowest, highest: ``[k, 2]``: outermost Ritz values from the end inwards, and their residuals.
        block_nodes, block_norms: Ritz values of that first space, and the norms whose product its breakdown neglected.
        vectors: unit Ritz vectors ``min``, ``max``, ``min-2`` ...
        controls: what the run knows of other probes, for the trace.
        asymmetry: as of the run.
    """

    seed: int
    steps: int
    exhausted: bool
    complete: bool
    nodes: np.ndarray
    weights: np.ndarray
    counted: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    block_nodes: np.ndarray
    block_norms: np.ndarray
    controls: Controls
    asymmetry: float = 0.0
    vectors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Lanczos, k: int, products: Mapping[int, Tensor], further: int) -> Start:
        """What is kept of ``run``, with k pairs at each end; products and further starts as in ``Controls.of``."""
        ritz, k = run.ritz, min(k, run.steps)
        block = run.restarts[0] if run.restarts else 0  # steps until the start's own Krylov space was complete
        alphas, betas = np.array(run.alphas[:block]), np.array(run.betas[: max(block - 1, 0)])
        down = np.arange(-1, -1 - k, -1)
        ranks = [(f"-{j + 1}" if j else "", j) for j in range(k)]
        names = [(f"min{rank}", j) for rank, j in ranks] + [(f"max{rank}", -1 - j) for rank, j in ranks]
        weights = ritz.weights / ritz.weights.sum()
        return cls(
            seed=run.seed,
            steps=run.steps,
            exhausted=run.exhausted,
            complete=run.exhausted or bool(run.restarts),
            nodes=ritz.values,
            weights=weights,
            counted=counted_weights(ritz.values, weights, ritz.residuals, run.operator.size),
            lowest=np.stack([ritz.values[:k], ritz.residuals[:k]], axis=1),
            highest=np.stack([ritz.values[down], ritz.residuals[down]], axis=1),
            block_nodes=eigvalsh_tridiagonal(alphas, betas) if block else np.array([]),
            block_norms=np.array([run.dropped[0], *betas]) if block else np.array([]),
            controls=Controls.of(run, products, further),
            asymmetry=run.asymmetry,
            vectors={name: run.ritz_vector(index) for name, index in names},
        )

    def bracket(self, threshold: float, fuzz: float) -> tuple[float, float]:
        """Bracket of the start's mass below ``threshold``, eigenvalues being known to ``fuzz``."""
        low, high = mass_bracket(self.nodes, self.weights, threshold, self.complete, fuzz)
        return low, max(high, self._missed(threshold + fuzz)) if self.complete and not self.exhausted else high

    def _missed(self, threshold: float) -> float:
        """Most mass below ``threshold`` and below all nodes that can hide in the round-off dropped at the breakdown.

        The dropped vector is ``p(H) q / prod beta`` with ``p(x) = prod (x - theta_i)``, so a part c of the start along an
        eigenvector with eigenvalue x <= threshold has ``c |p(x)| <= dropped * prod beta``.
        """
        if threshold > self.block_nodes[0] or self.block_norms[0] == 0:
            return 0.0
        with np.errstate(divide="ignore"):
            part = np.log(self.block_norms).sum() - np.log(self.block_nodes - threshold).sum()
        return float(np.exp(min(2 * part, 0.0)))

    def save(self, path: Path, space: Space, who: Processes = ALONE) -> None:
        """Stores it, whole or not at all.

        Args:
            path: of the file.
            space: where its vectors live.
            who: the processes of which each has it.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {"forms": self.controls.forms, "squares": self.controls.squares}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        tensors["state"] = torch.tensor([self.seed, self.steps, int(self.exhausted), int(self.complete)])
        tensors["asymmetry"] = torch.tensor([self.asymmetry], dtype=torch.float64)
        vectors = {f"vector {name}": vector for name, vector in self.vectors.items()}
        save_state(path, tensors, vectors, space, who, self.steps)

    @classmethod
    def load(cls, path: Path, space: Space, device: torch.device) -> Start | None:
        """Reads a stored one; None where there is none, or none that can be read."""
        try:
            tensors = load_state(path, space, lambda name: name.startswith("vector "))
        except (FileNotFoundError, SafetensorError, StateError):
            return None
        if not {"state", "forms", "squares", *_ARRAYS} <= tensors.keys():  # of another version, or something else
            return None
        seed, steps, exhausted, complete = tensors.pop("state").tolist()
        # Fresh allocations: products with memory-mapped rows could differ in the last digit.
        vectors = {name[7:]: tensors.pop(name).clone().to(device) for name in list(tensors) if name.startswith("vector ")}
        controls = Controls(tensors.pop("forms").numpy(), tensors.pop("squares").numpy())
        arrays = {name: tensors[name].numpy() for name in _ARRAYS}
        return cls(
            seed=seed,
            steps=steps,
            exhausted=bool(exhausted),
            complete=bool(complete),
            controls=controls,
            asymmetry=float(tensors["asymmetry"].item()) if "asymmetry" in tensors else 0.0,  # of an earlier version
            vectors=vectors,
            **arrays,
        )


@dataclass(frozen=True)
class StartPlan:
    """How every start of one measurement is run, and what is kept of it.

    Attributes:
        steps: step limit.
        stop: when to stop earlier.
        k: pairs kept at each end.
        products: see ``Controls.of``.
        place: where the Krylov basis is kept.
    """

    steps: int
    stop: Callable[[Lanczos], bool]
    k: int
    products: Mapping[int, Tensor]
    place: Place = "device"

    def run(self, operator: LinearOperator, seed: int, further: int) -> Start:
        """The start of a seed; ``further`` ones may follow. Its basis is not kept: the next one's may need the room."""
        return self.kept(Lanczos(operator, seed, place=self.place).run(self.steps, self.stop), further)

    def kept(self, run: Lanczos, further: int) -> Start:
        """What is kept of a finished run; ``further`` ones may follow."""
        return Start.of(run, self.k, self.products, further)


@dataclass(frozen=True)
class StartStore:
    """Starts of one operator under one set of settings, in a folder.

    Finished starts are kept, so that asking for more of them adds to what is there; a running one is stored every half minute
    (more rarely where storing takes long), so that an interrupted one goes on from there, to the same digits; with another
    number of processes to rounding. Several processes do alike, whatever each of them can read: all of it or none.

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
        if self._agreed(name) and before is not None:
            seed = int(name)
            now = products[seed] if seed in products else operator.matvec(random_start(operator, seed))
            apart = space.norm(now.double() - before.to(now.device).double())
            if apart <= _SAME * space.norm(now.double()):
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
        kept = Start.load(finished, space, operator.device)
        if self._agreed(kept and kept.steps) and kept is not None:
            operator.matvecs += kept.steps
            return kept
        run = self._continued(operator, running, plan.place)
        if not self._agreed(run and run.steps) or run is None:
            run = Lanczos(operator, seed, place=plan.place)
        operator.matvecs += run.steps
        due = time.monotonic() + STORE_EVERY

        def watch(run: Lanczos) -> bool:
            nonlocal due
            if self._all(run.storable, time.monotonic() > due):
                began = time.monotonic()
                running.parent.mkdir(parents=True, exist_ok=True)
                run.save(running, self.who)
                due = time.monotonic() + max(STORE_EVERY, 20 * (time.monotonic() - began))
            return plan.stop(run)

        if not (run.steps and plan.stop(run)):
            run.run(plan.steps, watch)
        start = plan.kept(run, further)
        start.save(finished, space, self.who)
        forget(running, self.who)
        return start

    def _agreed(self, found: object) -> bool:
        """Whether all have found the same; of nothing, too."""
        words = self.who.everyone(found)
        return all(word == words[0] for word in words)

    def _all(self, able: bool, due: bool) -> bool:
        """Whether the first process says that it is due (clocks differ) and all are able."""
        words = self.who.everyone((able, due))
        return bool(words[0][1]) and all(one for one, _ in words)

    def _continued(self, operator: LinearOperator, path: Path, place: Place) -> Lanczos | None:
        try:
            return Lanczos.load(operator, path, place)
        except (FileNotFoundError, LanczosError):
            return None
