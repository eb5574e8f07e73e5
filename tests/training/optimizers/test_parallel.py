"""Data parallel training: two processes under ``torchrun`` against one."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from saddlescope.training.optimizers.data_parallel import DataParallel, resolve


def test_two_processes_take_the_steps_of_one(tmp_path):
    """All optimizers, ragged shards, shards without tail or head, in float64; the cases are in ``two_processes.py``."""
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*command, str(tmp_path / "report")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    # The reports are written after the last check. The exit code says less: on a busy machine gloo can abort the process that
    # leaves second, when all is done.
    reports = [path.read_text() for path in sorted(tmp_path.glob("report-*"))]
    assert reports == ["passed", "passed"], "\n".join([*reports, done.stderr[-2000:]])


def test_without_a_process_group_nothing_is_shared():
    assert resolve("auto") is None
    assert resolve(None) is None
    own = DataParallel(m_sharpness=True)
    assert resolve(own) is own


def test_one_process_group_of_one_is_no_sharing(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert resolve("auto") is None
    finally:
        torch.distributed.destroy_process_group()
