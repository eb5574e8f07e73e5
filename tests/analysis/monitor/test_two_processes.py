"""Two gloo processes that both call the monitor: measured once, nobody waits for ever, the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_a_group_of_processes_measures_once(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(HERE / "two_processes.py"), str(tmp_path)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "measured and same: [[2, 1], [0, 1]]" in done.stdout
    assert sorted(path.name for path in tmp_path.glob("*/curvature/step-*.json")) == ["step-10.json", "step-5.json"]
    log = [json.loads(line) for line in (tmp_path / "0" / "curvature" / "monitor.jsonl").read_text().splitlines()]
    for event in log[-2:]:
        assert event["reason"].startswith("NotWholeError: the model is sharded over processes (FSDP")
