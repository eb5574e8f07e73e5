"""Models by the names that torchvision and timm give them, and exported programs."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from saddlescope.analysis.checkpoints import user_models
from saddlescope.analysis.checkpoints.analysis_inputs import open_checkpoint
from saddlescope.analysis.checkpoints.checkpoint_flags import Given
from saddlescope.analysis.checkpoints.user_code import SubjectError
from saddlescope.analysis.checkpoints.user_models import build_model
from saddlescope.analysis.checkpoints.weights import CheckpointError
from saddlescope.analysis.hessian.modules import copied
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.samples.samples import Samples
from torch import nn

#: torch's own, when it copies or reads an exported program
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")


class Net(nn.Module):
    """Everything that an exported graph may hold wrongly: statistics, dropout, and a reshape."""

    def __init__(self, fixed=False):
        super().__init__()
        self.conv, self.norm, self.drop, self.last = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(48, 3)
        self.fixed = fixed

    def forward(self, x):
        features = self.norm(self.conv(x)).relu()
        return self.last(self.drop(features.reshape(x.shape[0], -1)) if self.fixed else self.drop(features.flatten(1)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    model(torch.randn(32, 1, 6, 6))
    return model.eval()


@pytest.fixture
def samples():
    labels = np.repeat([0, 1, 2], [20, 9, 4])
    inputs = torch.randn(33, 1, 6, 6, generator=torch.Generator().manual_seed(1)) + torch.tensor(labels)[:, None, None, None]
    return Samples.from_tensors(inputs, torch.tensor(labels))


def save(model, path, size=4, **options):
    torch.export.save(torch.export.export(model, (torch.randn(size, 1, 6, 6),), **options), path)
    return str(path)


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_exported_program_gives_the_numbers_of_its_module(net, samples, tmp_path, dynamic):
    options = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if dynamic else {}
    program = build_model(save(net, tmp_path / "net.pt2", **options), {})
    assert set(program.state_dict()) == set(net.state_dict())
    settings = AnalysisSettings(eta=10, dtype="float64", steps=60)
    ours, plain = (analyze(model, samples, settings=settings) for model in (program, net))
    for name, group in plain.groups.items():
        assert ours.groups[name].lambda_min.value == pytest.approx(group.lambda_min.value, rel=1e-9)
        assert ours.groups[name].lambda_max.value == pytest.approx(group.lambda_max.value, rel=1e-9)


def test_an_exported_program_is_its_own_checkpoint(net, samples, tmp_path):
    file = tmp_path / "net.pt2"
    save(net, file)
    np.savez(tmp_path / "data.npz", inputs=samples.batch[0].numpy(), labels=samples.labels)
    given = Given(model=str(file), data=str(tmp_path / "data.npz"))
    state = open_checkpoint(file, given).model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    with pytest.raises(CheckpointError, match=r"name it as the model as well, --model .*net.pt2"):
        open_checkpoint(file, Given(model="resnet8-cifar", data=given.data))


def test_a_program_with_its_batch_size_in_a_reshape_is_refused(tmp_path):
    with pytest.raises(SubjectError, match=r"batches of 4 samples only.*dynamic_shapes"):
        build_model(save(Net(fixed=True).eval(), tmp_path / "net.pt2"), {})


@pytest.mark.parametrize("part", ["norm", "drop"])
def test_a_program_exported_in_train_mode_is_refused(net, tmp_path, part):
    getattr(net, part).train()
    with pytest.raises(SubjectError, match=r"exported in train mode .*call model.eval\(\)"):
        build_model(save(net, tmp_path / "net.pt2"), {})


def test_files_that_are_no_programs(tmp_path):
    with pytest.raises(SubjectError, match="no such file"):
        build_model(str(tmp_path / "none.pt2"), {})
    (tmp_path / "cut.pt2").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(SubjectError, match=r"no complete program of torch.export.save"):
        build_model(str(tmp_path / "cut.pt2"), {})
    torch.save({"a": torch.ones(1)}, tmp_path / "state.pt2")
    with pytest.raises(SubjectError, match="cannot be read as an exported program"):
        build_model(str(tmp_path / "state.pt2"), {})


def test_copies_of_programs_say_nothing(net, tmp_path):
    program = build_model(save(net, tmp_path / "net.pt2"), {})
    x = torch.randn(7, 1, 6, 6)
    assert torch.equal(copied(program)(x), program(x))


@pytest.fixture
def zoo(monkeypatch):
    """A package that is called like torchvision and behaves like it, so that the names are tried where it is not installed."""
    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    package.models, package.__path__ = models, []
    package.__spec__ = models.__spec__ = type("Spec", (), {"name": "torchvision"})()
    models.list_models = lambda: ["resnet18", "resnet34", "vgg11"]
    models.resnet18 = lambda **options: nn.Linear(5, options.get("num_classes", 1000))
    models.get_model = lambda name, **options: getattr(models, name)(**options)
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


@pytest.mark.usefixtures("zoo")
def test_names_of_a_collection_get_the_classes_of_the_data():
    assert build_model("torchvision:resnet18", {}, 7).out_features == 7
    assert build_model("torchvision:resnet18", {"num_classes": 4}, 7).out_features == 4
    assert build_model("torchvision.models:resnet18", {}, 7).out_features == 1000  # any function: called as it was asked to be
    with pytest.raises(SubjectError, match=r"no model 'resnet19'; did you mean resnet18"):
        build_model("torchvision:resnet19", {}, 7)


def test_a_collection_that_is_not_installed_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setattr(user_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SubjectError, match=r"timm is not installed here; pip install timm"):
        build_model("timm:resnet18", {}, 7)


@pytest.mark.parametrize(("package", "name"), [("torchvision", "resnet18"), ("timm", "resnet10t"), ("timm", "test_vit")])
def test_models_of_the_real_collections(package, name, samples, tmp_path):
    pytest.importorskip(package, exc_type=Exception)  # built for another torch, it cannot be imported either
    model = build_model(f"{package}:{name}", {}, 10)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    side = 160 if name == "test_vit" else 32
    np.savez(tmp_path / "data.npz", inputs=torch.randn(12, 3, side, side), labels=np.repeat(np.arange(10), [3] + [1] * 9))
    given = Given(model=f"{package}:{name}", data=str(tmp_path / "data.npz"))
    subject = open_checkpoint(Path(tmp_path / "model.pt"), given)
    settings = AnalysisSettings(eta=2, steps=2, min_steps=2, escape=False)
    result = analyze(subject.model, subject.samples, settings=settings)
    assert result.groups["all"].size == 12
