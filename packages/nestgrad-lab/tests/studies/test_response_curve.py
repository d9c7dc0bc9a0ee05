"""The study of figures 2.2 and 2.4, on scikit-learn's digits in place of MNIST."""

import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("nestgrad_torch")

from nestgrad_lab.studies import response_curve as study
from nestgrad_lab.studies.study import Context

TINY = dataclasses.replace(
    study.TEXT,
    train_rows=40,
    valid_rows=200,
    outer_rows=200,
    global_steps=150,
    global_rate=3e-3,
    global_outer_steps=20,
    local_steps=100,
    grid=(-5.0, 1.0, 5),
    retrain_steps=2500,
    retrain_rate=2e-3,
)


def found(settings, name, seed=0):
    (piece,) = [piece for piece in study.pieces(settings) if piece.name == name]
    context = Context(seed=seed, device="cpu", backend="torch", results={}, tick=lambda share: None)
    return study.work(settings, piece, context)


def test_retrained_weights_are_those_of_the_closed_form(digits):
    one = found(TINY, "retrained")
    assert one["distance"].max() < 1e-2
    exact = np.interp(one["at"], study.searched(TINY), one["exact"])
    np.testing.assert_allclose(one["loss"], exact, rtol=1e-3)
    inside = one["at"][one["loss"].argmin()]
    assert TINY.grid[0] < inside < TINY.grid[1]


def test_a_wide_local_response_finds_the_minimum_that_retraining_has(digits):
    settings = dataclasses.replace(
        TINY, local_variances=(0.1,), local_starts=(0.0,), local_steps=1500, local_rate=3e-3, local_outer_rate=1e-2
    )
    retrained = found(dataclasses.replace(settings, retrain_steps=1), "retrained")
    local = found(settings, "local, variance 0.1, from 0")
    best = study.searched(settings)[retrained["exact"].argmin()]
    assert local["path"][0] == 0.0
    assert abs(local["path"][-1] - best) < 1.0
    assert abs(local["path"][-1] - best) < abs(local["path"][0] - best) / 2


def test_the_global_response_moves_lambda_only_after_it_is_trained(digits):
    one = found(TINY, "global")
    assert one["path"][0] == TINY.start
    assert one["path_step"][-1] == TINY.global_outer_steps
    assert 0 < abs(one["path"][-1] - TINY.start) <= TINY.global_outer_steps * TINY.global_outer_rate * 1.01
    again = found(TINY, "global")
    np.testing.assert_array_equal(one["loss"], again["loss"])
    assert not np.array_equal(one["loss"], found(TINY, "global", seed=1)["loss"])


def test_the_released_loss_is_a_log_density_and_its_penalty_a_norm(digits):
    import torch

    from nestgrad_lab.studies.torch_response_curve import Curves

    context = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)
    settings = dataclasses.replace(study.RELEASED, valid_rows=20)
    curves = Curves(settings, context)
    x, y = curves._valid
    outputs = x @ curves._start["w1"] + curves._start["b1"]
    density = torch.distributions.Normal(outputs, 0.1).log_prob(y)
    loss = curves._inner_loss(curves._start, {"decay": torch.tensor(2.0)}, (x, y))
    norm = math.sqrt(sum(float(value.square().sum()) for value in curves._start.values()))
    assert float(loss) == pytest.approx(-float(density.mean()) + 2.0 * norm, rel=1e-5)


def test_the_released_prior_is_clipped_and_that_of_the_text_is_not(digits, monkeypatch):
    from nestgrad_lab.studies.torch_response_curve import Curves

    context = Context(seed=0, device="cpu", backend="torch", results={}, tick=lambda share: None)
    import nestgrad_torch as ng

    settings = dataclasses.replace(study.RELEASED, valid_rows=20, samples=2000)
    curves = Curves(settings, context)
    tuner = curves._tuner(
        1.0,
        response=ng.LinearResponse(),
        optimizer=ng.optim.sgd(0.1),
        outer_rate=0.1,
        distribution=ng.Normal(variance=9.0, mean=1.0),
    )
    noise = curves._noise(tuner, {"step": 3})
    drawn = 1.0 + 3.0 * noise.numpy()
    assert drawn.max() == pytest.approx(4.0)
    assert 0.1 < (drawn > 4.0 - 1e-4).mean() < 0.22  # one tail of a normal beyond one deviation
    plain = Curves(dataclasses.replace(study.TEXT, train_rows=10, valid_rows=20), context)
    assert plain._noise(tuner, {"step": 3}) is None


def test_too_many_rows_are_refused(digits):
    from nestgrad_lab.errors import DataError

    with pytest.raises(DataError, match=r"100000 rows asked for, limit: \d+, all there are"):
        found(dataclasses.replace(TINY, train_rows=100_000), "retrained")


def test_the_table_judges_by_the_grids_step():
    curve = {"at": np.array([-1.0, 0.0, 1.0]), "loss": np.array([2.0, 1.0, 2.0])}
    settings = dataclasses.replace(TINY, grid=(-1.0, 1.0, 3))
    results = {
        "retrained": curve,
        "global": {"at": np.array([0.9, 1.0]), "loss": np.array([0.5, 0.6]), "path": np.array([0.0, 1.5])},
        "local, variance 0.1, from 1": {**curve, "path": np.array([1.0, -0.2])},
    }
    (table,) = study.tables(settings, results)
    judged = {row[0]: row[-1] for row in table.rows}
    assert judged == {
        "retrained, on the grid": True,
        "global response, of 1000 points": True,
        "global response, λ moved through it": False,
        "local, variance 0.1, from 1, λ at the end": True,
    }


def test_the_command_draws_both_figures(lab, digits):
    sizes = {"train_rows": 20, "valid_rows": 50, "retrain_steps": 5}
    steps = {"global_steps": 5, "global_outer_steps": 3, "local_steps": 3}
    options = [word for name, value in {**sizes, **steps}.items() for word in ("--set", f"{name}={value}")]
    result = lab("study", "response-curve", *options, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "Minimisers of the validation loss" in result.output
    for name in ("curves", "paths"):
        assert (lab.folder / "out" / f"{name}.png").stat().st_size > 5000
