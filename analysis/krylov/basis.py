"""The vectors of a Krylov space, in the memory of the device, of the machine, or in a file."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

#: Where the basis is kept: m vectors of n numbers. A number: on the device up to so many bytes, and what is more on disk. The
#: digits do not depend on it.
Place = Literal["device", "cpu", "disk"] | int
#: The same as people choose it; auto: the number that the memory budget says.
BasisChoice = Literal["auto", "device", "cpu", "disk"]

#: Columns that are widened to float64 at once, and that are read from a file at once.
_COLUMNS, _READ = 1 << 14, 1 << 18
#: Rows that are allocated at once. Rows that are there are never copied: that would take their memory twice.
_BLOCK = 8


class KrylovBasis:
    """Rows ``[m, n]`` to which rows are added.

    Args:
        size: n, or as many of the n numbers as lie in this process; products are then of these alone.
        dtype: of the rows.
        device: of the vectors that come and go.
        place: ``device``, ``cpu`` (the machine's memory), ``disk`` (an unnamed file in the folder for temporary files,
            ``TMPDIR``), or the bytes that the first rows may take on the device before the next ones go to disk.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device, place: Place = "device") -> None:
        self.device = torch.device("cpu") if place in ("cpu", "disk") else device
        self._size, self._dtype, self._filled = size, dtype, 0
        held = {"device": None, "cpu": None, "disk": 0}.get(place) if isinstance(place, str) else place
        #: rows that are held in memory; None: all
        self._held = None if held is None else held // max(size * dtype.itemsize, 1)
        self._blocks: list[Tensor] = []
        self._file: Path | None = None

    def __len__(self) -> int:
        return self._filled

    def __getitem__(self, row: int) -> Tensor:
        row = range(self._filled)[row]
        if self._in_memory(row):
            return self._blocks[row // _BLOCK][row % _BLOCK]
        found = torch.empty(self._size, dtype=self._dtype)
        self._read(row, 0, found)
        return found.to(self.device)

    @property
    def on_disk(self) -> bool:
        """Whether some rows are in a file."""
        return self._file is not None

    def append(self, q: Tensor) -> None:
        """Adds ``q [n]`` as the last row, rounded to the basis' dtype.

        Raises:
            OSError: the disk is full.
        """
        row = self._filled
        if self._in_memory(row):
            if row == _BLOCK * len(self._blocks):
                rows = _BLOCK if self._held is None else min(_BLOCK, self._held - row)
                self._blocks.append(torch.empty((rows, self._size), dtype=self._dtype, device=self.device))
            self._blocks[row // _BLOCK][row % _BLOCK] = q
        else:
            self._write(row, q.to("cpu", self._dtype).contiguous())
        self._filled += 1

    def rows(self, count: int) -> Tensor:
        """The first ``count`` rows ``[count, n]``, copied."""
        return torch.stack([self[row] for row in range(count)]) if count else torch.empty((0, self._size), dtype=self._dtype)

    def stored(self, count: int) -> dict[str, Tensor]:
        """The first ``count`` rows, which are in memory, as tensors ``[rows, n]`` by name; no copies."""
        firsts = range(0, count, _BLOCK)
        return {f"basis {first}": self._blocks[first // _BLOCK][: min(_BLOCK, count - first)] for first in firsts}

    def overlap(self, w: Tensor, count: int) -> Tensor:
        """``Q w`` ``[count]`` with the first rows, for a float64 ``w [n]``."""
        # Summed in float64: at 1e5 parameters float32 sums leave overlaps of 2e-5, which shift a small eigenvalue beside a
        # large one by 1e-4 of its size.
        parts = zip(self._parts(count, torch.float64), w.split(_COLUMNS), strict=True)
        return torch.stack([part @ x for part, x in parts]).sum(0)

    def remove(self, w: Tensor, overlap: Tensor) -> None:
        """Takes ``Q^T overlap`` from a float64 ``w [n]``, where it is.

        The sum is taken in the basis' dtype: it is as exact as the rows, which are rounded to that, and what is left of an
        overlap that was large is seen by the next pass.
        """
        narrow = overlap.to(self._dtype)
        for part, x in zip(self._parts(len(overlap), self._dtype), w.split(_COLUMNS), strict=True):
            x.sub_(narrow @ part)

    def combined(self, coefficients: Tensor) -> Tensor:
        """``Q^T c`` ``[n]`` for ``c [count]``, in the basis' dtype."""
        wide = coefficients.to(self.device, self._dtype)
        return torch.cat([part.T @ wide for part in self._parts(len(coefficients), self._dtype)])

    def _in_memory(self, row: int) -> bool:
        return self._held is None or row < self._held

    def _parts(self, count: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """The first rows ``[count, columns]`` in ``dtype``, some columns after another; each is overwritten by the next."""
        # In parts, so that the wide copy of the basis stays small.
        held = count if self._held is None else min(count, self._held)
        width = min(_COLUMNS, self._size)
        copy = torch.empty((count, width), dtype=dtype, device=self.device)
        read = torch.empty((count - held, min(_READ, self._size)), dtype=self._dtype) if count > held else None
        for first in range(0, max(self._size, 1), _COLUMNS):  # a process may hold none of the numbers
            columns = min(_COLUMNS, self._size - first)
            # A last part that is narrower has a copy of its own: its rows lie one after another like the others'.
            part = copy if columns == width else copy.new_empty((count, columns))
            for start in range(0, held, _BLOCK):
                rows = min(_BLOCK, held - start)
                part[start : start + rows] = self._blocks[start // _BLOCK][:rows, first : first + columns]
            if read is not None:
                if first % _READ == 0:
                    for row in range(held, count):
                        self._read(row, first, read[row - held][: self._size - first])
                part[held:] = read[:, first % _READ : first % _READ + columns]
            yield part

    def _place(self, row: int, column: int = 0) -> int:
        return ((row - (self._held or 0)) * self._size + column) * self._dtype.itemsize

    def _write(self, row: int, q: Tensor) -> None:
        if self._file is None:
            with tempfile.NamedTemporaryFile(prefix="saddlescope-basis-", delete=False) as file:
                self._file = Path(file.name)
            weakref.finalize(self, self._file.unlink, missing_ok=True)
        try:
            with self._file.open("r+b") as stream:
                stream.seek(self._place(row))
                stream.write(q.view(torch.uint8).numpy().data)
        except OSError as error:
            raise OSError(
                f"{self._file}: a Krylov vector of {q.nbytes / 2**20:,.0f} MiB cannot be written ({error.strerror}): set "
                "TMPDIR to a folder with more room, raise --memory, or take fewer --steps"
            ) from None

    def _read(self, row: int, column: int, into: Tensor) -> None:
        # Read, not mapped: what is mapped counts as this process' memory for as long as there is any.
        assert self._file is not None
        with self._file.open("rb", buffering=0) as stream:
            stream.seek(self._place(row, column))
            view = into.view(torch.uint8).numpy().data
            while view:
                read = stream.readinto(view)
                if not read:
                    raise OSError(f"{self._file}: shorter than what was written; is TMPDIR being cleared?")
                view = view[read:]
