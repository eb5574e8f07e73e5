"""The accelerated gradient graph must give the same Hessian-vector products as PyTorch's own, to round-off."""

import pytest
import torch
from saddlescope.analysis.hessian.acceleration import Accelerator
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """Folded, unfolded, grouped, dilated, biased, strided and shared convolutions, and a convolution read twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stem_bn = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4, bias=False)
        self.grouped_bn = nn.BatchNorm2d(8, affine=False)
        self.shared = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.shared_bn = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 1)
        self.twice_bn = nn.BatchNorm2d(8)
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.line = nn.Conv1d(8, 4, 3)
        self.line_bn = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = functional.silu(self.stem_bn(self.stem(x)))
        x = functional.silu(self.grouped_bn(self.grouped(x)))
        x = x + functional.silu(self.shared_bn(self.shared(functional.silu(self.shared_bn(self.shared(x))))))
        y = self.twice(x)
        x = self.twice_bn(y) + y.sigmoid()
        x = self.same(x).mean(3)
        return self.head(functional.silu(self.line_bn(self.line(x))).mean(2))


@pytest.fixture
def net():
    torch.manual_seed(3)
    net = Net().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias)
    return net


def products(net, x, y, vectors, recording=None):
    parameters = list(net.parameters())
    if recording is None:
        outputs = net(x)
    else:
        with recording:
            outputs = net(x)
    gradient = torch.autograd.grad(functional.cross_entropy(outputs, y), parameters, create_graph=True)
    return outputs, gradient, [torch.autograd.grad(gradient, parameters, v, retain_graph=True) for v in vectors]


@pytest.mark.parametrize("together", [2, 0])
def test_products_equal_the_plain_ones(net, together):
    """Also where every weight holds more numbers than the output, which is then what BatchNorm scales."""
    x, y = torch.randn(7, 3, 12, 12).double(), torch.randint(0, 5, (7,))
    vectors = [[torch.randn_like(p) for p in net.parameters()] for _ in range(3)]
    accelerator = Accelerator(torch.device("cpu"))
    assert accelerator.plan(lambda: net(x[:2]), 2, together)
    assert accelerator._heavy == frozenset([6] if together else range(7))
    order = ["stem", "grouped", "shared", "shared again", "twice", "same", "line"]
    assert {order[number] for number in accelerator._foldable} == {"stem", "grouped", "shared", "shared again", "line"}
    plain, fast = products(net, x, y, vectors), products(net, x, y, vectors, accelerator.recording())
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fast[1], plain[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(fast[2], plain[2], rtol=1e-10, atol=1e-12)


def test_large_weights_are_not_scaled_and_not_laid_out_anew():
    """Only what was recorded of the model itself has the size of a weight: its gradient and its tangent, no copy between."""
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.Tanh(), nn.Flatten()).eval()
    x, y, size = torch.randn(4, 32, 2, 2), torch.arange(4), 32 * 32 * 9

    def saved(together):
        accelerator, kept = Accelerator(torch.device("cpu")), []
        accelerator.plan(lambda: model(x), 4, together)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t), accelerator.recording():
            functional.cross_entropy(model(x), y).backward()
        return {t.data_ptr() for t in kept if t.numel() == size}

    assert saved(together=4) == {model[0].weight.data_ptr()}
    assert len(saved(together=400)) > 1


def test_a_model_without_convolutions_is_left_alone():
    net, x = nn.Linear(4, 3), torch.randn(5, 4)
    assert not Accelerator(torch.device("cpu")).plan(lambda: net(x))


def test_work_is_counted_for_one_sample(net):
    x = torch.randn(6, 3, 12, 12).double()
    accelerator = Accelerator(torch.device("cpu"))
    accelerator.plan(lambda: net(x), samples=6)
    here = [144 * 8 * 27, 36 * 8 * 18, 36 * 8 * 72, 36 * 8 * 72, 36 * 8 * 8, 36 * 8 * 72, 4 * 4 * 24]
    assert accelerator.work == sum(here) + 20
    assert accelerator.convolution_work == pytest.approx(sum(here) / len(here))
    patches = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Flatten(2), nn.Linear(9, 500))
    accelerator.plan(lambda: patches.double()(x), samples=6)
    assert accelerator.work == 9 * 16 * 48 + 16 * 9 * 500
    assert accelerator.convolution_work == 0  # a network of linear maps that begins with a convolution


class Skipping(nn.Module):
    """A convolution with a BatchNorm; of large images something else reads its output, too."""

    def __init__(self, read):
        super().__init__()
        self.conv, self.norm, self.last, self.read = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 3), read

    def forward(self, x):
        y = self.conv(x)
        z, large = self.norm(y), x.detach().abs().amax((1, 2, 3)) > 10
        return self.last((z + self.read(self, y) * large.view(-1, 1, 1, 1) if large.any() else z).tanh().mean((2, 3)))


@pytest.mark.parametrize("read", [lambda _, y: y, lambda net, y: net.norm(y), lambda _, y: y.data])
@pytest.mark.parametrize("first", [0, 6])
def test_what_only_some_samples_read_is_not_folded_away(read, first):
    torch.manual_seed(0)
    net, x = Skipping(read).double(), torch.randn(8, 2, 5, 5).double()
    x[first] *= 20
    samples = Samples.from_tensors(x, torch.arange(8) % 3)
    fast, plain = (HessianOperator(net, samples, micro_batch=4, accelerate=accelerate) for accelerate in (True, False))
    v = torch.randn(plain.size).double()
    torch.testing.assert_close(fast.matvec(v), plain.matvec(v), rtol=1e-10, atol=1e-12)


def test_train_mode_batch_norm_is_not_folded():
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.randn(5, 3, 6, 6)
    accelerator = Accelerator(torch.device("cpu"))
    accelerator.plan(lambda: net(x))
    assert not accelerator._foldable


def test_frozen_parameters_and_frozen_inputs(net):
    net.stem.weight.requires_grad_(False)
    net.twice_bn.weight.requires_grad_(False)
    x, y = torch.randn(4, 3, 12, 12).double(), torch.randint(0, 5, (4,))
    accelerator = Accelerator(torch.device("cpu"))
    accelerator.plan(lambda: net(x))
    free = [p for p in net.parameters() if p.requires_grad]
    vector = [torch.randn_like(p) for p in free]

    def product():
        gradient = torch.autograd.grad(functional.cross_entropy(net(x), y), free, create_graph=True)
        return torch.autograd.grad(gradient, free, vector)

    plain = product()
    with accelerator.recording():
        fast = product()
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)


def test_counted_work_is_lower(net):
    """No kernel the size of the image: each convolution of a product has the kernel size of its layer."""
    x, y = torch.randn(4, 3, 12, 12).double(), torch.randint(0, 5, (4,))
    accelerator = Accelerator(torch.device("cpu"))
    accelerator.plan(lambda: net(x))
    parameters = list(net.parameters())
    with accelerator.recording():
        loss = functional.cross_entropy(net.stem_bn(net.stem(x)).mean((2, 3)), y)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, gradient, strict=True) if g is not None]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        torch.autograd.grad([g for _, g in used], [p for p, _ in used], [torch.randn_like(p) for p, _ in used])
    kernels = [
        tuple(e.input_shapes[1][2:]) for e in profile.events() if e.name == "aten::convolution" and len(e.input_shapes[1]) == 4
    ]
    assert kernels
    assert set(kernels) == {(3, 3)}
