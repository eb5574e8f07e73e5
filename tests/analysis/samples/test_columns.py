"""Groups by what is told of each sample beside its class: where it may stand, what it may be, and that only groups change."""

import numpy as np
import pandas as pd
import pytest
import torch
from saddlescope.analysis.checkpoints.user_code import load_samples
from saddlescope.analysis.samples.columns import ColumnError, column_of
from saddlescope.analysis.samples.given import as_samples
from saddlescope.analysis.samples.groups import GroupError, group_indices, is_partition, scheme_of
from saddlescope.analysis.samples.samples import Samples, SamplesError
from saddlescope.analysis.samples.streams import of_stream
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from saddlescope import AnalysisSettings, analyze

N = 12
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(N) % 3
WORDS = ["city"] * 7 + ["wood"] * 5
DOMAIN = AnalysisSettings(scheme="column", column="domain")


class Telling(TensorDataset):
    domain = WORDS


class Items(Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return N

    def __getitem__(self, index):
        if index >= N:
            raise IndexError
        return self.make(index)


def rows_of(samples, column="domain"):
    scheme = scheme_of(AnalysisSettings(scheme="column", column=column), samples)
    return {name: rows.tolist() for name, rows in group_indices(scheme, samples).items()}


WANTED = {"all": list(range(N)), "city": list(range(7)), "wood": list(range(7, N))}


@pytest.mark.parametrize(
    "data",
    [
        (X, Y, {"domain": WORDS, "other": None}),
        (TensorDataset(X, Y), {"domain": np.array(WORDS)}),
        Telling(X, Y),
        Subset(Telling(X, Y), list(range(N))),
        DataLoader(Telling(X, Y), batch_size=5, shuffle=True),
        Items(lambda i: {"x": X[i], "label": int(Y[i]), "domain": WORDS[i]}),
        [{"x": X[i : i + 5], "labels": Y[i : i + 5], "domain": WORDS[i : i + 5]} for i in (0, 5, 10)],
        Samples.from_tensors(X, Y).with_column("domain", WORDS),
    ],
    ids=lambda data: type(data).__name__,
)
def test_where_a_column_may_stand(data):
    samples = as_samples(data, column="domain")
    assert rows_of(samples) == WANTED
    assert samples.labels.tolist() == Y.tolist()
    assert is_partition(scheme_of(DOMAIN, samples), samples)


def test_a_part_of_a_tuple_is_a_column_too():
    samples = as_samples(Items(lambda i: (X[i], int(Y[i]), WORDS[i])), column="2")
    assert list(rows_of(samples, "2")) == ["all", "city", "wood"]
    settings = AnalysisSettings(scheme="column", column="2", dtype="float64", goal="ends")
    found = analyze(nn.Linear(3, 3).double(), samples, settings=settings).groups
    assert [found[name].size for name in ("city", "wood")] == [7, 5]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_files(suffix, tmp_path):
    path = tmp_path / f"t{suffix}"
    table = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "label": Y, "domain": WORDS, "age": range(N)})
    if suffix == ".npz":
        np.savez(path, x=X.numpy(), y=Y.numpy(), domain=np.array(WORDS), age=np.arange(N))
    elif suffix == ".parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    arguments = {} if suffix == ".npz" else {"inputs": ["a", "b"]}
    assert rows_of(load_samples(str(path), arguments, column="domain")) == WANTED
    aged = load_samples(str(path), arguments, column="age:4,10")
    assert {name: len(rows) for name, rows in rows_of(aged, "age:4,10").items()} == {
        "all": 12, "age < 4": 4, "4 <= age < 10": 6, "age >= 10": 2,
    }  # fmt: skip
    if suffix == ".csv":
        assert load_samples(str(path), {"inputs": ["a", "age"]}, column="age:4").batch[0].shape == (N, 2)
        plain = tmp_path / "plain.csv"
        table.drop(columns="domain").to_csv(plain, index=False)
        without = load_samples(str(plain), {}, column="age:4")
        assert without.batch[0].shape == (N, 2)
        assert str(without.choices[0]) == "inputs: a, b (guessed; --data-args)"
        with pytest.raises(SamplesError, match="no column place; the columns are a, b"):
            load_samples(str(path), {}, column="place")


@pytest.mark.filterwarnings("ignore")  # of dill, which hashes formats
def test_a_set_of_the_library_datasets_names_its_classes():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist(), "domain": WORDS})
    data = data.cast_column("label", datasets.ClassLabel(names=["cat", "cow", "dog"]))
    assert list(rows_of(as_samples(data.remove_columns("domain"), column="label"), "label")) == ["all", "cat", "cow", "dog"]
    assert rows_of(as_samples(data, column="domain")) == WANTED


def test_labels_that_are_words_are_classes_in_the_order_of_the_alphabet():
    kinds = ["dog", "cat", "dog"] * 4
    for data in (Items(lambda i: (X[i], kinds[i])), [{"x": X[:7], "label": kinds[:7]}, {"x": X[7:], "label": kinds[7:]}]):
        samples = as_samples(data)
        assert samples.labels.tolist() == [1, 0, 1] * 4
        assert str(samples.choices[0]) == "classes: 0 cat, 1 dog (--labels)"


def test_values_of_several_kinds():
    assert column_of("d", torch.tensor([3, 1, 3])).values == ("d 1", "d 3")
    assert column_of("d", [True, False]).codes.tolist() == [1, 0]
    several = column_of("d", [["b", "a"], [], ["a"]])
    assert (several.values, several.single) == (("a", "b"), False)
    assert several.having([0]).tolist() == [0, 2]
    assert column_of("d", np.eye(3), ["x", "y", "z"]).values == ("x", "y", "z")
    assert column_of("d", np.eye(3)).single
    two = column_of("d", [[0, 1], [1, 0], [0, 1]])  # rows of zeros and ones, as from a table: no sample has both
    assert (two.having([0]).tolist(), two.having([1]).tolist(), two.single) == ([1], [0, 2], True)
    assert column_of("d", [[0], [1], [1]]).values == ("d 0", "d 1")


@pytest.mark.parametrize(("raw", "row"), [([0, 1, -1], 2), ([0, 2, 1], 1)])
def test_a_number_without_a_name_is_refused(raw, row):
    assert column_of("d", [0, 1, 1], ["cat", "dog"]).values == ("cat", "dog")
    with pytest.raises(ColumnError, match=f"sample {row} has the value {raw[row]}, and there are 2 names"):
        column_of("d", raw, ["cat", "dog"])


@pytest.mark.parametrize(
    ("text", "raw", "sentence"),
    [
        ("d", ["a", None], "sample 1 has no value"),
        ("d", [1.0, float("nan")], "sample 1 has no value"),
        ("d", np.array([1.0, np.inf]), "sample 1 has no value"),
        ("d", ["a", 1], "holds int, str"),
        ("d", [0.5, 1.0], "not whole .*column:d:0.75"),
        ("d", range(101), "101 different numbers: say where to cut them, column:d:50"),
        ("d:3,1", [1, 2], "ascending order"),
        ("d:3", ["a", "b"], "cannot be cut"),
        ("d", torch.zeros(2, 3, 4), "one value a sample"),
    ],
)
def test_what_makes_no_groups_is_refused_in_a_sentence(text, raw, sentence):
    with pytest.raises(ColumnError, match=sentence) as caught:
        column_of(text, raw)
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there():
    with pytest.raises(ColumnError, match="no column domain: the samples have x, label, and Items has no attribute"):
        as_samples(Items(lambda i: {"x": X[i], "label": int(Y[i])}), column="domain")
    with pytest.raises(ColumnError, match="11 values for 12 samples"):
        as_samples((X, Y, {"domain": WORDS[1:]}), column="domain")
    with pytest.raises(GroupError, match="no column domain; there are: kind"):
        scheme_of(DOMAIN, Samples.from_tensors(X, Y).with_column("kind", WORDS))


def test_a_column_is_cut_where_it_is_asked_to_be():
    cut = AnalysisSettings(scheme="column", column="size:4,8")
    numbers = list(range(N))
    sizes = {"all": 12, "size < 4": 4, "4 <= size < 8": 4, "size >= 8": 4}
    assert scheme_of(cut, Samples.from_tensors(X, Y).with_column("size:4,8", numbers)).sizes == sizes
    for told in ("size", "size:4", "size:5,8"):
        with pytest.raises(GroupError, match=r"column size of the samples is not cut there .*with_column\('size:4,8', numbers"):
            scheme_of(cut, Samples.from_tensors(X, Y).with_column(told, numbers))


def test_only_the_groups_change():
    """The model is not given the column; the numbers of a domain are those of its samples alone."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 3).double()

        def forward(self, x):
            return self.net(x)

    torch.manual_seed(0)
    model = Net()
    samples = as_samples(Items(lambda i: {"x": X[i], "label": int(Y[i]), "domain": WORDS[i]}), column="domain")
    result = analyze(model, samples, settings=DOMAIN.model_copy(update={"dtype": "float64", "rates": False}))
    assert result.scheme.name == "column-domain"
    assert result.additivity < 1e-12
    for name, rows in WANTED.items():
        alone = Samples.from_batches([{"x": X[rows], "label": Y[rows]}], num_classes=3)
        wanted = analyze(model, alone, settings=AnalysisSettings(scheme="all", dtype="float64", rates=False)).groups["all"]
        assert result.groups[name].lambda_max.value == pytest.approx(wanted.lambda_max.value, rel=1e-5)
        assert result.groups[name].accuracy == wanted.accuracy


class Stream(IterableDataset):
    def __init__(self, parts, *, shuffled=False):
        self.parts, self.random = parts, np.random.default_rng(0) if shuffled else None

    def __iter__(self):
        return iter(self.parts if self.random is None else [self.parts[i] for i in self.random.permutation(len(self.parts))])


def test_a_stream_is_its_items_or_its_batches_and_stands_still():
    items = [(X[i], int(Y[i])) for i in range(N)]
    batches = [[X[i : i + 5], Y[i : i + 5].numpy()] for i in (0, 5, 10)]
    names = [{"__key__": f"{i}", "x": X[i], "label": int(Y[i])} for i in range(N)]
    for parts in (items, batches, names):
        assert as_samples(Stream(parts)).labels.tolist() == Y.tolist()
    images = [(torch.randn(3, 4, 5), torch.zeros(4, 5, dtype=torch.long)) for _ in range(4)]
    assert as_samples(Stream(images)).num_samples == 4
    texts = [{"input_ids": torch.arange(6), "labels": torch.arange(6)} for _ in range(4)]
    assert as_samples(Stream(texts)).num_samples == 4
    with pytest.raises(SamplesError, match="element 0 of Stream changed between two readings"):
        as_samples(Stream(items, shuffled=True))


def test_an_endless_stream_is_said_to_be_one(monkeypatch):
    free = iter([1000, *range(1000, 0, -100)])
    monkeypatch.setattr("saddlescope.analysis.samples.streams.free_bytes", lambda device: next(free))

    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield X[0], 0

    with pytest.raises(SamplesError, match=r"elements of Endless fill half of the free memory.*endless"):
        of_stream(Endless())
