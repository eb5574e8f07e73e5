"""An own network that is edited after it was trained: what is trained is kept, and that is said."""

import pytest
from saddlescope.training.runs.progress import train_with_progress

NETWORK = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), {layer})
"""


def network(layer):
    return NETWORK.format(layer=layer)


@pytest.fixture
def train(recipe, tmp_path, capsys):
    """Trains the tiny study with the network of ``net.py``; what was said of it."""

    def run(**changes):
        name = f"{tmp_path / 'net.py'}:build"
        own = recipe(model={"name": name, "args": {}}, training={"epochs": 1}, optimizers={"sgd": {}}, **changes)
        folders = train_with_progress(own, tmp_path / "tiny", jobs=1)
        return folders[0], " ".join(capsys.readouterr().err.split())

    return run


def test_an_edited_file_is_named(train, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(network("nn.Linear(16, num_classes)"))
    folder, said = train()
    weights = (folder / "checkpoint.pt").read_bytes()
    assert said == ""
    assert train()[1] == ""
    file.write_text(network("nn.Sequential(nn.Linear(16, 8), nn.Linear(8, num_classes))"))
    again, said = train()
    assert again == folder
    assert f"the file of [model] has changed since {folder.name} began" in said
    assert (folder / "checkpoint.pt").read_bytes() == weights


def test_a_run_that_stored_nothing_is_begun_anew(train, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(network("nn.Linear(16, num_classes)"))
    folder, _ = train()
    for path in folder.glob("checkpoint.*"):
        path.unlink()
    file.write_text(network("nn.Linear(16, num_classes, bias=False)"))
    assert [train()[1], train()[1]] == ["", ""]
