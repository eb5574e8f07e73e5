"""What the tests of the check compare: a study of two optimizers, and one result of it."""

import pytest


@pytest.fixture
def study(build_study):
    return build_study(optimizers=("sgd", "ssesam"))


@pytest.fixture
def single(study):
    """One result file, as a user with one checkpoint has it."""
    return study / "sgd-seed0" / "curvature" / "checkpoint.head-tail.json"
