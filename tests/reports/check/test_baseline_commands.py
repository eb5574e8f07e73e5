"""``saddlescope baseline`` and ``saddlescope check`` as a build sees them: exit codes, files, and the function for pytest."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.reports.check.baseline import BaselineError
from saddlescope.reports.check.baseline_file import load_baseline
from saddlescope.reports.testing import assert_matches_baseline, store_baseline

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def single(build_study):
    return build_study(optimizers=("sgd",)) / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json"


@pytest.fixture
def baseline(run, single, tmp_path):
    path = tmp_path / "baseline.json"
    assert "of 1 series" in run("baseline", "save", single, "-o", path)
    return path


@pytest.fixture
def moved(single, edit):
    """The result after a change for the worse: one number moved, one gone, a pipe in a note."""

    def change(raw):
        raw["groups"]["tail"]["loss"] = 0.2
        raw["groups"]["head"].pop("trace")

    edit(single, change)
    return single


def test_a_build_that_passes(run, baseline, single):
    assert "check passed" in run("check", single, "--baseline", baseline)


def test_a_build_that_fails(run, baseline, moved):
    text = run("check", moved, "--baseline", baseline, code=1)
    assert "check FAILED: " in text
    assert "tail.loss" in text
    assert "head.trace" in text
    assert "head.loss" not in text
    assert "head.loss" in run("check", moved, "--baseline", baseline, "--all", code=1)


def test_quick_prints_one_line_for_each_failure(run, baseline, moved):
    lines = run("check", moved, "--baseline", baseline, "--quick", code=1).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("digits-lt/sgd/final/head-tail::tail.loss: moved: 0.05 -> 0.2")


def test_refused_is_exit_code_two(run, baseline, single, edit):
    edit(single, lambda raw: raw["provenance"].update(data_sha256="other"))
    assert "NOT COMPARABLE" in run("check", single, "--baseline", baseline, code=2)


def test_machine_readable_outputs(run, baseline, moved, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    xml, page = tmp_path / "out" / "check.xml", tmp_path / "out" / "check.md"
    document = json.loads(run("check", moved, "--baseline", baseline, "--json", "--junit", xml, "--markdown", page, code=1))

    assert (document["passed"], document["exit_code"]) == (False, 1)
    by_number = {row["number"]: row for row in document["rows"]}
    assert by_number["tail.loss"]["verdict"] == "moved"
    assert (by_number["tail.loss"]["baseline"]["mean"], by_number["tail.loss"]["now"]["mean"]) == (0.05, 0.2)
    assert (by_number["head.trace"]["verdict"], by_number["head.trace"]["now"]) == ("missing", None)
    assert document["counts"]["same"] == len(document["rows"]) - 2

    (suite,) = ET.parse(xml).getroot()
    assert suite.attrib["failures"] == "2"
    assert int(suite.attrib["tests"]) == len(document["rows"]) == len(suite)
    failed = {case.attrib["name"] for case in suite if case.find("failure") is not None}
    assert failed == {"tail.loss", "head.trace"}

    assert "check FAILED" in page.read_text()
    assert summary.read_text() == "before\n" + page.read_text()
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert {line.count(" | ") for line in rows} == {7}


def test_markdown_keeps_its_columns_whatever_a_name_holds(run, single, tmp_path, edit):
    edit(single, lambda raw: raw["provenance"].update(training={}, checkpoint="a|b_<i>*.pt"))
    path, page = tmp_path / "odd.json", tmp_path / "check.md"
    run("baseline", "save", single, "-o", path)
    edit(single, lambda raw: raw["groups"]["tail"].update(loss=0.2))
    run("check", single, "--baseline", path, "--markdown", page, code=1)
    row = next(line for line in page.read_text().splitlines() if "tail.loss" in line)
    assert row.startswith(r"| a\|b\_&lt;i>\*/head-tail | tail.loss |")


def test_accept(run, baseline, moved):
    assert "--reason" in run("check", moved, "--baseline", baseline, "--accept", code="error")
    assert "--accept" in run("check", moved, "--baseline", baseline, "--reason", "x", code="error")
    run("check", moved, "--baseline", baseline, "--accept", "--reason", "new loss scale")
    run("check", moved, "--baseline", baseline)
    shown = run("baseline", "show", baseline)
    assert "new loss scale" in shown
    assert "tail.lambda_min" in shown


def test_a_newer_baseline_is_an_error(run, baseline, single, edit):
    edit(baseline, lambda raw: raw.update(schema_version=99))
    assert "newer" in run("check", single, "--baseline", baseline, code="error")


def test_spread_of_repeated_measurements_becomes_a_tolerance(run, baseline, single, edit, tmp_path):
    again = tmp_path / "again.json"
    again.write_text(single.read_text())
    edit(again, lambda raw: raw["groups"]["tail"].update(gradient_norm=0.303))
    run("check", again, "--baseline", baseline, code=1)
    assert "gradient_norm" in run("baseline", "spread", single, again)
    run("baseline", "spread", single, again, "--into", baseline, "--factor", "2")
    run("check", again, "--baseline", baseline)
    number = load_baseline(baseline).series["digits-lt/sgd/final/head-tail"].numbers["tail.gradient_norm"]
    assert number.abs_tol + number.rel_tol * 0.3015 == pytest.approx(0.006, rel=1e-2)
    assert load_baseline(baseline).history[-1].reason == "tolerances from a measured spread"
    assert "no checkpoint was measured twice" in run("baseline", "spread", single, code="error")


def test_power_of_a_stored_baseline(run, build_study, tmp_path, baseline):
    study = build_study(name="other", optimizers=("sgd",))
    path = tmp_path / "seeds.json"
    run("baseline", "save", study, "-o", path, "--only", "*.lambda_*")
    text = run("baseline", "power", path, "--builds", "100")
    assert "6 numbers tested together; 3 seeds in the baseline" in text
    assert "one seed on each side" in run("baseline", "power", baseline, "--builds", "100", code="error")


def test_power_of_labels_and_of_sizes_says_so(run, build_study, tmp_path):
    study = build_study(name="other", optimizers=("sgd",))
    labels, sizes = tmp_path / "labels.json", tmp_path / "sizes.json"
    run("baseline", "save", study, "-o", labels, "--only", "*.verdict")
    text = run("baseline", "power", labels, "--builds", "100")
    assert "3 numbers tested together" in text
    assert "labels only" in text
    run("baseline", "save", study, "-o", sizes, "--only", "*.size")
    assert "no test to simulate" in run("baseline", "power", sizes, "--builds", "100", code="error")


def test_paths_under_the_name_of_a_series(single, tmp_path):
    path, folder = tmp_path / "kept.json", single.parents[1]
    store_baseline({"mine": single}, path, reason="first")
    for given in (str(folder), folder, [single], [str(folder)], load(CurvatureResult, single)):
        assert assert_matches_baseline({"mine": given}, path).exit_code == 0
    with pytest.raises(BaselineError, match="no such file or folder"):
        assert_matches_baseline({"mine": "none"}, path)


def test_results_in_memory(single, tmp_path, edit):
    path = tmp_path / "kept.json"
    result = load(CurvatureResult, single)
    store_baseline({"mine": result}, path, reason="first")
    assert assert_matches_baseline({"mine": [result]}, path).exit_code == 0
    edit(single, lambda raw: raw["groups"]["tail"].update(loss=0.2))
    changed = load(CurvatureResult, single)
    with pytest.raises(AssertionError, match=r"mine/final/head-tail::tail\.loss: moved: 0\.05 -> 0\.2"):
        assert_matches_baseline({"mine": changed}, path)
    assert_matches_baseline({"mine": changed}, path, accept="loss rescaled")
    assert_matches_baseline({"mine": changed}, path)
    assert [one.reason for one in load_baseline(path).history] == ["first", "loss rescaled"]


def test_what_cannot_be_compared_is_an_error_and_no_failure(single, tmp_path, edit):
    path = tmp_path / "kept.json"
    store_baseline(single, path, reason="first")
    edit(single, lambda raw: raw["provenance"].update(data_sha256="other"))
    with pytest.raises(BaselineError, match="data_sha256"):
        assert_matches_baseline(single, path)
    with pytest.raises(BaselineError, match="paths together"):
        assert_matches_baseline([single, load(CurvatureResult, single)], path)


def test_in_a_test_suite_that_has_its_own_reports_package(single, tmp_path):
    """Nothing of ours changes the other project's imports: its ``reports`` and ``analysis`` stay its own."""
    project = tmp_path / "project"
    for name in ("reports", "analysis"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("MINE = True\n")
    (project / "test_theirs.py").write_text(
        "import analysis, reports\n"
        "from saddlescope.reports.testing import assert_matches_baseline, store_baseline\n"
        "def test_curvature(tmp_path):\n"
        f"    store_baseline({str(single)!r}, tmp_path / 'b.json', reason='first')\n"
        f"    assert_matches_baseline({str(single)!r}, tmp_path / 'b.json')\n"
        "    assert analysis.MINE and reports.MINE\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(project), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
