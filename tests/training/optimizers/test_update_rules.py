"""Every optimizer against its update rule written out by hand, in float64, on a small model with batch normalisation.

The reference below shares nothing with the code under test: the forward pass, batch statistics, perturbations, running
statistics, clipping, momentum and weight decay are spelled out; only gradients come from autograd.

Above 300 lines: the rules stand beside each other, as in a paper's table, and the tests below go over all of them.
"""

import math

import pytest
import torch
from saddlescope.training.optimizers.registry import BSAM, CCSAM, GSA, LESAM, SAM, SSESAM, FocalSAM, ImbSAM, Plain
from torch import nn

COUNTS = [60, 40, 9, 5]  # with eta 10: classes 0, 1 are head, 2, 3 tail
ETA = 10
RHO, RHO_HEAD, RHO_TAIL = 0.3, 0.2, 0.4
LR, MOMENTUM, DECAY = 0.1, 0.9, 0.05
NAMES = ["first.weight", "first.bias", "norm.weight", "norm.bias", "last.weight", "last.bias"]


class Tiny(nn.Module):
    """Linear, batch norm, tanh, a frozen linear layer, linear; and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5)
        self.frozen = nn.Linear(5, 5)
        self.unused = nn.Parameter(torch.ones(2))
        self.last = nn.Linear(5, 4)
        self.frozen.requires_grad_(False)
        self.double()

    def forward(self, x):
        return self.last(self.frozen(torch.tanh(self.norm(self.first(x)))))


class Reference:
    """The same model and the update rules, by hand."""

    def __init__(self, model, rule, clip=None):
        self.w = {k: dict(model.named_parameters())[k].detach().clone() for k in NAMES}
        self.frozen = [p.detach().clone() for p in model.frozen.parameters()]
        self.buffer = {k: torch.zeros_like(v) for k, v in self.w.items()}
        self.mean, self.variance = torch.zeros(5).double(), torch.ones(5).double()
        self.rule, self.clip = rule, clip

    def features(self, w, x):
        z = x @ w["first.weight"].T + w["first.bias"]
        mean = z.sum(0) / len(z)
        variance = ((z - mean) ** 2).sum(0) / len(z)
        z = (z - mean) / (variance + 1e-5).sqrt() * w["norm.weight"] + w["norm.bias"]
        return torch.tanh(z) @ self.frozen[0].T + self.frozen[1], mean, variance

    def losses(self, w, x, y):
        logits = self.features(w, x)[0] @ w["last.weight"].T + w["last.bias"]
        return torch.logsumexp(logits, 1) - logits[torch.arange(len(y)), y]

    def grad(self, w, x, y, a):
        w = {k: v.clone().requires_grad_() for k, v in w.items()}
        return dict(zip(w, torch.autograd.grad((a * self.losses(w, x, y)).sum(), list(w.values())), strict=True))

    def moved(self, x, y, a, rho):
        g = self.grad(self.w, x, y, a)
        norm = math.sqrt(sum(float((v**2).sum()) for v in g.values()))
        return {k: v + rho * g[k] / norm for k, v in self.w.items()} if norm > 0 else self.w

    def step(self, x, y, epoch):
        g = self.rule(self, x, y, epoch)
        _, mean, variance = self.features(self.w, x)  # running statistics: once, at the weights before the step
        self.mean = 0.9 * self.mean + 0.1 * mean
        self.variance = 0.9 * self.variance + 0.1 * variance * len(x) / (len(x) - 1)
        if self.clip is not None:
            norm = math.sqrt(sum(float((v**2).sum()) for v in g.values()))
            g = {k: v * min(1.0, self.clip / (norm + 1e-6)) for k, v in g.items()}
        for k in NAMES:
            self.buffer[k] = MOMENTUM * self.buffer[k] + g[k] + (DECAY if k.startswith("first") else 0.0) * self.w[k]
            self.w[k] = self.w[k] - (LR if k.startswith("first") else 2 * LR) * self.buffer[k]


def total(*gradients):
    return {k: sum(g[k] for g in gradients) for k in NAMES}


def masks(y):
    tail = (y >= 2).double()
    return 1 - tail, tail


def weights_of(normalisation, y):
    head, tail = masks(y)
    n = len(y)
    if normalisation == "group":
        return head / max(float(head.sum()), 1), tail / max(float(tail.sum()), 1)
    return head / n, (2 if normalisation == "batch-x2" else 1) * tail / n


def sgd_rule(r, x, y, epoch):
    return r.grad(r.w, x, y, torch.ones(len(y)).double() / len(y))


def sam_rule(r, x, y, epoch):
    a = torch.ones(len(y)).double() / len(y)
    return r.grad(r.moved(x, y, a, RHO), x, y, a)


def imbsam_rule(normalisation):
    def rule(r, x, y, epoch):
        head, tail = weights_of(normalisation, y)
        return total(r.grad(r.w, x, y, head), r.grad(r.moved(x, y, tail, RHO), x, y, tail))

    return rule


def ssesam_rule(normalisation):
    def rule(r, x, y, epoch):  # 4 epochs, gamma 0.5
        head, tail = weights_of(normalisation, y)
        at_head = r.moved(x, y, head, RHO_HEAD) if epoch < 2 else r.w
        return total(r.grad(at_head, x, y, head), r.grad(r.moved(x, y, tail, RHO_TAIL), x, y, tail))

    return rule


def focalsam_rule(r, x, y, epoch):
    c = torch.tensor([0.7 * (1 - n / sum(COUNTS)) ** 2.5 for n in COUNTS], dtype=torch.float64)[y]
    n = len(y)
    return total(r.grad(r.w, x, y, (1 - c) / n), r.grad(r.moved(x, y, c / n, RHO), x, y, c / n))


def ccsam_rule(r, x, y, epoch, k=0.01, a=0.4):
    w = {name: v.clone().requires_grad_() for name, v in r.w.items()}
    features = r.features(w, x)[0]
    d = 5 * 4 + 4

    def losses(weight, bias, f, t):
        z = f @ weight.T + bias
        return torch.logsumexp(z, 1) - z[torch.arange(len(t)), t]

    objective = (1 - a) * losses(w["last.weight"], w["last.bias"], features, y).mean()
    for c in sorted(set(y.tolist())):
        mine = y == c
        theta = [w["last.weight"], w["last.bias"]]
        g = torch.autograd.grad(losses(*theta, features, y)[mine].mean(), theta, retain_graph=True)
        perturbed = []
        for t, gt in zip(theta, g, strict=True):
            t_norm, g_norm = float((t.detach() ** 2).sum()) ** 0.5, float((gt**2).sum()) ** 0.5
            rho = k * math.sqrt(t_norm) / math.sqrt(g_norm) / math.sqrt(2) / (COUNTS[c] - 1) ** 0.25 / d**0.25
            perturbed.append(t + rho * math.sqrt(d) * gt / g_norm)
        objective = objective + a * losses(*perturbed, features[mine], y[mine]).sum() / len(y)
    return dict(zip(w, torch.autograd.grad(objective, list(w.values())), strict=True))


def bsam_rule(r, x, y, epoch):
    every = [n**-0.5 for n in COUNTS for _ in range(n)]  # one for each training sample
    a = torch.tensor([n**-0.5 * len(every) / sum(every) for n in COUNTS], dtype=torch.float64)[y] / len(y)
    return r.grad(r.moved(x, y, a, RHO), x, y, a)


def lesam_rule(normalisation):
    def rule(r, x, y, epoch):
        found = []
        for a in weights_of(normalisation, y):
            if a.sum() == 0:
                continue
            norm = math.sqrt(sum(float((v**2).sum()) for v in r.grad(r.w, x, y, a).values()))
            sigma = 0.08 * 0.5 * (1 + math.cos(math.pi * epoch / 4))
            found.append(r.grad(r.moved(x, y, a, min(sigma / (norm + 1e-12), 0.35)), x, y, a))
        return total(*found)

    return rule


def gsa_rule(r, x, y, epoch):
    weightings = [a for a in weights_of("batch", y) if a.sum() > 0]
    gradients = [r.grad(r.w, x, y, a) for a in weightings]
    whole = total(*gradients)
    square = sum(float((v**2).sum()) for v in whole.values())
    found = []
    for a, g in zip(weightings, gradients, strict=True):
        share = sum(float((g[k] * whole[k]).sum()) for k in NAMES) / square
        own = {k: g[k] - share * whole[k] for k in NAMES}
        norm = math.sqrt(sum(float((v**2).sum()) for v in own.values()))
        at = r.w if len(weightings) == 1 else {k: v + RHO * own[k] / norm for k, v in r.w.items()}
        found.append(r.grad(at, x, y, a))
    return total(*found)


def sse(base, **kw):
    return SSESAM(base, COUNTS, eta=ETA, epochs=4, gamma=0.5, rho_head=RHO_HEAD, rho_tail=RHO_TAIL, **kw)


CASES = {
    "sgd": (Plain, sgd_rule),
    "sam": (lambda b, **kw: SAM(b, rho=RHO, **kw), sam_rule),
    "focalsam": (lambda b, **kw: FocalSAM(b, COUNTS, rho=RHO, strength=0.7, focus=2.5, **kw), focalsam_rule),
    "ccsam": (lambda b, **kw: CCSAM(b, COUNTS, noise_ratio=0.01, flat_ratio=0.4, classifier="last", **kw), ccsam_rule),
}
CASES["bsam"] = (lambda b, **kw: BSAM(b, COUNTS, rho=RHO, **kw), bsam_rule)
CASES["gsa"] = (lambda b, **kw: GSA(b, COUNTS, eta=ETA, rho=RHO, **kw), gsa_rule)
for kind in ("batch", "group"):
    CASES[f"lesam {kind}"] = (
        lambda b, kind=kind, **kw: LESAM(b, COUNTS, eta=ETA, epochs=4, sigma=0.08, rho_max=0.35, normalisation=kind, **kw),
        lesam_rule(kind),
    )
for kind in ("batch", "batch-x2", "group"):
    CASES[f"imbsam {kind}"] = (
        lambda b, kind=kind, **kw: ImbSAM(b, COUNTS, eta=ETA, rho=RHO, normalisation=kind, **kw),
        imbsam_rule(kind),
    )
    CASES[f"ssesam {kind}"] = (lambda b, kind=kind, **kw: sse(b, normalisation=kind, **kw), ssesam_rule(kind))


def base_for(model):
    first = [p for k, p in model.named_parameters() if k.startswith("first")]
    rest = [p for k, p in model.named_parameters() if not k.startswith("first")]  # frozen and unused ones too
    groups = [{"params": first, "weight_decay": DECAY}, {"params": rest, "lr": 2 * LR}]
    return torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM)


def batches():
    """Ragged; both groups, no tail, no head, both, one tail sample."""
    generator = torch.Generator().manual_seed(3)
    for labels in ([0, 2, 1, 3, 0, 0, 2], [0, 1, 1, 0, 1], [3, 2, 3], [1, 3, 0, 2], [0, 0, 1, 0, 3, 1]):
        yield torch.randn(len(labels), 3, generator=generator, dtype=torch.float64), torch.tensor(labels)


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("case", CASES)
def test_step_is_the_rule_written_out_by_hand(case, clip):
    build, rule = CASES[case]
    model = Tiny()
    reference = Reference(model, rule, clip)
    base = base_for(model)
    optimizer = build(base, max_norm=clip)
    untouched = [p.clone() for p in (*model.frozen.parameters(), model.unused)]
    steps = 0
    for epoch in range(4):  # the stage switches after the second
        optimizer.set_epoch(epoch)
        for x, y in batches():
            at_w = reference.losses(reference.w, x, y).mean()
            record = optimizer.step(model, cross_entropy, (x, y))
            reference.step(x, y, epoch)
            steps += 1
            torch.testing.assert_close(record.loss, at_w, rtol=1e-10, atol=0)
            assert record.logits.shape == (len(y), 4)
            for name, value in reference.w.items():
                parameter = model.get_parameter(name)
                torch.testing.assert_close(parameter.detach(), value, rtol=1e-9, atol=1e-12)
                torch.testing.assert_close(
                    base.state[parameter]["momentum_buffer"], reference.buffer[name], rtol=1e-9, atol=1e-12
                )
            torch.testing.assert_close(model.norm.running_mean, reference.mean, rtol=1e-10, atol=1e-14)
            torch.testing.assert_close(model.norm.running_var, reference.variance, rtol=1e-10, atol=1e-14)
            assert int(model.norm.num_batches_tracked) == steps
    for before, after in zip(untouched, (*model.frozen.parameters(), model.unused), strict=True):
        assert torch.equal(before, after)
        assert after.grad is None


def run(build, steps=2, epoch=0, labels=None, **kw):
    """Parameters and buffers after some steps."""
    model = Tiny()
    optimizer = build(base_for(model), **kw)
    optimizer.set_epoch(epoch)
    for x, y in list(batches())[:steps]:
        optimizer.step(model, cross_entropy, (x, y if labels is None else torch.full_like(y, labels)))
    return torch.cat([v.double().flatten() for v in model.state_dict().values()])


def test_radius_zero_is_the_base_optimizer_to_the_last_bit():
    plain = run(Plain)
    assert torch.equal(run(lambda b: SAM(b, rho=0)), plain)
    assert torch.equal(run(lambda b: ImbSAM(b, COUNTS, eta=ETA, rho=0)), plain)
    assert torch.equal(run(lambda b: SSESAM(b, COUNTS, eta=ETA, epochs=4, rho_head=0, rho_tail=0)), plain)
    assert torch.equal(run(lambda b: CCSAM(b, COUNTS, classifier="last", flat_ratio=0)), plain)
    torch.testing.assert_close(run(lambda b: FocalSAM(b, COUNTS, rho=0)), plain, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(run(lambda b: CCSAM(b, COUNTS, classifier="last", noise_ratio=0)), plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("only", [0, 3])
def test_equal_radii_and_one_group_in_the_batch_is_sam_to_the_last_bit(only):
    sam = run(lambda b: SAM(b, rho=0.3), labels=only)
    assert torch.equal(run(lambda b: SSESAM(b, COUNTS, eta=ETA, epochs=4, rho_head=0.3, rho_tail=0.3), labels=only), sam)
    assert not torch.equal(run(Plain, labels=only), sam)


def test_second_stage_is_imbsam_to_the_last_bit():
    imbsam = run(lambda b: ImbSAM(b, COUNTS, eta=ETA, rho=RHO_TAIL))
    assert torch.equal(run(sse, epoch=2), imbsam)
    assert not torch.equal(run(sse, epoch=1), imbsam)


def test_focal_sam_with_full_strength_for_all_is_sam_and_with_none_is_sgd():
    assert torch.equal(run(lambda b: FocalSAM(b, COUNTS, rho=0.3, strength=1, focus=0)), run(lambda b: SAM(b, rho=0.3)))
    assert torch.equal(run(lambda b: FocalSAM(b, COUNTS, rho=0.3, strength=0)), run(Plain))


def test_vanishing_gradients_perturb_nothing_and_make_no_nan():
    """A loss that is constant at w: every group's gradient is exactly zero."""

    def constant(outputs, targets):
        return (outputs * 0).sum(1)

    for build in (lambda b: SAM(b, rho=0.3), sse, lambda b: CCSAM(b, COUNTS, classifier="last"), lambda b: FocalSAM(b, COUNTS)):
        model = Tiny()
        before = model.last.weight.detach().clone()
        optimizer = build(base_for(model))
        optimizer.set_epoch(0)
        optimizer.step(model, constant, next(iter(batches())))
        assert torch.equal(model.last.weight, before)


def test_adam_is_a_base_like_any_other():
    """SAM around Adam: Adam itself, fed with the gradient at the perturbed weights."""
    model, twin = Tiny(), Tiny()
    optimizer = SAM(torch.optim.Adam(model.parameters(), lr=0.01), rho=RHO)
    adam = torch.optim.Adam(twin.parameters(), lr=0.01)
    for x, y in batches():
        reference = Reference(twin, sam_rule)
        gradient = sam_rule(reference, x, y, 0)
        for name, g in gradient.items():
            twin.get_parameter(name).grad = g
        adam.step()
        optimizer.step(model, cross_entropy, (x, y))
    for name in NAMES:
        torch.testing.assert_close(model.get_parameter(name), twin.get_parameter(name), rtol=1e-7, atol=1e-9)
