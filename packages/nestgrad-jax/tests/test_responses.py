"""Learned responses: closed forms that they meet exactly, how they train, what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import nestgrad_jax as ng
from nestgrad_jax import optim

RNG = np.random.default_rng(5)
ROOT = RNG.normal(size=(3, 3))
H, C, OFFSET, TARGET = ROOT @ ROOT.T + np.eye(3), RNG.normal(size=(3, 2)), RNG.normal(size=3), RNG.normal(size=3)
EXACT = ng.Implicit(solver=ng.Dense())
RESPONSES = [ng.LinearResponse(), ng.FactorisedResponse(3), ng.MLPResponse(4)]


def quadratic(params, hparams, batch):
    """½ wᵀHw - (c + Cλ)ᵀw, times the batch; its best response is affine in λ."""
    w, direction = params["w"], hparams["a"] * C[:, 0] + hparams["b"] * C[:, 1]
    return batch * (0.5 * w @ (jnp.asarray(H, w.dtype) @ w) - (jnp.asarray(OFFSET, w.dtype) + direction) @ w)


def distance(params, hparams, batch):
    return batch * (0.5 * ((params["w"] - TARGET) ** 2).sum() + 0.3 * hparams["a"] ** 2)


AFFINE = ng.BilevelProblem(ng.Minimize(quadratic), distance)


def best_affine():
    solved = np.linalg.solve(H, np.column_stack([OFFSET, C]))
    return {"bias": {"w": jnp.asarray(solved[:, 0])}, "weight": {"w": jnp.asarray(solved[:, 1:])}}


def bent(params, hparams, batch):
    """½ (w - λ²)², whose best response has a curvature."""
    return 0.5 * (params["w"] - hparams["x"] ** 2) ** 2


def outer(params, hparams, batch):
    return batch * (params["w"] - 2.0) ** 2


BENT = ng.BilevelProblem(ng.Minimize(bent), outer)


@functools.cache
def tuner(kind="joint"):
    options = {"distribution": ng.Normal(variance=0.04), "optimizer": optim.sgd(1.0)}
    options |= {
        "joint": {"optimizer": optim.sgd(0.2)},
        "response alone": {"response_steps": 2000},
        "two phases": {"response_steps": 2, "optimizer": optim.adam(0.1)},
        "guarded": {"guard": ng.Guard()},
        "uniform": {"distribution": ng.Uniform(low=-1.0, high=2.0)},
        "elsewhere": {"distribution": ng.Normal(variance=0.04, mean=1.5)},
    }[kind]
    return ng.HyperTraining(
        BENT, hparams={"x": ng.Real(0.7)}, response=ng.LinearResponse(), outer_optimizer=optim.sgd(0.01), **options
    )


def begun(kind="joint", key=3, dtype="float32"):
    return tuner(kind).init({"w": jnp.asarray(0.2, dtype)}, key=key)


def one(dtype="float32"):
    return jnp.ones((), dtype)


def close(found, expected, **limits):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **limits), found, expected)


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.usefixtures("x64")
def test_the_hypergradient_is_the_implicit_one_where_the_best_response_is_affine():
    hparams = {"b": jnp.asarray(-1.1), "a": jnp.asarray(0.4)}
    batches = {"inner_batch": jnp.asarray(1.5), "outer_batch": jnp.asarray(0.5)}
    found = ng.hypergradient(AFFINE, best_affine(), hparams, method=ng.LinearResponse(), **batches)
    expected = ng.hypergradient(AFFINE, found.params, hparams, method=EXACT, **batches)
    for part in ("total", "direct", "indirect"):
        close(getattr(found, part), getattr(expected, part), rtol=1e-12)
    assert found.status is ng.Status.TRUNCATED
    v = 0.5 * (np.asarray(found.params["w"]) - TARGET)
    close(found.adjoint, {"w": v}, rtol=1e-13)
    stats = found.stats
    close((stats.rhs_norm, stats.adjoint_norm), (np.linalg.norm(v),) * 2, rtol=1e-13)
    close(stats.params_norm, np.linalg.norm(found.params["w"]), rtol=1e-13)
    assert stats.inner_optimality < 1e-13
    assert (stats.steps, stats.products) == (0, 0)
    away = {**best_affine(), "bias": {"w": jnp.zeros(3)}}
    found = ng.hypergradient(AFFINE, away, hparams, method=ng.LinearResponse(), **batches)
    slope = 1.5 * (H @ np.asarray(found.params["w"]) - OFFSET - C @ [0.4, -1.1])
    close(found.stats.inner_optimality, np.linalg.norm(slope), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_best_response_that_is_affine_stays_where_it_is_at_any_noise():
    made = ng.HyperTraining(
        AFFINE,
        hparams={"a": ng.Real(0.4), "b": ng.Real(-1.1)},
        response=ng.LinearResponse(),
        optimizer=optim.sgd(0.1),
        outer_optimizer=optim.sgd(0.1),
        distribution=ng.Normal(variance=4.0),
    )
    state = {**made.init({"w": jnp.zeros(3)}, key=0), "params": best_affine()}
    after, info = made.step(state, jnp.asarray(1.0), jnp.asarray(1.0), noise=RNG.normal(size=(2, 2)))
    close(after["params"], best_affine(), rtol=1e-12)
    expected = ng.hypergradient(
        AFFINE, made.response_params(state), state["hparams"], method=EXACT, **dict.fromkeys(BATCHES, jnp.asarray(1.0))
    )
    close(info.hypergradient.total, expected.total, rtol=1e-12)
    close(after["hparams"], jax.tree.map(lambda x, g: x - 0.1 * g, state["hparams"], expected.total), rtol=1e-12)


BATCHES = ("inner_batch", "outer_batch")


@pytest.mark.usefixtures("x64")
def test_where_the_best_response_bends_the_value_is_off_by_the_variance_and_the_slope_is_right():
    made, batch, noise = tuner("response alone"), one("float64"), jnp.asarray([[1.0], [-1.0]])
    bias = {"bias": {"w": jnp.asarray(0.04 - 0.49)}, "weight": {"w": jnp.asarray([1.4])}}
    state = {**begun("response alone", dtype="float64"), "params": bias}
    after, _ = made.step(state, batch, batch, noise=noise)
    close(after["params"], bias, rtol=1e-14)
    np.testing.assert_allclose(made.response_params(after)["w"], 0.49 + 0.04, rtol=1e-14)

    def body(carry, _):
        return made.step(carry, batch, batch, noise=noise)[0], None

    trained, _ = jax.lax.scan(body, begun("response alone", dtype="float64"), length=1500)
    close(trained["params"], bias, rtol=1e-9)
    assert trained["hparams"]["x"] == 0.7


@pytest.mark.usefixtures("x64")
def test_ridge_on_the_logarithm_of_its_decay_learns_the_implicit_hypergradient():
    x, xv = RNG.normal(size=(20, 4)), RNG.normal(size=(20, 4))
    truth = RNG.normal(size=4)
    batch, seen = [(a, a @ truth + 0.3 * RNG.normal(size=20)) for a in (x, xv)]

    def squares(params, data):
        return 0.5 * ((jnp.matmul(data[0], params["w"]) - data[1]) ** 2).mean()

    problem = ng.BilevelProblem(
        ng.Minimize(lambda w, h, data: squares(w, data) + 0.5 * h["decay"] * (w["w"] ** 2).sum()),
        lambda w, h, data: squares(w, data),
    )
    made = ng.HyperTraining(
        problem,
        hparams={"decay": ng.Log(1.0)},
        response=ng.LinearResponse(),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 3000)),
        outer_optimizer=optim.sgd(1e-12),
        distribution=ng.Normal(variance=1e-4),
        samples=8,
        response_steps=3000,
    )
    batch, seen = jax.tree.map(jnp.asarray, (batch, seen))
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic needs it
        state = jax.lax.scan(
            lambda s, _: (made.step(s, batch, seen)[0], None), made.init({"w": jnp.zeros(4)}, key=0), length=3000
        )[0]
    _, info = made.step(state, batch, seen)
    exact = np.linalg.solve(x.T @ x / 20 + np.eye(4), x.T @ np.asarray(batch[1]) / 20)
    log = ng.BilevelProblem(
        ng.Minimize(lambda w, h, data: problem.inner.loss(w, {"decay": jnp.exp(h["decay"])}, data)), problem.outer_loss
    )
    expected = ng.hypergradient(
        log, {"w": jnp.asarray(exact)}, {"decay": 0.0}, method=EXACT, inner_batch=batch, outer_batch=seen
    )
    assert info.tuned
    np.testing.assert_allclose(info.hypergradient.total["decay"], expected.total["decay"], rtol=1e-3)
    assert abs(float(expected.total["decay"])) > 0.01


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("response", RESPONSES, ids=lambda r: type(r).__name__)
def test_a_response_starts_as_the_params_and_is_differentiable_in_both_arguments(response):
    params = {"w": jnp.asarray(RNG.normal(size=(2, 3))), "b": jnp.asarray(0.3)}
    hparams = {"x-y": jnp.asarray([0.5, -0.2]), "x": {"z": jnp.asarray(1.5)}}
    weights = ng.init_response(response, params, hparams, key=1)
    same(ng.respond(response, weights, hparams), params)
    size = ng.features(response, 3)
    assert weights["weight"]["w"].shape == (2, 3, size)
    assert set(weights) == {"bias", "weight"} | (
        set() if size == 3 and response == RESPONSES[0] else {"inner", "offset"}
    )
    leaves, structure = jax.tree.flatten(weights)
    weights = structure.unflatten([jnp.asarray(RNG.normal(size=leaf.shape)) for leaf in leaves])
    check_grads(lambda w, h: ng.respond(response, w, h), (weights, hparams), order=2, modes=["rev"])
    z = np.array([0.5, -0.2, 1.5])  # "x-y" sorts before "x/z"
    if "inner" in weights:
        z = np.asarray(weights["inner"]) @ z + np.asarray(weights["offset"])
        z = np.maximum(z, 0.0) if isinstance(response, ng.MLPResponse) else z
    expected = jax.tree.map(lambda b, w: b + np.asarray(w) @ z, weights["bias"], weights["weight"])
    close(ng.respond(response, weights, hparams), expected, rtol=1e-12)


def test_drawn_features_have_their_distributions_and_their_key():
    params, hparams = {"w": jnp.zeros(1, jnp.float32)}, jnp.zeros(100, jnp.float32)
    drawn = {
        kind: ng.init_response(kind(400), params, hparams, key=2) for kind in (ng.FactorisedResponse, ng.MLPResponse)
    }
    normal, uniform = drawn[ng.FactorisedResponse], drawn[ng.MLPResponse]
    np.testing.assert_allclose(float(normal["inner"].std()), 0.1, rtol=0.02)
    assert not np.asarray(normal["offset"]).any()
    for leaf in (uniform["inner"], uniform["offset"]):
        assert 0.09 < float(jnp.abs(leaf).max()) <= 0.1
        np.testing.assert_allclose(float(leaf.std()), 0.1 / np.sqrt(3.0), rtol=0.05)
    same(ng.init_response(ng.MLPResponse(400), params, hparams, key=2), uniform)
    other = ng.init_response(ng.MLPResponse(400), params, hparams, key=3)
    assert not np.array_equal(other["inner"], uniform["inner"])


def spoiled(**changes):
    good = ng.init_response(ng.MLPResponse(4), {"w": jnp.zeros(3)}, {"x": jnp.zeros(2)}, key=0)
    return {name: leaf for name, leaf in {**good, **changes}.items() if leaf is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": None}, r"params\['inner'\]: no such leaf, limit: shape \(4, 2\)"),
        ({"inner": jnp.zeros((4, 3))}, r"params\['inner'\]: shape \(4, 3\), limit: \(4, 2\)"),
        ({"offset": jnp.zeros(5)}, r"params\['offset'\]: shape \(5,\), limit: \(4,\)"),
        ({"weight": {"w": jnp.zeros((3, 5))}}, r"params\['weight/w'\]: shape \(3, 5\), limit: \(3, 4\)"),
        ({"weight": {"v": jnp.zeros((3, 4))}}, r"params\['weight/v'\]: shape \(3, 4\), limit: no such leaf"),
        ({"bias": None}, r"no 'bias'"),
    ],
)
def test_weights_of_another_shape_are_refused_by_name(changes, message):
    def loss(params, hparams, batch):
        return (params["w"] ** 2).sum() * hparams["x"].sum()

    problem, hparams, weights = ng.BilevelProblem(ng.Minimize(loss), loss), {"x": jnp.zeros(2)}, spoiled(**changes)
    for call in (
        lambda: ng.respond(ng.MLPResponse(4), weights, hparams),
        lambda: ng.hypergradient(problem, weights, hparams, method=ng.MLPResponse(4)),
    ):
        with pytest.raises(ng.InvalidInput, match=message + r".*Remedy: init_response"):
            call()


def test_what_a_response_does_not_take_is_refused():
    with pytest.raises(ng.InvalidInput, match=r"'inner'\]: shape \(4, 2\), limit: no such leaf"):
        ng.respond(ng.LinearResponse(), spoiled(weight={"w": jnp.zeros((3, 2))}), {"x": jnp.zeros(2)})
    with pytest.raises(ng.InvalidInput, match="list"):
        ng.respond(ng.LinearResponse(), [jnp.zeros(3)], {"x": jnp.zeros(2)})
    with pytest.raises(ng.InvalidInput, match="limit: LinearResponse, FactorisedResponse, MLPResponse"):
        ng.init_response(ng.LinearResponse, {"w": jnp.zeros(3)}, {"x": 1.0}, key=0)
    with pytest.raises(ng.InvalidInput, match="0 entries"):
        ng.init_response(ng.LinearResponse(), {"w": jnp.zeros(3)}, jnp.zeros(0), key=0)
    update = ng.BilevelProblem(ng.WeightUpdate(bent, lambda h: optim.sgd(0.1)), outer)
    with pytest.raises(ng.UnsupportedSpec, match="Minimize"):
        ng.hypergradient(update, spoiled(), {"x": 1.0}, method=ng.MLPResponse(4))
    options = {"hparams": {"x": ng.Real(0.7)}, "response": ng.LinearResponse()}
    options |= {"optimizer": optim.sgd(0.1), "outer_optimizer": optim.sgd(0.1)}
    with pytest.raises(ng.UnsupportedSpec, match="Minimize"):
        ng.HyperTraining(update, **options)
    for name in ("optimizer", "outer_optimizer"):
        with pytest.raises(ng.UnsupportedOptimizer, match=rf"HyperTraining\.{name}"):
            ng.HyperTraining(BENT, **{**options, name: 0.1})
    for key in (-1, 2**32, 0.5, True, jax.random.key(0)):
        with pytest.raises(ng.InvalidInput, match=r"2\*\*32 - 1"):
            begun(key=key)
    for noise in (jnp.zeros((1, 2)), [0.0, 0.0]):
        with pytest.raises(ng.InvalidInput, match=r"noise of shape .*, limit: \(2, 1\)"):
            tuner().step(begun(), one(), one(), noise=noise)


def test_a_hyperparameter_that_only_the_response_reaches_is_disconnected():
    def loss(params, hparams, batch):
        return (params["w"] ** 2).sum() + jax.lax.stop_gradient(hparams["x"]).sum() + hparams["y"]

    hparams = {"x": jnp.zeros(2), "y": 1.0}
    weights = ng.init_response(ng.LinearResponse(), {"w": jnp.zeros(3)}, hparams, key=0)
    with pytest.raises(ng.DisconnectedHyperparameter, match=r"hparams\['x'\]"):
        ng.hypergradient(ng.BilevelProblem(ng.Minimize(loss), loss), weights, hparams, method=ng.LinearResponse())


def test_a_step_depends_on_the_seed_and_the_count_alone():
    state = begun()
    kept = jax.tree.map(np.asarray, state)
    first, info = tuner().step(state, one(), one())
    again, _ = tuner().step(begun(), one(), one())
    same(first, again)
    same(state, kept)
    changes = ({"seed": begun(key=4)["seed"]}, {"step": jnp.int32(7)})
    losses = [tuner().step({**state, **change}, one(), one())[1].inner_loss for change in changes]
    losses = [float(loss) for loss in (info.inner_loss, *losses)]
    assert len(set(losses)) == 3
    stored, _ = tuner().step(kept, one(), one())
    same(stored, first)


def test_steps_are_one_program_and_a_scan_of_them_is_the_loop():
    state, programs = begun(), 0
    for _ in range(7):
        state, info = tuner().step(state, one(), one())
        assert info.tuned is True
        assert info.hypergradient.status is ng.Status.TRUNCATED
        assert info.hypergradient.adjoint is info.hypergradient.params is None
        same(info.hparams, tuner().values(state))
        programs = programs or tuner()._jitted._cache_size()
    assert tuner()._jitted._cache_size() == programs
    last, seen = jax.lax.scan(lambda s, _: tuner().step(s, one(), one()), begun(), length=7)
    close(last, state, rtol=1e-5)
    assert seen.hypergradient.status.dtype == jnp.int32
    assert seen.tuned.all()


def test_hparams_follow_the_response_that_the_step_has_just_reached():
    before = tuner().step(begun(), one(), one())[0]
    after, info = tuner().step(before, one(), one())
    batches = dict.fromkeys(BATCHES, one())
    new, old = (
        ng.hypergradient(BENT, state["params"], before["hparams"], method=ng.LinearResponse(), **batches)
        for state in (after, before)
    )
    close(info.hypergradient.total, new.total, rtol=1e-5)
    assert abs(float(new.total["x"] - old.total["x"])) > 1e-2 * abs(float(new.total["x"]))


def test_each_phase_moves_its_own_part():
    kind = "two phases"
    state, moves = begun(kind), []
    for _ in range(4):
        after, info = tuner(kind).step(state, one(), one())
        moved = [not np.array_equal(after["params"]["bias"]["w"], state["params"]["bias"]["w"])]
        moved.append(not np.array_equal(after["hparams"]["x"], state["hparams"]["x"]))
        assert info.tuned is moved[1]
        assert info.hypergradient.status is (ng.Status.TRUNCATED if info.tuned else ng.Status.IDLE)
        moves.append(moved)
        previous, state = state, after
    assert moves == [[True, False], [True, False], [False, True], [False, True]]
    there = 0.5 * (tuner(kind).response_params(previous)["w"] - previous["hparams"]["x"] ** 2) ** 2
    np.testing.assert_allclose(info.inner_loss, there, rtol=1e-5)
    last, seen = jax.jit(lambda s: jax.lax.scan(lambda c, _: tuner(kind).step(c, one(), one()), s, length=4))(
        begun(kind)
    )
    close(last, state, rtol=1e-5)
    assert seen.tuned.tolist() == [False, False, True, True]
    assert seen.hypergradient.status.tolist() == [ng.Status.IDLE] * 2 + [ng.Status.TRUNCATED] * 2


@pytest.mark.parametrize(
    ("kind", "noise", "sample"), [("uniform", 0.5, 0.5), ("elsewhere", 1.0, 1.7), ("joint", -1.0, 0.5)]
)
def test_samples_are_drawn_from_the_distribution(kind, noise, sample):
    _, info = tuner(kind).step(begun(kind), one(), one(), noise=np.full((2, 1), noise))
    np.testing.assert_allclose(info.inner_loss, 0.5 * (0.2 - sample**2) ** 2, rtol=1e-5)


def test_a_guard_skips_what_is_not_finite_and_without_one_it_raises():
    nothing = jnp.full((), jnp.nan, jnp.float32)
    state = begun("guarded")
    after, info = tuner("guarded").step(state, one(), nothing)
    assert info.event is ng.Event.SKIPPED
    assert info.hypergradient.status is ng.Status.NONFINITE
    for part in ("hparams", "outer_opt_state"):
        same(after[part], state[part])
    assert not np.array_equal(after["params"]["bias"]["w"], state["params"]["bias"]["w"])
    assert int(after["events"]["skipped"]) == 1
    with pytest.raises(ng.NonFinite, match="training step 1: HyperTraining"):
        tuner().step(begun(), one(), nothing)
    _, info = jax.jit(tuner().step)(begun(), one(), nothing)
    assert info.hypergradient.status == ng.Status.NONFINITE


@pytest.mark.usefixtures("x64")
def test_single_precision_stays_single():
    made = ng.HyperTraining(
        BENT,
        hparams={"x": ng.Log(0.7)},
        response=ng.MLPResponse(3),
        optimizer=optim.adam(1e-3),
        outer_optimizer=optim.adam(0.01),
    )
    state = made.init({"w": jnp.asarray(0.2, jnp.float32)}, key=0)
    for _ in range(2):
        state, info = made.step(state, one(), one())
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves((state, info.hparams, info.inner_loss))}
    assert kinds == {"float32", "int32", "uint32"}
    assert made.response_params(state)["w"].dtype == jnp.float32
    np.testing.assert_allclose(info.hparams["x"], jnp.exp(state["hparams"]["x"]), rtol=1e-6)
