"""One finished Lanczos run: what is kept of it, on disk as well, so that an analysis can be added to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
from .lanczos import Lanczos
from .linear_operator import LinearOperator, product_error
from .space import Space, space_of
from .stored_state import ALONE, Processes, StateError, load_state, save_state

_NUMBERS = ("asymmetry", "error")
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
        controls: what the run knows of other probes, for the trace; nothing where it was not the first one.
        asymmetry: as of the run.
        error: of the products (``product_error``), as the operator had measured it by the end of the run.
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
    error: float = 0.0
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
            error=product_error(run.operator),
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
        arrays["seeds"] = np.array(self.controls.seeds, dtype=np.int64)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        tensors["state"] = torch.tensor([self.seed, self.steps, int(self.exhausted), int(self.complete)])
        tensors |= {name: torch.tensor([getattr(self, name)], dtype=torch.float64) for name in _NUMBERS}
        vectors = {f"vector {name}": vector for name, vector in self.vectors.items()}
        save_state(path, tensors, vectors, space, who, self.steps)

    @classmethod
    def load(cls, path: Path, operator: LinearOperator) -> Start | None:
        """Reads a stored one; None where there is none, none that can be read, or one of another precision."""
        space = space_of(operator)
        try:
            tensors = load_state(path, space, lambda name: name.startswith("vector "))
        except (FileNotFoundError, SafetensorError, StateError):
            return None
        if not {"state", "forms", "squares", *_ARRAYS} <= tensors.keys():  # of another version, or something else
            return None
        seed, steps, exhausted, complete = tensors.pop("state").tolist()
        # Fresh allocations: products with memory-mapped rows could differ in the last digit.
        names = [name for name in tensors if name.startswith("vector ")]
        vectors = {name[7:]: tensors.pop(name).clone().to(operator.device) for name in names}
        if any(vector.dtype != operator.dtype for vector in vectors.values()):
            return None
        # Not all, of an earlier version.
        seeds = tensors.pop("seeds").tolist() if "seeds" in tensors else []
        controls = Controls(tuple(seeds), tensors.pop("forms").numpy(), tensors.pop("squares").numpy())
        arrays = {name: tensors[name].numpy() for name in _ARRAYS}
        asymmetry, error = (float(tensors[name].item()) if name in tensors else 0.0 for name in _NUMBERS)
        return cls(
            seed=seed,
            steps=steps,
            exhausted=bool(exhausted),
            complete=bool(complete),
            controls=controls,
            vectors=vectors,
            asymmetry=asymmetry,
            error=error,
            **arrays,
        )


@dataclass(frozen=True)
class StartPlan:
    """How every start of one measurement is run, and what is kept of it.

    Attributes:
        steps: step limit.
        stop: when to stop earlier.
        k: pairs kept at each end.
        products: see ``Controls.of``; they are of the first start alone.
        place: where the Krylov basis is kept.
    """

    steps: int
    stop: Callable[[Lanczos], bool]
    k: int
    products: Mapping[int, Tensor]
    place: Place = "device"

    @property
    def after_the_first(self) -> StartPlan:
        """The same for the starts after the first, which are probes of its controls and have none of their own."""
        return replace(self, products={})

    def run(self, operator: LinearOperator, seed: int, further: int) -> Start:
        """The start of a seed; ``further`` ones may follow. Its basis is not kept: the next one's may need the room."""
        return self.kept(Lanczos(operator, seed, place=self.place).run(self.steps, self.stop), further)

    def kept(self, run: Lanczos, further: int) -> Start:
        """What is kept of a finished run; ``further`` ones may follow."""
        return Start.of(run, self.k, self.products, further)
