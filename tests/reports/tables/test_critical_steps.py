"""Critical steps in words, in the table and in the figure: the stored numbers, at once and nowhere told apart."""

import json

import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.figures.draw import planned
from saddlescope.figures.drawing.canvas import style
from saddlescope.figures.plots import critical_steps as plot
from saddlescope.reports.tables.critical_steps import critical_steps, step_sentences, step_sheets


def step(update, value, slope=1.0):
    low = 0.9 * value if value else value
    return {"update": update, "step": value, "bracket": [low if value is not None else 8.0, value], "slope": slope, "norm": 2.0,
            "longest": 0.0 if value == 0 else 8.0}  # fmt: skip


#: seed -> the tail's critical step along the head's part: at once, at a rate, nowhere
HEADS = {0: step("head", 0.0, -1.0), 1: step("head", 0.05), 2: step("head", None)}


@pytest.fixture
def study(build_study):
    folder = build_study(optimizers=("sgd",), seeds=(0, 1, 2))
    recipe = folder / "recipe.toml"
    text = recipe.read_text() if recipe.exists() else ""
    if "[training]" not in text:
        recipe.write_text(text + "\n[training]\nlr = 0.1\n")
    for run in load_study(folder).runs:
        for result, name in [(run.final("head-tail"), "checkpoint"), (run.along("head-tail")[0][1], "epoch")]:
            groups = {
                "head": {"size": 90, "loss": 0.1, "gradient_norm": 0.1, "steps": [step("sgd", 0.4), step("own", 0.3)]},
                "tail": {"size": 10, "loss": 0.2, "gradient_norm": 0.2, "steps": [step("sgd", 0.2), HEADS[run.seed]]},
            }
            raw = {
                "kind": "critical-steps", "schema_version": 1, "scheme": json.loads(result.scheme.model_dump_json()),
                "groups": groups, "weight_decay": 0.0, "provenance": json.loads(result.provenance.model_dump_json()),
            }  # fmt: skip
            place = run.folder / "steps" / f"{name}.head-tail.critical-step.json"
            place.parent.mkdir(exist_ok=True)
            place.write_text(json.dumps(raw))
    return load_study(folder)


def test_one_row_per_checkpoint_group_and_update(study):
    data = critical_steps(study)
    assert len(data) == 3 * 2 * 2
    mine = data[(data["group"] == "tail") & (data["update"] == "head")].sort_values("seed")
    assert list(mine["step"].fillna(-1)) == [0.0, 0.05, -1.0]


def test_the_table_tells_at_once_and_nowhere_apart(study):
    (sheet,) = step_sheets(study)
    column = [head for head, _ in sheet.heads].index("the head's part of a plain step")
    by_group = {row[1].text: row[column].text for row in sheet.rows}
    assert by_group == {"head": "–", "tail": "at once; 0.050; nowhere"}


def test_the_sentence_counts_them(study):
    head, tail = step_sentences(study, ["head", "tail"])
    assert "the head's part of a plain step hurts it at once in 1 of 3, from 0.050 on in 1" in tail
    assert "nowhere in 1" in tail
    assert "the step of SGD hurts it from 0.40 on in 3" in head


def test_the_figures_show_every_step_at_its_place(study):
    names = [plan.name for plan in planned(study)]
    assert {plot.NAME, plot.ALONG_NAME} <= set(names)
    with style():
        drawing = plot.draw(study)
        along = plot.draw_along(study)
    tail = drawing.figure.axes[1]
    (points,) = [line for line in tail.get_lines() if line.get_gid() == "sgd-head"]
    bottom, middle, top = points.get_ydata()
    assert middle == 0.05
    assert bottom < 0.05 / 3
    assert top > 0.4 * 3
    labels = [tail.yaxis.get_major_formatter()(mark, 0) for mark in tail.yaxis.get_majorticklocs()]
    assert labels[0] == "at once"
    assert labels[-1] == "nowhere"
    assert len(along.figure.axes) == 4


def test_a_study_without_critical_steps_has_neither_table_nor_figure(build_study):
    bare = load_study(build_study(optimizers=("sgd",), seeds=(0,)))
    assert step_sheets(bare) == []
    assert step_sentences(bare, ["tail"]) == []
    assert plot.figures(bare) == []
