"""Photos named by lists: their pixels by hand, their draws, every bad list, and training on them.

Above 300 lines: from a pixel to a trained run, all on the same small sets of photos, which are written here.
"""

import hashlib
import json
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from saddlescope.training.data import photos as photos_module
from saddlescope.training.data.datasets import analysis_set, evaluation_set, load_data
from saddlescope.training.data.image_lists import read_list
from saddlescope.training.data.images import Images
from saddlescope.training.data.photos import AREA, RATIO, centre, random_crop
from saddlescope.training.data.sources import DataError
from saddlescope.training.runs.accuracy import class_groups, measure_accuracy
from saddlescope.training.runs.loop import train_run
from saddlescope.training.runs.recipe import RecipeError, load_recipe, parse_recipe
from saddlescope.training.runs.run import runs
from saddlescope.training.runs.session import Session
from saddlescope.training.runs.study import train_study

MODES = ("RGB", "L", "RGBA", "CMYK", "P")


@pytest.fixture(autouse=True)
def own_places(monkeypatch):
    monkeypatch.setattr("saddlescope.training.data.sources.USUAL_PLACES", ())
    monkeypatch.delenv("SADDLESCOPE_DATA", raising=False)


def write_photos(folder, counts=(12, 7, 4), *, part="train", seed=0):
    """Ragged photos of every mode; class k is brighter than class k - 1. Returns the lines of their list."""
    random = np.random.default_rng([seed, len(part)])
    lines = []
    for label, count in enumerate(counts):
        for number in range(count):
            mode = MODES[(number + label) % len(MODES)]
            width, height = random.integers(9, 40, 2).tolist()
            pixels = random.integers(0, 120, (height, width, 3)) + 60 * label
            picture = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
            name = f"{part}/c{label}/{number} {mode}.{'tif' if mode == 'CMYK' else 'png'}"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(folder / name)
            lines.append(f"{name} {label}")
    return lines


def write_set(root, folder="", **changes):
    """Photos and both lists under ``root``."""
    train, test = write_photos(root / folder), write_photos(root / folder, (3, 3, 3), part="test")
    for name, lines in ({"train.txt": train, "test.txt": test} | changes).items():
        (root / name).write_text("\n".join(lines) + "\n")
    return train, test


def load(root, **more):
    return load_data("image-list", train_list="train.txt", test_list="test.txt", image_size=8, root=root, **more)


def by_hand(path, size):
    """Clean pixels, in exact arithmetic where numbers are rounded."""
    picture = Image.open(path).convert("RGB")
    side = round(Fraction(size * 256, 224))
    short, long = min(picture.size), max(picture.size)
    other = (side * long) // short
    width, height = (side, other) if picture.width == short else (other, side)
    scaled = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    top, left = round((height - size) / 2), round((width - size) / 2)
    pixels = scaled[top : top + size, left : left + size].astype(np.float64) / 255
    return ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)


def test_clean_photos_are_those_computed_by_hand(tmp_path):
    train, test = write_set(tmp_path)
    data = load(tmp_path)
    for images, lines in ((data.train, train), (data.test, test)):
        expected = np.stack([by_hand(tmp_path / line.rsplit(" ", 1)[0], 8) for line in lines])
        assert np.abs(images.clean().numpy() - expected).max() < 1e-6
        assert images.targets.tolist() == [int(line[-1]) for line in lines]
        assert torch.equal(torch.cat(list(images.clean_batches(5))), images.clean())
        assert torch.equal(images.clean(slice(2, 4)), images.clean(torch.tensor([2, 3])))
        assert torch.equal(images.subset(torch.tensor([5, 0])).clean(), images.clean(torch.tensor([5, 0])))
        assert torch.equal(torch.stack([images[i][0] for i in range(len(images))]), images.clean())
    larger = load_data("image-list", train_list="train.txt", test_list="test.txt", image_size=11, root=tmp_path).test
    assert np.abs(larger.clean().numpy() - np.stack([by_hand(tmp_path / n, 11) for n in larger.names])).max() < 1e-6
    assert data.train.in_channels == 3
    assert data.class_counts == [12, 7, 4]
    assert data.title == "image list train as listed"
    assert data.split == "the 9 images of test.txt"


def test_the_usual_sizes_of_a_photo():
    photo = Image.fromarray(np.arange(375 * 500 * 3, dtype=np.uint32).reshape(375, 500, 3).astype(np.uint8))
    scaled = photo.resize((341, 256), Image.Resampling.BILINEAR)  # torchvision: Resize(256), CenterCrop(224)
    assert centre(photo, 224).tobytes() == scaled.crop((58, 16, 282, 240)).tobytes()


def test_grey_photos_have_equal_channels_and_alpha_is_dropped(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (20, 10), 77).save(tmp_path / "a" / "grey.png")
    Image.new("RGBA", (10, 20), (10, 20, 30, 0)).save(tmp_path / "a" / "clear.png")
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text({"train.txt": "a/grey.png 0\n", "test.txt": "a/clear.png 0\n"}[name])
    data = load(tmp_path)
    scale = data.train.normalisation
    assert torch.equal(data.train.clean(), scale(torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)))
    colour = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert torch.equal(data.test.clean(), scale(colour))


def test_augmented_photos_are_drawn_before_anything_is_read(tmp_path, monkeypatch):
    write_set(tmp_path)
    train = load(tmp_path).train
    index = torch.tensor([20, 3, 3, 7, 0, 15, 11])

    def draw(augment="crop-flip", seed=5):
        return train.augmented(index, augment, torch.Generator().manual_seed(seed))

    usual = draw()
    assert usual.shape == (7, 3, 8, 8)
    assert not torch.equal(usual[1], usual[2])  # one photo, two draws
    assert not torch.equal(usual, draw(seed=6))
    assert torch.equal(draw("none"), train.clean(index))
    plain = draw("crop")
    mirrored = [i for i in range(7) if torch.equal(plain[i].flip(2), usual[i])]
    assert 0 < len(mirrored) < 7
    assert all(i in mirrored or torch.equal(plain[i], usual[i]) for i in range(7))
    read = photos_module.Photos._pixels
    for threads in (1, 7):
        turns = iter(range(100))

        def late(self, order, turns=turns):
            threading.Event().wait(0.01 * (next(turns) % 3))  # they finish in another order
            return read(self, order)

        monkeypatch.setattr(photos_module, "readers", lambda threads=threads: threads)
        monkeypatch.setattr(photos_module.Photos, "_pixels", late)
        assert torch.equal(draw(), usual)
        pairs = ((part, torch.Generator().manual_seed(int(part[0]))) for part in index.split(3))
        alone = [train.augmented(part, "crop", torch.Generator().manual_seed(int(part[0]))) for part in index.split(3)]
        assert torch.equal(torch.cat(list(train.augmented_batches(pairs, "crop"))), torch.cat(alone))


def test_no_thread_outlives_what_asked_for_it(tmp_path, monkeypatch):
    write_set(tmp_path)
    train, read = load(tmp_path).train, photos_module.Photos._pixels
    monkeypatch.setattr(photos_module.Photos, "_pixels", lambda *order: threading.Event().wait(0.05) or read(*order))
    batches = train.clean_batches(4)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("photos")]


def test_random_crops_have_the_area_and_ratio_that_were_drawn(monkeypatch):
    photo = Image.new("RGB", (300, 250))
    boxes, crop = [], Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda self, box: boxes.append(box) or crop(self, box))
    random = np.random.default_rng(0)
    for draws in random.random((2000, 23)):
        random_crop(photo, 4, draws.tolist(), mirror=True)
    left, top, right, bottom = np.array(boxes).T
    area, ratio = (right - left) * (bottom - top) / 75_000, (right - left) / (bottom - top)
    assert (left >= 0).all() and (top >= 0).all() and (right <= 300).all() and (bottom <= 250).all()  # noqa: PT018
    assert AREA[0] - 0.005 < area.min() < 0.1 < 0.9 < area.max()
    assert RATIO[0] * 0.97 < ratio.min() < 0.77 < 1.3 < ratio.max() < RATIO[1] * 1.03
    assert abs(np.log(ratio[area < 0.5]).mean()) < 0.02  # as often wide as high
    assert left.min() == top.min() == 0
    assert right.max() == 300 and bottom.max() == 250  # noqa: PT018
    boxes.clear()
    for shape in ((400, 10), (10, 400)):  # no crop of 8 % or more fits: the middle, as near to 3:4 .. 4:3 as it goes
        random_crop(Image.new("RGB", shape), 4, [0.999] * 23, mirror=False)
    assert boxes == [(193, 0, 206, 10), (0, 193, 10, 206)]
    assert [(b[3] - b[1], b[2] - b[0]) for b in boxes] == [(10, 13), (13, 10)]


def test_a_long_tail_is_cut_from_the_labels(tmp_path):
    write_set(tmp_path)
    data = load(tmp_path, imbalance_factor=4, n_max=8)
    assert data.class_counts == [8, 4, 2]
    assert data.train.targets.tolist() == [0] * 8 + [1] * 4 + [2] * 2
    whole = load(tmp_path)
    clean = {x.numpy().tobytes() for x in whole.train.clean()}
    assert all(x.numpy().tobytes() in clean for x in data.train.clean())
    assert data.title == "image list train IF 4 (ldam)"


def test_the_identity_is_that_of_the_list_in_order(tmp_path):
    train, _ = write_set(tmp_path)
    expected = hashlib.sha256("".join(f"{line}\n" for line in train).encode()).hexdigest()
    assert load(tmp_path).index_sha256 == expected
    tail = load(tmp_path, imbalance_factor=4, n_max=8)
    named = "".join(f"{n} {t}\n" for n, t in zip(tail.train.names, tail.train.targets.tolist(), strict=True))
    assert tail.index_sha256 == hashlib.sha256(named.encode()).hexdigest()
    others = {expected, tail.index_sha256, load(tmp_path, imbalance_factor=4, n_max=8, seed=1).index_sha256}
    (tmp_path / "train.txt").write_text("\n\n".join([train[1], train[0], *train[2:]]))  # empty lines are passed over
    others.add(load(tmp_path).index_sha256)
    assert len(others) == 4


def test_published_sets_are_found_where_they_lie(tmp_path, monkeypatch):
    train, test = write_photos(tmp_path / "photos" / "imagenet"), write_photos(tmp_path / "photos" / "imagenet", part="val")
    lists = tmp_path / "data" / "ImageNet_LT"
    lists.mkdir(parents=True)
    (lists / "ImageNet_LT_train.txt").write_text("\n".join(train))
    (lists / "ImageNet_LT_test.txt").write_text("\r\n".join(test))
    monkeypatch.setenv("SADDLESCOPE_DATA", str(tmp_path / "photos"))
    data = load_data("imagenet-lt", image_size=8, root=tmp_path / "data")
    assert data.title == "ImageNet-LT, 23 of 115,846 images as listed"
    assert data.split == "the 23 images of ImageNet_LT_test.txt (published with 50,000)"
    assert data.train.folder == tmp_path / "photos" / "imagenet"
    with pytest.raises(DataError, match=r"iNaturalist 2018 was not found: looked in .*iNaturalist18_train\.txt"):
        load_data("inaturalist-2018", root=tmp_path / "data")
    monkeypatch.delenv("SADDLESCOPE_DATA")
    with pytest.raises(DataError, match=r"ImageNet_LT_train.txt, line 1: image train/c0/0 RGB.png was not found in any of "):
        load_data("imagenet-lt", root=tmp_path / "data")
    monkeypatch.setitem(
        photos_lists(), "imagenet-lt", photos_lists()["imagenet-lt"].__class__("ImageNet-LT", "a.txt", "b.txt", (), (23, 9))
    )
    write_set(
        tmp_path / "own", "images", **{"a.txt": train, "b.txt": write_photos(tmp_path / "own" / "images", (9,), part="t")}
    )
    whole = load_data("imagenet-lt", image_size=8, root=tmp_path / "own")
    assert (whole.title, whole.split) == ("ImageNet-LT as published", "the 9 images of b.txt")
    assert load_data("imagenet-lt", root=tmp_path / "own").train.size == 224


def photos_lists():
    from saddlescope.training.data.image_lists import PUBLISHED

    return PUBLISHED


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train/c0/0.png", r"train\.txt, line 24: 'train/c0/0\.png': a line is a path and a label"),
        ("train/c0/0.png cat", "the label 'cat' is no whole number"),
        ("train/c0/0.png 1.5", "the label '1.5' is no whole number"),
        ("train/c0/0.png -1", "the label '-1' is no whole number"),
        ("train/c0/0.png " + "9" * 40, "is no whole number"),
        ("../c0/0.png 0", "line 24: .* leads out of the folder"),
        ("train/../../x.png 0", "line 24: .* leads out of the folder"),
        ("/etc/x.png 0", "line 24: .* leads out of the folder"),
        ("train/c0/none.png 0", r"image .*train/c0/none\.png cannot be read: no such file \(line 24 of .*train\.txt\)"),
        ("none/0.png 0", r"image .*none/0\.png cannot be read: no such file \(line 24"),
        ("train/c0/0 RGB.png 4", r"train\.txt, line 24: label 4, but class 3 has no training image"),
    ],
)
def test_bad_lines_are_named(line, said, tmp_path):
    train, _ = write_set(tmp_path)
    (tmp_path / "train.txt").write_text("\n".join([*train, line]))
    with pytest.raises(DataError, match=said):
        load(tmp_path)


def test_bad_lists_are_named(tmp_path):
    train, test = write_set(tmp_path)
    (tmp_path / "train.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"train\.txt is empty"):
        load(tmp_path)
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.txt cannot be read"):
        read_list(tmp_path / "train.txt")
    (tmp_path / "train.txt").write_text("\n".join(train))
    (tmp_path / "test.txt").write_text("\n".join([*test, test[0][:-1] + "3"]))
    with pytest.raises(DataError, match=r"test\.txt, line 10: label 3, but class 3 has no training image in .*train\.txt"):
        load(tmp_path)
    (tmp_path / "test.txt").write_text("\n".join([*test, train[5]]))
    with pytest.raises(DataError, match=r"test\.txt, line 10: train/c0/5 RGB.png is a training image as well"):
        load(tmp_path)


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda _: b"", lambda _: b"no photo at all"])
def test_a_damaged_photo_is_named(damage, tmp_path):
    write_set(tmp_path)
    bad = tmp_path / "train" / "c1" / "4 RGB.png"
    bad.write_bytes(damage(bad.read_bytes()))
    train = load(tmp_path).train
    said = r"image .*train/c1/4 RGB\.png cannot be read: .* \(line 17 of .*train\.txt\)"
    with pytest.raises(DataError, match=said):
        train.clean()
    with pytest.raises(DataError, match=said):
        list(train.augmented_batches([(torch.tensor([16]), torch.Generator())], "crop"))
    bad.unlink()
    with pytest.raises(DataError, match=r"no such file \(line 17"):
        train.clean()
    with pytest.raises(DataError, match=r"no such file \(line 17"):
        train.content_sha256()


def test_fields_of_lists_go_with_listed_sets_only(tmp_path):
    write_set(tmp_path)
    for arguments, said in (
        ({"name": "digits", "image_size": 32}, r"image_size is for data sets of listed images \(imagenet-lt, "),
        ({"name": "imagenet-lt", "train_list": "a", "test_list": "b"}, "go together"),
        ({"name": "image-list", "train_list": "train.txt", "root": tmp_path}, "give both lists"),
        ({"name": "image-list", "train_list": "train.txt", "test_list": "none.txt", "root": tmp_path}, "for none.txt"),
        ({"name": "image-lists"}, "known are cifar10.*image-list"),
    ):
        with pytest.raises(DataError, match=said):
            load_data(**arguments)
    with pytest.raises(RecipeError, match=r"data\.image_size"):
        load_recipe("imagenet-lt-rangwani", ["data.image_size=0"])


def recipe(**tables):
    base = {
        "name": "photos",
        "question": "?",
        "seeds": [0],
        "data": {"name": "image-list", "train_list": "train.txt", "test_list": "test.txt", "image_size": 8},
        "groups": {"eta": 6},
        "model": {"name": "small-cnn", "args": {"width": 4}},
        "training": {"epochs": 3, "batch_size": 6, "lr": 0.05, "augment": "crop-flip"},
        "optimizers": {"sgd": {}, "ssesam": {"gamma": 0.5}},
    }
    return parse_recipe({**base, **tables})


def content(folder):
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.pt"))}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return found, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize("optimizer", ["sgd", "ssesam"])
def test_killed_after_any_step_it_continues_to_the_same_digits(optimizer, tmp_path, monkeypatch):
    write_set(tmp_path)
    run = next(run for run in runs(recipe()) if run.optimizer == optimizer)
    train_run(run, tmp_path / "whole", load(tmp_path))
    steps, deadly = Session.steps, {(0, 1), (1, 2), (2, 4)}

    def interrupted(self):
        for _ in steps(self):
            yield
            if (self.epoch, self.step) in deadly:
                deadly.remove((self.epoch, self.step))
                raise Killed

    monkeypatch.setattr(Session, "steps", interrupted)
    monkeypatch.setattr(photos_module, "readers", lambda: 3)
    for _ in range(3):
        with pytest.raises(Killed):
            train_run(run, tmp_path / "killed", load(tmp_path), state_seconds=0.0)
    train_run(run, tmp_path / "killed", load(tmp_path), state_seconds=0.0)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("photos")]


def test_without_augmentation_it_trains_to_the_digits_of_the_same_images_in_memory(tmp_path):
    write_set(tmp_path)
    run = runs(recipe(training={"epochs": 2, "batch_size": 6, "lr": 0.05}))[1]
    listed = load(tmp_path)
    held = {}
    for name in ("train", "test"):
        photos = getattr(listed, name)
        pixels = torch.stack([torch.from_numpy(photos._pixels((row, None, False))) for row in range(len(photos))])
        held[name] = Images(pixels, photos.targets, photos.normalisation)
    train_run(run, tmp_path / "disk", listed)
    train_run(run, tmp_path / "memory", listed.__class__(**{**vars(listed), **held}))
    assert content(tmp_path / "disk") == content(tmp_path / "memory")


def test_a_study_on_listed_photos_and_what_its_side_car_says(tmp_path):
    write_set(tmp_path)
    (folder,) = train_study(recipe(), tmp_path / "out", data_root=str(tmp_path), only=["sgd"])
    side_car = json.loads((folder / "checkpoint.json").read_text())
    data = load_data(**side_car["data"]["args"])
    assert data.index_sha256 == side_car["data"]["index_sha256"]
    assert side_car["accuracy_split"] == "the 9 images of test.txt"
    groups = class_groups(data.class_counts, **side_car["groups"])
    from saddlescope.training.networks.models import build_model

    model = build_model(**side_car["model"]["args"])
    model.load_state_dict(torch.load(folder / "checkpoint.pt", weights_only=True))
    assert measure_accuracy(model, data.test, groups, batch_size=4) == side_car["training"]["accuracy"]
    photos, held = analysis_set(**side_car["data"]["args"]), evaluation_set(**side_car["data"]["args"])
    assert (len(photos), len(held), photos.lazy) == (23, 9, True)


def test_the_identity_of_the_pixels_needs_no_decoding(tmp_path, monkeypatch):
    write_set(tmp_path)
    first = load(tmp_path).train
    digest = first.content_sha256()
    monkeypatch.setattr(photos_module.Photos, "_pixels", None)
    assert load(tmp_path).train.content_sha256() == digest
    others = {digest, load(tmp_path).test.content_sha256(), first.subset(torch.arange(22)).content_sha256()}
    others.add(load_data("image-list", train_list="train.txt", test_list="test.txt", root=tmp_path).train.content_sha256())
    with (tmp_path / "train" / "c0" / "0 RGB.png").open("ab") as file:
        file.write(b"x")
    others.add(load(tmp_path).train.content_sha256())
    assert len(others) == 5


def test_runs_of_other_sets_keep_their_folders():
    found = {run.folder for run in runs(load_recipe("cifar10-lt-rangwani"))}
    assert {"sgd-seed0-468306f1", "sgd-seed1-4c248a77", "sgd-seed2-63c47787"} < found  # as before there were lists
    listed = [runs(recipe(data={**recipe().data.model_dump(), "image_size": size}))[0].folder for size in (8, 9)]
    assert len(set(listed)) == 2
