import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng
from nestgrad_jax import optim

_spec = importlib.util.spec_from_file_location("update_formulas", pathlib.Path(__file__).with_name("formulas.py"))
formulas = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(formulas)

pytestmark = pytest.mark.usefixtures("x64")
_RNG = np.random.default_rng(5)
PARAMS = {"b": _RNG.normal(size=2), "w": _RNG.normal(size=3)}
A = np.eye(5) + 0.2 * _RNG.normal(size=(5, 5))

TWINS = {
    "sgd": (optim.sgd(0.03), optax.sgd(0.03)),
    "sgd with momentum": (optim.sgd(0.03, 0.7), optax.sgd(0.03, 0.7)),
    "sgd with nesterov": (optim.sgd(0.03, 0.7, nesterov=True), optax.sgd(0.03, 0.7, nesterov=True)),
    "sgd with decay": (
        optim.sgd(0.03, 0.7, 0.1),
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.03, 0.7)),
    ),
    "adam": (optim.adam(0.03, 0.8, 0.95), optax.adam(0.03, 0.8, 0.95)),
    "adamw": (optim.adamw(0.03, weight_decay=0.1), optax.adamw(0.03, weight_decay=0.1)),
    "lion": (optim.lion(0.03, weight_decay=0.1), optax.lion(0.03, weight_decay=0.1)),
    "rmsprop": (
        optim.rmsprop(0.03, 0.9, momentum=0.5),
        optax.rmsprop(0.03, 0.9, eps_in_sqrt=False, momentum=0.5),
    ),
    "rmsprop, centered": (
        optim.rmsprop(0.03, 0.9, centered=True),
        optax.rmsprop(0.03, 0.9, eps_in_sqrt=False, centered=True),
    ),
    "adam on a cosine": (
        optim.adam(optim.cosine(0.1, 60, 0.1)),
        optax.adam(optax.cosine_decay_schedule(0.1, 60, 0.1)),
    ),
    "adam on optax's own cosine": (
        optim.adam(optax.cosine_decay_schedule(0.1, 60)),
        optax.adam(optax.cosine_decay_schedule(0.1, 60)),
    ),
    "sgd on pieces": (
        optim.sgd(optim.piecewise_constant([30, 60], [0.1, 0.01, 0.05])),
        optax.sgd(optax.piecewise_constant_schedule(0.1, {30: 0.1, 60: 5.0})),
    ),
}


def arrays(tree):
    return jax.tree.map(jnp.asarray, tree)


def bowl(params):
    """A loss whose minimum 100 steps do not reach: around one, rules of signs would turn rounding into steps."""
    w = jnp.concatenate([params["b"], params["w"]])
    return jnp.sum(jnp.sqrt(1.0 + (A @ w - 20.0) ** 2))


def trajectory(rule, steps):
    def step(carry, _):
        params, state = carry
        with jax.numpy_dtype_promotion("standard"):  # optax's rules need it
            updates, state = rule.update(jax.grad(bowl)(params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, state), params

    params = arrays(PARAMS)
    with jax.numpy_dtype_promotion("standard"):
        state = rule.init(params)
    return jax.lax.scan(step, (params, state), length=steps)[1]


@pytest.mark.parametrize("name", TWINS)
def test_a_rule_moves_weights_as_optax_does(name):
    ours, theirs = (trajectory(rule, 100) for rule in TWINS[name])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, theirs)
    assert np.abs(ours["w"][-1] - ours["w"][0]).max() > 0.05


def test_schedules_are_optax_schedules():
    counts = jnp.arange(100)
    mine, own = optim.cosine(0.3, 70.0, 0.2), optax.cosine_decay_schedule(0.3, 70, 0.2)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(jax.vmap(mine)(counts), jax.vmap(own)(counts), rtol=1e-12)
        own = optax.piecewise_constant_schedule(2.0, {10: 0.5, 20: 3.0})
        mine = optim.piecewise_constant([10, 20], jnp.array([2.0, 1.0, 3.0]))
        np.testing.assert_allclose(jax.vmap(mine)(counts), jax.vmap(own)(counts), rtol=1e-12)


def test_a_schedule_with_the_wrong_number_of_values_is_refused():
    for boundaries, values in (([5], [0.1]), ([5, 3], [0.1, 0.2, 0.3])):
        with pytest.raises(ng.InvalidInput, match=r"piecewise_constant.*Remedy"):
            optim.piecewise_constant(boundaries, values)


def test_sgd_is_dampened_from_the_second_step_on():
    rule = optim.sgd(1.0, 0.5, dampening=0.25)
    g = {"w": jnp.array([2.0])}
    first, state = rule.update(g, rule.init(g), g)
    second, state = rule.update(g, state, g)
    assert float(first["w"][0]) == -2.0
    assert float(second["w"][0]) == -(0.5 * 2.0 + 0.75 * 2.0)
    with pytest.raises(ng.InvalidInput, match="nesterov"):
        optim.sgd(1.0, 0.5, dampening=0.25, nesterov=True)


def test_a_decay_without_params_is_refused_by_name():
    rule = optim.adamw(0.1)
    g = {"w": jnp.array([2.0])}
    with pytest.raises(ng.InvalidInput, match=r"adamw\.update.*Remedy"):
        rule.update(g, rule.init(g))


RULES = {
    "sgd": (
        functools.partial(optim.sgd, nesterov=True),
        functools.partial(formulas.sgd, nesterov=True),
        [0.1, 0.5, 0.2],
        [0.1, 0.0, 0.0],
    ),
    "sgd with dampening": (optim.sgd, formulas.sgd, [0.1, 0.5, 0.2, 0.3], [0.1, 0.0, 0.0, 0.0]),
    "adam": (optim.adam, formulas.adam, [0.1, 0.6, 0.8, 0.1, 0.2], [0.1, 0.0, 0.8, 0.1, 0.0]),
    "adamw": (
        optim.adamw,
        functools.partial(formulas.adam, beside=True),
        [0.1, 0.6, 0.8, 0.1, 0.2],
        [0.1, 0.0, 0.8, 0.1, 0.0],
    ),
    "rmsprop": (optim.rmsprop, formulas.rmsprop, [0.1, 0.8, 0.1, 0.5, 0.2], [0.1, 0.8, 0.1, 0.0, 0.0]),
    "rmsprop, centered": (
        functools.partial(optim.rmsprop, centered=True),
        functools.partial(formulas.rmsprop, centered=True),
        [0.1, 0.8, 0.1, 0.5, 0.2],
        [0.1, 0.8, 0.1, 0.0, 0.0],
    ),
    "adagrad": (optim.adagrad, formulas.adagrad, [0.1, 0.1, 0.2, 0.3], [0.1, 0.1, 0.0, 0.0]),
    "lion": (optim.lion, formulas.lion, [0.1, 0.6, 0.8, 0.2], [0.1, 0.0, 0.0, 0.0]),
    "clipped sgd": (
        lambda lr, mu, most: optim.clipped(optim.sgd(lr, mu), most),
        formulas.clipped_sgd,
        [0.1, 0.5, 0.4],
        [0.1, 0.0, 0.4],
    ),
    "sgd on a cosine": (
        lambda lr, length, least: optim.sgd(optim.cosine(lr, length, least)),
        formulas.sgd_on_a_cosine,
        [0.1, 9.0, 0.2],
        [0.1, 9.0, 0.0],
    ),
    "sgd on pieces": (
        lambda *rates: optim.sgd(optim.piecewise_constant([1], rates)),
        formulas.sgd_on_pieces,
        [0.1, 0.2],
        [0.1, 0.0],
    ),
}
"""Of each rule: its constructor, its formula, settings, and settings of which those are zero that may be."""
RUN = [[0.5, -0.3, 0.8, 0.0], [0.3, 0.0, 0.9, 0.0], [0.7, -0.4, 0.0, 0.0]]
"""Weights, then the gradients of two steps, zero in each way: at the first, the second and both, weight and all."""


def parts(numbers, count):
    """(settings, weights, gradients) of one vector."""
    weights, *gradients = numbers[count:].reshape(len(RUN), -1)
    return list(numbers[:count]), weights, gradients


def updates_of(make, count, numbers):
    """The updates of both steps as one vector."""
    settings, weights, gradients = parts(numbers, count)
    rule, updates = make(*settings), []
    state = rule.init({"w": weights})
    for g in gradients:
        update, state = rule.update({"w": g}, state, {"w": weights})
        updates.append(update["w"])
    return jnp.concatenate(updates)


def directional(function):
    """(x, direction, row) -> f, f' d, rᵀ f', rᵀ f'' d forwards over backwards, and backwards over backwards.

    A direction a call: a program without batches compiles in half the time, which is what the tests spend theirs on.
    """

    @jax.jit
    def along(x, direction, row):
        def backward(x):
            return jax.vjp(function, x)[1](row)[0]

        value, slope = jax.jvp(function, (x,), (direction,))
        gradient, curve = jax.jvp(backward, (x,), (direction,))
        return value, slope, gradient, curve, jax.vjp(backward, x)[1](direction)[0]

    return along


def assembled(along, point, size):
    """f, f' and f'' twice each from what is `directional`; f has size entries."""
    columns, rows = np.eye(len(point)), np.eye(size)
    found = [[along(point, column, row) for column in columns] for row in rows]
    values, forward, backward, *curves = (np.array([[each[k] for each in row] for row in found]) for k in range(5))
    return values[0, 0], forward[0].T, backward[:, 0], *curves


@pytest.mark.parametrize("name", RULES)
def test_first_and_second_derivatives_are_those_of_the_formula_also_where_gradients_are_zero(name):
    """In settings, weights and gradients: with zeros one by one, where all are zero, and where settings are."""
    make, formula, settings, edge = RULES[name]
    count = len(settings)
    along = directional(functools.partial(updates_of, make, count))

    def exact(x):
        settings, weights, gradients = parts(x, count)
        return np.concatenate(formula(gradients, weights, *settings))

    run = np.array(RUN).ravel()
    for point in map(np.concatenate, ([settings, run], [settings, 0.0 * run], [edge, run])):
        updates, slopes, curves = formulas.derivatives(exact, point)
        found = assembled(along, point, len(updates))
        for mine, own in zip(found, (updates, slopes, slopes, curves, curves), strict=True):
            # An entry that is a sum of terms which cancel is rounded as these are, not as the sum.
            np.testing.assert_allclose(mine, own, rtol=1e-12, atol=1e-14 * np.abs(own).max())


def test_settings_spread_over_the_params_and_float32_stays():
    rule = optim.adamw({"b": 0.1, "w": np.array([0.1, 0.2, 0.3])}, {"b": 0.9, "w": 0.8})
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS)
    updates, state = rule.update(params, rule.init(params), params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((updates, state["m"], state["v"])))
    rates = -np.asarray(updates["w"]) / (np.sign(PARAMS["w"]) + 0.01 * PARAMS["w"])
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3], rtol=1e-5)


def test_a_gradient_that_is_not_finite_shows_in_every_entry_that_depends_on_it():
    params = {"w": jnp.ones(2)}
    for name, (make, _, numbers, _) in RULES.items():
        if name != "sgd on pieces":
            updates, _ = make(*numbers).update({"w": jnp.array([jnp.nan, 1.0])}, make(*numbers).init(params), params)
            assert np.isnan(updates["w"][0]), name
            assert np.isnan(updates["w"][1]) == (name == "clipped sgd"), name


def test_clipping_neither_overflows_nor_underflows():
    rule = optim.clipped(optim.sgd(1.0), 1e-3)
    for size in (1e-200, 1e200):
        g = {"b": jnp.array([3.0]) * size, "w": jnp.array([4.0]) * size}
        updates, _ = rule.update(g, rule.init(g), g)
        for name, entry in g.items():
            np.testing.assert_allclose(updates[name], -entry * min(1.0, 1e-3 / (5.0 * size)), rtol=1e-12)
