"""A finished study gets more seeds: what is there stays as it is, to the byte and to the moment of writing."""

from saddlescope.analysis.records.study_plan import StudyAnalysis
from saddlescope.analysis.studies.analyses import analyze_study
from saddlescope.training.runs.recipe import parse_recipe
from saddlescope.training.runs.study import train_study

RECIPE = {
    "name": "tiny",
    "question": "Who escapes?",
    "data": {"name": "synthetic", "imbalance_factor": 10, "n_max": 16},
    "groups": {"eta": 8},
    "model": {"name": "small-cnn", "args": {"width": 2}},
    "training": {"epochs": 1, "batch_size": 32, "lr": 0.05},
    "optimizers": {"sgd": {}},
    "analysis": {"goal": "ends", "escape": False, "critical_steps": True, "steps": 10, "only": ["tail"]},
    "slices": {"lines": ["random"], "planes": [], "points": 3},
}


def test_only_what_is_missing_is_made(tmp_path):
    def made(seeds):
        recipe = parse_recipe({**RECIPE, "seeds": seeds})
        train_study(recipe, tmp_path)
        measured = analyze_study(tmp_path, StudyAnalysis.parse(recipe.resolved()), jobs=1)
        files = [path for path in tmp_path.glob("*-seed*/**/*") if path.is_file()]
        return measured, {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    first, before = made([0])
    more, after = made([0, 1])
    assert first == more == 3  # curvature, critical steps, one slice; of the new seed only
    assert {path: after[path] for path in before} == before
    assert len(after) == 2 * len(before)
