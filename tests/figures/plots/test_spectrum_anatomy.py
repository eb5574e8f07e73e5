"""The annotated spectrum says what the record says."""

import pytest
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.rounding import end_words
from saddlescope.figures.drawing.study_data import NothingToDraw
from saddlescope.figures.plots.spectrum_anatomy import anatomy, main


def test_every_number_of_the_record_is_written_in(build_study):
    result = next(run.final() for run in load_study(build_study()).runs)
    words = " ".join(text.get_text() for text in anatomy(result, "tail").findobj(lambda a: hasattr(a, "get_text")))
    tail = result.groups["tail"]
    for extreme in (tail.lambda_min, tail.lambda_max):
        assert f"= {extreme.value:.3g}".replace("-", "−") in words
        assert f"in [{', '.join(end_words(extreme.value, extreme.interval))}]".replace("-", "−") in words
        assert f"with probability {extreme.confidence:g}" in words


def test_a_group_without_quadratures_is_refused(build_study):
    result = next(run.final() for run in load_study(build_study()).runs)
    with pytest.raises(NothingToDraw, match="measured are all, head, tail"):
        anatomy(result, "medium")


def test_it_is_drawn_from_a_file(build_study, tmp_path):
    run = load_study(build_study()).runs[0]
    main([str(run.folder / "curvature" / "checkpoint.head-tail.json"), "tail", str(tmp_path / "out.png")])
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
