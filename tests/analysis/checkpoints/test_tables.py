"""Tables and sets of the library datasets, as data."""

import numpy as np
import pandas as pd
import pytest
import torch
from saddlescope.analysis.checkpoints.user_code import SubjectError, load_samples
from saddlescope.analysis.samples.given import as_samples
from saddlescope.analysis.samples.samples import SamplesError
from saddlescope.analysis.samples.stores import BatchStore

TABLE = pd.DataFrame({"a": [1, 2, 3, 4], "label": [0, 2, 1, 0], "b": [0.5, 0.25, 0.0, -1.0], "kind": ["x", "z", "x", "y"]})


def written(table, path):
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_are_samples_in_their_order(suffix, tmp_path):
    samples = load_samples(written(TABLE.drop(columns="kind"), tmp_path / f"t{suffix}"), {})
    assert torch.equal(samples.batch[0], torch.tensor([[1, 0.5], [2, 0.25], [3, 0.0], [4, -1.0]]))
    assert samples.labels.tolist() == [0, 2, 1, 0]
    named = load_samples(written(TABLE.drop(columns="label"), tmp_path / f"u{suffix}"), {}, labels="kind")
    assert named.labels.tolist() == [0, 2, 0, 1]
    assert named.choices[0].value == "0 x, 1 y, 2 z"


@pytest.mark.parametrize(
    ("table", "label", "sentence"),
    [
        (TABLE, None, "column kind holds no numbers"),
        (TABLE, "domain", "which column is the class.*the columns are a, label, b, kind"),
        (TABLE[["a", "b"]], None, "which column is the class"),
        (TABLE[["label"]], None, "no columns beside the class"),
        (TABLE[["a", "label"]].assign(target=0), None, "which column is the class"),
        (TABLE[["a", "label"]].assign(a=[1, None, 2, 3]), None, "sample 1 holds NaN"),
        (TABLE[["a", "label"]].assign(label=[1, 0, None, 3]), None, "the class of row 2 is missing"),
        (TABLE[["a", "label"]].assign(label=[1, 0, 0.5, 3]), None, "whole numbers"),
    ],
)
def test_a_table_that_will_not_do_is_refused_in_a_sentence(table, label, sentence, tmp_path):
    with pytest.raises(SamplesError, match=sentence) as caught:
        load_samples(written(table, tmp_path / "t.csv"), {}, labels=label)
    assert "\n" not in str(caught.value)


def test_a_damaged_table_and_none(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'a,label\n1,2\n"3')
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(SamplesError, match=r"cannot be read as a table|needs pyarrow"):
            load_samples(str(tmp_path / name), {})
    with pytest.raises(SubjectError, match="no such file"):
        load_samples(str(tmp_path / "u.csv"), {})


@pytest.mark.filterwarnings("ignore")  # of dill, which hashes formats
def test_a_set_of_the_library_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    texts = {"input_ids": [[1, 2], [3], [4, 5]], "attention_mask": [[1, 1], [1], [1, 1]], "label": [0, 1, 1]}
    data = datasets.Dataset.from_dict(texts)
    samples = as_samples(data)
    assert isinstance(samples.store, BatchStore)
    assert samples.labels.tolist() == [0, 1, 1]
    assert [batch["input_ids"].tolist() for batch in samples.batches(2)] == [[[1, 2]], [[3]], [[4, 5]]]
    data.save_to_disk(tmp_path / "set")
    assert load_samples(str(tmp_path / "set"), {}).sha256() == samples.sha256()
    with pytest.raises(SamplesError, match=r"holds 'a b'.*leave it out"):
        as_samples(data.add_column("text", ["a b", "c", "d e"]))
    assert np.array_equal(as_samples(data.select([2, 0])).labels, [1, 0])
