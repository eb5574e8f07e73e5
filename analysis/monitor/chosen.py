"""The samples that a monitor looks at: chosen once, the same at every step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ..measures.subsampling import disjoint_subsets
from ..records.results import Scheme
from ..samples.groups import group_indices
from ..samples.samples import Samples

#: what a monitor can be given
Data = Samples | tuple[Tensor, Tensor] | Dataset[Any] | Iterable[Any]

#: group -> row indices of disjoint parts of one size
Parts = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Chosen:
    """Some samples of each group, held in memory.

    Attributes:
        samples: all that were chosen.
        parts: group -> row indices of disjoint parts of one size in ``samples``. The first is watched, the others say what
            watching a part costs; a group that is looked at whole has one.
        index_sha256: of the rows in the data that was given, group by group.
    """

    samples: Samples
    parts: Parts
    index_sha256: dict[str, str]

    @property
    def watched(self) -> Parts:
        """The first part of each group alone."""
        return {name: parts[:1] for name, parts in self.parts.items()}

    @property
    def whole(self) -> bool:
        """Whether every group is looked at whole."""
        return all(len(parts) == 1 for parts in self.parts.values())

    @property
    def sha256(self) -> str:
        """Of all index hashes."""
        return hashlib.sha256(" ".join(f"{name} {digest}" for name, digest in self.index_sha256.items()).encode()).hexdigest()


def choose(samples: Samples, scheme: Scheme, most: int, seed: int) -> Chosen:
    """Chooses at most so many samples of each group, by a generator of its own.

    The group ``all`` gets a random part of all samples, not the sum of the others' parts, in which small classes would weigh
    too much.

    Args:
        samples: the training samples.
        scheme: their groups.
        most: samples of a group.
        seed: of the choice.

    Raises:
        SamplesError: what was chosen does not fit into the memory.
    """
    rows = {
        name: disjoint_subsets(indices, most, seed) if len(indices) > most else [indices]
        for name, indices in group_indices(scheme, samples).items()
    }
    union = np.unique(np.concatenate([part for parts in rows.values() for part in parts]))
    places = {name: [np.searchsorted(union, part) for part in parts] for name, parts in rows.items()}
    held = samples if len(union) == samples.num_samples else samples.subset(union)
    return Chosen(held.in_memory(), places, {name: _digest(parts[0]) for name, parts in rows.items()})


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").tobytes()).hexdigest()
