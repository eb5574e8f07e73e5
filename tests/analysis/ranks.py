"""Several processes of one command, as torchrun starts them, from one import of torch: prints nothing, answers in JSON lines.

    python tests/analysis/ranks.py < requests

Each request (``argv``, where ``{rank}`` is the process's own, ``size``, ``cwd``, ``env``) is done by as many forks of this
process, with the environment that torchrun gives them; a ``script`` instead of the command is run like it. There is nobody who
ends the others when one dies: they must do that themselves. The answer holds exit codes (of a killed process the negative
signal), and what each process printed.
"""

import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path

# Imported before the forks, once, instead of by each of them.
import scipy.optimize
import sympy
import torch.distributed.device_mesh
import torch.distributed.fsdp
from saddlescope.analysis.studies import analyze_command, cost, verify
from torch.utils import _sympy  # noqa: F401

import saddlescope

IMPORTED = (scipy.optimize, sympy, analyze_command, cost, verify, saddlescope.application())


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def child(request, rank, port, out, err):
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    size = str(request["size"])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, **request.get("env", {})}
    os.chdir(request["cwd"])
    sys.argv = ["saddlescope", *(word.replace("{rank}", str(rank)) for word in request.get("argv", ()))]
    code = 0
    try:
        if "script" in request:
            sys.path.insert(0, str(Path(request["script"]).parent))
            runpy.run_path(request["script"], run_name="__main__")
        else:
            saddlescope.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve(line):
    request, port = json.loads(line), free_port()
    files = [[Path(request["cwd"]) / f".{kind}-{rank}" for kind in ("out", "err")] for rank in range(request["size"])]
    children = []
    for rank, (out, err) in enumerate(files):
        number = os.fork()
        if number == 0:
            child(request, rank, port, out, err)
        children.append(number)
    codes = [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in children]
    said = [[path.read_text() for path in pair] for pair in files]
    print(json.dumps({"codes": codes, "out": [out for out, _ in said], "err": [err for _, err in said]}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        serve(line)
