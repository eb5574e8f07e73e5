"""Whoever comes to a Hessian by another way than ``analyze`` has it held against differences, too."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from saddlescope.analysis.augmentation.control import measure_control
from saddlescope.analysis.hessian.differences import AnotherFunctionError
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures.convexity import Convexity
from saddlescope.analysis.measures.directions import orthogonal_to, random_axis
from saddlescope.analysis.measures.extremes import measure_ends
from saddlescope.analysis.measures.landscape import slice_loss
from saddlescope.analysis.samples.groups import make_scheme
from torch import nn

from saddlescope import Monitor, Samples

_spec = importlib.util.spec_from_file_location("planted", Path(__file__).parents[2] / "benchmarks" / "planted.py")
planted = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(planted)
X, Y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def fused():
    """A model with a symmetric part of its Hessian missing."""
    torch.manual_seed(0)
    return planted.Net(nn.Linear(5, 8), 8, torch.tanh, planted.SavedDerivative.apply).double()


def plane(model):
    parameters = list(model.parameters())
    first = random_axis(parameters, seed=3)
    return [first, orthogonal_to(random_axis(parameters, seed=4), first)]


SAMPLES = Samples.from_tensors(X, Y)
SCHEME = make_scheme("all", SAMPLES.class_counts)
ENTRANCES = {
    "spectrum": lambda model: measure_spectrum(HessianOperator(model, SAMPLES)),
    "ends": lambda model: measure_ends(HessianOperator(model, SAMPLES)),
    "spectrum in float32": lambda model: measure_spectrum(HessianOperator(model.float(), SAMPLES)),
    "slice": lambda model: slice_loss(model, SAMPLES, SCHEME, plane(model)[:1], [[-0.1, 0.0, 0.1]]),
    "convexity": lambda model: slice_loss(model, SAMPLES, SCHEME, plane(model), [[0.0], [0.0]], convexity=Convexity()),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_every_entrance_looks(entrance):
    ENTRANCES[entrance](plain().double())
    with pytest.raises(AnotherFunctionError, match="'SavedDerivative'"):
        ENTRANCES[entrance](fused())


def test_the_augmentation_control_says_what_is_wrong_with_data_that_stand_still():
    entries = measure_control(fused(), X.double(), Y, [0], lambda x, generator: x, num_classes=3, steps=3)
    assert ["SavedDerivative" in (entry.refusal or "") for entry in entries if entry.data != "redrawn"] == [True, True]


def test_the_monitor_says_it_and_training_goes_on(tmp_path, caplog):
    monitor = Monitor((X, Y), every=1, at_most=None, folder=tmp_path, products="exact")
    numbers = monitor(fused().float(), 1)
    assert math.isnan(numbers["curvature/all/lambda_min"])
    assert "'SavedDerivative'" in caplog.text
