import pytest
import torch
from saddlescope.analysis.krylov import tensor_files as tensors
from saddlescope.analysis.krylov.tensor_files import save_tensors
from safetensors.torch import load_file


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "vectors.safetensors"
    save_tensors({"v": torch.arange(3.0)}, path)

    def half_written(content, file):
        file.write_bytes(b"half")
        raise tensors.SafetensorError("No space left on device")

    monkeypatch.setattr(tensors, "save_file", half_written)
    with pytest.raises(OSError, match=r"vectors\.safetensors: cannot be written \(No space left"):
        save_tensors({"v": torch.zeros(3)}, path)
    assert torch.equal(load_file(path)["v"], torch.arange(3.0))
    assert list(path.parent.iterdir()) == [path]
