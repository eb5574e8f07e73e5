"""Critical steps against closed forms on quadratics, and a network's against a fine grid of losses."""

import copy
import json

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.elsewhere import shifted
from saddlescope.analysis.measures.analyze import critical_steps
from saddlescope.analysis.measures.critical_step import critical_step, group_steps
from saddlescope.analysis.records.base import load, save
from saddlescope.analysis.records.steps import StepResult
from saddlescope.analysis.records.study_plan import StudyAnalysis, curvature_item
from saddlescope.analysis.samples.provenance import Source
from torch import nn

from saddlescope import AnalysisSettings, HessianOperator, Samples

A, W = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64)


class Quadratic(nn.Module):
    """``w^T A w / 2``, whatever the inputs."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(W.clone())

    def forward(self, batch):
        return (self.w @ A @ self.w / 2).expand(len(batch[0]))


@pytest.fixture
def quadratic():
    samples = Samples.from_tensors(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))
    return HessianOperator(Quadratic(), samples, lambda model, batch: model(batch))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("d", [[1.0, -3.0], [1.0, -1.0], [0.5, -3.0]])
def test_the_critical_step_of_a_quadratic_is_where_the_parabola_returns(quadratic, d, scale):
    d = scale * torch.tensor(d, dtype=torch.float64)
    truth = float(2 * (d @ A @ W) / (d @ A @ d))  # -eta <g, d> + eta^2 d'Ad / 2 = 0
    loss, gradient = quadratic.loss_and_gradient()
    (found,) = group_steps(quadratic, gradient, loss, {"sgd": d})
    low, high = found.bracket
    assert low <= truth <= high == found.step
    assert high - low <= 2**-4 * low
    assert found.sharpness == pytest.approx(2 / truth, rel=2**-4)
    assert torch.equal(quadratic.weights(), W)


def test_along_the_gradient_of_one_eigenvector_the_sharpness_is_the_eigenvalue(quadratic):
    value, vectors = torch.linalg.eigh(A)
    with torch.no_grad():
        quadratic.model.w.copy_(3 * vectors[:, 1])
    loss, gradient = quadratic.loss_and_gradient()
    (found,) = group_steps(quadratic, gradient, loss, {"own": gradient})
    assert found.sharpness == pytest.approx(float(value[1]), rel=2**-4)


def test_what_hurts_to_first_order_is_zero_and_what_never_hurts_has_no_end(quadratic):
    loss, gradient = quadratic.loss_and_gradient()
    (found,) = group_steps(quadratic, gradient, loss, {"head": -gradient})
    assert (found.step, found.bracket, found.sharpness) == (0, (0, 0), None)
    quadratic.loss = lambda model, batch: model.w[0].expand(len(batch[0]))
    loss, gradient = quadratic.loss_and_gradient()
    (found,) = group_steps(quadratic, gradient, loss, {"sgd": gradient})
    assert (found.step, found.sharpness) == (None, None)
    assert found.bracket == (pytest.approx(8 * float(W.norm())), None)
    assert found.longest == pytest.approx(8 * float(W.norm()))  # |d| = 1: a step of eight times the norm of the weights


def test_the_search_brackets_whatever_the_place():
    for truth in np.geomspace(2e-9, 0.9, 30):
        low, high = critical_step(lambda eta, truth=truth: eta > truth, 2**-10, 1.0, 2**-30)
        assert low <= truth < high <= (1 + 2**-4) * low
    assert critical_step(lambda eta: True, 2**-10, 1.0, 2**-30) == (0, 2**-30)
    assert critical_step(lambda eta: False, 2**-10, 1.0, 2**-30) == (1, None)
    assert critical_step(lambda eta: eta == 1.0, 2**-10, 1.0, 2**-30)[1] == 1


def test_not_a_number_counts_as_higher(quadratic):
    quadratic.loss = lambda model, batch: torch.log(model.w[0]).expand(len(batch[0]))  # w0 = 1: no logarithm from eta = 1
    loss, gradient = quadratic.loss_and_gradient()
    (found,) = group_steps(quadratic, gradient, loss, {"sgd": gradient})
    assert found.bracket[0] < 1 <= found.bracket[1]


@pytest.fixture(scope="module")
def whole(reference):
    source = Source(objective={"eta": 8.0, "weight_decay": 5e-4})
    settings = AnalysisSettings(goal="critical-step", eta=8, dtype="float64")
    return critical_steps(copy.deepcopy(reference.model), reference.samples, settings=settings, source=source)


def test_a_network_against_a_grid_of_losses(whole, reference):
    """The head's part of a step and the tail: the first higher loss on a fine grid lies in the bracket."""
    tail = reference.samples.subset(np.flatnonzero(reference.samples.labels >= 2))
    head = HessianOperator(
        copy.deepcopy(reference.model), reference.samples.subset(np.flatnonzero(reference.samples.labels < 2))
    )
    operator = HessianOperator(copy.deepcopy(reference.model), tail)
    update = 30 / 37 * head.loss_and_gradient()[1]
    loss, gradient = operator.loss_and_gradient()
    steps = {step.update: step for step in whole.groups["tail"].steps}
    found = steps["head"]
    assert found.slope == pytest.approx(float(update @ gradient), rel=1e-9)
    own = 7 / 37 * gradient
    for name, d in (("head", update), ("own", own)):
        step = steps[name]
        if float(d @ gradient) < 0:
            assert step.step == 0
            continue
        low, high = step.bracket
        assert high is not None
        for eta, expected in ((low, False), (high, True), (low / 2, False)):
            with shifted(operator, d, -eta):
                assert (operator.mean_loss() > loss) is expected
    assert steps["own"].step > 0


def test_every_update_is_tried_on_every_group(whole):
    rules = ["sgd", "sam", "imbsam", "ssesam-1", "ssesam-2"]
    assert [step.update for step in whole.groups["tail"].steps] == [*rules, "head", "own"]
    assert [step.update for step in whole.groups["head"].steps] == [*rules, "own"]
    assert [step.update for step in whole.groups["all"].steps] == [*rules, "head"]
    assert whole.weight_decay == 5e-4


def test_it_is_stored_beside_the_curvature_and_reads_back(whole, tmp_path):
    settings = AnalysisSettings(goal="critical-step")
    item = curvature_item(tmp_path / "run" / "checkpoints" / "epoch-003.pt", settings)
    assert item.output == tmp_path / "run" / "steps" / "epoch-003.head-tail.critical-step.json"
    assert load(StepResult, save(whole, item.output)) == whole
    assert json.loads(item.output.read_text())["kind"] == "critical-steps"


def test_a_study_asks_for_them_by_one_word():
    recipe = {"analysis": {"starts": 2, "critical_steps": True}, "optimizers": {"mine": {"rule": "sam", "rho": 0.5}}}
    plan = StudyAnalysis.parse(recipe)
    assert (plan.steps.goal, plan.steps.rho["sam"], plan.steps.starts) == ("critical-step", 0.5, 1)
    assert plan.final.rho["sam"] == 0.5  # the fields of a study have the radii that it trains with
    assert StudyAnalysis.parse({"analysis": {"starts": 2}}).steps is None
