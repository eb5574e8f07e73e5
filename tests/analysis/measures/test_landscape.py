"""Slices against losses evaluated by hand at the moved weights, and directions against their definitions."""

import copy

import numpy as np
import pytest
import torch
from saddlescope.analysis.measures.directions import (
    Axis,
    DirectionError,
    eigen_axis,
    orthogonal_to,
    path_axes,
    project,
    random_axis,
)
from saddlescope.analysis.measures.landscape import LandscapeError, flat_weights, slice_loss
from saddlescope.analysis.samples.groups import make_scheme
from torch.nn import functional


def losses_by_hand(model, samples, classes, direction, s):
    """Mean loss of a group at ``w + s d``, one sample at a time."""
    moved = copy.deepcopy(model).double().eval()
    start = 0
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(s * direction[start : start + p.numel()].view_as(p))
            start += p.numel()
        inputs, targets = samples.batch
        chosen = [i for i, t in enumerate(targets.tolist()) if t in classes]
        rows = [functional.cross_entropy(moved(inputs[i][None].double()), targets[i][None]) for i in chosen]
    return float(torch.stack(rows).mean())


@pytest.fixture
def scheme(reference):
    return make_scheme("head-tail", reference.samples.class_counts, eta=6)


def test_a_line_holds_the_losses_at_the_moved_weights(reference, scheme):
    axis = random_axis(list(reference.model.parameters()), seed=3)
    grid = [-0.7, -0.2, 0.0, 0.5]
    found = slice_loss(reference.model, reference.samples, scheme, [axis], [grid], dtype=torch.float64)
    for name, classes in scheme.groups.items():
        wanted = [losses_by_hand(reference.model, reference.samples, classes, axis.vector, s) for s in grid]
        assert found.loss[name] == pytest.approx(wanted, rel=1e-10)


def test_a_plane_is_indexed_first_axis_first(reference, scheme):
    first = random_axis(list(reference.model.parameters()), seed=3)
    second = orthogonal_to(random_axis(list(reference.model.parameters()), seed=4), first)
    grids = [[-0.5, 0.0, 0.5], [0.0, 0.3]]
    found = slice_loss(reference.model, reference.samples, scheme, [first, second], grids, dtype=torch.float64)
    corner = 0.5 * first.vector + 0.3 * second.vector
    assert np.shape(found.loss["tail"]) == (3, 2)
    wanted = losses_by_hand(reference.model, reference.samples, scheme.groups["tail"], corner, 1.0)
    assert found.loss["tail"][2][1] == pytest.approx(wanted, rel=1e-10)


def test_slope_and_curvature_at_the_centre_are_the_dense_ones(reference, scheme):
    axis = random_axis(list(reference.model.parameters()), seed=3)
    (direction,) = slice_loss(reference.model, reference.samples, scheme, [axis], [[0.0]]).directions
    truth = reference.truth
    assert direction.slope["all"] == pytest.approx(float(truth.gradient @ axis.vector), rel=1e-8)
    assert direction.curvature["all"] == pytest.approx(float(axis.vector @ truth.hessian @ axis.vector), rel=1e-8)


def test_groups_add_up_to_all(reference, scheme):
    axis = random_axis(list(reference.model.parameters()), seed=3)
    found = slice_loss(reference.model, reference.samples, scheme, [axis], [[-1.0, 0.4]])
    for i in range(2):
        total = sum(scheme.sizes[g] * found.loss[g][i] for g in ("head", "tail"))
        assert total == pytest.approx(scheme.sizes["all"] * found.loss["all"][i], rel=1e-5)


def test_the_model_is_left_alone(reference, scheme):
    before = {name: value.clone() for name, value in reference.model.state_dict().items()}
    slice_loss(reference.model, reference.samples, scheme, [random_axis(list(reference.model.parameters()), 0)], [[1.0]])
    assert all(torch.equal(value, before[name]) for name, value in reference.model.state_dict().items())


def test_a_loss_that_is_a_batch_mean_is_averaged_within_the_group(reference, scheme):
    axis = random_axis(list(reference.model.parameters()), seed=3)
    grid = [[0.0, 0.2]]
    plain = slice_loss(reference.model, reference.samples, scheme, [axis], grid)
    scalar = slice_loss(
        reference.model,
        reference.samples,
        scheme,
        [axis],
        grid,
        loss=lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
    )
    for name in scheme.groups:
        assert scalar.loss[name] == pytest.approx(plain.loss[name], rel=1e-5)


def test_overflow_is_a_gap_not_a_number(reference, scheme):
    axis = random_axis(list(reference.model.parameters()), seed=3)
    assert slice_loss(reference.model, reference.samples, scheme, [axis], [[0.0, 1e30]]).loss["all"][1] is None


def test_filters_of_a_random_direction_have_the_norms_of_the_weights(reference):
    parameters = list(reference.model.parameters())
    axis = random_axis(parameters, seed=7)
    start = 0
    for p in parameters:
        part = axis.vector[start : start + p.numel()].view_as(p)
        start += p.numel()
        if p.dim() == 1:
            assert not part.any()  # biases and BatchNorm
            continue
        for drawn, weights in zip(part, p, strict=True):
            assert float(drawn.norm()) == pytest.approx(float(weights.detach().norm()), rel=1e-12)


def test_path_axes_span_a_planar_path_exactly():
    generator = torch.Generator().manual_seed(0)
    centre, a, b = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    points = [centre + x * a + y * b for x, y in ((3, 1), (2, -1), (0.5, 0.2), (1, 1))]
    axes = path_axes(centre, points)
    coordinates, distances = project([*points, centre], centre, axes)
    assert max(distances) < 1e-10
    assert coordinates[-1] == [0, 0]
    assert sum(axis.explained_variance for axis in axes) == pytest.approx(1)
    for row, point in zip(coordinates, points, strict=False):
        again = centre + sum(x * axis.vector for x, axis in zip(row, axes, strict=True))
        assert torch.allclose(again, point)


def test_distance_from_the_plane_is_what_the_plane_misses():
    centre = torch.zeros(3, dtype=torch.float64)
    axes = [Axis(torch.tensor([2.0, 0, 0]).double(), "pca"), Axis(torch.tensor([0, 1.0, 0]).double(), "pca")]
    coordinates, distances = project([torch.tensor([4.0, 5.0, 7.0]).double()], centre, axes)
    assert coordinates == [[2.0, 5.0]]
    assert distances == [7.0]


def test_what_cannot_be_sliced_is_said(reference, scheme):
    with pytest.raises(DirectionError, match="two checkpoints or more"):
        path_axes(torch.zeros(3), [torch.ones(3)])
    with pytest.raises(DirectionError, match="no eigenvector 'tail/min'"):
        eigen_axis({"head/min": torch.ones(3)}, "tail", "min")
    axis = Axis(torch.ones(3, dtype=torch.float64), "random")
    with pytest.raises(LandscapeError, match="3 entries"):
        slice_loss(reference.model, reference.samples, scheme, [axis], [[0.0]])
    with pytest.raises(LandscapeError, match="one or two axes"):
        slice_loss(reference.model, reference.samples, scheme, [], [])


def test_flat_weights_follow_the_parameters(reference):
    flat = torch.cat([p.detach().reshape(-1) for p in reference.model.parameters()])
    assert torch.equal(flat_weights(reference.model), flat.double())
