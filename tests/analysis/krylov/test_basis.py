"""Where Krylov vectors lie: bytes held in memory, bytes on disk, and the same digits everywhere."""

import tempfile

import pytest
import torch
from saddlescope.analysis.krylov.basis import KrylovBasis
from saddlescope.analysis.krylov.lanczos import Lanczos

N = 300_001  # more columns than are read at once


@pytest.fixture
def rows():
    q = torch.randn(21, N, generator=torch.Generator().manual_seed(0))
    return q / q.norm(dim=1, keepdim=True)


@pytest.fixture
def filled(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def basis(place):
        made = KrylovBasis(N, torch.float32, torch.device("cpu"), place)
        for row in rows:
            made.append(row)
        return made

    return basis


def removed(basis, w, c):
    left = w.clone()
    basis.remove(left, c)
    return left


def bytes_held(basis):
    assert all(block.stride(0) - N < 16 for block in basis._blocks)  # rows begin at multiples of 64 bytes
    return sum(block.nbytes for block in basis._blocks)


@pytest.mark.parametrize("held", [0, 1, 11, 16])
def test_rows_beyond_the_budget_are_on_disk(filled, rows, tmp_path, held):
    basis = filled(4 * N * held + 3)
    assert bytes_held(basis) == 4 * N * held
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 4 * N * (21 - held)
    assert torch.equal(basis.rows(21), rows)
    del basis
    assert not list(tmp_path.iterdir())


def test_rows_that_fit_take_their_memory_once(filled, tmp_path):
    basis = filled("device")
    assert bytes_held(basis) == 4 * N * 24  # in blocks of 8
    assert not basis.on_disk
    places = [block.data_ptr() for block in basis._blocks]
    basis.append(basis[0])
    assert [block.data_ptr() for block in basis._blocks] == places


@pytest.mark.parametrize("held", [None, 0, 1, 11])
def test_products_are_those_of_the_rows(filled, rows, held):
    basis = filled("device" if held is None else 4 * N * held)
    w = torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c = torch.linspace(-1, 1, 20, dtype=torch.float64)
    wide = rows[:20].double()
    assert torch.allclose(basis.overlap(w, 20), wide @ w, atol=1e-12, rtol=0)
    assert torch.allclose(removed(basis, w, c), w - wide.T @ c, atol=1e-8, rtol=0)
    assert torch.allclose(basis.combined(c).double(), wide.T @ c, atol=1e-6, rtol=0)
    whole = filled("device")
    assert torch.equal(basis.overlap(w, 20), whole.overlap(w, 20))
    assert torch.equal(removed(basis, w, c), removed(whole, w, c))
    assert torch.equal(basis.combined(c), whole.combined(c))


@pytest.mark.parametrize("device", ["meta", *(["cuda"] if torch.cuda.is_available() else [])])
def test_rows_on_disk_come_back_to_the_device(rows, device):
    """Where there is no GPU, to a device without numbers: it takes what a GPU takes, and is no memory of the machine either."""
    basis = KrylovBasis(N, torch.float32, torch.device(device), 4 * N * 11)
    for row in rows:
        basis.append(row)
    w, c = rows[0].double().to(device), torch.linspace(-1, 1, 20, dtype=torch.float64).to(device)
    found = basis[20], basis.overlap(w, 20), basis.combined(c), removed(basis, w, c)
    assert {one.device.type for one in found} == {device}
    if device != "meta":
        assert torch.equal(basis.rows(21).cpu(), rows)
        assert torch.allclose(found[1].cpu(), rows[:20].double() @ rows[0].double(), atol=1e-12, rtol=0)


def test_a_run_whose_basis_went_to_disk_is_not_stored(diagonal):
    operator = diagonal(torch.linspace(-1, 5, 500).double())
    assert Lanczos(operator).run(10).storable
    assert not Lanczos(operator, place=500 * 8 * 4).run(10).storable
    assert Lanczos(operator, place=500 * 8 * 11).run(10).storable


def test_a_full_disk_is_said(filled, rows):
    basis = filled("disk")

    class Full:
        def open(self, *_):
            raise OSError(28, "No space left on device")

        def __str__(self):
            return "/tmp/basis"

    basis._file = Full()
    with pytest.raises(OSError, match=r"MiB cannot be written \(No space left on device\): set TMPDIR"):
        basis.append(rows[0])
