"""Runs every ``bash`` and ``python`` block of the documents in the checkout, in order: what a page promises is what happens.

The documents are every ``README.md`` and ``CONTRIBUTING.md`` of the checkout, or those named as arguments. A ``python`` block
with test functions is run by pytest. A block under ``<!-- not run in CI: reason -->`` is left out, and said so. Every block
names its language, so that no command is taken for mere text; ``yaml`` is run by ``tests/test_documents.py``.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:^<!-- not run in CI: (?P<reason>[^>]*?) -->\n+)?^```(?P<kind>[^\n]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
#: where the pages put what they make anew each time
MADE = ROOT / "runs" / "ci"
#: of blocks that are not run here
OTHERS = ("text", "yaml", "toml", "json")


@dataclass(frozen=True)
class Block:
    """One block of a page; ``reason``: why it is not run."""

    page: Path
    line: int
    kind: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.code.strip().splitlines()[0]}"


def documents() -> list[Path]:
    """The first page, then the others."""
    found = [path for name in ("README.md", "CONTRIBUTING.md") for path in ROOT.rglob(name)]
    ours = (path for path in found if not any(part[0] in "._" or part == "runs" for part in path.relative_to(ROOT).parts))
    return sorted(ours, key=lambda path: (len(path.relative_to(ROOT).parts), path.name != "README.md", path))


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of one page.

    Raises:
        SystemExit: a block names no language that is known.
    """
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        block = Block(page, line, found["kind"], found["code"], found["reason"])
        if block.kind not in ("bash", "python", *OTHERS):
            raise SystemExit(f"{block}: a block of '{block.kind}'; write bash, python, {', '.join(OTHERS)}")
        yield block


def run(block: Block) -> int:
    """Returns the exit code."""
    environment = os.environ | {"PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    if block.kind == "bash":
        return subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], cwd=ROOT, env=environment, check=False).returncode
    if not re.search(r"^def test_", block.code, re.MULTILINE):
        return subprocess.run(["python", "-W", "error", "-c", block.code], cwd=ROOT, env=environment, check=False).returncode
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_of_the_page.py"
        file.write_text(block.code, encoding="utf-8")
        command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), str(file)]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    """Returns 0 when every block ended well, else 1 after the first that did not."""
    pages = [ROOT / name for name in sys.argv[1:]] or documents()
    todo = [block for page in pages for block in blocks(page) if block.kind not in OTHERS]
    shutil.rmtree(MADE, ignore_errors=True)
    began = time.monotonic()
    for block in todo:
        if block.reason:
            print(f"left out ({block.reason}): {block}", flush=True)
            continue
        start = time.monotonic()
        code = run(block)
        print(f"exit {code} after {time.monotonic() - start:.0f} s: {block}", flush=True)
        if code:
            return 1
    print(
        f"{sum(not block.reason for block in todo)} blocks of {len(pages)} pages in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
