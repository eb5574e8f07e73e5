"""The bench counts and checks accuracy; how long something took is never tested.

Competitors that are not installed are left out: they come with the extra ``bench``.

Above 300 lines: the operators and the truth that the competitors are held against are made once for all of it.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from saddlescope.analysis.bench import child_process as bench_child
from saddlescope.analysis.bench import harness
from saddlescope.analysis.bench import run as bench
from saddlescope.analysis.bench.cases import (
    CASES,
    BenchError,
    PrescribedOperator,
    Problem,
    micro_batches,
    open_problem,
    prepare,
    prescribed_spectrum,
)
from saddlescope.analysis.bench.density_accuracy import distance, probes_needed
from saddlescope.analysis.bench.density_accuracy import truth as density_truth
from saddlescope.analysis.bench.networks import digits_vit
from saddlescope.analysis.bench.peers import (
    COMPETITORS,
    TOLERANCE,
    Answer,
    Plan,
    eigsh_extremes,
    fixed_start,
    installed,
    level_ground,
)
from saddlescope.analysis.bench.table import table
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.lanczos import Lanczos, ritz_of
from saddlescope.figures.drawing.canvas import FigureError
from saddlescope.figures.plots.bench import save

PRESENT = [name for name in COMPETITORS if installed(name) is not None]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Problem:
    """The ragged tail group: 94 samples."""
    folder = tmp_path_factory.mktemp("bench")
    return open_problem("digits", "tail", prepare("digits", folder, None), None)


@pytest.fixture(scope="module")
def truth(digits):
    """Eigenvalues of the dense Hessian in float64, once for all competitors: at 5,000 parameters by a converged Lanczos run."""
    from saddlescope.analysis.krylov.spectrum import measure_spectrum

    operator = HessianOperator(digits.model, digits.samples, digits.subject.loss)
    spectrum = measure_spectrum(operator, steps=200, rtol=1e-6, seed=77)
    return spectrum.lambda_min.value, spectrum.lambda_max.value


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning"
)  # PyHessian's own graphs, curvlinops' torch.jit
@pytest.mark.parametrize("name", PRESENT)
def test_everyone_multiplies_by_the_same_hessian(digits, name):
    v = fixed_start(digits.size)
    expected = HessianOperator(digits.model, digits.samples, digits.subject.loss, accelerate=False).matvec(v)
    with level_ground(digits):
        product = COMPETITORS[name].product(digits, Plan(micro_batch=40))(v)  # 40 + 40 + 14
    if isinstance(product, tuple):  # PyHessian: the quotient and the product, a tensor a parameter
        product = torch.cat([part.reshape(-1) for part in product[1]])
    torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-4 * float(expected.norm()))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PRESENT)
def test_everyone_finds_both_ends_and_counts(digits, truth, name):
    with level_ground(digits):
        answer = COMPETITORS[name].extremes(digits, Plan(micro_batch=94, ends=("SA", "LA"), steps=(60, 20)))
    assert answer.lambda_min == pytest.approx(truth[0], rel=TOLERANCE)
    assert answer.lambda_max == pytest.approx(truth[1], rel=TOLERANCE)
    least = {"eigenthings": 80, "pyhessian": 100, "ours-ends": 20}.get(name, 30)
    assert answer.products >= least
    assert answer.products == least or name not in ("eigenthings", "pyhessian")


@pytest.mark.parametrize("kind", ["separated", "crowded"])
def test_a_prescribed_operator_has_the_spectrum_it_is_given(kind):
    spectrum = prescribed_spectrum(kind, 500)
    operator = PrescribedOperator(spectrum)
    dense = operator.matmat(torch.eye(500)).double()
    np.testing.assert_allclose(np.linalg.eigvalsh(dense.numpy()), np.sort(spectrum.numpy()), atol=1e-5)
    assert operator.matvecs == 500


@pytest.mark.parametrize("name", [name for name in PRESENT if COMPETITORS[name].operators])
def test_ends_of_a_prescribed_operator(name):
    spectrum = prescribed_spectrum("separated", 2000)
    operator = PrescribedOperator(spectrum)
    answer = COMPETITORS[name].extremes(Problem(operator=operator), Plan(steps=(40, 10)))
    assert answer.lambda_min == pytest.approx(-0.5, rel=TOLERANCE)
    assert answer.lambda_max == pytest.approx(10.0, rel=TOLERANCE)
    assert operator.matvecs == answer.products


def test_what_is_tried_on_the_tridiagonal_matrix_is_what_happens(digits, tmp_path):
    """ARPACK's products on T are those on H from the same start, and so are the steps to 1 %."""
    job = {"case": "digits", "group": "tail", "out": str(tmp_path), "data_root": None}
    job["checkpoint"] = prepare("digits", tmp_path, None)
    known = bench_child.reference(job)
    assert bench_child.reference(job) == known  # kept
    ways = bench_child._eigsh_choices(known, digits.size)
    assert [way["missed"] for way in ways] == sorted(way["missed"] for way in ways)
    best = ways[0]
    operator = HessianOperator(digits.model, digits.samples, digits.subject.loss)
    answer = eigsh_extremes(
        lambda v: operator.matvec(torch.from_numpy(v).float()).numpy(),
        digits.size,
        Plan(ends=best["ends"], ncv=best["ncv"]),
    )
    assert abs(answer.products - best["products"]) <= best["ncv"]
    assert max(bench_child._errors(answer, known)) <= TOLERANCE
    low, high = bench_child._steps_to_ends(known)
    assert low % 5 == high % 5 == 0
    assert abs(ritz_of(known["alphas"][:low], known["betas"]).values[0] / known["lambda_min"] - 1) <= TOLERANCE
    assert abs(ritz_of(known["alphas"][: low - 5], known["betas"]).values[0] / known["lambda_min"] - 1) > TOLERANCE
    assert 30 <= bench_child._our_steps(known) <= 100


def test_the_distance_of_quadratures_is_relative_to_the_width():
    true = np.array([0.0, 4.0]), np.array([0.5, 0.5])
    assert distance(true, true) == 0
    assert distance((np.array([1.0]), np.array([1.0])), (true[0], np.array([1.0, 0.0]))) == pytest.approx(0.25)


def test_peers_get_as_many_probes_as_make_them_as_accurate(diagonal):
    """Outliers above a narrow bulk: counting them is worth many probes. A bulk alone: nothing to count, one will do."""
    rng = np.random.default_rng(0)
    for outliers, least, most in (([170, 110, 45, 25, -17, -15], 6, 8), ([], 1, 2)):
        values = rng.normal(0, 0.05, 2000)
        values[: len(outliers)] = outliers
        runs = [Lanczos(diagonal(values, reflect=3), seed).run(30) for seed in range(8)]
        probes = [{"alphas": run.alphas, "betas": run.betas} for run in runs]
        nodes, weights = density_truth(probes, 2000)
        assert distance((nodes, weights), (values, np.full(2000, 1 / 2000))) < 0.02
        assert least <= probes_needed(probes, 2000) <= most


def test_an_end_that_is_missing_is_an_infinite_error():
    assert bench_child._errors(Answer(None, 2.0), {"lambda_min": -1.0, "lambda_max": 2.02})[0] == math.inf


def test_micro_batches_include_all_at_once_where_it_fits():
    assert micro_batches(94) == [32, 64, 94]
    assert micro_batches(5000)[-1] == 512


def test_the_transformer_of_digits_takes_digits():
    assert digits_vit()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_unknown_names_and_missing_peers_are_refused(tmp_path, monkeypatch):
    with pytest.raises(BenchError, match="--case resnet: not known; there are digits"):
        bench.bench(tmp_path, cases=["resnet"])
    with pytest.raises(BenchError, match="--competitor hessian: not known"):
        bench.bench(tmp_path, competitors=["hessian"])
    monkeypatch.setattr("saddlescope.analysis.bench.peers.installed", lambda name: None if name == "curvlinops" else "1")
    with pytest.raises(BenchError, match=r"not installed: curvlinops-for-pytorch; .*saddlescope\[bench\]"):
        bench.bench(tmp_path, cases=["digits"], competitors=["curvlinops"])


def test_a_record_of_another_version_is_not_added_to(tmp_path):
    (tmp_path / "bench.json").write_text('{"format": "saddlescope-bench", "version": 0, "groups": []}')
    with pytest.raises(BenchError, match="another folder"):
        bench.bench(tmp_path, cases=["digits"], competitors=["ours"])


def run(seconds, products, **changes):
    fields = {"seconds": seconds, "cpu_seconds": seconds, "composed": False, "products": products, "error_min": 0.001}
    return fields | {"error_max": 0.0, "distance": 0.002, "peak_bytes": 400 * 2**20, "before_bytes": 300 * 2**20} | changes


@pytest.fixture
def children(monkeypatch):
    """Stands in for the processes; records the order in which they are asked."""
    asked = []
    rounds = {"ours-ends": iter([2.0, 4.0, 1.0]), "ours": iter([4.0] * 3), "eigenthings": iter([1.0, 8.0, 3.0, 5.0, 6.0, 7.0])}

    def child(task, job, say):
        if task == "prepare":
            return {"checkpoint": "x.pt"}
        if task == "reference":
            return {"samples": 94, "parameters": 10, "lambda_min": -1.0, "lambda_max": 2.0, "steps": 100}
        name = job["competitor"]
        if task == "plan":
            together, ours = name == "ours", name.startswith("ours")
            plan = {"takes_part": True, "title": name, "together": together, "plan": {}, "tried": []}
            plan["questions"] = ["extremes"] if ours else ["extremes", "density"]
            plan["plan"] = {} if ours else {"density_steps": 50, "density_probes": 1}
            return plan | {"products": {"extremes": 0 if name == "ours-ends" else 100, "density": 50}, "seconds_a_product": 0.1}
        asked.append((name, job["question"], job.get("compose")))
        return run(next(rounds[name]), 35 if name.startswith("ours") else 20, composed="compose" in job, nodes=31)

    for driver in (bench, harness):
        monkeypatch.setattr(driver, "child", child)
    monkeypatch.setattr(bench, "versions_of", lambda chosen: {"saddlescope": "0"})
    return asked


def test_rounds_are_interleaved_and_ratios_are_taken_within_a_round(children, tmp_path):
    assert set(CASES["digits"].groups) == {"head", "tail"}
    record = json.loads(_one_group(tmp_path, rounds=3).read_text())
    once = [("ours-ends", "extremes"), ("ours", "extremes"), ("eigenthings", "extremes"), ("eigenthings", "density")]
    assert children == [(*one, None) for one in once] * 3
    (group,) = record["groups"]
    ends = {entry["competitor"]: entry for entry in group["entries"] if entry["question"] == "extremes"}
    assert ends["ours-ends"]["ratio"] == {"median": 1, "min": 1, "max": 1}
    assert ends["ours"]["ratio"] == {"median": 2, "min": 1, "max": 4}
    assert ends["eigenthings"]["ratio"] == {"median": 0.75, "min": 0.5, "max": 6.0}  # 1/2, 3/4, 6/1
    assert ends["eigenthings"]["seconds"] == {"median": 3, "min": 1, "max": 6}


def test_a_peer_that_is_ahead_is_named_with_the_reason(children, tmp_path):
    _one_group(tmp_path, rounds=3)
    text = (tmp_path / "bench.md").read_text()
    assert "**eigenthings is ahead here:** it needs fewer products" in text
    assert (tmp_path / "bench.svg").exists()


def test_long_runs_are_composed_and_marked(children, tmp_path):
    _one_group(tmp_path, rounds=1, longest=7.0)
    assert children == [
        ("ours-ends", "extremes", None),
        ("ours", "extremes", 100),
        *(("eigenthings", *one) for one in (("extremes", 100), ("density", None))),
    ]
    assert "eigenthings *" in (tmp_path / "bench.md").read_text()


def test_the_picture_needs_no_torch(children, tmp_path):
    path = _one_group(tmp_path, rounds=1)
    code = f"""
import sys
from pathlib import Path
from saddlescope.figures.plots.bench import save
save(Path({str(path)!r}), Path({str(tmp_path / "again")!r}))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert (tmp_path / "again" / "bench.svg").read_bytes() == (tmp_path / "bench.svg").read_bytes()


def test_a_damaged_record_is_no_picture(tmp_path):
    (tmp_path / "bench.json").write_text("{")
    with pytest.raises(FigureError, match="not readable as JSON"):
        save(tmp_path / "bench.json", tmp_path)


def _one_group(out: Path, **options):
    one = pytest.MonkeyPatch()
    with one.context() as patch:
        patch.setitem(bench.CASES, "digits", bench.CASES["digits"].__class__("digits", {"tail": None}))
        return bench.bench(out, cases=["digits"], competitors=["ours", "eigenthings"], say=lambda text: None, **options)


def test_the_table_says_what_was_missed():
    entry = {
        "competitor": "curvlinops",
        "title": "curvlinops",
        "question": "extremes",
        "plan": {},
        "tried": [{"ends": ["BE"], "ncv": 20, "products": 54, "missed": False}],
        "composed": False,
        "rounds": 1,
        "products": 54,
        "error_min": None,
        "error_max": 0.02,
        "distance": None,
        "peak_bytes": 1,
        "before_bytes": 1,
        **{name: {"median": 2.0, "min": 1.0, "max": 3.0} for name in ("seconds", "cpu_seconds", "ratio", "cpu_ratio")},
    }
    group = {"case": "digits", "title": "digits", "group": "tail", "samples": 94, "parameters": 10}
    group |= {"reference": {"lambda_min": -1.0, "lambda_max": 2.0, "steps": 100}}
    group["entries"] = [entry | {"competitor": "ours", "title": "ours", "error_min": 0.0, "error_max": 0.0, "tried": []}, entry]
    record = {"machine": harness.machine(), "versions": {"torch": "2"}, "date": "2026-01-01", "groups": [group]}
    text = table(record)
    assert "not found, 2 %" in text
    assert "curvlinops did not reach 1 % at lambda_min and lambda_max" in text
    assert "BE ncv 20: 54" in text


def test_a_composed_measurement_has_the_number_of_products_it_is_given(tmp_path):
    job = {"case": "prescribed", "group": "separated", "checkpoint": None, "data_root": None, "competitor": "ours"}
    known = {"lambda_min": -0.5, "lambda_max": 10.0, "probes": []}
    done = bench_child.measure({**job, "question": "extremes", "plan": {}, "reference": known, "compose": 35})
    assert done["composed"]
    assert done["products"] == 35
    assert done["error_min"] is None
    whole = bench_child.measure({**job, "question": "extremes", "plan": {}, "reference": known})
    assert whole["products"] == whole["nodes"] + bench_child.BESIDE
    assert max(whole["error_min"], whole["error_max"]) < 1e-3
