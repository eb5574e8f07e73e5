"""Convexity maps against the eigenvalues of dense float64 Hessians at the moved weights, cell by cell."""

import copy
from dataclasses import asdict

import numpy as np
import pytest
import torch
from saddlescope.analysis.krylov.guards import RandomOperatorError
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.measures.convexity import Convexity
from saddlescope.analysis.measures.directions import Axis, orthogonal_to, random_axis
from saddlescope.analysis.measures.landscape import LandscapeError, slice_loss
from saddlescope.analysis.samples.groups import GroupError, make_scheme
from saddlescope.analysis.samples.samples import Samples
from torch import nn

GRIDS = [[-0.6, 0.0, 0.4], [-0.5, 0.0]]


@pytest.fixture(scope="module")
def scheme(reference):
    return make_scheme("head-tail", reference.samples.class_counts, eta=6)  # 30 head and 7 tail samples


def plane(model):
    parameters = list(model.parameters())
    first = random_axis(parameters, seed=3)
    return [first, orthogonal_to(random_axis(parameters, seed=4), first)]


def moved(model, axes, position):
    """A float64 copy of the model at ``w + x d1 + y d2``."""
    other = copy.deepcopy(model).double()
    direction = sum(x * axis.vector for x, axis in zip(position, axes, strict=True))
    start = 0
    with torch.no_grad():
        for p in other.parameters():
            p.add_(direction[start : start + p.numel()].view_as(p))
            start += p.numel()
    return other


def chosen(samples, classes):
    return samples.subset(np.flatnonzero(np.isin(samples.labels, classes)))


@pytest.fixture(scope="module")
def found(reference, network, scheme):
    """The map at the default settings: float32 weights, the accelerated graph, ragged groups."""
    model = network(torch.float32)
    return model, slice_loss(model, reference.samples, scheme, plane(model), GRIDS, convexity=Convexity())


def test_every_cell_holds_the_ends_of_the_dense_hessian_of_every_group(found, reference, scheme, dense):
    model, piece = found
    axes = plane(model)
    assert set(piece.lambda_min) == set(piece.lambda_max) == {"all", "head", "tail"}
    signs = set()
    for name, classes in scheme.groups.items():
        group = chosen(reference.samples, classes)
        assert np.shape(piece.lambda_min[name]) == np.shape(piece.lambda_max[name]) == (3, 2)
        for i, x in enumerate(GRIDS[0]):
            for j, y in enumerate(GRIDS[1]):
                values = torch.linalg.eigvalsh(dense(moved(model, axes, (x, y)), group).hessian)
                low, high = float(values[0]), float(values[-1])
                room = 1e-2 * max(abs(low), abs(high)) * 1e-2
                assert piece.lambda_min[name][i][j] == pytest.approx(low, rel=1e-2, abs=room)
                assert piece.lambda_max[name][i][j] == pytest.approx(high, rel=1e-2, abs=room)
                signs.add(low < -0.01 * high)
    assert signs == {True}  # else the lower end would not be tested


def test_the_centre_is_the_curvature_of_the_checkpoint(found, reference, scheme):
    model, piece = found
    whole = analyze(model, reference.samples, scheme=scheme)
    for name, group in whole.groups.items():
        assert piece.lambda_min[name][1][1] == pytest.approx(group.lambda_min.value, rel=1e-2)
        assert piece.lambda_max[name][1][1] == pytest.approx(group.lambda_max.value, rel=1e-2)


def test_the_settings_are_kept_with_the_map_and_the_losses_are_those_without_one(found, reference, scheme):
    model, piece = found
    stored = piece.provenance.settings["convexity"]
    assert stored == asdict(Convexity())
    assert Convexity.read({**stored, "groups": ["tail"]}) == Convexity(groups=("tail",))
    older = {field: value for field, value in stored.items() if field != "basis"}
    # The map is the same wherever the vectors were kept.
    assert Convexity.read(older, basis="disk") == Convexity(basis="disk")
    assert Convexity.read(None) is None
    assert Convexity.read({"rtol": 1.0}) is None
    without = slice_loss(model, reference.samples, scheme, plane(model), GRIDS)
    assert without.loss == piece.loss
    assert without.lambda_min == without.lambda_max == {}
    assert "convexity" not in without.provenance.settings


def test_a_convex_loss_has_no_negative_curvature_anywhere():
    generator = torch.Generator().manual_seed(5)
    labels = torch.cat([torch.full((count,), c) for c, count in enumerate((23, 11, 4))])
    samples = Samples.from_tensors(torch.randn(38, 9, generator=generator), labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(9, 3)
    scheme = make_scheme("per-class", samples.class_counts)
    grid = [-3.0, -1.0, 0.0, 2.0]
    piece = slice_loss(model, samples, scheme, plane(model), [grid, grid], convexity=Convexity())
    for name in scheme.groups:
        low, high = (np.array(side[name], dtype=float) for side in (piece.lambda_min, piece.lambda_max))
        assert np.isfinite(low).all()
        assert np.isfinite(high).all()
        assert (high > 0).all()
        assert (low >= -1e-5 * high).all()


def test_what_has_not_converged_is_a_gap_and_never_a_number(reference, scheme):
    settings = Convexity(rtol=1e-6, steps=12)
    piece = slice_loss(
        reference.model, reference.samples, scheme, plane(reference.model), GRIDS, dtype=torch.float64, convexity=settings
    )
    ends = [row for side in (piece.lambda_min, piece.lambda_max) for map_ in side.values() for row in map_]
    assert any(value is None for row in ends for value in row)
    assert piece.loss["all"][0][0] is not None


def test_weights_so_far_out_that_nothing_is_finite_are_a_gap(reference, scheme):
    piece = slice_loss(
        reference.model, reference.samples, scheme, plane(reference.model), [[0.0, 1e30], [0.0]], convexity=Convexity()
    )
    assert piece.lambda_min["tail"][0][0] is not None
    assert piece.lambda_min["tail"][1][0] is None
    assert piece.lambda_max["tail"][1][0] is None


def test_only_the_groups_that_were_asked_for(reference, scheme):
    settings = Convexity(groups=("tail",))
    piece = slice_loss(
        reference.model, reference.samples, scheme, plane(reference.model), [[0.0], [0.0, 0.1]], convexity=settings
    )
    assert set(piece.lambda_min) == set(piece.lambda_max) == {"tail"}
    assert set(piece.loss) == {"all", "head", "tail"}


def test_a_map_over_some_parameters_is_of_their_hessian(reference, scheme, dense):
    model = reference.model
    bias = Axis(torch.eye(4, dtype=torch.float64)[0], "random")
    other = Axis(torch.eye(4, dtype=torch.float64)[1], "random")
    piece = slice_loss(
        model, reference.samples, scheme, [bias, other], [[0.0, 0.8], [0.0]], dtype=torch.float64, params="fc.bias",
        convexity=Convexity(),
    )  # fmt: skip
    shifted = copy.deepcopy(model)
    with torch.no_grad():
        shifted.fc.bias[0] += 0.8
    values = torch.linalg.eigvalsh(dense(shifted, reference.samples, parameters=[shifted.fc.bias]).hessian)
    assert piece.lambda_max["all"][1][0] == pytest.approx(float(values[-1]), rel=1e-6)
    assert piece.lambda_min["all"][1][0] == pytest.approx(float(values[0]), abs=1e-10)


def test_the_model_is_left_alone(reference, scheme):
    before = {name: value.clone() for name, value in reference.model.state_dict().items()}
    slice_loss(reference.model, reference.samples, scheme, plane(reference.model), [[0.3], [0.2]], convexity=Convexity())
    assert all(torch.equal(value, before[name]) for name, value in reference.model.state_dict().items())


def test_what_cannot_be_mapped_is_said(reference, scheme):
    model, samples = reference.model, reference.samples
    with pytest.raises(LandscapeError, match="needs a plane"):
        slice_loss(model, samples, scheme, plane(model)[:1], GRIDS[:1], convexity=Convexity())
    with pytest.raises(GroupError, match="no group few for the convexity map; there are: all, head, tail"):
        slice_loss(model, samples, scheme, plane(model), GRIDS, convexity=Convexity(groups=("few",)))

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(model)

        def forward(self, x):
            return self.model(x + torch.randn_like(x))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with pytest.raises(RandomOperatorError, match="random"):
            slice_loss(Noisy(), samples, scheme, plane(model), GRIDS, convexity=Convexity())
