import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng

N, EVERY, TERMS = 3, 3, 4
_RNG = np.random.default_rng(1)
X, Y, XV, YV = (_RNG.normal(size=shape) for shape in ((8, N), (8,), (5, N), (5,)))
START = np.array([0.5, -1.0, 2.0])
INITIAL = {"lr": 0.05, "m": 0.6, "wd": 0.02}


def loss(params, hparams, batch):
    features, targets = batch
    return ((jnp.matmul(features, params["w"], precision=jax.lax.Precision.HIGHEST) - targets) ** 2).mean()


def optimizer(hparams):
    return optax.chain(
        optax.add_decayed_weights(hparams["wd"]),
        optax.trace(hparams["m"]),
        optax.stateless(lambda updates, params: scaled(hparams["lr"], updates)),
    )


def scaled(rates, updates):
    spread = rates if isinstance(rates, dict) else jax.tree.map(lambda _: rates, updates)
    return jax.tree.map(lambda rate, v: -rate * v, spread, updates)


def adam(rate):
    """optax.adam in the promotion it needs: it raises a float to an int32 count, which the strict setting forbids."""
    rule = optax.adam(rate)

    def update(grads, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return rule.update(grads, state, params)

    return optax.GradientTransformation(rule.init, update)


PROBLEM = ng.BilevelProblem(inner=ng.WeightUpdate(loss, optimizer), outer_loss=loss)
NEUMANN = ng.Implicit(solver=ng.Neumann(num_terms=TERMS, step_size=1.0))


def spaces(**changed):
    return {"lr": ng.Log10(0.05, clip=(1e-10, 1.0)), "m": ng.Logit(0.6), "wd": ng.Log10(0.02)} | changed


@functools.cache
def shared():
    """One tuner for the tests that ask for nothing special, so that it compiles once."""
    return tuner()


def tuner(problem=PROBLEM, every=EVERY, hparams=None, throw=True, method=NEUMANN, outer_optimizer=None):
    return ng.OnePass(
        problem,
        hparams=hparams or spaces(),
        every=every,
        method=method,
        outer_optimizer=outer_optimizer or adam(0.05),
        throw=throw,
    )


def arrays(dtype):
    """(params, inner batch, outer batch)."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), ({"w": START}, (X, Y), (XV, YV)))


def run(tuned, steps, dtype="float32", state=None):
    params, inner, outer = arrays(dtype)
    state = tuned.init(params) if state is None else state
    infos = []
    for _ in range(steps):
        state, info = tuned.step(state, inner, outer)
        infos.append(info)
    return state, infos


class ByHand:
    """One-pass tuning of linear regression in NumPy by closed forms; rate is a number or a vector."""

    def __init__(self, rate):
        self.w, self.v = START.copy(), np.zeros(N)
        self.leaves = {"lr": np.log10(rate), "m": np.log(0.6 / 0.4), "wd": np.log10(0.02)}
        self.first = {name: np.zeros_like(leaf) for name, leaf in self.leaves.items()}
        self.second = {name: np.zeros_like(leaf) for name, leaf in self.leaves.items()}
        self.moves = 0

    def step(self, tune):
        eta, xi = 10.0 ** self.leaves["lr"], 10.0 ** self.leaves["wd"]
        mu = 1.0 / (1.0 + np.exp(-self.leaves["m"]))
        hessian = 2.0 * X.T @ X / len(X)
        before, trace = self.w, self.v
        self.v = mu * trace + 2.0 * X.T @ (X @ before - Y) / len(X) + xi * before
        self.w = before - eta * self.v
        if not tune:
            return None
        q = 2.0 * XV.T @ (XV @ self.w - YV) / len(XV)
        p = q.copy()
        for _ in range(TERMS - 1):
            q = q - (hessian + xi * np.eye(N)) @ (eta * q)
            p = p + q
        by_rate = -math.log(10) * eta * p * self.v
        grads = {
            "lr": by_rate if np.ndim(eta) else by_rate.sum(),
            "m": -mu * (1.0 - mu) * (p @ (eta * trace)),
            "wd": -math.log(10) * xi * (p @ (eta * before)),
        }
        self.adam(grads)
        return grads

    def adam(self, grads):
        self.moves += 1
        for name, grad in grads.items():
            self.first[name] = 0.9 * self.first[name] + 0.1 * grad
            self.second[name] = 0.999 * self.second[name] + 0.001 * grad**2
            mean, square = self.first[name] / (1 - 0.9**self.moves), self.second[name] / (1 - 0.999**self.moves)
            self.leaves[name] = self.leaves[name] - 0.05 * mean / (np.sqrt(square) + 1e-8)
        self.leaves["lr"] = np.clip(self.leaves["lr"], -10.0, 0.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("per_parameter", [False, True], ids=["one rate", "a rate a weight"])
def test_a_run_follows_the_closed_form(per_parameter):
    params, inner, outer = arrays("float64")
    rate = ng.Log10(0.05, clip=(1e-10, 1.0))
    tuned = tuner(hparams=spaces(lr=ng.per_parameter(rate, params) if per_parameter else rate))
    state, by_hand = tuned.init(params), ByHand(np.full(N, 0.05) if per_parameter else 0.05)
    for t in range(1, 5 * EVERY + 1):
        expected = by_hand.step(t % EVERY == 0)
        state, info = tuned.step(state, inner, outer)
        np.testing.assert_allclose(state["params"]["w"], by_hand.w, rtol=1e-12)
        assert info.tuned == (expected is not None)
        if expected is not None:
            found = info.hypergradient.total
            rates = found["lr"]["w"] if per_parameter else found["lr"]
            np.testing.assert_allclose(rates, expected["lr"], rtol=1e-11)
            np.testing.assert_allclose(found["m"], expected["m"], rtol=1e-11)
            np.testing.assert_allclose(found["wd"], expected["wd"], rtol=1e-11)
    for leaf in jax.tree.leaves(state["hparams"]):
        assert leaf.dtype == jnp.float64
    np.testing.assert_allclose(state["hparams"]["m"], by_hand.leaves["m"], rtol=1e-11)


@pytest.mark.usefixtures("x64")
def test_the_direct_term_is_included_and_goes_through_the_space():
    problem = ng.BilevelProblem(
        inner=ng.WeightUpdate(loss, optimizer), outer_loss=lambda p, h, b: loss(p, h, b) + 3.0 * h["wd"]
    )
    plain = run(tuner(every=1), 1, "float64")[1][0].hypergradient
    found = run(tuner(problem, every=1), 1, "float64")[1][0].hypergradient
    slope = 3.0 * math.log(10) * 0.02
    np.testing.assert_allclose(found.direct["wd"], slope, rtol=1e-12)
    np.testing.assert_allclose(found.total["wd"] - plain.total["wd"], slope, rtol=1e-9)


def test_steps_without_a_hypergradient_say_so_and_move_no_hyperparameter():
    tuned = shared()
    state, (first, second, third) = run(tuned, EVERY)
    assert (first.tuned, second.tuned, third.tuned) == (False, False, True)
    assert first.hypergradient.status is ng.Status.IDLE
    assert third.hypergradient.status is ng.Status.TRUNCATED
    assert np.isnan(first.hypergradient.outer_loss)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(first.hypergradient.total))
    for name, value in INITIAL.items():
        np.testing.assert_allclose(second.hparams[name], value, rtol=1e-6)
        assert third.hparams[name] != second.hparams[name]
    assert jax.tree.structure(first) == jax.tree.structure(third)
    jax.tree.map(np.testing.assert_array_equal, tuned.values(state), third.hparams)


def test_a_leaf_beyond_its_clip_is_set_to_the_end_and_comes_back():
    tuned = tuner(every=1, hparams=spaces(lr=ng.Log10(0.05, clip=(0.0499, 0.0501))))
    _, infos = run(tuned, 2)
    ends = [float(info.hparams["lr"]) for info in infos]
    assert all(min(abs(end - 0.0499), abs(end - 0.0501)) < 1e-7 for end in ends)


def close(found, expected, rtol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected)


def stacked(infos):
    return jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *infos)


def test_scan_gives_the_run_of_the_plain_loop(dtype):
    tuned, steps = shared(), 2 * EVERY + 1
    params, inner, outer = arrays(dtype)
    state, infos = run(tuned, steps, dtype)
    last, seen = jax.lax.scan(lambda s, _: tuned.step(s, inner, outer), tuned.init(params), length=steps)
    close(last, state)
    close(seen, stacked(infos))
    assert jax.tree.map(lambda x: x.dtype, last) == jax.tree.map(lambda x: x.dtype, state)


MAPPED = {"params": 0, "opt_state": 0, "hparams": 0, "outer_opt_state": 0, "step": None, "buffers": None}


def test_vmap_over_runs_gives_each_run_and_keeps_the_condition():
    tuned, steps = shared(), EVERY + 1
    _, inner, outer = arrays("float32")
    starts = [{"w": jnp.asarray(START * factor, jnp.float32)} for factor in (1.0, -0.5)]
    singles = [run(tuned, steps, state=tuned.init(start)) for start in starts]
    both = jax.tree.map(lambda *xs: jnp.stack(xs), *[tuned.init(start) for start in starts])
    both["step"] = jnp.zeros((), jnp.int32)

    mapped = jax.vmap(lambda s: tuned.step(s, inner, outer), in_axes=(MAPPED,), out_axes=(MAPPED, 0))

    def body(state, _):
        return mapped(state)

    program = str(jax.make_jaxpr(lambda s: jax.lax.scan(body, s, length=steps))(both))
    assert " cond[" in program
    last, seen = jax.lax.scan(body, both, length=steps)
    looped = both
    for _ in range(steps):
        looped, info = mapped(looped)
    for i, (state, infos) in enumerate(singles):
        pick = functools.partial(jax.tree.map, lambda x: x[i])  # noqa: B023
        for found in (last, looped):
            close(pick(found["params"]), state["params"])
            close(pick(found["hparams"]), state["hparams"])
        assert int(last["step"]) == int(looped["step"]) == steps
        np.testing.assert_array_equal(seen.hypergradient.status[:, i], [int(x.hypergradient.status) for x in infos])
        np.testing.assert_allclose(info.inner_loss[i], infos[-1].inner_loss, rtol=1e-5)


def test_init_may_be_mapped_too():
    tuned = shared()
    starts = {"w": jnp.stack([jnp.asarray(START, jnp.float32)] * 2)}
    state = jax.vmap(tuned.init)(starts)
    assert state["params"]["w"].shape == (2, N)
    np.testing.assert_allclose(state["hparams"]["m"], np.full(2, np.log(1.5)), rtol=1e-6)


def test_step_is_pure_and_repeats_its_bits():
    tuned = shared()
    _, inner, outer = arrays("float32")
    state, _ = run(tuned, EVERY - 1)
    before = jax.tree.map(np.array, state)
    first, second = tuned.step(state, inner, outer), tuned.step(state, inner, outer)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    jax.tree.map(np.testing.assert_array_equal, state, before)
    assert state["step"].dtype == jnp.int32


def test_going_on_from_a_stored_state_gives_the_same_run():
    tuned, other = shared(), tuner()
    middle, _ = run(tuned, EVERY - 1)
    end, _ = run(tuned, EVERY, state=middle)
    again, _ = run(other, EVERY, state=jax.tree.map(np.array, middle))
    jax.tree.map(np.testing.assert_array_equal, end, again)


def test_changing_a_leaf_of_the_state_by_hand_is_seen():
    tuned = shared()
    state, _ = run(tuned, 1)
    state["hparams"]["lr"] = jnp.log10(jnp.float32(0.2))
    _, (info,) = run(tuned, 1, state=state)
    np.testing.assert_allclose(info.hparams["lr"], 0.2, rtol=1e-6)


def test_compilations_do_not_grow_with_the_steps():
    traces = []

    def counted(params, hparams, batch):
        traces.append(None)
        return loss(params, hparams, batch)

    tuned = tuner(ng.BilevelProblem(inner=ng.WeightUpdate(counted, optimizer), outer_loss=counted))
    state, _ = run(tuned, EVERY)
    seen = len(traces)
    run(tuned, 4 * EVERY, state=state)
    assert len(traces) == seen


def test_a_hypergradient_that_is_not_finite_raises_or_is_reported():
    problem = ng.BilevelProblem(
        inner=ng.WeightUpdate(loss, optimizer), outer_loss=lambda p, h, b: loss(p, h, b) * jnp.inf
    )
    with pytest.raises(ng.NonFinite, match=r"training step 3: .*Neumann.*Remedy"):
        run(tuner(problem), EVERY)
    assert run(tuner(problem, throw=False), EVERY)[1][-1].hypergradient.status is ng.Status.NONFINITE
    silent = tuner(problem)
    params, inner, outer = arrays("float32")
    _, info = jax.lax.scan(lambda s, _: silent.step(s, inner, outer), silent.init(params), length=EVERY)
    assert info.hypergradient.status.tolist() == [ng.Status.IDLE, ng.Status.IDLE, ng.Status.NONFINITE]


def test_a_series_that_diverges_is_recorded_and_tuning_goes_on():
    tuned = tuner(
        every=1, hparams=spaces(lr=ng.Log10(0.9)), method=ng.Implicit(solver=ng.Neumann(num_terms=9, step_size=3.0))
    )
    _, (info,) = run(tuned, 1)
    assert info.hypergradient.status is ng.Status.DIVERGED


def test_wrong_input_is_refused_by_name():
    params, inner, outer = arrays("float32")
    with pytest.raises(ng.UnsupportedOptimizer, match="outer_optimizer: got float"):
        tuner(outer_optimizer=0.05)
    with pytest.raises(ng.OutOfSpace, match=r"'lr'"):
        tuner(hparams={"lr": ng.Log10(np.array([0.1, -0.1], np.float32))}).init(params)
    with pytest.raises(ng.NonDifferentiableHyperparameter, match=r"hparams\['lr'\]"):
        tuner(hparams={"lr": ng.Real(1)}).init(params)
    with pytest.raises(ng.DtypeMismatch, match="jax_enable_x64"):
        tuner().init({"w": START})
    tuned = tuner()
    with pytest.raises(ng.DtypeMismatch, match=r"inner_batch\['0'\] is float64.*jax_enable_x64"):
        tuned.step(tuned.init(params), (X, Y), outer)
    with pytest.raises(ng.DtypeMismatch, match=r"inner_batch\['0'\] is float16"):
        tuned.step(tuned.init(params), (inner[0].astype(jnp.float16), inner[1]), outer)
    with pytest.raises(ng.UnsupportedOptimizer, match="returned int"):
        tuner(ng.BilevelProblem(inner=ng.WeightUpdate(loss, lambda h: 3), outer_loss=loss)).init(params)
    with pytest.raises(ng.InvalidInput, match="per_parameter"):
        ng.per_parameter(ng.Log10(np.ones(2)), params)


def test_a_hyperparameter_that_reaches_nothing_is_named_at_the_first_hyper_step():
    with pytest.raises(ng.DisconnectedHyperparameter, match="'gain'"):
        run(tuner(hparams=spaces(gain=ng.Real(1.0))), EVERY)
