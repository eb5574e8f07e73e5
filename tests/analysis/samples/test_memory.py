"""The memory that a gradient graph holds, counted once per storage."""

import gc
import weakref

import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.samples.memory import free_bytes, memory_shared_by, saved_bytes
from torch.nn import functional


def test_free_memory_is_what_the_system_says():
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**50


def test_processes_of_one_list_count_on_their_share():
    whole = free_bytes(torch.device("cpu"))
    with memory_shared_by(4):
        assert 0.5 < 4 * free_bytes(torch.device("cpu")) / whole < 2


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


def test_a_released_operator_frees_its_graphs(network, long_tail):
    """A pack hook that hands back the tensor itself makes cycles through C++ that no collection finds: gigabytes in a study."""
    seen = []

    def loss(model, batch):
        hidden = model.stem(batch[0])
        seen.append(weakref.ref(hidden))
        outputs = hidden.square().mean((2, 3)) @ model.fc.weight[:, :3].T
        seen.append(weakref.ref(outputs))
        return functional.cross_entropy(outputs.sigmoid().square(), batch[1], reduction="none")

    operator = HessianOperator(network(), long_tail(), loss, micro_batch=16, accelerate=False)
    seen.clear()  # of the checks when it was built
    operator.matvec(torch.ones(operator.size, dtype=torch.float64))
    assert operator.kept_bytes > 0
    del operator
    gc.collect()
    assert len(seen) == 6
    assert all(reference() is None for reference in seen)
