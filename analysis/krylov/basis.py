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

#: Columns that are widened to float64 at once, that are combined at once, and that are read from a file at once.
_COLUMNS, _COMBINED, _READ = 1 << 15, 1 << 16, 1 << 18
#: Rows that are allocated at once, and combined at once, where they lie. Rows that are there are never copied: that would take
#: their memory twice.
_BLOCK = 8
#: Rows begin at multiples of so many bytes, in memory as in what is read from a file: a sum's last digit may depend on that.
_ALIGNED = 64


class KrylovBasis:
    """Rows ``[m, n]`` to which rows are added.

    Args:
        size: n, or as many of the n numbers as lie in this process; products are then of these alone.
        dtype: of the rows.
        device: of the vectors that come and go.
        place: ``device``, ``cpu`` (the machine's memory), ``disk`` (a file in the folder for temporary files, ``TMPDIR``, that
            goes with the basis), or the bytes that the first rows may take on the device before the next ones go to disk.
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
        found = torch.empty(self._size, dtype=self._dtype, device=self.device)
        self._read(row, 0, found)
        return found

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
                self._blocks.append(self._rows(rows, self._size))
            self._blocks[row // _BLOCK][row % _BLOCK] = q
        else:
            self._write(row, q.to("cpu", self._dtype).contiguous())
        self._filled += 1

    def pop(self) -> Tensor:
        """Takes away the last row; what it was, copied."""
        last = self[-1].clone()
        self._filled -= 1
        return last

    def rows(self, count: int) -> Tensor:
        """The first ``count`` rows ``[count, n]``, copied."""
        return torch.stack([self[row] for row in range(count)]) if count else torch.empty((0, self._size), dtype=self._dtype)

    def stored(self, count: int) -> dict[str, Tensor]:
        """The first ``count`` rows, which are in memory, as tensors ``[rows, n]`` by name; no copies."""
        # One by one: of several, which do not follow each other to the byte, a copy would be stored.
        return {f"basis {row}": self[row].unsqueeze(0) for row in range(count)}

    def overlap(self, w: Tensor, count: int) -> Tensor:
        """``Q w`` ``[count]`` with the first rows, for a float64 ``w [n]``."""
        # Multiplied and summed in float64: float32 sums over no more than 4096 numbers leave a basis 200 times less orthogonal
        # than its rows' rounding does, and at 1e5 parameters whole ones shift a small eigenvalue beside a large one by 1e-4.
        wide = torch.empty((min(_BLOCK, count), min(_COLUMNS, self._size)), dtype=torch.float64, device=self.device)
        total = torch.zeros(count, dtype=torch.float64, device=self.device)
        sums = total.split(_BLOCK)
        for first, blocks in self._parts(count):
            for offset in range(0, blocks[0].shape[1], _COLUMNS):
                x = w[first + offset : first + min(offset + _COLUMNS, blocks[0].shape[1])]
                # A last part that is narrower has a copy of its own: its rows lie one after another like the others'.
                part = wide if len(x) == wide.shape[1] else wide.new_empty((len(wide), len(x)))
                for block, into in zip(blocks, sums, strict=True):  # each is widened and multiplied while it is in the cache
                    rows = part[: len(block)]
                    rows.copy_(block[:, offset : offset + _COLUMNS])
                    into.addmv_(rows, x)
        return total

    def remove(self, w: Tensor, overlap: Tensor) -> None:
        """Takes ``Q^T overlap`` from a float64 ``w [n]``, where it is.

        The sum is taken in the basis' dtype: it is as exact as the rows, which are rounded to that, and what is left of an
        overlap that was large is seen by the next pass.
        """
        for first, part in self._sums(overlap):
            w[first : first + len(part)].sub_(part)

    def combined(self, coefficients: Tensor) -> Tensor:
        """``Q^T c`` ``[n]`` for ``c [count]``, in the basis' dtype."""
        whole = torch.empty(self._size, dtype=self._dtype, device=self.device)
        for first, part in self._sums(coefficients):
            whole[first : first + len(part)] = part
        return whole

    def _sums(self, coefficients: Tensor) -> Iterator[tuple[int, Tensor]]:
        """``Q^T c`` some columns after another, with the first of them; each is overwritten by the next."""
        narrow = coefficients.to(self.device, self._dtype).split(_BLOCK)
        sums = torch.empty(min(_COMBINED, self._size), dtype=self._dtype, device=self.device)
        for start, blocks in self._parts(len(coefficients)):
            for offset in range(0, blocks[0].shape[1], _COMBINED):
                rows = [block[:, offset : offset + _COMBINED] for block in blocks]
                part = torch.mv(rows[0].T, narrow[0], out=sums[: rows[0].shape[1]])
                for block, c in zip(rows[1:], narrow[1:], strict=True):
                    part.addmv_(block.T, c)
                yield start + offset, part

    def _in_memory(self, row: int) -> bool:
        return self._held is None or row < self._held

    def _parts(self, count: int) -> Iterator[tuple[int, list[Tensor]]]:
        """The first rows in blocks ``[rows, columns]``, some columns after another, with the first column.

        Blocks in memory are views; those with rows in a file are read, and overwritten by the next columns.
        """
        held = count if self._held is None else min(count, self._held)
        whole = held // _BLOCK if held < count else len(self._blocks)  # blocks that are all in memory
        read = self._rows(count - whole * _BLOCK, min(_READ, self._size)) if held < count else None
        for first in range(0, self._size, _READ):
            columns = slice(first, min(first + _READ, self._size))
            blocks = [block[: count - start, columns] for start, block in self._numbered(whole) if start < count]
            if read is not None:
                part = read[:, : columns.stop - first]
                for row in range(whole * _BLOCK, count):
                    if row < held:
                        part[row - whole * _BLOCK] = self._blocks[whole][row % _BLOCK, columns]
                    else:
                        self._read(row, first, part[row - whole * _BLOCK])
                blocks += part.split(_BLOCK)
            yield first, blocks

    def _numbered(self, count: int) -> list[tuple[int, Tensor]]:
        return [(index * _BLOCK, block) for index, block in enumerate(self._blocks[:count])]

    def _rows(self, count: int, size: int) -> Tensor:
        """Memory for some rows ``[count, size]``."""
        aligned = -(-size * self._dtype.itemsize // _ALIGNED) * _ALIGNED // self._dtype.itemsize
        return torch.empty((count, aligned), dtype=self._dtype, device=self.device)[:, :size]

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
        here = into if into.device.type == "cpu" else torch.empty(len(into), dtype=into.dtype)
        with self._file.open("rb", buffering=0) as stream:
            stream.seek(self._place(row, column))
            view = here.view(torch.uint8).numpy().data
            while view:
                read = stream.readinto(view)
                if not read:
                    raise OSError(f"{self._file}: shorter than what was written; is TMPDIR being cleared?")
                view = view[read:]
        if here is not into:
            into.copy_(here)
