"""Every choice that changes a number is said, stored, and can be set; one that the numbers contradict is a warning."""

import numpy as np
import pytest
import torch
from PIL import Image
from saddlescope.analysis.checkpoints.user_code import SubjectError, load_samples
from saddlescope.analysis.checkpoints.weights import load_state
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from torch import nn
from torch.nn.functional import cross_entropy

NETS = (
    "from torch import nn\n"
    "def net(num_classes):\n"
    "    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, num_classes))\n"
)
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images of three colours, and a net trained on them as somebody normalised them; averaged weights beside."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    pixels, labels = [], []
    for c, count in enumerate((20, 10, 5)):
        (tmp_path / "images" / f"class{c}").mkdir(parents=True)
        for i in range(count):
            picture = random.integers(0, 160, (4, 4, 3), dtype=np.uint8)
            picture[..., c] += 90
            Image.fromarray(picture).save(tmp_path / "images" / f"class{c}" / f"{i:02}.png")
            pixels.append(picture)
            labels.append(c)
    x = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    y = torch.tensor(labels)
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    average = {f"module.{name}": 0.5 * value for name, value in model.state_dict().items()}
    state = {"epoch": 1, "state_dict": model.state_dict(), "ema": {"n_averaged": torch.tensor(3), **average}}
    torch.save(state, tmp_path / "c.pt")
    (tmp_path / "nets.py").write_text(NETS)
    with torch.no_grad():
        return float(cross_entropy(model(x), y))


GIVEN = ("c.pt", "--model", "nets.py:net", "--data", "images", "--groups", "all", "--steps", "5", "--dtype", "float64")


def test_the_normalisation_of_a_folder_is_said_stored_and_set(folder, run, tmp_path):
    mean, std = (",".join(map(str, row)) for row in (MEAN, STD))
    code, out, err = run("analyze", *GIVEN, "--mean", mean, "--std", std)
    assert code == 0, err
    result = load(CurvatureResult, tmp_path / "curvature" / "c.all.json")
    assert result.groups["all"].loss == pytest.approx(folder, rel=1e-5)
    said = {choice.name: choice for choice in result.provenance.choices}
    assert not said["normalisation"].guessed
    assert f"mean {mean.replace(',', ', ')}" in said["normalisation"].value
    assert not result.warnings
    words = " ".join(out.split())  # the terminal breaks lines
    assert "accuracy" in words
    assert "100 %" in words
    code, _, err = run("verify", tmp_path / "curvature" / "c.all.json", *GIVEN[1:5])  # the flags are stored
    assert code == 0, err

    code, out, _ = run("analyze", *GIVEN, "--out", "guessed")
    guessed = load(CurvatureResult, tmp_path / "guessed" / "c.all.json").provenance.choices
    for choice in guessed:
        assert str(choice) in " ".join(out.split())
    assert {choice.name: choice.guessed for choice in guessed} == {
        "normalisation": True, "image size": True, "weights": True
    }  # fmt: skip
    x = load_samples("images", {}).batch[0]
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    scaled = load_samples("images", {"normalise": "imagenet", "size": 8}).batch[0]
    assert scaled.shape[2:] == (8, 8)


def test_a_guess_that_the_numbers_contradict_is_a_warning(folder, run, tmp_path):
    _code, out, _ = run("analyze", *GIVEN, "--mean", "25", "--std", "0.01")
    result = load(CurvatureResult, tmp_path / "curvature" / "c.all.json")
    assert result.groups["all"].loss > np.log(3)
    (warning,) = result.warnings
    assert "is above ln 3 = 1.1" in warning
    assert "of chance" in warning
    assert "weights: 'state_dict' of the file, not ema" in warning
    assert "normalisation" not in warning.split("Taken without being told")[1]
    assert "warning: On all training data" in " ".join(out.split())


def test_a_folder_of_splits_is_not_a_folder_of_classes(folder, run, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "images").rename(tmp_path / "set" / "train")
    (tmp_path / "set" / "val" / "class0").mkdir(parents=True)
    code, _, err = run("analyze", *GIVEN, "--data", "set")
    assert code == 2
    assert "not classes: give --data set/train" in err
    assert run("analyze", *GIVEN, "--data", "set/train")[0] == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--mean", "0.5"), "--mean and --std go together"),
        (("--normalise", "cifar"), "known: none, imagenet, half"),
        (("--normalise", "half", "--mean", "1", "--std", "1"), "exclude each other"),
        (("--mean", "a", "--std", "1"), "--mean a: write one number"),
        (("--mean", "1,2", "--std", "1"), "2 numbers; give one"),
        (("--mean", "1", "--std", "0"), "must be positive"),
        (("--data", "nets.py:net", "--normalise", "half"), "are for --data FOLDER of images"),
    ],
)
def test_flags_of_a_folder_that_mean_nothing_are_refused(folder, run, flags, said):
    code, _, err = run("analyze", *GIVEN, *flags)
    assert code == 2
    assert said in err


def test_another_key_is_another_result(folder, run, tmp_path):
    mean, std = (",".join(map(str, row)) for row in (MEAN, STD))
    for flags in ((), ("--key", "ema"), ("--key", "state_dict")):
        assert run("analyze", *GIVEN, "--mean", mean, "--std", std, *flags)[0] == 0
    results = {path.name: load(CurvatureResult, path) for path in (tmp_path / "curvature").glob("*.json")}
    assert sorted(results) == ["c.all.json", "c.ema.all.json", "c.state_dict.all.json"]
    loss = {name: result.groups["all"].loss for name, result in results.items()}
    assert loss["c.all.json"] == loss["c.state_dict.all.json"] == pytest.approx(folder, rel=1e-5)
    assert loss["c.ema.all.json"] > 2 * folder
    told = [c for c in results["c.ema.all.json"].provenance.choices if c.name == "weights"]
    assert "'ema' of the file, not state_dict" in told[0].value
    assert not told[0].guessed


def test_states_in_a_file_are_counted_by_their_shapes(tmp_path):
    model, other = net(), nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "centres": other.state_dict()}
    torch.save(content, tmp_path / "one.pt")
    assert load_state(tmp_path / "one.pt").others == []
    torch.save({"outer": {"net": model.state_dict()}, "swa": net().state_dict()}, tmp_path / "two.pt")
    found = load_state(tmp_path / "two.pt", key="outer/net")
    assert (found.key, found.others) == ("outer/net", ["swa"])
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    assert (load_state(tmp_path / "bare.pt").key, load_state(tmp_path / "bare.pt").others) == (None, [])


def test_a_saddle_says_how_high_it_lies():
    from saddlescope.analysis.measures.verdict import verdict
    from saddlescope.analysis.records.spectra import Extreme

    low, high = (
        Extreme(value=v, residual=0, interval=(v, v), confidence=0.999, residual_interval=(v, v), converged=True, noise=0)
        for v in (-3000.0, 4000.0)
    )
    answer = verdict(low, high, 25, 10, loss=1.5)
    assert answer.label == "saddle"
    assert "loss 1.5, gradient norm 25" in answer.sentence


def test_damaged_images_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"no image")
    with pytest.raises((SubjectError, ValueError), match=r"x\.png cannot be read as an image"):
        load_samples(str(tmp_path), {})
