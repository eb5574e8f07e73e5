"""What ``--dry-run`` says of memory, counted in bytes: graphs, the basis, and what of it goes to disk."""

import mmap

import pytest
import torch
from saddlescope.analysis.hessian import low_precision
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.studies.memory_cost import KEPT_VECTORS, STEP_VECTORS, group_memory, resident_bytes


@pytest.fixture
def operator(network, long_tail):
    def made(**given):
        operator = HessianOperator(network(), long_tail(), vectors=101, micro_batch=10, **given)
        operator.matvec(torch.ones(operator.size, dtype=torch.float64))
        return operator

    return made


def held(operator, steps=100, scale=1.0, **settings):
    # So much was resident before that the passes of this process add nothing.
    total, unchecked, graphs, disk = group_memory(operator, AnalysisSettings(**settings), 2**50, scale, steps)
    assert unchecked == total
    return total, graphs, disk


def test_everything_fits(operator):
    made = operator(memory=10**9)
    vector = made.size * 8
    total, graphs, disk = held(made)
    assert graphs == made.kept_bytes > 0
    assert disk == 0
    assert total - 2**50 == graphs + 101 * vector + STEP_VECTORS * vector + KEPT_VECTORS * vector
    assert held(made, steps=20)[0] == total - 80 * vector
    assert held(made, scale=3)[1] == 3 * graphs


def test_beyond_the_budget_vectors_go_to_disk_and_graphs_are_recorded_again(operator):
    made = operator(memory=20_000)
    vector = made.size * 8
    assert made.basis_bytes == 10_000
    total, graphs, disk = held(made)
    assert disk == 101 * vector - 10_000
    assert total - 2**50 == graphs + 10_000 + (STEP_VECTORS + KEPT_VECTORS) * vector
    assert held(made, basis="device")[2] == held(made, basis="cpu")[2] == 0
    assert held(made, basis="disk")[2] == 101 * vector
    one = made.graph_bytes(range(10))
    assert held(made, scale=1000)[1] <= made.graph_budget + 1.5 * one  # one at a time beyond those that are kept


def test_a_process_knows_its_size():
    now, size = resident_bytes(), 2**26
    with mmap.mmap(-1, size) as large:  # from the system: a tensor may lie in memory that was freed before
        large.write(b"1" * size)
        assert resident_bytes(peak=True) >= resident_bytes() >= now + 0.9 * size


def test_graphs_of_a_search_in_bfloat16_are_announced_and_left(network, long_tail, monkeypatch):
    monkeypatch.setattr(low_precision, "multiplies_bfloat16_faster", lambda: True)
    monkeypatch.setattr(low_precision, "WORTH_ROUNDING", 0)
    monkeypatch.setattr(low_precision, "WORTH_A_WEIGHT", 0)
    made = HessianOperator(network().float(), long_tail(), vectors=101, memory=10**9)
    made.matvec(torch.ones(made.size))
    kept = made.kept_bytes
    usual, most = (held(made, steps=steps, goal="ends") for steps in (20, 100))
    assert usual[1] == most[1] == 1.5 * kept
    assert usual[0] < most[0]
    assert made.kept_bytes == kept > 0
    assert held(made, goal="ends", rough=False)[1] == kept
