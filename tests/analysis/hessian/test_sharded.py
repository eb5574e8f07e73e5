"""FSDP2 models and vectors in slices against one process, in two gloo processes under torchrun."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sharded_processes.py")


@pytest.mark.slow
def test_two_processes_with_a_sharded_model_give_the_numbers_of_one():
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
