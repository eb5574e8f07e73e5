"""Training and analysis where there is an accelerator as well: the same answers as on the processor, against dense truth."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from saddlescope import SSESAM, AnalysisSettings, Samples, analyze

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
COUNTS = [20, 12, 6]


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.SiLU(), nn.Flatten(), nn.Linear(48, 3)).eval()


def data():
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(COUNTS)])
    return torch.randn(len(y), 1, 6, 6, generator=torch.Generator().manual_seed(1)), y


def dense_ends(x, y):
    """Of the Hessian of the mean cross-entropy, in float64 on the processor."""
    model = network().double()
    names, values = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in values]

    def loss(flat):
        parts = (part.view_as(p) for part, p in zip(flat.split(sizes), values, strict=True))
        return functional.cross_entropy(torch.func.functional_call(model, dict(zip(names, parts, strict=True)), x.double()), y)

    flat = torch.cat([p.detach().reshape(-1) for p in values])
    truth = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    return float(truth[0]), float(truth[-1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("goal", ["spectrum", "ends"])
def test_ends_are_those_of_the_dense_hessian(device, goal):
    x, y = data()
    settings = AnalysisSettings(eta=10, goal=goal, device=device)
    result = analyze(network(), Samples.from_tensors(x, y), settings=settings)
    for name, rows in (("head", y < 2), ("tail", y == 2)):
        group = result.groups[name]
        for end, truth in zip((group.lambda_min, group.lambda_max), dense_ends(x[rows], y[rows]), strict=True):
            assert end.value == pytest.approx(truth, rel=1e-3, abs=2 * end.noise)
            low, high = end.interval
            assert low is None or low <= truth + end.noise
            assert high is None or high >= truth - end.noise
        if group.verdict.curvature == "negative curvature":
            assert group.certificate.holds


@pytest.mark.parametrize("device", DEVICES)
def test_steps_are_those_of_the_processor(device):
    weights = []
    for place in ("cpu", device):
        x, y = (part.to(place) for part in data())
        model = network().train().to(place)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = SSESAM(base, COUNTS, eta=10, epochs=4, rho_head=0.05, rho_tail=0.1, gamma=0.5)
        for epoch in range(4):
            optimizer.set_epoch(epoch)
            optimizer.step(model, lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none"), (x, y))
        weights.append(torch.cat([p.detach().cpu().reshape(-1) for p in model.parameters()]))
    assert torch.allclose(*weights, rtol=1e-4, atol=1e-5)
