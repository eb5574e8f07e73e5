"""FSDP2 models, tensor parallel ones and vectors in slices against one process, in two gloo processes."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sharded_processes.py")


@pytest.mark.slow
def test_two_processes_with_a_sharded_model_give_the_numbers_of_one(processes, tmp_path):
    done = processes(script=str(SCRIPT), size=2, cwd=str(tmp_path))
    assert done.codes == [0, 0], done.err
