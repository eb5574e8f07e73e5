"""What looking at a part of a group costs: disjoint parts of the same size, measured alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..krylov.bounds import student_half_width
from ..krylov.spectrum import Spectrum
from ..records.base import Estimate
from ..records.spectra import SamplingError

#: disjoint subsets measured, where the group is large enough for so many
SUBSETS = 4


def disjoint_subsets(indices: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """Two to four disjoint random subsets of ``size`` samples; smaller ones where the group would not hold two.

    Args:
        indices: the group's samples.
        size: samples wanted in each.
        seed: of the choice.

    Returns:
        Sorted index arrays of equal length.
    """
    size = min(size, len(indices) // 2)
    shuffled = np.random.default_rng([seed, len(indices)]).permutation(indices)
    count = min(SUBSETS, len(indices) // size)
    return [np.sort(shuffled[i * size : (i + 1) * size]) for i in range(count)]


def looked_at(indices: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    """The samples that stand for a group: all of them, or the first of its :func:`disjoint_subsets`."""
    return indices if size is None or size >= len(indices) else disjoint_subsets(indices, size, seed)[0]


def sampling_error(subsets: Sequence[np.ndarray], population: int, measured: Sequence[Spectrum]) -> SamplingError:
    """Mean and standard error of the extremes and masses over the subsets.

    The mean over subsets is no unbiased estimate of the group's extreme: the smallest eigenvalue of a mean of Hessians is at
    least the mean of their smallest eigenvalues (it is concave), so subsets look *more* like saddles than the whole group.

    Args:
        subsets: the samples.
        population: samples of the whole group.
        measured: their spectra.
    """

    def over(read: Callable[[Spectrum], float]) -> Estimate:
        values = [read(spectrum) for spectrum in measured]
        mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
        half = student_half_width(error, len(values))
        return Estimate(
            value=mean, interval=(mean - half, mean + half), confidence=0.95, standard_error=error, count=len(values)
        )

    ladder = range(len(measured[0].negative_mass))
    return SamplingError(
        population=population,
        subset_size=len(subsets[0]),
        subsets=len(subsets),
        lambda_min=over(lambda s: s.lambda_min.value),
        lambda_max=over(lambda s: s.lambda_max.value),
        negative_mass=[over(lambda s, i=i: s.negative_mass[i].value) for i in ladder],  # type: ignore[misc]
    )
