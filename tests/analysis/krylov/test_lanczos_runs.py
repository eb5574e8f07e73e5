"""Starts that are continued and added to give the digits of those that were never interrupted."""

import copy
import itertools

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.losses import classification_loss
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.guards import RandomOperatorError
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.krylov.start_store import StartStore
from saddlescope.analysis.measures.analyze import analyze
from saddlescope.analysis.measures.extremes import measure_ends
from saddlescope.analysis.records.settings import AnalysisSettings


class Counting(HessianOperator):
    """Counts the products that were really taken, and stops at one of them as a kill would."""

    taken, fatal = 0, None

    def matmat(self, v):
        if self.taken == self.fatal:
            raise KeyboardInterrupt
        self.taken += v.shape[1]
        return super().matmat(v)


@pytest.fixture
def stored_at_every_step(monkeypatch):
    for seconds in ("STORE_EVERY", "STORE_RARELY"):
        monkeypatch.setattr(f"saddlescope.analysis.krylov.start_store.{seconds}", 0.0)


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


def test_a_later_start_is_no_first_one_of_another_analysis(reference, tmp_path):
    """Its controls would be of the other's probes, and the trace's error a hundred times as large."""
    operator = HessianOperator(reference.model, reference.samples)
    both = measure_spectrum(operator, starts=2, store=StartStore(tmp_path))
    of_second = measure_spectrum(operator, seed=1, store=StartStore(tmp_path))
    assert of_second.trace == measure_spectrum(operator, seed=1).trace
    counted = Counting(reference.model, reference.samples)
    again = measure_spectrum(counted, starts=2, store=StartStore(tmp_path))
    assert again.trace == both.trace
    assert counted.taken == counted.matvecs - sum(both.steps)  # what the second analysis left serves the first one, too


def test_starts_of_another_precision_are_not_taken(diagonal, tmp_path):
    values = np.linspace(-1, 9, 300)
    measure_spectrum(diagonal(values, torch.float32), store=StartStore(tmp_path))
    found = measure_spectrum(diagonal(values), store=StartStore(tmp_path))
    same(found, measure_spectrum(diagonal(values)))


@pytest.mark.parametrize("fatal", [12, 33, 50])
def test_an_interrupted_start_goes_on_where_it_was_stored(reference, tmp_path, stored_at_every_step, fatal):
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


def test_a_group_that_needed_float64_is_kept_in_both_precisions(reference, tmp_path, monkeypatch):
    def refuses(asymmetry, scale, operator, steps):
        if operator.dtype == torch.float32:
            raise RandomOperatorError("asymmetric", "seen")

    monkeypatch.setattr("saddlescope.analysis.krylov.spectrum.require_symmetric", refuses)
    model, settings = copy.deepcopy(reference.model).float(), AnalysisSettings(scheme="all", steps=20, min_steps=5, rates=False)
    plain = analyze(model, reference.samples, settings=settings)
    assert plain.groups["all"].dtype == "float64"
    for _ in range(2):
        assert analyze(model, reference.samples, settings=settings, cache=tmp_path).groups == plain.groups
        monkeypatch.setattr("saddlescope.analysis.krylov.lanczos.Lanczos._step", None)  # nothing is run again


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


def test_starts_that_are_added_until_it_is_enough_spend_delta_on_the_ends_as_well(diagonal):
    """Whoever may stop at any of six numbers of starts is wrong at one of them six times as often."""
    values = np.concatenate([np.linspace(-1, 1, 1500), [10.0]])
    found = measure_spectrum(diagonal(values), mass_width=1.0, max_starts=6)
    assert len(found.steps) == 1
    alone = measure_spectrum(diagonal(values), delta=1e-3 / 6)
    for end in ("lambda_min", "lambda_max"):
        assert getattr(found, end).interval == getattr(alone, end).interval
        assert getattr(found, end).confidence == 0.999


def ends_of(operator, folder, **more):
    store = None if folder is None else StartStore(folder)
    return measure_ends(operator, steps=60, rtol=1e-8, store=store, **more)


@pytest.mark.parametrize("dies_in", ["first steps", "the last", "its stop", "after it"])
@pytest.mark.parametrize("confirm", [None, False])  # without, they stop where they are settled two steps running
def test_ends_that_were_interrupted_go_on_where_they_were_stored(reference, tmp_path, stored_at_every_step, dies_in, confirm):
    counted = Counting(reference.model, reference.samples)
    whole = ends_of(counted, None, confirm=confirm)
    guarded = counted.taken - whole.steps[0]
    assert whole.steps[0] > 8
    lost = 2 if dies_in == "after it" else 1  # two products with the ends, or the last step again
    done = {"first steps": 7, "the last": whole.steps[0] - 1}.get(dies_in, whole.steps[0])
    killed = Counting(reference.model, reference.samples)
    if dies_in == "after it":  # between this group's end and the result's
        same_ends(ends_of(killed, tmp_path, confirm=confirm), whole)
    else:
        killed.fatal = guarded + done
        stops = itertools.chain(itertools.repeat(None, done - 1), [KeyboardInterrupt()])

        def progress(_):
            if dies_in == "its stop" and (end := next(stops)):
                raise end

        with pytest.raises(KeyboardInterrupt):
            ends_of(killed, tmp_path, confirm=confirm, progress=progress)
    resumed = Counting(reference.model, reference.samples)
    same_ends(ends_of(resumed, tmp_path, confirm=confirm), whole)
    assert resumed.taken == guarded + whole.steps[0] - done + lost
    assert not list(tmp_path.rglob("*.running*"))


def same_ends(one, other):
    for name in ("lambda_min", "lambda_max", "noise", "steps", "matvecs", "saddle_index"):
        assert getattr(one, name) == getattr(other, name), name
    for name, vector in one.vectors.items():
        assert torch.equal(vector, other.vectors[name])


@pytest.mark.parametrize("finished", [False, True])
def test_ends_of_an_operator_that_was_edited_are_measured_anew(reference, tmp_path, stored_at_every_step, finished):

    def edited(model, batch):
        return 1.001 * classification_loss()(model, batch)

    first = Counting(reference.model, reference.samples)
    first.fatal = None if finished else 12
    if finished:
        ends_of(first, tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            ends_of(first, tmp_path)
    assert list(tmp_path.rglob("*.safetensors"))
    same_ends(
        ends_of(HessianOperator(reference.model, reference.samples, edited), tmp_path),
        ends_of(HessianOperator(reference.model, reference.samples, edited), None),
    )


def test_what_was_measured_of_the_products_error_goes_on(diagonal, tmp_path, stored_at_every_step):
    """A stored step was off by more than any that is taken again."""
    for method, stored in ((measure_ends, tmp_path / "ends"), (measure_spectrum, tmp_path / "starts")):
        for fatal in (25, None, None):
            operator = diagonal(np.linspace(-1, 9, 300))
            product, taken = operator.matvec, []

            def matvec(v, product=product, taken=taken, fatal=fatal, operator=operator):
                if len(taken) == fatal:
                    raise KeyboardInterrupt
                taken.append(v)
                operator.error = max(getattr(operator, "error", 0.0), 0.25 if len(taken) == 20 and fatal else 0.0)
                return product(v)

            operator.matvec = matvec
            try:
                found = method(operator, steps=40, store=StartStore(stored))
            except KeyboardInterrupt:
                assert fatal
            else:
                assert found.noise.absolute == 0.25, method
