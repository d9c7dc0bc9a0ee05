"""The study of figure 3.6, on scikit-learn's digits in place of MNIST."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

from nestgrad_lab.errors import OptionError
from nestgrad_lab.studies import distillation as study
from nestgrad_lab.studies.distillation_settings import METHODS
from nestgrad_lab.studies.study import Context, Piece

TINY = dataclasses.replace(
    study.SMALL,
    valid_rows=(300,),
    test_rows=300,
    runs=2,
    unrolled_steps=20,
    real_draws=4,
    rate=0.3,
    hyper_steps=60,
    outer_rate=0.03,
    looks=2,
    fresh_steps=200,
)


def found(piece, settings=TINY, seed=0):
    context = Context(seed=seed, device="cpu", backend="torch", results={}, tick=lambda share: None)
    return study.work(settings, piece, context)


def of(method):
    return Piece(method, {"method": method, "rows": 300})


@pytest.fixture
def real(digits):
    return found(Piece(study.REAL))


@pytest.mark.parametrize("method", METHODS)
def test_ten_learned_images_teach_more_than_ten_real_ones(real, method):
    one = found(of(method))
    assert one["images"].shape == (2, 10, 64)
    assert one["accuracy"].min() > 0.8
    assert one["accuracy"].min() > real["accuracy"].max()
    np.testing.assert_array_equal(one["step"], [0, 30, 60])
    np.testing.assert_allclose(one["seen_accuracy"][-1], one["accuracy"])
    assert (one["seen_accuracy"][0] < 0.2).all()  # images of zeros teach nothing
    assert (one["seen_loss"][-1] < one["seen_loss"][0]).all()
    assert not np.array_equal(one["images"][0], one["images"][1])


def test_real_images_are_one_of_each_class(real, digits):
    both = digits.merged
    for images in real["images"]:
        places = [np.flatnonzero((np.abs(both.x - image) < 1e-5).all(1))[0] for image in images]
        np.testing.assert_array_equal(both.y[places], range(10))


def test_a_run_is_the_seeds_own(digits):
    short = dataclasses.replace(TINY, runs=1, hyper_steps=5)
    once, again, other = (found(of("unrolled"), short, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(once["images"], again["images"])
    assert not np.array_equal(once["images"], other["images"])


def test_tables_and_figures(real):
    results = {study.REAL: real, study.ROWS: found(Piece(study.ROWS, {"rows": 300}))}
    results |= {f"{method}, 300 rows": found(of(method)) for method in ("cg",)}
    settings = dataclasses.replace(TINY, methods=("cg",))
    (table,) = study.tables(settings, results)
    shown = {row[0]: row[1:] for row in table.rows}
    assert shown[study.REAL][0] == 4
    assert shown[study.REAL][-1] is False
    assert shown["cg, 300 rows"][1] == pytest.approx(results["cg, 300 rows"]["accuracy"].mean())
    assert set(study.figures(settings, results)) == {"images", "accuracy"}


def test_what_cannot_be_learned_is_named(digits, monkeypatch):
    with pytest.raises(OptionError, match="'adjoint', limit: identity, neumann, cg, unrolled"):
        found(of("cg"), dataclasses.replace(TINY, methods=("adjoint",)))
    wide = dataclasses.replace(digits, features=("a",) * 60)
    monkeypatch.setattr("nestgrad_lab.studies.torch_draws.load", lambda name: wide)
    with pytest.raises(OptionError, match="60 inputs, limit: square grey images"):
        found(of("cg"))
