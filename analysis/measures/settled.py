"""When the ends of a Lanczos run are settled, and when it is sure that they are the ends.

A small residual proves that an eigenvalue is near, not that none lies beyond: a start with little along the outermost
eigenvector leads to the next one, and stays there for a while. How little the start would have to have is known from the
coefficients of the run (``bounds.hidden_mass``), and how probable that is from its being random (``bounds.luck_needed``). It
takes no second start, and it holds at whatever step the run stops.
"""

from __future__ import annotations

from ..krylov.bounds import hidden_mass, luck_needed
from ..krylov.lanczos import Lanczos
from ..krylov.spectrum import allowed_residual

#: Steps before an end that is small beside the other one may count as settled.
SMALL_END = 30
#: Largest residual of a settled end, relative to it. Above it the next Ritz value is too rough itself to say how far the rest
#: of the spectrum is: a start that leads to the second smallest eigenvalue would be believed.
NEAR = 3e-2
#: The same in a search with cheaper products, so that the operator's own residual, which is a little larger, is below
#: :data:`NEAR`. A search that is not confirmed costs a whole run.
NEAR_ROUGHLY = 2.5e-2
#: An end is confirmed where a random start from which an eigenvalue well beyond it would stay hidden has at most the
#: probability DOUBT; well beyond: by a share BEYOND of the end, or twice its tolerance.
DOUBT, BEYOND = 1e-2, 1e-2


class Settled:
    """Called after each step of a run: whether both ends are settled (:func:`ends_settled`), so many calls running."""

    def __init__(self, rtol: float, calls: int = 2, near: float = NEAR) -> None:
        self._rtol, self._calls, self._near, self._running, self._at = rtol, calls, near, 0, 0

    def __call__(self, run: Lanczos) -> bool:
        """Counts the step; a run that is begun anew, or that was interrupted, is another one."""
        before, self._at = self._running if run.steps == self._at + 1 else 0, run.steps
        self._running = before + 1 if all(ends_settled(run, self._rtol, self._near)) else 0
        return self._running >= self._calls


def ends_settled(run: Lanczos, rtol: float, near: float = NEAR) -> tuple[bool, bool]:
    """Whether the smallest and the largest Ritz value are within about ``rtol`` of the eigenvalues they go to.

    The error is estimated as ``r^2 / gap`` (Kato-Temple: r the residual, gap the distance to the next Ritz value's residual
    interval), and by r itself where that is smaller or there is no gap; r must be within ``near`` of the value, too. Late
    in a run the error may be ``rtol`` of 1 % of the larger end; in its first steps a Ritz value near zero is on its way, not
    small.
    """
    if run.steps < 2:
        return False, False
    values, residuals = run.ritz.values, run.ritz.residuals
    return within((values[0], values[-1]), (residuals[0], residuals[-1]), gaps_of(run), rtol, run.steps, near)


def doubts(run: Lanczos, rtol: float, noise: float = 0.0, dilution: float = 1.0) -> tuple[float, float]:
    """How rare a random start is from which this run would not show an eigenvalue well beyond an end.

    It holds at whatever step a run stops, and for whatever spectrum (``bounds.luck_needed``).

    Args:
        run: its ends are the smallest and the largest Ritz value.
        rtol: as in :func:`ends_settled`. Well beyond is more than a share :data:`BEYOND` or ``2 rtol`` of the end (of 1 % of
            the larger end, where the end is smaller than that, late in a run).
        noise: how far round-off may move an eigenvalue; well beyond is more than that, too.
        dilution: as in ``bounds.start_error``.

    Returns:
        Probabilities for the smallest and for the largest.
    """
    if run.exhausted:
        return 0.0, 0.0
    low, high = float(run.ritz.values[0]), float(run.ritz.values[-1])
    scale = max(abs(low), abs(high)) if run.steps >= SMALL_END else 0.0

    def one(value: float, side: int) -> float:
        farther = max(allowed_residual(value, scale, max(BEYOND, 2 * rtol)), noise)
        return luck_needed(run.operator.size, hidden_mass(*run.chain, value + side * farther), dilution)

    return one(low, -1), one(high, 1)


def gaps_of(run: Lanczos) -> tuple[float, float]:
    """Distances of the smallest and the largest Ritz value to the rest of the spectrum, as far as the run knows it."""
    if run.steps < 2:
        return 0.0, 0.0
    values, residuals = run.ritz.values, run.ritz.residuals
    low, high = (float(abs(values[end] - values[inner]) - residuals[inner]) for end, inner in ((0, 1), (-1, -2)))
    return low, high


def within(
    values: tuple[float, float],
    residuals: tuple[float, float],
    gaps: tuple[float, float],
    rtol: float,
    steps: int,
    near: float = NEAR,
) -> tuple[bool, bool]:
    """As :func:`ends_settled`, of given ends, the smallest first."""
    scale = max(map(abs, values)) if steps >= SMALL_END else 0.0

    def one(value: float, r: float, gap: float) -> bool:
        error = min(r, r * r / gap) if gap > 0 else r
        return bool(error <= allowed_residual(value, scale, rtol) and r <= max(near, rtol) * max(abs(value), 0.01 * scale))

    low, high = map(one, values, residuals, gaps)
    return low, high
