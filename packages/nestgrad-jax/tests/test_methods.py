"""Methods and solvers against plain autodiff and dense algebra, on one small non-quadratic problem in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import nestgrad_jax as ng
from nestgrad_jax import optim, prox

N, T = 4, 5
RNG = np.random.default_rng(3)
A, C, OUT = RNG.normal(size=(N, N)), RNG.normal(size=(N, 2)), RNG.normal(size=N)
pytestmark = pytest.mark.usefixtures("x64")


def times(a, b):
    return jnp.matmul(a, b, precision="highest")


def loss(w, h, batch):
    return (
        0.5 * (times(batch["a"], w["w"]) ** 2).mean()
        + (jnp.cosh(w["w"]) * jnp.exp(h["decay"])).sum()
        - times(batch["c"], h["shift"]) @ w["w"]
    )


def outer(w, h, batch):
    return 0.5 * ((w["w"] - batch) ** 2).sum() + 0.1 * (h["shift"] ** 2).sum()


def rule(h):
    return optax.chain(optax.trace(h["momentum"]), optax.scale_by_learning_rate(0.1 * jnp.exp(h["decay"])))


def point():
    w = {"w": jnp.linspace(-1.0, 1.0, N)}
    h = {"decay": jnp.asarray(-0.5), "shift": jnp.asarray([0.3, -0.7]), "momentum": jnp.asarray(0.625)}
    return w, h, {"a": jnp.asarray(A), "c": jnp.asarray(C)}, jnp.asarray(OUT)


UPDATE = ng.BilevelProblem(ng.WeightUpdate(loss, rule), outer)


def unrolled(w, h, batches, window):
    state = rule(jax.lax.stop_gradient(h)).init(w)
    for t, batch in enumerate(batches):
        known = h if t >= len(batches) - window else jax.lax.stop_gradient(h)
        updates, state = rule(known).update(jax.grad(loss)(w, known, batch), state, w)
        w = optax.apply_updates(w, updates)
    return w


def close(found, expected, rtol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), found, expected)


@pytest.mark.parametrize(
    "extra",
    [{}, {"mode": "forward"}, {"lookback": 2}, {"checkpoint_every": 2}, {"checkpoint_every": "sqrt"}],
    ids=str,
)
@pytest.mark.parametrize("ragged", [False, True])
def test_unrolling_is_autodiff_through_the_steps(extra, ragged):
    w, h, batch, target = point()
    batches = [jax.tree.map(lambda x, t=t: (1.0 + 0.1 * t) * x, batch) for t in range(T)]
    if ragged:
        batches = [{**each, "a": each["a"][: N - t % 2]} for t, each in enumerate(batches)]
    method = ng.Unrolled(num_steps=T, **extra)
    found = ng.hypergradient(UPDATE, w, h, method=method, inner_batches=batches, outer_batch=target)
    expected = jax.grad(lambda x: outer(unrolled(w, x, batches, method.window), x, target))(h)
    close(found.total, expected)
    close(found.params, unrolled(w, h, batches, T))


def test_checkpoints_change_no_bit():
    w, h, batch, target = point()
    totals = [
        ng.hypergradient(
            UPDATE, w, h, method=ng.Unrolled(num_steps=T, checkpoint_every=c), inner_batch=batch, outer_batch=target
        ).total
        for c in (None, 1, 2, 3)
    ]
    for other in totals[1:]:
        jax.tree.map(np.testing.assert_array_equal, totals[0], other)


@pytest.mark.parametrize("steps", [3, 120])
def test_a_reversible_run_is_the_plain_one(steps):
    w, h, batch, target = point()

    def reversible(h):
        return optim.reversible_sgd(0.2 * jnp.exp(h["decay"]), h["momentum"])

    problem = ng.BilevelProblem(ng.WeightUpdate(loss, reversible), outer)
    one, other = (
        ng.hypergradient(
            problem, w, h, method=ng.Unrolled(num_steps=steps, mode=mode), inner_batch=batch, outer_batch=target
        )
        for mode in ("reverse", "reversible")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), one.total, other.total)


def dense_parts(problem, residual):
    w, h, batch, target = point()
    flat_w, restore = ravel_pytree(w)
    jacobian, mixed = (
        jax.jacobian(lambda x, y: ravel_pytree(residual(restore(x), y, batch))[0], argnums=i)(flat_w, h) for i in (0, 1)
    )
    v, direct = jax.grad(lambda x, y: outer(restore(x), y, target), argnums=(0, 1))(flat_w, h)
    return np.asarray(jacobian), mixed, np.asarray(v), direct


def mapped(w, h, batch):
    spin = jnp.asarray(np.triu(np.ones((N, N))) / 2)
    return {"w": times(spin, jnp.tanh(w["w"])) + times(batch["c"], h["shift"]) * jnp.exp(h["decay"]) * h["momentum"]}


def thresholded(h):
    return prox.elastic_net(jnp.exp(h["decay"]), h["momentum"])


PROBLEMS = {
    "fixed point": (ng.FixedPoint(mapped), lambda w, h, b: jax.tree.map(jnp.subtract, w, mapped(w, h, b))),
    "root": (ng.Root(mapped), mapped),
    "proximal": (
        ng.ProximalGradient(loss, thresholded, 0.1),
        lambda w, h, b: jax.tree.map(
            lambda x, y: x - y,
            w,
            thresholded(h)(jax.tree.map(lambda x, g: x - 0.1 * g, w, jax.grad(loss)(w, h, b)), 0.1),
        ),
    ),
}
SOLVERS = [
    ng.Dense(),
    ng.GMRES(rtol=1e-12, max_steps=20),
    ng.LSMR(rtol=1e-12, max_steps=60),
    ng.NormalCG(rtol=1e-12, max_steps=60),
    ng.BiCGSTAB(rtol=1e-12, max_steps=40),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_solver_solves_every_problem_both_ways(name, solver):
    inner, residual = PROBLEMS[name]
    w, h, batch, target = point()
    problem, method = ng.BilevelProblem(inner, outer), ng.Implicit(solver=solver, damping=0.05)
    jacobian, mixed, v, direct = dense_parts(problem, residual)
    p = np.linalg.solve(jacobian.T + 0.05 * np.eye(N), v)
    expected = jax.tree.map(lambda d, m: d - np.tensordot(p, m, (0, 0)), direct, mixed)
    given = {"method": method, "inner_batch": batch, "outer_batch": target}
    close(ng.hypergradient(problem, w, h, **given).total, expected, 1e-7)
    along = jax.tree.map(jnp.ones_like, h)
    found = ng.hypergradient_jvp(problem, w, h, along, **given)
    np.testing.assert_allclose(found.total, sum(leaf.sum() for leaf in jax.tree.leaves(expected)), rtol=1e-7)


def test_the_optimizers_state_is_carried_along():
    w, h, batch, target = point()
    inner = ng.WeightUpdate(loss, rule, carry="weights_and_state")
    found = ng.hypergradient(
        ng.BilevelProblem(inner, outer),
        w,
        h,
        method=ng.Implicit(solver=ng.Dense()),
        inner_batch=batch,
        outer_batch=target,
    )
    start, h_flat = ravel_pytree((w, rule(h).init(w)))[0], h
    restore = ravel_pytree((w, rule(h).init(w)))[1]

    def residual(s, h):
        x, state = restore(s)
        updates, after = rule(h).update(jax.grad(loss)(x, h, batch), state, x)
        return s - ravel_pytree((optax.apply_updates(x, updates), after))[0]

    jacobian, mixed = (jax.jacobian(residual, argnums=i)(start, h_flat) for i in (0, 1))
    v, direct = jax.grad(lambda s, y: outer(restore(s)[0], y, target), argnums=(0, 1))(start, h_flat)
    p = np.linalg.solve(np.asarray(jacobian).T, v)
    close(found.total, jax.tree.map(lambda d, m: d - np.tensordot(p, m, (0, 0)), direct, mixed), 1e-8)
    np.testing.assert_allclose(found.adjoint["params"]["w"], p[:N], rtol=1e-8)


def test_several_outer_batches_share_one_linearisation():
    w, h, batch, target = point()
    problem, method = ng.BilevelProblem(ng.Minimize(loss), outer), ng.Implicit(solver=ng.CG(rtol=1e-12, max_steps=20))
    h.pop("momentum")
    targets = [target, 2.0 * target, w["w"]]
    many = ng.hypergradients(problem, w, h, method=method, inner_batch=batch, outer_batches=targets)
    for each, found in zip(targets, many, strict=True):
        one = ng.hypergradient(problem, w, h, method=method, inner_batch=batch, outer_batch=each)
        close(found.total, one.total)
        assert found.status is one.status


def test_a_warm_start_at_the_solution_takes_no_step():
    w, h, batch, target = point()
    h.pop("momentum")
    problem, method = ng.BilevelProblem(ng.Minimize(loss), outer), ng.Implicit(solver=ng.CG(rtol=1e-9, max_steps=20))
    given = {"method": method, "inner_batch": batch, "outer_batch": target}
    cold = ng.hypergradient(problem, w, h, **given)
    warm = ng.hypergradient(problem, w, h, **given, warm_start=cold.adjoint)
    assert int(cold.stats.steps) > 0 == int(warm.stats.steps)
    close(warm.total, cold.total, 1e-7)


def test_verify_says_whom_to_trust():
    w, h, batch, target = point()
    h.pop("momentum")
    inner = ng.Minimize(loss)
    for _ in range(8):
        w, _left = ng.newton_step(inner, w, h, solver=ng.Dense(), inner_batch=batch)
    call = {"inner_batch": batch, "outer_batch": target}
    problem = ng.BilevelProblem(inner, outer)
    right = ng.verify(problem, w, h, method=ng.Implicit(solver=ng.CG(rtol=1e-10, max_steps=20)), **call)
    wrong = ng.verify(problem, w, h, method=ng.Implicit(solver=ng.Identity()), **call)
    assert right.trusted
    assert not wrong.trusted


@pytest.mark.parametrize("decay", [1.0, 0.0])
def test_real_time_sensitivities_are_those_of_the_run(decay):
    w, _, batch, target = point()
    inner = ng.WeightUpdate(
        lambda w, h, b: loss(w, {"decay": h["decay"], "shift": jnp.asarray([0.3, -0.7])}, b),
        lambda h: rule({"momentum": h["momentum"], "decay": h["decay"]}),
    )
    problem = ng.BilevelProblem(inner, lambda w, h, b: 0.5 * ((w["w"] - b) ** 2).sum())
    spaces = {"decay": ng.Real(-0.5), "momentum": ng.Real(0.6)}
    tuner = ng.RealTime(problem, hparams=spaces, every=3, decay=decay, outer_optimizer=optax.sgd(0.01))
    state = tuner.init(w)
    for _ in range(3):
        before, (state, info) = state, tuner.step(state, batch, target)
    start, steps = (w, 3) if decay else (before["params"], 1)
    expected = ng.hypergradient(
        problem,
        start,
        ng.initial_values(spaces),
        method=ng.Unrolled(num_steps=steps),
        inner_batch=batch,
        outer_batch=target,
        opt_state=None if decay else before["opt_state"],
    )
    close(info.hypergradient.total, expected.total)
    scanned, _ = jax.lax.scan(lambda s, _: tuner.step(s, batch, target), tuner.init(w), length=3)
    close(scanned["hparams"], state["hparams"])
