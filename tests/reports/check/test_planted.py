"""Regressions planted into the engine and the optimizers: the baseline check must see each, and none of the harmless changes.

The prescribed checkpoint (digits-lt, SGD, seed 0) and its baseline are in the repository; ``.ci/run`` checks them by the
command line as well.
"""

import math
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from saddlescope.analysis.checkpoints.analysis_inputs import open_checkpoint
from saddlescope.analysis.hessian import operator
from saddlescope.analysis.krylov import lanczos
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.reports.testing import assert_matches_baseline, store_baseline
from saddlescope.training.optimizers import stages
from saddlescope.training.runs.recipe import load_recipe
from saddlescope.training.runs.study import train_study
from typer.testing import CliRunner

from saddlescope import application

CHECKPOINT = Path(__file__).parents[2] / "prescribed" / "checkpoint.pt"
BASELINE = Path(__file__).parents[3] / "reports" / "baselines" / "digits-sgd.json"


def measured(**changed: object) -> CurvatureResult:
    subject = open_checkpoint(CHECKPOINT)
    settings = AnalysisSettings.model_validate({"starts": 2, "k": 3, "eta": subject.groups["eta"]} | changed)
    return analyze(subject.model, subject.samples, loss=subject.loss, settings=settings, source=subject.source)


def check(result: CurvatureResult) -> None:
    assert_matches_baseline({"digits-sgd": result}, BASELINE)


def in_batches_of_64(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operator, "fitting", lambda samples, device, dtype: min(64, samples.num_samples))


def no_memory_for_graphs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operator, "graph_budget", lambda device: 0)


def plain_products(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operator.HessianOperator, "_plan", lambda self: None)


@pytest.mark.parametrize("change", [in_batches_of_64, no_memory_for_graphs, plain_products])
def test_how_products_are_organised_moves_no_number(monkeypatch, change: Callable[[pytest.MonkeyPatch], None]):
    change(monkeypatch)
    check(measured())


def test_other_random_starts_move_no_number():
    check(measured(seed=12345))


def train_mode_statistics(patch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def train_mode(model):
        model.train()
        yield

    patch.setattr(operator, "evaluation_mode", train_mode)
    patch.setattr(operator, "require_sums", lambda _operator: None)  # which would refuse it


def means_of_batch_means(patch: pytest.MonkeyPatch) -> None:
    in_batches_of_64(patch)

    def unweighted(self, batch):
        batches = math.ceil(self.num_samples / self.micro_batch)
        return self.loss(self.model, batch).mean() * self.num_samples / batches

    patch.setattr(operator.HessianOperator, "batch_loss", unweighted)


def three_term_recurrence(patch: pytest.MonkeyPatch) -> None:
    def against_the_last_two(self, w, filled):
        w = w.double()
        for q in self._basis.rows(filled)[-2:].double():
            w = w - torch.dot(w, q) * q
        return w, torch.zeros(filled), float(w.norm())

    patch.setattr(lanczos.Lanczos, "_orthogonalise", against_the_last_two)


@pytest.mark.parametrize("plant", [train_mode_statistics, means_of_batch_means, three_term_recurrence])
def test_a_planted_regression_of_the_engine_is_seen(monkeypatch, plant: Callable[[pytest.MonkeyPatch], None]):
    plant(monkeypatch)
    result = measured()
    with pytest.raises(AssertionError, match="moved"):
        check(result)


def trained(folder: Path) -> Path:
    """SSE-SAM on digits for 4 epochs, stage 2 from the third on, analysed."""
    changes = ["training.epochs=4", "seeds=[0]", "optimizers.ssesam.gamma=0.4", "analysis.starts=1"]
    (run,) = train_study(load_recipe("digits-lt", changes), folder, only=["ssesam"])
    done = CliRunner().invoke(application(), ["analyze", str(run)])
    assert done.exit_code == 0, done.output
    return run


def test_training_again_gives_the_same_digits_and_without_the_stage_switch_it_does_not(monkeypatch, tmp_path):
    baseline = tmp_path / "baseline.json"
    store_baseline(trained(tmp_path / "first"), baseline, reason="as it should be", by_seed=True)
    assert_matches_baseline(trained(tmp_path / "again"), baseline)
    monkeypatch.setattr(stages.SSESAM, "radii", lambda self: (self.rho_head, self.rho_tail))
    with pytest.raises(AssertionError, match="moved"):
        assert_matches_baseline(trained(tmp_path / "planted"), baseline)
