"""Self-tuning: steps against the definition written out, what a run keeps and what it refuses."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestgrad_jax as ng
from nestgrad_jax import gated, optim

_spec = importlib.util.spec_from_file_location(
    "response_problems", pathlib.Path(__file__).with_name("test_responses.py")
)
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
BENT, RNG, close, same = problems.BENT, problems.RNG, problems.close, problems.same
OBJECTIVES = ("sampled", "centred", "linearised")
ROWS, SEEN, SAMPLES = 5, 4, 3


def predict(params, hparams, batch):
    general = getattr(params, "general", params)
    hidden = jnp.tanh(gated.linear(params["a"], batch[0]))
    return {"out": gated.linear(params["b"], hidden), "size": sum((x**2).sum() for x in jax.tree.leaves(general))}


def fit(made, hparams, batch):
    errors = ((made["out"] - batch[1]) ** 2).sum(1)
    return (errors * hparams["gain"]).mean() + hparams["decay"].mean() * made["size"]


def seen_loss(params, hparams, batch):
    return fit(predict(params, hparams, batch), hparams, batch) + (hparams["gain"] ** 2).mean()


PROBLEM = ng.BilevelProblem(ng.Minimize(ng.PredictionLoss(predict, fit)), seen_loss)
SPACES = {"gain": ng.Softplus(0.8), "decay": ng.Log(0.05)}
PARAMS = {
    "a": {"weight": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=4)},
    "b": {"weight": RNG.normal(size=(2, 4))},
}
BATCH, OTHER = [(RNG.normal(size=(n, 3)), RNG.normal(size=(n, 2))) for n in (ROWS, SEEN)]


def arrays(tree, dtype="float64"):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


@functools.cache
def tuner(objective="sampled", samples="examples", **changes):
    options = {"hparams": SPACES, "optimizer": optim.sgd(0.5), "outer_optimizer": optim.sgd(0.3), "every": 1, **changes}
    return ng.SelfTuning(PROBLEM, objective=objective, samples=samples, entropy=0.07, scale=0.4, **options)


def begun(made, dtype="float64", key=3):
    """A state whose response is not constant."""
    state = made.init(arrays(PARAMS, dtype), key=key)
    gates = jax.tree.map(lambda leaf: jnp.asarray(0.3 * RNG.normal(size=leaf.shape), dtype), state["params"]["gates"])
    return {**state, "params": {**state["params"], "gates": gates}}


def own(phi, code):
    """w_φ(c), all outputs on the first axis."""
    laid = {"weight": lambda g: g[:, None], "bias": lambda g: g}
    return {
        layer: {
            name: b + laid[name](phi["gates"][layer][name] @ code) * phi["weight"][layer][name]
            for name, b in part.items()
        }
        for layer, part in phi["bias"].items()
    }


def natural(leaves):
    """λ = (decay, gain)."""
    return {"decay": jnp.exp(leaves[0]), "gain": jnp.logaddexp(leaves[1], 0.0)}


def by_hand(objective, examples, phi, by_code, by_value, away, batch, loss):
    """The mean of the loss over draws, a row after another; its predictions made linear where asked for."""
    size = phi["bias"] if examples else None

    def at(draw, data):
        values = natural(by_value + draw)
        code = (by_code if objective == "sampled" else by_code - jax.lax.stop_gradient(by_code)) + draw

        def made(c):
            found = predict(own(phi, c), values, data)
            return found if size is None else {**found, "size": sum((x**2).sum() for x in jax.tree.leaves(size))}

        if objective == "linearised" and loss is fit:
            there, slope = jax.jvp(made, (jnp.zeros_like(code),), (draw,))
            found = jax.tree.map(jnp.add, there, slope)
        else:
            found = made(code)
        direct = values["gain"] ** 2 if loss is seen_loss else 0.0
        return fit(found, values, data) + direct

    if not examples:
        return jnp.stack([at(draw, batch) for draw in away]).mean()
    return jnp.stack([at(draw, jax.tree.map(lambda x, i=i: x[i : i + 1], batch)) for i, draw in enumerate(away)]).mean()


def expected_step(objective, examples, state, noise):
    """(weights, leaves, ς, direct, indirect, outer loss, inner loss, ∂ in bias) of one step."""
    vector, ends = jnp.stack([state["hparams"]["decay"], state["hparams"]["gain"]]), state["scales"]
    batch, other = arrays(BATCH), arrays(OTHER)
    away = jnp.log1p(jnp.exp(ends))[None] * noise[0]

    def inner(phi):
        if objective == "sampled":
            value = by_hand(objective, examples, phi, vector, vector, away, batch, fit)
            return value, value
        general = fit(predict(phi["bias"], natural(vector), batch), natural(vector), batch)
        held = {**phi, "bias": jax.lax.stop_gradient(phi["bias"])}
        return general + by_hand(objective, examples, held, vector, vector, away, batch, fit), general

    slopes, inner_loss = jax.grad(inner, has_aux=True)(state["params"])
    phi = jax.tree.map(lambda w, g: w - 0.5 * g, state["params"], slopes)

    def outer(by_code, by_value, ends):
        scale = jnp.log1p(jnp.exp(ends))
        value = by_hand(objective, examples, phi, by_code, by_value, scale[None] * noise[1], other, seen_loss)
        return value - 0.07 * jnp.log(scale * np.sqrt(2 * np.pi * np.e)).sum(), value

    (indirect, direct, slope), value = jax.grad(outer, argnums=(0, 1, 2), has_aux=True)(vector, vector, ends)
    moved = vector - 0.3 * (direct + indirect)
    return phi, moved, ends - 0.3 * slope, direct, indirect, value, inner_loss, slopes["bias"]


def length(tree):
    return np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(tree)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("samples", ["examples", SAMPLES])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_is_its_definition(objective, samples):
    made, examples = tuner(objective, samples), samples == "examples"
    state = begun(made)
    rows = (ROWS, SEEN) if examples else (SAMPLES, SAMPLES)
    noise = [jnp.asarray(RNG.normal(size=(count, 2))) for count in rows]
    after, info = made.step(state, arrays(BATCH), arrays(OTHER), noise=noise)
    phi, leaves, ends, direct, indirect, value, inner_loss, in_bias = expected_step(objective, examples, state, noise)
    close(after["params"], phi, rtol=1e-10, atol=1e-12)
    close((after["hparams"]["decay"], after["hparams"]["gain"]), tuple(leaves), rtol=1e-10)
    close(after["scales"], ends, rtol=1e-10)
    found = info.hypergradient
    for part, other in ((found.direct, direct), (found.indirect, indirect), (found.total, direct + indirect)):
        close((part["decay"], part["gain"]), tuple(other), rtol=1e-9, atol=1e-12)
    close((info.inner_loss, found.outer_loss), (inner_loss, value), rtol=1e-12)
    close(found.stats.params_norm, length(after["params"]["bias"]), rtol=1e-12)
    close(found.stats.inner_optimality, length(in_bias), rtol=1e-10)
    close(found.stats.indirect_norm, np.linalg.norm(indirect), rtol=1e-10)
    assert found.status is ng.Status.TRUNCATED
    assert found.adjoint is found.params is None
    at = state["hparams"] if objective == "sampled" else jax.tree.map(jnp.zeros_like, state["hparams"])
    same(made.response_params(state), ng.respond(made.response, state["params"], at))
    close(
        ng.respond(made.response, made.response_weights(state), state["hparams"]),
        made.response_params(state),
        rtol=1e-12,
    )
    close(jax.tree.leaves(made.scales(after)), [np.log1p(np.exp(end)) for end in after["scales"]], rtol=1e-12)
    same(info.hparams, made.values(after))


@pytest.mark.usefixtures("x64")
def test_a_linearised_prediction_that_is_linear_is_the_centred_one():
    def flat(params, hparams, batch):
        return gated.linear(params["a"], batch[0]) * hparams["gain"][:, None]

    def squares(made, hparams, batch):
        return ((made - batch[1][:, :1]) ** 2).mean() + hparams["decay"].mean()

    loss = ng.PredictionLoss(flat, squares)
    found = []
    for objective in OBJECTIVES[1:]:
        made = ng.SelfTuning(
            ng.BilevelProblem(ng.Minimize(loss), loss),
            hparams=SPACES,
            optimizer=optim.sgd(0.5),
            outer_optimizer=optim.sgd(0.1),
            objective=objective,
            response=ng.GatedResponse(gate_scale=0.5),
        )
        found.append(made.step(made.init(arrays(PARAMS), key=3), arrays(BATCH), arrays(OTHER))[0]["params"])
    close(*found, rtol=1e-12)


SLOW = optim.sgd(0.01)


def alternating():
    return tuner(every=2, warmup_steps=1, optimizer=SLOW, guard=ng.Guard(max_norm=1e-3))


def test_steps_are_one_program_a_phase_and_a_scan_of_them_is_the_loop():
    made, batches = alternating(), (arrays(BATCH, "float32"), arrays(OTHER, "float32"))
    first = state = begun(made, "float32")
    kept, moves = jax.tree.map(np.asarray, state), []
    for _ in range(6):
        after, info = made.step(state, *batches)
        moves.append(not np.array_equal(after["scales"], state["scales"]))
        assert info.tuned is moves[-1] is not np.array_equal(after["hparams"]["gain"], state["hparams"]["gain"])
        assert info.hypergradient.status is (ng.Status.TRUNCATED if info.tuned else ng.Status.IDLE)
        assert info.event is (ng.Event.CLIPPED if info.tuned else ng.Event.NONE)
        state = after
    assert moves == [False, False, True, False, True, False]
    assert made._jitted._cache_size() == 2
    last, seen = jax.lax.scan(lambda s, _: made.step(s, *batches), first, length=6)
    close(last, state, rtol=1e-4, atol=1e-6)
    assert seen.tuned.tolist() == moves
    assert made._jitted._cache_size() == 2
    same(first, kept)
    stored, _ = made.step(kept, *batches)
    same(stored, made.step(first, *batches)[0])


@pytest.mark.usefixtures("x64")
def test_a_clip_scales_both_gradients_and_a_skip_leaves_all():
    made, plain = alternating(), tuner(every=2, warmup_steps=1, optimizer=SLOW)
    state = {**begun(made), "step": jnp.int32(2)}
    free = {name: part for name, part in state.items() if name != "events"}
    after, info = made.step(state, arrays(BATCH), arrays(OTHER))
    whole, _ = plain.step(free, arrays(BATCH), arrays(OTHER))
    scale = 1e-3 / length(info.hypergradient.total)
    for part in ("hparams", "scales"):
        moved, full = (jax.tree.map(jnp.subtract, one[part], state[part]) for one in (after, whole))
        close(moved, jax.tree.map(lambda x: scale * x, full), rtol=1e-6)
    nothing = (arrays(OTHER)[0], jnp.full((SEEN, 2), jnp.nan))
    after, info = made.step(state, arrays(BATCH), nothing)
    assert info.event is ng.Event.SKIPPED
    assert info.hypergradient.status is ng.Status.NONFINITE
    for part in ("hparams", "scales", "outer_opt_state"):
        same(after[part], state[part])
    assert not np.array_equal(after["params"]["bias"]["b"]["weight"], state["params"]["bias"]["b"]["weight"])
    with pytest.raises(ng.NonFinite, match="training step 3: SelfTuning"):
        plain.step(free, arrays(BATCH), nothing)
    _, info = jax.jit(plain.step)(free, arrays(BATCH), nothing)
    assert info.hypergradient.status == ng.Status.NONFINITE


def drawing(samples, shared=()):
    """Losses that say what was drawn: the inner one the products of neighbours, the outer one all values squared."""

    def inner(params, hparams, batch):
        x = hparams["x"]
        return (x * jnp.roll(x, 1)).mean() + 0.0 * hparams["y"].mean() if x.ndim else x + 0.0 * hparams["y"]

    def outer(params, hparams, batch):
        return hparams["x"].mean() + 0.0 * hparams["y"].mean()

    return ng.SelfTuning(
        ng.BilevelProblem(ng.Minimize(inner), outer),
        hparams={"x": ng.Real(0.0), "y": ng.Real(0.0)},
        optimizer=optim.sgd(0.1),
        outer_optimizer=optim.sgd(0.1),
        samples=samples,
        shared=shared,
        scale=1.5,
        every=1,
    )


def test_draws_are_of_the_seed_and_the_step_each_batch_its_own():
    rows = jnp.zeros((4000, 1), jnp.float32)
    state = drawing("examples").init({"w": jnp.zeros((), jnp.float32)}, key=5)
    _, info = drawing("examples").step(state, rows, rows)
    assert abs(float(info.inner_loss)) < 0.15
    _, info = drawing("examples", shared=("x",)).step(state, rows, rows)
    first, second = float(info.inner_loss), float(info.hypergradient.outer_loss)
    assert abs(first - second**2) > 1e-3
    _, again = drawing("examples", shared=("x",)).step(state, rows[:3], rows[:7])
    assert float(again.inner_loss) > 0.0
    several = drawing(4000)
    changes = ({}, {"seed": jnp.asarray(np.uint32(6))}, {"step": jnp.int32(7)})
    seen = [several.step({**state, **change}, None, None)[1] for change in changes]
    numbers = [float(x) for info in seen for x in (info.inner_loss, info.hypergradient.outer_loss)]
    assert len(set(numbers)) == 6
    assert max(map(abs, numbers)) < 0.1
    same(several.step(state, None, None)[1].inner_loss, seen[0].inner_loss)
    noise = jnp.asarray([[2.0, 0.0], [5.0, 0.0]], jnp.float32)
    shared = drawing("examples", shared=("x",))
    _, info = shared.step(state, rows[:2], rows[:2], noise=(noise, noise[::-1]))
    close((info.inner_loss, info.hypergradient.outer_loss), (9.0, 7.5), rtol=1e-5)
    _, info = drawing(2).step(state, None, None, noise=(noise, None))
    close(info.inner_loss, 1.5 * 3.5, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_single_precision_stays_single():
    made = tuner("linearised", optimizer=optim.adam(0.01), outer_optimizer=optim.adam(0.01))
    state = begun(made, "float32")
    for _ in range(2):
        state, info = made.step(state, arrays(BATCH, "float32"), arrays(OTHER, "float32"))
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves((state, info.hparams, info.inner_loss, made.scales(state)))}
    assert kinds == {"float32", "int32", "uint32"}


def test_far_scales_have_the_slope_of_the_entropy():
    made = tuner()
    state = {**begun(made, "float32"), "scales": jnp.full(2, -120.0, jnp.float32)}
    after, _ = made.step(state, arrays(BATCH, "float32"), arrays(OTHER, "float32"))
    close(after["scales"], jnp.full(2, -120.0 + 0.3 * 0.07), rtol=1e-6)


def test_what_self_tuning_does_not_take_is_refused():
    made, batches = tuner(), (arrays(BATCH, "float32"), arrays(OTHER, "float32"))
    state = begun(made, "float32")
    noise = jnp.zeros((ROWS, 2))
    for given, message in [
        (noise, "noise of ArrayImpl, limit: a pair"),
        ((noise,), "noise of 1 entries, limit: a pair"),
        ((noise[:2], None), r"\(2, 2\) for inner_batch, limit: \(5, 2\), rows of the batch"),
        ((noise, noise), r"\(5, 2\) for outer_batch, limit: \(4, 2\)"),
    ]:
        with pytest.raises(ng.InvalidInput, match=message):
            made.step(state, *batches, noise=given)
    for batch, message in [
        ((batches[0][0], batches[1][1]), r"\(5, 3\), .*\(4, 2\), limit: one first axis"),
        (None, "no arrays in inner_batch"),
        ((*batches[0], jnp.zeros((), jnp.float32)), r"shape \(\), limit"),
    ]:
        with pytest.raises(ng.InvalidInput, match=message):
            made.step(state, batch, batches[1])
    spoiled = {**state, "params": {**state["params"], "gates": state["params"]["bias"]}}
    with pytest.raises(ng.InvalidInput, match="gates"):
        made.step(spoiled, *batches)
    with pytest.raises(ng.InvalidInput, match=r"2\*\*32 - 1"):
        made.init(PARAMS, key=-1)
    for name in ("optimizer", "outer_optimizer"):
        with pytest.raises(ng.UnsupportedOptimizer, match=rf"SelfTuning\.{name}"):
            tuner(**{name: 0.1})
    with pytest.raises(ng.InvalidInput, match="linearised"):
        ng.SelfTuning(
            BENT,
            hparams={"x": ng.Real(0.7)},
            optimizer=optim.sgd(1),
            outer_optimizer=optim.sgd(1),
            objective="linearised",
        )


def test_a_hyperparameter_that_no_loss_knows_is_disconnected():
    made = ng.SelfTuning(
        PROBLEM,
        hparams={**SPACES, "spare": ng.Real(0.0)},
        optimizer=optim.sgd(0.1),
        outer_optimizer=optim.sgd(0.1),
        every=1,
    )
    with pytest.raises(ng.DisconnectedHyperparameter, match="spare"):
        made.step(begun(made, "float32"), arrays(BATCH, "float32"), arrays(OTHER, "float32"))
