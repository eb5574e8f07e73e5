"""The vectors of a Krylov space, in the memory of the device, of the machine, or in a file."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

#: Where the basis is kept: m vectors of n numbers. The digits do not depend on it.
Place = Literal["device", "cpu", "disk"]

#: Columns that are widened to float64 at once.
_COLUMNS = 1 << 14
_GROWS_BY = 16


class KrylovBasis:
    """Rows ``[m, n]`` to which rows are added.

    Args:
        size: n, or as many of the n numbers as lie in this process; products are then of these alone.
        dtype: of the rows.
        device: of the vectors that come and go.
        place: ``device``, ``cpu`` (the machine's memory) or ``disk`` (an unnamed file in the folder for temporary files,
            ``TMPDIR``; the operating system keeps in memory what fits).
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device, place: Place = "device") -> None:
        self.device = device if place == "device" else torch.device("cpu")
        self._size, self._dtype, self._filled = size, dtype, 0
        self._file: Path | None = None
        if place == "disk":
            with tempfile.NamedTemporaryFile(prefix="saddlescope-basis-", delete=False) as file:
                self._file = Path(file.name)
            weakref.finalize(self, self._file.unlink, missing_ok=True)
        self._rows = self._allocated(8)

    def __len__(self) -> int:
        return self._filled

    def __getitem__(self, row: int) -> Tensor:
        return self._rows[: self._filled][row]

    def append(self, q: Tensor) -> None:
        """Adds ``q [n]`` as the last row, rounded to the basis' dtype."""
        if self._filled == len(self._rows):
            grown = self._allocated(self._filled + _GROWS_BY)
            if self._file is None:
                grown[: self._filled] = self._rows
            self._rows = grown
        self._rows[self._filled] = q
        self._filled += 1

    def rows(self, count: int) -> Tensor:
        """The first ``count`` rows ``[count, n]``."""
        return self._rows[:count]

    def overlap(self, w: Tensor, count: int) -> Tensor:
        """``Q w`` ``[count]`` with the first rows, for a float64 ``w [n]``."""
        # Summed in float64: at 1e5 parameters float32 sums leave overlaps of 2e-5, which shift a small eigenvalue beside a
        # large one by 1e-4 of its size.
        return torch.stack([part @ x for part, x in self._parts(w, count)]).sum(0)

    def without(self, w: Tensor, overlap: Tensor) -> Tensor:
        """``w - Q^T overlap`` in float64."""
        return torch.cat([x - overlap @ part for part, x in self._parts(w, len(overlap))])

    def combined(self, coefficients: Tensor) -> Tensor:
        """``Q^T c`` ``[n]`` for ``c [count]``, in the basis' dtype."""
        wide = coefficients.to(self.device, self._dtype)
        parts = self._rows[: len(coefficients)].split(_COLUMNS, dim=1)
        return torch.cat([part.T @ wide for part in parts])

    def _parts(self, w: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        # In parts, so that the float64 copy of the basis stays small.
        parts = self._rows[:count].split(_COLUMNS, dim=1)
        return ((part.double(), x) for part, x in zip(parts, w.split(_COLUMNS), strict=True))

    def _allocated(self, rows: int) -> Tensor:
        if self._file is None:
            return torch.empty((rows, self._size), dtype=self._dtype, device=self.device)
        # The file grows where it is, before torch sees it: torch would write a zero byte over the start of what it lengthens.
        numbers = rows * self._size
        os.truncate(self._file, numbers * self._dtype.itemsize)
        mapped = torch.from_file(str(self._file), shared=True, size=numbers, dtype=self._dtype)
        return mapped.view(rows, self._size)
