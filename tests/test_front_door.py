"""What a person meets first: the version, completion, public names, and a distribution that holds every folder."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import saddlescope

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "saddlescope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_version_is_that_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"saddlescope {project['version']}\n")


def test_shell_completion_can_be_installed():
    assert "--install-completion" in run("--help").stdout


def test_the_distribution_holds_every_folder_with_modules():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed, data = tool["packages"], tool["package-data"]["saddlescope.analysis"]
    assert "bench/scripts/*.py" in data  # they are run by their path
    folders = {init.parent for name in ("analysis", "training", "figures", "reports") for init in (ROOT / name).rglob("*.py")}
    folders.remove(ROOT / "analysis" / "bench" / "scripts")
    assert set(listed) == {"saddlescope." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_public_name_is_there_and_has_one_home():
    homes = {}
    for name in saddlescope.__all__:
        found = getattr(saddlescope, name)
        homes.setdefault(id(found), []).append(name)
    assert [names for names in homes.values() if len(names) > 1] == []


def test_help_imports_no_torch():
    code = "import sys, saddlescope; saddlescope.application(); print([m for m in ('torch', 'pyhessian') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


HEAVY = ("sympy", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "pandas", "matplotlib", "sklearn")


@pytest.mark.parametrize("goal", ["verdict", "spectrum"])
def test_an_analysis_imports_only_what_it_needs(goal, tmp_path):
    # Any of these takes as long as the analysis of a small network itself.
    for file in (ROOT / "tests" / "prescribed").iterdir():
        shutil.copy(file, tmp_path)
    found = f"[name for name in {HEAVY} if name in sys.modules]"
    code = f"import sys, saddlescope\ntry: saddlescope.main()\nfinally: print('imported:', {found})"
    asked = ["analyze", "checkpoint.pt", "--set", 'only=["tail"]', "--goal", goal, "--steps", "12"]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "imported: []" in done.stdout
