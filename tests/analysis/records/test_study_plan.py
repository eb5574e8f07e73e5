import json

import pytest
from saddlescope.analysis.records.settings import SettingsError
from saddlescope.analysis.records.study_plan import StudyAnalysis, curvature_items, slice_items

RECIPE = {
    "analysis": {"starts": 4, "eta": 30, "along": {"starts": 1}, "also": [{"scheme": "per-class", "starts": 2}]},
    "slices": {"points": 11, "plane_seeds": [1]},
}


def test_tables_override_each_other():
    plan = StudyAnalysis.parse(RECIPE)
    assert (plan.final.starts, plan.along.starts, plan.also[0].starts) == (4, 1, 2)
    assert plan.along.eta == plan.also[0].eta == 30
    assert plan.slices.points == 11


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stps": 3}, "unknown field 'stps'; did you mean 'steps'"),
        ({"steps": 1}, "steps"),
        ({"along": {"rtol": -1}}, r"\[analysis.along\].*rtol"),
        ({"also": [{}]}, "schemes .* repeat"),
        ({"scheme": "custom"}, "go together"),
    ],
)
def test_bad_tables_are_refused_by_name(table, message):
    with pytest.raises(SettingsError, match=message):
        StudyAnalysis.parse({"analysis": table})


def test_items_follow_the_checkpoints_on_disk(tmp_path):
    runs = [{"optimizer": "sgd", "seed": 0, "folder": "a"}, {"optimizer": "sgd", "seed": 1, "folder": "b"}]
    runs.append({"optimizer": "sam", "seed": 0, "folder": "unfinished"})
    (tmp_path / "study.json").write_text(json.dumps({"name": "s", "runs": runs}))
    for run in "ab":
        (tmp_path / run / "checkpoints").mkdir(parents=True)
        (tmp_path / run / "checkpoint.json").touch()
        (tmp_path / run / "checkpoints" / "epoch-004.json").touch()
        (tmp_path / run / "checkpoints" / "epoch-008.pt").touch()  # killed before its side-car: not a checkpoint
    plan = StudyAnalysis.parse(RECIPE)
    outputs = [str(item.output.relative_to(tmp_path)) for item in curvature_items(tmp_path, plan)]
    final = [f"{run}/curvature/checkpoint.{scheme}.json" for run in "ab" for scheme in ("head-tail", "per-class")]
    assert outputs == final + [f"{run}/curvature/epoch-004.head-tail.json" for run in "ab"]
    slices = [str(item.output.relative_to(tmp_path)) for item in slice_items(tmp_path, plan)]
    planes = [f"b/slices/{name}-plane.json" for name in ("tail", "random")]  # one checkpoint along training is no path
    assert slices == [
        "a/slices/tail-min.json",
        "a/slices/random.json",
        "b/slices/tail-min.json",
        "b/slices/random.json",
        *planes,
    ]
    (tmp_path / "b" / "checkpoints" / "epoch-008.json").touch()
    assert str(slice_items(tmp_path, plan)[-1].output.relative_to(tmp_path)) == "b/slices/path-plane.json"
