"""Data sets written in each published form, read back; damaged ones refused; real ones where they lie."""

import gzip
import io
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from saddlescope.training.data import datasets
from saddlescope.training.data.cifar import cifar
from saddlescope.training.data.datasets import analysis_set, evaluation_set, load_data
from saddlescope.training.data.idx import fashion_mnist, read_idx
from saddlescope.training.data.sources import DataError

REAL = Path(__file__).parents[4] / "shared" / "data"
RANDOM = np.random.default_rng(0)
PIXELS = {
    "train": RANDOM.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8),
    "test": RANDOM.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8),
}
LABELS = {"train": np.arange(40) % 10, "test": np.arange(20) % 10}


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """No data of this machine is found by accident, nothing is cached outside the test's folder."""
    monkeypatch.setattr("saddlescope.training.data.sources.USUAL_PLACES", ())
    monkeypatch.delenv("SADDLESCOPE_DATA", raising=False)
    monkeypatch.setenv("SADDLESCOPE_CACHE", str(tmp_path / "cache"))


def files_python():
    batches = {f"data_batch_{i + 1}": ("train", slice(8 * i, 8 * i + 8)) for i in range(5)} | {
        "test_batch": ("test", slice(None))
    }
    for name, (part, rows) in batches.items():
        batch = {b"data": PIXELS[part][rows].reshape(-1, 3072), b"labels": LABELS[part][rows].tolist(), b"batch_label": b"x"}
        yield f"cifar-10-batches-py/{name}", pickle.dumps(batch, protocol=2)
    yield "cifar-10-batches-py/batches.meta", pickle.dumps({b"label_names": [b"a"]}, protocol=2)


def files_binary():
    for name, part, rows in [
        ("data_batch_1", "train", slice(0, 20)),
        ("data_batch_2", "train", slice(20, 40)),
        ("test_batch", "test", slice(None)),
    ]:
        table = np.concatenate([LABELS[part][rows, None].astype(np.uint8), PIXELS[part][rows].reshape(-1, 3072)], axis=1)
        yield f"cifar-10-batches-bin/{name}.bin", table.tobytes()


def files_pictures(kind="png"):
    for part, pixels in PIXELS.items():
        for number, (picture, label) in enumerate(zip(pixels, LABELS[part], strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(picture.transpose(1, 2, 0)).save(buffer, format={"jpg": "JPEG"}.get(kind, "PNG"))
            yield f"cifar10/{part}/class{label}/{number:04d}.{kind}", buffer.getvalue()


def write_folder(files, root):
    for name, content in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_tar(files, path, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


FORMS = {
    "python folder": lambda root: write_folder(files_python(), root),
    "python archive": lambda root: write_tar(files_python(), root / "cifar-10-python.tar.gz"),
    "binary folder": lambda root: write_folder(files_binary(), root),
    "binary archive": lambda root: write_tar(files_binary(), root / "cifar-10-binary.tar.gz"),
    "png folder": lambda root: write_folder(files_pictures(), root),
    "png tar": lambda root: write_tar(files_pictures(), root / "cifar10.tar.xz", "w:xz"),
}


def as_set(images):
    """Order-free content: class folders are read by class."""
    return sorted((int(t), p.numpy().tobytes()) for p, t in zip(images.pixels, images.targets, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_cifar_holds_the_same_pixels(form, tmp_path):
    FORMS[form](tmp_path)
    for _ in range(2):  # the second time from the cache, where there is one
        source = cifar(10, tmp_path)
        assert source.title == "CIFAR-10"
        for part, images in (("train", source.train), ("test", source.test)):
            wanted = sorted((int(t), p.tobytes()) for p, t in zip(PIXELS[part], LABELS[part], strict=True))
            assert as_set(images) == wanted


@pytest.mark.parametrize("folder", ["cifar10", "cifar-10"])
@pytest.mark.parametrize("form", ["python folder", "binary archive"])
def test_official_forms_are_found_in_a_folder_of_the_sets_name(folder, form, tmp_path):
    (tmp_path / folder).mkdir()
    FORMS[form](tmp_path / folder)
    assert cifar(10, tmp_path).title == "CIFAR-10"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_damage_within_a_compressed_archive_is_named(share, tmp_path):
    FORMS["png tar"](tmp_path)
    raw = bytearray((tmp_path / "cifar10.tar.xz").read_bytes())
    place = int(share * len(raw))
    raw[place : place + 40] = bytes(40)
    (tmp_path / "cifar10.tar.xz").write_bytes(raw)
    with pytest.raises(DataError, match=r"cifar10\.tar\.xz"):
        cifar(10, tmp_path)


def test_images_are_not_held_out_of_a_set_that_has_a_test_part(tmp_path):
    FORMS["python folder"](tmp_path)
    with pytest.raises(DataError, match="held_out is for sets in one part"):
        load_data("cifar10", held_out=3, root=tmp_path)


def test_jpeg_copies_say_so(tmp_path):
    write_folder(files_pictures("jpg"), tmp_path)
    assert cifar(10, tmp_path).title == "CIFAR-10 (JPEG)"


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "owned",)

    write_folder(files_python(), tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({b"data": Bomb()}, protocol=2))
    with pytest.raises(DataError, match="data_batch_3 cannot be read"):
        cifar(10, tmp_path)
    assert not (tmp_path / "owned").exists()


def test_damage_is_named(tmp_path):
    write_tar(files_python(), tmp_path / "cifar-10-python.tar.gz")
    whole = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz"):
        cifar(10, tmp_path)


def test_a_missing_class_is_named(tmp_path):
    write_folder(((name, content) for name, content in files_pictures() if "class9" not in name), tmp_path)
    with pytest.raises(DataError, match="9 class folders"):
        cifar(10, tmp_path)


def test_a_damaged_cache_is_made_again(tmp_path):
    write_tar(files_pictures(), tmp_path / "cifar10.tar.gz")
    before = as_set(cifar(10, tmp_path).train)
    (cached,) = (tmp_path / "cache").glob("*.npz")
    raw = bytearray(cached.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    cached.write_bytes(raw)
    assert as_set(cifar(10, tmp_path).train) == before


def test_missing_data_say_where_they_were_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"CIFAR-10 was not found: looked in .*--data-root FOLDER"):
        cifar(10, tmp_path)
    with pytest.raises(DataError, match="known are cifar10"):
        load_data("cifar-ten")


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_packed_or_not(tmp_path, packed):
    images = RANDOM.integers(0, 256, (12, 28, 28), dtype=np.uint8)
    labels = (np.arange(12) % 10).astype(np.uint8)
    (tmp_path / "fashion-mnist").mkdir()
    for part in ("train", "t10k"):
        for kind, content in (("images-idx3", idx(images)), ("labels-idx1", idx(labels))):
            path = tmp_path / "fashion-mnist" / f"{part}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    source = fashion_mnist(tmp_path)
    assert np.array_equal(source.train.pixels[:, 0].numpy(), images)
    assert source.train.targets.tolist() == labels.tolist()
    (tmp_path / "fashion-mnist" / "train-labels-idx1-ubyte").write_bytes(idx(labels[:5]))
    with pytest.raises(DataError, match="do not belong together"):
        fashion_mnist(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bnope", idx(np.zeros((2, 3), np.uint8))[:-1], b"\0\0\x0d\x01" + bytes(8)])
def test_damaged_idx_files_are_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match="x"):
        read_idx(tmp_path / "x")


def test_digits_hold_out_a_balanced_part_that_is_never_trained_on():
    data = load_data("digits", 20, n_max=120, held_out=50)
    assert torch.bincount(data.test.targets).tolist() == [50] * 10
    assert data.class_counts == [120, 86, 61, 44, 31, 22, 16, 11, 8, 6]
    train = {p.numpy().tobytes() for p in data.train.pixels}
    assert not any(p.numpy().tobytes() in train for p in data.test.pixels)


def test_factories_give_clean_data_in_one_order():
    arguments = {"name": "synthetic", "imbalance_factor": 5, "n_max": 40}
    one, again = analysis_set(**arguments), analysis_set(**arguments)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    held = evaluation_set(**arguments)
    assert torch.bincount(held[1]).tolist() == [20] * 5
    assert set(datasets.SOURCES) == {"cifar10", "cifar100", "digits", "fashion-mnist", "synthetic"}


@pytest.mark.skipif(not REAL.exists(), reason="the real data are not here")
def test_the_real_files(tmp_path):
    fashion = load_data("fashion-mnist", 100, root=REAL)
    assert fashion.class_counts == [6000, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60]
    scaled = datasets.SOURCES["fashion-mnist"](None, 0, REAL).train.clean(slice(None))
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-3)
    assert float(scaled.std()) == pytest.approx(1, abs=1e-3)
    with tarfile.open(REAL / "cifar10-jpeg.tar.xz") as archive:
        assert archive.next().name == "cifar10/train"


def test_digits_are_read_without_importing_scikit_learn():
    """Its import takes longer than a small analysis."""
    code = (
        "import sys; from saddlescope.training.data.embedded import digits; made = digits(50, 0); "
        "print(len(made.train), len(made.test), *sorted({'sklearn', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1297", "500"]


def test_digits_are_scikit_learns(monkeypatch):
    from saddlescope.training.data import embedded

    read = embedded._digits_table()
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    assert np.array_equal(read, embedded._digits_table())
