"""Starts that are continued and added to give the digits of those that were never interrupted."""

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.losses import classification_loss
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.lanczos_runs import StartStore
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.records.settings import AnalysisSettings


class Counting(HessianOperator):
    """Counts the products that were really taken, and stops at one of them as a kill would."""

    taken, fatal = 0, None

    def matvec(self, v):
        if self.taken == self.fatal:
            raise KeyboardInterrupt
        self.taken += 1
        return super().matvec(v)


def same(one, other):
    """Equal to the digit, vectors included."""
    for name in ("lambda_min", "lambda_max", "negative_mass", "trace", "density", "steps", "matvecs", "saddle_index"):
        assert getattr(one, name) == getattr(other, name), name
    for name, vector in one.vectors.items():
        assert torch.equal(vector, other.vectors[name])


def test_more_starts_add_to_those_that_are_there(reference, tmp_path):
    whole = measure_spectrum(HessianOperator(reference.model, reference.samples), starts=3, k=2)
    first = Counting(reference.model, reference.samples)
    measure_spectrum(first, starts=2, k=2, store=StartStore(tmp_path))
    second = Counting(reference.model, reference.samples)
    same(measure_spectrum(second, starts=3, k=2, store=StartStore(tmp_path)), whole)
    assert second.taken == first.taken - sum(whole.steps[:2]) + whole.steps[2]


@pytest.mark.parametrize("fatal", [12, 33, 50])
def test_an_interrupted_start_goes_on_where_it_was_stored(reference, tmp_path, monkeypatch, fatal):
    monkeypatch.setattr("saddlescope.analysis.krylov.lanczos_runs.STORE_EVERY", 0.0)
    whole = measure_spectrum(HessianOperator(reference.model, reference.samples), starts=2)
    killed = Counting(reference.model, reference.samples)
    killed.fatal = fatal
    with pytest.raises(KeyboardInterrupt):
        measure_spectrum(killed, starts=2, store=StartStore(tmp_path))
    assert list(tmp_path.iterdir())
    resumed = Counting(reference.model, reference.samples)
    same(measure_spectrum(resumed, starts=2, store=StartStore(tmp_path)), whole)
    assert resumed.taken < whole.matvecs
    assert not list(tmp_path.glob("*.running*"))


def test_starts_of_an_operator_that_was_edited_are_forgotten(reference, tmp_path):
    """Same weights, same samples, same settings, other code: a loss that somebody changed."""

    def doubled(model, batch):
        return 2 * classification_loss()(model, batch)

    measure_spectrum(HessianOperator(reference.model, reference.samples), store=StartStore(tmp_path))
    for seed in (0, 5):  # with the guard's vectors of the stored starts, and with others
        whole = measure_spectrum(HessianOperator(reference.model, reference.samples, doubled), seed=seed)
        store = StartStore(tmp_path)
        edited = measure_spectrum(HessianOperator(reference.model, reference.samples, doubled), seed=seed, store=store)
        assert edited.lambda_max == whole.lambda_max
        assert edited.trace == whole.trace


def test_a_damaged_file_is_made_again(reference, tmp_path):
    whole = measure_spectrum(HessianOperator(reference.model, reference.samples), store=StartStore(tmp_path))
    (tmp_path / "0.safetensors").write_bytes(b"cut")
    (tmp_path / "0.running.safetensors").write_bytes(b"cut")
    same(measure_spectrum(HessianOperator(reference.model, reference.samples), store=StartStore(tmp_path)), whole)


def test_other_weights_or_settings_never_meet_stored_starts(reference, tmp_path):
    settings = AnalysisSettings(eta=6, steps=20, min_steps=5, dtype="float64")
    first = analyze(reference.model, reference.samples, settings=settings, cache=tmp_path)
    for changed in ({"rtol": 1e-6}, {"params": "fc.*"}, {"dtype": "float32"}):
        other = settings.model_copy(update=changed)
        plain = analyze(reference.model, reference.samples, settings=other)
        assert analyze(reference.model, reference.samples, settings=other, cache=tmp_path).groups == plain.groups
    again = analyze(reference.model, reference.samples, settings=settings, cache=tmp_path)
    assert again.groups == first.groups


def test_starts_are_added_until_the_masses_are_narrow(diagonal):
    values = np.concatenate([np.linspace(-1, 1, 1500), [10.0]])
    wide = measure_spectrum(diagonal(values))
    narrow = measure_spectrum(diagonal(values), mass_width=0.08, max_starts=40)
    assert max(m.interval[1] - m.interval[0] for m in wide.negative_mass) > 0.08
    assert max(m.interval[1] - m.interval[0] for m in narrow.negative_mass) <= 0.08
    assert 1 < len(narrow.steps) < 40
    for mass in narrow.negative_mass:
        assert mass.interval[0] <= float((values < -mass.tau).mean()) <= mass.interval[1]
    assert len(measure_spectrum(diagonal(values), mass_width=1e-9, max_starts=3).steps) == 3
