"""Runs every ``bash`` and ``python`` block of README.md in the checkout, in order: what the page promises is what happens.

A block under ``<!-- not run in CI: reason -->`` is left out, and said so.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:<!-- not run in CI: (?P<reason>[^>]*?) -->\n+)?```(?P<kind>bash|python)\n(?P<code>.*?)```", re.DOTALL)


def main() -> int:
    """Returns 0 when every block ended well, else 1 after the first that did not."""
    pages = [ROOT / name for name in (sys.argv[1:] or ["README.md"])]
    environment = os.environ | {"PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for page in pages:
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            code, reason = block["code"], block["reason"]
            title = code.strip().splitlines()[0]
            if reason:
                print(f"{page.name}: left out ({reason}): {title}", flush=True)
                continue
            start = time.monotonic()
            program = ["bash", "-euo", "pipefail", "-c"] if block["kind"] == "bash" else ["python", "-W", "error", "-c"]
            done = subprocess.run([*program, code], cwd=ROOT, env=environment, check=False)
            print(f"{page.name}: exit {done.returncode} after {time.monotonic() - start:.0f} s: {title}", flush=True)
            if done.returncode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
