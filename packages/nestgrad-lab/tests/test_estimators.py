"""OnePassClassifier and OnePassRegressor as scikit-learn sees them."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, make_regression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import nestgrad_lab
from nestgrad import OutOfSpace
from nestgrad_lab import OnePassClassifier, OnePassRegressor
from nestgrad_lab.errors import DataError, OptionError, TrainingDiverged
from nestgrad_lab.estimators.rows import Scale, split

NAMES = ("learning_rate", "momentum", "weight_decay")


@pytest.fixture(scope="module")
def rows():
    """A hundred rows of three inputs of different units, and a curved target of its own unit."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3)) * [1.0, 100.0, 0.01] + [0.0, 50.0, 3.0]
    z = (x - [0.0, 50.0, 3.0]) / [1.0, 100.0, 0.01]
    return x, 1000.0 + 200.0 * (np.sin(2 * z[:, 0]) + z[:, 1])


@parametrize_with_checks([
    OnePassClassifier(backend="torch", max_iter=100, random_state=0),
    OnePassRegressor(backend="torch", max_iter=100, random_state=0),
])  # fmt: skip
def test_scikit_learns_own_checks_pass(estimator, check):
    pytest.importorskip("nestgrad_torch")
    check(estimator)


def test_digits_are_learnt_at_the_default_settings(backend):
    images, labels = load_digits(return_X_y=True)
    fitted = OnePassClassifier(backend=backend, random_state=0).fit(images[:900], labels[:900])
    assert fitted.score(images[900:], labels[900:]) > 0.88
    assert fitted.classes_.tolist() == list(range(10))


def test_backends_fit_alike(rows):
    pytest.importorskip("nestgrad_jax")
    x, y = rows
    torch, jax = (
        OnePassRegressor(backend=backend, max_iter=100, random_state=3).fit(x, y) for backend in ("torch", "jax")
    )
    assert torch.score(x, y) > 0.8
    assert jax.score(x, y) == pytest.approx(torch.score(x, y), abs=0.01)
    np.testing.assert_allclose(jax.history_["outer_loss"], torch.history_["outer_loss"], rtol=0.02)
    for name in NAMES:
        assert jax.hparams_[name] == pytest.approx(torch.hparams_[name], rel=0.05)


def test_a_pipeline_in_cross_validation_predicts_rows_it_has_not_seen(rows):
    pipeline = make_pipeline(StandardScaler(), OnePassRegressor(max_iter=200, batch_size=None, random_state=0))
    assert cross_val_score(pipeline, *rows, cv=3).mean() > 0.6


def test_what_is_tuned_is_left_in_history_and_hparams(rows):
    fitted = OnePassRegressor(max_iter=45, random_state=0).fit(*rows)
    assert set(fitted.history_) == {"step", "inner_loss", "outer_loss", *NAMES}
    assert fitted.history_["step"].tolist() == [10, 20, 30, 40]
    assert fitted.n_iter_ == 45
    for name in NAMES:
        assert fitted.hparams_[name] == fitted.history_[name][-1]
        assert fitted.hparams_[name] != pytest.approx(getattr(fitted, name), rel=1e-3)


def test_tuning_finds_a_rate_that_learns_from_one_that_does_not(rows):
    fitted = OnePassRegressor(max_iter=2000, learning_rate=1e-5, momentum=0.5, random_state=0).fit(*rows)
    held = OnePassRegressor(max_iter=2000, every=2000, learning_rate=1e-5, momentum=0.5, random_state=0).fit(*rows)
    assert fitted.hparams_["learning_rate"] > 1e-3
    assert fitted.score(*rows) > 0.8
    assert held.score(*rows) < 0.3


def test_units_of_inputs_and_targets_do_not_matter(rows):
    x, y = rows
    one = OnePassRegressor(max_iter=50, random_state=0).fit(x, y)
    other = OnePassRegressor(max_iter=50, random_state=0).fit(1e3 * x - 7.0, 1e-3 * y + 5.0)
    np.testing.assert_allclose(1e3 * (other.predict(1e3 * x - 7.0) - 5.0), one.predict(x), rtol=1e-3)


def test_several_targets_are_predicted_in_the_shape_given(rows):
    x, y = rows
    both = np.stack([y, -3.0 * y + 1.0], axis=1)
    fitted = OnePassRegressor(max_iter=200, random_state=0).fit(x, both)
    assert fitted.predict(x).shape == both.shape
    assert fitted.score(x, both) > 0.8
    assert OnePassRegressor(max_iter=10).fit(x, both[:, :1]).predict(x).shape == (100, 1)


def test_carrying_the_state_gives_another_hypergradient(rows):
    weights, carried = (
        OnePassRegressor(max_iter=20, random_state=0, carry=carry).fit(*rows).history_["momentum"]
        for carry in ("weights", "weights_and_state")
    )
    assert weights[0] == pytest.approx(carried[0], rel=1e-4), "Adam's first step is the sign's"
    assert weights[1] != pytest.approx(carried[1], rel=1e-6)


def test_probabilities_are_of_the_classes_in_their_order():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    labels = np.array(["west", "east"])[(x[:, 0] > 0).astype(int)]
    fitted = OnePassClassifier(max_iter=200, random_state=0).fit(x, labels)
    shares = fitted.predict_proba(x)
    assert fitted.classes_.tolist() == ["east", "west"]
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert (fitted.predict(x) == fitted.classes_[shares.argmax(axis=1)]).all()
    assert fitted.score(x, labels) > 0.9


def test_a_fitted_estimator_is_pickled_with_what_it_learnt(rows):
    x, y = rows
    fitted = OnePassRegressor(max_iter=20, random_state=0).fit(x, y)
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    np.testing.assert_array_equal(again.predict(x), fitted.predict(x))
    np.testing.assert_array_equal(clone(fitted).fit(x, y).predict(x), fitted.predict(x))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("hidden", 0, "OnePassRegressor.hidden: got 0, limit: an int of at least 1"),
        ("max_iter", 9, "limit: at least every = 10"),
        ("every", 2.5, "every: got 2.5, limit: an int"),
        ("lookback", True, "lookback: got True"),
        ("batch_size", -1, "batch_size: got -1"),
        ("validation_fraction", 1.0, "strictly between 0 and 1"),
        ("learning_rate", float("nan"), "learning_rate: got nan, limit: a finite number"),
        ("learning_rate", 2.0, "OnePassRegressor.learning_rate 2: beyond the range"),
        ("carry", "state", "limit: 'weights' or 'weights_and_state'"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_limit(rows, name, value, said):
    with pytest.raises(OptionError, match=said):
        OnePassRegressor(**{name: value}).fit(*rows)


def test_a_start_outside_its_space_is_refused(rows):
    with pytest.raises(OutOfSpace, match=r"OnePassRegressor\.momentum"):
        OnePassRegressor(momentum=1.0).fit(*rows)


def test_values_beyond_what_can_be_standardised_are_refused(rows):
    x, y = rows
    with pytest.raises(DataError, match="variance of column 1 overflows"):
        OnePassRegressor().fit(np.where(np.arange(3) == 1, 1e200 * x, x), y)


def test_a_run_that_diverges_says_so():
    x, y = make_regression(60, 30, random_state=0)
    wild = OnePassRegressor(learning_rate=1.0, momentum=0.99, hidden=400, max_iter=500, random_state=0)
    with pytest.raises(TrainingDiverged, match="limit: finite numbers, at learning rate"):
        wild.fit(x, y)


def test_rows_are_split_by_the_share_of_each_class():
    labels = np.repeat([0, 1, 2], [80, 19, 1])
    numbers = np.arange(100.0)[:, None]
    train, valid = split(numbers, labels, labels, 0.2, seed=0)
    assert np.bincount(valid.y, minlength=3).tolist() == [16, 4, 0]
    assert sorted(np.concatenate([train.x, valid.x])[:, 0]) == numbers[:, 0].tolist()
    other, _ = split(numbers, labels, labels, 0.2, seed=1)
    assert not np.array_equal(train.x, other.x)
    one, held = split(numbers[:2], labels[:2], labels[:2], 0.99, seed=0)
    assert (len(one), len(held)) == (1, 1)


def test_a_constant_column_is_shifted_only():
    scale = Scale.of(np.array([[1.0, 5.0], [3.0, 5.0]]), "X")
    np.testing.assert_allclose(scale.normalised(np.array([[2.0, 6.0]])), [[0.0, 1.0]])
    np.testing.assert_allclose(scale.natural(scale.normalised(np.array([[9.0, 9.0]]))), [[9.0, 9.0]])


def test_both_are_names_of_the_package():
    assert nestgrad_lab.OnePassClassifier is OnePassClassifier
    assert OnePassRegressor.__module__ == "nestgrad_lab.estimators.one_pass"
