"""A finished study gets more seeds: what is there stays as it is, to the byte and to the second."""

import saddlescope

RECIPE = """
name = "tiny"
question = "Who escapes?"
seeds = [0, 1]
[data]
name = "synthetic"
imbalance_factor = 10
n_max = 24
[groups]
eta = 10
[model]
name = "small-cnn"
args = { width = 2 }
[training]
epochs = 1
batch_size = 32
lr = 0.05
[optimizers.sgd]
[optimizers.ssesam]
gamma = 0.5
[analysis]
goal = "ends"
escape = false
critical_steps = true
[slices]
lines = ["random"]
planes = []
points = 3
"""


def test_only_what_is_missing_is_made(tmp_path, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)

    def reproduce(*overrides):
        saddlescope.reproduce(str(recipe), out=tmp_path / "runs", overrides=list(overrides), data_root=None, jobs=1)
        files = (tmp_path / "runs" / "tiny").glob("*-seed*/**/*.*")
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files if not path.is_dir()}

    before = reproduce()
    assert {path.suffix for path in before} >= {".pt", ".json", ".safetensors"}
    capsys.readouterr()
    after = reproduce("seeds=[0,1,2,3]")
    assert {path: after[path] for path in before} == before
    runs = [path.parent.name.split("-seed")[1][0] for path in after if path.name == "checkpoint.pt"]
    assert sorted(runs) == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert len([path for path in after if path.parent.name == "curvature" and path.suffix == ".json"]) == 8
    assert len([path for path in after if path.parent.name in ("slices", "steps")]) == 16
    assert "What would decide it" in capsys.readouterr().out
