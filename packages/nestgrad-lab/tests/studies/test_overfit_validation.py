"""The study of figure 3.5, on scikit-learn's digits in place of MNIST."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

from nestgrad_lab.errors import OptionError
from nestgrad_lab.studies import overfit_validation as study
from nestgrad_lab.studies.overfit_validation_settings import MODELS
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.SMALL,
    rows=20,
    test_rows=300,
    runs=2,
    hidden=12,
    filters=(2, 3),
    rate=3e-3,
    outer_rate=0.1,
    hyper_steps=80,
    looks=4,
)
WEIGHTS = {"linear": 650, "mlp": 64 * 12 + 12 + 12 * 10 + 10, "convolutional": 2 * 26 + 3 * 51 + 3 * 4 * 10 + 10}


def found(settings, model, method):
    context = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)
    (piece,) = [each for each in study.pieces(settings) if each.name == f"{model}, {method}"]
    return study.work(settings, piece, context)


@pytest.mark.parametrize(("model", "method"), [("linear", "identity"), ("linear", "neumann"), ("mlp", "identity")])
def test_a_decay_for_each_weight_fits_the_validation_rows_and_no_others(digits, model, method):
    longer = dataclasses.replace(TINY, runs=1, rate=1e-2, outer_rate=0.2, hyper_steps=100)
    fixed, one = found(longer, model, "fixed"), found(longer, model, method)
    assert one["accuracy"][-1, 0, 1] > fixed["accuracy"][-1, 0, 1] + 0.05
    assert one["loss"][-1, 0, 1] < 0.3 * fixed["loss"][-1, 0, 1]
    assert one["loss"][-1, 0, 2] > 5 * one["loss"][-1, 0, 1]


@pytest.mark.parametrize("model", MODELS)
def test_every_weight_has_a_decay_which_moves_unless_it_is_fixed(digits, model):
    short = dataclasses.replace(TINY, hyper_steps=4, looks=4)
    fixed, moved = (found(short, model, method) for method in ("fixed", "neumann"))
    assert fixed["hyperparameters"] == moved["hyperparameters"] == WEIGHTS[model]
    np.testing.assert_allclose(fixed["log_decay"], -4.0, atol=1e-6)
    assert (np.abs(moved["log_decay"] + 4.0) > 1e-3).mean() > 0.3
    assert moved["loss"].shape == (5, 2, 3)
    assert np.isfinite(moved["loss"]).all()


def test_the_convolutional_outputs_are_those_of_torch_s_layers():
    import torch

    from nestgrad_lab.studies.torch_overfit_validation import convolved

    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(1, 2, 5, padding=2), torch.nn.Conv2d(2, 3, 5, padding=2)
    last = torch.nn.Linear(3 * 4, 10)
    net = torch.nn.Sequential(
        first, torch.nn.ReLU(), torch.nn.MaxPool2d(2), second, torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), last,
    )  # fmt: skip
    w = {
        "k1": first.weight, "b1": first.bias, "k2": second.weight, "b2": second.bias,
        "w3": last.weight.T, "b3": last.bias,
    }  # fmt: skip
    x = torch.randn(6, 64)
    torch.testing.assert_close(convolved(w, x), net(x.reshape(6, 1, 8, 8)))


def test_tables_and_figures_are_of_the_last_step(digits):
    settings = dataclasses.replace(TINY, models=("linear",), methods=("fixed", "identity"))
    results = {piece.name: found(settings, *piece.name.split(", ")) for piece in study.pieces(settings)}
    (table,) = study.tables(settings, results)
    for row in table.rows:
        one = results[row[0]]
        np.testing.assert_allclose(row[2:5], one["accuracy"][-1].mean(0))
        assert row[5] == pytest.approx(one["loss"][-1, :, 1].mean())
        assert row[6] <= row[5]
        assert row[8] <= row[7]
    assert set(study.figures(settings, results)) == {"losses"}


def test_an_unknown_model_is_named(digits):
    with pytest.raises(OptionError, match="alexnet, fixed: no such pair, limit: linear, mlp, convolutional"):
        found(dataclasses.replace(TINY, models=("alexnet",)), "alexnet", "fixed")
