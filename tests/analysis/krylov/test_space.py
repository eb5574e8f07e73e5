"""Vectors spread over processes, which are threads here: the Krylov methods give the numbers of whole vectors."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from saddlescope.analysis.krylov import space as space_module
from saddlescope.analysis.krylov.linear_operator import LinearOperator, MatrixOperator
from saddlescope.analysis.krylov.sliced_files import INDEX, StoredVectors, files_of, save_index, save_slices
from saddlescope.analysis.krylov.space import Slices, Space
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.krylov.start_store import StartStore
from saddlescope.analysis.krylov.stored_state import StateError, load_state, save_state
from saddlescope.analysis.measures.exact import rechecked
from saddlescope.analysis.measures.extremes import measure_ends
from saddlescope.analysis.records.base import ResultError

N = 61
#: who holds what: two contiguous halves; interleaved stretches; the last numbers in all three; one that holds nothing
SPREADS = {
    "halves": [[(0, 40)], [(40, N)]],
    "stretches": [[(0, 9), (30, 41)], [(9, 30)], [(41, N)]],
    "shared": [[(0, 20), (50, N)], [(20, 45), (50, N)], [(45, N)]],
    "nothing": [[(0, 33)], [(33, N)], []],
}


def rows_of(ranges):
    return torch.cat([torch.arange(0), *(torch.arange(begin, to) for begin, to in ranges)])


class Threads:
    """Sums over threads as a process group does over processes."""

    def __init__(self, count):
        self.barrier, self.parts = threading.Barrier(count), [None] * count

    def reduce_of(self, rank):
        def reduce(part):
            self.parts[rank] = part
            self.barrier.wait()
            total = torch.stack(list(self.parts)).sum(0)
            self.barrier.wait()
            return total

        return reduce

    def word_of(self, rank):
        def everyone(word):
            self.parts[rank] = word
            self.barrier.wait()
            words = list(self.parts)
            self.barrier.wait()
            return words

        return everyone


class Spread(LinearOperator):
    """A matrix whose vectors are slices."""

    fatal = None

    def __init__(self, matrix, ranges, threads, rank, holders):
        reduce = threads.reduce_of(rank)
        self.who = SimpleNamespace(rank=rank, first=rank == 0, keeps=True, everyone=threads.word_of(rank))
        self.matrix, self.size, self.num_samples, self.matvecs = matrix, len(matrix), 1, 0
        self.dtype, self.device = matrix.dtype, matrix.device
        self.rows = rows_of(ranges)
        self.space, self.reduce = Slices(len(matrix), ranges, reduce, holders), reduce

    def matvec(self, v):
        if self.matvecs == self.fatal:
            raise KeyboardInterrupt
        self.matvecs += 1
        self.taken = getattr(self, "taken", 0) + 1
        whole = torch.zeros(self.size, dtype=self.dtype)
        whole[self.rows] = self.space.dual(v)
        return (self.matrix @ self.reduce(whole))[self.rows]


def spread_over(ranges, measure, matrix):
    """What ``measure`` gives in each thread."""
    threads = Threads(len(ranges))
    counts = torch.zeros(N)
    for one in ranges:
        for begin, to in one:
            counts[begin:to] += 1

    def one(rank):
        try:
            return measure(Spread(matrix, ranges[rank], threads, rank, counts[rows_of(ranges[rank])]))
        except BaseException:
            threads.barrier.abort()  # the others would wait for it
            raise

    with ThreadPoolExecutor(len(ranges)) as pool:
        return list(pool.map(one, range(len(ranges))))


@pytest.fixture
def matrix():
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(N, N, dtype=torch.float64))[0]
    return q @ torch.diag(torch.linspace(-2, 9, N, dtype=torch.float64)) @ q.T


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("method", [measure_spectrum, measure_ends])
def test_the_numbers_of_whole_vectors(matrix, spread, method):
    def measure(operator):
        found = method(operator, steps=40)
        return rechecked(found, operator)

    whole = measure(MatrixOperator(matrix))
    for found in spread_over(SPREADS[spread], measure, matrix):
        assert found.steps == whole.steps
        for end, true in (("lambda_min", -2), ("lambda_max", 9)):
            assert getattr(found, end).value == pytest.approx(getattr(whole, end).value, abs=1e-11)
            assert getattr(found, end).interval == pytest.approx(getattr(whole, end).interval, abs=1e-10)
            assert getattr(found, end).interval[0] <= true <= getattr(found, end).interval[1]
            assert getattr(found, end).residual == pytest.approx(getattr(whole, end).residual, abs=1e-10)
        if method is measure_spectrum:
            assert found.trace.value == pytest.approx(whole.trace.value, abs=1e-9)
            assert found.density.probes[0].nodes == pytest.approx(whole.density.probes[0].nodes, abs=1e-9)


@pytest.mark.parametrize(
    ("first", "then"), [("stretches", "halves"), ("shared", "nothing"), ("halves", None), (None, "shared")]
)
def test_starts_of_processes_that_died_are_continued_by_another_number_of_them(matrix, tmp_path, monkeypatch, first, then):
    monkeypatch.setattr("saddlescope.analysis.krylov.start_store.STORE_EVERY", 0.0)
    whole = measure_spectrum(MatrixOperator(matrix), steps=30, min_steps=30, starts=2)
    alone = [[(0, N)]]

    def dies(operator):
        operator.fatal = 50 if operator.who.rank == len(SPREADS.get(first, alone)) - 1 else None  # in the second start
        return measure_spectrum(operator, steps=30, min_steps=30, starts=2, store=StartStore(tmp_path, operator.who))

    def goes_on(operator):
        found = measure_spectrum(operator, steps=30, min_steps=30, starts=2, store=StartStore(tmp_path, operator.who))
        return found, operator.taken

    with pytest.raises((KeyboardInterrupt, threading.BrokenBarrierError)):
        spread_over(SPREADS.get(first, alone), dies, matrix)
    for found, taken in spread_over(SPREADS.get(then, alone), goes_on, matrix):
        assert taken < 5 + 30 + 2  # the guard, less than a whole start, one at each end: of 67
        assert (found.steps, found.matvecs) == (whole.steps, whole.matvecs)
        assert found.lambda_min.value == pytest.approx(whole.lambda_min.value, abs=1e-11)
        assert found.trace.interval == pytest.approx(whole.trace.interval, abs=1e-9)
        for probe, other in zip(found.density.probes, whole.density.probes, strict=True):
            assert probe.nodes == pytest.approx(other.nodes, abs=1e-9)
    assert not list(tmp_path.glob("*.running*"))


def test_a_part_that_is_missing_or_of_another_run_is_not_continued(tmp_path):
    path, space = tmp_path / "run.safetensors", Slices(N, [(0, 40)], lambda part: part)
    who = SimpleNamespace(rank=0, first=True, keeps=True, everyone=lambda word: [word])
    save_state(path, {"a": torch.ones(2)}, {"v": torch.arange(40.0)}, space, who, 1)
    assert torch.equal(load_state(path, Slices(N, [(3, 9)], lambda part: part), lambda name: True)["v"], torch.arange(3.0, 9.0))
    with pytest.raises(StateError, match="in none of its files"):
        load_state(path, Space(N), lambda name: True)
    with pytest.raises(StateError, match="of 61 numbers, asked for 62"):
        load_state(path, Space(62), lambda name: True)
    path.with_name(path.name + INDEX).write_text('{"size": 61, "vectors": ["v"], "files": {"a": "b"}}')
    with pytest.raises(StateError, match="no index of a stored run"):
        load_state(path, space, lambda name: True)


@pytest.mark.parametrize("spread", SPREADS)
def test_random_vectors_are_those_of_one_process_whatever_block_they_are_drawn_in(monkeypatch, spread):
    monkeypatch.setattr(space_module, "BLOCK", 16)
    whole = Space(N).random(5)
    for ranges in SPREADS[spread]:
        own = Slices(N, ranges, lambda part: part).random(5)
        assert torch.allclose(own, whole[rows_of(ranges)], rtol=1e-14, atol=0)


@pytest.mark.parametrize("spread", SPREADS)
def test_of_a_long_vector_every_process_draws_what_it_holds(monkeypatch, spread):
    monkeypatch.setattr(space_module, "BLOCK", 16)
    monkeypatch.setattr(space_module, "ONE_STREAM", 32)
    whole, drawn = Space(N).random(5), []
    assert float(whole.norm()) == pytest.approx(1, rel=1e-14)
    assert len(torch.unique(whole)) == N
    philox = space_module.np.random.Philox
    monkeypatch.setattr(space_module.np.random, "Philox", lambda key: drawn.append(key) or philox(key=key))
    for ranges in SPREADS[spread]:
        # The sum of squares of all processes is what they agree on before they divide by it.
        own = Slices(N, ranges, torch.ones_like).random(5)
        rows = rows_of(ranges)
        assert torch.allclose(own / own.norm(), whole[rows] / whole[rows].norm(), rtol=1e-14, atol=0)
        assert len(drawn) == len({int(row) // 16 for row in rows})
        drawn.clear()


def test_slices_in_files_are_read_whole_and_damage_is_said(tmp_path):
    path, whole = tmp_path / "a.vectors.safetensors", {"tail/min": torch.randn(N), "tail/max": torch.randn(N)}
    for ranges in (SPREADS["stretches"], SPREADS["halves"]):  # the second save takes the place of the first
        for rank, own in enumerate(ranges):
            save_slices({name: torch.cat([v[begin:to] for begin, to in own]) for name, v in whole.items()}, path, ranges, rank)
        index = save_index(list(whole), path, ranges, 4)
        found = StoredVectors(index)
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[name], whole[name]) for name in whole)
        assert len(list(tmp_path.glob("*.safetensors"))) == len(ranges)
    table = json.loads(index.read_text())
    assert table["metadata"]["total_size"] == 2 * N * 4
    table["weight_map"]["tail/min@0"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(table))
    with pytest.raises(ResultError, match="no index of files beside it"):
        StoredVectors(index)
    save_index(list(whole), path, [[(0, 40)], [(41, N)]], 4)
    with pytest.raises(ResultError, match="is in none of its files"):
        StoredVectors(index)
    files_of(index)[1].unlink()
    with pytest.raises(ResultError, match="is missing"):
        StoredVectors(index)
    assert index.name == path.name + INDEX
