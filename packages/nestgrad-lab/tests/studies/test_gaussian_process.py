"""The study of figure 2.6, on scikit-learn's digits in place of MNIST."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

from nestgrad_lab.studies import gaussian_process as study
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL, train_rows=60, valid_rows=100, batch=60, points=8, held=6, chunk=9, steps=800, samples=4
)


def found(settings, name, results=None):
    (piece,) = [piece for piece in study.pieces(settings) if piece.name == name]
    context = Context(seed=0, device="cpu", backend="torch", results=results or {}, tick=lambda share: None)
    return study.work(settings, piece, context)


def test_optimised_weights_have_the_losses_of_the_closed_form(digits):
    one = found(TINY, "optimised 9")
    assert len(one["loss"]) == 5
    np.testing.assert_allclose(one["loss"], one["exact"], rtol=5e-3)


def test_the_closed_form_is_ridge_regression_of_each_class(digits):
    import torch
    from sklearn.linear_model import Ridge

    from nestgrad_lab.studies.torch_gaussian_process import _closed_form

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    found = _closed_form((torch.tensor(x), torch.tensor(y)), torch.tensor([[0.5, 2.0]]))
    rows = np.c_[x, np.ones(12)]
    for k, decay in enumerate((0.5, 2.0)):
        right = Ridge(alpha=12 * decay, fit_intercept=False).fit(rows, y[:, k]).coef_
        np.testing.assert_allclose(found["w1"][0, :, k], right[:3], rtol=1e-5)
        np.testing.assert_allclose(found["b1"][0, k], right[3], rtol=1e-5)


def test_a_response_takes_as_many_gradients_as_the_points_do():
    for settings in (study.SMALL, study.FULL, TINY):
        assert settings.response_steps * settings.samples == settings.points * settings.steps


@pytest.mark.parametrize("hidden", [0, 7])
def test_a_response_on_fresh_points_is_better_elsewhere_than_on_the_same_ones(digits, hidden):
    settings = dataclasses.replace(TINY, hidden=hidden, points=4, held=40, steps=400)
    exact = found(dataclasses.replace(settings, steps=1, chunk=100), "optimised 0")["exact"][settings.points :]
    errors = {}
    for name in (study.FIXED, study.FRESH):
        errors[name] = np.abs(found(settings, name)["predicted"][settings.points :] - exact).mean()
    assert errors[study.FRESH] < errors[study.FIXED]


def test_the_gaussian_process_repeats_what_it_has_seen_and_tends_to_its_mean():
    rng = np.random.default_rng(0)
    seen = rng.uniform(-1, 1, (12, 2))
    at = np.concatenate([seen, [[400.0, 400.0]]])
    losses = 5.0 + np.sin(3 * seen).sum(1)
    for centred, far in ((False, 0.0), (True, losses.mean())):
        predicted = study.gaussian_process(at, losses, 0, centred=centred)
        np.testing.assert_allclose(predicted[:-1], losses, atol=1e-2)
        assert predicted[-1] == pytest.approx(far, abs=0.3)


def test_the_table_judges_mean_and_deviation():
    settings = dataclasses.replace(TINY, points=1, held=4)
    true = np.array([9.0, 1.0, 2.0, 3.0, 4.0])
    off = {
        study.ZERO: [-1.0, -2.0, -1.0, -2.0],
        study.CENTRED: [0.1, 0.1, 0.1, 0.1],
        study.FIXED: [3.0, 0.0, 3.0, 0.0],
        study.FRESH: [0.5, -0.4, 0.5, -0.4],
    }
    results = {
        "optimised 0": {"loss": true[:3], "exact": true[:3]},
        "optimised 3": {"loss": true[3:], "exact": true[3:] + 0.25},
        **{name: {"predicted": true + np.array([7.0, *error])} for name, error in off.items()},
    }
    (table,) = study.tables(settings, results)
    assert {row[0]: row[-1] for row in table.rows} == {
        study.ZERO: True,
        study.CENTRED: False,
        study.FIXED: True,
        study.FRESH: "",
    }
    assert table.rows[0][1] == pytest.approx(-1.5)
    assert "within 0.25 of the closed form" in table.notes[1]


def test_the_command_draws_both_figures(lab, digits):
    small = {"train_rows": 20, "valid_rows": 30, "points": 5, "held": 7, "steps": 4, "samples": 2, "chunk": 10}
    options = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    result = lab("study", "gaussian-process", *options, "--out", "out")
    assert result.exit_code == 0, result.output
    for name in ("errors", "scatter"):
        assert (lab.folder / "out" / f"{name}.png").stat().st_size > 5000
