"""What the Hessian operator leaves untouched, what it notices, and what it refuses."""

import copy

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.losses import LossError
from saddlescope.analysis.hessian.modules import evaluation_mode
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.guards import RandomOperatorError, guard
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.nn import functional


def vectors(n, count=3, dtype=torch.float64):
    return torch.randn(n, count, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).to(dtype)


def relative(value, truth):
    return float((value.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("memory", [None, 0])
def test_model_and_random_state_are_left_as_they_were(network, long_tail, memory):
    model = network()
    model.train()
    model.bn.eval()  # a mixture of modes must come back as a mixture
    for p in model.parameters():
        p.grad = torch.full_like(p, 3)
    model.fc.bias.requires_grad_(False)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    random, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    operator = HessianOperator(model, long_tail(), micro_batch=10, memory=memory)
    operator.loss_and_gradient()
    operator.matvec(vectors(operator.size)[:, 0])
    operator.mean_loss()
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(bool((p.grad == 3).all()) for p in model.parameters())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["fc.bias"]
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.is_grad_enabled()


def test_evaluation_mode_restores_flags_and_buffers_after_an_exception(network):
    model = network().train()
    before = model.bn.running_mean.clone()

    def fail():
        with evaluation_mode(model):
            assert not model.bn.training
            model.bn.running_mean.add_(1)
            raise RuntimeError("user")

    with pytest.raises(RuntimeError, match="user"):
        fail()
    assert model.bn.training
    assert torch.equal(model.bn.running_mean, before)


def test_training_mode_and_dropout_do_not_matter(reference, network, long_tail):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 4)).double().train()
    operator = HessianOperator(model, long_tail())
    v = vectors(operator.size)[:, 0]
    trained = operator.matvec(v)
    model.eval()
    assert torch.equal(HessianOperator(model, long_tail()).matvec(v), trained)
    training = network().train()
    product = HessianOperator(training, reference.samples).matvec(vectors(175)[:, 0])
    assert relative(product, reference.truth.hessian @ vectors(175)[:, 0]) < 1e-12


@pytest.mark.parametrize("memory", [None, 0])  # a kept graph must not hide that the next one would differ
@pytest.mark.parametrize("what", ["model", "loss"])
def test_random_operators_are_refused(network, long_tail, what, memory):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(functional.dropout(x, 0.3, training=True))

    def augmented(model, batch):
        flip = bool(torch.rand(()) < 0.5)
        outputs = model(batch[0].flip(3) if flip else batch[0] + 0.1 * torch.randn(1, dtype=torch.float64))
        return functional.cross_entropy(outputs, batch[1], reduction="none")

    model, loss = (Noisy(), None) if what == "model" else (network(), augmented)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        operator = HessianOperator(model, long_tail(), loss, memory=memory)
        with pytest.raises(RandomOperatorError, match="Augmentation"):
            guard(operator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_of_a_fixed_operator_is_round_off(reference, dtype):
    operator = HessianOperator(copy.deepcopy(reference.model).to(dtype), reference.samples, micro_batch=7)
    noise = guard(operator).noise
    scale = float(torch.linalg.matrix_norm(reference.truth.hessian, 2))
    assert max(noise.repeat, noise.symmetry) < 200 * torch.finfo(dtype).eps
    assert 0 < noise.absolute < 200 * torch.finfo(dtype).eps * scale


def test_weights_may_change_between_products(network, long_tail, dense):
    """The kept graphs belong to the weights (and statistics) that they were made with."""
    model, samples = network(), long_tail()
    operator = HessianOperator(model, samples, micro_batch=10)
    v = vectors(operator.size)
    operator.matvec(v[:, 0])
    with torch.no_grad():
        model.conv.weight.mul_(1.3)
        model.bn.running_mean.add_(0.2)
    truth = dense(model, samples)
    assert relative(operator.matmat(v), truth.hessian @ v) < 1e-12
    model.conv.weight.data = model.conv.weight.data * 0.7
    truth = dense(model, samples)
    assert relative(operator.matmat(v), truth.hessian @ v) < 1e-12


def test_release_frees_the_graphs_and_products_stay_the_same(reference):
    operator = HessianOperator(reference.model, reference.samples, micro_batch=10)
    v = vectors(operator.size)[:, 0]
    first = operator.matvec(v)
    operator.release()
    assert operator._kept is None
    assert torch.equal(operator.matvec(v), first)


def broken(model, change):
    with torch.no_grad():
        change(model)
    return model


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m, s: HessianOperator(m, s, params="head.*"), OperatorError, "no parameter with requires_grad matches 'head"),
        (lambda m, s: HessianOperator(m.requires_grad_(False), s), OperatorError, "there are: none"),
        (lambda m, s: HessianOperator(broken(m, lambda m: m.fc.bias.fill_(np.nan)), s), OperatorError, "'fc.bias' holds NaN"),
        (lambda m, s: HessianOperator(m, s, micro_batch=-1), OperatorError, "micro_batch = -1: at least one sample"),
        (lambda m, s: HessianOperator(broken(m, lambda m: m.fc.float()), s), OperatorError, "different dtype"),
        (
            lambda m, s: HessianOperator(m, s, lambda m, b: (m(b[0]).detach() ** 2).sum(1)).loss_and_gradient(),
            OperatorError,
            "does not depend on the chosen parameters",
        ),
        (
            lambda m, s: HessianOperator(m, s, lambda m, b: (m(b[0]) ** 2)).loss_and_gradient(),
            LossError,
            r"shape \(4, 4\) for 4 samples",
        ),
        (
            lambda m, s: HessianOperator(m, s, lambda m, b: torch.log(m(b[0]).sum(1) * 0)).loss_and_gradient(),
            OperatorError,
            "not finite",
        ),
        (
            lambda m, s: HessianOperator(m, s, lambda m, b: (0 * m(b[0])).sum(1).abs().sqrt()).matvec(torch.ones(175)),
            OperatorError,
            "not finite",
        ),
    ],
)  # fmt: skip
def test_refused(network, long_tail, make, error, message):
    with pytest.raises(error, match=message):
        make(network(), long_tail(counts=(1, 1, 1, 1)))


def test_losses_that_depend_on_their_company_are_refused():
    x, y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    samples = Samples.from_tensors(x, y)
    plain = nn.Sequential(nn.Linear(5, 3))
    weights = torch.tensor([1.0, 2.0, 9.0])
    with pytest.raises(OperatorError, match="weighted mean"):
        HessianOperator(
            plain, samples, lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1], weight=weights)
        )
    HessianOperator(plain, samples, lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]))

    class Training(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(5), nn.Linear(5, 3)

        def forward(self, inputs):
            self.norm.train()
            return self.fc(self.norm(inputs))

    with pytest.raises(OperatorError, match="BatchNorm in train mode"):
        HessianOperator(Training(), samples)


@pytest.mark.parametrize("answer", [None, 0.5, "raise"])
def test_losses_that_return_nothing_useful_are_refused(answer):
    def loss(model, batch):
        if answer == "raise":
            raise KeyError("mask")
        return answer

    samples = Samples.from_tensors(torch.randn(6, 5), torch.arange(6) % 3)
    with pytest.raises(ValueError, match="mask" if answer == "raise" else "as a tensor"):
        HessianOperator(nn.Linear(5, 3), samples, loss)


class Words(nn.Module):
    """A text model with an embedding whose gradient is sparse, and parameters that no loss reaches."""

    def __init__(self, sparse):
        super().__init__()
        self.embedding, self.last, self.unused = nn.Embedding(7, 3, sparse=sparse), nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.embedding(x).mean(1).tanh())


def test_sparse_embeddings_and_unused_parameters_have_the_hessian_of_dense_ones():
    x, y = torch.randint(0, 7, (12, 4), generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2
    torch.manual_seed(0)
    sparse, dense = Words(True).double(), Words(False).double()
    dense.load_state_dict(sparse.state_dict())
    ours, plain = (HessianOperator(model, Samples.from_tensors(x, y)) for model in (sparse, dense))
    v = vectors(plain.size, 1)[:, 0]
    assert torch.equal(ours.matvec(v), plain.matvec(v))
    assert float(plain.matvec(v)[-6:].abs().max()) == 0
    assert sparse.embedding.sparse
    assert not dense.embedding.sparse


def test_a_gradient_that_is_sparse_whatever_one_does_is_refused():
    model = Words(False)
    model.forward = lambda x: model.last(functional.embedding(x, model.embedding.weight, sparse=True).mean(1))
    samples = Samples.from_tensors(torch.randint(0, 7, (12, 4)), torch.arange(12) % 2)
    with pytest.raises(OperatorError, match="give sparse=False"):
        HessianOperator(model, samples, accelerate=False).loss_and_gradient()


def test_attention_is_differentiated_twice_unless_the_model_forbids_it():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project, self.last = nn.Linear(4, 12), nn.Linear(4, 2)

        def forward(self, x):
            q, k, v = self.project(x).unsqueeze(1).chunk(3, dim=-1)
            return self.last(functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))

    samples = Samples.from_tensors(torch.randn(10, 5, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 2)
    operator = HessianOperator(Attention(), samples, accelerate=False)
    assert float(operator.matvec(torch.ones(operator.size)).norm()) > 0

    class Forced(Attention):
        def forward(self, x):
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
                return super().forward(x)

    operator = HessianOperator(Forced(), samples, accelerate=False)
    with pytest.raises(OperatorError, match=r"cannot be differentiated twice.*the math kernel is taken"):
        operator.matvec(torch.ones(operator.size))
