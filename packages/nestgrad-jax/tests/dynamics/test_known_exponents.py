"""Lyapunov exponents in closed form: of one weight, a bilinear game, momentum and the logistic map."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim

pytestmark = pytest.mark.usefixtures("x64")


def bent(state):
    """w ← w - α (w³ - w), of its own."""
    return {"w": state["w"] - 0.3 * (state["w"] ** 3 - state["w"])}


def test_one_weights_exponent_is_the_mean_log_of_its_slopes():
    """Over as many steps as fill no whole number of parts, and so is its derivative."""

    def by_hand(w, steps):
        logs = 0.0
        for _ in range(steps):
            logs += np.log(abs(1 - 0.3 * (3 * w**2 - 1)))
            w -= 0.3 * (w**3 - w)
        return logs / steps, w

    for steps in (7, 18):
        found = ng.lyapunov_gradient(bent, {"w": np.array([0.37])}, num_steps=steps)
        exponent, end = by_hand(0.37, steps)
        np.testing.assert_allclose(found.found.exponents, [exponent], rtol=1e-12)
        np.testing.assert_allclose(found.found.end["w"], [end], rtol=1e-12)
        h = 1e-6
        difference = (by_hand(0.37 + h, steps)[0] - by_hand(0.37 - h, steps)[0]) / (2 * h)
        np.testing.assert_allclose(found.gradient["w"], [difference], rtol=1e-6)
        refined = ng.ExponentSpectrum(refinements=1)
        assert (
            ng.lyapunov_exponents(bent, {"w": np.array([0.37])}, num_steps=steps, method=refined).products == 3 * steps
        )


def test_descents_exponents_change_sign_where_it_bifurcates():
    """At rest the map is w ← (1 - αh) w: exponents ln |1 - αh|, for every number of steps."""
    curves = jnp.asarray([2.5, 1.5, -0.4])
    game = ng.Game({"w": lambda players, batch: 0.5 * jnp.sum(batch * players["w"] ** 2)})
    play = ng.Play(game, optimizer=optax.sgd(1.0))

    def update(state):
        return play.update(state, curves)

    for steps in (1, 5):
        found = ng.lyapunov_exponents(update, play.init({"w": np.zeros(3)}), num_steps=steps)
        np.testing.assert_allclose(found.exponents, np.log(np.abs(1 - np.asarray(curves))), atol=1e-13)
        assert (np.asarray(found.exponents) > 0).tolist() == [True, False, True]


def bilinear(sigma):
    return ng.Game(
        {
            "x": lambda players, batch: sigma * players["x"] * players["y"],
            "y": lambda players, batch: -sigma * players["x"] * players["y"],
        }
    )


def test_simultaneous_descent_of_a_bilinear_game_parts_alike_in_every_direction():
    play = ng.Play(bilinear(0.7), optimizer=optax.sgd(0.3))
    state = play.init({"x": 0.4, "y": -1.0})
    found = ng.lyapunov_exponents(play.update, state, num_steps=5)
    np.testing.assert_allclose(found.exponents, [0.5 * np.log(1 + 0.21**2)] * 2, rtol=1e-12)


def test_momentums_exponents_are_those_of_its_characteristic_cubic():
    """(z - 1)(z² - 2 β_r z + |β|²) + α e z (z - β_r) = 0 for both e = ± iσ; both players' states are in the map."""
    rate, beta, sigma = 0.5, 0.6 * np.exp(0.9j), 0.8
    play = ng.Play(bilinear(sigma), optimizer=optim.complex_momentum(rate, abs(beta), np.angle(beta)))
    state = play.init({"x": 0.4, "y": -1.0})
    roots = np.roots(
        [
            1.0,
            -1 - 2 * beta.real + 1j * rate * sigma,
            abs(beta) ** 2 + 2 * beta.real - 1j * rate * sigma * beta.real,
            -(abs(beta) ** 2),
        ]
    )
    wanted = np.sort(np.repeat(np.log(np.abs(roots)), 2))[::-1]
    found = ng.lyapunov_exponents(play.update, state, num_steps=4096)
    np.testing.assert_allclose(found.exponents, wanted, atol=2e-3)
    np.testing.assert_allclose(found.exponents.sum(), wanted.sum(), rtol=1e-10)


def test_the_logistic_maps_exponent_is_ln_2():
    found = ng.lyapunov_exponents(lambda s: {"x": 4.0 * s["x"] * (1.0 - s["x"])}, {"x": 0.3141}, num_steps=2**15)
    np.testing.assert_allclose(found.exponents, [np.log(2)], atol=1e-3)
    # Some define it by ln(dᵀJᵀJd), which is twice this.
    assert abs(float(found.exponents[0]) - 2 * np.log(2)) > 0.5
