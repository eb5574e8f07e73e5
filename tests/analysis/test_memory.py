"""The memory that a gradient graph holds, counted once per storage."""

import torch
from saddlescope.analysis.memory import free_bytes, saved_bytes


def test_free_memory_is_what_the_system_says():
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**50


def test_saved_storages_are_counted_once():
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    with saved_bytes() as saved:
        y = x.exp()  # saves its result, 8000 bytes
        z = y[:500] * y[500:]  # saves two views of that storage
    assert saved.total == 8000
    with saved_bytes() as more:
        z.sin()  # saves z, 4000 bytes
    assert more.total == 4000
    assert saved.total == 8000


def test_nothing_is_counted_outside_or_without_a_graph():
    x = torch.ones(10, requires_grad=True)
    with saved_bytes() as saved, torch.no_grad():
        x.exp()
    x.exp()
    assert saved.total == 0
