import os

import pytest
from saddlescope.analysis.records.settings import SettingsError
from saddlescope.analysis.studies.worker_pool import WorkError, run_items


def write_threads(path):
    import torch

    path.write_text(f"{torch.get_num_threads()} {os.getpid()}")


def fail_on_odd(number):
    if number % 2:
        raise SettingsError(f"{number} is odd")


def test_every_item_is_done_once_on_one_thread(tmp_path):
    paths = [tmp_path / str(i) for i in range(5)]
    assert sorted(run_items(write_threads, paths, jobs=2)) == paths
    threads, processes = zip(*(path.read_text().split() for path in paths), strict=True)
    assert set(threads) == {"1"}
    assert str(os.getpid()) not in processes


def test_a_failure_names_its_item():
    with pytest.raises(WorkError, match="3: 3 is odd"):
        list(run_items(fail_on_odd, [0, 2, 3], jobs=1))


def test_nothing_to_do():
    assert list(run_items(fail_on_odd, [], jobs=2)) == []


def write_folder(path):
    path.write_text(os.getcwd())


def test_workers_are_where_the_caller_is(tmp_path, monkeypatch):
    for name in ("first", "second"):  # the workers of the first list are used again
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        paths = [tmp_path / f"{name}{i}" for i in range(4)]
        list(run_items(write_folder, paths, jobs=2))
        assert {path.read_text() for path in paths} == {str(tmp_path / name)}
