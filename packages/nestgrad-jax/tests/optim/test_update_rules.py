import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import nestgrad_jax as ng
from nestgrad_jax import optim

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
    "sgd": (functools.partial(optim.sgd, nesterov=True), [0.1, 0.5, 0.2]),
    "sgd with dampening": (optim.sgd, [0.1, 0.5, 0.2, 0.3]),
    "adam": (optim.adam, [0.1, 0.6, 0.8, 0.1, 0.2]),
    "adamw": (optim.adamw, [0.1, 0.6, 0.8, 0.1, 0.2]),
    "rmsprop": (optim.rmsprop, [0.1, 0.8, 0.1, 0.5, 0.2]),
    "rmsprop, centered": (functools.partial(optim.rmsprop, centered=True), [0.1, 0.8, 0.1, 0.5, 0.2]),
    "adagrad": (optim.adagrad, [0.1, 0.1, 0.2, 0.3]),
    "lion": (optim.lion, [0.1, 0.6, 0.8, 0.2]),
    "clipped sgd": (lambda lr, mu, most: optim.clipped(optim.sgd(lr, mu), most), [0.1, 0.5, 0.4]),
    "sgd on a cosine": (lambda lr, length, least: optim.sgd(optim.cosine(lr, length, least)), [0.1, 9.0, 0.2]),
    "sgd on pieces": (lambda *rates: optim.sgd(optim.piecewise_constant([1], rates)), [0.1, 0.2]),
}


def second_update(make, count, numbers):
    """The second update of a run, flat, as a function of settings and of its gradient in one vector."""
    params, first = arrays(PARAMS), {"b": jnp.array([0.3, 0.0]), "w": jnp.array([-0.5, 0.0, 1.0])}
    settings, g = list(numbers[:count]), {"b": numbers[count : count + 2], "w": numbers[count + 2 :]}
    _, state = make(*settings).update(first, make(*settings).init(params), params)
    updates, _ = make(*settings).update(g, state, params)
    return jnp.concatenate([updates["b"], updates["w"]])


@pytest.mark.parametrize("name", RULES)
def test_first_and_second_derivatives_of_an_update_are_those_of_its_numbers(name):
    make, numbers = RULES[name]
    point = jnp.array([*numbers, 0.7, -0.4, 0.2, 0.9, -1.1])
    update = jax.jit(functools.partial(second_update, make, len(numbers)))
    check_grads(update, (point,), order=2, modes=("rev",), rtol=1e-6, atol=1e-6, eps=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_derivatives_where_gradients_are_zero_are_their_limits(name):
    """An entry with a zero gradient at every step: derivatives in settings are those without it, all of them finite."""
    make, numbers = RULES[name]
    params = {"w": jnp.array([0.0, 0.5])}
    settings = list(map(jnp.asarray, numbers))

    def total(s, x, weights):
        state = make(*s).init(weights)
        for factor in (1.0, -0.7):
            updates, state = make(*s).update({"w": factor * x}, state, weights)
        return jnp.sum(updates["w"] ** 2 + updates["w"])

    both, alone = (jnp.array([0.0, 0.8]), params), (jnp.array([0.8]), {"w": params["w"][1:]})
    for order in (jax.grad, lambda f: jax.jacrev(jax.grad(f)), lambda f: jax.jacfwd(jax.grad(f))):
        found, expected = (jax.jit(order(total))(settings, *each) for each in (both, alone))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), found, expected)
    along = jax.grad(total, argnums=1)
    for order in (along, jax.jacfwd(along, argnums=1)):
        found = jax.jit(order)(settings, *both)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_zero_altogether_has_finite_derivatives(name):
    make, numbers = RULES[name]
    params = {"w": jnp.zeros(2)}
    settings = list(map(jnp.asarray, numbers))

    def total(s, x):
        updates, _ = make(*s).update({"w": x}, make(*s).init(params), params)
        return jnp.sum(updates["w"] * jnp.array([1.0, 2.0]))

    point = (settings, jnp.zeros(2))
    slopes = jax.grad(total, argnums=(0, 1))
    first, second = jax.jit(lambda *x: (slopes(*x), jax.jacfwd(slopes, argnums=(0, 1))(*x)))(*point)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((first, second)))
    assert not any(float(leaf) for leaf in first[0])


def test_settings_spread_over_the_params_and_float32_stays():
    rule = optim.adamw({"b": 0.1, "w": np.array([0.1, 0.2, 0.3])}, {"b": 0.9, "w": 0.8})
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS)
    updates, state = rule.update(params, rule.init(params), params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((updates, state["m"], state["v"])))
    rates = -np.asarray(updates["w"]) / (np.sign(PARAMS["w"]) + 0.01 * PARAMS["w"])
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3], rtol=1e-5)


def test_a_gradient_that_is_not_finite_shows_in_every_entry_that_depends_on_it():
    params = {"w": jnp.ones(2)}
    for name, (make, numbers) in RULES.items():
        if name != "sgd on pieces":
            updates, _ = make(*numbers).update({"w": jnp.array([jnp.nan, 1.0])}, make(*numbers).init(params), params)
            assert np.isnan(updates["w"][0]), name
            assert np.isnan(updates["w"][1]) == (name == "clipped sgd"), name


def test_clipping_neither_overflows_nor_underflows():
    rule = optim.clipped(optim.sgd(1.0), 1e-3)
    for size in (1e-200, 1e200):
        g = {"w": jnp.array([3.0, 4.0]) * size}
        updates, _ = rule.update(g, rule.init(g), g)
        np.testing.assert_allclose(updates["w"], -g["w"] * min(1.0, 1e-3 / (5.0 * size)), rtol=1e-12)
