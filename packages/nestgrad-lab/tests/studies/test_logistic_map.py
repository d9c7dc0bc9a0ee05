"""The study of the logistic map."""

import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

from nestgrad_lab.studies import logistic_map as study
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL, points=16, settle=300, steps=200, shown=5, exact_steps=2500, starts=2, at_once=8
)
CONTEXT = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)


@pytest.fixture(scope="module")
def results():
    return {piece.name: study.work(TINY, piece, CONTEXT) for piece in study.pieces(TINY)}


def test_exponents_are_those_of_the_slopes(results):
    from nestgrad_lab.studies.torch_logistic_map import iterated

    growth, start = np.array([3.7, 3.2]), np.array([0.2, 0.4])
    found, seen = iterated(growth, start, 0, 50, CONTEXT)
    np.testing.assert_allclose(seen[:2], [start, growth * start * (1 - start)], rtol=1e-14)
    np.testing.assert_allclose(found, np.log(np.abs(growth * (1 - 2 * seen))).mean(0), rtol=1e-10)


def test_what_is_known_is_found(results):
    one = results["known"]
    found = dict(zip(study.KNOWN, one["exponents"], strict=True))
    assert found[2.8] == pytest.approx(math.log(0.8), abs=1e-6)
    assert found[3.2] == pytest.approx(0.5 * math.log(0.16), abs=1e-6)
    assert found[3.83] < 0.0 < found[4.0]
    assert np.abs(one["four"] - math.log(2.0)).max() < 1e-2
    assert one["four"].mean() == pytest.approx(math.log(2.0), abs=2e-3)


def test_the_sweep_is_whole_and_agrees_with_the_closed_form(results):
    both = study.swept(results)
    np.testing.assert_array_equal(both["growth"], study.sweep(TINY))
    assert both["values"].shape == (TINY.shown, TINY.points)
    stable = both["growth"] < 2.9
    exact = [study.known(float(one)) for one in both["growth"][stable]]
    np.testing.assert_allclose(both["exponents"][stable], exact, atol=1e-3)
    first = float(study.tables(TINY, results)[1].rows[0][0])
    assert study.ONSET < first < 3.75
    assert set(study.figures(TINY, results)) == {"diagram"}


def test_the_closed_form_ends_where_nothing_is_known():
    assert study.known(3.0) == 0.0
    assert study.known(1.0 + math.sqrt(6.0)) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(study.known(3.7))
    assert study.known(2.0) == -math.inf
