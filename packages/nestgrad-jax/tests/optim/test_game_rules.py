"""Rules for games: identities between them, their formulas by complex numbers, derivatives in their settings."""

import cmath

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim

pytestmark = pytest.mark.usefixtures("x64")
_RNG = np.random.default_rng(3)
GRADS = {"b": _RNG.normal(size=(6, 2)), "w": _RNG.normal(size=(6, 3))}
RATE, MODULUS, ARGUMENT = 0.1, 0.8, 0.6
BETA = cmath.rect(MODULUS, ARGUMENT)


def moves(rule, dtype=np.float64):
    """The rule's updates for the gradients in turn."""
    params = {name: jnp.zeros(values.shape[1], dtype) for name, values in GRADS.items()}
    state, found = rule.init(params), []
    for step in range(6):
        grads = {name: jnp.asarray(values[step], dtype) for name, values in GRADS.items()}
        updates, state = rule.update(grads, state, params)
        found.append(updates)
    return {name: np.stack([np.asarray(each[name]) for each in found]) for name in GRADS}


def close(ours, theirs, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14), ours, theirs)


def by_complex_numbers(grads):
    """Re μ after each gradient, with μ ← β μ - g."""
    mu, found = np.zeros(grads.shape[1], complex), []
    for g in grads:
        mu = BETA * mu - g
        found.append(mu.real.copy())
    return np.stack(found)


def test_m1_without_modulus_it_is_gradient_descent_bit_for_bit():
    jax.tree.map(
        np.testing.assert_array_equal, moves(optim.complex_momentum(RATE, 0.0, ARGUMENT)), moves(optim.sgd(RATE))
    )


def test_m1_on_the_real_line_it_is_heavy_ball_and_negative_momentum():
    close(moves(optim.complex_momentum(RATE, MODULUS, 0.0)), moves(optim.sgd(RATE, MODULUS)))
    close(moves(optim.complex_momentum(RATE, MODULUS, np.pi)), moves(optim.sgd(RATE, -MODULUS)))


def test_m2_the_conjugate_moves_alike():
    close(
        moves(optim.complex_momentum(RATE, MODULUS, -ARGUMENT)), moves(optim.complex_momentum(RATE, MODULUS, ARGUMENT))
    )


def test_m3_the_real_form_is_the_complex_one():
    expected = {name: RATE * by_complex_numbers(grads) for name, grads in GRADS.items()}
    close(moves(optim.complex_momentum(RATE, MODULUS, ARGUMENT)), expected)


def test_m4_a_step_weighs_past_gradients_by_cosines():
    weights = [MODULUS**k * np.cos(k * ARGUMENT) for k in range(6)]
    expected = {
        name: np.stack([-RATE * sum(weights[k] * grads[j - k] for k in range(j + 1)) for j in range(6)])
        for name, grads in GRADS.items()
    }
    close(moves(optim.complex_momentum(RATE, MODULUS, ARGUMENT)), expected)


def test_m5_it_is_aggregated_momentum_with_a_pair_of_conjugates():
    pair = moves(optim.aggregated_momentum(RATE, [BETA, BETA.conjugate()]), np.complex128)
    for values in pair.values():
        assert np.abs(values.imag).max() < 1e-15
    expected = moves(optim.complex_momentum(RATE, MODULUS, ARGUMENT))
    close(jax.tree.map(np.real, pair), expected)


def test_linked_momenta_are_the_others_by_their_matrix():
    betas = (0.0, 0.5, 0.9)
    linked = optim.recurrently_linked_momentum(np.diag(betas), np.ones(3), np.full(3, RATE / 3))
    mean = {name: np.mean([moves(optim.sgd(RATE, beta))[name] for beta in betas], axis=0) for name in GRADS}
    close(moves(linked), mean)
    close(moves(optim.aggregated_momentum(RATE, betas)), mean)
    close(moves(optim.aggregated_momentum(RATE, jnp.asarray(betas))), mean)
    rotation = np.array([[BETA.real, -BETA.imag], [BETA.imag, BETA.real]])
    turned = optim.recurrently_linked_momentum(rotation, np.array([1.0, 0.0]), np.array([RATE, 0.0]))
    close(moves(turned), moves(optim.complex_momentum(RATE, MODULUS, ARGUMENT)))


def test_m6_on_a_linear_game_the_state_is_a_power_of_one_matrix():
    jacobian = _RNG.normal(size=(3, 3))
    game = ng.Game(
        {name: lambda players, batch, row=row: _linear(players, row) for row, name in enumerate(("a", "b", "c"))}
    )

    def _linear(players, row):
        """A loss whose slope in player `row` is that row of Ĝω."""
        own = players["abc"[row]]
        others = sum(jacobian[row, k] * players["abc"[k]] for k in range(3) if k != row)
        return own * others + 0.5 * jacobian[row, row] * own**2

    start = _RNG.normal(size=3)
    play = ng.Play(game, optimizer=optim.complex_momentum(RATE, MODULUS, ARGUMENT))
    state = play.init({name: start[k] for k, name in enumerate("abc")})
    for _ in range(7):
        state, _ = play.step(state)
    eye, none = np.eye(3), np.zeros((3, 3))
    one = np.block(
        [
            [BETA.real * eye, -BETA.imag * eye, -jacobian],
            [BETA.imag * eye, BETA.real * eye, none],
            [RATE * BETA.real * eye, -RATE * BETA.imag * eye, eye - RATE * jacobian],
        ]
    )
    found = [float(state["opt_state"][name][part]) for part in ("real", "imag") for name in "abc"]
    found += [float(state["players"][name]) for name in "abc"]
    expected = np.linalg.matrix_power(one, 7) @ np.concatenate([np.zeros(6), start])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_complex_adam_is_its_formula():
    expected = {}
    for name, grads in GRADS.items():
        v, steps = np.zeros(grads.shape[1]), []
        for t, (g, mu) in enumerate(zip(grads, by_complex_numbers(grads), strict=True), start=1):
            v = 0.99 * v + 0.01 * g**2
            steps.append(RATE * mu / (np.sqrt(v / (1 - 0.99**t)) + 1e-6))
        expected[name] = np.stack(steps)
    close(moves(optim.complex_adam(RATE, MODULUS, ARGUMENT, 0.99, 1e-6)), expected, rtol=1e-11)


def test_optimism_takes_the_last_change_once_more():
    before = {name: np.concatenate([grads[:1], grads[:-1]]) for name, grads in GRADS.items()}
    close(moves(optim.optimistic(RATE)), {name: -RATE * (2 * grads - before[name]) for name, grads in GRADS.items()})


SETTINGS = {
    "complex_momentum": (optim.complex_momentum, (RATE, MODULUS, ARGUMENT)),
    "complex_adam": (optim.complex_adam, (RATE, MODULUS, ARGUMENT, 0.99)),
    "aggregated_momentum": (lambda rate, a, b: optim.aggregated_momentum(rate, [a, b]), (RATE, 0.3, 0.9)),
    "recurrently_linked_momentum": (
        lambda a, b: optim.recurrently_linked_momentum(jnp.diag(jnp.stack([a, b])), jnp.ones(2), jnp.stack([a, b])),
        (0.3, 0.8),
    ),
    "optimistic": (optim.optimistic, (RATE,)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_have_derivatives(name):
    """Central differences of where five steps lead."""
    make, settings = SETTINGS[name]

    def ended(values):
        rule = make(*values)
        w = jnp.asarray([0.5, -1.0])
        state = rule.init(w)
        for _ in range(5):
            updates, state = rule.update(jnp.cos(w), state, w)
            w = w + updates
        return jnp.sum(w**2)

    values = jnp.asarray(settings, jnp.float64)
    slopes = jax.jit(jax.grad(ended))(values)
    value = jax.jit(ended)
    for k in range(values.size):
        step = 1e-5 * np.eye(values.size)[k]
        difference = (value(values + step) - value(values - step)) / 2e-5
        np.testing.assert_allclose(slopes[k], difference, rtol=1e-6, atol=1e-9)
        assert abs(float(slopes[k])) > 1e-4


def test_rates_may_be_schedules_and_settings_a_tree():
    def schedule(count):
        return jnp.where(count < 3, RATE, 2 * RATE)

    fixed = moves(optim.complex_momentum(RATE, MODULUS, ARGUMENT))
    changed = moves(optim.complex_momentum(schedule, MODULUS, ARGUMENT))
    for name in GRADS:
        np.testing.assert_allclose(changed[name][:3], fixed[name][:3], rtol=1e-13)
        np.testing.assert_allclose(changed[name][3:], 2 * fixed[name][3:], rtol=1e-13)
    each = moves(optim.complex_momentum(RATE, {"b": 0.0, "w": MODULUS}, ARGUMENT))
    np.testing.assert_allclose(each["w"], fixed["w"], rtol=1e-13)  # numbers are turned in another order than arrays
    np.testing.assert_array_equal(each["b"], moves(optim.sgd(RATE))["b"])


def test_momenta_that_do_not_fit_are_refused():
    for call in (
        lambda: optim.aggregated_momentum(0.1, []),
        lambda: optim.recurrently_linked_momentum(np.eye(2), np.ones(3), np.ones(2)),
        lambda: optim.recurrently_linked_momentum(np.eye(2), np.ones(2), np.ones((2, 1))),
    ):
        with pytest.raises(ng.InvalidInput, match=r"momentum.*limit.*Remedy"):
            call()
