"""Runs mypy over the packages under the names they are installed by.

In a checkout ``saddlescope`` is a module whose ``__path__`` is set at run time, which mypy cannot follow; so it is shown the
installed layout: ``saddlescope/__init__.py`` beside its packages, as links.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Returns mypy's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "saddlescope"
        package.mkdir()
        (package / "__init__.py").symlink_to(ROOT / "saddlescope.py")
        for name in ("training", "analysis", "figures", "reports"):
            (package / name).symlink_to(ROOT / name)
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(ROOT / ".mypy_cache"),
        ]
        return subprocess.run([*command, "-p", "saddlescope", *sys.argv[1:]], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
