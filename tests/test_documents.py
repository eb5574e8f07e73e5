"""What documents promise beside what ``.ci/readme.py`` runs: snippets for other people's CI, and commands in sentences."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import saddlescope

ROOT = Path(__file__).resolve().parent.parent
PRESCRIBED = ROOT / "tests" / "prescribed"
#: `saddlescope ...` within a sentence, perhaps over the end of a line
SPAN = re.compile(r"`(?:python -m )?(saddlescope [a-z][^`]*)`")


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def snippets(pages):
    """Title of the section -> its yaml, of reports/README.md."""
    yaml = pytest.importorskip("yaml")
    page = ROOT / "reports" / "README.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    found = {}
    for block in pages.blocks(page):
        if block.kind == "yaml":
            title = next(line for line in reversed(lines[: block.line]) if line.startswith("## "))
            found[title.removeprefix("## ")] = yaml.safe_load(block.code)
    return found


def shell(script, folder, **variables):
    """Runs a step as CI does, with ``saddlescope`` on the path."""
    command = folder / "bin" / "saddlescope"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m saddlescope "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    paths = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    environment = os.environ | {"PATH": path, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A stranger's repository, with the checkpoint that the snippets name and a baseline of it."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PRESCRIBED, folder / "runs" / "mine")
    (folder / "tests").mkdir()
    shell("saddlescope analyze runs/mine/checkpoint.pt --out results", folder)
    shell("saddlescope baseline save results -o tests/curvature.json", folder)
    return folder


def test_github_snippet(snippets, project):
    yaml = pytest.importorskip("yaml")
    setup, check = snippets["GitHub"]
    assert setup["uses"].startswith("actions/setup-python@")
    owner, _, reference = check["uses"].partition("@")
    action = yaml.safe_load((ROOT / owner.removeprefix("OWNER/saddlescope/") / "action.yml").read_text())
    assert reference
    assert set(check["with"]) <= set(action["inputs"])
    given = {name: check["with"].get(name, table.get("default", "")) for name, table in action["inputs"].items()}
    steps = {step["name"]: step for step in action["runs"]["steps"]}
    for name in ("Measure", "Compare"):
        variables = {}
        for variable, text in steps[name]["env"].items():
            variables[variable] = re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: given[found[1]], text)
            assert "${{" not in variables[variable]
        shell(steps[name]["run"], project, **variables)
    assert (project / "curvature-check.xml").exists()
    assert (project / "curvature-check.png").exists()


def test_gitlab_snippet(snippets, project):
    (job,) = snippets["GitLab"].values()
    install, *commands = job["script"]
    assert install == "pip install git+https://github.com/OWNER/saddlescope"
    for command in commands:
        shell(command, project)
    assert (project / job["artifacts"]["reports"]["junit"]).exists()


def test_pre_commit_snippet(snippets, project):
    yaml = pytest.importorskip("yaml")
    (source,) = snippets["pre-commit"]
    assert source["rev"] == f"v{saddlescope.__version__}"
    offered = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    for hook in source["hooks"]:
        shell(shlex.join([*shlex.split(offered[hook["id"]]["entry"]), *hook["args"]]), project)


def test_every_block_says_what_it_is(pages):
    for page in pages.documents():
        list(pages.blocks(page))


def test_commands_in_sentences_exist(pages):
    """Every `saddlescope COMMAND --flag` in a sentence of a document."""
    commands = typer.main.get_command(saddlescope.application()).commands
    seen = 0
    for page in [*pages.documents(), ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]:
        for span in SPAN.findall(pages.BLOCK.sub("", page.read_text(encoding="utf-8"))):
            _, name, *rest = span.split()
            assert name in commands, f"{page.name}: `{span}`"
            known = [commands[name], *getattr(commands[name], "commands", {}).values()]
            options = {option for command in known for parameter in command.params for option in parameter.opts}
            options |= {option for command in known for parameter in command.params for option in parameter.secondary_opts}
            unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in {*options, "--help"}]
            assert not unknown, f"{page.name}: `{span}` has no {unknown}"
            seen += 1
    assert seen > 15


@pytest.mark.parametrize("goal", ["spectrum", "ends", "verdict"])
def test_pyhessian_is_not_imported_before_it_is_asked_for(goal, tmp_path):
    code = (
        "import sys, saddlescope\n"
        "try:\n    saddlescope.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'saddlescope.analysis.measures.measurement' in sys.modules\n"
        "print(sorted(name for name in sys.modules if 'pyhessian' in name and not name.startswith('saddlescope')))\n"
    )
    arguments = ["analyze", str(PRESCRIBED / "checkpoint.pt"), "--out", str(tmp_path), "--goal", goal, "--json"]
    paths = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
