"""Stages, saved state, settings from a recipe, and bad input."""

import io
import json

import numpy as np
import pytest
import torch
from saddlescope.training.optimizers.registry import (
    CCSAM,
    OPTIMIZERS,
    SAM,
    SSESAM,
    FocalSAM,
    ImbSAM,
    OptimizerError,
    build_optimizer,
)
from torch import nn

COUNTS = [60, 40, 9, 5]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))


def sgd(model, **kw):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **kw)


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def batch(seed=0, n=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator), torch.randint(0, 4, (n,), generator=generator)


@pytest.mark.parametrize(
    ("gamma", "epochs", "switch"),
    [(0.7, 200, 140), (0, 10, 0), (1, 10, 10), (0.07, 100, 7), (0.29, 100, 29), (0.5, 5, 3), (1e-3, 10, 1), (0.1, 3, 1)],
)
def test_stage_one_is_the_epochs_below_gamma_times_the_training(gamma, epochs, switch):
    optimizer = SSESAM(sgd(net()), COUNTS, eta=10, epochs=epochs, gamma=gamma)
    assert optimizer.stage_switch_epoch == switch
    for epoch in range(epochs):
        optimizer.set_epoch(epoch)
        assert optimizer.stage == (1 if epoch < switch else 2)
        assert optimizer.radii() == ((0.05, 0.1) if epoch < switch else (0.0, 0.1))


def test_sse_sam_without_an_epoch_says_what_to_call():
    model = net()
    optimizer = SSESAM(sgd(model), COUNTS, eta=10, epochs=3)
    with pytest.raises(OptimizerError, match="set_epoch"):
        optimizer.step(model, cross_entropy, batch())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_and_loaded_it_continues_to_the_same_digits(name):
    def start(seed):
        model = net(seed)
        settings = {"mixup_alpha": 1.0, "generator": np.random.default_rng(5 + seed)} if name == "ccsam" else {}
        return model, build_optimizer(name, sgd(model), class_counts=COUNTS, epochs=4, eta=10, settings=settings)

    model, optimizer = start(0)
    optimizer.set_epoch(1)
    for seed in range(2):
        optimizer.step(model, cross_entropy, batch(seed))
    stored = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, stored)
    resumed, other = start(1)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    resumed.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    assert other.epoch == 1
    for seed in (2, 3):
        optimizer.step(model, cross_entropy, batch(seed))
        other.step(resumed, cross_entropy, batch(seed))
    for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_another_method_or_other_settings_is_refused():
    saved = SSESAM(sgd(net()), COUNTS, eta=10, epochs=4).state_dict()
    with pytest.raises(OptimizerError, match=r"'ssesam'.*'sam'"):
        SAM(sgd(net())).load_state_dict(saved)
    with pytest.raises(OptimizerError, match=r"rho_tail was 0.1, is 0.2"):
        SSESAM(sgd(net()), COUNTS, eta=10, epochs=4, rho_tail=0.2).load_state_dict(saved)
    scaled = SAM(sgd(net()), scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(OptimizerError, match="scaler"):
        scaled.load_state_dict(SAM(sgd(net())).state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_can_be_written_to_a_record_and_build_the_same(name):
    model = net()
    settings = build_optimizer(name, sgd(model), class_counts=COUNTS, epochs=4, eta=10).settings
    own = {k: v for k, v in json.loads(json.dumps(settings)).items() if k not in ("class_counts", "epochs")}
    again = build_optimizer(name, sgd(model), class_counts=COUNTS, epochs=4, settings=own)
    assert again.settings == settings


def test_eta_among_the_settings_of_one_optimizer_wins():
    optimizer = build_optimizer("imbsam", sgd(net()), class_counts=COUNTS, epochs=4, eta=10, settings={"eta": 50})
    assert optimizer.settings["eta"] == 50


BAD = [
    (lambda b: SAM(b, rho=-0.1), r"rho .* >= 0, got -0.1"),
    (lambda b: SAM(b, rho=float("nan")), "rho"),
    (lambda b: SAM(b, rho=float("inf")), "rho"),
    (lambda b: SAM(b, rho="0.1"), "rho"),
    (lambda b: SAM(b, max_norm=0), "max_norm"),
    (lambda b: SAM(b, autocast=torch.float16), "GradScaler"),
    (lambda b: ImbSAM(b, COUNTS, eta=10, rho=-1), "rho"),
    (lambda b: ImbSAM(b, COUNTS, eta=10, normalisation="mean"), "batch, batch-x2, group"),
    (lambda b: ImbSAM(b, COUNTS, eta=5), r"tail \(count < eta\).*\[60, 40, 9, 5\].*above 5 and at most 60"),
    (lambda b: ImbSAM(b, COUNTS, eta=61), r"head \(count >= eta\).*\[60, 40, 9, 5\]"),
    (lambda b: ImbSAM(b, [7, 7], eta=7), "one size"),
    (lambda b: ImbSAM(b, [7, 0], eta=5), "tail"),
    (lambda b: ImbSAM(b, COUNTS, eta=float("nan")), "eta"),
    (lambda b: ImbSAM(b, [7, 2.5], eta=5), "whole and not negative"),
    (lambda b: ImbSAM(b, [], eta=5), "whole and not negative"),
    (lambda b: ImbSAM(b, [5, -1], eta=5), "whole and not negative"),
    (lambda b: SSESAM(b, COUNTS, eta=10, epochs=4, gamma=1.01), r"gamma .*\[0, 1\], got 1.01"),
    (lambda b: SSESAM(b, COUNTS, eta=10, epochs=4, gamma=-0.1), "gamma"),
    (lambda b: SSESAM(b, COUNTS, eta=10, epochs=0), "epochs"),
    (lambda b: SSESAM(b, COUNTS, eta=10, epochs=4, rho_head=-1), "rho_head"),
    (lambda b: SSESAM(b, COUNTS, eta=10, epochs=4, rho_tail=-1), "rho_tail"),
    (lambda b: FocalSAM(b, COUNTS, strength=1.5), "strength"),
    (lambda b: FocalSAM(b, COUNTS, focus=-1), "focus"),
    (lambda b: FocalSAM(b, [0, 0]), "all zero"),
    (lambda b: CCSAM(b, [5, 1]), "class 1 has 1"),
    (lambda b: CCSAM(b, COUNTS, flat_ratio=2), "flat_ratio"),
    (lambda b: CCSAM(b, COUNTS, noise_ratio=-1), "noise_ratio"),
    (lambda b: CCSAM(b, COUNTS, mixup_alpha=1.0), "generator"),
    (lambda b: SAM(b).set_epoch(-1), "epochs count from 0"),
    (lambda b: build_optimizer("sse", b, class_counts=COUNTS, epochs=4), "unknown optimizer 'sse'.*ssesam"),
    (lambda b: build_optimizer("sam", b, class_counts=COUNTS, epochs=4, settings={"rho_head": 1}), "rho_head.*takes: rho"),
    (lambda b: build_optimizer("sam", b, class_counts=COUNTS, epochs=4, settings={"epochs": 1}), "epochs"),
    (lambda b: build_optimizer("imbsam", b, class_counts=COUNTS, epochs=4), "needs eta"),
]


@pytest.mark.parametrize(("build", "message"), BAD)
def test_bad_settings_are_named(build, message):
    with pytest.raises(OptimizerError, match=message):
        build(sgd(net()))


@pytest.mark.parametrize("label", [4, -1])
@pytest.mark.parametrize("name", ["imbsam", "ssesam", "ccsam", "focalsam"])
def test_labels_out_of_range_are_named_before_anything_moves(name, label):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = build_optimizer(name, sgd(model), class_counts=COUNTS, epochs=4, eta=10)
    optimizer.set_epoch(0)
    x, y = batch()
    y[3] = label
    with pytest.raises(OptimizerError, match=rf"0 \.\. 3.*{label}"):
        optimizer.step(model, cross_entropy, (x, y))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_bad_steps_are_named():
    model = net()
    optimizer = SAM(sgd(model))
    x, y = batch()
    with pytest.raises(OptimizerError, match="one loss per sample"):
        optimizer.step(model, nn.CrossEntropyLoss(), (x, y))
    with pytest.raises(OptimizerError, match="n > 0"):
        optimizer.step(model, cross_entropy, (x[:0], y[:0]))
    with pytest.raises(OptimizerError, match="n > 0"):
        optimizer.step(model, cross_entropy, (x, y[:5]))
    with pytest.raises(OptimizerError, match="no trainable parameter"):
        optimizer.step(net(1), cross_entropy, (x, y))
    model.requires_grad_(False)
    with pytest.raises(OptimizerError, match="frozen"):
        optimizer.step(model, cross_entropy, (x, y))


class Scaled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def test_cc_sam_refuses_a_classifier_that_does_not_make_the_logits():
    model = Scaled(nn.Linear(3, 4))
    with pytest.raises(OptimizerError, match=r"the last module.*classifier="):
        CCSAM(sgd(model), COUNTS).step(model, cross_entropy, batch())
    with pytest.raises(OptimizerError, match=r"'head'.*0, 1, 2, 3"):
        CCSAM(sgd(net()), COUNTS, classifier="head").step(net(), cross_entropy, batch())
    model = net()
    model[3].requires_grad_(False)
    with pytest.raises(OptimizerError, match="all frozen"):
        CCSAM(sgd(model), COUNTS).step(model, cross_entropy, batch())


def test_cc_sam_mixup_follows_its_generator():
    """Same generator, same step; the loss at w is the mixture of the two labels' losses on the mixed samples."""
    x, y = batch()
    results = []
    for seed in (1, 1, 2):
        model = net()
        loss = (
            CCSAM(sgd(model), COUNTS, mixup_alpha=1.0, generator=np.random.default_rng(seed))
            .step(model, cross_entropy, (x, y))
            .loss
        )
        results.append(float(loss))
    assert results[0] == results[1] != results[2]
    rng = np.random.default_rng(1)
    share = float(rng.beta(1.0, 1.0))
    order = torch.from_numpy(rng.permutation(len(y)))
    logits = net()(share * x + (1 - share) * x[order])
    expected = share * cross_entropy(logits, y) + (1 - share) * cross_entropy(logits, y[order])
    assert results[0] == pytest.approx(float(expected.mean().detach()), rel=1e-6)


def test_unfreezing_between_steps_is_seen():
    model = net()
    model[0].requires_grad_(False)
    optimizer = SAM(sgd(model))
    frozen = model[0].weight.clone()
    optimizer.step(model, cross_entropy, batch())
    assert torch.equal(model[0].weight, frozen)
    model[0].requires_grad_(True)
    optimizer.step(model, cross_entropy, batch())
    assert not torch.equal(model[0].weight, frozen)
    moved = model[0].weight.detach().clone()
    model[0].requires_grad_(False)  # its stale gradient must not move it, nor momentum or weight decay
    optimizer.step(model, cross_entropy, batch())
    assert torch.equal(model[0].weight, moved)


def test_schedulers_act_on_the_base():
    model = net()
    optimizer = SAM(sgd(model))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.base, step_size=1, gamma=0.5)
    optimizer.step(model, cross_entropy, batch())
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("make", [SAM, lambda base, **common: ImbSAM(base, [9, 2], eta=5, **common)])
def test_a_misspelt_keyword_is_no_keyword(make):
    """Clipping that is silently off is a wrong training."""
    base = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    with pytest.raises(TypeError, match="max_nrom"):
        make(base, max_nrom=1.0)


@pytest.mark.parametrize(
    ("rule", "setting"), [("eigensam", "every"), ("eigensam", "iterations"), ("pgd", "wait"), ("lpfsgd", "parts")]
)
def test_whole_settings_are_not_cut(rule, setting):
    with pytest.raises(OptimizerError, match=rf"{setting} .* must be a whole number, got 2\.5"):
        build_optimizer(rule, sgd(net()), class_counts=COUNTS, epochs=4, eta=10, settings={setting: 2.5})
    build_optimizer(rule, sgd(net()), class_counts=COUNTS, epochs=4, eta=10, settings={setting: 2})
