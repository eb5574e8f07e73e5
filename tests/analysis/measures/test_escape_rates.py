"""Fields of the optimizers and their derivatives: against training's own steps, closed forms, and a dense DG by autograd."""

import copy

import numpy as np
import pytest
import torch
from saddlescope.analysis.measures.escape_rates import SymmetricField, escape_rates, net_rate, objective_curvature
from saddlescope.analysis.measures.exact import dense_matrix
from saddlescope.analysis.measures.objective import training_parts
from saddlescope.analysis.measures.optimizer_fields import ALL, Parts, Rule, Term, fields, rules, trained_rule, with_trained
from saddlescope.training.optimizers.registry import Plain
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from saddlescope import SAM, SSESAM, HessianOperator, ImbSAM, Samples

RHO = {"sam": 0.05, "imbsam": 0.07, "ssesam": 0.1, "ssesam-head": 0.03}
DECAY = 5e-4


def parts_of(model, samples, groups, **options):
    where = {name: np.flatnonzero(np.isin(samples.labels, classes)) for name, classes in groups.items()}
    first = HessianOperator(model, samples, **options)
    operators = {name: first.over(samples.subset(rows)) for name, rows in where.items()}
    return Parts(operators, {name: len(rows) / samples.num_samples for name, rows in where.items()})


@pytest.fixture(scope="module")
def net(reference):
    """The reference network (37 samples; tail: 7 of them), its parts and every rule."""
    model = copy.deepcopy(reference.model).eval()
    parts = parts_of(model, reference.samples, training_parts(reference.samples.class_counts, 8), micro_batch=10)
    return parts, rules(RHO, list(parts.operators))


def step_of(rule, model, samples):
    """The gradient that training's optimizer hands to its base, over one batch that is the whole set."""
    model = copy.deepcopy(model).eval()
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    counts = samples.class_counts.tolist()
    optimizer = {
        "sgd": lambda: Plain(base),
        "sam": lambda: SAM(base, rho=RHO["sam"]),
        "imbsam": lambda: ImbSAM(base, counts, eta=8, rho=RHO["imbsam"]),
        "ssesam": lambda: SSESAM(base, counts, eta=8, epochs=2, gamma=0.5, rho_head=0.03, rho_tail=0.1),
    }[rule.split("-")[0]]()
    optimizer.set_epoch(1 if rule == "ssesam-2" else 0)
    optimizer.step(model, lambda o, t: functional.cross_entropy(o, t, reduction="none"), samples.batch)
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("rule", ["sgd", "sam", "imbsam", "ssesam-1", "ssesam-2"])
def test_fields_are_the_steps_that_training_takes(net, reference, rule):
    parts, known = net
    before = parts.first.weights()
    found = fields(parts, known)[rule]
    assert torch.allclose(found, step_of(rule, reference.model, reference.samples), rtol=1e-9, atol=1e-12)
    assert torch.equal(parts.first.weights(), before)
    decayed = fields(parts, known, DECAY)[rule]
    assert torch.allclose(decayed - found, DECAY * before, atol=1e-15)


@pytest.mark.parametrize("weighting", ["batch", "batch-x2", "group"])
def test_a_trained_rule_has_its_own_radius_and_weighting(net, reference, weighting):
    parts, known = net
    own = {"optimizer": "odd", "rule": "imbsam", "optimizer_settings": {"rho": 0.2, "normalisation": weighting}}
    rule = trained_rule(own, parts.shares)
    model = copy.deepcopy(reference.model).eval()
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer = ImbSAM(base, reference.samples.class_counts.tolist(), eta=8, rho=0.2, normalisation=weighting)
    optimizer.step(model, lambda o, t: functional.cross_entropy(o, t, reduction="none"), reference.samples.batch)
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    assert torch.allclose(fields(parts, [rule])["imbsam"], expected, rtol=1e-9, atol=1e-12)
    assert [one.radii for one in with_trained(known, rule) if one.name == "imbsam"] == [{"tail": 0.2}]


def test_rules_of_side_cars(net):
    shares = net[0].shares
    stage = {"optimizer": "ssesam", "optimizer_settings": {"rho_head": 0.05, "rho_tail": 0.1}}
    assert trained_rule({**stage, "stage": 1}, shares) == Rule("ssesam-1", (Term("head", 0.05), Term("tail", 0.1)))
    assert trained_rule({**stage, "stage": 2}, shares) == Rule("ssesam-2", (Term("head"), Term("tail", 0.1)))
    assert trained_rule({"optimizer": "sam", "optimizer_settings": {"rho": 0.5}}, {}) == Rule("sam", (Term(ALL, 0.5),))
    assert trained_rule({"optimizer": "focalsam", "optimizer_settings": {"rho": 0.5}}, shares) is None
    assert trained_rule({**stage, "stage": 1}, {"all": 1.0}) is None
    assert [rule.name for rule in rules(RHO, ["all"])] == ["sgd", "sam"]
    assert training_parts([5, 0, 2], 4) == {"head": [0], "tail": [2]}
    assert training_parts([5, 0, 2], None) == training_parts([5, 0, 2], 2) == {"all": [0, 2]}


def dense_derivative(model, samples, rule):
    """``DG [n, n]`` of the whole-batch field by autograd through the perturbation, norm included."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    sizes = [p.numel() for p in model.parameters()]
    inputs, targets = samples.batch
    tail = torch.from_numpy(samples.class_counts)[targets] < 8
    masks = {"all": torch.ones_like(tail), "head": ~tail, "tail": tail}

    def loss(w, part):
        weights = {n: x.view(s) for n, x, s in zip(names, w.split(sizes), shapes, strict=True)}
        outputs = functional_call(model, weights, (inputs,))
        return (functional.cross_entropy(outputs, targets, reduction="none") * masks[part]).sum() / len(targets)

    def gradient(w, part):
        return torch.autograd.grad(loss(w, part), w, create_graph=True)[0]

    def field(w):
        total = DECAY * w
        for term in rule.terms:
            g = gradient(w, term.part)
            total = total + (gradient(w + term.rho * g / g.norm(), term.part) if term.rho else g)
        return total

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    w = flat.clone().requires_grad_()
    value = field(w)
    return torch.stack([torch.autograd.grad(entry, w, retain_graph=True)[0] for entry in value])


@pytest.fixture(scope="module")
def small():
    """A smooth float64 network of 50 parameters, its parts, and a random unit vector."""
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    labels = torch.tensor([0] * 12 + [1] * 9 + [2] * 5 + [3] * 2)
    samples = Samples.from_tensors(torch.randn(len(labels), 3, generator=generator, dtype=torch.float64), labels)
    parts = parts_of(model, samples, training_parts(samples.class_counts, 8), micro_batch=11)
    v = torch.randn(parts.first.size, generator=generator, dtype=torch.float64)
    return model, samples, parts, v / v.norm()


@pytest.mark.parametrize("at", range(5))
def test_rates_are_those_of_the_dense_derivative(small, at):
    model, samples, parts, v = small
    rule = rules(RHO, list(parts.operators))[at]
    truth = dense_derivative(model, samples, rule)
    (found,) = escape_rates(parts, v, [rule], weight_decay=DECAY)
    assert found.settled
    assert found.rate == pytest.approx(-float(v @ truth @ v), rel=1e-4)
    assert found.far_rate == found.rate  # nothing bends at a thousandth of the weights: no shorter way is needed
    symmetric = (truth + truth.T) / 2
    dense, asymmetry = dense_matrix(SymmetricField(parts, rule, DECAY))
    assert torch.allclose(dense, symmetric, atol=1e-10)
    assert asymmetry < 1e-10
    if rule.terms[-1].rho:
        assert float((truth - truth.T).abs().max()) > 1e-6  # the field of a perturbed step is no gradient
    net = net_rate(parts, rule, weight_decay=DECAY)
    lowest = float(torch.linalg.eigvalsh(symmetric)[0])
    assert net.rate == pytest.approx(-lowest, rel=1e-2)
    assert net.rate <= -lowest + 1e-9  # what is said to leave does leave
    assert net.interval[0] <= -lowest <= net.interval[1]


def test_plain_descent_leaves_by_the_objectives_curvature(small):
    model, samples, parts, v = small
    truth = dense_derivative(model, samples, Rule("sgd", (Term(ALL),)))
    assert objective_curvature(parts, v, DECAY) == pytest.approx(float(v @ truth @ v), rel=1e-9)
    (rate,) = escape_rates(parts, 3 * v, [Rule("sgd", (Term(ALL),))], weight_decay=DECAY)
    assert rate.rate == pytest.approx(-float(v @ truth @ v), rel=1e-5)


class TwoQuadratics(nn.Module):
    """Samples of class 0 have the loss ``w^T A w / 2``, those of class 1 ``w^T B w / 2``."""

    def __init__(self, a, b, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.register_buffer("forms", torch.stack([torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)]))

    def forward(self, batch):
        return torch.einsum("i,nij,j->n", self.w, self.forms[batch[1]], self.w) / 2


A, B, W = [[3.0, 0.5], [0.5, 1.0]], [[1.0, 0.0], [0.0, -2.0]], [0.4, 0.3]


def quadratics(w=W):
    """Six head samples and two of the tail."""
    samples = Samples.from_tensors(torch.zeros(8, 1), torch.tensor([0] * 6 + [1] * 2))
    model = TwoQuadratics(A, B, w)
    return parts_of(model, samples, {"head": [0], "tail": [1]}, loss=lambda model, batch: model(batch))


def closed_form(form, w, rho):
    """``D[F (w + rho g / |g|)]`` with g = F w: ``F + rho F (I - g g^T / g^T g) F / |g|``."""
    g = form @ w
    across = np.eye(2) - np.outer(g, g) / (g @ g)
    return form + rho * form @ across @ form / np.linalg.norm(g)


def test_rates_of_quadratics_in_closed_form():
    head, tail, w, v = 0.75 * np.array(A), 0.25 * np.array(B), np.array(W), np.array([0.0, 1.0])
    truth = {
        "sgd": head + tail,
        "sam": closed_form(head + tail, w, RHO["sam"]),
        "imbsam": head + closed_form(tail, w, RHO["imbsam"]),
        "ssesam-1": closed_form(head, w, RHO["ssesam-head"]) + closed_form(tail, w, RHO["ssesam"]),
        "ssesam-2": head + closed_form(tail, w, RHO["ssesam"]),
    }
    parts = quadratics()
    found = {rate.optimizer: rate for rate in escape_rates(parts, torch.from_numpy(v), rules(RHO, ["head", "tail"]))}
    assert {name: rate.rate for name, rate in found.items()} == pytest.approx(
        {name: -float(v @ (dg + dg.T) @ v) / 2 for name, dg in truth.items()}, rel=1e-4
    )
    # v is a way out of the tail's saddle (curvature -2); the objective curves upwards along it, and gradient descent comes back
    assert found["sgd"].rate == pytest.approx(-(0.75 * 1.0 - 0.25 * 2.0))


def test_rates_stay_finite_where_the_quotient_had_no_denominator():
    """At a point whose gradient has no part along v the old multiplier divided by zero; a derivative has no such place."""
    parts = quadratics(w=[0.4, -0.2])  # (A w)_2 = 0
    v = torch.tensor([0.0, 1.0], dtype=torch.float64)
    along = float(parts.gradient("head") @ v)
    assert along == pytest.approx(0, abs=1e-15)
    for rate in escape_rates(parts, v, rules(RHO, ["head", "tail"])):
        assert abs(rate.rate) < 1


class Kinked(nn.Module):
    """Loss ``-w^2 / 2`` within 1e-4 of w = 1, where a unit switches on, and ``relu(|w - 1| - 1e-4) 10 |w - 1|`` more beyond."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, batch):
        d = (self.w - 1).abs()
        return (-(self.w**2) / 2 + 10 * functional.relu(d - 1e-4) * d).expand(len(batch[0]))


def test_beyond_a_kink_the_rate_is_of_the_distance_and_both_are_told():
    samples = Samples.from_tensors(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))
    parts = parts_of(Kinked(), samples, {"all": [0]}, loss=lambda model, batch: model(batch))
    (rate,) = escape_rates(parts, torch.ones(1), [Rule("sgd", (Term(ALL),))])
    assert rate.settled
    assert rate.distance == pytest.approx(1e-8)
    assert rate.rate == pytest.approx(1, rel=1e-5)
    # at 1e-3 the derivative is -w + 10 (2 d - 1e-4)
    assert (rate.far_distance, rate.far_rate) == (pytest.approx(1e-3), pytest.approx(1 - 19, rel=1e-6))


def test_weights_are_restored_to_the_bit(net):
    parts, known = net
    before = parts.first.weights()
    escape_rates(parts, torch.ones(parts.first.size), known)
    net_rate(parts, known[-1], steps=3)
    assert torch.equal(parts.first.weights(), before)
