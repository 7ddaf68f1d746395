import numpy as np
import pytest

from longva import LongVA
from longva.nano.reproduction import calibration
from longva.nano.reproduction.calibration import (
    drawn_films,
    fit_confidence,
    fit_head,
    fit_reach,
    logistic,
    look_up_of,
    tally,
)


@pytest.fixture
def nano(monkeypatch) -> LongVA:
    monkeypatch.setattr(calibration, "HEAD_FILMS", 1)
    monkeypatch.setattr(calibration, "CONFIDENCE_FILMS", 3)
    monkeypatch.setattr(calibration, "LONGEST", 300)
    return LongVA.from_pretrained("nano")


def test_a_logistic_regression_finds_the_weights_that_drew_its_outcomes():
    rng = np.random.default_rng(0)
    inputs = np.column_stack([np.ones(20_000), rng.normal(size=(20_000, 2))])
    truth = np.array([-0.5, 1.5, -2.0])
    outcomes = (rng.random(20_000) < 1 / (1 + np.exp(-inputs @ truth))).astype(float)
    assert logistic(inputs, outcomes) == pytest.approx(truth, abs=0.1)


def test_films_are_as_often_short_as_long():
    frames = [len(film.frames) for _, film in drawn_films(0, 30, 400)]
    assert 200 <= min(frames) < 230 and 350 < max(frames) <= 400


def test_the_head_and_the_reach_that_are_chosen_find_what_is_asked(nano, monkeypatch):
    shipped = dict(nano.model.config.look_up)
    nano.model.config.look_up = None
    fit_head(nano)
    fit_reach(nano)
    found = nano.model.config.look_up
    assert found.keys() == shipped.keys() and found["reach"] in calibration.REACHES
    other = look_up_of([2, 0], found["reach"])  # of layer 2, which looks nothing up
    monkeypatch.setattr(calibration, "FIRST_SEED", 900_000)  # films it was not fitted on
    best, worst = tally(nano, [found, other], ("when, ", "first", "count "))
    assert best >= 5 and best > worst


def test_confidence_is_fitted_anew_on_other_films(nano):
    shipped = nano.model.config.confidence
    fit_confidence(nano)
    found = nano.model.config.confidence
    assert found.keys() == shipped.keys() and found["shown"]["match"] > 0
    assert found["refusals"] == ["not", "no"]
